"""``imagen-flow plugin``: check plugins, and begin new ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ImagenFlowError
from .session import PathType, UsageFault

if TYPE_CHECKING:
    from .._kit import Finding, Report

__all__ = ["plugin"]


@click.group()
def plugin() -> None:
    """Write plugins: begin a new one, and check that one behaves."""


@plugin.command()
@click.argument("name")
@click.option("--in", "folder", type=PathType(), metavar="DIR", help="[default: ./NAME]")
def new(name: str, folder: Path | None) -> int:
    """Begin a plugin: a package with one node type, a graph, tests and what publishing it needs.

    NAME is that of the package to be, such as my-nodes.
    """
    from .. import __version__
    from .._kit import begin
    from .text import echo

    at = folder or Path(name)
    try:
        made = begin(name, at, version=__version__)
    except ImagenFlowError as error:
        raise UsageFault(str(error)) from None
    for path in made:
        echo(f"  {path}")
    echo(
        f"next: cd {at} && pip install -e '.[test]' && pytest"
        " && imagen-flow run graphs/posterise.yaml",
        err=True,
    )
    return 0


@plugin.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def check(name: str, as_json: bool) -> int:
    """Try every node type of a plugin, and report what does not behave.

    NAME is an installed distribution or plugin, as `imagen-flow nodes` lists it, or a Python file of
    node types. Each node type runs with made-up pictures, texts and numbers, or with what the hook
    imagen_flow_examples gives, on the CPU and with tiny models, in two processes of their own.
    """
    from .._kit import check

    reports = [check(found, files=files) for found, files in _plugins_of(name)]
    if as_json:
        _print_json(reports)
    else:
        _print(reports)
    return 1 if any(report.findings for report in reports) else 0


def _plugins_of(name: str) -> list[tuple[str, list[Path]]]:
    """Find the plugins that a name means, each with the files to load."""
    from .._kit import plugins_named

    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise UsageFault(f"there is no file '{name}'")
        return [(str(path.resolve()), [path])]
    try:
        return [(plugin, []) for plugin in plugins_named(name)]
    except ImagenFlowError as error:
        raise UsageFault(str(error)) from None


def _print(reports: list[Report]) -> None:
    from .text import echo, paint, plural

    for report in reports:
        for finding in report.findings:
            echo(_text(finding), "\n")
        broken = {finding.node for finding in report.findings}
        good = sum(node not in broken for node in report.nodes)
        told = (
            f"{plural(len(report.nodes), 'node type')}, {plural(len(report.findings), 'finding')}"
        )
        more = f"; {good:,} behave" if report.findings else ""
        echo(paint(report.plugin, bold=True), f": {told}{more}")


def _text(finding: Finding) -> str:
    from .text import one_line

    return "\n".join(one_line(line) for line in str(finding).splitlines())


def _print_json(reports: list[Report]) -> None:
    from .text import echo_json

    echo_json(
        [
            {
                "plugin": report.plugin,
                "nodes": list(report.nodes),
                "findings": [
                    {"node": f.node, "rule": f.rule, "message": f.message, "fix": f.fix}
                    for f in report.findings
                ],
            }
            for report in reports
        ],
        indent=1,
    )
