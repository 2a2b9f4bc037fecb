"""Read a line file: text to Line, every problem with its place. What it names is checked as far as
that takes no graph; `recipe` does the rest.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._system.regular_files import open_regular
from .._text.yaml_reader import (
    MAX_BYTES,
    UNREADABLE,
    Pair,
    Reference,
    Template,
    Word,
    read_words,
    too_large,
)
from ..errors import GraphError, Mark, Problem, Source, nearest
from .ignore import fault_of

__all__ = ["Line", "Notify", "check_together", "read_line"]

VERSION = 1

#: Every key, and what it says in one line.
KEYS: dict[str, str] = {
    "imagen_flow_folder": "the version of the format: 1",
    "graph": "the graph that each file goes through",
    "in": "the folder that is watched",
    "accept": "patterns of the names that are taken; others stay where they are",
    "ignore": (
        "patterns of names and folders that are never taken, as in .gitignore, beside those of"
        " operating systems and network drives"
    ),
    "folders": "what becomes of sub-folders: kept, flattened or ignored",
    "links": "symbolic links to files: ignored or followed",
    "input": "the graph's input that receives the file",
    "set": "values of other inputs",
    "ticket": (
        "a YAML or JSON file beside each that sets inputs for it alone: none, sidecar or required"
    ),
    "allow": "the inputs that a ticket may set",
    "settle_s": "how long size and time of a file must have stood still",
    "empty_s": "how long an empty file may wait to be filled before it is taken as it is",
    "sentinel": "the ending of a file beside each that says it is complete, such as .ready",
    "outputs": "paths of outputs, in place of the graph's own",
    "out": "the folder for outputs",
    "done": "the folder that originals move to when all their outputs are in place",
    "failed": "the folder that originals move to when they fail, each with a text that says why",
    "retry": "how often an item is tried again, and after how long: {times: 2, backoff_s: 5}",
    "concurrency": "how many items are worked on at once by each process",
    "priority": "which item is next: oldest, newest or name",
    "duplicates": "what becomes of content that was done before: both, link or skip",
    "kills": "after how many deaths of the process an item is put aside",
    "stop_s": "how long a running item may take to finish when the line is stopped",
    "lease_s": "after how long without a sign of life another process takes a worker's items",
    "poll": "look every poll_s instead of waiting for events: for network shares",
    "poll_s": "how often to look then, in seconds",
    "journal": "the folder of the journal, on a local disk",
    "log": "the file of the log, a JSON object a line",
    "notify": "what is told of each end: {command: […], url: …, on: [done, failed], timeout_s: 10}",
}
_REQUIRED = ("imagen_flow_folder", "graph", "in", "out")
#: Keys that name one of a few words; the first is the default.
_CHOICES = {
    "folders": ("kept", "flattened", "ignored"),
    "links": ("ignored", "followed"),
    "ticket": ("none", "sidecar", "required"),
    "priority": ("oldest", "newest", "name"),
    "duplicates": ("both", "link", "skip"),
}
#: What `image.load` reads.
_PICTURES = (
    "*.png",
    "*.apng",
    "*.jpg",
    "*.jpeg",
    "*.jpe",
    "*.jfif",
    "*.webp",
    "*.tif",
    "*.tiff",
    "*.bmp",
    "*.dib",
    "*.gif",
    "*.avif",
    "*.avifs",
    "*.ppm",
    "*.pgm",
    "*.pbm",
    "*.pnm",
    "*.pam",
    "*.pfm",
)


@dataclass(frozen=True, slots=True)
class Notify:
    """What is told of items that end: a command, which gets a line of JSON, and an address that it
    is posted to.
    """

    command: tuple[str, ...] = ()
    url: str = ""
    on: tuple[str, ...] = ("done", "failed")
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A line as written, with every path absolute. See `KEYS` for what each says."""

    path: Path
    graph: Path
    inbox: Path
    out: Path
    done: Path
    failed: Path
    journal: Path
    log: Path
    accept: tuple[str, ...] = _PICTURES
    ignore: tuple[str, ...] = ()
    folders: str = "kept"
    links: str = "ignored"
    input: str = ""
    ticket: str = "none"
    allow: tuple[str, ...] | None = None
    settle_s: float = 2.0
    empty_s: float = 600.0
    sentinel: str = ""
    retries: int = 0
    backoff_s: float = 5.0
    concurrency: int = 1
    priority: str = "oldest"
    duplicates: str = "both"
    kills: int = 3
    stop_s: float = 10.0
    lease_s: float = 30.0
    poll: bool = False
    poll_s: float = 2.0
    notify: Notify = field(default_factory=Notify)
    values: dict[str, Pair] = field(default_factory=dict)
    outputs: dict[str, Pair] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the line is called: the name of its file without ending."""
        return self.path.stem


def read_line(path: Path, *, missing: str = "") -> Line:
    """Read a line file.

    Params:
        missing: a key whose folder need not be there.

    Raises:
        GraphError: its problems, all of them, in file order.
    """
    shown = str(path)
    try:
        with open_regular(path) as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as failed:
        raise GraphError(
            [
                Problem(
                    "unreadable",
                    f"{shown} cannot be read: {(failed.strerror or str(failed)).lower()}",
                )
            ]
        ) from failed
    if len(data) > MAX_BYTES:
        raise GraphError([too_large(shown)])
    written = read_words(data, name=shown)
    reader = _Reader(written.source, list(written.problems), path, missing)
    line = reader.line(written.word) if written.word is not None else None
    if reader.problems or line is None:
        raise GraphError(reader.problems) from reader.failed
    return line


def check_together(lines: Iterable[Line]) -> None:
    """Refuse lines that would take each other's files, or feed one another for ever.

    Raises:
        GraphError: says which.
    """
    lines = list(lines)
    problems: list[Problem] = []
    for number, line in enumerate(lines):
        for other in lines[:number]:
            for key, mine, theirs in (
                ("in", line.inbox, other.inbox),
                ("journal", line.journal, other.journal),
            ):
                if _real(mine) == _real(theirs):
                    problems.append(
                        Problem(
                            "bad-path",
                            f"'{key}' is that of {other.path} as well",
                            line.marks.get(key, line.marks["in"]),
                            "each file would be taken by either",
                            "give each line its own",
                        )
                    )
    feeds = {a: [b for b in lines if b is not a and _takes_in(b, a.out)] for a in lines}
    for line in lines:
        if cycle := _cycle(feeds, line):
            problems.append(
                Problem(
                    "bad-path",
                    f"lines feed each other: {' -> '.join(one.name for one in cycle)}",
                    line.marks["out"],
                    "what one gives would go round for ever",
                    "let one of them write elsewhere",
                )
            )
            break
    if problems:
        raise GraphError(problems)


def _takes_in(line: Line, out: Path) -> bool:
    return is_inside(out, line.inbox) and not any(
        is_inside(out, own)
        for own in (line.out, line.done, line.failed)
        if is_inside(own, line.inbox)
    )


def _cycle(feeds: dict[Any, list[Line]], start: Line) -> list[Line]:
    stack: list[list[Line]] = [[start]]
    while stack:
        way = stack.pop()
        for after in feeds[way[-1]]:
            if after is start:
                return [*way, start]
            if after not in way:
                stack.append([*way, after])
    return []


def _real(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or lies in it, links followed."""
    one, other = _real(path), _real(folder)
    return one == other or one.startswith(other.rstrip(os.sep) + os.sep)


@dataclass
class _Reader:
    source: Source
    problems: list[Problem]
    path: Path
    missing: str = ""
    #: An error of the file system behind one of the problems.
    failed: OSError | None = None

    def say(self, code: str, message: str, mark: Mark, why: str = "", fix: str = "") -> None:
        self.problems.append(Problem(code, message, mark, why, fix))

    def line(self, root: Word) -> Line | None:
        if not isinstance(root.value, dict):
            if root.value is not UNREADABLE:
                self.say(
                    "bad-shape",
                    "a line is a mapping",
                    root.mark,
                    fix="begin with 'imagen_flow_folder: 1', then 'graph:', 'in:' and 'out:'",
                )
            return None
        pairs: dict[str, Pair] = root.value
        if (
            _REQUIRED[0] not in pairs
            and "graph" not in pairs
            and pairs.keys() & {"imagen_flow", "nodes"}
        ):
            self.problems[:] = []
            self.say(
                "bad-shape",
                "this is a graph, not a line",
                next(iter(pairs.values())).key.mark,
                "a line file says which folder is watched, and which graph its files go through",
                f"run it with: imagen-flow run {self.path}",
            )
            return None
        self.known(pairs, KEYS, "a line")
        for key in _REQUIRED:
            if key not in pairs and not any(f"'{key}'" in p.fix for p in self.problems):
                self.say(
                    "missing-key",
                    f"a line needs '{key}'",
                    root.mark,
                    KEYS[key],
                    f"write {key}: {'1' if key == _REQUIRED[0] else '…'}",
                )
        self.version(pairs)
        folder = self.path.absolute().parent
        take = _Taker(self, pairs)
        found: dict[str, Any] = {
            "path": self.path.absolute(),
            "graph": take.path("graph", folder, ""),
            "inbox": take.path("in", folder, "./in"),
            "out": take.path("out", folder, "./out"),
            "done": take.path("done", folder, "./done"),
            "failed": take.path("failed", folder, "./failed"),
            "journal": take.path("journal", folder, f"./{self.path.stem}.journal"),
            "accept": take.texts("accept", _PICTURES),
            "ignore": take.texts("ignore", ()),
            "input": take.text("input", ""),
            "allow": take.texts("allow", None),
            "settle_s": take.number("settle_s", 2.0, low=0, high=86_400),
            "empty_s": take.number("empty_s", 600.0, low=0, high=31_536_000),
            "sentinel": take.text("sentinel", ""),
            "concurrency": take.whole("concurrency", 1, low=1, high=64),
            "kills": take.whole("kills", 3, low=1, high=1_000_000),
            "stop_s": take.number("stop_s", 10.0, low=0, high=86_400),
            "lease_s": take.number("lease_s", 30.0, low=1, high=86_400),
            "poll": take.truth("poll", False),
            "poll_s": take.number("poll_s", 2.0, low=0.05, high=86_400),
            "values": take.mapping("set"),
            "outputs": take.mapping("outputs"),
            "notify": self.notify(take.mapping("notify", ("command", "url", "on", "timeout_s"))),
            "marks": {key: pair.value.mark for key, pair in pairs.items()},
            **{key: take.choice(key, choices) for key, choices in _CHOICES.items()},
        }
        found["log"] = take.path("log", folder, str(found["journal"] / "log.jsonl"))
        retry = _Taker(self, take.mapping("retry", ("times", "backoff_s")))
        found |= {
            "retries": retry.whole("times", 0, low=0, high=1000),
            "backoff_s": retry.number("backoff_s", 5.0, low=0, high=86_400),
        }
        for key in ("set", "outputs"):
            for pair in take.mapping(key).values():
                self.plain(pair.value, key)
        if found["sentinel"] and (
            not found["sentinel"].startswith(".") or "/" in found["sentinel"]
        ):
            self.say(
                "bad-literal",
                f"'sentinel' is an ending, not '{found['sentinel']}'",
                pairs["sentinel"].value.mark,
                fix="write one that starts with a dot, such as .ready",
            )
        for number, pattern in enumerate(found["accept"]):
            if "/" in pattern or not pattern:
                self.say(
                    "bad-literal",
                    f"'{pattern}' is no pattern of a name",
                    _mark_of(pairs["accept"], number),
                    "it is compared with a file's name, without folders",
                    'write one such as "*.png"',
                )
        for number, pattern in enumerate(found["ignore"]):
            if fault := fault_of(pattern):
                self.say(
                    "bad-literal",
                    f"'{pattern}' cannot be used in 'ignore'",
                    _mark_of(pairs["ignore"], number),
                    fault,
                    'write one such as "drafts/" or "*.psd"',
                )
        line = Line(**found)
        if all(key in pairs for key in _REQUIRED):
            self.places(line, root.mark)
        return line

    def known(self, pairs: dict[str, Pair], keys: Iterable[str], what: str) -> None:
        keys = tuple(keys)
        for key in pairs.keys() - set(keys):
            near = nearest(key, keys)
            self.say(
                "unknown-key",
                f"{what} has no key '{key}'",
                pairs[key].key.mark,
                f"its keys are: {', '.join(keys)}",
                near if near.startswith("did") else "",
            )

    def version(self, pairs: dict[str, Pair]) -> None:
        word = pairs[_REQUIRED[0]].value if _REQUIRED[0] in pairs else None
        if (
            word is not None
            and word.value is not UNREADABLE
            and (word.value != VERSION or type(word.value) is not int)
        ):
            newer = isinstance(word.value, int) and word.value > VERSION
            shown = f" '{word.value}'" if isinstance(word.value, str | int | float) else ""
            self.say(
                "unknown-version",
                f"the format version{shown} is not known",
                word.mark,
                f"this imagen_flow reads version {VERSION}",
                "upgrade imagen_flow" if newer else f"write {_REQUIRED[0]}: {VERSION}",
            )

    def plain(self, word: Word, key: str) -> None:
        pending = [word]
        while pending:
            value = pending.pop().value
            if isinstance(value, dict):
                pending += [p.value for p in value.values()]
            elif isinstance(value, tuple):
                pending += value
            elif isinstance(value, Reference | Template):
                self.say(
                    "bad-reference",
                    f"'{key}' of a line cannot refer to anything",
                    word.mark,
                    "a line has no nodes",
                    "write '$${' for the characters themselves",
                )

    def notify(self, pairs: dict[str, Pair]) -> Notify:
        take = _Taker(self, pairs)
        url = take.text("url", "")
        if url and not re.match(r"https?://[^/\s]", url):
            self.say(
                "bad-literal",
                f"'{url}' is no address to post to",
                pairs["url"].value.mark,
                fix="write one that starts with https:// or http://",
            )
        on = take.texts("on", ("done", "failed"))
        for word in set(on) - {"done", "failed"}:
            self.say(
                "bad-literal", f"'on' has done and failed, not '{word}'", pairs["on"].value.mark
            )
        return Notify(
            take.texts("command", ()), url, on, take.number("timeout_s", 10.0, low=0.1, high=3600)
        )

    def places(self, line: Line, mark: Mark) -> None:
        """Refuse folders that would feed the line its own outputs, or mix what must be told apart."""
        places = {
            "out": line.out,
            "done": line.done,
            "failed": line.failed,
            "journal": line.journal,
        }
        for key, place in places.items():
            here = line.marks.get(key, line.marks["in"])
            if _real(place) == _real(line.inbox):
                self.say(
                    "bad-path",
                    f"'{key}' is the folder that is watched",
                    here,
                    "the line would take what it puts there for new",
                    "give it a folder of its own; it may lie inside 'in'",
                )
            elif is_inside(line.inbox, place):
                self.say(
                    "bad-path",
                    f"'in' lies inside '{key}'",
                    line.marks["in"],
                    "the line would take what it puts there for new",
                    f"put 'in' beside '{key}', or '{key}' inside 'in'",
                )
        for one, other in (
            ("out", "done"),
            ("out", "failed"),
            ("done", "failed"),
            ("journal", "out"),
            ("journal", "done"),
            ("journal", "failed"),
        ):
            if _real(places[one]) == _real(places[other]):
                here = line.marks.get(other, line.marks.get(one, mark))
                self.say(
                    "bad-path",
                    f"'{one}' and '{other}' are one folder",
                    here,
                    "what lies there could not be told apart",
                    "give each its own",
                )
        for key, path, is_kind in (
            ("graph", line.graph, stat.S_ISREG),
            ("in", line.inbox, stat.S_ISDIR),
        ):
            if key == self.missing:
                continue
            try:
                if is_kind(os.stat(path).st_mode):
                    continue
            except OSError as failed:
                if not isinstance(failed, FileNotFoundError | NotADirectoryError):
                    self.failed = self.failed or failed
                    self.say(
                        "unreadable",
                        f"'{key}' cannot be read: {(failed.strerror or str(failed)).lower()}",
                        line.marks[key],
                        f"it is {path}",
                    )
                    continue
            if key == "graph":
                self.say(
                    "missing-file",
                    f"there is no graph '{path.name}'",
                    line.marks[key],
                    f"it was looked for as {path}",
                )
            else:
                self.say(
                    "missing-file",
                    "there is no folder for 'in'",
                    line.marks[key],
                    f"it would be {path}",
                    "create it, or mount what it lies on",
                )


def _mark_of(pair: Pair, number: int) -> Mark:
    """Give where an element of a list stands, or the text in place of a list."""
    return pair.value.value[number].mark if isinstance(pair.value.value, tuple) else pair.value.mark


class _Taker:
    """Takes values from a mapping, each of its kind; what is not gets a problem and the default."""

    def __init__(self, reader: _Reader, pairs: dict[str, Pair]) -> None:
        self.reader = reader
        self.pairs = pairs

    def take(self, key: str, fits: Callable[[Any], bool], words: str, default: Any) -> Any:
        pair = self.pairs.get(key)
        if pair is None or pair.value.value is UNREADABLE:
            return default
        if fits(pair.value.value):
            return pair.value.value
        shown = (
            f", not '{pair.value.value}'" if isinstance(pair.value.value, str | int | float) else ""
        )
        self.reader.say(
            "bad-literal", f"'{key}' is {words}{shown}", pair.value.mark, KEYS.get(key, "")
        )
        return default

    def text(self, key: str, default: str) -> str:
        return str(
            self.take(key, lambda v: isinstance(v, str) and bool(v.strip()), "text", default)
        )

    def path(self, key: str, folder: Path, default: str) -> Path:
        text = self.text(key, default)
        try:
            return Path(os.path.normpath(folder / Path(text).expanduser()))
        except (RuntimeError, ValueError) as odd:
            self.reader.say("bad-path", f"'{key}' is no path: {odd}", self.pairs[key].value.mark)
            return folder

    def texts(self, key: str, default: Any) -> Any:
        given = self.take(
            key,
            lambda v: (
                isinstance(v, str)
                or (isinstance(v, tuple) and all(isinstance(w.value, str) for w in v))
            ),
            "a list of texts",
            default,
        )
        if isinstance(given, str):
            return (given,)
        return (
            tuple(w.value if isinstance(w, Word) else w for w in given)
            if given is not None
            else None
        )

    def number(self, key: str, default: float, *, low: float, high: float) -> float:
        return float(
            self.take(
                key,
                lambda v: (
                    isinstance(v, int | float) and not isinstance(v, bool) and low <= v <= high
                ),
                f"a number from {low:g} to {high:g}",
                default,
            )
        )

    def whole(self, key: str, default: int, *, low: int, high: int) -> int:
        return int(
            self.take(
                key,
                lambda v: type(v) is int and low <= v <= high,
                f"a whole number from {low} to {high}",
                default,
            )
        )

    def truth(self, key: str, default: bool) -> bool:
        return bool(self.take(key, lambda v: isinstance(v, bool), "true or false", default))

    def choice(self, key: str, choices: tuple[str, ...]) -> str:
        return str(
            self.take(
                key,
                lambda v: isinstance(v, str) and v in choices,
                f"one of {', '.join(choices)}",
                choices[0],
            )
        )

    def mapping(self, key: str, keys: tuple[str, ...] = ()) -> dict[str, Pair]:
        given: dict[str, Pair] = self.take(key, lambda v: isinstance(v, dict), "a mapping", {})
        if keys:
            self.reader.known(given, keys, f"'{key}'")
        return given
