"""Read the outputs of a graph: what each gives, and where it is written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .._outputs.formats import OPTIONS, options_of
from .._outputs.templates import check_template, is_whole
from .._text.spec import OF_FORMAT, UNREADABLE, OutputSpec, Reference
from .._types.ports import PortType, describe
from .binder import Binder
from .bindings import FromInput, FromNode
from .file_fields import FileNames
from .graph import Node, Output
from .suggestions import plain

__all__ = ["check_paths", "read_output"]


def read_output(
    binder: Binder, nodes: Mapping[str, Node | None], written: OutputSpec
) -> Output | None:
    """Read one output; None if it is of no use (the problem is recorded)."""
    value = written.source.value
    if value is UNREADABLE:
        return None
    if not isinstance(value, Reference):
        binder.say(
            "bad-reference",
            f"output '{written.name.value}' is a reference, not {describe(plain(written.source))}",
            written.source.mark,
            fix='write "${node}"',
        )
        return None
    found = binder.look_up(value)
    if found is None:
        return None
    binding, type_ = found
    options = {key: pair.value.value for key, pair in written.options.items()}
    path = options.get("path")
    files: dict[str, FromInput | FromNode] = {}
    whole = False
    if path is not None and type_ is not None:
        scalars = [n for n, i in binder.inputs.items() if i.type.is_scalar]
        mark = written.options["path"].value.mark
        if not isinstance(path, str):
            binder.say(
                "bad-path",
                f"a path is text, not {describe(plain(written.options['path'].value))}",
                mark,
            )
            return None
        names = FileNames(binder.inputs, nodes, binding, type_)
        fault = check_template(path, fields=scalars, type=type_, files=names)
        if fault:
            binder.say("bad-path", fault.message, mark, fault.why, fault.fix)
        else:
            files = names.used(path)
            whole = is_whole(path, type_, names)
        binder.used_inputs |= {n for n in scalars if f"{{{n}}}" in path}
        binder.used_inputs |= {f.name for f in files.values() if isinstance(f, FromInput)}
    if type_ is None:
        return None
    of_file = type_.element if type_.kind == "list" and not whole and type_.element else type_
    format_options = _read_options(binder, written, path, of_file)
    return Output(
        written.name.value,
        binding,
        type_,
        path,
        options.get("exists", "error"),
        options.get("provenance", "full"),
        written.mark,
        files,
        whole,
        format_options,
    )


def _read_options(
    binder: Binder, written: OutputSpec, path: object, type_: PortType
) -> dict[str, Any]:
    """Read the options of the format that an output is written in."""
    given = {key: pair for key, pair in written.options.items() if key in OF_FORMAT}
    if not given:
        return {}
    ending = os.path.splitext(path)[1].lower() if isinstance(path, str) else ""
    known = options_of(ending, type_)
    found: dict[str, Any] = {}
    for key, pair in given.items():
        if key in known:
            binder.take(pair, known[key], f"'{key}' of a {ending} file", found, key)
            if key == "columns" and (why := _columns_fault(found.get(key))):
                binder.say("bad-literal", f"the columns of a {ending} file {why}", pair.value.mark)
            continue
        having = [e for e in OPTIONS if key in options_of(e, type_)]
        fits = [e for e in having if check_template(f"x{e}", fields=(), type=type_) is None]
        if not isinstance(path, str):
            why = "the output has no path, so it is not written"
        elif known:
            why = f"its options are: {', '.join(known)}"
        else:
            why = f"{type_.name} as a {ending} file has no options" if ending else ""
        binder.say(
            "bad-setting",
            f"a {ending} file has no option '{key}'" if ending else f"'{key}' has no effect",
            pair.key.mark,
            why=why,
            fix=f"remove it; {', '.join(fits)} files have it" if fits else "remove it",
        )
    return found


def _columns_fault(columns: list[str] | None) -> str:
    """Say why no reader could tell columns apart."""
    if columns is None:
        return ""
    if not columns:
        return "cannot be none; without 'columns', all are written"
    if "" in columns:
        return "cannot have an empty name"
    twice = next((name for i, name in enumerate(columns) if name in columns[:i]), None)
    return "" if twice is None else f"have the name '{twice}' twice"


def check_paths(binder: Binder, outputs: dict[str, Output]) -> None:
    """Two outputs with one path template would write over each other."""
    seen: dict[str, str] = {}
    for output in outputs.values():
        if output.path is None:
            continue
        plain = output.path.replace("{output}", output.name).casefold()
        if plain in seen:
            mark = binder.spec.outputs[output.name].options["path"].value.mark
            binder.say(
                "duplicate-path",
                f"outputs '{seen[plain]}' and '{output.name}' are written to one path",
                mark,
                fix="put {output} into the path",
            )
        seen.setdefault(plain, output.name)
