"""Deliver the outputs of a run: values as events, files written in a thread of their own."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._graph import Output
from .._outputs.templates import fields_of
from .._outputs.writer import OutFolder, OutputWriter
from .._plan import DROPPED, FAILED, Frame, Plan, State, Unknown, holds, without_dropped
from .._store import Damaged
from .._system.dataclass import dataclass
from .._types.artifact import Artifact
from .._types.models import Model
from .._types.values import Absent, File, Folder
from ..errors import ImagenFlowError, OutputError
from ..events import OutputAbsent, OutputWritten, step_title
from .event_queue import EventQueue, describe_error
from .file_names import file_names, planned_file_names
from .recorder import ProvenanceRecorder

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

__all__ = [
    "DROPPED_ELEMENT",
    "Out",
    "OutputDelivery",
    "PlannedWrite",
    "collect",
    "leave_out_dropped",
    "planned_writes",
]

#: How many files may wait to be written, with their values in memory, before the run waits for them.
MAX_WRITES = 64

#: Where outputs go: a folder, a writer, or one for each item; None writes no files.
Out = Path | OutFolder | OutputWriter | Callable[[str], OutputWriter | None] | None


class OutputDelivery:
    """Delivers the outputs of one run.

    Params:
        out: the folder for outputs with a path, or a writer, or what gives one for the label of an
            item; None writes no files.
        inputs: the values of the graph's inputs by item, for file names.
        value: gives the live value of an artifact.
        recorder: writes the provenance of outputs.
    """

    def __init__(
        self,
        plan: Plan,
        state: State,
        inputs: Mapping[str, Mapping[str, Any]],
        out: Out,
        queue: EventQueue,
        *,
        value: Callable[[Artifact], Any],
        recorder: ProvenanceRecorder,
    ) -> None:
        self.plan = plan
        self.state = state
        self.inputs = inputs
        self.queue = queue
        self._value = value
        self._recorder = recorder
        writer = (
            OutputWriter(out, codecs=state.values.codecs)
            if isinstance(out, Path | OutFolder)
            else out
        )
        self._writer_of = writer if callable(writer) else lambda _: writer
        self._writers: dict[str, OutputWriter | None] = {}
        self._thread: ThreadPoolExecutor | None = None  # until there is something to write
        self._writes: deque[Future[None]] = deque()
        self._paths: list[Path] = []

    def wait(self) -> None:
        """Wait until every file is written."""
        for write in self._writes:
            write.result()

    def close(self, *, cancelled: bool) -> None:
        """Finish the file that is being written, and the queued ones unless the run was cancelled."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=cancelled)

    def has_delivered_from(self, folder: Path) -> bool:
        """Tell whether files, folders or models inside a folder were delivered."""
        return any(path.is_relative_to(folder) for path in self._paths)

    def finish(self, top: Frame) -> None:
        """Report an item as finished, once all its files are written."""
        while self._writes and self._writes[0].done():
            self._writes.popleft().result()
        if self._writes:
            self._submit(self._finish, top.item)
        else:
            self._finish(top.item)

    def _submit(self, write: Callable[..., None], *given: Any) -> None:
        if self._thread is None:
            from concurrent.futures import ThreadPoolExecutor

            self._thread = ThreadPoolExecutor(1, thread_name_prefix="imagen_flow outputs")
        self._writes.append(self._thread.submit(write, *given))

    def _finish(self, item: str) -> None:
        self._writers.pop(item, None)
        self.queue.item_finished(item)

    def _writer(self, item: str) -> OutputWriter | None:
        if item not in self._writers:
            self._writers[item] = self._writer_of(item)
        return self._writers[item]

    def deliver(self, top: Frame, output: Output, slot: Artifact) -> None:
        """Deliver an output of an item."""
        label = top.item
        if slot.kind in ("absent", "failed"):
            why = "its source is absent" if slot.kind == "absent" else "its source failed"
            self.queue.put(OutputAbsent(output.name, why, self.queue.now(), label))
            return
        try:
            writer = self._writer(label) if output.path is not None else None
            is_one = slot.items is None or is_one_file(output)
            if is_one or writer is None:
                slot = without_dropped(slot)
            if is_one and slot.items is not None and holds(slot, "failed"):
                why = "some of its elements failed"
                self.queue.put(OutputAbsent(output.name, why, self.queue.now(), label))
                return
            if writer is None or (slot.items == () and not is_one):
                value = self.value(slot)
                self._paths += _paths(value)
                key = self._recorder.key(top, output) if label else ""
                self.queue.put(
                    OutputWritten(
                        output.name,
                        label,
                        None,
                        False,
                        value,
                        self.queue.now(),
                        slot.digest,
                        slot.kind,
                        key,
                    )
                )
                return
            elements = (
                [(slot, "", 0)]
                if is_one
                else [
                    (without_dropped(item), f"[{i}]", i) for i, item in enumerate(slot.items or ())
                ]
            )
            for artifact, item, index in elements:
                is_partial = artifact.items is not None and holds(artifact, "failed")
                if is_partial or artifact.kind in ("absent", "failed"):
                    because = {
                        FAILED: "its source failed",
                        DROPPED: "its source failed and was dropped",
                    }.get(
                        artifact,
                        "some of its elements failed" if is_partial else "its source is absent",
                    )
                    self.queue.put(
                        OutputAbsent(
                            output.name + item,
                            because,
                            self.queue.now(),
                            label,
                            artifact is DROPPED,
                        )
                    )
                    continue
                value = self.value(artifact)
                self._paths += _paths(value)
                element = index if item else None
                document = self._recorder.document(top, output, artifact, element)
                try:
                    names = file_names(self.state.values, top, output, index, self._value)
                except OutputError as error:
                    self.queue.output_failed(output.name, label + item, str(error))
                    continue
                key = self._recorder.key(top, output, element) if label else ""
                while len(self._writes) > MAX_WRITES:
                    self._writes.popleft().result()
                self._submit(
                    self._write,
                    writer,
                    label,
                    output,
                    artifact,
                    element,
                    names,
                    value,
                    document,
                    key,
                )
        except Damaged as damaged:
            self.queue.output_failed(output.name, label, str(damaged))

    def value(self, slot: Artifact) -> Any:
        """Give a live value; in a list, at any depth, None stands for what is absent or failed."""
        if slot.items is not None and (holds(slot, "absent") or holds(slot, "failed")):
            return [self.value(item) for item in slot.items]
        return None if slot.kind in ("absent", "failed") else self._value(slot)

    def _write(
        self,
        writer: OutputWriter,
        label: str,
        output: Output,
        artifact: Artifact,
        element: int | None,
        names: Mapping[str, str],
        value: Any,
        document: str | None,
        key: str,
    ) -> None:
        assert output.path is not None
        item = label if element is None else f"{label}[{element}]"
        fields = _fields(
            self.plan,
            self.inputs[label],
            output,
            label=label,
            index=element or 0,
            is_element=element is not None,
            digest8=artifact.digest[:8],
        )
        try:
            relative = writer.relative(
                output.path, {**fields, **names}, element=element is not None
            )
            written = writer.write(
                relative,
                _with_absent(artifact, value) if output.whole else value,
                output=output.name,
                item=item,
                exists=output.exists,
                provenance=document,
                digest=artifact.digest,
                options=output.options,
            )
            self.queue.put(
                OutputWritten(
                    output.name,
                    item,
                    str(written.path),
                    written.changed,
                    value,
                    self.queue.now(),
                    artifact.digest,
                    artifact.kind,
                    key,
                )
            )
        except Exception as error:
            message = str(error) if isinstance(error, ImagenFlowError) else describe_error(error)
            self.queue.output_failed(output.name, item, message)


#: The place of an element that was dropped, until all elements have arrived.
DROPPED_ELEMENT: Any = object()


def collect(outputs: dict[str, Any], name: str, element: str, value: Any) -> None:
    """Add what an event delivered to the outputs by name: the elements of a list arrive one by one,
    in any order.
    """
    if not element:
        outputs[name] = value
        return
    index = int(element.strip("[]"))
    elements = outputs[name] if isinstance(outputs.get(name), list) else []
    elements += [None] * (index + 1 - len(elements))
    elements[index] = value
    outputs[name] = elements


def leave_out_dropped(outputs: dict[str, Any]) -> None:
    """Take the elements that were dropped out of the collected lists."""
    for name, value in outputs.items():
        if isinstance(value, list):
            outputs[name] = [element for element in value if element is not DROPPED_ELEMENT]


def is_one_file(output: Output) -> bool:
    """Whether a list is written as one file: a table, or JSON data that is a list."""
    return output.whole or (
        output.type.kind != "list" and not fields_of(output.path or "") & {"item", "index"}
    )


def _with_absent(slot: Artifact, value: Any) -> Any:
    """Tell the absent elements of a list from those that are null."""
    if slot.items is None:
        return value
    return [
        Absent.value if item.kind == "absent" else element
        for item, element in zip(slot.items, value, strict=True)
    ]


def _fields(
    plan: Plan,
    inputs: Mapping[str, Any],
    output: Output,
    *,
    index: int | str,
    digest8: str,
    label: str = "",
    is_element: bool = False,
) -> dict[str, object]:
    plain = {n: v for n, v in inputs.items() if isinstance(v, str | int | float | bool)}
    return {
        **plain,
        "graph": plan.graph.name,
        "output": output.name,
        "item": (f"{label}-{index}" if is_element else label) if label else index,
        "index": index,
        "digest8": digest8,
    }


@dataclass(frozen=True, slots=True)
class PlannedWrite:
    """A file that a run would write: for which output, where, and what happens to an existing file.
    Path fields whose values are not known yet are left as they are.
    """

    output: str
    path: str
    effect: str


def planned_writes(plan: Plan, folder: OutFolder, *, limit: int) -> Iterator[PlannedWrite]:
    """List the files that a run of a plan would write, and for the first `limit` ones what happens
    to an existing file. Nothing is written.
    """
    writer = OutputWriter(folder)
    inputs = {item.label: item.inputs for item in plan.items}
    count = 0
    for top, output in itertools.product(plan.state.tops, plan.graph.outputs.values()):
        if output.path is None:
            continue
        slot = plan.values.bind(top, output.source)
        is_list = output.type.kind == "list" and not output.whole
        artifacts: list[tuple[Artifact | Unknown, int | str]] = [
            (slot, "{index}" if is_list else 0)
        ]
        if isinstance(slot, Artifact):
            artifacts = (
                [(without_dropped(slot), 0)]
                if slot.items is None or is_one_file(output)
                else [(without_dropped(item), i) for i, item in enumerate(slot.items)]
            )
        for artifact, index in artifacts:
            if isinstance(artifact, Artifact) and artifact.kind in ("absent", "failed"):
                continue
            digest8 = artifact.digest[:8] if isinstance(artifact, Artifact) else "{digest8}"
            path = writer.relative(
                output.path,
                {
                    **_fields(
                        plan,
                        inputs[top.item],
                        output,
                        label=top.item,
                        index=index,
                        is_element=is_list,
                        digest8=digest8,
                    ),
                    **planned_file_names(plan.values, top, output, index),
                },
                element=is_list,
            )
            count += 1
            is_known = count <= limit and (
                isinstance(artifact, Artifact) or not (is_list or "{digest8}" in path)
            )
            name = step_title(output.name, top.item)
            name = f"{name}[{index}]" if is_list and isinstance(index, int) else name
            yield PlannedWrite(
                name,
                str(folder.path / path),
                writer.predict(
                    path,
                    type=output.type,
                    exists=output.exists,
                    digest=artifact.digest if isinstance(artifact, Artifact) else "",
                    level=output.provenance,
                    options=output.options,
                )
                if is_known
                else "",
            )


def _paths(value: Any) -> Iterator[Path]:
    """Yield the paths of a value that refers to files."""
    if isinstance(value, list):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, File | Folder | Model):
        yield value.path
