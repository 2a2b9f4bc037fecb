"""The command line: the only part that prints and that chooses exit codes.

0 done · 1 the graph or a node is at fault · 2 the command line is · 130 interrupted.

Importing this package imports click and nothing else; a command's module is imported when it is
called, and what it needs when it needs it. Other distributions add commands by the
entry-point group ``imagen_flow.commands``: help lists them from metadata, and the module is
    imported on call.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["main"]

# : Command, and what help says of it: the first line of the command's own help, copied here so that
# help imports no command.
COMMANDS = {
    "run": "Run a graph; what the store already holds is not computed again.",
    "watch": "Run graphs, and again whenever what they depend on changes.",
    "plan": "Show what a run would do, and why. Nothing runs.",
    "nodes": "List node types, or show one of them.",
    "models": "Fetch the models that graphs name, pin them, list and remove them.",
    "replay": "Run the graph that a picture carries.",
    "store": "Look after the store.",
    "folder": "Run hot folders: files in, a graph, finished assets out.",
    "trust": "Let imagen-flow.toml load the local plugins that it names.",
    "demo": "Draw, enlarge, edit and describe a picture with the bundled models.",
}

#: Codes of problems that lie in what was given to a graph, even if they point into the graph.
_GIVEN = frozenset({"bad-input", "missing-input", "unknown-input"})


class _Commands(click.Group):
    """Commands by name: ours, then those of other distributions."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(_others().keys() - COMMANDS.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command = getattr(import_module(f".{cmd_name}", __name__), cmd_name)
        elif entry := _others().get(cmd_name):
            try:
                command = entry.load()
            except Exception as failed:  # another distribution's code may raise anything
                raise click.ClickException(
                    f"the command '{cmd_name}' of {_owner(entry)} cannot be loaded:"
                    f" {type(failed).__name__}: {failed}"
                ) from failed
        else:
            return None
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from ..errors import nearest

        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            if name.endswith((".yaml", ".yml", ".json")):
                ctx.fail(
                    f"there is no command '{name}'; to run a graph, say: imagen-flow run {name}"
                )
            ctx.fail(
                f"there is no command '{name}';"
                f" {nearest(name, self.list_commands(ctx), what='commands are')}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        others = [
            (name, f"From {_owner(entry)}.")
            for name, entry in sorted(_others().items())
            if name not in COMMANDS
        ]
        if others:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(others)


def _others() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group="imagen_flow.commands")}


def _owner(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from .. import __version__
        from .text import echo

        echo(f"imagen-flow {__version__}")
        ctx.exit()


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
def commands() -> None:
    """The build system for generative pictures.

    A graph is a text file; a run is a function of that file, its inputs and its models. What has
    not changed is never computed twice.
    """


def main(arguments: Sequence[str] | None = None, *, prog_name: str = "imagen-flow") -> NoReturn:
    """Carry out a command line, report what goes wrong, and exit."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # a caption may be in any language, the terminal's encoding may not
    try:
        code = commands.main(arguments, prog_name=prog_name, standalone_mode=False) or 0
        sys.stdout.flush()
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        code = 130
    except click.ClickException as fault:
        from .text import show_fault

        show_fault(fault)
        code = fault.exit_code
    except BrokenPipeError:
        _abandon_output()
        code = 1
    except Exception as fault:
        code = _report(fault)
    sys.exit(code)


def _abandon_output() -> None:
    """Whoever read our output has gone; point it nowhere, so that the interpreter does not complain
    when it flushes.
    """
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(fault: Exception) -> int:
    """Show what went wrong and say whose fault it is."""
    from ..errors import GraphError, ImagenFlowError
    from .text import echo

    if isinstance(fault, GraphError):
        from .text import show_problems

        show_problems(fault.problems)
        wrong = [p for p in fault.problems if p.severity == "error"]
        return 2 if wrong and all(p.mark is None or p.code in _GIVEN for p in wrong) else 1
    if isinstance(fault, ImagenFlowError):
        echo(f"error: {fault}", err=True)
        return 1
    import traceback

    echo("".join(traceback.format_exception(fault)), err=True, nl=False)
    echo(
        "\nThis is a fault of imagen_flow itself, not of your graph. Please report it with the"
        " lines above.",
        err=True,
    )
    return 1
