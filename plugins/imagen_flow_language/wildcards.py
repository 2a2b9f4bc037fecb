"""Prompts that vary: the node types that fill in variants and wildcards by a seed, or in all ways."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import translate
from random import Random
from typing import Annotated

import imagen_flow as flow
from imagen_flow import File, Folder, List, Progress, Range, Seed, Steps, Text
from imagen_flow.errors import nearest

from .templates import (
    MAX_CHARACTERS,
    MAX_DEPTH,
    Choice,
    Option,
    Part,
    Wildcard,
    read_line,
    read_template,
)

MAX_FILE_BYTES = 20_000_000
"""The largest wildcard file."""

MAX_TOTAL = 20_000_000
"""The most characters that all combinations have together."""

MAX_CHOSEN = 1000
"""The most options that are chosen at once."""

MAX_PARTS = 100_000
"""The most pieces that one text is put together from: files that name others twice each grow
without bound otherwise.
"""


@flow.node("text.wildcards", version=1)
def wildcards(template: Text, *, seed: Seed, folder: Folder | None = None) -> Steps[Text]:
    r"""Fill in a prompt that varies: choose among its variants and among the lines of files.

    Inputs:
        template: ``a {red|blue|2::green} bird`` chooses one of the options, green twice as often as
            red; options may be empty, and contain further variants. ``{2$$a|b|c}`` chooses two
            different ones in any order and puts ``, `` between them; ``{2$$ and $$a|b|c}`` puts
            `` and ``; ``{1-2$$a|b|c}``, ``{-2$$…}`` and ``{1-$$…}`` choose how many. ``__birds__``
            is a line of ``birds.txt``, ``__animals/wild__`` of a file in a subfolder,
            ``__animals/*__`` of any of several files; ``{2$$__birds__}`` are two different lines. A
            backslash before one of ``{ } | _ $ : # \`` makes it an ordinary character. ``${…}`` is
            kept as it stands.
        folder: the wildcard files: ``.txt`` in UTF-8, one option a line, which may have a weight
            (``2::green``), variants and other wildcards; empty lines and lines that start with
            ``#`` are skipped.

    Params:
        seed: equal seeds give equal choices for equal templates and files.

    Raises:
        ValueError: the template or a file is not well formed, a file is missing, empty or contains
            itself by way of others (the message shows the cycle), or the text becomes too long.

    Source:
        The documented syntax of Dynamic Prompts, without its variables and parameters.
        ``random.Random``, whose numbers are the same in all versions of Python.
    """
    filled = _Filling(folder)
    with _bounded_depth():
        text = _sample(filled.template(template), Random(seed))
    yield Progress(1, 1, filled.note())
    return text


@flow.node("text.combinations", version=1)
def combinations(
    template: Text,
    *,
    folder: Folder | None = None,
    limit: Annotated[int, Range(1, 100_000)] = 1000,
) -> Steps[List[Text]]:
    """List every prompt that `text.wildcards` can make of a template, for `each` or a sweep.

    Inputs:
        template, folder: as for `text.wildcards`; weights only matter where they are 0.

    Params:
        limit: refuse more combinations, equal ones counted each time.

    Outputs:
        each text once, in the order of the options as written: the last choice in the template
            changes first.

    Raises:
        ValueError: as for `text.wildcards`, or there are more than `limit`.
    """
    filled = _Filling(folder)
    with _bounded_depth():
        texts = _Enumeration(limit).texts(filled.template(template))
    yield Progress(1, 1, filled.note())
    return list(dict.fromkeys(texts))


@contextmanager
def _bounded_depth() -> Iterator[None]:
    try:
        yield
    except RecursionError:
        raise ValueError(
            "variants and wildcard files are nested too deep together; use fewer levels"
        ) from None


@dataclass
class _Filling:
    """Looks up the files that a template names, each once."""

    folder: Folder | None
    files: dict[str, File] = field(default_factory=dict)
    found: dict[str, tuple[Option, ...]] = field(default_factory=dict)
    variables: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for file in self.folder or ():
            if file.suffix == ".txt":
                self.files[file.name[: -len(".txt")]] = file

    def template(self, text: str) -> tuple[Part, ...]:
        parts, variables = read_template(text, "port 'template'")
        self.variables += variables
        return self.parts(parts)

    def note(self) -> str:
        """Tell of variables, which other programs would fill in."""
        shown = [f"'{v[:40]}'" for v in dict.fromkeys(self.variables)]
        return (
            f"variables are kept as they stand: {', '.join(shown[:5])}"
            f"{', …' if len(shown) > 5 else ''}"
            if shown
            else ""
        )

    def parts(self, parts: tuple[Part, ...]) -> tuple[Part, ...]:
        """Put choices of lines in the place of the names of files."""
        return tuple(part if isinstance(part, str) else self.choice(part) for part in parts)

    def choice(self, part: Wildcard | Choice) -> Choice:
        if isinstance(part, Wildcard):
            return Choice(self.lines(part.name))
        match part.options:
            case (Option((Wildcard(name),)),):
                options = self.lines(name)
            case _:
                options = tuple(
                    Option(self.parts(option.parts), option.weight) for option in part.options
                )
        return Choice(options, part.low, part.high, part.separator)

    def lines(self, pattern: str) -> tuple[Option, ...]:
        """Return the options of the files that a wildcard names."""
        if self.folder is None:
            raise ValueError(
                f"the template names the wildcard '__{pattern}__', but port 'folder' is not given;"
                " give the folder of wildcard files, or write '\\__' for two underscores"
            )
        matches = re.compile(translate(pattern)).fullmatch
        names = [n for n in self.files if matches(n) and n.count("/") == pattern.count("/")]
        if not names:
            near = nearest(pattern, self.files, what="its wildcards are")
            raise ValueError(
                f"there is no wildcard '__{pattern}__' in the folder '{self.folder.path.name}'"
                f"{_place(self.open)}; {near or 'it has no .txt files'}"
            )
        return tuple(option for name in names for option in self.lines_of(name))

    def lines_of(self, name: str) -> tuple[Option, ...]:
        if name in self.open:
            cycle = [*self.open[self.open.index(name) :], name]
            raise ValueError(f"wildcard files contain each other: {' -> '.join(cycle)}")
        if len(self.open) >= MAX_DEPTH:
            raise ValueError(f"wildcard files are nested more than {MAX_DEPTH} deep")
        if name not in self.found:
            self.open.append(name)
            options = list[Option]()
            for number, line in enumerate(_text_of(self.files[name], name).splitlines(), 1):
                if (line := line.strip()) and not line.startswith("#"):
                    option, variables = read_line(line, f"'{name}.txt', line {number}")
                    self.variables += variables
                    options.append(Option(self.parts(option.parts), option.weight))
            self.open.pop()
            if not any(option.weight for option in options):
                raise ValueError(f"'{name}.txt' has no line to choose{_place(self.open)}")
            self.found[name] = tuple(options)
        return self.found[name]


def _place(open_files: list[str]) -> str:
    return f" (named in '{open_files[-1]}.txt')" if open_files else ""


def _text_of(file: File, name: str) -> str:
    if file.size > MAX_FILE_BYTES:
        raise ValueError(
            f"'{name}.txt' has {file.size:,} bytes, more than a wildcard file may have"
            f" ({MAX_FILE_BYTES:,})"
        )
    try:
        return file.read_text()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"'{name}.txt' is not UTF-8 text (byte {error.start + 1:,} is invalid); save it as UTF-8"
        ) from error


def _eligible(choice: Choice) -> tuple[list[Option], int, int]:
    """Return the options that can be chosen, and how many of them at least and at most."""
    options = [option for option in choice.options if option.weight]
    count = len(options)
    high = count if choice.high is None else min(choice.high, count)
    if high > MAX_CHOSEN:
        raise ValueError(
            f"the template may choose {high:,} options at once, more than {MAX_CHOSEN:,}; write how"
            " many: {1-3$$…}"
        )
    return options, min(choice.low, high), high


def _sample(parts: tuple[Part, ...], numbers: Random) -> str:
    """Fill in parts; every choice takes its numbers in the order of the text."""
    pieces = characters = 0

    def counted(text: str) -> str:
        nonlocal characters
        characters += len(text)
        if characters > MAX_CHARACTERS:
            raise ValueError(f"the text would have more than {MAX_CHARACTERS:,} characters")
        return text

    def texts(parts: tuple[Part, ...]) -> Iterator[str]:
        nonlocal pieces
        for part in parts:
            pieces += 1
            if pieces > MAX_PARTS:
                raise ValueError(f"the text has more than {MAX_PARTS:,} parts; use fewer wildcards")
            if isinstance(part, str):
                yield counted(part)
            elif isinstance(part, Choice):
                for number, option in enumerate(_chosen(part, numbers)):
                    if number:
                        yield counted(part.separator)
                    yield from texts(option.parts)

    return "".join(texts(parts))


def _chosen(choice: Choice, numbers: Random) -> list[Option]:
    """Draw options one after another, without those that were drawn, by their weights."""
    left, low, high = _eligible(choice)
    count = low + int(numbers.random() * (high - low + 1)) if low < high else high
    if count == 1 and len(left) == 1:
        return left
    chosen = []
    for _ in range(count):
        point = numbers.random() * math.fsum(option.weight for option in left)
        index = 0
        for index, option in enumerate(left):  # noqa: B007  # the last one, where sums are inexact
            point -= option.weight
            if point < 0:
                break
        chosen.append(left.pop(index))
    return chosen


@dataclass
class _Enumeration:
    """Lists texts as long as there are not too many."""

    limit: int
    characters: int = 0
    known: dict[int, list[str]] = field(default_factory=dict)

    def texts(self, parts: tuple[Part, ...]) -> list[str]:
        lists = [[part] if isinstance(part, str) else self.chosen(part) for part in parts]
        self.check(math.prod(map(len, lists)))
        return [self.counted("".join(pieces)) for pieces in itertools.product(*lists)]

    def chosen(self, choice: Part) -> list[str]:
        assert isinstance(choice, Choice)
        if id(choice) not in self.known:
            options, low, high = _eligible(choice)
            lists = [self.texts(option.parts) for option in options]
            found = list[str]()
            for count in range(low, high + 1):
                self.check(len(found) + math.perm(len(lists), count))
                for chosen in itertools.permutations(lists, count):
                    self.check(len(found) + math.prod(map(len, chosen)))
                    found += [
                        self.counted(choice.separator.join(pieces))
                        for pieces in itertools.product(*chosen)
                    ]
            self.known[id(choice)] = found
        return self.known[id(choice)]

    def check(self, count: int) -> None:
        if count > self.limit:
            raise ValueError(
                f"the template has at least {count:,} combinations, more than limit allows"
                f" ({self.limit:,}); raise limit, or choose some with text.wildcards and seeds"
            )

    def counted(self, text: str) -> str:
        self.characters += len(text)
        if self.characters > MAX_TOTAL:
            raise ValueError(
                f"the combinations have more than {MAX_TOTAL:,} characters together; use fewer"
            )
        return text
