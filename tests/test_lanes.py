"""Runs one after another compute in one thread; runs beside one another never wait for it."""

from __future__ import annotations

import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from imagen_flow.lanes import Lanes


def carry_out(lanes: Lanes, work: Callable[[], None]) -> None:
    over = threading.Event()
    lanes.start(work, over)
    assert over.wait(10)


def where(lanes: Lanes) -> threading.Thread:
    """The thread that the next work is done in."""
    found: list[threading.Thread] = []
    carry_out(lanes, lambda: found.append(threading.current_thread()))
    return found[0]


def test_one_after_another_is_one_thread() -> None:
    """Whoever waits for work to be over finds its lane idle, however fast they are."""
    lanes = Lanes()
    assert len({where(lanes) for _ in range(20)}) == 1
    found: list[threading.Thread] = []

    class AtOnce(threading.Event):
        """Begins the next work in the very moment in which the last one is over."""

        def set(self) -> None:
            lanes.start(lambda: found.append(threading.current_thread()), last)
            super().set()

    last = threading.Event()
    lanes.start(lambda: found.append(threading.current_thread()), AtOnce())
    assert last.wait(10)
    assert found[0] is found[1]
    lanes.close()


def test_beside_one_another_is_a_thread_each() -> None:
    """Work starts at once, however many do not end; the lane used last is taken first."""
    lanes = Lanes()
    release, overs, began = threading.Event(), [], threading.Barrier(4)

    def stuck() -> None:
        began.wait(10)
        release.wait(10)

    for _ in range(3):
        overs.append(threading.Event())
        lanes.start(stuck, overs[-1])
    began.wait(10)  # all three are at it
    last = where(lanes)
    assert where(lanes) is last
    release.set()
    assert all(over.wait(10) for over in overs)
    lanes.close()


def test_a_closed_pool_of_lanes_leaves_no_thread() -> None:
    """Idle threads end, one at work ends with its work, and what starts afterwards has a thread for itself."""
    lanes = Lanes()
    idle = where(lanes)
    threads: list[threading.Thread] = []

    def close() -> None:
        threads.append(threading.current_thread())
        lanes.close()

    carry_out(lanes, close)
    assert threads == [idle]
    idle.join(10)
    later = where(lanes)
    later.join(10)
    assert not idle.is_alive() and not later.is_alive()


def test_a_lane_that_nobody_needs_ends() -> None:
    """An idle thread gives its OpenMP team back; the next work has a new one."""
    lanes = Lanes(idle_s=0.01)
    first = where(lanes)
    first.join(10)
    assert not first.is_alive()
    assert where(lanes) is not first


def test_no_work_is_lost_between_idling_and_ending() -> None:
    """Work that comes at the very moment at which a lane gives up is done."""
    lanes = Lanes(idle_s=0.001)
    for n in range(300):
        where(lanes)
        time.sleep(0.001 * (n % 3) / 2)


def test_work_leaves_nothing_behind() -> None:
    """Neither its context variables nor what it held are seen by, or kept for, the next."""
    lanes, told = Lanes(), contextvars.ContextVar("told", default="nothing")

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

        carry_out(lanes, work)

    begin()
    assert gone.wait(10)
    said: list[str] = []
    carry_out(lanes, lambda: said.append(told.get()))
    assert said == ["nothing"]
    lanes.close()


def test_a_lane_outlives_what_its_work_raises() -> None:
    """`over` is set whatever happens."""
    lanes = Lanes()
    raised: list[BaseException | None] = []
    hook, threading.excepthook = threading.excepthook, lambda args: raised.append(args.exc_value)
    try:
        over = threading.Event()
        lanes.start(lambda: 1 / 0, over)  # type: ignore[arg-type,return-value]
        assert over.wait(10)
    finally:
        threading.excepthook = hook
    where(lanes)
    lanes.close()


def test_a_fork_has_lanes_of_its_own() -> None:
    """A process that is forked finds its parent's lanes without threads, and starts new ones."""
    code = """
import os, threading, warnings
warnings.simplefilter("ignore")
from imagen_flow.lanes import Lanes
lanes = Lanes()
def carry_out():
    over = threading.Event()
    lanes.start(lambda: None, over)
    return over.wait(5)
assert carry_out()
child = os.fork()
if child == 0:
    os._exit(0 if carry_out() else 1)
assert os.waitpid(child, 0)[1] == 0
assert carry_out()
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (said.returncode, said.stderr) == (0, "")
