"""For plugins whose nodes ask a service outside this machine: requests that can be cancelled, that
are tried again when the service is busy, and whose secrets stay secret.

A node that asks a service declares it by ``calls``, so that a plan says so before anything is sent,
and makes its request by `ask`::

    import os

    import imagen_flow as flow
    from imagen_flow import services


    @flow.node("toy.draw", version=1, calls="toy.example")
    def draw(prompt: str) -> flow.Steps[flow.Image]:
        key = services.secret("TOY_API_KEY", "the key of your account at toy.example")
        client = ToyClient(key)

        def request() -> bytes:
            try:
                return client.draw(prompt)
            except ToyBusy as busy:
                raise services.Busy(str(busy), retry_after_s=busy.seconds) from busy

        picture = yield from services.ask("toy.example", request, stop=client.close, secrets=[key])
        return decoded(picture)

Keys of accounts and addresses of services come from the environment alone: a graph is a stranger's
text, and could send a key elsewhere or print it.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Generic, TypeVar

from ._types.values import Progress
from .errors import ImagenFlowError

__all__ = ["Busy", "ServiceError", "ask", "secret"]

T = TypeVar("T")

#: How often a request is made at most, and how long to wait before the second time, in seconds; the
#: wait doubles each time. A service may ask for a longer one, up to the last.
TRIES, FIRST_WAIT_S, LONGEST_WAIT_S = 5, 0.5, 120.0

#: How long one request may take, in seconds.
REQUEST_S = 600.0

#: How often a waiting node lets itself be cancelled, in seconds.
_TICK_S = 0.05

#: The most of a service's own words that a message quotes.
_QUOTED = 500


class ServiceError(ImagenFlowError):
    """A service did not do what was asked."""


class Busy(Exception):
    """A request failed in a way that may pass: it is tried again.

    Params:
        retry_after_s: how long the service asks to wait, in seconds.
    """

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


def secret(variable: str, what: str) -> str:
    """Return a secret from the environment.

    Params:
        what: says what it is, for who has to set it.
    Raises:
        ServiceError: the variable is not set, or is no text that a request can carry.
    """
    found = os.environ.get(variable, "").strip()
    if not found:
        raise ServiceError(f"{variable} is not set: set it to {what}")
    if not (found.isascii() and found.isprintable()):
        raise ServiceError(f"{variable} has characters that {what} cannot have: set it again")
    return found


def ask(
    service: str,
    request: Callable[[], T],
    *,
    stop: Callable[[], object] | None = None,
    secrets: Sequence[str] = (),
    within_s: float = REQUEST_S,
) -> Generator[Progress, None, T]:
    """Make a request in a thread of its own, so that the node can be cancelled while it waits.

    Params:
        service: its name, for messages.
        request: makes the request once; raises `Busy` to be called again.
        stop: ends a request that is under way, from another thread. A request that goes on all the
            same is left to itself.
        secrets: texts that no message may have in it, whatever the service answers.
        within_s: how long one request may take.
    Raises:
        ServiceError: the request failed, took too long, or the service is busy for too long.
    """
    problem = ""
    for attempt in range(TRIES):
        answer = _Answer(request)
        try:
            yield from _wait(answer.done, within_s)
        except GeneratorExit:
            _end(stop)
            raise
        if not answer.done.is_set():
            _end(stop)
            raise ServiceError(f"{service} did not answer within {within_s:g} s")
        if answer.error is None:
            return answer.value
        problem = _plain(answer.error, secrets)
        if not isinstance(answer.error, Busy):
            # Without its cause: that may hold the request, and with it the key.
            raise ServiceError(f"{service}: {problem}") from None
        wanted = answer.error.retry_after_s
        if wanted is not None and wanted > LONGEST_WAIT_S:
            raise ServiceError(
                f"{service}: {problem}; it asks to try again in {wanted:,.0f} s"
            ) from None
        if attempt < TRIES - 1:
            back_off = FIRST_WAIT_S * 2**attempt * (1 + random.SystemRandom().random() / 4)
            yield from _wait(threading.Event(), back_off if wanted is None else wanted)
    raise ServiceError(f"{service}: {problem}; it was asked {TRIES} times")


class _Answer(Generic[T]):
    """What a request gives, in a thread that nobody has to wait for."""

    value: T

    def __init__(self, request: Callable[[], T]) -> None:
        self.done = threading.Event()
        self.error: BaseException | None = None
        threading.Thread(target=self._run, args=(request,), daemon=True).start()

    def _run(self, request: Callable[[], T]) -> None:
        try:
            self.value = request()
        except BaseException as error:
            self.error = error
        self.done.set()


def _wait(event: threading.Event, seconds: float) -> Generator[Progress, None, None]:
    """Wait for an event, at most so long; yield meanwhile."""
    until = time.monotonic() + seconds
    while not event.is_set() and (left := until - time.monotonic()) > 0:
        yield Progress(0, 1)
        event.wait(min(_TICK_S, left))


def _end(stop: Callable[[], object] | None) -> None:
    if stop is not None:
        threading.Thread(target=stop, daemon=True).start()


def _plain(error: BaseException, secrets: Sequence[str]) -> str:
    """Give what an exception says in one line, without the secrets."""
    text = " ".join(str(error).split()) or type(error).__name__
    for hidden in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(hidden, "…")
    return text if len(text) <= _QUOTED else text[: _QUOTED - 1] + "…"
