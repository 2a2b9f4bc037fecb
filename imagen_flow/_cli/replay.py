"""``imagen-flow replay``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import (
    PathType,
    out_option,
    planning_options,
    replace_option,
    set_option,
    traceback_option,
)

if TYPE_CHECKING:
    from .._plan.request import Options
    from .._replay.replay import Comparison

__all__ = ["replay"]


@click.command()
@click.argument("picture", type=PathType(exists=True, dir_okay=False))
@set_option
@click.option(
    "--verify",
    is_flag=True,
    help="Compute everything again, write nothing, and say whether the same comes out.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@out_option
@replace_option
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
    """Run the graph that a picture carries.

    A picture is not trusted: what would run is shown, and nothing runs or is read before you agree.
    Files that its graph names are taken from the store, by their content, or from where --set says.
    """
    from .._replay.replay import prepare
    from .._settings import config
    from .plan import print_plan
    from .run import carry_out
    from .session import find_plugins, open_store, out_folder
    from .text import confirm, echo, one_line

    settings = config.load(Path.cwd())
    registry = find_plugins(options, settings)
    with open_store(options, settings, registry) as opened:
        again = prepare(
            picture,
            options,
            registry=registry,
            store=opened,
            values=values,
            fresh=verify,
            may_replace=may_replace,
        )
        for line in again.words():
            echo(one_line(line), err=True)
        again.check()
        folder = None if verify else out_folder(out, settings, may_replace=may_replace)
        if not yes:
            print_plan(again.plan, folder, err=True)
            confirm("run it?")
        if not verify:
            return carry_out(again.plan, out=folder, traceback=traceback)
        compared: list[Comparison] = []
        code = carry_out(
            again.plan,
            out=None,
            traceback=traceback,
            then=lambda run: compared.append(again.verify(run)),
        )
        if code:
            return code
    echo(str(compared[0]))
    return 0 if compared[0].identical else 1
