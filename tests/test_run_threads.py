"""Runs one after another compute in one thread; runs beside one another never wait for it."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import imagen_flow as flow
from imagen_flow._models import ModelPool
from imagen_flow._models.run_threads import RunThreads
from imagen_flow._plugins.registry import Registry
from imagen_flow._settings import devices
from imagen_flow._store import Store


def carry_out(threads: RunThreads, work: Callable[[], None]) -> None:
    over = threading.Event()
    threads.start(work, over)
    assert over.wait(10)


def where(threads: RunThreads) -> threading.Thread:
    """The thread that the next work is done in."""
    found: list[threading.Thread] = []
    carry_out(threads, lambda: found.append(threading.current_thread()))
    return found[0]


def test_one_after_another_is_one_thread() -> None:
    """Whoever waits for work to be over finds its thread idle, however fast they are."""
    threads = RunThreads()
    assert len({where(threads) for _ in range(20)}) == 1
    found: list[threading.Thread] = []

    class AtOnce(threading.Event):
        """Begins the next work in the very moment in which the last one is over."""

        def set(self) -> None:
            threads.start(lambda: found.append(threading.current_thread()), last)
            super().set()

    last = threading.Event()
    threads.start(lambda: found.append(threading.current_thread()), AtOnce())
    assert last.wait(10)
    assert found[0] is found[1]
    threads.close()


def test_beside_one_another_is_a_thread_each() -> None:
    """Work starts at once, however many do not end; the thread used last is taken first."""
    threads = RunThreads()
    release, overs, began = threading.Event(), [], threading.Barrier(4)

    def stuck() -> None:
        began.wait(10)
        release.wait(10)

    for _ in range(3):
        overs.append(threading.Event())
        threads.start(stuck, overs[-1])
    began.wait(10)  # all three are at it
    last = where(threads)
    assert where(threads) is last
    release.set()
    assert all(over.wait(10) for over in overs)
    threads.close()


def test_the_lane_used_last_is_taken_first() -> None:
    """Of several idle threads, a run gets the one that became idle last, whose thread still has its
    team of OpenMP threads; the others may end.
    """
    threads = RunThreads()
    found: dict[str, threading.Thread] = {}
    gates = {name: threading.Event() for name in "abc"}
    overs = {name: threading.Event() for name in "abc"}
    began = threading.Barrier(4)

    def work(name: str) -> None:
        found[name] = threading.current_thread()
        began.wait(10)
        gates[name].wait(10)

    for name in "abc":
        threads.start(partial(work, name), overs[name])
    began.wait(10)
    for name in "bca":
        gates[name].set()
        assert overs[name].wait(10)
    assert where(threads) is found["a"]
    threads.close()


def test_closed_run_threads_leave_no_thread() -> None:
    """Idle threads end, one at work ends with its work, and what starts afterwards has a thread for
    itself.
    """
    threads = RunThreads()
    idle = where(threads)
    ran_in: list[threading.Thread] = []

    def close() -> None:
        ran_in.append(threading.current_thread())
        threads.close()

    carry_out(threads, close)
    assert ran_in == [idle]
    idle.join(10)
    later = where(threads)
    later.join(10)
    assert not idle.is_alive() and not later.is_alive()


def test_a_run_with_models_of_its_own_leaves_no_thread() -> None:
    """Its thread ends with it, and does not wait for another run that cannot come."""
    before = set(threading.enumerate())
    nodes = {"n": {"type": "list.range", "count": 2}}
    flow.run({"imagen_flow": 1, "nodes": nodes, "outputs": {"n": "${n}"}}, store=None)
    for thread in set(threading.enumerate()) - before:
        thread.join(2)
        assert not thread.is_alive(), thread


def test_a_lane_that_nobody_needs_ends() -> None:
    """An idle thread gives its OpenMP team back; the next work has a new one."""
    threads = RunThreads(idle_s=0.01)
    first = where(threads)
    first.join(10)
    assert not first.is_alive()
    assert where(threads) is not first


def test_no_work_is_lost_between_idling_and_ending() -> None:
    """Work that comes at the very moment at which a thread gives up is done."""
    threads = RunThreads(idle_s=0.001)
    for n in range(300):
        where(threads)
        time.sleep(0.001 * (n % 3) / 2)


def test_work_leaves_nothing_behind() -> None:
    """Neither its context variables nor what it held are seen by, or kept for, the next."""
    threads, told = RunThreads(), contextvars.ContextVar("told", default="nothing")

    class Held:
        pass

    gone = threading.Event()

    def first() -> None:
        told.set("something")

    def begin() -> None:
        import weakref

        held = Held()
        weakref.finalize(held, gone.set)

        def work(held: Held = held) -> None:
            first()

        carry_out(threads, work)

    begin()
    assert gone.wait(10)
    said: list[str] = []
    carry_out(threads, lambda: said.append(told.get()))
    assert said == ["nothing"]
    threads.close()


def test_a_lane_outlives_what_its_work_raises() -> None:
    """`over` is set whatever happens."""
    threads = RunThreads()
    raised: list[BaseException | None] = []
    hook, threading.excepthook = threading.excepthook, lambda args: raised.append(args.exc_value)
    try:
        over = threading.Event()
        threads.start(lambda: 1 / 0, over)  # type: ignore[arg-type,return-value]
        assert over.wait(10)
    finally:
        threading.excepthook = hook
    where(threads)
    threads.close()


def test_a_fork_has_lanes_of_its_own() -> None:
    """A process that is forked finds its parent's threads ended, and starts new ones."""
    code = """
import os, threading, warnings
warnings.simplefilter("ignore")
from imagen_flow._models.run_threads import RunThreads
threads = RunThreads()
def carry_out():
    over = threading.Event()
    threads.start(lambda: None, over)
    return over.wait(5)
assert carry_out()
child = os.fork()
if child == 0:
    os._exit(0 if carry_out() else 1)
assert os.waitpid(child, 0)[1] == 0
assert carry_out()
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (said.returncode, said.stderr) == (0, "")


# ---- how torch computes


@pytest.fixture
def threads() -> Iterator[int]:
    """The number of threads that torch uses, put back afterwards."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_a_lane_computes_with_as_many_threads_as_its_caller(threads: int) -> None:
    """Also one that has computed before with another number, which torch then keeps for it."""
    threads = RunThreads()
    found: list[int] = []

    def compute() -> None:
        torch.ones(200, 200) @ torch.ones(200, 200)
        found.append(torch.get_num_threads())

    for count in (1, 3, 2, 2, 1):
        torch.set_num_threads(count)
        carry_out(threads, compute)
    assert found == [1, 3, 2, 2, 1]
    threads.close()


SWITCHES: dict[str, tuple[Callable[[], object], Callable[[], object], str]] = {
    "threads": (lambda: torch.set_num_threads(3), torch.get_num_threads, "number of threads"),
    "dtype": (
        lambda: torch.set_default_dtype(torch.float64),
        torch.get_default_dtype,
        "default dtype",
    ),
    "device": (
        lambda: torch.set_default_device("meta"),
        torch.get_default_device,
        "default device",
    ),
    "gradients": (
        lambda: torch.set_grad_enabled(not torch.is_grad_enabled()),
        torch.is_grad_enabled,
        "recording of gradients",
    ),
    "deterministic": (
        lambda: torch.use_deterministic_algorithms(True),
        torch.are_deterministic_algorithms_enabled,
        "choice of deterministic algorithms",
    ),
    "precision": (
        lambda: torch.set_float32_matmul_precision("medium"),
        torch.get_float32_matmul_precision,
        "precision of matrix products",
    ),
}


@flow.node("toy.switch", version=1, uses=("torch",))
def switch(which: str, fails: bool = False, after: str = "") -> str:
    """Throw one of torch's switches and leave it so."""
    SWITCHES[which][0]()
    if fails:
        raise ValueError("it fails besides")
    return which


@flow.node("toy.stands", version=1, uses=("torch",))
def stands(which: str, after: str = "") -> str:
    """Say how one stands."""
    return str(SWITCHES[which][1]())


@pytest.mark.parametrize("fails", [False, True], ids=["", "fails"])
@pytest.mark.parametrize("which", SWITCHES)
def test_what_a_node_does_to_torch_ends_with_it(
    threads: int, which: str, fails: bool, tmp_path: Path
) -> None:
    """Neither the next step, nor the next run with the same models, nor the caller computes
    otherwise; the user is told, and a step's record says with how many threads it ended.
    """
    registry = Registry({})
    registry.add(switch)
    registry.add(stands)
    nodes: dict[str, Any] = {
        "thrown": {"type": "toy.switch", "which": which, "fails": fails},
        "next": {"type": "toy.stands", "which": which, "after": "" if fails else "${thrown}"},
    }
    first = {
        "imagen_flow": 1,
        "nodes": nodes,
        "outputs": {"next": "${next}", "thrown": "${thrown}"},
    }
    later = {
        "imagen_flow": 1,
        "nodes": {"next": {"type": "toy.stands", "which": which, "after": "later"}},
        "outputs": {"next": "${next}"},
    }
    before = str(SWITCHES[which][1]())
    told: list[Any] = []
    with ModelPool() as pool:
        plan = flow.plan(
            flow.load(first, registry=registry), store=tmp_path / "store", device="cpu"
        )
        told = list(flow.execute(plan, pool=pool))
        assert {
            event.output: event.value
            for event in told
            if isinstance(event, flow.events.OutputWritten)
        } == {"next": before, **({} if fails else {"thrown": which})}
        assert (
            flow.run(flow.load(later, registry=registry), store=None, device="cpu", pool=pool)[
                "next"
            ]
            == before
        )
    assert str(SWITCHES[which][1]()) == before
    assert [event.message for event in told if isinstance(event, flow.events.StepNote)] == [
        f"toy.switch changed torch's {SWITCHES[which][2]} for the whole process; they were restored"
    ]
    if which == "threads" and not fails:
        with Store.open(tmp_path / "store", registry.codecs) as store:
            records = {
                step.type_name: store.lookup(step.key or "")
                for step in flow.plan(
                    flow.load(first, registry=registry), store=store, device="cpu"
                ).steps
            }
            assert {
                name: record.provenance["conditions"]["threads"]
                for name, record in records.items()
                if record
            } == {"toy.switch": 3, "toy.stands": threads}


def test_switches_of_the_process_are_left_alone_while_another_node_runs(threads: int) -> None:
    """Libraries set the default dtype for a moment while they load: it is not taken for what a node
    beside did, nor put back under them.
    """
    other, done = threading.Event(), threading.Event()
    told: list[list[str]] = []

    def load() -> None:
        with devices.RestoredSwitches(lambda names, _: told.append(names)):
            torch.set_default_dtype(torch.float64)
            other.set()
            assert done.wait(10)
            torch.set_default_dtype(torch.float32)

    thread = threading.Thread(target=load)
    with devices.RestoredSwitches(lambda names, _: told.append(names)):
        thread.start()
        assert other.wait(10)
    assert torch.get_default_dtype() == torch.float64
    done.set()
    thread.join()
    assert (torch.get_default_dtype(), told) == (torch.float32, [])
