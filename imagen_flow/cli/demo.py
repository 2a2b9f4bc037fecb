"""``imagen-flow demo``."""

from __future__ import annotations

from pathlib import Path

import click

from .session import Chosen, planned, planning_options

__all__ = ["demo"]


@click.command()
@planning_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", default=Path("out"), show_default=True, help="The folder for outputs.")
def demo(chosen: Chosen, out: Path) -> int:
    """Draw, enlarge, edit and describe a picture with the models that come along.

    It needs no download and no GPU. Try --set prompt="a small green star on a white background".
    """
    from .run import carry_out

    graph = _graphs() / "imagen.yaml"
    click.echo(f"imagen-flow run {graph}", err=True)
    with planned(graph, chosen) as (plan, _, _settings):
        return carry_out(plan, out=out)


def _graphs() -> Path:
    """The graphs that come along: in an installed wheel inside the package, in a checkout beside it."""
    package = Path(__file__).parent.parent
    inside = package / "graphs"
    return inside if inside.is_dir() else package.parent / "graphs"
