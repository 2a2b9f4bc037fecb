"""Each step computes with the implementation of attention that it asks for, whatever others ask for
at the same time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import imagen_flow as flow
from imagen_flow import loaders
from imagen_flow._models import ModelPool, attention, lend_and_call
from imagen_flow._models.attention import attending
from imagen_flow._models.run_threads import RunThreads
from imagen_flow._types.models import Loading, Model


def enabled() -> str:
    """What torch may attend with now, as far as it matters here."""
    return (
        "math"
        if not torch.backends.cuda.flash_sdp_enabled()
        else "flash"
        if not torch.backends.cuda.math_sdp_enabled()
        else "auto"
    )


@pytest.fixture(autouse=True)
def left_as_it_was() -> Any:
    """Whatever happens, torch chooses again afterwards."""
    assert enabled() == "auto"
    yield
    assert (enabled(), attention._SWITCH.count, list(attention._SWITCH.queue)) == ("auto", 0, [])


def at_once(*works: Callable[[], None]) -> None:
    """Do works in threads of their own; none may be stuck, or fail."""
    failures: list[BaseException] = []

    def done(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=done, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []


def test_steps_that_ask_for_the_same_compute_at_once() -> None:
    """Each waits for the other in the midst of its step."""
    both = threading.Barrier(2)

    def step() -> None:
        with attending("math"):
            both.wait(10)
            assert enabled() == "math"
            both.wait(10)

    at_once(step, step)


def test_steps_that_ask_for_others_do_not() -> None:
    """Many of three kinds, in as many threads as there are: at each time torch is set to what the
    step asked for.
    """
    seen: set[tuple[str, str]] = set()

    def steps(name: str) -> Callable[[], None]:
        def work() -> None:
            for _ in range(50):
                with attending(name):
                    seen.add((name, enabled()))
                    threading.Event().wait(0.0001)
                    seen.add((name, enabled()))

        return work

    at_once(*(steps(name) for name in ("math", "flash", "auto") * 2))
    assert seen == {("math", "math"), ("flash", "flash"), ("auto", "auto")}


def test_who_waits_is_not_passed_by_for_ever() -> None:
    """A stream of steps of one kind, always some at work, lets one of another kind in."""
    let_in = threading.Event()
    began = threading.Barrier(3)

    def stream() -> None:
        with attending("auto"):
            began.wait(10)
            threading.Event().wait(0.05)
        while not let_in.is_set():
            with attending("auto"):
                threading.Event().wait(0.001)

    def other() -> None:
        began.wait(10)
        with attending("math"):
            let_in.set()

    at_once(stream, stream, other)


@pytest.mark.parametrize("inner", ["auto", "math", "flash"])
def test_a_step_that_runs_a_graph_gives_it_the_switch(inner: str) -> None:
    """Its steps compute in another thread as they ask, and it goes on as it asked, also while a
    third of another kind waits.
    """
    threads, seen, waits = RunThreads(), [], threading.Event()

    def within() -> None:
        with attending(inner):
            seen.append(enabled())

    def outer() -> None:
        with attending("math"):
            waits.set()
            while not attention._SWITCH.queue:
                threading.Event().wait(0.001)
            over = threading.Event()
            threads.start(within, over)
            assert over.wait(10)
            seen.append(enabled())

    def third() -> None:
        assert waits.wait(10)
        with attending("flash"):
            pass

    at_once(outer, third)
    threads.close()
    assert seen == [inner, "math"]


def test_a_graph_that_outlasts_its_step_takes_nothing_back() -> None:
    """A run that was left behind in a call that nobody can interrupt ends after the step that
    started it.
    """
    threads, began, release, over = (
        RunThreads(),
        threading.Event(),
        threading.Event(),
        threading.Event(),
    )

    def within() -> None:
        with attending("flash"):
            began.set()
            assert release.wait(10)
            assert enabled() == "flash"

    def outer() -> None:
        with attending("math"):
            threads.start(within, over)
            assert began.wait(10)

    at_once(outer)
    assert not over.is_set()
    release.set()
    assert over.wait(10)
    threads.close()


def test_several_graphs_of_one_step_take_back_once() -> None:
    """They run at once in threads that the step made with its context; when they have ended it has
    what it had.
    """

    def within() -> None:
        for _ in range(3):
            with attending("auto"):
                threading.Event().wait(0.001)

    def outer() -> None:
        with attending("math"):
            for _ in range(10):
                at_once(*[partial(copy_context().run, within) for _ in range(3)])
            assert (enabled(), attention._SWITCH.count) == ("math", 1)

    at_once(outer)


class Attending(loaders.Loader[Any]):
    """A loader of a model that attends."""

    settings = ("attention",)

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Any:
        return torch.nn.functional.scaled_dot_product_attention


def test_a_step_beside_another_gives_what_it_gives_alone() -> None:
    """Bit for bit: on the CPU two implementations differ in the last ones, so that a step under the
    other's would be told.
    """
    torch.manual_seed(0)
    given = [torch.randn(1, 4, 128, 32) for _ in range(3)]
    model = Model(Path("/nowhere"), "m", "./m")
    with ModelPool() as pool:

        def step(name: str) -> torch.Tensor:
            result, _ = lend_and_call(
                pool,
                {"m": (Attending(), model)},
                lambda lent, taken: torch.stack([lent["m"](*given) for _ in range(20)]),
                device="cpu",
                dtype="float32",
                settings=Loading(attention=name),
            )
            assert bool((result == result[0]).all())
            return result[0]

        alone = {name: step(name) for name in ("auto", "math")}
        assert not torch.equal(*alone.values())

        def repeated(name: str) -> Callable[[], None]:
            def work() -> None:
                for _ in range(20):
                    assert torch.equal(step(name), alone[name])

            return work

        at_once(repeated("auto"), repeated("math"), repeated("auto"))


@flow.node("toy.around", version=1, uses=("torch",))
def around(model: Model[Attending]) -> flow.Text:  # type: ignore[type-arg]
    """Run a graph of one's own, and say what torch attends with in it and after it."""
    inner = flow.run(
        {"imagen_flow": 1, "nodes": {"n": {"type": "toy.seen"}}, "outputs": {"o": "${n}"}},
        store=None,
        device="cpu",
        plugins=[__file__],
    )
    return f"{inner['o']} in {enabled()}"


@flow.node("toy.seen", version=1, uses=("torch",))
def seen() -> flow.Text:
    """Say what torch attends with."""
    return enabled()


def test_a_node_that_runs_a_graph_does_not_wait_for_itself(tmp_path: Path) -> None:
    """The graph's nodes attend as they ask, in its midst."""
    from safetensors.torch import save_file

    from imagen_flow._graph import resolve
    from imagen_flow._plan import make_plan
    from imagen_flow._plugins.registry import Registry
    from imagen_flow._run import execute
    from imagen_flow._text.spec import parse

    save_file({"w": torch.zeros(1)}, tmp_path / "m.safetensors")
    registry = Registry({})
    registry.add(around)
    text = 'imagen_flow: 1\nsettings: {attention: math}\nnodes:\n  n: {type: toy.around, model: ./m.safetensors}\noutputs:\n  o: "${n}"\n'
    plan = make_plan(
        resolve(parse(text, name="g.yaml", path=tmp_path / "g.yaml"), registry),
        store=None,
        device="cpu",
    )
    values = [event.value for event in execute(plan) if hasattr(event, "value")]
    assert "auto in math" in values
