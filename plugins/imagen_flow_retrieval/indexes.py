"""Nodes that build an index of pictures, add to it, and search it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from imagen_flow import (
    Json,
    List,
    Model,
    ModelError,
    Progress,
    Range,
    Scratch,
    Steps,
    Tensor,
    Text,
    node,
)
from imagen_flow.loaders import Leased, Loader, Loading, derived_folder, require_library

from . import index_folder, searching
from .vectors import MADE_BY, made_by, matrix, named

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Index:
    """A loaded index. `vectors` is a torch tensor, so that its memory is counted."""

    described: index_folder.Described
    vectors: Any
    names: tuple[str, ...]
    codes: searching.Codes | None

    @property
    def array(self) -> np.ndarray:
        array: np.ndarray = self.vectors.numpy()
        return array


class IndexLoader(Loader[Index]):
    """Loads an index from its folder."""

    def check(self, model: Model) -> None:
        index_folder.describe(model, "index.search")

    def check_support(self, model: Model, *, device: str, dtype: str, settings: Loading) -> None:
        count = index_folder.describe(model, "index.search").count
        if count > searching.EXACT:
            require_library(
                "faiss", f"an index of more than {searching.EXACT:,} entries", extra="retrieval"
            )

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Index:
        described, vectors, names = index_folder.read(model, "index.search")
        return Index(
            described,
            vectors,
            names,
            _codes(model, vectors.numpy()) if described.count > searching.EXACT else None,
        )


def _codes(model: Model, vectors: np.ndarray) -> searching.Codes:
    import faiss

    of = {"what": "codes of an index", "faiss": faiss.__version__}
    return searching.prepared_codes(
        vectors, lambda write: derived_folder(model, write, of=of, libraries=("numpy",))
    )


@node("index.build", version=1, uses=("numpy",), paired=("features", "names"))
def build(features: List[Tensor], names: List[Text], scratch: Scratch) -> Model:
    """Build an index of pictures by their features, to search it by words or by pictures.

    Inputs:
        features: of each picture, by `image.features` with one model. A list of texts can be
            indexed likewise.
        names: of the pictures, in the same order; each once.

    Outputs:
        the index: a folder with ``config.json`` and ``index.safetensors``. Give it to `index.search`
            in this graph, or write it as an output and name its folder in another graph. Of no
            features it is an empty index.

    Raises:
        ValueError: the lists differ in length, a name is given twice or has a null character, or
            the features are of several models, zero, or no features.
    """
    return _written(scratch, *_entries(features, names))


@node("index.add", version=1, uses=("numpy",), paired=("features", "names"))
def add(
    index: Annotated[Index, Leased(IndexLoader)],
    features: List[Tensor],
    names: List[Text],
    scratch: Scratch,
) -> Model:
    """Add pictures to an index, or replace those whose names it has.

    Inputs:
        index: is not changed itself.
        features: of the model that made those in the index.
        names: of the pictures, in the same order; each once.

    Outputs:
        an index of all of them: replaced pictures keep their positions, new ones are at the end.

    Raises:
        ValueError: as `index.build`, or the features are of another model than the index.
    """
    import numpy as np

    vectors, names, made = _entries(features, names)
    described = index.described
    if not described.count or not names:
        return (
            _written(scratch, vectors, names, made)
            if names
            else _written(scratch, index.array, index.names, described.made_by)
        )
    _check_made(made, described.made_by, "features")
    where = {name: position for position, name in enumerate(index.names)}
    known = [position for position, name in enumerate(names) if name in where]
    new = [position for position, name in enumerate(names) if name not in where]
    joined = np.concatenate([index.array, vectors[new]])
    joined[[where[names[position]] for position in known]] = vectors[known]
    return _written(scratch, joined, [*index.names, *(names[position] for position in new)], made)


class Found(NamedTuple):
    """What a search found, the most similar first."""

    matches: List[Json]
    names: List[Text]
    scores: List[float]
    positions: List[int]


@node("index.search", version=1, uses=("faiss-cpu", "numpy"))
def search(
    index: Annotated[Index, Leased(IndexLoader)],
    query: Tensor,
    *,
    count: Annotated[int, Range(1, 10_000)] = 10,
) -> Steps[Found]:
    """Find the pictures of an index that are most similar to a picture, or fit a text best.

    Inputs:
        index: from `index.build`, or the folder of one that was written.
        query: `image.features` of a picture, or `text.features` of a text, by the model that made
            the features in the index.

    Params:
        count: the most that are found.

    Outputs:
        matches: a record for each: ``name``, ``score`` and ``position``. Write them as a table with
            a path that ends in .jsonl or .csv.
        names: their names.
        scores: the cosines of their features and the query's, -1 to 1, rounded to six digits. The
            highest come first; equal ones are in the order of their names.
        positions: their positions in the index, from 0. Where the index was built in the same
            graph, `list.get` with ``each: {index: "${NODE.positions}"}`` gives the pictures that were
            at these positions. What was dropped (``on_error: drop``) has none: take the elements
            from a list that lacks it too, such as the pictures that features were made of.
            Indexes of up to 20,000 entries are compared one by one. In larger ones, candidates are
            chosen by codes first, and all are compared where these are not sure enough, which finds
            at least 99 % of the nearest; their scores are exact.

    Raises:
        ValueError: the query is no features, or of another model than the index.

    Source: ``faiss.IndexPQFastScan`` for the candidates of large indexes.
    """
    made = made_by([query], "query")
    if not index.described.count:
        yield Progress(1, 1, "the index is empty")
        return Found([], [], [], [])
    yield Progress(0, 1)
    _check_made(made, index.described.made_by, "query")
    if query.shape != (index.described.dimension,):
        raise ValueError(
            f"port 'query' has {query.shape[0]} numbers, and those in the index have"
            f" {index.described.dimension}, though both name the same model: build the index again"
        )
    found = searching.search(index.array, index.names, matrix([query])[0], count, index.codes)
    return Found(
        [{"name": m.name, "score": m.score, "position": m.position} for m in found],
        [match.name for match in found],
        [match.score for match in found],
        [match.position for match in found],
    )


@search.plan_check
def _check_search(models: Mapping[str, Any], upstream: Mapping[str, Any]) -> None:
    """Refuse, before anything runs, a query of another model than an index that is at hand."""
    _check_upstream(models, upstream, "query")


@add.plan_check
def _check_add(models: Mapping[str, Any], upstream: Mapping[str, Any]) -> None:
    _check_upstream(models, upstream, "features")


def _check_upstream(models: Mapping[str, Any], upstream: Mapping[str, Any], port: str) -> None:
    index, source = models.get("index"), upstream.get(port)
    model = source.models.get("model") if source is not None else None
    if index is None or not isinstance(model, Model) or model.digest == "unresolved":
        return
    made = index_folder.describe(index, "index.search").made_by
    if made and made.get(MADE_BY) != model.digest:
        raise ModelError(
            f"the index '{index.reference}' was made with another model than"
            f" '{model.reference}' ({named(made)}, not {model.digest[:8]}); use the model that made"
            " it, or build it again"
        )


def _check_made(made: Mapping[str, str], by: Mapping[str, str], port: str) -> None:
    if made != by:
        raise ValueError(
            f"port '{port}' is of another model than the index ({named(made)}, not {named(by)});"
            " use the model that made the index, or build it again"
        )


def _entries(
    features: Sequence[Tensor], names: Sequence[str]
) -> tuple[np.ndarray, list[str], Mapping[str, str]]:
    """Check what is to be in an index, and stack it."""
    import numpy as np

    if len(features) != len(names):
        raise ValueError(
            f"'features' has {len(features)} elements and 'names' has {len(names)}; they belong"
            " together one by one"
        )
    first: dict[str, int] = {}
    for position, name in enumerate(names):
        if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
            raise ValueError(
                f"port 'names', element {position}, is {name!a}: a name has no null characters and"
                " is valid Unicode"
            )
        if first.setdefault(name, position) != position:
            raise ValueError(
                f"port 'names' has '{name}' twice: elements {first[name]} and {position}; a name"
                " tells what was found"
            )
    made = made_by(features, "features")
    return matrix(features) if features else np.zeros((0, 0), "float32"), list(names), made


def _written(
    scratch: Any, vectors: np.ndarray, names: Sequence[str], made: Mapping[str, str]
) -> Model:
    return Model(index_folder.write(scratch / "index", vectors, names, made))
