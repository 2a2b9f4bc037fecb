"""Text becomes a graph in which everything fits, or problems; the gallery in tests/problems shows
those one by one.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pytest

from imagen_flow import (
    File,
    Folder,
    GraphError,
    Image,
    Json,
    List,
    Model,
    Range,
    Seed,
    Value,
    loaders,
    node,
)
from imagen_flow._graph import (
    FileAt,
    FromInput,
    FromNode,
    Given,
    Graph,
    Joined,
    Listed,
    Mapped,
    ModelAt,
    Repeat,
    resolve,
)
from imagen_flow._plugins.registry import Registry
from imagen_flow._text import spec


class Loader(loaders.Loader[Any]):
    def load(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> object: ...


class Size(NamedTuple):
    width: int
    height: int


@node("t.number", version=1)
def number(value: int = 0) -> int: ...
@node("t.add", version=1)
def add(a: int, b: int = 0) -> int: ...
@node("t.real", version=1)
def real(a: float) -> float: ...
@node("t.say", version=1)
def say(words: str, mood: Literal["calm", "loud"] = "calm") -> str: ...
@node("t.size", version=1)
def size(image: Image) -> Size: ...
@node("t.solid", version=1)
def solid(side: Annotated[int, Range(1, 64)], seed: Seed = 0) -> Image: ...
@node("t.total", version=1)
def total(values: List[float]) -> float: ...
@node("t.load", version=1)
def load(file: File, folder: Folder | None = None, files: List[File] | None = None) -> Image: ...
@node("t.model", version=1)
def model(model: Model[Loader]) -> str: ...
@node("t.data", version=1)
def data(data: Json) -> Json: ...
@node("t.flag", version=1)
def flag() -> bool: ...
@node("t.any", version=1)
def any_(value: Value) -> Value: ...


def registry() -> Registry:
    made = Registry({})
    for function in (number, add, real, say, size, solid, total, load, model, data, flag, any_):
        made.add(function)
    return made


def graph_of(text: str, path: Path | None = None) -> Graph:
    return resolve(
        spec.parse("imagen_flow: 1\n" + textwrap.dedent(text), name="graph.yaml", path=path),
        registry(),
    )


def one(node_: str, inputs: str = "{}", path: Path | None = None) -> dict[str, Any]:
    """The bindings of a node that stands alone beside `p` (a picture), `n` (a number) and `f` (a
    flag).
    """
    return (
        graph_of(
            f"""
        inputs: {inputs}
        nodes:
          p: {{type: t.solid, side: 8}}
          n: {{type: t.number}}
          f: {{type: t.flag}}
          x: {node_}
        outputs: {{x: "${{x}}"}}
        """,
            path,
        )
        .nodes["x"]
        .bindings
    )


def problems(text: str, path: Path | None = None) -> list[str]:
    """Problems as code and message, with line and column."""
    with pytest.raises(GraphError) as refused:
        graph_of(text, path)
    return [
        f"{p.mark.line if p.mark else 0}:{p.mark.column if p.mark else 0} {p.code}: {p.message}"
        for p in refused.value.problems
    ]


@pytest.mark.parametrize(
    ("node_", "inputs", "bindings"),
    [
        ("{type: t.add, a: 1}", "{}", {"a": Given(1)}),
        ("{type: t.real, a: 1}", "{}", {"a": Given(1.0)}),
        (
            '{type: t.add, a: "${n}", b: "${n.value}"}',
            "{}",
            {"a": FromNode("n", "value"), "b": FromNode("n", "value")},
        ),
        ('{type: t.add, a: "${i}"}', "{i: 3}", {"a": FromInput("i")}),
        ('{type: t.real, a: "${n}"}', "{}", {"a": FromNode("n", "value")}),
        (
            '{type: t.say, words: "a ${n} for $5, $${n} and ${i}"}',
            "{i: x}",
            {"words": Joined(("a ", FromNode("n", "value"), " for $5, ${n} and ", FromInput("i")))},
        ),
        ('{type: t.say, words: "$${n}"}', "{}", {"words": Given("${n}")}),
        ("{type: t.total, values: [1, 2.5]}", "{}", {"values": Given([1.0, 2.5])}),
        (
            '{type: t.total, values: [1, "${n}"]}',
            "{}",
            {"values": Listed((Given(1.0), FromNode("n", "value")))},
        ),
        (
            "{type: t.data, data: {a: [1, null], b: {c: x}}}",
            "{}",
            {"data": Given({"a": [1, None], "b": {"c": "x"}})},
        ),
        (
            '{type: t.data, data: {a: ["${n}"]}}',
            "{}",
            {"data": Mapped((("a", Listed((FromNode("n", "value"),))),))},
        ),
        ('{type: t.any, value: "${p}"}', "{}", {"value": FromNode("p", "value")}),
        ("{type: t.any, value: null}", "{}", {"value": Given(None)}),
        ("{type: t.say, words: x, mood: loud}", "{}", {"words": Given("x"), "mood": Given("loud")}),
    ],
)
def test_an_argument_is_a_literal_or_a_reference(
    node_: str, inputs: str, bindings: dict[str, Any]
) -> None:
    """The whole scalar is the typed value; inside text, values are joined to it; a doubled dollar
    is one.
    """
    assert one(node_, inputs) == bindings


def test_files_and_models_are_named_relative_to_the_graph(tmp_path: Path) -> None:
    """A node never takes a path as text, and a reference to a model is read, not opened."""
    found = one(
        "{type: t.load, file: a.png, folder: ../in, files: [b.png]}", path=tmp_path / "g.yaml"
    )
    assert {k: (v.path, v.kind, v.folder) for k, v in found.items() if isinstance(v, FileAt)} == {
        "file": ("a.png", "file", tmp_path),
        "folder": ("../in", "folder", tmp_path),
    }
    assert isinstance(found["files"], Listed)
    assert [(f.path, f.kind) for f in found["files"].items if isinstance(f, FileAt)] == [
        ("b.png", "file")
    ]
    bound = one("{type: t.model, model: embedded/imagen}")["model"]
    assert isinstance(bound, ModelAt)
    assert bound.reference == "embedded/imagen"


def test_an_input_may_name_a_model_as_text() -> None:
    """One or, in an `each`, a list of them; a node may not."""
    assert one('{type: t.model, model: "${m}"}', "{m: embedded/imagen}") == {
        "model": FromInput("m")
    }
    assert one('{type: t.model, each: {model: "${m}"}}', "{m: [embedded/a, embedded/b]}") == {
        "model": FromInput("m")
    }
    said = problems("""
        nodes: {s: {type: t.say, words: embedded/imagen}, m: {type: t.model, model: "${s}"}}
        outputs: {m: "${m}"}
        """)
    assert said == ["3:78 type-mismatch: ${s} is text, and port 'model' of t.model takes model"]


def test_one_of_several_choices_is_no_text_with_values_inside_it() -> None:
    """What a text comes to is not known before running, so it cannot be seen to be a choice."""
    assert problems(
        """
        nodes:
          n: {type: t.number}
          s: {type: t.say, words: a, mood: "loud${n}"}
        outputs: {s: "${s}"}
        """
    ) == [
        "5:36 type-mismatch: port 'mood' of t.say takes one of 'calm', 'loud', not text with inserted values"
    ]


def test_inputs_are_typed_by_their_spelling_or_their_default() -> None:
    """A bare value is its own default and type; bounds and choices narrow, those of lists their
    elements.
    """
    graph = graph_of("""
        inputs:
          words: hello
          count: 3
          ratio: 0.5
          on: true
          sizes: [64, 128]
          mixed: [1, 2.5]
          seed: {type: seed, default: random, help: of the noise}
          picture: {type: file}
          limits: {type: "list[int]", min: 1, max: 9, default: [1, 9]}
          mood: {type: text, choices: [calm, loud], default: loud}
          weight: {type: float, choices: [0.5, 1], default: 1}
          step: {type: int, min: 1}
        nodes: {n: {type: t.data, data: {a: "${words}", b: "${count}", c: "${ratio}", d: "${on}", e: "${sizes}", f: "${mixed}", g: "${seed}", i: "${limits}", j: "${mood}", k: "${weight}", l: "${step}"}},
                p: {type: t.load, file: "${picture}"}}
        outputs: {n: "${n}", p: "${p}"}
        """)
    assert {
        i.name: (str(i.type), i.default.value if isinstance(i.default, Given) else i.default)
        for i in graph.inputs.values()
    } == {
        "words": ("text", "hello"),
        "count": ("int", 3),
        "ratio": ("float", 0.5),
        "on": ("bool", True),
        "sizes": ("list[int]", [64, 128]),
        "mixed": ("list[float]", [1.0, 2.5]),
        "seed": ("seed", "random"),
        "picture": ("file", None),
        "limits": ("list[int from 1 to 9]", [1, 9]),
        "mood": ("calm | loud", "loud"),
        "weight": ("0.5 | 1.0", 1.0),
        "step": ("int from 1", None),
    }
    assert (
        graph.inputs["seed"].help,
        graph.ports["seed"].required,
        graph.ports["picture"].required,
    ) == ("of the noise", False, True)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("{type: int, default: 5, max: 3}", "takes a whole number up to 3, not 5"),
        ("{type: text, min: 3, default: x}", "'min' is for numbers, and input 'i' is text"),
        ("{type: text, choices: [a, 1], default: a}", "a choice of input 'i' takes text, not 1"),
        ("{type: text, choices: [], default: a}", "'choices' takes a list, not a list of 0"),
        ("{type: file, choices: [a]}", "'choices' is for plain values, and input 'i' is file"),
        (
            "{type: int, default: random}",
            "the default of input 'i' takes a whole number, not the text 'random'",
        ),
        ("[1, x]", "the type of input 'i' cannot be inferred"),
        ("null", "the type of input 'i' cannot be inferred"),
        (
            "{type: seed, default: -1}",
            "the default of input 'i' takes a whole number from 0 to 9223372036854775807, not -1",
        ),
    ],
)
def test_an_input_that_cannot_be_is_a_problem(written: str, said: str) -> None:
    """It says which input, and why."""
    assert (
        said
        in problems(
            f'inputs: {{i: {written}}}\nnodes: {{x: {{type: t.data, data: {{a: "${{i}}"}}}}}}\noutputs: {{x: "${{x}}"}}'
        )[0]
    )


def test_each_binds_ports_to_elements_of_lists() -> None:
    """Lists come from nodes, inputs or are written out; the node's outputs are lists."""
    graph = graph_of("""
        inputs: {sizes: [1, 2]}
        nodes:
          a: {type: t.add, each: {a: "${sizes}", b: [3, "${n}"]}}
          n: {type: t.number}
          b: {type: t.total, values: "${a}"}
          c: {type: t.add, each: {a: "${a}"}, b: 1}
        outputs: {b: "${b}", c: "${c}"}
        """)
    assert graph.nodes["a"].each == {"a": 1, "b": 1}
    assert graph.nodes["a"].bindings == {
        "a": FromInput("sizes"),
        "b": Listed((Given(3), FromNode("n", "value"))),
    }
    assert str(graph.outputs["c"].type) == "list[int]"


def test_reserved_words_are_fields_of_the_node() -> None:
    """They are checked like arguments."""
    node_ = graph_of("""
        nodes:
          f: {type: t.flag}
          x: {type: t.number, when: "${f}", retry: {times: 2, backoff_s: 1}, timeout: 30, cache: false, device: "cuda:1", settings: {dtype: float16}}
          y: {type: t.number, retry: 3}
        outputs: {x: "${x}", y: "${y}"}
        """).nodes["x"]
    assert (
        node_.when,
        node_.retries,
        node_.backoff_s,
        node_.timeout_s,
        node_.cache,
        node_.device,
        node_.dtype,
    ) == (FromNode("f", "value"), 2, 1.0, 30.0, False, "cuda:1", "float16")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("retry: -1", "bad-literal: 'retry' takes a whole number from 0 to 100, not -1"),
        ("retry: {time: 1}", "unknown-key: 'retry' has no key 'time'"),
        ("timeout: 0", "bad-literal: 'timeout' takes a number from 0.001, not 0"),
        (
            "timeout: 10s",
            "bad-literal: 'timeout' takes a number, not the text '10s'".replace(
                "a number,", "a number from 0.001,"
            ),
        ),
        ("cache: 1", "bad-literal: 'cache' takes true or false, not 1"),
        ("device: gpu", "bad-setting: there is no device 'gpu'"),
        ("settings: 5", "bad-shape: 'settings' takes a mapping, not 5"),
        ("settings: {steps: 5}", "bad-setting: a node has no setting 'steps'"),
        ("when: 1", "bad-literal: 'when' takes true or false, not 1"),
        ('when: "${n}"', "type-mismatch: ${n} is int, and 'when' takes bool"),
        ("repeat: 3", "bad-shape: 'repeat' is for nodes whose type is a graph"),
        ("each: 5", "bad-shape: 'each' takes a mapping of ports to lists, not 5"),
        (
            "each: {value: 5}",
            "bad-literal: 'each' of port 'value' of t.number takes a list of int, not 5",
        ),
        (
            'each: {value: "${n}"}',
            "type-mismatch: ${n} is int, and 'each' of port 'value' of t.number takes list[int]",
        ),
        ("each: {valeu: [1]}", "unknown-port: t.number has no input port 'valeu'"),
        (
            "each: {value: [1]}, value: 2",
            "duplicate-key: port 'value' is given both in 'each' and outside it",
        ),
    ],
)
def test_a_reserved_word_that_does_not_fit_is_a_problem(word: str, said: str) -> None:
    """Each has its own words."""
    assert (
        problems(
            f'nodes: {{n: {{type: t.number}}, x: {{type: t.number, {word}}}}}\noutputs: {{x: "${{x}}", n: "${{n}}"}}'
        )[0].partition(" ")[2]
        == said
    )


def test_all_problems_are_said_at_once_in_file_order() -> None:
    """Also those of nodes that no output needs."""
    assert problems("""
        nodes:
          a: {type: t.add, a: true}
          b: {type: t.nothing}
          c: {type: t.add, a: "${d}", c: 3}
        outputs: {a: "${a.x}", b: "${b}"}
        """) == [
        "4:23 bad-literal: port 'a' of t.add takes a whole number, not true",
        "5:13 unknown-node-type: no plugin provides the node type 't.nothing'",
        "6:24 unknown-reference: there is no node or input 'd'",
        "6:31 unknown-port: t.add has no input port 'c'",
        "7:15 unknown-output: node 'a' has no output 'x'",
    ]


# -- order -----------------------------------------------------------------------------------------


def test_nodes_keep_the_order_in_which_they_are_written_where_they_may() -> None:
    """A node comes after what it reads, else as written."""
    assert list(
        graph_of("""
        nodes:
          z: {type: t.add, a: "${b}", b: "${a}"}
          y: {type: t.number}
          b: {type: t.number}
          x: {type: t.number}
          a: {type: t.add, a: "${x}"}
        outputs: {z: "${z}", y: "${y}"}
        """).nodes
    ) == ["y", "b", "x", "a", "z"]


def test_what_no_output_needs_is_known() -> None:
    """Conditions and lists of `each` count as needs, and so do the needs of what is needed."""
    graph = graph_of("""
        nodes:
          f: {type: t.flag}
          n: {type: t.number}
          a: {type: t.add, a: "${n}"}
          b: {type: t.add, each: {a: ["${a}"]}, when: "${f}"}
          lonely: {type: t.add, a: "${a}"}
        outputs: {b: "${b}"}
        """)
    assert graph.unneeded == {"lonely"}


@pytest.mark.parametrize("backwards", [False, True])
def test_ten_thousand_nodes_are_no_recursion(backwards: bool) -> None:
    """A chain, written from either end, resolves in order."""
    lines = ["  n0: {type: t.number}"] + [
        f'  n{i}: {{type: t.add, a: "${{n{i - 1}}}"}}' for i in range(1, 2000)
    ]
    graph = graph_of(
        "nodes:\n"
        + "\n".join(reversed(lines) if backwards else lines)
        + '\noutputs: {end: "${n1999}"}\n'
    )
    assert list(graph.nodes) == [f"n{i}" for i in range(2000)]


def test_each_cycle_is_printed_closed_once() -> None:
    """Also where one cycle leads into another."""
    said = problems("""
        nodes:
          a: {type: t.add, a: "${b}"}
          c: {type: t.add, a: "${d}", b: "${a}"}
          d: {type: t.add, a: "${c}"}
          b: {type: t.add, a: "${a}"}
          e: {type: t.add, a: "${e}"}
        outputs: {e: "${e}", d: "${d}"}
        """)
    assert [s.partition(": ")[2] for s in said] == [
        "nodes depend on each other: a -> b -> a",
        "nodes depend on each other: c -> d -> c",
        "nodes depend on each other: e -> e",
    ]


def test_a_cycle_begins_with_the_node_that_is_written_first() -> None:
    """Also where the search for it came to another of its nodes first."""
    (said,) = problems("""
        nodes:
          a: {type: t.add, a: "${d}"}
          b: {type: t.add, a: "${c}"}
          c: {type: t.add, a: "${a}", b: "${b}"}
          d: {type: t.add, a: "${c}"}
        outputs: {d: "${d}"}
        """)
    assert said.endswith("nodes depend on each other: b -> c -> b")


# -- graphs in graphs ------------------------------------------------------------------------------


def test_inputs_of_an_included_graph_are_ports_and_its_outputs_are_outputs(tmp_path: Path) -> None:
    """Paths in it are relative to it; it may include others."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/inner.yaml").write_text("""
imagen_flow: 1
inputs: {side: {type: int, min: 1}, note: hello}
nodes: {d: {type: ./deeper.yaml, file: mask.png}, s: {type: t.solid, side: "${side}"}, z: {type: t.size, image: "${s}"}, w: {type: t.say, words: "${note}"}}
outputs: {picture: "${s}", width: "${z.width}", deep: "${d}", said: "${w}"}
""")
    (tmp_path / "sub/deeper.yaml").write_text(
        '{imagen_flow: 1, inputs: {file: {type: file}}, nodes: {l: {type: t.load, file: "${file}"}}, outputs: {l: "${l}"}}'
    )
    graph = graph_of(
        """
        nodes:
          in: {type: ./sub/inner.yaml, side: 4}
          w: {type: t.add, a: "${in.width}"}
          again: {type: t.size, image: "${in}"}
          deep: {type: t.size, image: "${in.deep}"}
        outputs: {w: "${w}", again: "${again.height}", deep: "${deep}"}
        """,
        tmp_path / "g.yaml",
    )
    inner = graph.nodes["in"].type
    assert isinstance(inner, Graph)
    assert {p.name: (str(p.type), p.required) for p in inner.ports.values()} == {
        "side": ("int from 1", True),
        "note": ("text", False),
    }
    assert (list(inner.outputs), inner.unneeded) == (
        ["picture", "width", "deep"],
        {"w"},
    )  # nothing asks for `said`
    file = inner.nodes["d"].bindings["file"]
    assert isinstance(file, FileAt)
    assert file.folder == tmp_path / "sub"


def test_each_and_repeat_give_lists(tmp_path: Path) -> None:
    """Both together give lists of lists; keeping the best gives one."""
    (tmp_path / "inner.yaml").write_text(
        '{imagen_flow: 1, inputs: {seed: {type: seed}}, nodes: {s: {type: t.solid, side: 4, seed: "${seed}"}, z: {type: t.size, image: "${s}"}}, outputs: {picture: "${s}", score: "${z}"}}'
    )
    graph = graph_of(
        """
        nodes:
          a: {type: ./inner.yaml, seed: 1, repeat: 3}
          b: {type: ./inner.yaml, seed: 1, repeat: {times: 3, keep: {best: score}}}
          c: {type: ./inner.yaml, each: {seed: [1, 2]}, repeat: 3}
          d: {type: ./inner.yaml, each: {seed: [1, 2]}, repeat: {times: 3, keep: {best: score}}}
        outputs: {a: "${a}", b: "${b}", c: "${c}", d: "${d}"}
        """,
        tmp_path / "g.yaml",
    )
    assert {o.name: str(o.type) for o in graph.outputs.values()} == {
        "a": "list[image]",
        "b": "image",
        "c": "list[list[image]]",
        "d": "list[image]",
    }
    assert [graph.nodes[n].repeat for n in "ab"] == [Repeat(3, None), Repeat(3, "score")]
    assert {n: list(g.type.outputs) for n, g in graph.nodes.items()} == {
        "a": ["picture"],
        "b": ["picture", "score"],
        "c": ["picture"],
        "d": ["picture", "score"],
    }


@pytest.mark.parametrize(
    ("repeat", "said"),
    [
        ("0", "bad-literal: 'repeat' takes a whole number from 1 to 10000, not 0"),
        ("{keep: {best: score}}", "missing-key: 'repeat' needs 'times'"),
        ("{times: 2, keep: {best: scroe}}", "unknown-output: the graph has no output 'scroe'"),
        (
            "{times: 2, keep: {best: picture}}",
            "type-mismatch: 'keep: best' takes a number, and output 'picture' is image",
        ),
        (
            "{times: 2, keep: first}",
            "bad-literal: 'keep' takes last, or best with an output, not the text 'first'",
        ),
    ],
)
def test_a_repeat_that_does_not_fit_is_a_problem(tmp_path: Path, repeat: str, said: str) -> None:
    """Each has its own words."""
    (tmp_path / "inner.yaml").write_text(
        '{imagen_flow: 1, inputs: {seed: {type: seed}}, nodes: {s: {type: t.solid, side: 4, seed: "${seed}"}, z: {type: t.size, image: "${s}"}}, outputs: {picture: "${s}", score: "${z}"}}'
    )
    found = problems(
        f'nodes: {{g: {{type: ./inner.yaml, seed: 1, repeat: {repeat}}}}}\noutputs: {{g: "${{g}}"}}',
        tmp_path / "g.yaml",
    )
    assert found[0].partition(" ")[2] == said


def test_problems_of_included_graphs_are_shown_with_the_others(tmp_path: Path) -> None:
    """Each in its own file, once though it is included twice."""
    (tmp_path / "inner.yaml").write_text(
        'imagen_flow: 1\nnodes: {n: {type: t.number, value: x}}\noutputs: {n: "${n}"}\n'
    )
    with pytest.raises(GraphError) as refused:
        graph_of(
            'nodes: {a: {type: ./inner.yaml}, b: {type: ./inner.yaml}, c: {type: t.number, value: y}}\noutputs: {a: "${a}", b: "${b}", c: "${c}"}',
            tmp_path / "g.yaml",
        )
    assert [f"{p.mark}: {p.code}" for p in refused.value.problems] == [
        "graph.yaml:2:86: bad-literal",
        "inner.yaml:2:36: bad-literal",
    ]


@pytest.mark.parametrize("name", ["~nobody-here/x.yaml", '"./a\\0b.yaml"', "./"])
def test_a_graph_that_cannot_be_is_a_problem(tmp_path: Path, name: str) -> None:
    """No name makes the reader stumble."""
    assert (
        " unreadable: "
        in problems(
            f'nodes: {{a: {{type: {name}}}}}\noutputs: {{a: "${{a}}"}}', tmp_path / "g.yaml"
        )[0]
    )


def test_graphs_nest_so_deep_and_no_deeper(tmp_path: Path) -> None:
    """A long chain of files is a problem, not a recursion."""
    for i in range(60):
        (tmp_path / f"{i}.yaml").write_text(
            f'{{imagen_flow: 1, nodes: {{n: {{type: ./{i + 1}.yaml}}}}, outputs: {{n: "${{n}}"}}}}'
        )
    (tmp_path / "60.yaml").write_text(
        '{imagen_flow: 1, nodes: {n: {type: t.number}}, outputs: {n: "${n}"}}'
    )
    assert [
        s.partition(" ")[2]
        for s in problems('nodes: {n: {type: ./0.yaml}}\noutputs: {n: "${n}"}', tmp_path / "g.yaml")
    ] == ["too-deep: graph files include each other more than 32 deep"]
    assert graph_of(
        'nodes: {n: {type: ./40.yaml}}\noutputs: {n: "${n}"}', tmp_path / "g.yaml"
    ).nodes["n"]


def test_only_a_graph_file_is_opened_for_a_node(tmp_path: Path) -> None:
    """A file of another kind is refused by its name: no problem shows what it says."""
    (tmp_path / "secret.txt").write_text("the password")
    assert problems(
        'nodes: {a: {type: ./secret.txt}}\noutputs: {x: "${a}"}', tmp_path / "g.yaml"
    ) == ["2:19 unreadable: './secret.txt' is not a graph file"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("n{i}: {{type: some.thing{i}}}", "unknown-node-type"),
        ('n{i}: {{type: t.add, a: "${{m{i}}}"}}', "unknown-reference"),
        ("n{i}: {{type: t.add, a: 1, q{i}: 2}}", "unknown-port"),
        ("n{i}: {{type: t.say, words: a, mood: q{i}}}", "bad-literal"),
        ("n{i}: {{type: ./g{i}.yaml}}", "unreadable"),
    ],
)
def test_of_very_many_problems_the_first_are_shown_with_what_may_be_meant(
    tmp_path: Path, line: str, code: str
) -> None:
    """All are found and counted; after a hundred nobody looks for near names any more, which took
    half a minute.
    """
    count = 1_500
    text = (
        "nodes:\n"
        + "".join(f"  {line.format(i=i)}\n" for i in range(count))
        + 'outputs: {o: "${n1}"}\n'
    )
    with pytest.raises(GraphError) as refused:
        graph_of(text, tmp_path / "g.yaml")
    found = [p for p in refused.value.problems if p.code == code]
    assert len(found) == count
    assert all(not p.fix for p in found[200:])
    assert str(refused.value).endswith(f"and {len(refused.value.problems) - 100:,} more")


def test_a_circle_of_many_nodes_is_printed_short() -> None:
    """Its first nodes and its last ones tell where it is."""
    text = (
        "nodes:\n"
        + "".join(f'  n{i}: {{type: t.add, a: "${{n{(i + 1) % 500}}}"}}\n' for i in range(500))
        + 'outputs: {o: "${n1}"}\n'
    )
    with pytest.raises(GraphError) as refused:
        graph_of(text)
    (problem,) = [p for p in refused.value.problems if p.code == "cycle"]
    assert len(problem.message) < 250 and " -> … -> n" in problem.message


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{none: 1}", "'step_cache.none' takes no options"),
        ("{mag: {mag_ratios: []}}", "'step_cache.mag.mag_ratios' takes at least one ratio"),
        (
            "{pyramid: {spatial_attention_timestep_skip_range: [800, 100]}}",
            "'step_cache.pyramid.spatial_attention_timestep_skip_range' takes a lower and an upper"
            " time step, not 800 and 100",
        ),
        (
            "{first_block: 0.1, taylor_seer: 3}",
            "'step_cache' takes none, or one kind of cache with its options, not 2 kinds",
        ),
    ],
)
def test_a_step_cache_that_would_do_nothing_or_break_is_refused(written: str, message: str) -> None:
    """Before a model is loaded, with what is wrong about it."""
    (problem,) = problems(
        f"settings: {{step_cache: {written}}}\n"
        "nodes: {n: {type: t.number}}\noutputs: {n: '${n}'}\n"
    )
    assert problem.partition(": ")[2] == message


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        ("attention: diffusers/SAGE", "write diffusers/sage"),
        ("attention: Flash", "write flash"),
        ("attention: diffusers/", ""),
        ("compile: Regional", "did you mean 'regional'?"),
        ("compile: 3", ""),
        ("batch: Auto", "did you mean 'auto'?"),
    ],
)
def test_a_setting_of_several_forms_is_suggested_in_the_nearest(written: str, fix: str) -> None:
    """And attention of diffusers is named among what the setting takes."""
    with pytest.raises(GraphError) as refused:
        graph_of(
            f"settings: {{{written}}}\nnodes: {{n: {{type: t.number}}}}\noutputs: {{n: '${{n}}'}}\n"
        )
    (problem,) = refused.value.problems
    assert problem.fix == fix
    assert ("or diffusers/NAME" in problem.message) == written.startswith("attention")
