"""``imagen-flow replay``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import (
    PathType,
    output_options,
    planning_options,
    set_option,
    traceback_option,
)

if TYPE_CHECKING:
    from .._plan.request import Options
    from .._replay.comparison import Comparison

__all__ = ["replay"]


@click.command()
@click.argument("picture", type=PathType(exists=True, dir_okay=False))
@set_option
@click.option(
    "--verify",
    is_flag=True,
    help="Compute everything again without writing, and report whether the result is identical.",
)
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@output_options
@planning_options
@traceback_option
def replay(
    picture: Path,
    values: dict[str, str],
    verify: bool,
    yes: bool,
    out: Path | None,
    may_replace: bool,
    options: Options,
    traceback: bool,
) -> int:
    """Run the graph that is embedded in a picture.

    Pictures are not trusted: you see what would run, and nothing runs or is read before you agree.
    Files that the graph names are found in the store by their content, or where --set says.
    """
    from .._replay.replay import prepare
    from .._settings import config
    from .plan import print_plan
    from .run import execute_plan
    from .session import find_plugins, open_store, out_folder
    from .text import confirm, echo, one_line

    settings = config.load(Path.cwd())
    registry = find_plugins(options, settings)
    with open_store(options, settings, registry) as opened_store:
        replayed = prepare(
            picture,
            options,
            registry=registry,
            store=opened_store,
            values=values,
            fresh=verify,
            may_replace=may_replace,
        )
        for line in replayed.describe():
            echo(one_line(line), err=True)
        replayed.check()
        folder = None if verify else out_folder(out, settings, may_replace=may_replace)
        if not yes:
            print_plan(replayed.plan, folder, err=True)
            confirm("run it?")
        if not verify:
            return execute_plan(replayed.plan, out=folder, traceback=traceback)
        comparisons: list[Comparison] = []
        code = execute_plan(
            replayed.plan,
            out=None,
            traceback=traceback,
            then=lambda run: comparisons.append(replayed.verify(run)),
        )
        if code:
            return code
    echo(str(comparisons[0]))
    return 0 if comparisons[0].identical else 1
