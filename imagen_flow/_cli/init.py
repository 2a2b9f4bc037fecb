"""``imagen-flow init``."""

from __future__ import annotations

from pathlib import Path

import click

from .session import PathType, UsageFault

__all__ = ["init"]

_GRAPH = """\
# Draw a picture, enlarge it, and describe what it shows: a first graph to change.
imagen_flow: 1
inputs:
  prompt: a large red circle left of a small blue square on a black background
  seed: {type: seed, default: 7, help: another number draws another picture}
nodes:
  text:  {type: text.encode, model: embedded/imagen, prompt: "${prompt}"}
  base:  {type: diffusion.base, model: embedded/imagen, text: "${text}", seed: "${seed}"}
  large: {type: diffusion.super_resolution, model: embedded/imagen, image: "${base}", text: "${text}", seed: "${seed}"}
  words: {type: image.caption, model: embedded/caption, image: "${large}"}
outputs:
  picture: {from: "${large}", path: "{graph}/{seed}.png"}
  caption: "${words}"
"""


@click.command()
@click.argument("graph", type=PathType(), default=Path("first.yaml"))
def init(graph: Path) -> int:
    """Write a first graph, to run and to change.

    It draws with the bundled models, so nothing is downloaded.
    """
    from .text import echo

    try:
        graph.parent.mkdir(parents=True, exist_ok=True)
        with graph.open("x", encoding="utf-8") as stream:
            stream.write(_GRAPH)
    except FileExistsError:
        raise UsageFault(f"'{graph}' exists already; name another file") from None
    except OSError as error:
        raise UsageFault(f"'{graph}' cannot be written: {error.strerror or error}") from error
    echo(f"  {graph}")
    echo(
        f"next: imagen-flow run {graph}"
        f'\n      imagen-flow run {graph} --set prompt="a small yellow star on a purple background"'
        "\n      imagen-flow nodes",
        err=True,
    )
    return 0
