"""Bring a line and its graph together: the graph resolved, what each item may set, and values for
the rest. If it exists, it fits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .._graph import FromInput, Graph, readings, resolve
from .._outputs.writer import check_template
from .._plugins.registry import Registry
from .._run.recorder import graphs_of
from .._text.spec import read
from .._types.digest import canonical, tagged
from .._types.ports import BadValue, PortType
from ..errors import GraphError, Mark, Problem, nearest
from .config import Line
from .ticket import read_value

__all__ = ["Recipe", "clashes", "prepare"]

#: The field of a path that stands for the ending of the file, beside those that every graph may
#: use.
ENDING = "ending"


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What is done with each file: a graph, the input that receives it, values of others, and the
    inputs that its ticket may set.
    """

    line: Line
    graph: Graph
    registry: Registry
    input: str
    values: dict[str, Any]
    allowed: frozenset[str]
    #: Of all that decides what comes out, but for the file, its ticket, models and plugins.
    digest: str


def prepare(line: Line, registry: Registry) -> Recipe:
    """Resolve a line's graph and check the line against it.

    Raises:
        GraphError: the problems of the graph, or of what the line says of it.
    """
    graph = resolve(read(line.graph, name=str(line.graph)), registry)
    problems: list[Problem] = []

    def say(code: str, message: str, mark: Mark, why: str = "", fix: str = "") -> None:
        problems.append(Problem(code, message, mark, why, fix))

    here = line.marks["graph"]
    files = [name for name, i in graph.inputs.items() if i.type.kind == "file"]
    input_ = line.input or (files[0] if len(files) == 1 else "")
    if not input_:
        say(
            "missing-key",
            "a line needs 'input'",
            here,
            f"the graph has {'no input' if not files else f'{len(files)} inputs'} of type file",
            f"write input: {files[0]}" if files else "give the graph an input of type file",
        )
    elif input_ not in graph.inputs:
        say(
            "unknown-input",
            f"the graph has no input '{input_}'",
            line.marks["input"],
            fix=nearest(input_, graph.inputs, what="its inputs are"),
        )
    elif input_ not in files:
        say(
            "type-mismatch",
            f"input '{input_}' is {graph.inputs[input_].type}, not a file",
            line.marks["input"],
            fix=f"inputs of type file are: {', '.join(files)}" if files else "",
        )
    values: dict[str, Any] = {}
    for name, pair in line.values.items():
        if name not in graph.inputs:
            say(
                "unknown-input",
                f"the graph has no input '{name}'",
                pair.key.mark,
                fix=nearest(name, graph.inputs, what="its inputs are"),
            )
        elif name == input_:
            say(
                "bad-input",
                f"'{name}' receives the file",
                pair.key.mark,
                "'input' says so",
                "leave it out of 'set'",
            )
        else:
            try:
                values[name] = read_value(
                    pair.value, graph.inputs[name].type, base=line.path.parent
                )
            except BadValue as odd:
                say(
                    "bad-input",
                    f"input '{name}' {odd}",
                    pair.value.mark,
                    fix=nearest(odd.given, odd.known) if odd.known else "",
                )
    choosing = set(_choosing_models(graph))
    usual = {
        name
        for name, i in graph.inputs.items()
        if _is_plain(i.type) and name not in choosing and name != input_
    }
    for name in line.allow or ():
        mark = line.marks["allow"]
        if name not in graph.inputs:
            say(
                "unknown-input",
                f"the graph has no input '{name}'",
                mark,
                fix=nearest(name, graph.inputs, what="its inputs are"),
            )
        elif name in choosing:
            say(
                "bad-input",
                f"a ticket may not set '{name}'",
                mark,
                "it chooses a model, and a ticket is anybody's text",
                "set it in 'set'",
            )
        elif name == input_:
            say("bad-input", f"a ticket may not set '{name}'", mark, "it receives the file")
    allowed = frozenset(
        () if line.ticket == "none" else usual if line.allow is None else line.allow
    )
    for name, wanted in graph.inputs.items():
        given = (
            wanted.default is not None
            or wanted.type.optional
            or name in line.values
            or name == input_
            or (name in allowed and line.ticket == "required")
        )
        if not given and (
            input_ in files or name not in files
        ):  # else what is wrong with 'input' has been said
            say(
                "missing-input",
                f"input '{name}' ({wanted.type}) of the graph is given nothing",
                here,
                wanted.help,
                f"write set: {{{name}: …}}, or say 'ticket: required' and let each ticket set it",
            )
    graph = _with_paths(graph, line, say)
    if not problems and not any(o.path for o in graph.outputs.values()):
        say(
            "no-outputs",
            "the graph writes no file",
            here,
            "none of its outputs has a path",
            f'write outputs: {{{next(iter(graph.outputs))}: "{{item}}.png"}}',
        )
    if problems:
        raise GraphError(problems)
    texts = [
        part
        for name, one in sorted(graphs_of(graph).items())
        for part in (name.encode(), one.spec.source.text.encode("utf-8", "surrogatepass"))
    ]
    paths = {name: output.path for name, output in graph.outputs.items()}
    digest = tagged(
        "line",
        *texts,
        canonical([input_, sorted((n, str(v)) for n, v in values.items()), sorted(paths.items())]),
    )
    return Recipe(line, graph, registry, input_, values, allowed, digest)


def _with_paths(graph: Graph, line: Line, say: Any) -> Graph:
    outputs = dict(graph.outputs)
    plain = [ENDING, *(name for name, i in graph.inputs.items() if i.type.is_scalar)]
    for name, pair in line.outputs.items():
        path = pair.value.value
        if name not in outputs:
            say(
                "unknown-output",
                f"the graph has no output '{name}'",
                pair.key.mark,
                fix=nearest(name, outputs, what="its outputs are"),
            )
        elif not isinstance(path, str):
            say("bad-path", "a path is text", pair.value.mark, fix='write one such as "{item}.png"')
        elif fault := check_template(path, fields=plain, type=outputs[name].type):
            say("bad-path", fault.message, pair.value.mark, fault.why, fault.fix)
        else:
            outputs[name] = replace(outputs[name], path=path)
    return replace(graph, outputs=outputs)


def clashes(recipe: Recipe) -> str:
    """Say in one line by which outputs two files of the line would come to one name, so that the
    second fails or replaces the first; nothing if none can.
    """
    line = recipe.line
    endings = {os.path.splitext(pattern)[1].lower() or pattern for pattern in line.accept}
    alike = ""
    if len(endings) > 1 or any(set(ending) & set("*?[") for ending in endings):
        plain = sorted(
            (e for e in endings if e.startswith(".") and not set(e) & set("*?[")),
            key=lambda e: (e not in (".jpg", ".tif"), e),
        )
        one, other = [*plain, *(e for e in (".jpg", ".tif") if e not in plain)][:2]
        alike = f"x{one} and x{other}"
    elif line.folders == "flattened":
        ending = next(iter(endings))
        alike = f"a/x{ending} and b/x{ending}"
    told = []
    for name, output in recipe.graph.outputs.items():
        if not output.path or output.exists == "number":
            continue
        used = {field for field in (ENDING, "digest8") if f"{{{field}}}" in output.path}
        if "digest8" in used or (ENDING in used and (line.folders != "flattened")):
            continue
        told.append(name)
    if not alike or not told:
        return ""
    fails = all(recipe.graph.outputs[name].exists != "replace" for name in told)
    paths = ", ".join(
        f'{name}: "{{item}}.{{ending}}{os.path.splitext(recipe.graph.outputs[name].path or "")[1]}"'
        for name in told
    )
    fix = (
        f"write outputs: {{{paths}}}"
        if alike.startswith("x")
        else "put {digest8} into their paths, or write folders: kept"
    )
    return (
        f"{alike} would have one name in 'out' ({', '.join(told)}), where the second"
        f" {'fails' if fails else 'replaces the first'}; {fix}"
    )


def _is_plain(type_: PortType) -> bool:
    return type_.is_scalar or (
        type_.kind == "list" and type_.element is not None and type_.element.is_scalar
    )


def _choosing_models(graph: Graph) -> Iterator[str]:
    """Name the inputs of a graph that choose a model, here or in a graph that it uses as a node."""
    for node in graph.nodes.values():
        inner = set(_choosing_models(node.type)) if isinstance(node.type, Graph) else set()
        for port, binding in node.bindings.items():
            type_ = node.inputs[port].type
            if port in inner or any(
                one.kind == "model"
                for one in (type_, type_.element, *type_.members)
                if one is not None
            ):
                yield from (read.name for read in readings(binding) if isinstance(read, FromInput))
