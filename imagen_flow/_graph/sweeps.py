"""Read the `sweep:` of a graph: which inputs it varies, and where their values come from.

What can be checked without opening a file is checked here. Tables, folders and files of lines are
read when the sweep is counted, before anything runs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from .._text.spec import UNREADABLE, Pair, Word
from .._types.ports import BadValue, PortType, describe
from ..errors import Mark
from .binder import Binder
from .bindings import Binding
from .graph import Axis, FilesIn, LinesOf, PerItem, Span, Sweep, TableAt, Values
from .suggestions import plain

if TYPE_CHECKING:
    from fractions import Fraction

__all__ = ["PER_ITEM", "parse_span", "read_sweep"]

#: What is written in place of values to give each item a seed of its own.
PER_ITEM = "per-item"

#: The keys of an axis that is written as a mapping.
OF_AXIS = ("lines", "folder", "pattern")

COMBINE: tuple[Literal["product", "zip"], ...] = ("product", "zip")

_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?"
_SPAN = rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})(?:\s*\.\.\s*({_NUMBER}))?\s*\Z"

#: A longer text is no range.
_MAX_SPAN = 200


def read_sweep(binder: Binder, written: dict[str, Pair]) -> Sweep | None:
    """Read a graph's sweep; None if it has none or it cannot be used (the problems are recorded)."""
    if not written:
        return None
    before = len(binder.problems)
    found: list[Axis | TableAt] = []
    axes = written.get("axes")
    if axes is not None and axes.value.value is not UNREADABLE:
        if isinstance(axes.value.value, dict):
            found += [
                axis
                for name, pair in axes.value.value.items()
                if (axis := _read_axis(binder, name, pair))
            ]
        else:
            binder.say(
                "bad-shape",
                f"'axes' is a mapping of inputs to their values, not {describe(plain(axes.value))}",
                axes.value.mark,
                fix="write axes: {seed: 1..4}",
            )
    if (table := written.get("table")) is not None:
        found += _read_tables(binder, table.value)
    combine: Literal["product", "zip"] = "product"
    if (pair := written.get("combine")) is not None and pair.value.value is not UNREADABLE:
        if pair.value.value in COMBINE:
            combine = pair.value.value
        else:
            binder.say(
                "bad-sweep",
                f"'combine' is one of {', '.join(COMBINE)}, not {describe(plain(pair.value))}",
                pair.value.mark,
            )
    sample: int | None = None
    if (pair := written.get("sample")) is not None and pair.value.value is not UNREADABLE:
        if type(pair.value.value) is int and pair.value.value > 0:
            sample = pair.value.value
        else:
            binder.say(
                "bad-sweep",
                "'sample' is the number of items to take, at least 1, not"
                f" {describe(plain(pair.value))}",
                pair.value.mark,
            )
    mark = next(iter(written.values())).key.mark
    if len(binder.problems) > before:
        return None
    if not found and all(pair.value.value is not UNREADABLE for pair in written.values()):
        binder.say(
            "bad-sweep",
            "the sweep varies no input",
            mark,
            fix="write axes: {seed: 1..4}, or remove 'sweep:'",
        )
        return None
    return Sweep(tuple(found), combine, sample, mark)


def _read_axis(binder: Binder, name: str, pair: Pair) -> Axis | None:
    wanted = binder.inputs.get(name)
    if wanted is None:
        if name not in binder.spec.inputs:  # else its declaration has a problem already
            binder.say(
                "unknown-axis",
                f"the sweep varies '{name}', and the graph has no such input",
                pair.key.mark,
                fix=binder.nearest(name, binder.inputs, what="its inputs are"),
            )
        return None
    word, type_ = pair.value, wanted.type
    source: Values | Span | PerItem | LinesOf | FilesIn | None
    if isinstance(word.value, tuple):
        source = _read_values(binder, name, word, type_)
    elif isinstance(word.value, dict):
        source = _read_mapping(binder, name, word, type_)
    elif word.value is UNREADABLE:
        return None
    else:
        source = _read_scalar(binder, name, word, type_)
    return Axis(name, source, pair.key.mark) if source is not None else None


def _read_values(binder: Binder, name: str, word: Word, type_: PortType) -> Values | None:
    if not word.value:
        binder.say(
            "bad-sweep",
            f"the axis '{name}' has no values",
            word.mark,
            fix="list at least one, or remove the axis",
        )
        return None
    items: list[tuple[Binding, Mark | None]] = []
    for index, element in enumerate(word.value):
        bound = binder.bind(element, type_, f"value {index} of the axis '{name}'")
        if bound is not None:
            items.append((bound, element.mark))
    return Values(tuple(items)) if len(items) == len(word.value) else None


def _read_scalar(binder: Binder, name: str, word: Word, type_: PortType) -> Span | PerItem | None:
    if word.value == PER_ITEM:
        if type_.seed:
            return PerItem()
        binder.say(
            "bad-sweep",
            f"'{PER_ITEM}' is for seeds, and input '{name}' is {type_}",
            word.mark,
            fix=f"declare the input as type: seed, or list values: {name}: […]",
        )
        return None
    try:
        if isinstance(word.value, str) and (span := parse_span(word.value, type_)):
            return span
    except BadValue as error:
        binder.say("bad-sweep", f"the axis '{name}' {error}", word.mark)
        return None
    binder.say(
        "bad-sweep",
        f"the axis '{name}' takes a list of values, not {describe(plain(word))}",
        word.mark,
        fix=_sample(name, type_),
    )
    return None


def _sample(name: str, type_: PortType) -> str:
    """Show how an axis of this type is written."""
    if type_.kind in ("int", "float", "number"):
        return f"write {name}: [1, 2], or a range such as {name}: 1..4"
    if type_.kind == "file":
        return f"write {name}: [./a.png, ./b.png], or {name}: {{folder: ./pictures}}"
    if type_.kind == "text":
        return f"write {name}: [one, another], or {name}: {{lines: ./file.txt}}"
    return f"write {name}: […]"


def _read_mapping(
    binder: Binder, name: str, word: Word, type_: PortType
) -> LinesOf | FilesIn | None:
    pairs = word.value
    texts: dict[str, str] = {}
    is_whole = True
    for key, pair in pairs.items():
        if key not in OF_AXIS:
            is_whole = False
            binder.say(
                "unknown-key",
                f"an axis has no key '{key}'",
                pair.key.mark,
                f"its keys are: {', '.join(OF_AXIS)}",
                binder.nearest(key, OF_AXIS),
            )
        elif not isinstance(pair.value.value, str) or not pair.value.value.strip():
            is_whole = False
            if pair.value.value is not UNREADABLE:
                binder.say(
                    "bad-sweep",
                    f"'{key}' of the axis '{name}' is text, not {describe(plain(pair.value))}",
                    pair.value.mark,
                )
        else:
            texts[key] = pair.value.value
    if not is_whole:
        return None
    if set(texts) == {"lines"}:
        return LinesOf(texts["lines"], binder.folder, pairs["lines"].value.mark)
    if "folder" in texts and "lines" not in texts:
        if type_.kind == "file":
            return FilesIn(
                texts["folder"],
                texts.get("pattern", "*"),
                binder.folder,
                pairs["folder"].value.mark,
            )
        binder.say(
            "bad-sweep",
            f"a folder gives an axis of files, and input '{name}' is {type_}",
            pairs["folder"].value.mark,
            fix=f"declare the input as type: file, or list values: {name}: […]",
        )
        return None
    binder.say(
        "bad-sweep",
        f"the axis '{name}' needs either 'lines' or 'folder'",
        word.mark,
        fix=_sample(name, type_),
    )
    return None


def _read_tables(binder: Binder, word: Word) -> list[TableAt]:
    if word.value is UNREADABLE:
        return []
    words = word.value if isinstance(word.value, tuple) else (word,)
    found = []
    for path in words:
        if isinstance(path.value, str) and path.value.strip():
            found.append(TableAt(path.value, binder.folder, path.mark))
        elif path.value is not UNREADABLE:
            binder.say(
                "bad-sweep",
                f"'table' is the path of a CSV or JSONL file, not {describe(plain(path))}",
                path.mark,
            )
    return found


def parse_span(text: str, type_: PortType) -> Span | None:
    """Read a range, ``1..64`` or ``0.2..0.8..0.1``; both ends are included, the third number is the
    step. None if the text is no range or the type has none.

    Raises:
        BadValue: it is a range, but not of this type.
    """
    from fractions import Fraction

    if type_.kind not in ("int", "float", "number") or len(text) > _MAX_SPAN:
        return None
    match = re.match(_SPAN, text)
    if match is None:
        return None
    start, stop = Fraction(match[1]), Fraction(match[2])
    is_whole = type_.kind == "int"
    if is_whole and any(Fraction(part).denominator != 1 for part in match.groups() if part):
        raise BadValue(f"takes whole numbers, and the range '{text.strip()}' has others")
    if match[3] is None and (start.denominator, stop.denominator) != (1, 1):
        raise BadValue(
            f"needs a step in the range '{text.strip()}', such as"
            f" {match[1]}..{match[2]}..{_default_step(start, stop)}"
        )
    size = abs(Fraction(match[3])) if match[3] else Fraction(1)
    if not size:
        raise BadValue(f"has the range '{text.strip()}', whose step is 0")
    step = size if stop >= start else -size
    count = int((stop - start) / step) + 1
    span = Span(start, step, count, is_whole)
    for value in (span[0], span[count - 1]):
        if not type_.choices:
            type_.check(value)
    return span


def _default_step(start: Fraction, stop: Fraction) -> str:
    return repr(float(abs(stop - start) / 4) or 0.1)
