"""Process one item: from the file in the folder to published outputs and an archived original, or
to a reason beside it.

Every way out leaves the item in a state of the journal from which any process can continue. An
item's own failure (an unreadable picture, a failing node, a bad ticket) ends in `failed`. A failure
that every item would meet (no space, a missing share) raises `LineBlocked`: the item returns to the
queue, and the line waits.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .._outputs.templates import fill_template
from .._outputs.writer import OutputWriter
from .._plan import Item as PlanItem
from .._plan import PlannedItem
from .._plan.request import Options, Request, prepare
from .._provenance.embedding import try_read_embedded
from .._run import execute, item_label
from .._settings.config import Settings
from .._system.dataclass import dataclass
from .._types.digest import canonical, tagged
from .._types.values import File
from ..errors import GraphError, ImagenFlowError, StoreError
from ..events import ItemFinished
from .archive import RETRY_DELAY_S, Archiver, LineBlocked
from .disk import Disk, MountGuard, affects_one_item, describe_error, find_disk_error
from .intake import Intake, digest_file
from .journal import FoundFile, Item, Journal, JournalError, OwnershipLost
from .log import Log
from .publish import StagedOutputs
from .recipe import Recipe
from .results import RunResult
from .ticket import read_ticket

if TYPE_CHECKING:
    from .._models import ModelPool
    from .._store import Store

__all__ = ["ItemProcessor", "check_plan"]

T = TypeVar("T")

#: How long an item waits while another with its content is being processed.
_DUPLICATE_DELAY_S = 0.1
#: How often to try an unreadable file while no other file is read.
_MAX_READ_TRIES = 20

#: Errors that a single file, or a single very large picture, can cause.
_POSSIBLE_FILE_ERRORS = frozenset(
    {errno.EIO, errno.ENXIO, errno.ENODEV, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)


class _ItemFailed(Exception):
    """The item has failed."""

    def __init__(self, reason: str, *, retryable: bool) -> None:
        super().__init__(reason)
        self.retryable = retryable


class ReadHistory:
    """Tells an unreadable file from an unreadable disk: by whether other files can be read
    meanwhile.

    The same error (EIO) can mean one bad sector, a share whose server is restarting, or a dying
    disk.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._successes = 0
        self._tries: dict[int, tuple[int, int]] = {}

    def add_success(self) -> None:
        """Record that a file was read."""
        with self._lock:
            self._successes += 1

    def blames_item(self, item: Item) -> bool:
        """Return whether an unreadable item is itself at fault: others were read since its last
        attempt, or it was tried many times.
        """
        with self._lock:
            successes, tries = self._tries.get(item.id, (self._successes, 0))
            if self._successes > successes or tries >= _MAX_READ_TRIES:
                self._tries.pop(item.id, None)
                return True
            self._tries[item.id] = (self._successes, tries + 1)
            return False


@dataclass(slots=True, eq=False)
class _Job:
    """A running item: what was read of it, where its outputs wait, and how its run went."""

    item: Item
    seen: FoundFile
    digest: str
    recipe: str
    file: File
    #: What its ticket sets.
    values: dict[str, Any]
    twin: Item | None
    result: RunResult = field(init=False)
    staged: StagedOutputs | None = field(init=False, default=None)
    planned: PlannedItem | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.result = RunResult(self.label)

    @property
    def label(self) -> str:
        """The plan's name of the item."""
        return str(self.item.id)

    def discard(self) -> None:
        """Remove what was written of its outputs."""
        if self.staged is not None:
            self.staged.discard()


@dataclass(frozen=True, slots=True, eq=False)
class ItemProcessor:
    """Everything that processing an item needs. Shared by the threads of a line."""

    recipe: Recipe
    journal: Journal
    intake: Intake
    disk: Disk
    log: Log
    on_end: Callable[[dict[str, Any]], None]
    store: Store | None = None
    pool: ModelPool | None = None
    options: Options = field(default_factory=Options)
    settings: Settings = field(default_factory=Settings)
    reads: ReadHistory = field(default_factory=ReadHistory)
    mounted: MountGuard = field(default_factory=MountGuard)

    @property
    def archiver(self) -> Archiver:
        """What publishes outputs and archives originals."""
        return Archiver(
            self.recipe.line,
            self.journal,
            self.intake,
            self.disk,
            self.log,
            self.on_end,
            self.mounted,
        )

    def process(self, item: Item, cancel: threading.Event) -> str:
        """Process an item as far as possible now. Returns its new state.

        Raises:
            LineBlocked: the line has to wait. The item may be claimed again.
            JournalError: the journal cannot be used any more.
        """
        return [*self.process_group([item], cancel), "lost"][0]

    def process_group(
        self,
        items: Sequence[Item],
        cancel: threading.Event,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> Iterator[str]:
        """Process items as far as possible now, those that run in one run of the graph. Yields
        their new states, as each ends.

        Params:
            is_stopping: whether items that have not begun go back to the queue.

        Raises:
            LineBlocked: the line has to wait. No more items were begun, and those that have not
                ended may be claimed again.
            JournalError: the journal cannot be used any more.
        """
        blocked: list[LineBlocked] = []

        def must_stop() -> bool:
            return bool(blocked) or is_stopping()

        jobs: list[_Job] = []
        for item in items:
            if not self.journal.owns(item):
                continue  # it has failed with one before it, whose ticket may be its own
            if must_stop():
                yield from self._outcomes(item, partial(self._return, item), blocked)
                continue
            for outcome in self._outcomes(item, partial(self._begin, item), blocked):
                if isinstance(outcome, _Job):
                    jobs.append(outcome)
                else:
                    yield outcome
        yield from self._compute(jobs, cancel, must_stop, blocked)
        if blocked:
            raise blocked[0]

    def _outcomes(
        self, item: Item, action: Callable[[], T], blocked: list[LineBlocked]
    ) -> Iterator[T | str]:
        """Do something for an item, and yield what came of it; nothing if the line is blocked."""
        try:
            yield self._attempt(item, action)
        except LineBlocked as error:
            blocked.append(error)

    def _attempt(self, item: Item, action: Callable[[], T]) -> T | str:
        """Do something for an item. Whatever goes wrong leaves it in a state to continue from."""
        try:
            return action()
        except OwnershipLost:
            self.log.write("lost", item=item.path, reason="another worker has taken it over")
            return "lost"
        except (LineBlocked, JournalError):
            raise
        except Exception as error:
            if disk_error := find_disk_error(error, network=True):
                if item.state == "running":
                    self._requeue_later(item)
                else:
                    self.journal.postpone(item, RETRY_DELAY_S)
                raise LineBlocked(describe_error(disk_error)) from error
            # A bug of ours. It must not end the line, which would meet the same item after a
            # restart.
            if item.state != "running":
                return self.archiver.postpone(item, f"{type(error).__name__}: {error}")
            return self._fail(
                item, _ItemFailed(_format_traceback(error), retryable=True), None, time.monotonic()
            )

    def _begin(self, item: Item) -> _Job | str:
        """Begin an item: one that is to run becomes a job, the others are finished."""
        if item.state == "running":
            return self._read(item)
        if item.state == "placing":
            return self.archiver.publish(item, item.steps)
        return self.archiver.archive_original(item, time.monotonic())

    def _return(self, item: Item) -> str:
        """Return an item to the queue that was not run."""
        if item.state == "running":
            self.journal.requeue(item)
        else:
            self.journal.postpone(item, 0.0)
        return "returned"

    # -- running

    def _read(self, item: Item) -> _Job | str:
        """Read a file and its ticket."""
        started_at = time.monotonic()
        seen = self.intake.inspect(item.path)
        if seen is None or seen.fingerprint != item.fingerprint:
            return self._handle_change(item, seen)
        path = self.intake.absolute(item.path)
        digest: str | None = None
        try:
            try:
                digest = digest_file(path, links=self.recipe.line.links == "followed")
                values = self._read_ticket(item)
            except OSError as error:
                self._wait_for_disk(item, error, network=True)
                raise _ItemFailed(
                    f"{error.filename or item.path} cannot be read:"
                    f" {(error.strerror or str(error)).lower()}",
                    retryable=True,
                ) from error
            except GraphError as error:
                raise _ItemFailed(str(error), retryable=False) from error
        except _ItemFailed as error:
            return self._fail_unless_changed(item, error, seen, digest, started_at)
        self.reads.add_success()
        # Outputs of tiny models and of the real ones cannot stand for each other.
        recipe = tagged(
            "recipe",
            self.recipe.digest.encode(),
            canonical(sorted((n, str(v)) for n, v in values.items())),
            *([b"tiny"] if self.options.tiny else []),
        )
        twin = None
        if self.recipe.line.duplicates != "both":
            if not self.journal.set_content(item, digest, recipe):
                self.journal.requeue(item, wait_s=_DUPLICATE_DELAY_S)
                return "waits"
            twin = self.journal.find_done(digest, recipe)
        if twin is not None and self.recipe.line.duplicates == "skip":
            with self.journal.transaction():
                kept = self.archiver.choose_name(item, self.recipe.line.done)
                self.journal.mark_placed(item, verdict="skipped", kept=kept)
            return self.archiver.archive_original(
                replace(item, state="placed", verdict="skipped", kept=kept, digest=digest),
                started_at,
            )
        file = File(path, digest, json.loads(item.fingerprint)[0], path.name)
        return _Job(item, seen, digest, recipe, file, values, twin)

    def _handle_change(self, item: Item, seen: FoundFile | None) -> str:
        if seen is not None:
            self.journal.mark_changed(item)
            return "changed"
        if why := self.mounted.why_missing(self.recipe.line.inbox):
            self._requeue_later(item)
            raise LineBlocked(f"{self.recipe.line.inbox}: {why}")
        self.journal.finish(item, "gone", kept=None)
        self.log.write("gone", item=item.path)
        return "gone"

    def _read_ticket(self, item: Item) -> dict[str, Any]:
        fingerprint = json.loads(item.fingerprint)
        if len(fingerprint) < 4:
            return {}
        ticket = self.intake.absolute(item.path).with_name(fingerprint[3][0])
        own_name = f"{os.path.basename(item.path)}{ticket.suffix}"
        if len(fingerprint) > 4:
            raise _ItemFailed(
                (
                    f"{' and '.join(name for name, *_ in fingerprint[3:])} may each be the"
                    f" ticket of {item.path}\n  = fix: keep one, named {own_name}"
                ),
                retryable=False,
            )
        if other_files := self.intake.companions.other_candidates(item.path, ticket.name):
            reason = (
                f"the ticket {ticket.name} may be for {item.path} or for"
                f" {' or '.join(other_files)}\n  = fix: for example, name it {own_name}"
            )
            self.journal.record(
                [seen for path in other_files if (seen := self.intake.inspect(path))]
            )
            for path in other_files:
                self.journal.fail_queued(
                    path, reason, self.archiver.name_for(path, self.recipe.line.failed)
                )
            raise _ItemFailed(reason, retryable=False)
        if fingerprint[3][1] < 0:
            kind = "a symbolic link" if ticket.is_symlink() else "not a regular file"
            fix = (
                "replace it by the file itself, or write links: followed"
                if ticket.is_symlink()
                else "replace it by a YAML or JSON file"
            )
            raise _ItemFailed(
                f"the ticket {ticket.name} is {kind}, and is not read\n  = fix: {fix}",
                retryable=False,
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
        jobs: Sequence[_Job],
        cancel: threading.Event,
        must_stop: Callable[[], bool],
        blocked: list[LineBlocked],
    ) -> Iterator[str]:
        """Run the graph for some items, and publish their outputs as each ends. Yields their new
        states.
        """
        if not jobs:
            return
        left = dict.fromkeys(jobs)
        error: BaseException | None = None
        try:
            with closing(self._run_graph(jobs, cancel, must_stop)) as run:
                ended_at = time.monotonic()
                while True:
                    try:
                        job = next(run, None)
                    except BaseException as raised:
                        # A broken plugin may raise anything. KeyboardInterrupt and the like are not
                        # raised in this thread.
                        error = raised
                        break
                    if job is None:
                        break
                    started_at = job.result.started_at or ended_at
                    del left[job]
                    yield from self._outcomes(
                        job.item, partial(self._conclude, job, started_at), blocked
                    )
                    ended_at = time.monotonic()
        finally:
            for job in left:
                job.discard()
        for job in left:
            if error is None or (len(jobs) > 1 and must_stop()):
                yield from self._outcomes(job.item, partial(self._return, job.item), blocked)
            elif len(jobs) == 1 or isinstance(error, StoreError):
                yield from self._outcomes(
                    job.item, partial(self._end_badly, job, error, ended_at), blocked
                )
            else:
                # Find out whose fault it is.
                yield from self._compute([replace(job)], cancel, must_stop, blocked)

    def _run_graph(
        self, jobs: Sequence[_Job], cancel: threading.Event, must_stop: Callable[[], bool]
    ) -> Generator[_Job, None, None]:
        """Plan the graph for some items and run it; yields each job when its item has ended."""
        line = self.recipe.line
        plan = prepare(
            Request(
                self.recipe.graph,
                self.options,
                self.recipe.values,
                settings=self.settings,
                store=self.store,
                base=line.path.parent,
            ),
            items=[
                PlanItem(job.label, {**job.values, self.recipe.input: job.file}) for job in jobs
            ],
        )
        by_label = {job.label: job for job in jobs}
        for planned in plan.items:
            by_label[planned.label].planned = planned
        writers: dict[str, OutputWriter] = {}
        for job in jobs:
            job.staged = StagedOutputs(
                line.out,
                self.mounted,
                self.disk,
                self.journal,
                job.item.path,
                twin=self._link_finder(job.twin)
                if job.twin is not None and line.duplicates == "link"
                else None,
            )
            writers[job.label] = OutputWriter(
                line.out,
                codecs=self.recipe.registry.codecs,
                item=_output_name(job.item.path),
                label=job.label,
                ending=os.path.splitext(job.item.path)[1].removeprefix("."),
                below=_output_subfolder(job.item.path) if line.folders == "kept" else "",
                changes=job.staged,
            )
        with closing(
            execute(plan, out=writers.get, cancel=cancel, stop=must_stop, pool=self.pool)
        ) as run:
            for event in run:
                if (done := by_label.get(item_label(getattr(event, "item", "")))) is not None:
                    done.result.take(event)
                    if isinstance(event, ItemFinished):
                        yield done

    def _end_badly(self, job: _Job, error: BaseException, started_at: float) -> str:
        """End an item whose run was not possible, or did not come to its end."""
        item = job.item
        try:
            if isinstance(error, GraphError):
                self._refuse(item, error)
            if isinstance(error, StoreError):
                self._requeue_later(item)
                raise LineBlocked(str(error)) from error
            if isinstance(error, ImagenFlowError):
                self._wait_for_disk(item, error)
                raise _ItemFailed(str(error), retryable=True) from error
            if isinstance(error, OSError) and not affects_one_item(error):
                self._requeue_later(item)
                raise LineBlocked(describe_error(error)) from error
            raise _ItemFailed(_format_traceback(error), retryable=True) from error
        except _ItemFailed as failure:
            return self._fail_unless_changed(item, failure, job.seen, job.digest, started_at)

    def _conclude(self, job: _Job, started_at: float) -> str:
        """Publish the outputs of an item whose run has ended, or fail it."""
        item, digest, recipe, result = job.item, job.digest, job.recipe, job.result
        staged, planned = job.staged, job.planned
        assert staged is not None and planned is not None
        sealed = False
        try:
            if staged.fault is not None:
                raise staged.fault
            if planned.problems:
                self._refuse(item, GraphError(list(planned.problems)))
            if result.failures:
                self._raise_failures(item, staged, result)
            input_file = planned.inputs[self.recipe.input]
            current = self.intake.inspect(item.path)
            if (
                current != job.seen
                or not isinstance(input_file, File)
                or input_file.digest != digest
            ):
                return self._handle_change(item, current)
            names = [staged.name(Path(output)) for output in result.outputs]
            steps = self._seal(staged, item)
            with self.journal.transaction():  # no other worker may choose the same name
                kept = self.archiver.choose_name(item, self.recipe.line.done)
                sealed = not staged.names_were_taken() and self.journal.stage(
                    item, steps, names, kept, digest=digest, recipe=recipe
                )
            if not sealed:
                self.journal.requeue(item, wait_s=_DUPLICATE_DELAY_S)
                return "waits"
        except _ItemFailed as failure:
            return self._fail_unless_changed(item, failure, job.seen, digest, started_at)
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
        return self.archiver.publish(item, steps, started_at=started_at, **result.details())

    def _refuse(self, item: Item, error: GraphError) -> NoReturn:
        """Raise what it means that the graph cannot be planned for an item."""
        if missing := self._missing_input():
            self._requeue_later(item)
            raise LineBlocked(describe_error(missing)) from error
        raise _ItemFailed(str(error), retryable=False) from error

    def _raise_failures(self, item: Item, staged: StagedOutputs, result: RunResult) -> NoReturn:
        """Raise what a failed run means: a problem of the line, or a failure of the item."""
        if staged.trouble is not None and not affects_one_item(staged.trouble):
            self._requeue_later(item)
            raise LineBlocked(describe_error(staged.trouble))
        for failure in result.failures:
            self._wait_for_disk(item, failure.error)
        messages = [failure.message for failure in result.failures]
        if result.notes:
            messages.append("notes:\n" + "\n".join(f"  {note}" for note in result.notes))
        raise _ItemFailed(
            "\n\n".join(messages),
            retryable=any(failure.retryable for failure in result.failures),
        )

    def _seal(self, staged: StagedOutputs, item: Item) -> list[dict[str, Any]]:
        try:
            return staged.seal()
        except OSError as error:
            self._requeue_later(item)
            raise LineBlocked(describe_error(error)) from error

    def _link_finder(self, twin: Item) -> Callable[[Path, bytes], Path | None]:
        out = self.recipe.line.out

        def find(temporary: Path, data: bytes) -> Path | None:
            """Return an output of the twin with this value: the same bytes, or an unmodified
            picture with the same digest.
            """
            for name in twin.outputs:
                path = out / name
                try:
                    if path.stat().st_size == len(data) and path.read_bytes() == data:
                        return path
                    if data.startswith(b"\x89PNG") and path.suffix.lower() == ".png":
                        own_provenance, existing_provenance = (
                            try_read_embedded(temporary),
                            try_read_embedded(path),
                        )
                        if (
                            own_provenance is not None
                            and existing_provenance is not None
                            and existing_provenance.intact
                            and own_provenance.digest == existing_provenance.digest
                        ):
                            return path
                except OSError:
                    continue
            return None

        return find

    def _requeue_later(self, item: Item) -> None:
        """Return an item to the queue for a while, so that others get their turn if the problem is
        its own after all.
        """
        self.journal.requeue(item, wait_s=max(RETRY_DELAY_S, self.recipe.line.backoff_s))

    def _wait_for_disk(
        self, item: Item, error: BaseException | None, *, network: bool = False
    ) -> None:
        """Return an item to the queue if a disk error caused its failure.

        Raises:
            LineBlocked: it did, and the item is not to blame.
        """
        disk_error = find_disk_error(error, network=network)
        if disk_error is None or (
            disk_error.errno in _POSSIBLE_FILE_ERRORS and self.reads.blames_item(item)
        ):
            return
        self._requeue_later(item)
        raise LineBlocked(describe_error(disk_error)) from error

    def _missing_input(self) -> OSError | None:
        """Return the error of a file that the line itself gives to the graph and that is missing:
        every item would fail.
        """
        pending = list(self.recipe.values.values())
        while pending:
            value = pending.pop()
            if isinstance(value, list):
                pending += value
            elif isinstance(value, Path):
                try:
                    os.stat(value)
                except OSError as error:
                    return error
        return None

    def _fail_unless_changed(
        self,
        item: Item,
        failure: _ItemFailed,
        seen: FoundFile,
        digest: str | None,
        started_at: float,
    ) -> str:
        current = self.intake.inspect(item.path)
        if current != seen:
            return self._handle_change(item, current)
        return self._fail(item, failure, digest, started_at)

    def _fail(self, item: Item, failure: _ItemFailed, digest: str | None, started_at: float) -> str:
        line = self.recipe.line
        if failure.retryable and item.tries < line.retries:
            wait_s = min(line.backoff_s * 2**item.tries, 86_400.0)
            self.journal.requeue(item, wait_s=wait_s, tried=True)
            self.log.write(
                "retry", item=item.path, tries=item.tries + 1, wait_s=wait_s, reason=str(failure)
            )
            return "retry"
        reason = _encodable(str(failure))
        with self.journal.transaction():
            kept = self.archiver.choose_name(item, line.failed)
            self.journal.mark_failing(item, reason, kept, digest=digest)
        return self.archiver.archive_original(
            replace(
                item,
                state="failing",
                verdict="failed",
                reason=reason,
                kept=kept,
                digest=digest,
                tries=item.tries + 1,
            ),
            started_at,
        )


def check_plan(recipe: Recipe, options: Options, settings: Settings, store: Store | None) -> None:
    """Plan a line's graph for some file before accepting any: a problem that occurs for every file
    would move each of them to `failed`.

    Raises:
        GraphError: a device that does not exist, a model that is missing or not locked, and the
            like.
    """
    values = {**recipe.values, recipe.input: recipe.line.path}
    try:
        problems = [
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
    except GraphError as error:
        problems = [problem for problem in error.problems if problem.code not in _ITEM_ERRORS]
    if problems:
        raise GraphError(problems)


#: Problems that depend on the ticket or the file.
_ITEM_ERRORS = frozenset({"bad-input", "missing-file", "missing-input"})


def _output_name(path: str) -> str:
    """Return the name of an item's outputs: the file name without its ending, cut with a digest if
    it is too long for a path field.
    """
    stem = os.path.splitext(path.rpartition("/")[2])[0]
    if len(stem) <= 80:
        return stem
    return f"{stem[:70]}-{blake2b(os.fsencode(stem), digest_size=4).hexdigest()}"


def _output_subfolder(path: str) -> str:
    """Return the folder of an item's outputs below the output folder."""
    return "/".join(fill_template("{item}", {"item": part}) for part in path.split("/")[:-1])


def _format_traceback(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}\n\n{''.join(traceback.format_exception(error))}"


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
