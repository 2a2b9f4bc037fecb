"""Read a graph file into a GraphSpec, with the position of every word. Knows no node type.

Nothing here raises for bad text. Problems are collected in the GraphSpec, beside as much of the
graph as could be understood; where a word could not be read its value is UNREADABLE, so that
resolving the graph does not report it a second time.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from .._system.collection import paused_collection
from .._system.dataclass import dataclass
from .._system.regular_files import open_regular
from .._types.node import RESERVED
from ..errors import MAX_PROBLEMS, Mark, Problem, Source, nearest
from .mapping_reader import as_text, read_mapping
from .words import (
    MAX_BYTES,
    NAME,
    UNREADABLE,
    Pair,
    ParsedText,
    Reference,
    Template,
    Unreadable,
    Word,
)
from .yaml_reader import read_words, too_large

__all__ = [
    "UNREADABLE",
    "GraphSpec",
    "InputSpec",
    "NodeSpec",
    "OutputSpec",
    "Pair",
    "Reference",
    "Template",
    "Unreadable",
    "Word",
    "parse",
    "parse_mapping",
    "read",
]

VERSION = 1
TOP = ("imagen_flow", "$schema", "inputs", "nodes", "outputs", "settings", "sweep")
OF_INPUT = ("type", "default", "help", "min", "max", "choices")
#: What an output takes, and the options of the formats that files are written in.
OF_OUTPUT = ("from", "path", "exists", "provenance")
OF_FORMAT = (
    "absent",
    "bom",
    "columns",
    "compress_level",
    "formulas",
    "lossless",
    "method",
    "progressive",
    "quality",
    "subsampling",
)
OF_SWEEP = ("axes", "table", "combine", "sample")
CHOICES = {"exists": ("error", "number", "replace"), "provenance": ("full", "keys", "none")}


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input of a graph as written. A bare value has neither `type` nor options: it is its own
    default and type.
    """

    name: Word
    type: Word | None
    options: dict[str, Pair]  # default, help, min, max, choices
    bare: bool

    @property
    def mark(self) -> Mark:
        """Where its name is written."""
        return self.name.mark


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node as written: its type, its arguments, and the reserved words that it uses."""

    name: Word
    type: Word
    arguments: dict[str, Pair]
    reserved: dict[str, Pair]  # RESERVED without `type`

    @property
    def mark(self) -> Mark:
        """Where its name is written."""
        return self.name.mark


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """An output as written: its source and where it is written."""

    name: Word
    source: Word
    options: dict[str, Pair]  # path, exists, provenance, and those of a format

    @property
    def mark(self) -> Mark:
        """Where its name is written."""
        return self.name.mark


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """A graph file as written. `problems` are those of the text itself; resolving the graph adds
    its own and shows all of them.

    `whole` is false if the text could not be read to its end (a syntax error, an unreadable file):
    then missing parts cannot be reported.
    """

    source: Source
    path: Path | None
    inputs: dict[str, InputSpec] = field(default_factory=dict)
    nodes: dict[str, NodeSpec] = field(default_factory=dict)
    outputs: dict[str, OutputSpec] = field(default_factory=dict)
    settings: dict[str, Pair] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    whole: bool = True
    sweep: dict[str, Pair] = field(default_factory=dict)


def read(path: Path, *, name: str | None = None) -> GraphSpec:
    """Read a graph file. If it cannot be read, is too large or is not UTF-8, that is a problem of
    the spec.

    Params:
        name: the file's name in problems; default: `path` as given.
    """
    shown = str(path) if name is None else name
    try:
        if path.stat().st_size > MAX_BYTES:
            return _failed_spec(shown, path, too_large(shown))
        with open_regular(path) as file:
            data = file.read(MAX_BYTES + 1)  # it may have grown
    except (OSError, ValueError) as error:
        return _failed_spec(shown, path, _unreadable(path, shown, error))
    return parse(data, name=shown, path=path)


def _failed_spec(name: str, path: Path, problem: Problem) -> GraphSpec:
    return GraphSpec(Source(name, ""), path, problems=(problem,), whole=False)


def _unreadable(path: Path, name: str, error: Exception) -> Problem:
    fix = ""
    if isinstance(error, FileNotFoundError) and path.parent.is_dir():
        close = difflib.get_close_matches(
            path.name, sorted(p.name for p in path.parent.iterdir()), n=1
        )
        fix = f"did you mean '{close[0]}'?" if close else ""
    if isinstance(error, IsADirectoryError):
        fix = "name a graph file in that folder"
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return Problem(
        "unreadable",
        "the file cannot be read",
        Mark(Source(name, ""), 1, 1),
        reason[:1].lower() + reason[1:],
        fix,
    )


@paused_collection()
def parse_mapping(data: Mapping[str, Any], *, name: str = "<graph>") -> GraphSpec:
    """Read a graph that was composed in Python. Problems point into the graph written as JSON.

    Raises:
        TypeError: something in it is neither JSON data nor a path.
    """
    if (written := read_mapping(data, name=name)) is not None:
        return _read_spec(written, None)
    try:
        text = as_text(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise TypeError(
            f"{name}: a graph may contain mappings, lists, text, numbers, booleans, None and paths:"
            f" {error}"
        ) from error
    return parse(text, name=name)


@paused_collection()
def parse(text: str | bytes, *, name: str, path: Path | None = None) -> GraphSpec:
    """Read a graph from text.

    Params:
        name: the text's name in problems.
        path: where it was read from; relative paths in it start there.
    """
    return _read_spec(read_words(text, name=name), path)


def _read_spec(written: ParsedText, path: Path | None) -> GraphSpec:
    if written.word is None:
        return GraphSpec(written.source, path, problems=written.problems, whole=False)
    keys = written.word.value if isinstance(written.word.value, dict) else {}
    if (
        "imagen_flow" not in keys
        and "nodes" not in keys
        and ("imagen_flow_folder" in keys or {"graph", "in"} <= keys.keys())
    ):
        mark = next(iter(keys.values())).key.mark
        what = Problem(
            "bad-shape",
            "this is the line file of a hot folder, not a graph",
            mark,
            "it names the graph that processes each file of a folder",
            f"run it with: imagen-flow folder run {written.source.name}",
        )
        return GraphSpec(written.source, path, problems=(what,), whole=False)
    reader = _SpecReader(list(written.problems))
    top = reader.top(written.word)
    inputs = {key: reader.input(pair) for key, pair in reader.section(top, "inputs").items()}
    nodes = {key: reader.node(pair) for key, pair in reader.section(top, "nodes").items()}
    outputs = {key: reader.output(pair) for key, pair in reader.section(top, "outputs").items()}
    settings = reader.section(top, "settings")
    for pair in settings.values():
        reader.plain(pair.value, "a setting")
    sweep = reader.sweep(top)
    reader.clashes(inputs, nodes)
    problems = sorted(reader.problems, key=lambda p: p.position)
    return GraphSpec(
        written.source,
        path,
        inputs,
        nodes,
        {k: o for k, o in outputs.items() if o},
        settings,
        tuple(problems),
        sweep=sweep,
    )


def _kind(word: Word) -> str:
    """Name the kind of a value, for a sentence."""
    value = word.value
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, tuple):
        return "a list"
    if isinstance(value, Reference | Template):
        return "a reference"
    if value is None:
        return "nothing"
    return (
        "text"
        if isinstance(value, str)
        else "true or false"
        if isinstance(value, bool)
        else "a number"
    )


def _nearest(word: str, candidates: Iterable[str]) -> str:
    return next(iter(difflib.get_close_matches(word, list(candidates), n=1)), "")


@dataclass
class _SpecReader:
    """Turns words into the parts of a graph; whatever does not fit the format becomes a problem."""

    problems: list[Problem]

    def report(self, code: str, message: str, mark: Mark, *, why: str = "", fix: str = "") -> None:
        self.problems.append(Problem(code, message, mark, why, fix))

    def nearest_key(self, word: str, candidates: Iterable[str]) -> str:
        return _nearest(word, candidates) if len(self.problems) < MAX_PROBLEMS else ""

    def top(self, root: Word) -> dict[str, Pair]:
        begin = f"start with 'imagen_flow: {VERSION}', then 'nodes:' and 'outputs:'"
        if not isinstance(root.value, dict):
            if root.value is None:
                self.report("missing-key", "the graph is empty", root.mark, fix=begin)
            elif root.value is not UNREADABLE:
                self.report(
                    "bad-shape",
                    f"a graph must be a mapping, not {_kind(root)}",
                    root.mark,
                    fix=begin,
                )
            return {}
        self.known(root.value, TOP, "a graph", required="imagen_flow", mark=root.mark)
        if version := root.value.get("imagen_flow"):
            self.version(version.value)
        return root.value

    def version(self, word: Word) -> None:
        if word.value is UNREADABLE or (word.value == VERSION and type(word.value) is int):
            return
        shown = f" '{word.value}'" if isinstance(word.value, str | int | float) else ""
        newer = isinstance(word.value, int) and word.value > VERSION
        fix = (
            "upgrade imagen_flow, or export the graph in this version"
            if newer
            else f"write imagen_flow: {VERSION}"
        )
        self.report(
            "unknown-version",
            f"the format version{shown} is not known",
            word.mark,
            why=f"this version of imagen_flow reads format version {VERSION}",
            fix=fix,
        )

    def known(
        self,
        pairs: dict[str, Pair],
        keys: tuple[str, ...],
        what: str,
        *,
        required: str = "",
        mark: Mark | None = None,
    ) -> None:
        """Report keys that the format does not have, and a missing key that it requires."""
        unknown = [key for key in pairs if key not in keys]
        for key in unknown:
            self.report(
                "unknown-key",
                f"{what} has no key '{key}'",
                pairs[key].key.mark,
                why=f"its keys are: {', '.join(keys)}",
                fix=f"did you mean '{nearest_key}'?"
                if (nearest_key := self.nearest_key(key, keys))
                else "",
            )
        # A misspelt key is one problem, not two.
        if (
            required
            and required not in pairs
            and not any(_nearest(key, keys) == required for key in unknown[:MAX_PROBLEMS])
            and mark
        ):
            fix = (
                f"start with 'imagen_flow: {VERSION}'"
                if required == "imagen_flow"
                else f"write {required}: …"
            )
            self.report("missing-key", f"{what} needs '{required}'", mark, fix=fix)

    def section(
        self, top: dict[str, Pair], key: str, *, shape: str = "{name: …}"
    ) -> dict[str, Pair]:
        pair = top.get(key)
        if pair is None or pair.value.value is None or pair.value.value is UNREADABLE:
            return {}
        if not isinstance(pair.value.value, dict):
            self.report(
                "bad-shape",
                f"'{key}' must be a mapping of names, not {_kind(pair.value)}",
                pair.value.mark,
                fix=f"write {key}: {shape}",
            )
            return {}
        return pair.value.value

    def sweep(self, top: dict[str, Pair]) -> dict[str, Pair]:
        pairs = self.section(top, "sweep", shape="{axes: {seed: 1..4}}")
        self.known(pairs, OF_SWEEP, "a sweep")
        return {
            key: Pair(p.key, self.plain(p.value, "a sweep"))
            for key, p in pairs.items()
            if key in OF_SWEEP
        }

    def name(self, word: Word, what: str) -> None:
        if not NAME.fullmatch(word.value):
            nearest_key = re.sub(r"[^\w-]+", "_", word.value).strip("_-").lstrip("0123456789-_")
            self.report(
                "bad-name",
                f"'{word.value}' is not a valid name of {what}",
                word.mark,
                why=(
                    "a name starts with a letter or '_' and continues with letters, digits, '_'"
                    " and '-'"
                ),
                fix=f"write '{nearest_key}'" if nearest_key and NAME.fullmatch(nearest_key) else "",
            )

    def input(self, pair: Pair) -> InputSpec:
        self.name(pair.key, "an input")
        word = pair.value
        if not isinstance(word.value, dict):
            word = self.plain(word, "the default of an input")
            return InputSpec(pair.key, None, {"default": Pair(pair.key, word)}, True)
        pairs = word.value
        self.known(pairs, OF_INPUT, "an input")
        options = {
            key: Pair(p.key, self.plain(p.value, "an input"))
            for key, p in pairs.items()
            if key in OF_INPUT
        }
        type_ = options.pop("type", None)
        if (
            type_ is None
            and "default" not in options
            and not any(
                _nearest(key, OF_INPUT) in ("type", "default") for key in list(pairs)[:MAX_PROBLEMS]
            )
        ):
            self.report(
                "missing-key",
                f"input '{pair.key.value}' has neither type nor default",
                pair.key.mark,
                fix="write {type: text}, or a value that is its default",
            )
        self.text(options, "help")
        kind = type_.value if type_ else None
        if kind is None and "default" not in options:
            kind = pair.key.unreadable
        return InputSpec(pair.key, kind, options, False)

    def node(self, pair: Pair) -> NodeSpec:
        self.name(pair.key, "a node")
        pairs = pair.value.value
        if not isinstance(pairs, dict):
            if pairs is not UNREADABLE:
                self.report(
                    "bad-shape",
                    f"a node must be a mapping with its type, not {_kind(pair.value)}",
                    pair.value.mark,
                    fix=f"write {pair.key.value}: {{type: …}}",
                )
            return NodeSpec(pair.key, pair.value.unreadable, {}, {})
        if "type" in pairs:
            type_ = self.plain(pairs["type"].value, "the type of a node")
            if not isinstance(type_.value, str | Unreadable):
                self.report(
                    "bad-shape",
                    f"the type of a node must be text, not {_kind(type_)}",
                    type_.mark,
                    fix="write the name of a node type, such as image.resize",
                )
                type_ = type_.unreadable
        else:
            nearest_key = self.nearest_key("type", pairs)
            self.report(
                "missing-key",
                f"node '{pair.key.value}' has no type",
                pairs[nearest_key].key.mark if nearest_key else pair.key.mark,
                fix=f"did you mean 'type' instead of '{nearest_key}'?"
                if nearest_key
                else "write type: …",
            )
            type_ = pair.key.unreadable
        arguments = {key: p for key, p in pairs.items() if key not in RESERVED}
        reserved = {key: p for key, p in pairs.items() if key in RESERVED and key != "type"}
        return NodeSpec(pair.key, type_, arguments, reserved)

    def output(self, pair: Pair) -> OutputSpec | None:
        self.name(pair.key, "an output")
        word = pair.value
        if not isinstance(word.value, dict):
            return OutputSpec(pair.key, self.reference(word), {})
        pairs = word.value
        self.known(
            pairs, (*OF_OUTPUT, *OF_FORMAT), "an output", required="from", mark=pair.key.mark
        )
        source = self.reference(pairs["from"].value) if "from" in pairs else pair.key.unreadable
        options = {
            key: Pair(p.key, self.plain(p.value, "an option of an output"))
            for key, p in pairs.items()
            if key in OF_OUTPUT[1:] or key in OF_FORMAT
        }
        self.text(options, "path")
        for key, allowed in CHOICES.items():
            value = options[key].value.value if key in options else allowed[0]
            if value not in allowed and value is not UNREADABLE:
                shown = f"'{value}'" if isinstance(value, str) else _kind(options[key].value)
                self.report(
                    "bad-literal",
                    f"'{key}' must be one of {', '.join(allowed)}, not {shown}",
                    options.pop(key).value.mark,
                    fix=nearest(str(value)[:100], allowed),
                )
        return OutputSpec(pair.key, source, options)

    def reference(self, word: Word) -> Word:
        if isinstance(word.value, Reference | Unreadable):
            return word
        written = (
            f'write "${{{word.value}}}"'
            if isinstance(word.value, str) and NAME.fullmatch(word.value)
            else 'write "${node}"'
        )
        self.report(
            "bad-reference",
            "an output must be one reference, not"
            f" {'text around it' if isinstance(word.value, Template) else _kind(word)}",
            word.mark,
            fix=written,
        )
        return word.unreadable

    def text(self, options: dict[str, Pair], key: str) -> None:
        if key in options and not isinstance(options[key].value.value, str | Unreadable):
            word = options.pop(key).value
            self.report(
                "bad-literal",
                f"'{key}' must be text, not {_kind(word)}",
                word.mark,
                fix="quote it" if not isinstance(word.value, dict | tuple) else "",
            )

    def plain(self, word: Word, what: str) -> Word:
        """Refuse references where nothing has been computed yet; a value that contains one becomes
        UNREADABLE.
        """
        stack = [word]
        found = False
        while stack:
            value = stack.pop().value
            if isinstance(value, dict):
                stack += [p.value for p in value.values()]
            elif isinstance(value, tuple):
                stack += value
            elif isinstance(value, Reference | Template):
                found = True
                first = (
                    value
                    if isinstance(value, Reference)
                    else next(p for p in value.parts if isinstance(p, Reference))
                )
                fix = (
                    "write {name} for an input in a path"
                    if "output" in what
                    else "write '$${' for literal characters, or refer to it in a node"
                )
                self.report(
                    "bad-reference",
                    f"{what} cannot contain a reference",
                    first.mark,
                    why=(
                        "references are allowed in the arguments of nodes and in the 'from' of"
                        " outputs"
                    ),
                    fix=fix,
                )
            elif value is UNREADABLE:
                found = True
        return word.unreadable if found else word

    def clashes(self, inputs: dict[str, InputSpec], nodes: dict[str, NodeSpec]) -> None:
        for key in nodes.keys() & inputs.keys():
            first, second = sorted(
                (inputs[key].name.mark, nodes[key].name.mark), key=lambda m: (m.line, m.column)
            )
            self.report(
                "name-clash",
                f"an input and a node are both named '{key}'",
                second,
                why=f"'${{{key}}}' could mean either; the other is in line {first.line}",
                fix="rename one of them",
            )
