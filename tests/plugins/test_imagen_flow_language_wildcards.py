"""Prompts vary as their templates say, and by the seed alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import imagen_flow as flow
from imagen_flow._types.digest import digest_bytes
from imagen_flow_language.wildcards import combinations, wildcards


def result(steps: Any) -> tuple[str, Any]:
    """Run a node to its end and give its note and its output."""
    note = next(steps).note
    with pytest.raises(StopIteration) as ended:
        next(steps)
    return note, ended.value.value


def listed(template: str, folder: flow.Folder | None = None, limit: int = 1000) -> list[str]:
    return result(combinations(template, folder=folder, limit=limit))[1]


def filled(template: str, seed: int, folder: flow.Folder | None = None) -> str:
    return result(wildcards(template, seed=seed, folder=folder))[1]


def refusal(template: str, folder: flow.Folder | None = None, limit: int = 1000) -> str:
    with pytest.raises(ValueError) as refused:
        list(combinations(template, folder=folder, limit=limit))
    return str(refused.value)


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    def make(files: Mapping[str, str | bytes]) -> flow.Folder:
        found = []
        for name, content in sorted(files.items()):
            data = content if isinstance(content, bytes) else content.encode()
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(data)
            found.append(flow.File(tmp_path / name, digest_bytes(data), len(data), name))
        return flow.Folder(tmp_path, "any", tuple(found))

    return make


@pytest.mark.parametrize(
    ("template", "texts"),
    [
        ("plain (words:1.2), [and] \\(more\\)", ["plain (words:1.2), [and] \\(more\\)"]),
        ("a {red|blue} bird", ["a red bird", "a blue bird"]),
        ("{a|b}{1|2}", ["a1", "a2", "b1", "b2"]),
        ("{a|{b|c} d}", ["a", "b d", "c d"]),
        ("a dog{| and a cat}", ["a dog", "a dog and a cat"]),
        ("{0.5::a|0::b|3::c}", ["a", "c"]),
        ("{2$$a|b|c}", ["a, b", "a, c", "b, a", "b, c", "c, a", "c, b"]),
        ("{2$$ and $$a|b}", ["a and b", "b and a"]),
        ("{1-2$$+$$a|b}", ["a", "b", "a+b", "b+a"]),
        ("{-1$$a|b}", ["a", "b"]),
        ("{2-$$/$$a|b}", ["a/b", "b/a"]),
        ("{0-1$$a}!", ["!", "a!"]),
        ("{5$$a|b}", ["a, b", "b, a"]),
        ("{2$$0::a|b|c}", ["b, c", "c, b"]),
        (r"\{a\|b\} \__x__ 5\$ \\ \x", [r"{a|b} __x__ 5$ \ \x"]),
        ("a|b __ c", ["a|b __ c"]),
        ("${x={a|b}} {c|c}", ["${x={a|b}} c"]),
        ("{一只猫|ein Vogel|🐦}", ["一只猫", "ein Vogel", "🐦"]),
        ("", [""]),
    ],
)
def test_a_template_stands_for_these_texts(template: str, texts: list[str]) -> None:
    """Variants, weights, several options, nesting and escapes are read as documented, and all
    texts are listed once, the last choice changing first.
    """
    assert listed(template) == texts


def templates() -> st.SearchStrategy[str]:
    """Well-formed templates of nested variants."""
    words = st.sampled_from(["", "a", "b c", "2::d", r"\{", "é", ", "])
    return st.recursive(
        words,
        lambda inner: st.lists(inner, min_size=1, max_size=3).flatmap(
            lambda options: st.sampled_from(["", "2$$", "1-2$$;$$", "0-$$"]).map(
                lambda count: "{" + count + "|".join(options) + "}"
            )
        ),
        max_leaves=6,
    )


@given(templates(), st.integers(0, 2**63 - 1))
def test_what_a_seed_chooses_is_among_the_combinations(template: str, seed: int) -> None:
    """Each text is one of those listed, and the same seed chooses it again."""
    text = filled(template, seed)
    assert text == filled(template, seed)
    assert text in listed(template, limit=100_000)


def test_seeds_reach_every_combination_as_often_as_weights_say() -> None:
    """In 4,000 seeds each text turns up, at its share within four standard deviations."""
    counts = Counter(filled("{a|2::b} {c|d}", seed) for seed in range(4000))
    for text, share in {"a c": 1 / 6, "a d": 1 / 6, "b c": 1 / 3, "b d": 1 / 3}.items():
        spread = (4000 * share * (1 - share)) ** 0.5
        assert abs(counts[text] - 4000 * share) < 4 * spread


def test_the_choice_of_a_seed_does_not_change() -> None:
    """Stored prompts stay those of their seeds, in every version of Python."""
    template = "{a|b|c} {2$$1|2|3|4} {x|9::y}"
    assert [filled(template, seed) for seed in (0, 1, 2**63 - 1)] == [
        "c 4, 2 y",
        "a 4, 3 y",
        "a 3, 4 y",
    ]


def test_lines_of_files_are_options(folder: Any) -> None:
    """A wildcard is a line of its file, which may have a weight, variants and other wildcards;
    comments and empty lines are not.
    """
    files = folder(
        {
            "colours.txt": "\ufeff# warm\r\nred\r\n\r\n  {gold|amber} \r\n0::grey\n",
            "animals/wild.txt": "a __colours__ fox",
            "animals/tame.txt": "a cat",
            "notes.md": "no",
        }
    )
    colours = ["red", "gold", "amber"]
    assert listed("__colours__!", files) == [f"{c}!" for c in colours]
    assert listed("__animals/wild__", files) == [f"a {c} fox" for c in colours]
    assert listed("__animals/*__", files) == ["a cat", *(f"a {c} fox" for c in colours)]
    assert listed("__*__", files) == colours
    assert listed("{2$$__colours__}", folder({"colours.txt": "x\ny"})) == ["x, y", "y, x"]
    assert listed("{2$$__colours__|__colours__}", folder({"colours.txt": "x\ny"}))[0] == "x, x"


def test_what_is_not_known_of_a_template_is_told() -> None:
    """Variables of other programs are kept, with a note."""
    note, text = result(wildcards("${season} {a} ${season}", seed=1))
    assert (text, note) == (
        "${season} a ${season}",
        "variables are kept as they stand: '${season}'",
    )
    assert result(wildcards("a", seed=1))[0] == ""


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a } b", r"port 'template': a '}' closes nothing at character 3; write '\}' for a brace"),
        ("a {b|c", r"port 'template': a '{' is not closed at character 3; write '\{' for a brace"),
        ("${x", r"port 'template': a '{' is not closed at character 2; write '\{' for a brace"),
        (
            "{2$a|b}",
            "port 'template': a number of options is followed by two dollars, not one at character"
            r" 2; write '\$' for a dollar; in the text of a graph, where '$$' is one dollar, write"
            " '$$$$' for two",
        ),
        (
            "{0::a}",
            "port 'template': all options have the weight 0 at character 1; give one a larger weight",
        ),
        ("{-1::a|b}", "port 'template': the weight -1 is negative at character 2; write 0 or more"),
        (
            "{3-2$$a|b}",
            "port 'template': 3 to 2 options are no range at character 7; put the smaller one first",
        ),
        (
            "__a(b=c)__",
            "port 'template': '__a(b=c)__' has parameters, which are not supported at character 1;"
            " write '__a__'",
        ),
        ("{" * 60 + "}" * 60, "port 'template': variants are nested more than 50 deep"),
        ("x" * 100_001, "port 'template' has 100,001 characters, more than a template may have"),
        (
            "__birds__",
            "the template names the wildcard '__birds__', but port 'folder' is not given; give the"
            r" folder of wildcard files, or write '\__' for two underscores",
        ),
        (
            "{a|b}" * 20,
            "the template has at least 1,048,576 combinations, more than limit allows (1,000);"
            " raise limit, or choose some with text.wildcards and seeds",
        ),
        (
            "{-$$" + "|".join("abcdefgh") + "}",
            "the template has at least 2,080 combinations, more than limit allows (1,000); raise"
            " limit, or choose some with text.wildcards and seeds",
        ),
    ],
)
def test_a_template_that_cannot_be_read_says_why(template: str, message: str) -> None:
    """The message says what, where and how to mend it."""
    assert refusal(template).startswith(message)


def test_files_that_cannot_be_used_are_named(folder: Any) -> None:
    """Missing, empty, broken and circular files are told by name, also those that files name."""
    files = folder(
        {
            "a.txt": "x\n__b__",
            "b.txt": "{__c__|y}",
            "c.txt": "__a__",
            "empty.txt": "# nothing\n",
            "wide.txt": b"\xff\xfe",
            "bad.txt": "fine\nnot {fine",
            "strays.txt": "__missing__",
        }
    )
    assert refusal("__b__", files) == "wildcard files contain each other: b -> c -> a -> b"
    assert refusal("__empty__", files) == "'empty.txt' has no line to choose"
    assert refusal("__wide__", files).startswith("'wide.txt' is not UTF-8 text (byte 1 is invalid)")
    assert refusal("__bad__", files) == (
        r"'bad.txt', line 2: a '{' is not closed at character 5; write '\{' for a brace"
    )
    place = files.path.name
    assert refusal("__strays__", files) == (
        f"there is no wildcard '__missing__' in the folder '{place}' (named in 'strays.txt'); its"
        " wildcards are: a, b, bad, c, empty, strays, wide"
    )
    assert refusal("__emty__", files).endswith("did you mean 'empty'?")
    assert refusal("__b/*__", folder({})).startswith("there is no wildcard '__b/*__'")


def test_a_text_does_not_grow_without_bound(folder: Any) -> None:
    """Files that double each other twenty times over are refused in time."""
    doubling = {f"f{n}.txt": f"__f{n + 1}__ __f{n + 1}__" for n in range(40)} | {"f40.txt": "x"}
    with pytest.raises(ValueError, match="the text has more than 100,000 parts"):
        filled("__f0__", 1, folder(doubling))


def test_a_long_text_is_refused_before_it_is_put_together(folder: Any) -> None:
    """A long line that is named 10,000 times is not repeated to a gigabyte first."""
    with pytest.raises(ValueError, match="the text would have more than 100,000 characters"):
        filled("__long__" * 10_000, 1, folder({"long.txt": "x" * 99_999}))


def test_names_that_do_not_end_are_read_in_time() -> None:
    """Many beginnings of names, none of which ends, are ordinary text and take no minutes."""
    template = "__a." * 10_000
    assert filled(template, 1) == template


def test_renaming_a_file_or_changing_it_runs_the_step_again(tmp_path: Path) -> None:
    """The names and the content of the files are in the key; another folder with the same files
    is the same.
    """
    graph = {
        "imagen_flow": 1,
        "inputs": {"files": {"type": "folder", "help": "wildcards"}},
        "nodes": {
            "p": {
                "type": "text.wildcards",
                "template": "__a__ {2$$$$b|c}",
                "folder": "${files}",
                "seed": 3,
            }
        },
        "outputs": {"p": "${p}"},
    }
    keys = []
    for place, files in {
        "one": {"a.txt": "x\ny"},
        "two": {"a.txt": "x\ny"},
        "three": {"a.txt": "x\ny\nz"},
        "four": {"a.txt": "x\ny", "b.txt": ""},
    }.items():
        (tmp_path / place).mkdir()
        for name, content in files.items():
            (tmp_path / place / name).write_text(content)
        keys.append(flow.plan(graph, files=tmp_path / place, store=None).steps[0].key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert flow.run(graph, files=tmp_path / "one", store=None)["p"] == "x c, b"


def test_what_is_nested_too_deep_together_is_refused(folder: Any) -> None:
    """Files of variants inside variants are bounded together, not by Python's stack."""
    deep = {f"f{n}.txt": "{" * 45 + f"__f{n + 1}__" + "}" * 45 for n in range(40)} | {
        "f40.txt": "x"
    }
    assert refusal("__f0__", folder(deep)) == (
        "variants and wildcard files are nested too deep together; use fewer levels"
    )


def test_all_lines_of_a_large_file_are_not_chosen_at_once(folder: Any) -> None:
    """The message says how to choose some; one of them is chosen in a moment."""
    files = folder({"big.txt": "\n".join(map(str, range(20_000)))})
    assert filled("__big__", 7, files).isdigit()
    assert len(filled("{3$$__big__}", 7, files).split(", ")) == 3
    with pytest.raises(ValueError) as refused:
        filled("{-$$__big__}", 7, files)
    assert str(refused.value) == (
        "the template may choose 20,000 options at once, more than 1,000; write how many: {1-3$$…}"
    )
