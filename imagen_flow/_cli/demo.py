"""``imagen-flow demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .session import PathType, open_request, planning_options, set_option, traceback_option

if TYPE_CHECKING:
    from .._plan.request import Options

__all__ = ["demo"]


@click.command()
@set_option
@planning_options
@traceback_option
@click.option(
    "--out",
    type=PathType(file_okay=False),
    metavar="DIR",
    help="The output folder. [default: ./out]",
)
def demo(values: dict[str, str], options: Options, traceback: bool, out: Path | None) -> int:
    """Draw, enlarge, edit and describe a picture with the bundled models.

    One more prompt is drawn from eight seeds, for a contact sheet. Needs no download and no GPU. Try
    --set prompt="a large green star on a white background".
    """
    from .._plan.request import prepare
    from .._settings.config import outputs_folder
    from .run import execute_plan
    from .text import echo

    graph = _graphs_folder() / "demo.yaml"
    echo(f"imagen-flow run {graph}", err=True)
    with open_request(graph, options, values) as request:
        return execute_plan(prepare(request), out=outputs_folder(out), traceback=traceback)


def _graphs_folder() -> Path:
    """Return the folder of bundled graphs: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "graphs"
    return inside if inside.is_dir() else package.parent / "graphs"
