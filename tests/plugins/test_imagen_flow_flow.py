"""The nodes that steer a graph compute exactly, or say what is wrong."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import imagen_flow_flow
from imagen_flow import Absent
from imagen_flow._types.ports import fits
from imagen_flow._types.value_digests import digest_value
from imagen_flow_flow import choosing, data, lists, logic, numbers, seeds, tables, text

NODES = {node.type.name: node for node in imagen_flow_flow.imagen_flow_nodes()}

numbers_ = st.integers(-(2**40), 2**40) | st.floats(-1e12, 1e12)


def refusal(node: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ValueError) as refused:
        node(*args, **kwargs)
    return str(refused.value)


def test_the_first_value_that_is_present_is_given() -> None:
    """False, 0 and empty text are values; an absent one is none. Where none is present, what is
    given is absent.
    """
    assert choosing.first(None, "b", "c") == "b"
    assert choosing.first(c=False, d=True) is False
    assert choosing.first(b=0, c=1) == 0
    assert choosing.first() is Absent.value


def test_a_choice_gives_one_of_two() -> None:
    """True gives yes, false gives no."""
    assert (choosing.choose(True, yes=4, no=40), choosing.choose(False, yes=4, no=40)) == (4, 40)


def test_what_is_chosen_may_flow_anywhere() -> None:
    """An output of any kind fits every port, and every output fits a port of any kind; a list of
    such likewise.
    """
    chosen, listed = (
        NODES["flow.first"].type.outputs["value"].type,
        NODES["flow.list"].type.outputs["value"].type,
    )
    for node in NODES.values():
        for port in node.type.inputs.values():
            assert fits(chosen, port.type)
            assert fits(port.type, NODES["flow.first"].type.inputs["a"].type)
            if port.type.kind == "list":
                assert fits(listed, port.type)


def test_a_sum_may_flow_into_a_port_for_numbers() -> None:
    """A number that may be whole fits where any number is taken, and not where a whole one is."""
    total = NODES["math.add"].type.outputs["value"].type
    assert fits(total, NODES["math.multiply"].type.inputs["a"].type)
    assert not fits(total, NODES["list.get"].type.inputs["index"].type)
    assert fits(
        NODES["math.round"].type.outputs["value"].type, NODES["list.get"].type.inputs["index"].type
    )


def test_lists_are_filtered_by_scores_or_flags() -> None:
    """Bounds are included, and the order stays."""
    assert lists.filter_(["a", "b", "c"], [0.5, 2, 1], at_least=1) == ["b", "c"]
    assert lists.filter_(["a", "b", "c"], [0.5, 2, 1], at_least=1, at_most=1.5) == ["c"]
    assert lists.filter_(["a", "b", "c"], [True, False, True]) == ["a", "c"]
    assert lists.filter_([], []) == []
    assert refusal(lists.filter_, ["a", "b"], [1], at_least=1) == (
        "the lists differ in length: 2 elements and 1 element; absent elements are left out of a list"
    )
    assert refusal(lists.filter_, ["a"], ["x"], at_least=1) == (
        "port 'by' takes numbers or booleans, and its element 0 is not"
    )
    assert refusal(lists.filter_, ["a"], [1]) == (
        "port 'by' has scores: give 'at_least' or 'at_most'"
    )
    assert "port 'by' has booleans" in refusal(lists.filter_, ["a"], [True], at_least=1)


@given(st.lists(st.integers(0, 3)), st.booleans())
def test_sorting_keeps_the_order_of_equals(scores: list[int], descending: bool) -> None:
    """In both directions."""
    indices = list(range(len(scores)))
    ordered = lists.sort(indices, scores, descending=descending)
    sign = -1 if descending else 1
    assert ordered == sorted(indices, key=lambda i: (sign * scores[i], i))


def test_lists_are_sorted_flattened_and_paired() -> None:
    """By texts or by themselves; lists of any depth, also empty ones."""
    assert lists.sort([3, 1.5, 2]) == [1.5, 2, 3]
    assert lists.sort(["x", "y"], ["b", "a"]) == ["y", "x"]
    assert "all numbers or all texts" in refusal(lists.sort, [1, "a"])
    assert "port 'by' takes all numbers" in refusal(lists.sort, [1], [True])
    assert lists.flatten([1, [2, [3, []], []], [[[4]]]]) == [1, 2, 3, 4]
    assert lists.flatten([1, [2, [3, []]], []], depth=1) == [1, 2, [3, []]]
    assert lists.flatten([]) == []
    assert lists.zip_([1, 2], ["a", "b"], None, [True, False]) == [[1, "a", True], [2, "b", False]]
    assert "differ in length" in refusal(lists.zip_, [1], [])


def test_a_row_has_the_values_of_its_columns() -> None:
    """In their order; what is absent is null, or leaves no row."""
    assert tables.row(["x", "y"], a=1, b=[2]) == {"x": 1, "y": [2]}
    assert tables.row(["x", "y"], b="z") == {"x": None, "y": "z"}
    assert tables.row(["x", "y"], b="z", absent="drop") is Absent.value
    assert tables.row([]) == {}
    assert refusal(tables.row, ["x"], b=1) == (
        "port 'b' has a value, but 'columns' has no name for it"
    )
    assert refusal(tables.row, ["x", "y", "x"]) == "port 'columns' names 'x' twice"
    assert refusal(tables.row, list("123456789")) == (
        "port 'columns' has 9 names, and there are ports for 8"
    )


def test_lists_are_made_and_taken_apart() -> None:
    """Places count from 0, and from the end if negative."""
    values = lists.make("x", None, "z", h="last")
    assert values == ["x", "z", "last"]
    assert (lists.get(values), lists.get(values, -1), lists.length(values)) == ("x", "last", 3)
    assert lists.get(values, -3) == "x"
    assert lists.cut(values, start=1) == ["z", "last"]
    assert lists.cut(values, stop=-1) == ["x", "z"]
    assert lists.concat([1], [2], None, [3]) == [1, 2, 3]
    assert lists.concat([1], [2], [3], [4]) == [1, 2, 3, 4]
    assert lists.range_(3) == [0, 1, 2]
    assert lists.range_(3, start=1, step=0.5) == [1.0, 1.5, 2.0]


@pytest.mark.parametrize(
    ("values", "index", "words"),
    [
        (["a", "b"], 2, "port 'index' is 2, but the list has 2 elements; write -2 to 1"),
        (["a"], -2, "port 'index' is -2, but the list has 1 element; write -1 to 0"),
        ([], 0, "port 'index' is 0, but the list has 0 elements"),
    ],
)
def test_an_element_that_is_not_there_is_refused(values: list[str], index: int, words: str) -> None:
    """The message says how many there are."""
    assert refusal(lists.get, values, index) == words


@given(numbers_, numbers_)
def test_arithmetic_is_pythons_and_keeps_whole_numbers(a: float, b: float) -> None:
    """Whole numbers stay whole where the result is exact."""
    assert numbers.add(a, b) == a + b
    assert numbers.subtract(a, b) == a - b
    whole = isinstance(a, int) and isinstance(b, int)
    assert isinstance(numbers.add(a, b), int) == whole
    if whole and abs(a * b) < 2**63:
        assert numbers.multiply(a, b) == a * b
    if whole and b and a % b == 0:
        assert isinstance(numbers.divide(a, b), int)
        assert numbers.divide(a, b) * b == a
    elif b and abs(a) < 1e12 < abs(b) * 1e20:
        assert numbers.divide(a, b) == a / b


@given(numbers_, st.integers(1, 1000))
def test_rounding_gives_the_nearest_multiple(value: float, multiple: int) -> None:
    """Floor may be at most the value, ceil at least, and round the nearer of them, halves up."""
    low, high, near = (
        node(value, multiple=multiple) for node in (numbers.floor, numbers.ceil, numbers.round_)
    )
    assert low <= value <= high
    assert (low % multiple, high % multiple, near % multiple) == (0, 0, 0)
    assert high - low in (0, multiple)
    assert near == (high if high - value <= value - low else low)
    assert all(type(n) is int for n in (low, high, near))


def test_numbers_are_computed() -> None:
    """The rest of the arithmetic, by example."""
    assert (
        numbers.divide(6, 3),
        numbers.divide(7, 2),
        numbers.modulo(-7, 3),
        numbers.modulo(7.5, 2),
    ) == (2, 3.5, 2, 1.5)
    assert (
        numbers.power(2, 10),
        numbers.power(2, -1),
        numbers.power(9, 0.5),
        numbers.power(-2, 3),
        numbers.power(0, 0),
    ) == (1024, 0.5, 3.0, -8, 1)
    assert (
        numbers.smaller(1, 2.5),
        numbers.larger(1, 2.5),
        numbers.clamp(7, low=0, high=5),
        numbers.clamp(-0.5, low=0, high=5),
    ) == (1, 2.5, 5, 0)
    assert (
        numbers.round_(2.5),
        numbers.round_(-2.5),
        numbers.round_(0.49999999999999994),
        numbers.round_(517, multiple=8),
    ) == (3, -2, 0, 520)
    assert (numbers.to_text(0.1), numbers.to_text(3), numbers.to_text(2, digits=2)) == (
        "0.1",
        "3",
        "2.00",
    )


@pytest.mark.parametrize(
    ("node", "a", "b", "words"),
    [
        (numbers.divide, 1, 0, "port 'b' is 0, and 1 cannot be divided by 0"),
        (numbers.divide, 1.5, 0.0, "port 'b' is 0, and 1.5 cannot be divided by 0"),
        (numbers.modulo, 1, 0, "port 'b' is 0, and 1 cannot be divided by 0"),
        (numbers.power, 0, -1, "port 'a' is 0, and 0 has no power -1"),
        (
            numbers.power,
            -4,
            0.5,
            "port 'a' is -4, and a negative number has no real power 0.5; give a positive number",
        ),
        (
            numbers.power,
            10,
            10**12,
            "the result is too large; ints go up to 2**63 - 1, floats up to about 1.8e308",
        ),
        (
            numbers.power,
            10.0,
            400,
            "the result is too large; ints go up to 2**63 - 1, floats up to about 1.8e308",
        ),
        (
            numbers.multiply,
            1e200,
            1e200,
            "the result is too large; ints go up to 2**63 - 1, floats up to about 1.8e308",
        ),
        (
            numbers.multiply,
            2**62,
            2,
            "the result is too large; ints go up to 2**63 - 1, floats up to about 1.8e308",
        ),
        (
            numbers.add,
            10**400,
            0.5,
            "the result is too large; ints go up to 2**63 - 1, floats up to about 1.8e308",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused(node: Any, a: float, b: float, words: str) -> None:
    """No infinity, no NaN, no number that fills the memory."""
    assert refusal(node, a, b) == words


def test_bounds_the_wrong_way_round_are_refused() -> None:
    """The message shows both."""
    assert (
        refusal(numbers.clamp, 1, low=3, high=2)
        == "port 'low' is 3, which is above port 'high', 2; swap them"
    )


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        ("1", 1, False),
        (None, None, True),
        (None, False, False),
        ([1, [2]], [1, [2.0]], True),
        ([1], [True], False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 1, "b": None}, False),
    ],
)
def test_values_are_the_same_or_not(a: Any, b: Any, same: bool) -> None:
    """A truth value is no number, a text is no number, the order of keys says nothing."""
    assert logic.equal(a, b) is same
    assert logic.equal(b, a) is same


@given(numbers_, numbers_)
def test_comparisons_agree(a: float, b: float) -> None:
    """Exactly one of less, equal and greater is true."""
    assert [logic.less(a, b), logic.equal(a, b), logic.greater(a, b)].count(True) == 1
    assert logic.at_most(a, b) is not logic.greater(a, b)
    assert logic.at_least(a, b) is not logic.less(a, b)


def test_truth_values_combine() -> None:
    """And, or and not, by their tables."""
    pairs = [(a, b) for a in (False, True) for b in (False, True)]
    assert [logic.and_(a, b) for a, b in pairs] == [False, False, False, True]
    assert [logic.or_(a, b) for a, b in pairs] == [False, True, True, True]
    assert [logic.not_(a) for a in (False, True)] == [True, False]


@pytest.mark.parametrize(
    ("template", "values", "result"),
    [
        ("a photo of {a}, {b:.2f} m", {"a": "猫", "b": 1.5}, "a photo of 猫, 1.50 m"),
        ("{{{a}}} {a}", {"a": 3}, "{3} 3"),
        ("{a} {b}", {"a": True, "b": 0.1}, "true 0.1"),
        ("{a:03d} {b:.0%} {c:5d}|", {"a": 7, "b": 0.25, "c": 42}, "007 25%    42|"),
        ("{animal} {a}", {"a": "x", "fields": {"animal": "{a} cat"}}, "{a} cat x"),
        ("plain", {}, "plain"),
    ],
)
def test_templates_are_filled(template: str, values: dict[str, Any], result: str) -> None:
    """Fields come from ports or a mapping; what is filled in is not scanned again."""
    assert text.format_(template, **values) == result


@pytest.mark.parametrize(
    ("template", "values", "words"),
    [
        (
            "{b}",
            {"a": 1},
            "port 'template': the field '{b}' has no value (there are: a); give one, or write '{{' for a brace",
        ),
        (
            "{}",
            {},
            "port 'template': the field '{}' has no value (there are: none); give one, or write '{{' for a brace",
        ),
        (
            "{a.__class__}",
            {"a": 1},
            "port 'template': the field '{a.__class__}' has no value (there are: a); give one, or write '{{' for a brace",
        ),
        (
            "{a[0]}",
            {"a": "x"},
            "port 'template': the field '{a[0]}' has no value (there are: a); give one, or write '{{' for a brace",
        ),
        ("x } y", {}, "port 'template': a '}' is unmatched at character 3; write '}}' for a brace"),
        (
            "{a:9999999d}",
            {"a": 1},
            "port 'template': '{a:9999999d}' cannot format 1; write for example '{a:03d}' for ints or '{a:.2f}' for floats",
        ),
        (
            "{a:d}",
            {"a": "x"},
            "port 'template': '{a:d}' cannot format 'x'; write for example '{a:03d}' for ints or '{a:.2f}' for floats",
        ),
        (
            "{a:d}",
            {"a": 1.5},
            "port 'template': '{a:d}' cannot format 1.5; write for example '{a:03d}' for ints or '{a:.2f}' for floats",
        ),
        (
            "{x}",
            {"fields": {"x": [1]}},
            "the field '{x}' is neither text nor a number nor a boolean; extract a part of it with json.get",
        ),
        (
            "{a}",
            {"a": 1, "fields": {"a": 2}},
            "the field 'a' is given twice: by port 'a' and in port 'fields'; remove one",
        ),
        (
            "{a}",
            {"fields": [1]},
            "port 'fields' must be a mapping of names to values, for example {animal: cat}",
        ),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(
    template: str, values: dict[str, Any], words: str
) -> None:
    """Nothing but a name and how to write a number may stand in a field."""
    assert refusal(text.format_, template, **values) == words


@given(st.text(max_size=40))
def test_a_template_is_filled_or_refused(template: str) -> None:
    """No template does anything else, whatever is in it."""
    with contextlib.suppress(ValueError):
        text.format_(template, a="x", b=1.5)


@given(st.lists(st.text(alphabet="ab猫 ", max_size=5)), st.sampled_from([",", "; ", "\n"]))
def test_splitting_undoes_joining(parts: list[str], separator: str) -> None:
    """Parts without the separator come back as they were."""
    joined = text.join(parts, separator=separator)
    assert text.split(joined, separator=separator, strip=False, keep_empty=True) == (parts or [""])


def test_text_is_worked_on() -> None:
    """The rest of the text nodes, by example."""
    assert text.split(" one \n\n two\n") == ["one", "two"]
    assert text.replace("a cat, a cat", find="cat", replacement="dog") == "a dog, a dog"
    assert (
        text.contains("A Catalogue", find="cat"),
        text.contains("A Catalogue", find="cat", whole_words=True),
    ) == (True, False)
    assert (
        text.contains("The cat.", find="CAT", whole_words=True),
        text.contains("cat", find="Cat", match_case=True),
    ) == (True, False)
    assert (
        text.length("猫 two\nx"),
        text.length("猫 two\nx", unit="words"),
        text.length("猫 two\nx", unit="lines"),
    ) == (7, 3, 2)
    assert [
        text.case("don't STOP", form=form) for form in ("lower", "upper", "title", "sentence")
    ] == ["don't stop", "DON'T STOP", "Don't Stop", "Don't STOP"]
    assert [text.to_number(word) for word in (" 12 ", "-3.5", "1e-4", "+7", ".5")] == [
        12,
        -3.5,
        1e-4,
        7,
        0.5,
    ]
    assert type(text.to_number("12")) is int


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: text.split("a", separator=""),
            "port 'separator' is empty; write the text between the parts, for example ','",
        ),
        (lambda: text.replace("a", find=""), "port 'find' is empty; write the text to replace"),
        (
            lambda: text.replace("a" * 100_000, find="a", replacement="b" * 1000),
            "the result would have 100,000,000 characters, more than a text may have (10,000,000)",
        ),
        (
            lambda: text.to_number("12 cats"),
            "port 'text': '12 cats' is not a number; write for example 12, -3.5 or 1e-4",
        ),
        (
            lambda: text.to_number("nan"),
            "port 'text': 'nan' is not a number; write for example 12, -3.5 or 1e-4",
        ),
        (
            lambda: text.to_number("1e999"),
            "port 'text': '1e999' is not a number; write for example 12, -3.5 or 1e-4",
        ),
    ],
)
def test_odd_text_is_refused(call: Any, words: str) -> None:
    """The message names the port and says what may be written."""
    assert refusal(call) == words


PEOPLE = {"people": [{"name": "Ada", "age": 36}, {"name": "Bob"}], "count": 2, "none": None}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("count", 2),
        ("people[0].name", "Ada"),
        ("people[-1]", {"name": "Bob"}),
        ("none", None),
        ("people", PEOPLE["people"]),
    ],
)
def test_a_part_of_data_is_found(path: str, found: Any) -> None:
    """Names are joined by points, places stand in brackets."""
    assert data.get(PEOPLE, path) == found
    assert data.get([PEOPLE], f"[0].{path}") == found


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (
            "size",
            "port 'path': 'size' is not in the data, which is a mapping with count, none, people; fix the path or give a default",
        ),
        (
            "people[2]",
            "port 'path': [2] is not in 'people', which is a list of 2; fix the path or give a default",
        ),
        (
            "people[0].name.x",
            "port 'path': 'x' is not in 'people[0].name', which is the value \"Ada\"; fix the path or give a default",
        ),
        (
            "none.x",
            "port 'path': 'x' is not in 'none', which is null; fix the path or give a default",
        ),
        (
            "people[x]",
            "port 'path': 'people[x]' is not a valid path; write for example people[0].name",
        ),
        ("", "port 'path': '' is not a valid path; write for example people[0].name"),
        (".count", "port 'path': '.count' is not a valid path; write for example people[0].name"),
    ],
)
def test_a_part_that_is_not_there_is_refused(path: str, words: str) -> None:
    """The message says how far the path leads, unless there is a default."""
    assert refusal(data.get, PEOPLE, path) == words
    if "is not a valid path" not in words:
        assert data.get(PEOPLE, path, default="other") == "other"


def test_data_is_changed_in_a_copy() -> None:
    """What was given stays as it was; missing mappings are made."""
    before = digest_value(PEOPLE)
    assert data.set_(PEOPLE, "people[1].name", value="Eve")["people"] == [
        {"name": "Ada", "age": 36},
        {"name": "Eve"},
    ]
    assert data.set_({}, "a.b", value=1) == {"a": {"b": 1}}
    assert data.set_(PEOPLE, "none.x", value=1)["none"] == {"x": 1}
    assert (
        refusal(data.set_, PEOPLE, "people[2]", value=1)
        == "port 'path': [2] does not exist in a list of 2"
    )
    assert (
        refusal(data.set_, PEOPLE, "count.x", value=1)
        == "port 'path': 'x' does not exist in the value 2"
    )
    assert digest_value(PEOPLE) == before


json_ = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda t: st.lists(t) | st.dictionaries(st.text(), t),
)


@given(json_)
def test_written_data_is_read_back(value: Any) -> None:
    """Writing and parsing give the same data."""
    assert data.parse(data.to_text(value)) == value
    assert data.parse(f"```json\n{data.to_text(value, indented=True)}\n```") == value


@pytest.mark.parametrize(
    ("word", "words"),
    [
        (
            "{'a': 1}",
            "port 'text' is not JSON: expecting property name enclosed in double quotes at line 1, column 2",
        ),
        ("[NaN]", "port 'text': NaN is not a JSON number"),
        ("[" * 200_000, "port 'text' is nested too deeply"),
    ],
)
def test_what_is_not_json_is_refused(word: str, words: str) -> None:
    """The message says where."""
    assert refusal(data.parse, word) == words


def test_derived_seeds_are_pinned() -> None:
    """A seed and a label give this seed for ever: the documented hash."""
    assert seeds.derive(7, "upscale") == 5677060341622379534
    assert seeds.derive(0, "") == 8919375576535539078
    assert seeds.several(7, 2) == [seeds.derive(7, "0"), seeds.derive(7, "1")]


@given(st.integers(0, 2**63 - 1), st.text(), st.text())
def test_derived_seeds_are_seeds_and_differ(seed: int, one: str, other: str) -> None:
    """Every derived seed fits a seed's port; other labels give other seeds."""
    assert 0 <= seeds.derive(seed, one) < 2**63
    assert (seeds.derive(seed, one) == seeds.derive(seed, other)) == (one == other)


ROWS = [
    {"model": "b", "score": 1, "time": 2.5},
    {"model": "a", "score": 3, "time": None},
    {"model": "b", "score": 2},
]


def test_a_table_is_summarised() -> None:
    """For each group, in the order of the table, and each column: its numbers, without those that
    are not there.
    """
    assert tables.summarise(ROWS, columns=["score", "time"], by="model") == [
        {
            "model": "b",
            "column": "score",
            "count": 2,
            "mean": 1.5,
            "deviation": 0.5,
            "least": 1,
            "largest": 2,
        },
        {
            "model": "b",
            "column": "time",
            "count": 1,
            "mean": 2.5,
            "deviation": 0.0,
            "least": 2.5,
            "largest": 2.5,
        },
        {
            "model": "a",
            "column": "score",
            "count": 1,
            "mean": 3.0,
            "deviation": 0.0,
            "least": 3,
            "largest": 3,
        },
        {"model": "a", "column": "time", "count": 0},
    ]
    (whole,) = tables.summarise(ROWS, columns=["score"])
    assert (whole["count"], whole["mean"]) == (3, 2.0)
    assert tables.summarise([], columns=["score"], by="model") == []


def test_what_is_no_table_of_numbers_is_not_summarised() -> None:
    """The column, or the value, is named."""
    assert refusal(tables.summarise, ROWS, columns=["scoer"]) == (
        "no row has the column 'scoer'; there are model, score, time"
    )
    assert "no row has the column 'by'" in refusal(
        tables.summarise, ROWS, columns=["score"], by="by"
    )
    assert "'model' holds 'b', which is not a number" in refusal(
        tables.summarise, ROWS, columns=["model"]
    )
    assert "row 1 is not a mapping" in refusal(tables.summarise, [3], columns=["x"])
    assert "too large to add" in refusal(
        tables.summarise, [{"x": 10**400}, {"x": 1}], columns=["x"]
    )
    assert "'score' holds '[1]', which" in refusal(
        tables.summarise, [{"score": 1, "model": [1]}, {"score": [1]}], columns=["score"]
    )
    assert "the column 'model' holds a list or a mapping" in refusal(
        tables.summarise, [{"score": 1, "model": [1]}], columns=["score"], by="model"
    )


CALLS: dict[str, dict[str, Any]] = {
    "table.row": {"columns": ["x"], "a": 1},
    "table.summarise": {"rows": [{"x": 1}, {"x": 2.5}], "columns": ["x"]},
    "flow.first": {"b": [1]},
    "flow.choose": {"condition": True, "yes": 1, "no": 2},
    "flow.list": {"a": 1, "b": "x"},
    "list.get": {"values": [1]},
    "list.slice": {"values": [1, 2]},
    "list.concat": {"a": [1], "b": [2]},
    "list.length": {"values": [1]},
    "list.range": {"count": 2},
    "list.filter": {"values": ["a", "b"], "by": [1, 2], "at_least": 2},
    "list.sort": {"values": ["a", "b"], "by": [2, 1]},
    "list.flatten": {"values": [[1], [2, [3]]]},
    "list.zip": {"a": [1], "b": ["x"]},
    "math.clamp": {"value": 3, "low": 0, "high": 1},
    "number.to_text": {"value": 3},
    "compare.equal": {"a": {"x": 1}, "b": 1},
    "logic.not": {"value": True},
    "text.format": {"template": "{a}", "a": 1},
    "text.join": {"texts": ["a"]},
    "text.split": {"text": "a"},
    "text.replace": {"text": "a", "find": "a"},
    "text.contains": {"text": "a", "find": "a"},
    "text.length": {"text": "a"},
    "text.case": {"text": "a", "form": "upper"},
    "text.to_number": {"text": "1"},
    "json.get": {"data": PEOPLE, "path": "people"},
    "json.set": {"data": PEOPLE, "path": "count", "value": 3},
    "json.parse": {"text": "[1]"},
    "json.to_text": {"data": PEOPLE},
    "seed.derive": {"seed": 1, "label": "x"},
    "seed.list": {"seed": 1, "count": 2},
    **{
        f"math.{name}": {"a": 5, "b": 3}
        for name in ("add", "subtract", "multiply", "divide", "power", "modulo", "min", "max")
    },
    **{f"math.{name}": {"value": 2.5} for name in ("round", "floor", "ceil")},
    **{f"compare.{name}": {"a": 5, "b": 3} for name in ("less", "at_most", "greater", "at_least")},
    **{f"logic.{name}": {"a": True, "b": False} for name in ("and", "or")},
}


def test_every_node_is_tried() -> None:
    """The list below has every node."""
    assert NODES.keys() == CALLS.keys()


@pytest.mark.parametrize("name", sorted(CALLS))
def test_every_node_conforms(name: str) -> None:
    """Help begins with a sentence, inputs stay as they were, the same inputs give the same value,
    and it fits the output's type.
    """
    node, arguments = NODES[name], CALLS[name]
    assert node.type.doc[0].isupper()
    assert ". " in f"{node.type.doc.splitlines()[0]} " or ": " in node.type.doc.splitlines()[0]
    before = {port: digest_value(value) for port, value in arguments.items()}
    for port, value in arguments.items():
        assert node.type.inputs[port].type.check(value) == value
    result = node(**arguments)
    assert digest_value(result) == digest_value(node(**arguments))
    assert node.type.outputs["value"].type.check(result) == result
    assert {port: digest_value(value) for port, value in arguments.items()} == before
    assert not isinstance(result, float) or math.isfinite(result)
