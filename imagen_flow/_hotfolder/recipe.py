"""Combine a line with its graph: the resolved graph, values for its inputs, and the inputs that
tickets may set. If a `Recipe` exists, line and graph fit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .._graph import FileNames, FromInput, Graph, readings, resolve
from .._outputs.formats import options_of
from .._outputs.templates import check_template, is_whole
from .._plugins.registry import Registry
from .._run.recorder import graphs_of
from .._system.dataclass import dataclass
from .._text.spec import read
from .._types.digest import canonical, tagged
from .._types.ports import BadValue, PortType
from ..errors import GraphError, Mark, Problem, nearest
from .config import Line
from .ticket import read_value

__all__ = ["Recipe", "describe_name_clashes", "make_recipe"]

#: The path field for the file's ending, in addition to those that every graph may use.
ENDING = "ending"


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """What is done with each file: a graph, the input that receives the file, values of other
    inputs, and the inputs that tickets may set.
    """

    line: Line
    graph: Graph
    registry: Registry
    input: str
    values: dict[str, Any]
    allowed: frozenset[str]
    #: Digest of everything that decides the outputs, except for the file, its ticket, models and
    #: plugins.
    digest: str


def make_recipe(line: Line, registry: Registry) -> Recipe:
    """Resolve a line's graph and check the line against it.

    Raises:
        GraphError: the problems of the graph, or of the line's use of it.
    """
    graph = resolve(read(line.graph, name=str(line.graph)), registry)
    problems: list[Problem] = []

    def add_problem(code: str, message: str, mark: Mark, why: str = "", fix: str = "") -> None:
        problems.append(Problem(code, message, mark, why, fix))

    graph_mark = line.marks["graph"]
    files = [
        name for name, declared_input in graph.inputs.items() if declared_input.type.kind == "file"
    ]
    file_input = line.input or (files[0] if len(files) == 1 else "")
    if not file_input:
        add_problem(
            "missing-key",
            "a line needs 'input'",
            graph_mark,
            f"the graph has {'no input' if not files else f'{len(files)} inputs'} of type file",
            f"write input: {files[0]}" if files else "give the graph an input of type file",
        )
    elif file_input not in graph.inputs:
        add_problem(
            "unknown-input",
            f"the graph has no input '{file_input}'",
            line.marks["input"],
            fix=nearest(file_input, graph.inputs, what="its inputs are"),
        )
    elif file_input not in files:
        add_problem(
            "type-mismatch",
            f"input '{file_input}' is {graph.inputs[file_input].type}, not a file",
            line.marks["input"],
            fix=f"inputs of type file are: {', '.join(files)}" if files else "",
        )
    values: dict[str, Any] = {}
    for name, pair in line.values.items():
        if name not in graph.inputs:
            add_problem(
                "unknown-input",
                f"the graph has no input '{name}'",
                pair.key.mark,
                fix=nearest(name, graph.inputs, what="its inputs are"),
            )
        elif name == file_input:
            add_problem(
                "bad-input",
                f"'{name}' receives the file",
                pair.key.mark,
                "as 'input' says",
                "remove it from 'set'",
            )
        else:
            try:
                values[name] = read_value(
                    pair.value, graph.inputs[name].type, base=line.path.parent
                )
            except BadValue as error:
                add_problem(
                    "bad-input",
                    f"input '{name}' {error}",
                    pair.value.mark,
                    fix=nearest(error.given, error.known) if error.known else "",
                )
    model_inputs = set(_model_inputs(graph))
    plain_inputs = {
        name
        for name, declared_input in graph.inputs.items()
        if _is_plain(declared_input.type) and name not in model_inputs and name != file_input
    }
    for name in line.allow or ():
        mark = line.marks["allow"]
        if name not in graph.inputs:
            add_problem(
                "unknown-input",
                f"the graph has no input '{name}'",
                mark,
                fix=nearest(name, graph.inputs, what="its inputs are"),
            )
        elif name in model_inputs:
            add_problem(
                "bad-input",
                f"a ticket may not set '{name}'",
                mark,
                "it chooses a model, and tickets are not trusted",
                "set it in 'set'",
            )
        elif name == file_input:
            add_problem("bad-input", f"a ticket may not set '{name}'", mark, "it receives the file")
    allowed = frozenset(
        () if line.ticket == "none" else plain_inputs if line.allow is None else line.allow
    )
    for name, declared in graph.inputs.items():
        has_value = (
            declared.default is not None
            or declared.type.optional
            or name in line.values
            or name == file_input
            or (name in allowed and line.ticket == "required")
        )
        if not has_value and (
            file_input in files or name not in files
        ):  # otherwise 'input' has been reported already
            add_problem(
                "missing-input",
                f"input '{name}' ({declared.type}) of the graph has no value",
                graph_mark,
                declared.help,
                f"write set: {{{name}: …}}, or write ticket: required and let each ticket set it",
            )
    graph = _with_paths(graph, line, add_problem)
    if not problems and not any(o.path for o in graph.outputs.values()):
        add_problem(
            "no-outputs",
            "the graph writes no files",
            graph_mark,
            "none of its outputs has a path",
            f'write outputs: {{{next(iter(graph.outputs))}: "{{item}}.png"}}',
        )
    if problems:
        raise GraphError(problems)
    sources = [
        part
        for name, inner in sorted(graphs_of(graph).items())
        for part in (name.encode(), inner.spec.source.text.encode("utf-8", "surrogatepass"))
    ]
    paths = {name: output.path for name, output in graph.outputs.items()}
    digest = tagged(
        "line",
        *sources,
        canonical(
            [file_input, sorted((n, str(v)) for n, v in values.items()), sorted(paths.items())]
        ),
    )
    return Recipe(line, graph, registry, file_input, values, allowed, digest)


def _with_paths(graph: Graph, line: Line, add_problem: Any) -> Graph:
    outputs = dict(graph.outputs)
    fields = [ENDING, *(name for name, i in graph.inputs.items() if i.type.is_scalar)]
    for name, pair in line.outputs.items():
        path = pair.value.value
        if name not in outputs:
            add_problem(
                "unknown-output",
                f"the graph has no output '{name}'",
                pair.key.mark,
                fix=nearest(name, outputs, what="its outputs are"),
            )
        elif not isinstance(path, str):
            add_problem(
                "bad-path", "a path is text", pair.value.mark, fix='write one such as "{item}.png"'
            )
        else:
            output = outputs[name]
            files = FileNames(graph.inputs, graph.nodes, output.source, output.type)
            if error := check_template(path, fields=fields, type=output.type, files=files):
                add_problem("bad-path", error.message, pair.value.mark, error.why, error.fix)
            elif other := sorted(output.options.keys() - _options_of(path, output.type)):
                add_problem(
                    "bad-setting",
                    f"the graph gives '{other[0]}' for '{name}', which this file has not got",
                    pair.value.mark,
                    fix="use the file extension of the graph, or remove the option there",
                )
            else:
                whole = is_whole(path, output.type, files)
                outputs[name] = replace(output, path=path, files=files.used(path), whole=whole)
    return replace(graph, outputs=outputs)


def _options_of(path: str, type_: PortType) -> set[str]:
    return set(options_of(os.path.splitext(path)[1].lower(), type_))


def describe_name_clashes(recipe: Recipe) -> str:
    """Describe, on one line, which outputs of two different files would have the same name, so that
    the second fails or replaces the first; empty if none would.
    """
    line = recipe.line
    endings = {os.path.splitext(pattern)[1].lower() or pattern for pattern in line.accept}
    example = ""
    if len(endings) > 1 or any(set(ending) & set("*?[") for ending in endings):
        literal = sorted(
            (e for e in endings if e.startswith(".") and not set(e) & set("*?[")),
            key=lambda e: (e not in (".jpg", ".tif"), e),
        )
        first, second = [*literal, *(e for e in (".jpg", ".tif") if e not in literal)][:2]
        example = f"x{first} and x{second}"
    elif line.folders == "flattened":
        ending = next(iter(endings))
        example = f"a/x{ending} and b/x{ending}"
    clashing = []
    for name, output in recipe.graph.outputs.items():
        if not output.path or output.exists == "number":
            continue
        used = {field for field in (ENDING, "digest8") if f"{{{field}}}" in output.path}
        if "digest8" in used or (ENDING in used and (line.folders != "flattened")):
            continue
        clashing.append(name)
    if not example or not clashing:
        return ""
    fails = all(recipe.graph.outputs[name].exists != "replace" for name in clashing)
    paths = ", ".join(
        f'{name}: "{{item}}.{{ending}}{os.path.splitext(recipe.graph.outputs[name].path or "")[1]}"'
        for name in clashing
    )
    fix = (
        f"write outputs: {{{paths}}}"
        if example.startswith("x")
        else "put {digest8} into their paths, or write folders: kept"
    )
    result = "fails" if fails else "replaces the first"
    return (
        f"outputs of {example} would have the same name ({', '.join(clashing)}), so the second"
        f" {result}; {fix}"
    )


def _is_plain(type_: PortType) -> bool:
    return type_.is_scalar or (
        type_.kind == "list" and type_.element is not None and type_.element.is_scalar
    )


def _model_inputs(graph: Graph) -> Iterator[str]:
    """List the inputs of a graph that choose a model, here or in a graph that it uses as a node."""
    for node in graph.nodes.values():
        inner = set(_model_inputs(node.type)) if isinstance(node.type, Graph) else set()
        for port, binding in node.bindings.items():
            type_ = node.inputs[port].type
            if port in inner or any(
                one.kind == "model"
                for one in (type_, type_.element, *type_.members)
                if one is not None
            ):
                yield from (read.name for read in readings(binding) if isinstance(read, FromInput))
