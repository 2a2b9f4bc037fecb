"""The command line: the only module that prints and chooses exit codes."""

from __future__ import annotations

import click


@click.group()
def main() -> None:
    """The build system for generative pictures."""
