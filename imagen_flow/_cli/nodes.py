"""``imagen-flow nodes``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .session import find_plugins, plugin_option

if TYPE_CHECKING:
    from .._plugins.registry import Registry
    from .._types.node import NodeType
    from .._types.ports import Port, PortType
    from ..errors import Problem

__all__ = ["nodes"]


@click.command()
@click.argument("words", nargs=-1, metavar="[TYPE | WORD…]")
@click.option("--takes", metavar="KIND", help="Only node types with an input of this kind.")
@click.option("--gives", metavar="KIND", help="Only node types with an output of this kind.")
@plugin_option
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def nodes(
    words: tuple[str, ...],
    takes: str | None,
    gives: str | None,
    plugins: tuple[Path, ...],
    as_json: bool,
) -> int:
    """List node types, describe one, or search them.

    TYPE is the name of a node type, such as image.resize, or its first part, such as image. Other
    words are searched for in the names, ports and help of all node types. KIND is a kind of value,
    such as image, mask, text or model.
    """
    from .._plan.request import Options
    from .._settings import config

    registry = find_plugins(Options(plugins=plugins), config.load(Path.cwd()), allow_broken=True)
    named = words[0] if len(words) == 1 else ""
    if named and (found := registry.find(named)):
        if as_json:
            _echo_json(_as_dict(found, registry))
        else:
            _print_type(found, registry)
        return 0
    registry.load_all()
    every = list(registry.node_types.values())
    _check_kinds(every, takes=takes, gives=gives)
    group = f"{named.rstrip('.*')}."
    shown = [t for t in every if not words or (named and t.name.startswith(group))]
    if words and not shown and "." not in named:
        shown = [t for t in every if _has_words(t, words)]
    if words and not shown:
        return _report(_unknown(" ".join(words), registry))
    shown = [
        t
        for t in shown
        if (takes is None or any(_is_of(p.type, takes) for p in t.inputs.values()))
        and (gives is None or any(_is_of(p.type, gives) for p in t.outputs.values()))
    ]
    if as_json:
        broken = [
            {"plugin": p.name, "fault": p.fault} for p in registry.plugins.values() if p.fault
        ]
        _echo_json({"nodes": [_as_dict(t, registry) for t in shown], "broken": broken})
    else:
        _print_list(shown, registry, with_broken=not words)
    return 0


def _has_words(type_: NodeType, words: Iterable[str]) -> bool:
    """Whether the name, the ports or the help of a node type have all of these words in them."""
    text = " ".join([type_.name, type_.doc, *type_.inputs, *type_.outputs]).casefold()
    return all(word.casefold() in text for word in words)


def _is_of(type_: PortType, kind: str) -> bool:
    """Whether values of a kind, or lists of them, pass a port; a choice of words takes no text."""
    inner = (*type_.members, *((type_.element,) if type_.element is not None else ()))
    fields = type_.record.fields.values() if type_.record is not None else ()
    return (type_.kind == kind and not type_.choices) or any(
        _is_of(t, kind) for t in (*inner, *(f.type for f in fields))
    )


def _kinds(types: Iterable[PortType]) -> set[str]:
    found: set[str] = set()
    for type_ in types:
        found.add(type_.kind)
        found |= _kinds((*type_.members, *((type_.element,) if type_.element is not None else ())))
        if type_.record is not None:
            found |= _kinds(field.type for field in type_.record.fields.values())
    return found - {"union", "list", "record"}


def _check_kinds(types: Iterable[NodeType], **given: str | None) -> None:
    """Refuse kinds of values that no port has, and say which there are."""
    from ..errors import nearest

    known = _kinds(p.type for t in types for p in (*t.inputs.values(), *t.outputs.values()))
    for option, kind in given.items():
        if kind is not None and kind not in known:
            raise click.BadParameter(
                f"no node type has a port of the kind '{kind}';"
                f" {nearest(kind, sorted(known), what='kinds are')}",
                param_hint=f"--{option}",
            )


def _report(problem: Problem) -> int:
    from .text import show_problems

    show_problems([problem])
    return 2


def _unknown(type: str, registry: Registry) -> Problem:
    """Say why there is no such node type: its plugin is broken, or the name is misspelled."""
    from ..errors import Problem

    owner = registry.offered_by(type)
    if owner is not None and owner.fault:
        return Problem(
            "broken-plugin",
            f"'{type}' comes from {owner.name}, which cannot be used",
            why=owner.fault,
        )
    return Problem(
        "unknown-node-type",
        f"no plugin provides the node type '{type}'",
        why="; ".join(registry.faults),
        fix=_suggest_type(type, registry.names()),
    )


def _suggest_type(type: str, names: Iterable[str]) -> str:
    """Suggest types that end in this word, else the most similar, else where they are listed."""
    from ..errors import nearest

    known = sorted(names)
    if same_ending := [f"'{name}'" for name in known if name.rpartition(".")[2] == type]:
        return f"did you mean {' or '.join(same_ending)}?"
    suggestion = nearest(type, known)
    return (
        suggestion
        if suggestion.startswith("did")
        else (
            "run `imagen-flow nodes` to list the node types; those in a Python file need"
            " --plugin FILE"
        )
    )


def _print_list(shown: list[NodeType], registry: Registry, *, with_broken: bool) -> None:
    """Print one line per node type, grouped by plugin, then the plugins that cannot be used."""
    from .text import echo, paint, table

    width = max((len(t.name) for t in shown), default=0)
    for plugin in registry.plugins.values():
        types = [t for t in shown if t.plugin == plugin.name]
        if types:
            echo(paint(f"{plugin.name} {plugin.version}".rstrip(), bold=True))
            echo(table([(t.name.ljust(width), _first_sentence(t)) for t in types]))
    if with_broken:
        for fault in registry.faults:
            echo(paint("broken", "red"), f" {fault}", err=True)


def _first_sentence(type_: NodeType) -> str:
    return type_.doc.partition("\n\n")[0].replace("\n", " ").rstrip(".")


def _print_type(type_: NodeType, registry: Registry) -> None:
    """Print everything that a node type's signature and docstring say."""
    from .._types.models import Loading
    from .text import echo, paint, table

    first, _, rest = type_.doc.partition("\n\n")
    echo(paint(type_.name, bold=True))
    echo(f"  {first.replace(chr(10), ' ')}\n")
    echo("inputs")
    echo(
        table(row for p in type_.inputs.values() for row in _rows(p)) if type_.inputs else "  none"
    )
    echo("outputs")
    echo(table((p.name, str(p.type)) for p in type_.outputs.values()))
    if rest.strip():
        echo(f"\n{rest.strip()}")
    echo()
    owner = registry.plugins.get(type_.plugin)
    facts = [
        ("version", str(type_.version)),
        ("plugin", f"{type_.plugin} {owner.version if owner else ''}".rstrip()),
        ("uses", ", ".join(f"{name} {registry.version_of(name)}" for name in type_.uses)),
        ("calls", type_.calls),
        (
            "settings",
            ", ".join(name for name in (*Loading._fields, "ladder") if type_.uses_setting(name)),
        ),
        ("file", f"{type_.file}:{type_.line}"),
    ]
    echo(table([fact for fact in facts if fact[1]], indent=""))


def _rows(port: Port) -> Iterator[tuple[str, str, str]]:
    """Describe a port, and the fields of its records below it."""
    yield port.name, _describe_default(port), str(port.type)
    record = port.type.innermost_record
    for field in record.fields.values() if record is not None else ():
        yield f"  {field.name}", _describe_default(field), str(field.type)


def _describe_default(port: Port) -> str:
    if port.required:
        return "required"
    return "optional" if port.default is None else f"default {_as_json_text(port.default)}"


def _as_json_text(value: Any) -> str:
    import enum
    import json

    value = value.value if isinstance(value, enum.Enum) else value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)


def _as_dict(type_: NodeType, registry: Registry) -> dict[str, Any]:
    import enum

    def default(port: Port) -> Any:
        return port.default.value if isinstance(port.default, enum.Enum) else port.default

    def described(port: Port) -> dict[str, Any]:
        record = port.type.innermost_record
        return {
            "name": port.name,
            "type": str(port.type),
            "required": port.required,
            **({} if port.required else {"default": default(port)}),
            **({"fields": [described(f) for f in record.fields.values()]} if record else {}),
        }

    owner = registry.plugins.get(type_.plugin)
    return {
        "type": type_.name,
        "version": type_.version,
        "plugin": type_.plugin,
        "plugin_version": owner.version if owner else "",
        "uses": {name: registry.version_of(name) for name in type_.uses},
        "calls": type_.calls,
        "inputs": [described(p) for p in type_.inputs.values()],
        "outputs": [{"name": p.name, "type": str(p.type)} for p in type_.outputs.values()],
        "doc": type_.doc,
        "file": type_.file,
        "line": type_.line,
    }


def _echo_json(data: Any) -> None:
    from .text import echo_json

    echo_json(data, indent=1)
