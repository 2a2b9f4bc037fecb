"""``imagen-flow replay``."""

from __future__ import annotations

from pathlib import Path

import click

from .session import device_option, dtype_option, no_store_option, out_option, plugin_option, set_option, store_option

__all__ = ["replay"]


@click.command()
@click.argument("picture", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@set_option
@click.option("--verify", is_flag=True, help="Compute everything again, write nothing, and say whether the same comes out.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@out_option
@device_option
@dtype_option
@store_option
@no_store_option
@plugin_option
def replay(
    picture: Path,
    values: dict[str, str],
    verify: bool,
    yes: bool,
    out: Path | None,
    device: str | None,
    dtype: str | None,
    store: Path | None,
    no_store: bool,
    plugins: tuple[Path, ...],
) -> int:
    """Run the graph that a picture carries.

    A picture is not trusted: what would run is shown, and nothing runs or is read before you agree. Files that its graph names are taken from the store, by their content, or from where --set says.
    """
    from .. import config
    from ..replay import prepare
    from .plan import print_plan
    from .run import carry_out
    from .session import find_plugins, open_store
    from .text import confirm, safe

    settings = config.load(Path.cwd())
    registry = find_plugins(settings, plugins)
    with open_store(store, settings, registry, no_store=no_store) as opened:
        again = prepare(picture, registry=registry, store=opened, values=values, device=device, dtype=dtype, fresh=verify)
        for line in again.words():
            click.echo(safe(line), err=True)
        again.check()
        if not yes:
            print_plan(again.plan, err=True)
            confirm("run it?")
        code = carry_out(again.plan, out=None if verify else out or settings.out or Path("out"))
        if code or not verify:
            return code
        comparison = again.verify()
    click.echo(safe(str(comparison)))
    return 0 if comparison.identical else 1
