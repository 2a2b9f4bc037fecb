"""Bind the words of one file to ports: literals are checked, references looked up and their types
compared.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from .._models import BadReference, parse_reference
from .._text.spec import UNREADABLE, GraphSpec, NodeSpec, Pair, Reference, Template, Word
from .._types.node import NodeType
from .._types.ports import BadValue, PortType, Record, describe, fits
from ..errors import MAX_PROBLEMS, Mark, Problem, nearest
from .bindings import (
    Binding,
    ElementOf,
    FileAt,
    FromInput,
    FromNode,
    Given,
    Joined,
    Listed,
    Mapped,
    ModelAt,
    PerElement,
    RecordOf,
    sizing,
)
from .graph import ROUNDS, Graph, Input
from .suggestions import (
    mend_edge,
    mend_literal,
    only_suggestion,
    plain,
    reference_text,
    suggest,
    suggest_record,
)

__all__ = ["Binder"]

_ANY = PortType("json")
_TEXT = PortType("text")


class Binder:
    """Binds the words of one file; what does not fit is a problem.

    `inputs` and `types` are filled by the resolver, in this order: an input's default refers to
    nothing, and an edge asks for the type of the node that it comes from.
    """

    def __init__(self, spec: GraphSpec, problems: list[Problem]) -> None:
        self.spec = spec
        self.folder = spec.path.parent if spec.path else Path()
        self.problems = problems
        self.inputs: dict[str, Input] = {}
        #: Node types by node; None where it is not known: then it says nothing about its outputs,
        # and references to it are not judged.
        self.types: dict[str, NodeType | Graph | None] = {}
        self.used_inputs: set[str] = set()
        #: How many lists deep nodes with `each` run, as far as it was asked.
        self._depths: dict[str, int] = {}

    def say(
        self,
        code: str,
        message: str,
        mark: Mark | None,
        why: str = "",
        fix: str = "",
        severity: str = "error",
    ) -> None:
        self.problems.append(Problem(code, message, mark, why, fix, severity))

    def nearest(self, word: str, candidates: Iterable[str], *, what: str = "") -> str:
        """Say how to mend an unknown word, as long as anybody will read it."""
        return "" if len(self.problems) >= MAX_PROBLEMS else nearest(word, candidates, what=what)

    def take(self, pair: Pair, port: PortType, what: str, found: dict[str, Any], name: str) -> None:
        try:
            found[name] = port.check(plain(pair.value))
        except BadValue as error:
            self.say(
                "bad-literal",
                f"{what} {error}",
                pair.value.mark,
                fix=self.nearest(error.given, error.known) if error.known else "",
            )

    def bind(self, word: Word, port: PortType, what: str) -> Binding | None:
        """Bind a word to a port of this type; None if it does not fit (the problem is recorded)."""
        value = word.value
        if value is UNREADABLE:
            return None  # the reader of the text has said why
        if port.record is not None:
            return self.record(word, port.record, port, what)
        if type(value) is Reference:
            return self.edge(value, port, what)
        if type(value) is Template:
            return self.template(word, value, port, what)
        if type(value) is tuple:
            return self.list_(word, value, port, what)
        if type(value) is dict:
            if port.kind in ("json", "any") or any(m.kind == "json" for m in port.members):
                items = [(k, self.bind(p.value, _ANY, what)) for k, p in value.items()]
                if any(b is None for _, b in items):
                    return None
                literals = {k: b.value for k, b in items if isinstance(b, Given)}
                if len(literals) == len(items):
                    return Given(literals)
                return Mapped(tuple((k, b) for k, b in items if b is not None))
            self.scan(word)
        return self.literal(word, value, port, what)

    def record(
        self, word: Word, record: Record, port: PortType, what: str, *, per_element: bool = False
    ) -> Binding | None:
        """Bind a record: a mapping of its fields, or a value that stands for the first.

        Params:
            per_element: a field may be given a list, to go through with `each`.
        """
        value = word.value
        if value is None and port.optional:
            return Given(None)
        if not isinstance(value, dict):
            return self._bare(word, record, port, what)
        is_whole = True
        bound: dict[str, Binding] = {}
        for name, pair in value.items():
            field = record.fields.get(name)
            if field is None:
                is_whole = False
                self.say(
                    "unknown-key",
                    f"{what} has no field '{name}'",
                    pair.key.mark,
                    why=f"its fields are: {', '.join(record.fields)}",
                    fix=only_suggestion(self.nearest(name, record.fields)),
                )
                self.scan(pair.value)
                continue
            of_field = f"field '{name}' of {what}"
            binding: Binding | None
            if per_element and self._goes_through(pair.value, field.type):
                lists = self.bind(pair.value, PortType("list", element=field.type), of_field)
                binding = None if lists is None else ElementOf(lists)
            else:
                binding = self.bind(pair.value, field.type, of_field)
            is_whole = is_whole and binding is not None
            if binding is not None:
                bound[name] = binding
        meant = {
            close
            for name in value.keys() - record.fields.keys()
            for close in difflib.get_close_matches(name, record.fields, n=1)
        }
        for field in record.fields.values():
            if field.required and field.name not in value.keys() | meant:
                is_whole = False
                self.say(
                    "missing-key",
                    f"{what} needs the field '{field.name}' ({field.type})",
                    word.mark,
                    why=f"its fields are: {', '.join(record.fields)}",
                    fix=suggest(field),
                )
        return RecordOf(tuple(sorted(bound.items()))) if is_whole else None

    def _bare(self, word: Word, record: Record, port: PortType, what: str) -> Binding | None:
        """Bind a value that stands for the first field of a record."""
        first = record.first
        if isinstance(word.value, tuple) and first.type.kind not in ("list", "json", "any"):
            self.scan(word)
            self.say(
                "bad-literal",
                f"{what} takes one {port.name}, not {describe(plain(word))}",
                word.mark,
                fix="remove the brackets"
                if len(word.value) == 1
                else f"write {suggest_record(record)}",
            )
            return None
        if not self._suffices(record, word.mark, what):
            self.scan(word)
            return None
        if isinstance(word.value, Reference):
            return self.edge(word.value, port, what)
        bound = self.bind(word, first.type, what)
        return None if bound is None else RecordOf(((first.name, bound),))

    def _suffices(self, record: Record | None, mark: Mark | None, what: str) -> bool:
        """Whether a value for the first field of a record is enough; says so if not."""
        if record is None or not record.beside_first:
            return True
        more = " and ".join(f"'{name}'" for name in record.beside_first)
        self.say(
            "missing-key",
            f"{what} needs the field{'s' if len(record.beside_first) > 1 else ''} {more} too",
            mark,
            why=f"a value that is not a mapping stands for the first field, '{record.first.name}'",
            fix=f"write {suggest_record(record)}",
        )
        return False

    def _goes_through(self, word: Word, field: PortType) -> bool:
        """Whether a field is given a list of what it takes."""
        of_lists = field.kind == "list" and not _takes_list(field.element)
        if isinstance(word.value, tuple):
            return not _takes_list(field) or (
                of_lists and bool(word.value) and all(type(w.value) is tuple for w in word.value)
            )
        if not isinstance(word.value, Reference):
            return False
        given = self._quietly(word.value)
        if given is None or given.kind != "list":
            return False
        return not _takes_list(field) or (of_lists and _takes_list(given.element))

    def depth(self, name: str) -> int:
        """Say how many lists deep a node with `each` runs: as deep as the deepest of its lists. It
        depends on the nodes that these come from, however long the chain is.
        """
        pending = [name]
        seen: set[str] = set()
        while pending:
            current = pending[-1]
            written = self.spec.nodes[current]
            lists = self._each(written)
            needs = [
                reference.name
                for pair in lists.values()
                for reference in _references(pair.value)
                if reference.name in self.spec.nodes
                and "each" in self.spec.nodes[reference.name].reserved
                and reference.name not in self._depths
                and reference.name not in seen  # a cycle, which is reported as such
            ]
            if needs and current not in seen:
                seen.add(current)
                pending += needs
                continue
            pending.pop()
            if current not in self._depths:
                self._depths[current] = 1  # in a cycle
                self._depths[current] = max(
                    (self.depth_of(written, port) for port in lists), default=1
                )
        return self._depths[name]

    def _each(self, written: NodeSpec) -> dict[str, Pair]:
        pair = written.reserved.get("each")
        return pair.value.value if pair is not None and isinstance(pair.value.value, dict) else {}

    def depth_of(self, written: NodeSpec, port: str) -> int:
        """Say how many lists deep `each` goes for a port: until what is left fits it."""
        type_ = self.types[written.name.value]
        ports = (
            {} if type_ is None else type_.inputs if isinstance(type_, NodeType) else type_.ports
        )
        pair = self._each(written).get(port)
        wanted = ports[port].type if port in ports else None
        if pair is None or wanted is None or wanted.innermost_record is not None:
            return 1
        own = _levels(wanted)
        return 1 if own is None else max(1, self._nesting(pair.value) - own)

    def _nesting(self, word: Word) -> int:
        """Count how many lists are around the values of what is written."""
        if isinstance(word.value, tuple):
            return 1 + max(map(self._nesting, word.value), default=0)
        if not isinstance(word.value, Reference):
            return 0
        found, levels = self._quietly(word.value), 0
        while found is not None and found.kind == "list":
            found, levels = found.element, levels + 1
        return levels

    def _quietly(self, reference: Reference) -> PortType | None:
        """Give the type of what a reference names; what is wrong with it is said when it is bound."""
        problems, used = list(self.problems), set(self.used_inputs)
        found = self.look_up(reference)
        self.problems[:], self.used_inputs = problems, used
        return None if found is None else found[1]

    def per_element(self, word: Word, port: PortType, what: str, depth: int) -> Binding | None:
        """Bind what `each` gives to a port: a list of its values, so many lists deep; or, for a port
        of records, what one element gets, written once with lists for some of its fields.
        """
        value = word.value
        if port.record is not None and isinstance(value, dict):
            bound = self.record(word, port.record, port, what, per_element=True)
        elif (
            port.element is not None
            and port.element.record is not None
            and isinstance(value, tuple)
            and any(isinstance(item.value, dict) for item in value)
        ):
            items = [
                self.record(
                    item,
                    port.element.record,
                    port.element,
                    f"element {i} of {what}",
                    per_element=True,
                )
                for i, item in enumerate(value)
            ]
            whole = tuple([item for item in items if item is not None])
            bound = Listed(whole) if len(whole) == len(items) else None
        else:
            lists = port
            for _ in range(depth):
                lists = PortType("list", element=lists)
            return self.bind(word, lists, what)
        if bound is None:
            return None
        if not any(sizing(PerElement(bound))):
            self.say(
                "bad-shape",
                f"{what} needs a list",
                word.mark,
                why="the node runs once for each element of a list, but no field is a list",
                fix="move it out of 'each', or set a field to a list",
            )
            return None
        return PerElement(bound)

    def literal(self, word: Word, value: Any, port: PortType, what: str) -> Binding | None:
        if isinstance(value, str):
            kinds = (port.kind, *(m.kind for m in port.members))
            if "text" not in kinds and "json" not in kinds:
                for kind in kinds:
                    if kind in ("file", "folder"):
                        return self.path(word, value, kind)
                    if kind == "model":
                        return self.model(word, value, port)
        try:
            return Given(port.check(plain(word) if isinstance(value, dict) else value))
        except BadValue as error:
            fix = (
                self.nearest(error.given, error.known)
                if error.known
                else (self.meant(value) if isinstance(value, str) else "")
                or mend_literal(value, port)
            )
            self.say("bad-literal", f"{what} {error}", word.mark, fix=fix)
            return None

    def path(self, word: Word, text: str, kind: str) -> Binding | None:
        if not text.strip() or "\0" in text:
            self.say("bad-literal", f"a path of a {kind} is not {describe(text)}", word.mark)
            return None
        return FileAt(text, kind, self.folder, word.mark)

    def model(self, word: Word, text: str, port: PortType) -> Binding | None:
        try:
            parse_reference(text)
        except BadReference as error:
            self.say("bad-model", str(error), word.mark, fix=self.meant(text) or error.fix)
            return None
        return ModelAt(text, self.folder, word.mark, port.loader)

    def list_(
        self, word: Word, words: tuple[Word, ...], port: PortType, what: str
    ) -> Binding | None:
        target = port
        if port.kind == "union":
            target = next((m for m in port.members if m.kind in ("list", "json")), port)
        element = (
            _ANY
            if target.kind in ("json", "any")
            else target.element
            if target.kind == "list"
            else None
        )
        if element is None:
            self.scan(word)
            return self.literal(word, [plain(w) for w in words], port, what)
        items = [self.bind(w, element, f"element {i} of {what}") for i, w in enumerate(words)]
        if any(i is None for i in items):
            return None
        literals = [i.value for i in items if isinstance(i, Given)]
        if len(literals) == len(items):
            return Given(literals)
        return Listed(tuple(i for i in items if i is not None))

    def template(self, word: Word, template: Template, port: PortType, what: str) -> Binding | None:
        if not fits(_TEXT, port) or port.choices:
            kind = port.name
            self.scan(word)
            self.say(
                "type-mismatch",
                f"{what} takes {port.words}, not text with inserted values",
                word.mark,
                why=(
                    "a path cannot be assembled from values: a value could then choose which file"
                    " is read"
                    if kind in ("file", "folder")
                    else ""
                ),
            )
            return None
        parts: list[str | FromInput | FromNode] = []
        for part in template.parts:
            if isinstance(part, str):
                parts.append(part)
                continue
            found = self.look_up(part)
            if found is None:
                return None
            binding, type_ = found
            if type_ is not None and type_.kind not in (
                "text",
                "int",
                "float",
                "number",
                "bool",
                "any",
            ):
                self.say(
                    "bad-template",
                    f"${{{reference_text(part)}}} is {type_}, which cannot be inserted into text",
                    part.mark,
                    why="only text, numbers and booleans can be inserted into text",
                    fix="make it the whole value, or convert it to text with a node",
                )
                return None
            parts.append(binding)
        return Joined(tuple(parts))

    def edge(self, reference: Reference, port: PortType, what: str) -> Binding | None:
        found = self.look_up(reference)
        if found is None:
            return None
        binding, source = found
        if source is None or fits(source, port):
            if port.element is not None and not self._suffices(
                port.element.record, reference.mark, f"each element of {what}"
            ):
                return None
            return binding
        if isinstance(binding, FromInput) and fits(source, _named(port)):
            return binding  # an input may name a model, as text; a node may not
        name = reference_text(reference)
        if (
            source.kind == "list"
            and source.element is not None
            and (port.kind != "list" or source.element.kind == "list")
            and fits(source.element, port)
        ):
            port_name = what.split("'")[1] if "'" in what else "port"
            whole = f'to pass that list itself, write "${{{name}}}" without brackets'
            self.say(
                "list-into-single",
                f"${{{name}}} is {source}, and {what} takes one"
                f" {port.name if port.kind != 'list' else port}",
                reference.mark,
                fix="go through lists with 'each'; 'when' may be as deep as these, not deeper"
                if what.endswith("'when'")
                else whole
                if what.startswith("element ")
                else ""
                if "'each' of " in what  # a field of a record goes through one list
                else f"run the node for each element: each: {{{_nested(port_name, name, what)}}}",
            )
            return None
        self.say(
            "type-mismatch",
            f"${{{name}}} is {source}, and {what} takes {port}",
            reference.mark,
            why=self.both_sides(reference),
            fix=mend_edge(source, port, name),
        )
        return None

    def both_sides(self, reference: Reference) -> str:
        type_ = self.types.get(reference.name)
        if type_ is None:
            return ""
        outputs = ", ".join(f"{p.name} ({p.type})" for p in type_.outputs.values())
        return f"outputs of '{reference.name}': {outputs}"

    def look_up(self, reference: Reference) -> tuple[FromInput | FromNode, PortType | None] | None:
        """Find what a reference names: its binding and type. The type is None where the node's own
        type is not known.
        """
        name = reference.name
        if name in self.spec.nodes and name in self.spec.inputs:
            self.used_inputs.add(
                name
            )  # that both have the name has been said, and which is meant is not known
            return FromInput(name), None
        if name in self.spec.nodes:
            type_ = self.types[name]
            if type_ is None:
                return FromNode(name, reference.port or ""), None
            port = reference.port or type_.primary
            spec = self.spec.nodes[name].reserved
            repeat = spec["repeat"].value.value if "repeat" in spec else None
            output = type_.outputs.get(port)
            if output is None and port == ROUNDS and isinstance(repeat, dict) and "until" in repeat:
                rounds = PortType("int")
                return FromNode(name, port), self._in_lists(name, rounds)
            if output is None:
                self.say(
                    "unknown-output",
                    f"node '{name}' has no output '{port}'",
                    reference.mark,
                    fix=self.nearest_output(name, port, type_),
                )
                return None
            repeated = "repeat" in spec and not (isinstance(repeat, dict) and "keep" in repeat)
            given = PortType("list", element=output.type) if repeated else output.type
            return FromNode(name, port), self._in_lists(name, given)
        if name in self.spec.inputs:
            self.used_inputs.add(name)
            if reference.port is not None:
                self.say(
                    "unknown-output",
                    f"'{name}' is an input, which has no outputs",
                    reference.mark,
                    fix=f'write "${{{name}}}"',
                )
                return None
            found = self.inputs.get(name)
            return FromInput(name), found.type if found else None
        known = chain(self.spec.inputs, self.spec.nodes)
        self.say(
            "unknown-reference",
            f"there is no node or input '{name}'",
            reference.mark,
            fix=self.nearest(name, known, what="there are"),
        )
        return None

    def _in_lists(self, name: str, type_: PortType) -> PortType:
        """Give the type of an output of a node with its lists of `each`."""
        if "each" in self.spec.nodes[name].reserved:
            for _ in range(self.depth(name)):
                type_ = PortType("list", element=type_)
        return type_

    def nearest_output(self, name: str, port: str, type_: NodeType | Graph) -> str:
        """Say how to mend a reference to an output that a node has not: a node's only output needs
        no name.
        """
        return (
            f'write "${{{name}}}": it has one output'
            if len(type_.outputs) == 1
            else self.nearest(port, type_.outputs, what="its outputs are")
        )

    def meant(self, text: str) -> str:
        """Say how to refer to what a text names, if it names a node or an input."""
        name, _, port = text.strip().strip("${} ").partition(".")
        if name not in self.spec.nodes and (port or name not in self.spec.inputs):
            return ""
        type_ = self.types.get(name)
        return (
            f'write "${{{name}.{port}}}"'
            if port and type_ is not None and len(type_.outputs) > 1
            else f'write "${{{name}}}"'
        )

    def scan(self, word: Word) -> None:
        """Look up the references in something that is not bound, so that their problems are shown
        too.
        """
        value = word.value
        if isinstance(value, Reference):
            self.look_up(value)
        elif isinstance(value, Template):
            for part in value.parts:
                if isinstance(part, Reference):
                    self.look_up(part)
        elif isinstance(value, tuple):
            for item in value:
                self.scan(item)
        elif isinstance(value, dict):
            for pair in value.values():
                self.scan(pair.value)


def _levels(type_: PortType) -> int | None:
    """Count the lists of a type; None if it may be any number of them."""
    if type_.kind in ("json", "any") or any(_levels(m) != 0 for m in type_.members):
        return None
    if type_.kind != "list" or type_.element is None:
        return 0
    inner = _levels(type_.element)
    return None if inner is None else 1 + inner


def _references(word: Word) -> Iterator[Reference]:
    """Give the references of a list, at any depth."""
    pending = [word]
    while pending:
        value = pending.pop().value
        if isinstance(value, Reference):
            yield value
        elif isinstance(value, tuple):
            pending += value


def _takes_list(port: PortType | None) -> bool:
    return port is not None and (
        port.kind in ("list", "json", "any") or any(map(_takes_list, port.members))
    )


def _nested(port: str, reference: str, what: str) -> str:
    """Spell what `each` is given: the port itself, or a field of the record that it takes."""
    quoted = what.split("'")
    if what.startswith("field '") and len(quoted) > 3:
        record = f'{{{port}: "${{{reference}}}", …}}'
        return f"{quoted[3]}: {f'[{record}]' if ' of element ' in what else record}"
    return f'{port}: "${{{reference}}}"'


def _named(port: PortType) -> PortType:
    """Put texts in the place of models."""
    if port.record is not None:
        return _named(port.record.first.type)
    if port.kind == "list" and port.element is not None:
        return PortType("list", element=_named(port.element))
    return _TEXT if port.kind == "model" else port
