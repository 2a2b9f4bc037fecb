"""Garbage collection is paused while a graph and a plan are built, and goes on afterwards."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from imagen_flow._graph import resolve
from imagen_flow._plan import make_plan
from imagen_flow._plugins.registry import Registry
from imagen_flow._system.collection import paused_collection
from imagen_flow._text import spec
from imagen_flow.errors import GraphError

COUNT = 3000


@contextmanager
def collections() -> Iterator[list[int]]:
    """Gather the generations of the collections that begin meanwhile."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(info["generation"])

    gc.collect()
    gc.callbacks.append(note)
    try:
        yield seen
    finally:
        gc.callbacks.remove(note)


def graph(registry: Registry, count: int = COUNT) -> dict[str, Any]:
    """A chain of nodes of a local type."""
    from imagen_flow import node

    @node("toy.next", version=1)
    def successor(value: int) -> int:
        """Add one."""
        return value + 1

    registry.add(successor)
    nodes = {"n0": {"type": "toy.next", "value": 0}} | {
        f"n{i}": {"type": "toy.next", "value": f"${{n{i - 1}}}"} for i in range(1, count)
    }
    return {"imagen_flow": 1, "nodes": nodes, "outputs": {"last": f"${{n{count - 1}}}"}}


def test_nothing_is_collected_while_a_plan_is_built() -> None:
    """Reading, resolving and planning thousands of nodes starts no collection; then it goes on."""
    registry = Registry({})
    drawn = graph(registry)
    text = json.dumps(drawn)

    def built(work: Callable[[], Any]) -> Any:
        # Inside, as what is allocated before and after the call counts for its caller.
        with collections() as seen:
            made = work()
        assert len(seen) <= 1, seen  # the one that is due when it goes on
        assert gc.isenabled()
        return made

    built(lambda: spec.parse_mapping(drawn))
    parsed = built(lambda: spec.parse(text, name="x.json"))
    resolved = built(lambda: resolve(parsed, registry))
    assert len(built(lambda: make_plan(resolved)).steps) == COUNT


def test_it_goes_on_after_an_error() -> None:
    """A graph with problems does not leave it off."""
    with pytest.raises(GraphError):
        resolve(spec.parse("nodes: {a: {type: none.such}}", name="x.yaml"), Registry({}))
    assert gc.isenabled()


def test_who_has_it_off_keeps_it_off() -> None:
    """Collection that was off before, or is paused by somebody else, is not turned on."""
    gc.disable()
    try:
        with paused_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    finally:
        gc.enable()
    with paused_collection(), paused_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
