"""The command line. Only this package prints and chooses exit codes.

Exit codes: 0 success, 1 the graph or a node failed, 2 wrong usage, 130 interrupted.

Importing this package imports click and nothing else. A command's module is imported when the
command is called, and its dependencies when they are needed. Other distributions add commands
through the entry-point group ``imagen_flow.commands``: help lists them from package metadata, and
their modules are imported on call.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Any, NoReturn

import click

from .._plugins.distributions import offered

__all__ = ["main"]

#: Each command with its summary: the first line of the command's own help, repeated here so that
#: ``--help`` does not import the commands.
COMMANDS = {
    "run": "Run a graph. Results that are already in the store are reused.",
    "watch": "Run graphs, and run them again whenever something they depend on changes.",
    "plan": "Show what a run would do, and why, without running anything.",
    "init": "Write a first graph, to run and to change.",
    "nodes": "List node types, describe one, or search them.",
    "inputs": "Show the inputs of a graph: their types, defaults and help.",
    "plugin": "Write plugins: begin a new one, and check that one behaves.",
    "schema": "Print a JSON Schema of the graph language, for editors.",
    "models": "Download, pin, list and remove the models that graphs use.",
    "replay": "Run the graph that is embedded in a picture.",
    "report": "Show what a sweep made: a page to explore in a browser, and a contact sheet.",
    "store": "Inspect, verify and clean up the store.",
    "folder": "Run hot folders: put each file that arrives in a folder through a graph.",
    "trust": "Trust the plugins and folders that an imagen-flow.toml names.",
    "demo": "Draw, enlarge, edit and describe a picture with the bundled models.",
}

#: The entry points of commands that other distributions add.
_COMMAND_GROUP = "imagen_flow.commands"

#: Problems of the values given to a graph, even if they point into the graph file.
_INPUT_PROBLEMS = frozenset({"bad-input", "missing-input", "unknown-input"})


class _Commands(click.Group):
    """Our commands, then those of other distributions."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(_plugin_commands().keys() - COMMANDS.keys())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command = getattr(import_module(f".{cmd_name}", __name__), cmd_name)
        elif entry := _plugin_commands().get(cmd_name):
            try:
                command = entry.load()
            except Exception as error:  # another distribution's code may raise anything
                raise click.ClickException(
                    f"the command '{cmd_name}' of {_distribution(entry)} cannot be loaded:"
                    f" {type(error).__name__}: {error}"
                ) from error
        else:
            return None
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        from ..errors import nearest

        name = args[0] if args else ""
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            if name.endswith((".yaml", ".yml", ".json")):
                ctx.fail(f"there is no command '{name}'; to run a graph: imagen-flow run {name}")
            ctx.fail(
                f"there is no command '{name}';"
                f" {nearest(name, self.list_commands(ctx), what='commands are')}"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        plugin_commands = [
            (name, f"From {_distribution(entry)}.")
            for name, entry in sorted(_plugin_commands().items())
            if name not in COMMANDS
        ]
        if plugin_commands:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(plugin_commands)


def _plugin_commands() -> dict[str, Any]:
    return {entry.name: entry for entry in offered(_COMMAND_GROUP)}


def _distribution(entry: Any) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown distribution"


def _print_version(ctx: click.Context, _: click.Parameter, requested: bool) -> None:
    if requested:
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
    callback=_print_version,
    help="Show the version and exit.",
)
def commands() -> None:
    """The build system for generative pictures.

    A graph is a text file. A run is a function of that file, its inputs and its models, and nothing
    that has not changed is ever computed twice.
    """


def main(arguments: Sequence[str] | None = None, *, prog_name: str = "imagen-flow") -> NoReturn:
    """Run a command line, report errors, and exit."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"  # the terminal's encoding may lack a caption's characters
        )
    try:
        exit_code = commands.main(arguments, prog_name=prog_name, standalone_mode=False) or 0
        sys.stdout.flush()
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        exit_code = 130
    except click.ClickException as error:
        from .text import show_click_error

        show_click_error(error)
        exit_code = error.exit_code
    except BrokenPipeError:
        _discard_output()
        exit_code = 1
    except Exception as error:
        exit_code = _report_error(error)
    sys.exit(exit_code)


def _discard_output() -> None:
    """Redirect standard output to the null device after its reader has closed the pipe, so that
    the interpreter can flush it at exit.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_error(error: Exception) -> int:
    """Print an unhandled error and return the exit code."""
    from ..errors import GraphError, ImagenFlowError
    from .text import echo

    if isinstance(error, GraphError):
        from .text import show_problems

        show_problems(error.problems)
        errors = [p for p in error.problems if p.severity == "error"]
        return (
            2 if errors and all(p.mark is None or p.code in _INPUT_PROBLEMS for p in errors) else 1
        )
    if isinstance(error, ImagenFlowError):
        echo(f"error: {error}", err=True)
        return 1
    import traceback

    echo("".join(traceback.format_exception(error)), err=True, nl=False)
    echo(
        "\nThis is a bug in imagen_flow, not in your graph. Please report it with the lines above.",
        err=True,
    )
    return 1
