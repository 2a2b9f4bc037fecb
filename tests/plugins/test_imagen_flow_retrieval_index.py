"""Indexes: what is found and in which order, what they keep, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow._models import ModelPool, resolve
from imagen_flow._store import Store
from imagen_flow._types.codec import Codecs
from imagen_flow._types.digest import digest_file
from imagen_flow.events import StepFinished
from imagen_flow.loaders import Loading
from imagen_flow_diffusion.tiny import companions
from imagen_flow_retrieval import index_folder, indexes, searching, tiny
from imagen_flow_retrieval.vectors import unit

MAKERS = {"clip": companions.clip, "siglip2": tiny.make}
MADE = {"features": "clip", "model": "of-a-test"}


def vectors(count: int, dimension: int = 32, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal((count, dimension)).astype("float32"))


def tensors(found: np.ndarray, **tags: str) -> list[flow.Tensor]:
    return [flow.Tensor(vector, {**MADE, **tags}) for vector in found]


def names_of(count: int) -> list[str]:
    return [f"{number:05}.png" for number in range(count)]


def model_at(folder: Path) -> flow.Model:
    return resolve(str(folder), folder=folder, embedded={}, digest=digest_file)


def loaded(model: flow.Model) -> indexes.Index:
    return indexes.IndexLoader().load(model, device="cpu", dtype="float32", settings=Loading())


def built(
    tmp_path: Path, found: np.ndarray, names: Sequence[str], name: str = "a"
) -> indexes.Index:
    model = indexes.build(tensors(found), list(names), tmp_path / name)
    return loaded(model_at(model.path))


def searched(index: indexes.Index, query: np.ndarray, count: int = 10, **tags: str) -> Any:
    steps = indexes.search(index, tensors(query[None], **tags)[0], count=count)
    notes = []
    while True:
        try:
            notes.append(next(steps).note)
        except StopIteration as end:
            return end.value, [note for note in notes if note]


def refusal(model: flow.Model) -> str:
    with (
        ModelPool() as pool,
        pytest.raises(flow.ModelError) as caught,
        pool.lease(indexes.IndexLoader(), model, device="cpu", dtype="float32"),
    ):
        pass
    return str(caught.value).replace(model.reference, "…")


# --- what is found --------------------------------------------------------------------------------


def test_each_entry_finds_itself_first(tmp_path: Path) -> None:
    """The nearest to an entry is itself, with the cosine 1, and the others follow by theirs."""
    found, names = vectors(300), names_of(300)
    index = built(tmp_path, found, names)
    for position in range(0, 300, 37):
        result, _ = searched(index, found[position], 5)
        cosines = found.astype("float64") @ found[position]
        order = np.argsort(-cosines)[:5]
        assert (result.names[0], result.scores[0]) == (names[position], 1.0)
        assert result.positions == order.tolist()
        assert result.scores == pytest.approx(cosines[order], abs=1e-6)
        assert result.matches[1] == {
            "name": result.names[1],
            "score": result.scores[1],
            "position": result.positions[1],
        }


def test_equal_entries_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Copies of a picture are found in the order of their names, wherever they lie, and however
    many are wanted.
    """
    found = vectors(64)
    found[[3, 17, 40, 62, 63]] = found[5]
    names = [f"{(number * 37) % 64:02}" for number in range(64)]
    index = built(tmp_path, found, names)
    copies = sorted(names[position] for position in (3, 5, 17, 40, 62, 63))
    for count in (1, 3, 6):
        result, _ = searched(index, found[5], count)
        assert result.names == copies[:count]
        assert set(result.scores) == {1.0}


def test_the_length_of_features_changes_nothing(tmp_path: Path) -> None:
    """Features that are not of length 1 are indexed and searched by their direction."""
    found = vectors(20)
    scaled = found * np.arange(1, 21, dtype="float32")[:, None]
    index = built(tmp_path, scaled, names_of(20))
    assert searched(index, found[7] * 0.01, 3)[0].names[0] == "00007.png"
    assert searched(index, found[7] * 0.01, 3) == searched(index, found[7] * 40, 3)


def test_a_small_index_gives_all_that_it_has(tmp_path: Path) -> None:
    """Fewer entries than are wanted are all found; of none, none, with a note."""
    one = vectors(1)
    result, notes = searched(built(tmp_path, one, ["only"]), -one[0], 10)
    assert (result.names, result.scores, notes) == (["only"], [-1.0], [])
    empty = indexes.build([], [], tmp_path / "empty")
    result, notes = searched(loaded(model_at(empty.path)), one[0])
    assert (result, notes) == (indexes.Found([], [], [], []), ["the index is empty"])


def alike(kind: str) -> np.ndarray:
    """Features of 5,200 pictures that are spread in one way or another."""
    random = np.random.default_rng(3)
    drawn = random.standard_normal((5200, 63))
    if kind == "clustered":
        drawn = random.standard_normal((50, 63))[random.integers(0, 50, 5200)] + drawn / 2
    if kind == "mostly in few dimensions":
        drawn[:, :2] = drawn[:, :2] * 8 + 20
    return unit(drawn.astype("float32"))


KINDS = ["evenly", "clustered", "mostly in few dimensions"]


@pytest.mark.parametrize("kind", KINDS)
def test_large_indexes_find_what_a_comparison_of_all_does(kind: str) -> None:
    """With codes, at least 99 of 100 of the nearest are found, and their scores are exact, however
    the features are spread.
    """
    found = alike(kind)
    entries, queries, names = found[:5000], found[5000:], names_of(5000)
    codes = searching.Codes.of(entries)
    hits = 0
    for query in queries:
        near = searching.search(entries, names, query, 10, codes)
        exact = searching.search(entries, names, query, 10)
        scores = {match.name: match.score for match in exact}
        hits += len({match.name for match in near} & scores.keys())
        assert all(scores.get(match.name, match.score) == match.score for match in near)
    assert hits >= 0.99 * 10 * len(queries)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_say_below_which_cosine_they_left_out(kind: str) -> None:
    """Of 4,560 vectors that the codes left out, less than one is nearer than they say. Where
    features are spread evenly, that is less than the nearest have, so that these are known to be
    found.
    """
    found = alike(kind)
    entries, queries = found[:5000], found[5000:]
    codes = searching.Codes.of(entries)
    nearer = known = 0
    for query in queries:
        chosen, rest = codes.choose(query, 440)
        scores = entries @ query
        known += np.partition(scores, -10)[-10] > rest
        nearer += (np.delete(scores, chosen) > rest).sum()
    assert nearer < len(queries)
    assert kind != "evenly" or known >= 0.7 * len(queries)


def test_a_large_index_of_equal_entries_is_in_the_order_of_names() -> None:
    """Where all entries are equal, codes tell nothing, and all are compared."""
    entries = np.repeat(vectors(1), 1000, axis=0)
    names = [f"{(number * 501) % 1000:04}" for number in range(1000)]
    near = searching.search(entries, names, entries[0], 3, searching.Codes.of(entries))
    assert [(match.name, match.score) for match in near] == [
        ("0000", 1.0),
        ("0001", 1.0),
        ("0002", 1.0),
    ]


def test_more_copies_than_candidates_are_in_the_order_of_their_names() -> None:
    """Where more entries are equal than codes choose, all are compared, so that the first by name
    are found.
    """
    entries = vectors(3000)
    entries[100:2900] = entries[50]
    names = [f"{(number * 1009) % 3000:04}" for number in range(3000)]
    near = searching.search(entries, names, entries[50], 4, searching.Codes.of(entries))
    assert [match.name for match in near] == sorted([names[50], *names[100:2900]])[:4]


def same(one: tuple[np.ndarray, float], other: tuple[np.ndarray, float]) -> bool:
    """Whether codes chose the same."""
    return np.array_equal(one[0], other[0]) and one[1] == other[1]


def test_codes_are_kept_and_read_again(tmp_path: Path) -> None:
    """Codes that are read choose what those that were written did; of other vectors they are
    refused.
    """
    entries = vectors(1000)
    codes = searching.Codes.of(entries)
    codes.write(tmp_path)
    again = searching.Codes.read(tmp_path, 1000, 32)
    for query in entries[:20]:
        assert same(codes.choose(query, 50), again.choose(query, 50))
    for count, dimension in ((1025, 32), (1000, 31), (2000, 32)):
        with pytest.raises(ValueError, match="codes of other vectors"):
            searching.Codes.read(tmp_path, count, dimension)


def test_codes_that_are_kept_are_not_computed_again(tmp_path: Path) -> None:
    """Where codes are kept already, these are used, whatever they say; where nothing is kept, they
    are computed.
    """
    entries, others = vectors(1000), vectors(1000, seed=1)
    searching.Codes.of(others).write(tmp_path)
    kept = searching.prepared_codes(entries, lambda write: tmp_path)
    made = searching.prepared_codes(entries, lambda write: None)
    for got, of in ((kept, others), (made, entries)):
        wanted = searching.Codes.of(of)
        for query in entries[:20]:
            assert same(got.choose(query, 50), wanted.choose(query, 50))


def test_a_large_index_is_searched_in_graphs(tmp_path: Path) -> None:
    """A large index finds the same with the codes that a first run kept in the store, with new
    ones, and by comparing all.
    """
    count = searching.EXACT + 1
    entries, names = vectors(count, 16), names_of(count)
    index_folder.write(tmp_path / "index", entries, names, MADE)
    (tmp_path / "query.py").write_text(
        "import imagen_flow as flow\n"
        "import numpy as np\n"
        "@flow.node('my.query', version=1)\n"
        "def query(number: int) -> flow.Tensor:\n"
        "    one = np.zeros(16, 'float32')\n"
        "    one[number] = 1\n"
        f"    return flow.Tensor(one, {MADE!r})\n"
    )

    def run(number: int, store: Store | None) -> list[str]:
        query = {"type": "my.query", "number": number}
        found = {"type": "index.search", "index": str(tmp_path / "index"), "query": "${query}"}
        graph = {
            "imagen_flow": 1,
            "nodes": {"query": query, "found": found},
            "outputs": {"names": "${found.names}"},
        }
        plugins = [str(tmp_path / "query.py")]
        names: list[str] = flow.run(graph, plugins=plugins, store=store, device="cpu")["names"]
        return names

    with Store.open(tmp_path / "store", Codecs()) as store:
        for number, kept in ((3, store), (4, store), (3, None)):
            wanted = [names[place] for place in np.argsort(-entries[:, number])[:10]]
            assert run(number, kept) == wanted


# --- in graphs ------------------------------------------------------------------------------------


def graph_of(model: str, **more: Any) -> dict[str, Any]:
    """Draw pictures, index them, and search the index by the second."""
    nodes: dict[str, Any] = {
        "seen": {
            "type": "image.noise",
            "width": 24,
            "height": 24,
            "each": {"seed": [1, 2, 3, 4]},
        },
        "features": {"type": "image.features", "model": model, "each": {"image": "${seen}"}},
        "index": {
            "type": "index.build",
            "features": "${features}",
            "names": ["one", "two", "three", "four"],
        },
        "second": {"type": "list.get", "values": "${features}", "index": 1},
        "found": {"type": "index.search", "index": "${index}", "query": "${second}", "count": 2},
        **more,
    }
    outputs = {"index": {"from": "${index}", "path": "index"}, "found": "${found.matches}"}
    return {"imagen_flow": 1, "nodes": nodes, "outputs": outputs}


def search_in(folder: Path, model: str, node: str = "text.features") -> dict[str, Any]:
    """Search an index that lies on the disk."""
    given = {"image": "${grey}"} if node == "image.features" else {"text": "red"}
    return {
        "imagen_flow": 1,
        "nodes": {
            "grey": {"type": "image.solid", "width": 4, "height": 4},
            "query": {"type": node, "model": model, **given},
            "found": {"type": "index.search", "index": str(folder), "query": "${query}"},
        },
        "outputs": {"names": "${found.names}", "scores": "${found.scores}"},
    }


def test_an_index_survives_a_restart(at: Any, tmp_path: Path) -> None:
    """An index that a run wrote is searched by another run, which knows nothing of the first; the
    first run again takes all from the store.
    """
    events: list[Any] = []
    with Store.open(tmp_path / "store", Codecs()) as store:
        first = flow.run(graph_of(at("clip")), out=tmp_path, store=store, device="cpu")
    with Store.open(tmp_path / "store", Codecs()) as store:
        again = flow.run(
            graph_of(at("clip")), out=tmp_path, store=store, device="cpu", on_event=events.append
        )
    assert first["found"] == again["found"]
    assert next(one["name"] for one in first["found"]) == "two"
    assert not [event for event in events if isinstance(event, StepFinished)]
    found = flow.run(search_in(tmp_path / "index", at("clip")), store=None, device="cpu")
    assert sorted(found["names"]) == ["four", "one", "three", "two"]
    assert found["scores"] == sorted(found["scores"], reverse=True)


def test_an_index_of_another_model_is_refused_when_planning(at: Any, tmp_path: Path) -> None:
    """A query of another model than an index on the disk is refused before anything runs."""
    flow.run(graph_of(at("clip")), out=tmp_path, store=None, device="cpu")
    plan = flow.plan(search_in(tmp_path / "index", at("siglip2")), store=None, device="cpu")
    (problem,) = plan.problems
    made = json.loads((tmp_path / "index" / "config.json").read_text())["made_by"]["model"]
    assert problem.message.startswith(
        f"the index '{tmp_path / 'index'}' was made with another model than '{at('siglip2')}' (clip"
        f" {made[:8]}, not "
    )


def test_a_query_of_another_model_is_refused(tmp_path: Path) -> None:
    """What cannot be told before is refused when the index is searched, by both models."""
    index = built(tmp_path, vectors(4), names_of(4))
    with pytest.raises(ValueError) as caught:
        searched(index, vectors(1)[0], model="another-one")
    assert str(caught.value) == (
        "port 'query' is of another model than the index (clip another-, not clip of-a-tes); use"
        " the model that made the index, or build it again"
    )
    with pytest.raises(ValueError, match="port 'query' has 16 numbers, and those in the index"):
        searched(index, vectors(1, 16)[0])
    with pytest.raises(ValueError, match="port 'query' is not features: take the output of"):
        list(indexes.search(index, flow.Tensor(vectors(1)[0])))


def test_with_tiny_models_an_index_that_is_not_there_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that searches an index can be tried with `tiny` before there is one: nothing is found,
    with a note; one that is there is searched.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = "hf:facebook/dinov2-base"
    graph = search_in(tmp_path / "index", model, "image.features")
    found = flow.run(graph, store=None, tiny=True, device="cpu")
    assert (found["names"], [note.message for note in found.notes]) == ([], ["the index is empty"])
    flow.run(graph_of(model), out=tmp_path, store=None, tiny=True, device="cpu")
    found = flow.run(graph, store=None, tiny=True, device="cpu")
    assert sorted(found["names"]) == ["four", "one", "three", "two"]


# --- adding ---------------------------------------------------------------------------------------


def test_entries_are_added_and_replaced(tmp_path: Path) -> None:
    """New names go to the end, known ones get new features in their place; the index that they are
    added to stays as it is.
    """
    found = vectors(6)
    before = built(tmp_path, found[:3], ["a", "b", "c"])
    model = indexes.add(before, tensors(found[3:]), ["d", "b", "e"], tmp_path / "added")
    after = loaded(model_at(model.path))
    assert after.names == ("a", "b", "c", "d", "e")
    assert np.array_equal(after.array, found[[0, 4, 2, 3, 5]])
    assert np.array_equal(before.array, found[:3])
    whole = indexes.build(tensors(found[[0, 4, 2, 3, 5]]), list("abcde"), tmp_path / "whole")
    assert model_at(whole.path).digest == model_at(model.path).digest


def test_nothing_is_added_to_an_index_or_to_nothing(tmp_path: Path) -> None:
    """An index with nothing added is the same one; to an empty one, entries of any model are
    added.
    """
    found = vectors(2)
    index = built(tmp_path, found, ["a", "b"])
    same = indexes.add(index, [], [], tmp_path / "same")
    assert model_at(same.path).digest == model_at(tmp_path / "a" / "index").digest
    empty = loaded(model_at(indexes.build([], [], tmp_path / "empty").path))
    first = indexes.add(empty, tensors(found), ["a", "b"], tmp_path / "first")
    assert model_at(first.path).digest == model_at(tmp_path / "a" / "index").digest
    none = indexes.add(empty, [], [], tmp_path / "none")
    assert loaded(model_at(none.path)).names == ()
    with pytest.raises(ValueError, match="port 'features' is of another model than the index"):
        indexes.add(index, tensors(found, model="other"), ["c", "d"], tmp_path / "bad")


@pytest.mark.parametrize(
    ("features", "names", "message"),
    [
        (tensors(vectors(2)), ["a"], "'features' has 2 elements and 'names' has 1"),
        (tensors(vectors(2)), ["a", "a"], "port 'names' has 'a' twice: elements 0 and 1"),
        (tensors(vectors(1)), ["a\0b"], "port 'names', element 0, is 'a\\x00b'"),
        (tensors(vectors(1)), ["\ud800"], "port 'names', element 0, is '\\ud800'"),
        ([flow.Tensor(vectors(1)[0])], ["a"], "port 'features' is not features"),
        (tensors(vectors(2)[None]), ["a"], "port 'features' is not features"),
        (tensors(np.zeros((1, 8), "float32")), ["a"], "features that are all zero point nowhere"),
        (
            tensors(np.full((1, 8), np.inf, "float32")),
            ["a"],
            "features that are not finite cannot be compared",
        ),
        (
            [*tensors(vectors(1)), *tensors(vectors(1), model="other")],
            ["a", "b"],
            "port 'features', element 1, is of another model than the elements before it",
        ),
        (
            [*tensors(vectors(1)), *tensors(vectors(1, 8))],
            ["a", "b"],
            "port 'features', element 1, has 8 numbers, and element 0 has 32",
        ),
    ],
)
def test_what_cannot_be_indexed_is_refused(
    tmp_path: Path, features: list[flow.Tensor], names: list[str], message: str
) -> None:
    """Each fault in what is to be indexed is told by port and element."""
    with pytest.raises(ValueError) as caught:
        indexes.build(features, names, tmp_path)
    assert message in str(caught.value)


# --- indexes of strangers -------------------------------------------------------------------------


def spoilt(folder: Path, **said: Any) -> flow.Model:
    """Change what an index says of itself."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **said}))
    return model_at(folder)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"count": 5}, "config.json and index.safetensors do not agree"),
        ({"count": 10**12}, "config.json and index.safetensors do not agree"),
        ({"count": "4"}, "config.json and index.safetensors do not agree"),
        ({"count": True}, "config.json and index.safetensors do not agree"),
        ({"dimension": 16}, "config.json and index.safetensors do not agree"),
        ({"made_by": ["clip"]}, "config.json and index.safetensors do not agree"),
        ({"made_by": {"model": 1}}, "config.json and index.safetensors do not agree"),
    ],
)
def test_an_index_whose_configuration_lies_is_refused(
    tmp_path: Path, said: dict[str, Any], message: str
) -> None:
    """What an index says of itself is compared with its file, before the file is read."""
    folder = index_folder.write(tmp_path / "index", vectors(4), names_of(4), MADE)
    model = spoilt(folder, **said)
    wanted = f"the index '…' is damaged: {message}; build it again"
    assert refusal(model) == wanted
    with pytest.raises(flow.ModelError):
        indexes.IndexLoader().check(model)


def test_an_index_of_another_kind_or_format_is_refused(tmp_path: Path) -> None:
    """A folder that is no index, or of a later version, is told as such."""
    folder = index_folder.write(tmp_path / "index", vectors(4), names_of(4), MADE)
    assert refusal(spoilt(folder, format=2)) == (
        "the index '…' is of the format 2, and this version reads 1: build it again"
    )
    assert refusal(spoilt(folder, model_type="clip")) == (
        "index.search cannot use the model '…': it is a clip, but index.search supports"
        " imagen-flow-index"
    )


def write_tensors(folder: Path, **tensors: np.ndarray) -> flow.Model:
    from safetensors.numpy import save_file

    save_file(tensors, folder / "index.safetensors")
    return model_at(folder)


def test_an_index_whose_file_is_not_what_it_should_be_is_refused(tmp_path: Path) -> None:
    """Vectors of other lengths or that are not numbers, too few or unreadable names, and a cut file
    are refused; nothing that the file holds is run, and no more memory is taken than its size.
    """
    folder = index_folder.write(tmp_path / "index", vectors(4), names_of(4), MADE)
    names = np.frombuffer("\0".join(names_of(4)).encode(), "uint8")
    good = vectors(4)
    broken = "the index '…' is damaged: "
    for found in (good * 2, np.where(good == good[2, 3], np.float32("nan"), good), good * 0):
        model = write_tensors(folder, vectors=found, names=names)
        assert refusal(model) == f"{broken}its vectors are not of length 1; build it again"
    for text in (b"a\0b\0c", b"a\0b\0c\0d\0e", b"", bytes(1_000_000)):
        model = write_tensors(folder, vectors=good, names=np.frombuffer(text, "uint8"))
        assert refusal(model) == f"{broken}it does not have 4 names; build it again"
    model = write_tensors(folder, vectors=good, names=np.frombuffer(b"\xff\0b\0c\0d", "uint8"))
    assert refusal(model) == f"{broken}its names are not UTF-8; build it again"
    for tensors in ({"vectors": good}, {"names": names}, {"vectors": good, "names": good}):
        model = write_tensors(folder, **tensors)
        assert "do not agree" in refusal(model)
    (folder / "index.safetensors").unlink()
    (folder / "other.safetensors").write_bytes(b"")
    assert "do not agree" in refusal(flow.Model(folder, "x", "x"))
    (folder / "other.safetensors").unlink()
    index_folder.write(folder, good, names_of(4), MADE)
    whole = (folder / "index.safetensors").read_bytes()
    (folder / "index.safetensors").write_bytes(whole[:-1])
    with pytest.raises(flow.ImagenFlowError, match="not a complete safetensors file"):
        model_at(folder)
