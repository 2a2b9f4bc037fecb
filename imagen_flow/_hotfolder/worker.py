"""Work on one item: from the file in the folder to outputs in place and the original moved, or to a
reason beside it.

Every way out of here leaves the item in a state of the journal from which anyone can go on. An
item's own fault (a picture that cannot be read, a node that fails, a bad ticket) ends in `failed`;
a fault that every item
would meet (no space, a share that is gone) is a `Trouble`: the item is put back, and the line
waits.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._outputs.writer import Writer, fill
from .._plan.request import Options, Request, prepare
from .._provenance.embedding import read_label
from .._run import execute
from .._settings.config import Settings
from .._types.digest import canonical, tagged
from .._types.values import File
from ..errors import GraphError, ImagenFlowError, StoreError, printable
from ..events import OutputFailed, OutputWritten, RunFinished, StepFailed, StepNote
from .disk import Disk, Mounted, affects_every_item, is_of_the_item
from .intake import Intake, digest_of
from .journal import Item, Journal, JournalError, Lost, Seen
from .log import Log
from .publish import Staged, apply, free_name, is_applied, make_below, move, put_text
from .recipe import Recipe
from .ticket import read_ticket

if TYPE_CHECKING:
    from .._models import ModelPool
    from .._store import Store

__all__ = ["REASON", "Shop", "Trouble", "check_plan", "ticket_places"]

#: What the name of a reason adds to the name of its original.
REASON = ".failed.txt"

#: How long an item waits that cannot be finished, and a second one for the first of its content.
_LATER_S = 1.0
#: How often a file is tried that cannot be read while no other is.
_READ_TRIES = 20

#: Errors of which one file alone, or one very large picture, can be the cause.
_OF_ONE_FILE = frozenset(
    {errno.EIO, errno.ENXIO, errno.ENODEV, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)
_TWIN_S = 0.1


class Trouble(Exception):
    """Something that is no item's fault; the line waits until it has passed."""


class _Failed(Exception):
    """The item cannot be done."""

    def __init__(self, reason: str, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


class Reads:
    """Tells a file that cannot be read from a disk that cannot be: by whether other files are read
    in the meantime.

    The same error (EIO) stands for one bad sector, for a share whose server restarts, and for a
    dying disk.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passed = 0
        self._tries: dict[int, tuple[int, int]] = {}

    def passed(self) -> None:
        """A file was read."""
        with self._lock:
            self._passed += 1

    def is_to_blame(self, item: Item) -> bool:
        """Whether an item that cannot be read is at fault by itself: others were read since its
        last try, or it has been tried many times.
        """
        with self._lock:
            passed, tries = self._tries.get(item.id, (self._passed, 0))
            if self._passed > passed or tries >= _READ_TRIES:
                self._tries.pop(item.id, None)
                return True
            self._tries[item.id] = (self._passed, tries + 1)
            return False


@dataclass(frozen=True, slots=True, eq=False)
class Shop:
    """All that work on an item needs. Shared by a line's threads."""

    recipe: Recipe
    journal: Journal
    intake: Intake
    disk: Disk
    log: Log
    tell: Callable[[dict[str, Any]], None]
    store: Store | None = None
    pool: ModelPool | None = None
    options: Options = field(default_factory=Options)
    settings: Settings = field(default_factory=Settings)
    reads: Reads = field(default_factory=Reads)
    mounted: Mounted = field(default_factory=Mounted)

    def do(self, item: Item, cancel: threading.Event) -> str:
        """Bring an item as far as it goes now. Gives what became of it.

        Raises:
            Trouble: the line has to wait. The item is anyone's again.
            JournalError: the journal cannot be used any more.
        """
        try:
            if item.state == "running":
                return self._run(item, cancel)
            if item.state == "placing":
                return self._place(item, item.steps)
            return self._put_away(item, time.monotonic())
        except Lost:
            self.log.say("lost", item=item.path, reason="another worker has taken it over")
            return "lost"
        except (Trouble, JournalError):
            raise
        except Exception as odd:
            if trouble := affects_every_item(odd, network=True):
                (
                    self._give_way(item)
                    if item.state == "running"
                    else self.journal.put_off(item, _LATER_S)
                )
                raise Trouble(_words(trouble)) from odd
            # A fault of ours. It must not end the line, which would meet the same item when it is
            # begun anew.
            if item.state != "running":
                return self._put_off(item, f"{type(odd).__name__}: {odd}")
            return self._fail(item, _Failed(_traced(odd), again=True), None, time.monotonic())

    # -- running

    def _run(self, item: Item, cancel: threading.Event) -> str:
        began = time.monotonic()
        seen = self.intake.look(item.path)
        if seen is None or seen.sign != item.sign:
            return self._changed(item, seen)
        place = self.intake.place(item.path)
        digest: str | None = None
        try:
            try:
                digest = digest_of(place, links=self.recipe.line.links == "followed")
                values = self._values(item)
            except OSError as failed:
                self._wait_for_disk(item, failed, network=True)
                raise _Failed(
                    f"{failed.filename or item.path} cannot be read:"
                    f" {(failed.strerror or str(failed)).lower()}",
                    again=True,
                ) from failed
            except GraphError as wrong:
                raise _Failed(str(wrong), again=False) from wrong
            self.reads.passed()
            # What small models made is not what the real ones make, so neither stands for the
            # other.
            recipe = tagged(
                "recipe",
                self.recipe.digest.encode(),
                canonical(sorted((n, str(v)) for n, v in values.items())),
                *([b"tiny"] if self.options.tiny else []),
            )
            twin = None
            if self.recipe.line.duplicates != "both":
                if not self.journal.know(item, digest, recipe):
                    self.journal.give_back(item, wait_s=_TWIN_S)
                    return "waits"
                twin = self.journal.twin(digest, recipe)
            if twin is not None and self.recipe.line.duplicates == "skip":
                with self.journal.change():
                    kept = self._kept(item, self.recipe.line.done)
                    self.journal.placed(item, verdict="skipped", kept=kept)
                return self._put_away(
                    replace(item, state="placed", verdict="skipped", kept=kept, digest=digest),
                    began,
                )
            return self._compute(item, seen, digest, recipe, values, twin, cancel, began)
        except _Failed as failed:
            now = self.intake.look(item.path)
            if now != seen:
                return self._changed(item, now)
            return self._fail(item, failed, digest, began)

    def _changed(self, item: Item, seen: Seen | None) -> str:
        if seen is not None:
            self.journal.unsettle(item)
            return "changed"
        if why := self.mounted.lacks(self.recipe.line.inbox):
            self._give_way(item)
            raise Trouble(f"{self.recipe.line.inbox}: {why}")
        self.journal.end(item, "gone", kept=None)
        self.log.say("gone", item=item.path)
        return "gone"

    def _values(self, item: Item) -> dict[str, Any]:
        sign = json.loads(item.sign)
        if len(sign) < 4:
            return {}
        ticket = self.intake.place(item.path).with_name(sign[3][0])
        own = f"{os.path.basename(item.path)}{ticket.suffix}"
        if len(sign) > 4:
            raise _Failed(
                f"{' and '.join(name for name, *_ in sign[3:])} may each be the ticket of"
                f" {item.path}\n  = fix: keep one, called {own}",
                again=False,
            )
        if others := self.intake.others(item.path, ticket.name):
            words = (
                f"the ticket {ticket.name} may be for {item.path} or for {' or '.join(others)}\n  ="
                f" fix: name it {own}, say"
            )
            self.journal.look([seen for path in others if (seen := self.intake.look(path))])
            for path in others:
                self.journal.fail_waiting(
                    path, words, self._kept_name(path, self.recipe.line.failed)
                )
            raise _Failed(words, again=False)
        if sign[3][1] < 0:
            what = "a symbolic link" if ticket.is_symlink() else "not a regular file"
            fix = (
                "put the file itself there, or write links: followed"
                if ticket.is_symlink()
                else "put a YAML or JSON file there"
            )
            raise _Failed(
                f"the ticket {ticket.name} is {what}, and is not read\n  = fix: {fix}", again=False
            )
        return read_ticket(
            ticket,
            self.recipe.graph,
            allowed=self.recipe.allowed,
            inbox=self.recipe.line.inbox,
            links=self.recipe.line.links == "followed",
        )

    def _compute(
        self,
        item: Item,
        seen: Seen,
        digest: str,
        recipe: str,
        values: dict[str, Any],
        twin: Item | None,
        cancel: threading.Event,
        began: float,
    ) -> str:
        line, graph = self.recipe.line, self.recipe.graph
        place = self.intake.place(item.path)
        staged = Staged(
            line.out,
            self.mounted,
            self.disk,
            self.journal,
            item.path,
            twin=self._twin(twin) if twin is not None and line.duplicates == "link" else None,
        )
        file = File(place, digest, json.loads(item.sign)[0], place.name)
        sealed = False
        try:
            writer = Writer(
                line.out,
                codecs=self.recipe.registry.codecs,
                item=_named(item.path),
                ending=os.path.splitext(item.path)[1].removeprefix("."),
                below=_below(item.path) if line.folders == "kept" else "",
                hands=staged,
            )
            try:
                plan = prepare(
                    Request(
                        graph,
                        self.options,
                        {**self.recipe.values, **values, self.recipe.input: file},
                        settings=self.settings,
                        store=self.store,
                        base=line.path.parent,
                    )
                )
                finished, faults, outputs, shown, notes = self._follow(
                    execute(plan, out=writer, cancel=cancel, pool=self.pool)
                )
            except GraphError as wrong:
                if gone := self._missing_input():
                    self._give_way(item)
                    raise Trouble(_words(gone)) from wrong
                raise _Failed(str(wrong), again=False) from wrong
            except StoreError as failed:
                self._give_way(item)
                raise Trouble(str(failed)) from failed
            except ImagenFlowError as failed:
                self._wait_for_disk(item, failed)
                raise _Failed(str(failed), again=True) from failed
            if staged.fault is not None:
                raise staged.fault
            if finished is None or finished.status == "cancelled":
                self.journal.give_back(item)
                return "returned"
            if faults:
                if staged.trouble is not None and not is_of_the_item(staged.trouble):
                    self._give_way(item)
                    raise Trouble(_words(staged.trouble))
                for _, _, cause in faults:
                    self._wait_for_disk(item, cause)
                raise _Failed(
                    "\n\n".join(
                        [
                            *(words for words, _, _ in faults),
                            *(
                                ["notes:\n" + "\n".join(f"  {note}" for note in notes)]
                                if notes
                                else []
                            ),
                        ]
                    ),
                    again=any(again for _, again, _ in faults),
                )
            given = plan.inputs[self.recipe.input]
            now = self.intake.look(item.path)
            if now != seen or not isinstance(given, File) or given.digest != digest:
                return self._changed(item, now)
            names = [staged.name(Path(output)) for output in outputs]
            steps = self._seal(staged, item)
            with self.journal.change():  # so that no other worker picks the same name
                kept = self._kept(item, line.done)
                sealed = self.journal.stage(item, steps, names, kept, digest=digest, recipe=recipe)
            if not sealed:
                self.journal.give_back(item, wait_s=_TWIN_S)
                return "waits"
        except (_Failed, Trouble, Lost, ImagenFlowError):
            raise
        except OSError as failed:
            if is_of_the_item(failed):
                raise _Failed(_traced(failed), again=True) from failed
            self._give_way(item)
            raise Trouble(_words(failed)) from failed
        except BaseException as odd:
            # A broken plugin may raise anything, and what is meant to stop a process does not
            # arrive in this thread by itself.
            raise _Failed(_traced(odd), again=True) from odd
        finally:
            if not sealed:
                staged.discard()
        item = replace(
            item,
            state="placing",
            verdict="done",
            kept=kept,
            steps=steps,
            outputs=names,
            digest=digest,
            recipe=recipe,
        )
        return self._place(
            item,
            steps,
            began=began,
            ran=finished.ran,
            cached=finished.cached,
            **({"values": shown} if shown else {}),
            **({"notes": notes} if notes else {}),
        )

    def _follow(
        self, said: Any
    ) -> tuple[
        RunFinished | None,
        list[tuple[str, bool, Exception | None]],
        list[str],
        dict[str, Any],
        list[str],
    ]:
        """Go through a run: how it ended; its errors, each with whether another try may help and
        its exception; its files; plain values that have no file; and what its nodes noted.
        """
        finished: RunFinished | None = None
        faults: list[tuple[str, bool, Exception | None]] = []
        outputs: list[str] = []
        shown: dict[str, Any] = {}
        notes: list[str] = []
        for event in said:
            if isinstance(event, RunFinished):
                finished = event
            elif isinstance(event, StepNote):
                notes.append(str(event))
            elif isinstance(event, StepFailed):
                faults.append((str(event.error), not _is_certain(event.error), event.error))
            elif isinstance(event, OutputFailed):
                faults.append((event.message, False, None))
            elif isinstance(event, OutputWritten):
                if event.path is not None:
                    outputs.append(event.path)
                elif isinstance(event.value, str | int | float | bool):
                    shown[event.output + event.item] = (
                        event.value if not isinstance(event.value, str) else event.value[:1000]
                    )
        return finished, faults, outputs, shown, notes

    def _seal(self, staged: Staged, item: Item) -> list[dict[str, Any]]:
        try:
            return staged.seal()
        except OSError as failed:
            self._give_way(item)
            raise Trouble(_words(failed)) from failed

    def _twin(self, twin: Item) -> Callable[[Path, bytes], Path | None]:
        out = self.recipe.line.out

        def find(temporary: Path, data: bytes) -> Path | None:
            """Give an output of the twin that has this value: these bytes, or a picture with this
            digest that nobody has changed.
            """
            for name in twin.outputs:
                place = out / name
                try:
                    if place.stat().st_size == len(data) and place.read_bytes() == data:
                        return place
                    if data.startswith(b"\x89PNG") and place.suffix.lower() == ".png":
                        mine, theirs = read_label(temporary), read_label(place)
                        if (
                            mine is not None
                            and theirs is not None
                            and theirs.intact
                            and mine.digest == theirs.digest
                        ):
                            return place
                except OSError:
                    continue
            return None

        return find

    # -- putting in place and away

    def _place(
        self, item: Item, steps: list[dict[str, Any]], *, began: float | None = None, **about: Any
    ) -> str:
        try:
            self.mounted.check(self.recipe.line.out)
            if not is_applied(steps):
                # Somebody has been at the files: begin anew.
                self.journal.give_back(item)
                return "returned"
            apply(steps, self.disk)
        except OSError as failed:
            return self._cannot(item, failed)
        self.journal.placed(item)
        return self._put_away(replace(item, state="placed"), began or time.monotonic(), **about)

    def _put_away(self, item: Item, began: float, **about: Any) -> str:
        """Move an original to `done`, or to `failed` with its reason, and end the item."""
        line = self.recipe.line
        is_done = item.state == "placed"
        folder = line.done if is_done else line.failed
        source = self.intake.place(item.path)
        linked = line.links == "followed"

        def is_same(place: Path) -> bool:
            return self.intake.is_same(item.sign, place, item.digest)

        def holds(place: Path) -> bool:
            if item.digest is None:
                return is_same(place)
            try:
                return (
                    place.stat().st_size == json.loads(item.sign)[0]
                    and digest_of(place, links=linked) == item.digest
                )
            except OSError as failed:
                if affects_every_item(failed, network=True):
                    raise
                return False

        try:
            self.mounted.check(line.inbox, folder)
            kept = item.kept or self._keep(item, folder)
            while True:
                make_below(folder, kept, self.disk)
                if not is_done:
                    put_text(
                        folder / f"{kept}{REASON}",
                        self._reason(item, kept),
                        self.disk,
                        self.journal,
                    )
                result = move(
                    source,
                    folder / kept,
                    number=item.id,
                    is_same=is_same,
                    holds=holds,
                    disk=self.disk,
                    journal=self.journal,
                )
                if result in ("replaced", "gone") and not is_done:
                    self.disk.unlink(folder / f"{kept}{REASON}")
                if result != "taken":
                    break
                before, kept = kept, self._keep(item, folder)
                if not is_done:
                    self.disk.unlink(folder / f"{before}{REASON}")
            if result == "moved":
                self._along(item, folder, kept)
        except OSError as failed:
            return self._cannot(item, failed)
        state = item.verdict or ("done" if is_done else "failed")
        self.journal.end(
            item,
            state if result == "moved" or is_done else "gone",
            kept=kept if result == "moved" else None,
        )
        if result == "replaced" and (now := self.intake.look(item.path)):
            self.journal.look([now])
        if result == "gone" and not is_done:
            state = "gone"
        said: dict[str, Any] = {
            "item": item.path,
            "took_s": round(time.monotonic() - began, 3),
            **about,
        }
        if is_done:
            said |= {"outputs": item.outputs}
        else:
            said |= {"reason": item.reason}
        if result != "moved":
            said["original"] = result
        else:
            said["original"] = str(folder / kept)
        self.log.say(state, **said)
        self.tell(
            {"event": "done" if is_done else "failed", "state": state, "line": line.name, **said}
        )
        return state

    def _cannot(self, item: Item, failed: OSError) -> str:
        """Leave an item that cannot be finished for later. Raises Trouble if that may be so for
        all.
        """
        if is_of_the_item(failed):
            return self._put_off(item, _words(failed))
        self.journal.put_off(item, _LATER_S)
        raise Trouble(_words(failed)) from failed

    def _give_way(self, item: Item) -> None:
        """Put an item back for a while: should the trouble be its own after all, others get their
        turn.
        """
        self.journal.give_back(item, wait_s=max(_LATER_S, self.recipe.line.backoff_s))

    def _wait_for_disk(
        self, item: Item, failed: BaseException | None, *, network: bool = False
    ) -> None:
        """Put an item back that met an error of the disk.

        Raises:
            Trouble: it did, and the item is not to blame.
        """
        trouble = affects_every_item(failed, network=network)
        if trouble is None or (trouble.errno in _OF_ONE_FILE and self.reads.is_to_blame(item)):
            return
        self._give_way(item)
        raise Trouble(_words(trouble)) from failed

    def _missing_input(self) -> OSError | None:
        """Find a file that the line itself gives to the graph and that is not there any more: every
        item would fail for it.
        """
        pending = list(self.recipe.values.values())
        while pending:
            value = pending.pop()
            if isinstance(value, list):
                pending += value
            elif isinstance(value, Path):
                try:
                    os.stat(value)
                except OSError as failed:
                    return failed
        return None

    def _put_off(self, item: Item, reason: str) -> str:
        wait_s = max(_LATER_S, self.recipe.line.backoff_s)
        self.journal.put_off(item, wait_s)
        self.log.say("waiting", item=item.path, reason=reason, wait_s=wait_s)
        return "waits"

    def _along(self, item: Item, folder: Path, kept: str) -> None:
        """Move the tickets of an original along with it, and remove what said that it was complete."""
        for name, size, mtime, _ in json.loads(item.sign)[3:]:
            if size < 0:
                continue  # a link or a pipe: it was not read, and stays
            ticket = self.intake.place(item.path).with_name(name)

            def is_same(place: Path, sign: tuple[int, int] = (size, mtime)) -> bool:
                found = self.intake.plain(place)
                return found is not None and (found.st_size, found.st_mtime_ns) == sign

            for to in ticket_places(folder / kept, os.path.basename(item.path), name):
                if (
                    move(
                        ticket,
                        to,
                        number=-item.id,
                        is_same=is_same,
                        holds=is_same,
                        disk=self.disk,
                        journal=self.journal,
                    )
                    != "taken"
                ):
                    break
        if said := self.intake.sentinel(item.path):
            self.disk.unlink(said)

    def _fail(self, item: Item, failed: _Failed, digest: str | None, began: float) -> str:
        line = self.recipe.line
        if failed.again and item.tries < line.retries:
            wait_s = min(line.backoff_s * 2**item.tries, 86_400.0)
            self.journal.give_back(item, wait_s=wait_s, tried=True)
            self.log.say(
                "retry", item=item.path, tries=item.tries + 1, wait_s=wait_s, reason=str(failed)
            )
            return "retry"
        reason = _safe(str(failed))
        with self.journal.change():
            kept = self._kept(item, line.failed)
            self.journal.failing(item, reason, kept, digest=digest)
        return self._put_away(
            replace(
                item,
                state="failing",
                verdict="failed",
                reason=reason,
                kept=kept,
                digest=digest,
                tries=item.tries + 1,
            ),
            began,
        )

    def _reason(self, item: Item, kept: str) -> str:
        line = self.recipe.line
        tries = f" after {item.tries} tries" if item.tries > 1 else ""
        return printable(
            f"{' '.join(item.path.splitlines())} failed{tries}.\n\n{item.reason}\n\nTo try again,"
            f" once the cause is mended:\n\n  imagen-flow folder retry {line.path} {kept!r}\n"
        )

    def _keep(self, item: Item, folder: Path) -> str:
        with self.journal.change():
            kept = self._kept(item, folder)
            self.journal.keep_as(item, kept)
        return kept

    def _kept(self, item: Item, folder: Path) -> str:
        return self._kept_name(item.path, folder)

    def _kept_name(self, path: str, folder: Path) -> str:
        """Choose where an original will lie; in a transaction in which that is noted, so that no
        other worker chooses the same.
        """
        if self.recipe.line.folders == "flattened":
            path = path.rpartition("/")[2]
        return free_name(
            folder,
            path,
            [REASON] if folder == self.recipe.line.failed else [],
            self.journal.is_kept,
        )


def ticket_places(kept: Path, original: str, ticket: str) -> Iterator[Path]:
    """Give names for a ticket beside its original: its own, or where the original got another name,
    one that goes with it; then numbered ones.
    """
    stem, ending = os.path.splitext(ticket)
    if kept.name != original:
        stem = kept.name if len(stem) >= len(original) else kept.stem
    for count in itertools.count(1):
        yield kept.with_name(f"{stem}{'' if count == 1 else f'-{count}'}{ending}")


def check_plan(recipe: Recipe, options: Options, settings: Settings, store: Store | None) -> None:
    """Plan a line's graph for some file, before it takes any: what is wrong with it for every file
    would move each of them to `failed`.

    Raises:
        GraphError: a device that is not here, a model that is missing or not in the lock, and the
            like.
    """
    values = {**recipe.values, recipe.input: recipe.line.path}
    try:
        wrong = [
            problem
            for problem in prepare(
                Request(
                    recipe.graph,
                    options,
                    values,
                    settings=settings,
                    store=store,
                    base=recipe.line.path.parent,
                )
            ).problems
            if problem.severity == "error"
        ]
    except GraphError as refused:
        wrong = [problem for problem in refused.problems if problem.code not in _OF_THE_ITEM]
    if wrong:
        raise GraphError(wrong)


#: Problems that a ticket, or another file, may not have.
_OF_THE_ITEM = frozenset({"bad-input", "missing-file", "missing-input"})


def _named(path: str) -> str:
    """The name of an item's outputs: its file's without ending, or where that is too long for a
    field of a path, the beginning of it and a digest.
    """
    stem = os.path.splitext(path.rpartition("/")[2])[0]
    if len(stem) <= 80:
        return stem
    return f"{stem[:70]}-{blake2b(os.fsencode(stem), digest_size=4).hexdigest()}"


def _below(path: str) -> str:
    """The folder of an item's outputs below the output folder."""
    return "/".join(fill("{item}", {"item": part}) for part in path.split("/")[:-1])


def _traced(odd: BaseException) -> str:
    return f"{type(odd).__name__}: {odd}\n\n{''.join(traceback.format_exception(odd))}"


def _is_certain(error: BaseException) -> bool:
    """Whether a node would fail in the same way again: it was given a wrong value. Errors of the
    system, of libraries (memory) and of services may pass.
    """
    cause = error.__cause__ or error
    return isinstance(cause, ValueError | TypeError) and not isinstance(cause, OSError)


def _safe(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _words(failed: OSError) -> str:
    words = (failed.strerror or str(failed) or type(failed).__name__).lower()
    if failed.errno in (errno.ENOSPC, errno.EDQUOT):
        words = "there is no space left"
    return f"{words}{f': {failed.filename}' if failed.filename else ''}"
