"""Read templates with variants and wildcards, the syntax of Dynamic Prompts.

``{a|b|2::c}`` chooses one option, with weights; ``{2$$a|b|c}`` several; ``__name__`` a line of a
file. What is read here is a tree that names files; `wildcards` looks these up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CHARACTERS = 100_000
"""The longest template, line of a file or result."""

MAX_DEPTH = 50
"""How deep variants and files may be nested."""

_WILDCARD = re.compile(r"__((?:[^\W_]|\*)(?:[\w./*-]{0,100}?(?:[^\W_]|\*))?)(\([^()]*\))?__")
"""Names have an end, or each of many beginnings would be followed to the end of the text."""
_COUNT = re.compile(r"\s*(?:(\d{1,4})|(\d{0,4})-(\d{0,4}))\$\$")
_SEPARATOR = re.compile(r"([^|{}$]*)\$\$")
_SINGLE_DOLLAR = re.compile(r"\s*\d{1,4}(?:-\d{0,4})?\$(?!\$)")
_WEIGHT = re.compile(r"\s*(-?(?:\d{1,9}(?:\.\d{0,9})?|\.\d{1,9}))::")
_SPECIAL = re.compile(r"[\\{}]|__|::")
_ESCAPED = frozenset("{}|_$:#\\")


@dataclass(frozen=True)
class Wildcard:
    """A line of a file, by the file's name without ``.txt``; ``*`` in it stands for any characters."""

    name: str


@dataclass(frozen=True)
class Option:
    """What may be chosen, and how likely it is beside the others."""

    parts: tuple[Part, ...]
    weight: float = 1


@dataclass(frozen=True)
class Choice:
    """`low` to `high` of the options, in any order; None is as many as there are."""

    options: tuple[Option, ...]
    low: int = 1
    high: int | None = 1
    separator: str = ", "


Part = str | Wildcard | Choice


@dataclass
class _Reader:
    text: str
    where: str
    variables: list[str]
    at: int = 0

    def parts(self, depth: int = 0) -> tuple[Part, ...]:
        """Read to the end of the text or, inside of a variant, of the option."""
        text, found, words = self.text, list[Part](), list[str]()

        def add(part: Part) -> None:
            if words:
                found.append("".join(words))
                words.clear()
            found.append(part)

        while self.at < len(text):
            letter = text[self.at]
            if letter == "\\" and text[self.at + 1 : self.at + 2] in _ESCAPED:
                words.append(text[self.at + 1 : self.at + 2])
                self.at += 1 + len(words[-1])
            elif letter in "|}" and depth:
                break
            elif letter == "}":
                raise self.fault("a '}' closes nothing", r"write '\}' for a brace")
            elif text.startswith("${", self.at):
                words.append(self.variable())
            elif letter == "{":
                add(self.choice(depth + 1))
            elif letter == "_" and (name := _WILDCARD.match(text, self.at)):
                if name[2]:
                    raise self.fault(
                        f"'{name[0][:60]}' has parameters, which are not supported",
                        f"write '__{name[1]}__'",
                    )
                add(Wildcard(name[1]))
                self.at = name.end()
            else:
                words.append(letter)
                self.at += 1
        return (*found, "".join(words)) if words else tuple(found)

    def choice(self, depth: int) -> Choice:
        start = self.at
        if depth > MAX_DEPTH:
            raise self.fault(f"variants are nested more than {MAX_DEPTH} deep", "use fewer")
        self.at += 1
        low, high, separator = self.counts()
        options = [self.option(depth)]
        while self.text.startswith("|", self.at):
            self.at += 1
            options.append(self.option(depth))
        if self.at >= len(self.text):
            self.at = start
            raise self.fault("a '{' is not closed", r"write '\{' for a brace")
        self.at += 1
        if not any(option.weight for option in options):
            self.at = start
            raise self.fault("all options have the weight 0", "give one a larger weight")
        return Choice(tuple(options), low, high, separator)

    def counts(self) -> tuple[int, int | None, str]:
        """Read how many options are chosen, and what is put between them."""
        if _SINGLE_DOLLAR.match(self.text, self.at):
            raise self.fault(
                "a number of options is followed by two dollars, not one",
                r"write '\$' for a dollar; in the text of a graph, where '$$' is one dollar, write"
                " '$$$$' for two",
            )
        count = _COUNT.match(self.text, self.at)
        if not count:
            return 1, 1, ", "
        self.at = count.end()
        separator = _SEPARATOR.match(self.text, self.at)
        if separator:
            self.at = separator.end()
        low = int(count[1] or count[2] or 1)
        high = int(count[1] or count[3]) if count[1] or count[3] else None
        if high is not None and low > high:
            raise self.fault(f"{low} to {high} options are no range", "put the smaller one first")
        return low, high, separator[1] if separator else ", "

    def option(self, depth: int) -> Option:
        if weight := _WEIGHT.match(self.text, self.at):
            if weight[1].startswith("-"):
                raise self.fault(f"the weight {weight[1]} is negative", "write 0 or more")
            self.at = weight.end()
        return Option(self.parts(depth), float(weight[1]) if weight else 1)

    def variable(self) -> str:
        """Skip what other programs take for a variable: it is kept as it stands."""
        open_braces, end = 0, self.at + 1
        for end in range(self.at + 1, len(self.text)):
            open_braces += (self.text[end] == "{") - (self.text[end] == "}")
            if not open_braces:
                break
        else:
            self.at += 1
            raise self.fault("a '{' is not closed", r"write '\{' for a brace")
        found = self.text[self.at : end + 1]
        self.variables.append(found)
        self.at = end + 1
        return found

    def fault(self, what: str, fix: str) -> ValueError:
        return ValueError(f"{self.where}: {what} at character {self.at + 1}; {fix}")


def read_template(text: str, where: str) -> tuple[tuple[Part, ...], list[str]]:
    """Read a template: its parts, and the variables in it, which are kept as they stand.

    Params:
        where: names the text in messages.
    Raises:
        ValueError: it is not well formed, or too long.
    """
    reader = _Reader(_checked(text, where), where, [])
    return reader.parts(), reader.variables


def read_line(text: str, where: str) -> tuple[Option, list[str]]:
    """Read a line of a wildcard file, which is an option: it may have a weight."""
    if not _SPECIAL.search(text):
        return Option((_checked(text, where),)), []
    reader = _Reader(_checked(text, where), where, [])
    weight = _WEIGHT.match(text)
    if weight and not weight[1].startswith("-"):
        reader.at = weight.end()
    return Option(reader.parts(), float(weight[1]) if weight else 1), reader.variables


def _checked(text: str, where: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise ValueError(
            f"{where} has {len(text):,} characters, more than a template may have"
            f" ({MAX_CHARACTERS:,})"
        )
    return text
