"""Read a line file into a `Line`, with all its problems and their positions. What it says about the
graph is checked by `recipe`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from dataclasses import field
from pathlib import Path
from typing import Any

from .._system.dataclass import dataclass
from .._system.regular_files import open_regular
from .._text.words import (
    MAX_BYTES,
    UNREADABLE,
    Pair,
    Reference,
    Template,
    Word,
)
from .._text.yaml_reader import read_words, too_large
from ..errors import GraphError, Mark, Problem, Source, nearest
from .ignore import pattern_error

__all__ = ["Line", "Notify", "check_together", "read_line"]

VERSION = 1

#: Every key, with a one-line description.
KEYS: dict[str, str] = {
    "imagen_flow_folder": "the format version: 1",
    "graph": "the graph that processes each file",
    "in": "the folder that is watched",
    "accept": "patterns of the file names to take in; other files stay where they are",
    "ignore": (
        "patterns of files and folders to ignore, as in .gitignore, in addition to those"
        " of operating systems and network drives"
    ),
    "folders": "how to treat sub-folders: kept, flattened or ignored",
    "links": "how to treat symbolic links to files: ignored or followed",
    "input": "the input of the graph that receives the file",
    "set": "values of other inputs",
    "ticket": (
        "a YAML or JSON file beside each file that sets inputs for it: none, sidecar or required"
    ),
    "allow": "the inputs that a ticket may set",
    "settle_s": "how long a file's size and time must be unchanged, in seconds",
    "empty_s": "how long to wait for an empty file to get content, in seconds",
    "sentinel": "the extension of a file beside each that marks it as complete, such as .ready",
    "outputs": "paths of outputs, overriding those in the graph",
    "out": "the output folder",
    "done": "the folder that originals are moved to when all their outputs are published",
    "failed": "the folder that failed originals are moved to, each with a text file that says why",
    "retry": "how often to retry a failed item, and after how long: {times: 2, backoff_s: 5}",
    "concurrency": "how many items each process handles at the same time",
    "group": "how many waiting items are processed together, at most; 1 for one after the other",
    "priority": "the order of items: oldest, newest or name",
    "duplicates": "what to do with content that was processed before: both, link or skip",
    "kills": "after how many crashes of the process an item is quarantined",
    "stop_s": "how long running items may take to finish when the line is stopped, in seconds",
    "lease_s": "after how many seconds of silence another process takes over a worker's items",
    "poll": "poll every poll_s instead of waiting for file system events: for network shares",
    "poll_s": "the polling interval, in seconds",
    "journal": "the journal folder, on a local disk",
    "log": "the log file: JSON lines",
    "notify": (
        "whom to notify of finished items: {command: […], url: …, on: [done, failed],"
        " timeout_s: 10}"
    ),
}
_REQUIRED = ("imagen_flow_folder", "graph", "in", "out")
#: Keys with a fixed set of values; the first is the default.
_CHOICES = {
    "folders": ("kept", "flattened", "ignored"),
    "links": ("ignored", "followed"),
    "ticket": ("none", "sidecar", "required"),
    "priority": ("oldest", "newest", "name"),
    "duplicates": ("both", "link", "skip"),
}
#: The formats that `image.load` reads.
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
    """Whom to notify of finished items: a command, which receives a line of JSON, and a URL that it
    is posted to.
    """

    command: tuple[str, ...] = ()
    url: str = ""
    on: tuple[str, ...] = ("done", "failed")
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """A line as written, with absolute paths. See `KEYS` for its fields."""

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
    group: int = 32
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
        """The name of the line: that of its file without the ending."""
        return self.path.stem


def read_line(path: Path, *, missing: str = "") -> Line:
    """Read a line file.

    Params:
        missing: a key whose file or folder may be missing.

    Raises:
        GraphError: its problems, all of them, in the order of the file.
    """
    name = str(path)
    try:
        with open_regular(path) as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise GraphError(
            [
                Problem(
                    "unreadable",
                    f"{name} cannot be read: {(error.strerror or str(error)).lower()}",
                )
            ]
        ) from error
    if len(data) > MAX_BYTES:
        raise GraphError([too_large(name)])
    parsed = read_words(data, name=name)
    reader = _LineReader(parsed.source, list(parsed.problems), path, missing)
    line = reader.read(parsed.word) if parsed.word is not None else None
    if reader.problems or line is None:
        raise GraphError(reader.problems) from reader.os_error
    return line


def check_together(lines: Iterable[Line]) -> None:
    """Check that lines do not take each other's files or feed each other in a cycle.

    Raises:
        GraphError: they do; says which.
    """
    lines = list(lines)
    problems: list[Problem] = []
    for number, line in enumerate(lines):
        for other in lines[:number]:
            for key, mine, theirs in (
                ("in", line.inbox, other.inbox),
                ("journal", line.journal, other.journal),
            ):
                if _resolved(mine) == _resolved(theirs):
                    problems.append(
                        Problem(
                            "bad-path",
                            f"'{key}' is also used by {other.path}",
                            line.marks.get(key, line.marks["in"]),
                            "both would process the same files",
                            "give each line a folder of its own",
                        )
                    )
    feeds = {a: [b for b in lines if b is not a and _feeds(b, a.out)] for a in lines}
    for line in lines:
        if cycle := _cycle(feeds, line):
            problems.append(
                Problem(
                    "bad-path",
                    f"lines feed each other: {' -> '.join(one.name for one in cycle)}",
                    line.marks["out"],
                    "files would circulate forever",
                    "let one of them write to another folder",
                )
            )
            break
    if problems:
        raise GraphError(problems)


def _feeds(line: Line, out: Path) -> bool:
    return is_inside(out, line.inbox) and not any(
        is_inside(out, own)
        for own in (line.out, line.done, line.failed)
        if is_inside(own, line.inbox)
    )


def _cycle(feeds: dict[Any, list[Line]], start: Line) -> list[Line]:
    stack: list[list[Line]] = [[start]]
    while stack:
        path = stack.pop()
        for following in feeds[path[-1]]:
            if following is start:
                return [*path, start]
            if following not in path:
                stack.append([*path, following])
    return []


def _resolved(path: Path) -> str:
    return os.path.normcase(os.path.realpath(path))


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path is a folder or lies in it, after resolving links."""
    resolved, root = _resolved(path), _resolved(folder)
    return resolved == root or resolved.startswith(root.rstrip(os.sep) + os.sep)


@dataclass
class _LineReader:
    source: Source
    problems: list[Problem]
    path: Path
    missing: str = ""
    #: The file system error behind one of the problems.
    os_error: OSError | None = None

    def add_problem(
        self, code: str, message: str, mark: Mark, why: str = "", fix: str = ""
    ) -> None:
        self.problems.append(Problem(code, message, mark, why, fix))

    def read(self, root: Word) -> Line | None:
        if not isinstance(root.value, dict):
            if root.value is not UNREADABLE:
                self.add_problem(
                    "bad-shape",
                    "a line is a mapping",
                    root.mark,
                    fix="start with 'imagen_flow_folder: 1', then 'graph:', 'in:' and 'out:'",
                )
            return None
        pairs: dict[str, Pair] = root.value
        if (
            _REQUIRED[0] not in pairs
            and "graph" not in pairs
            and pairs.keys() & {"imagen_flow", "nodes"}
        ):
            self.problems[:] = []
            self.add_problem(
                "bad-shape",
                "this is a graph, not a line",
                next(iter(pairs.values())).key.mark,
                "a line file names the watched folder and the graph that processes its files",
                f"run it with: imagen-flow run {self.path}",
            )
            return None
        self.check_keys(pairs, KEYS, "a line")
        for key in _REQUIRED:
            if key not in pairs and not any(f"'{key}'" in p.fix for p in self.problems):
                self.add_problem(
                    "missing-key",
                    f"a line needs '{key}'",
                    root.mark,
                    KEYS[key],
                    f"write {key}: {'1' if key == _REQUIRED[0] else '…'}",
                )
        self.check_version(pairs)
        folder = self.path.absolute().parent
        fields = _Fields(self, pairs)
        found: dict[str, Any] = {
            "path": self.path.absolute(),
            "graph": fields.path("graph", folder, ""),
            "inbox": fields.path("in", folder, "./in"),
            "out": fields.path("out", folder, "./out"),
            "done": fields.path("done", folder, "./done"),
            "failed": fields.path("failed", folder, "./failed"),
            "journal": fields.path("journal", folder, f"./{self.path.stem}.journal"),
            "accept": fields.text_list("accept", _PICTURES),
            "ignore": fields.text_list("ignore", ()),
            "input": fields.text("input", ""),
            "allow": fields.text_list("allow", None),
            "settle_s": fields.number("settle_s", 2.0, low=0, high=86_400),
            "empty_s": fields.number("empty_s", 600.0, low=0, high=31_536_000),
            "sentinel": fields.text("sentinel", ""),
            "concurrency": fields.integer("concurrency", 1, low=1, high=64),
            "group": fields.integer("group", 32, low=1, high=1000),
            "kills": fields.integer("kills", 3, low=1, high=1_000_000),
            "stop_s": fields.number("stop_s", 10.0, low=0, high=86_400),
            "lease_s": fields.number("lease_s", 30.0, low=1, high=86_400),
            "poll": fields.boolean("poll", False),
            "poll_s": fields.number("poll_s", 2.0, low=0.05, high=86_400),
            "values": fields.mapping("set"),
            "outputs": fields.mapping("outputs"),
            "notify": self.notify(fields.mapping("notify", ("command", "url", "on", "timeout_s"))),
            "marks": {key: pair.value.mark for key, pair in pairs.items()},
            **{key: fields.choice(key, choices) for key, choices in _CHOICES.items()},
        }
        found["log"] = fields.path("log", folder, str(found["journal"] / "log.jsonl"))
        retry = _Fields(self, fields.mapping("retry", ("times", "backoff_s")))
        found |= {
            "retries": retry.integer("times", 0, low=0, high=1000),
            "backoff_s": retry.number("backoff_s", 5.0, low=0, high=86_400),
        }
        for key in ("set", "outputs"):
            for pair in fields.mapping(key).values():
                self.check_no_references(pair.value, key)
        self.check_patterns(found, pairs)
        line = Line(**found)
        if all(key in pairs for key in _REQUIRED):
            self.check_folders(line, root.mark)
            self.check_existence(line)
        return line

    def check_patterns(self, found: dict[str, Any], pairs: dict[str, Pair]) -> None:
        """Check the sentinel, and the patterns of `accept` and `ignore`."""
        if found["sentinel"] and (
            not found["sentinel"].startswith(".") or "/" in found["sentinel"]
        ):
            self.add_problem(
                "bad-literal",
                f"'sentinel' is a file extension, not '{found['sentinel']}'",
                pairs["sentinel"].value.mark,
                fix="write one that starts with a dot, such as .ready",
            )
        for number, pattern in enumerate(found["accept"]):
            if "/" in pattern or not pattern:
                self.add_problem(
                    "bad-literal",
                    f"'{pattern}' is not a pattern for file names",
                    _mark_of(pairs["accept"], number),
                    "it is matched against the file name, without folders",
                    'write one such as "*.png"',
                )
        for number, pattern in enumerate(found["ignore"]):
            if fault := pattern_error(pattern):
                self.add_problem(
                    "bad-literal",
                    f"'{pattern}' cannot be used in 'ignore'",
                    _mark_of(pairs["ignore"], number),
                    fault,
                    'write one such as "drafts/" or "*.psd"',
                )

    def check_keys(self, pairs: dict[str, Pair], keys: Iterable[str], what: str) -> None:
        keys = tuple(keys)
        for key in pairs.keys() - set(keys):
            near = nearest(key, keys)
            self.add_problem(
                "unknown-key",
                f"{what} has no key '{key}'",
                pairs[key].key.mark,
                f"its keys are: {', '.join(keys)}",
                near if near.startswith("did") else "",
            )

    def check_version(self, pairs: dict[str, Pair]) -> None:
        word = pairs[_REQUIRED[0]].value if _REQUIRED[0] in pairs else None
        if (
            word is not None
            and word.value is not UNREADABLE
            and (word.value != VERSION or type(word.value) is not int)
        ):
            newer = isinstance(word.value, int) and word.value > VERSION
            shown = f" '{word.value}'" if isinstance(word.value, str | int | float) else ""
            self.add_problem(
                "unknown-version",
                f"the format version{shown} is not known",
                word.mark,
                f"this imagen_flow reads version {VERSION}",
                "upgrade imagen_flow" if newer else f"write {_REQUIRED[0]}: {VERSION}",
            )

    def check_no_references(self, word: Word, key: str) -> None:
        pending = [word]
        while pending:
            value = pending.pop().value
            if isinstance(value, dict):
                pending += [p.value for p in value.values()]
            elif isinstance(value, tuple):
                pending += value
            elif isinstance(value, Reference | Template):
                self.add_problem(
                    "bad-reference",
                    f"'{key}' in a line cannot contain references",
                    word.mark,
                    "a line has no nodes",
                    "write '$${' for the characters themselves",
                )

    def notify(self, pairs: dict[str, Pair]) -> Notify:
        fields = _Fields(self, pairs)
        url = fields.text("url", "")
        if url and not re.match(r"https?://[^/\s]", url):
            self.add_problem(
                "bad-literal",
                f"'{url}' is not a URL to post to",
                pairs["url"].value.mark,
                fix="write one that starts with https:// or http://",
            )
        on = fields.text_list("on", ("done", "failed"))
        for word in set(on) - {"done", "failed"}:
            self.add_problem(
                "bad-literal", f"'on' takes done and failed, not '{word}'", pairs["on"].value.mark
            )
        return Notify(
            fields.text_list("command", ()),
            url,
            on,
            fields.number("timeout_s", 10.0, low=0.1, high=3600),
        )

    def check_folders(self, line: Line, mark: Mark) -> None:
        """Refuse folders that would feed the line its own outputs, or mix files that must be kept
        apart.
        """
        folders = {
            "out": line.out,
            "done": line.done,
            "failed": line.failed,
            "journal": line.journal,
        }
        for key, folder in folders.items():
            position = line.marks.get(key, line.marks["in"])
            if _resolved(folder) == _resolved(line.inbox):
                self.add_problem(
                    "bad-path",
                    f"'{key}' is the watched folder",
                    position,
                    "the line would take its own files as new ones",
                    "use a separate folder; it may lie inside 'in'",
                )
            elif is_inside(line.inbox, folder):
                self.add_problem(
                    "bad-path",
                    f"'in' lies inside '{key}'",
                    line.marks["in"],
                    "the line would take its own files as new ones",
                    f"put 'in' beside '{key}', or '{key}' inside 'in'",
                )
        for first, second in (
            ("out", "done"),
            ("out", "failed"),
            ("done", "failed"),
            ("journal", "out"),
            ("journal", "done"),
            ("journal", "failed"),
        ):
            if _resolved(folders[first]) == _resolved(folders[second]):
                position = line.marks.get(second, line.marks.get(first, mark))
                self.add_problem(
                    "bad-path",
                    f"'{first}' and '{second}' are the same folder",
                    position,
                    "their files could not be told apart",
                    "use separate folders",
                )

    def check_existence(self, line: Line) -> None:
        """Report a graph or a watched folder that does not exist."""
        for key, path, is_kind in (
            ("graph", line.graph, stat.S_ISREG),
            ("in", line.inbox, stat.S_ISDIR),
        ):
            if key == self.missing:
                continue
            try:
                if is_kind(os.stat(path).st_mode):
                    continue
            except OSError as error:
                if not isinstance(error, FileNotFoundError | NotADirectoryError):
                    self.os_error = self.os_error or error
                    self.add_problem(
                        "unreadable",
                        f"'{key}' cannot be read: {(error.strerror or str(error)).lower()}",
                        line.marks[key],
                        f"it is {path}",
                    )
                    continue
            if key == "graph":
                self.add_problem(
                    "missing-file",
                    f"there is no graph '{path.name}'",
                    line.marks[key],
                    f"expected at {path}",
                )
            else:
                self.add_problem(
                    "missing-file",
                    "the folder of 'in' does not exist",
                    line.marks[key],
                    f"expected at {path}",
                    "create it, or mount its file system",
                )


def _mark_of(pair: Pair, number: int) -> Mark:
    """Return the position of an element of a list, or of a single text in place of a list."""
    return pair.value.value[number].mark if isinstance(pair.value.value, tuple) else pair.value.mark


class _Fields:
    """Takes typed values from a mapping. A value of another type is reported, and the default is
    used.
    """

    def __init__(self, reader: _LineReader, pairs: dict[str, Pair]) -> None:
        self.reader = reader
        self.pairs = pairs

    def take(self, key: str, fits: Callable[[Any], bool], expected: str, default: Any) -> Any:
        pair = self.pairs.get(key)
        if pair is None or pair.value.value is UNREADABLE:
            return default
        if fits(pair.value.value):
            return pair.value.value
        shown = (
            f", not '{pair.value.value}'" if isinstance(pair.value.value, str | int | float) else ""
        )
        self.reader.add_problem(
            "bad-literal", f"'{key}' is {expected}{shown}", pair.value.mark, KEYS.get(key, "")
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
        except (RuntimeError, ValueError) as error:
            self.reader.add_problem(
                "bad-path", f"'{key}' is not a path: {error}", self.pairs[key].value.mark
            )
            return folder

    def text_list(self, key: str, default: Any) -> Any:
        value = self.take(
            key,
            lambda v: (
                isinstance(v, str)
                or (isinstance(v, tuple) and all(isinstance(w.value, str) for w in v))
            ),
            "a list of strings",
            default,
        )
        if isinstance(value, str):
            return (value,)
        return (
            tuple(w.value if isinstance(w, Word) else w for w in value)
            if value is not None
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

    def integer(self, key: str, default: int, *, low: int, high: int) -> int:
        return int(
            self.take(
                key,
                lambda v: type(v) is int and low <= v <= high,
                f"an integer from {low} to {high}",
                default,
            )
        )

    def boolean(self, key: str, default: bool) -> bool:
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
        value: dict[str, Pair] = self.take(key, lambda v: isinstance(v, dict), "a mapping", {})
        if keys:
            self.reader.check_keys(value, keys, f"'{key}'")
        return value
