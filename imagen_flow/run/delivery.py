"""Hand over the outputs of a run: values as events, files written in a thread of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..account import Accounts
from ..artifact import Artifact
from ..errors import ImagenFlowError
from ..events import OutputAbsent, OutputFailed, OutputWritten
from ..graph import Output
from ..outputs import Writer
from ..plan import Plan
from ..store import Damaged
from ..values import File, Folder, Model
from .report import Report, words

__all__ = ["Delivery"]


class Delivery:
    """Gives the outputs of one run.

    Params:
        out: the folder that outputs with a path are written to, or what writes them; None writes nothing.
        value: gives the live value of an artifact.
        conditions: says what steps run on.
    """

    def __init__(self, plan: Plan, out: Path | Writer | None, report: Report, *, value: Callable[[Artifact], Any], conditions: Callable[[], dict[str, Any]]) -> None:
        self.plan = plan
        self.report = report
        self.value = value
        self._accounts = Accounts(plan, conditions=conditions)
        self._writer = Writer(out, codecs=plan.planner.values.codecs) if isinstance(out, Path) else out
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="imagen_flow outputs")
        self._writes: list[Future[None]] = []
        self._places: list[Path] = []

    def wait(self) -> None:
        """Wait until every file is written."""
        for write in self._writes:
            write.result()

    def close(self, *, cancelled: bool) -> None:
        """Let the file that is being written be finished, and unless the run was cancelled those that wait for it."""
        self._thread.shutdown(wait=True, cancel_futures=cancelled)

    def gave_from(self, folder: Path) -> bool:
        """Tell whether files, folders or models that lie in a folder were handed over."""
        return any(place.is_relative_to(folder) for place in self._places)

    def give(self, output: Output, slot: Artifact) -> None:
        """Hand over an output."""
        if slot.kind in ("absent", "failed"):
            why = "what it comes from is absent" if slot.kind == "absent" else "what it comes from failed"
            self.report.say(OutputAbsent(output.name, why, self.report.now()))
            return
        try:
            if output.path is None or self._writer is None or slot.items == ():
                items = slot.items or ()
                if any(i.kind in ("absent", "failed") for i in items):
                    value = [self.value(i) if i.kind not in ("absent", "failed") else None for i in items]
                else:
                    value = self.value(slot)
                self._places += _places(value)
                self.report.say(OutputWritten(output.name, "", None, False, value, self.report.now()))
                return
            elements = [(slot, "", 0)] if slot.items is None else [(item, f"[{i}]", i) for i, item in enumerate(slot.items)]
            for artifact, item, index in elements:
                if artifact.kind in ("absent", "failed"):
                    self.report.say(OutputAbsent(output.name + item, f"what it comes from is {artifact.kind}", self.report.now()))
                    continue
                value = self.value(artifact)
                self._places += _places(value)
                account = self._accounts.of(output, artifact, index if item else None)
                self._writes.append(self._thread.submit(self._write, output, artifact, item, index, value, account))
        except Damaged as damaged:
            self.report.failed += 1
            self.report.say(OutputFailed(output.name, "", str(damaged), self.report.now()))

    def _write(self, output: Output, artifact: Artifact, item: str, index: int, value: Any, account: str | None) -> None:
        assert self._writer is not None and output.path is not None
        inputs = {n: v for n, v in self.plan.inputs.items() if isinstance(v, str | int | float | bool)}
        fields = {**inputs, "graph": self.plan.graph.name, "output": output.name, "item": index, "index": index, "digest8": artifact.digest[:8]}
        try:
            relative = self._writer.relative(output.path, fields, element=bool(item))
            written = self._writer.write(relative, value, output=output.name, item=item, exists=output.exists, provenance=account, digest=artifact.digest)
            self.report.say(OutputWritten(output.name, item, str(written.path), written.changed, value, self.report.now()))
        except Exception as failed:
            self.report.failed += 1
            said = str(failed) if isinstance(failed, ImagenFlowError) else words(failed)
            self.report.say(OutputFailed(output.name, item, said, self.report.now()))


def _places(value: Any) -> Iterator[Path]:
    """Say where a value lies, if it is one that does not hold its content."""
    if isinstance(value, list):
        for item in value:
            yield from _places(item)
    elif isinstance(value, File | Folder | Model):
        yield value.path
