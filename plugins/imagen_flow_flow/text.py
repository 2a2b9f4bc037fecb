"""Compose text, and take it apart."""

from __future__ import annotations

import re
from typing import Any, Literal

from imagen_flow import Bool, Json, List, Number, Text, node

MAX_CHARACTERS = 10_000_000
"""The longest result, so that a few nodes cannot fill the memory."""

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SPEC = re.compile(r"0?[1-9]?[0-9]?(\.[0-9]{1,2})?[dfeg%]?")


@node("text.format", version=1)
def format_(
    template: Text,
    *,
    a: Text | Number | Bool | None = None,
    b: Text | Number | Bool | None = None,
    c: Text | Number | Bool | None = None,
    d: Text | Number | Bool | None = None,
    e: Text | Number | Bool | None = None,
    f: Text | Number | Bool | None = None,
    g: Text | Number | Bool | None = None,
    h: Text | Number | Bool | None = None,
    fields: Json = None,
) -> Text:
    """Fill values into a template: ``a photo of {a}, {b:.2f} metres high``.

    Inputs:
        template: text with fields; ``{{`` and ``}}`` are braces.
        a to h: values of the fields ``{a}`` to ``{h}``.
        fields: values of fields with other names, as a mapping; a name must not be given twice.

    Params:
        in the template, a number may have a format: ``{a:03d}`` pads with zeros, ``{a:.2f}`` writes
            two decimal places, ``{a:.0%}`` a percentage.

    Raises:
        ValueError: a field has no value, or its format does not suit the value.
    """
    values = {
        name: value
        for name, value in zip("abcdefgh", (a, b, c, d, e, f, g, h), strict=True)
        if value is not None
    }
    if fields is not None:
        if not isinstance(fields, dict):
            raise ValueError(
                "port 'fields' must be a mapping of names to values, for example {animal: cat}"
            )
        if both := sorted(values.keys() & fields.keys()):
            raise ValueError(
                f"the field '{both[0]}' is given twice: by port '{both[0]}' and in port 'fields';"
                " remove one"
            )
        values |= fields

    def fill(found: re.Match[str]) -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        if found[1] is None:
            raise ValueError(
                f"port 'template': a '{found[0]}' is unmatched at character {found.start() + 1};"
                " write"
                f" '{found[0] * 2}' for a brace"
            )
        name, colon, spec = found[1].partition(":")
        if name not in values:
            known = ", ".join(sorted(values)) or "none"
            raise ValueError(
                f"port 'template': the field '{{{name}}}' has no value (there are: {known}); give"
                " one, or write '{{' for a brace"
            )
        return _format_value(values[name], spec if colon else None, name)

    return _checked_length(_FIELD.sub(fill, template))


def _format_value(value: Any, spec: str | None, name: str) -> str:
    """Format a scalar as interpolation in a graph does; `spec` is only for numbers."""
    if isinstance(value, str | bool) and spec is None:
        return value if isinstance(value, str) else ("true" if value else "false")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if spec is None:
            return str(value)
        if _SPEC.fullmatch(spec):
            try:
                return format(value, spec)
            except ValueError:
                pass
    if spec is None:
        raise ValueError(
            f"the field '{{{name}}}' is neither text nor a number nor a boolean; extract a part of"
            " it"
            " with json.get"
        )
    raise ValueError(
        f"port 'template': '{{{name}:{spec}}}' cannot format {value!r}; write for example"
        f" '{{{name}:03d}}' for ints or '{{{name}:.2f}}' for floats"
    )


@node("text.join", version=1)
def join(texts: List[Text], *, separator: Text = ", ") -> Text:
    """Join texts into one.

    Params:
        separator: the text between them.
    """
    return _checked_length(separator.join(texts))


@node("text.split", version=1)
def split(
    text: Text, *, separator: Text = "\n", strip: bool = True, keep_empty: bool = False
) -> List[Text]:
    """Split a text into a list, by default into lines, for example one prompt per line.

    Params:
        separator: where to split.
        strip: remove white space from both ends of each part.
        keep_empty: keep empty parts.

    Raises:
        ValueError: the separator is empty.
    """
    if not separator:
        raise ValueError(
            "port 'separator' is empty; write the text between the parts, for example ','"
        )
    parts = [part.strip() if strip else part for part in text.split(separator)]
    return [part for part in parts if part or keep_empty]


@node("text.replace", version=1)
def replace(text: Text, *, find: Text, replacement: Text = "") -> Text:
    """Replace every occurrence of a text with another; case matters.

    Raises:
        ValueError: there is nothing to find, or the result is too long.
    """
    if not find:
        raise ValueError("port 'find' is empty; write the text to replace")
    size = len(text) + text.count(find) * (len(replacement) - len(find))
    return text.replace(find, replacement) if size <= MAX_CHARACTERS else _checked_length("", size)


@node("text.contains", version=1)
def contains(
    text: Text, *, find: Text, whole_words: bool = False, match_case: bool = False
) -> Bool:
    """Test whether a text contains another, for example whether a caption mentions a cat.

    Params:
        whole_words: ``cat`` does not match in ``catalogue``.
        match_case: distinguish upper and lower case.
    """
    if not match_case:
        text, find = text.casefold(), find.casefold()
    if not whole_words:
        return find in text
    return re.search(rf"(?<!\w){re.escape(find)}(?!\w)", text) is not None


@node("text.length", version=1)
def length(text: Text, *, unit: Literal["letters", "words", "lines"] = "letters") -> int:
    """Count the characters of a text (Unicode code points), its words or its lines."""
    return {"letters": len(text), "words": len(text.split()), "lines": len(text.splitlines())}[unit]


@node("text.case", version=1)
def case(text: Text, *, form: Literal["lower", "upper", "title", "sentence"]) -> Text:
    """Change the case of a text.

    Params:
        form: all lower case, ALL UPPER CASE, Each Word, or only the First letter of the text, with
            the others unchanged.
    """
    match form:
        case "lower":
            return text.lower()
        case "upper":
            return text.upper()
        case "title":
            # str.title would write "Don'T".
            return re.sub(
                r"\S+", lambda number: number[0][:1].upper() + number[0][1:].lower(), text
            )
        case _:
            return text[:1].upper() + text[1:]


@node("text.to_number", version=1)
def to_number(text: Text) -> Number:
    """Parse a text as a number, such as ``12``, ``-3.5`` or ``1e-4``.

    Outputs:
        an int if it is written without a decimal point and exponent.

    Raises:
        ValueError: the text is not a number.
    """
    number = text.strip()
    if re.fullmatch(r"[+-]?[0-9]{1,19}", number):
        return int(number)
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", number[:400]) and abs(
        float(number)
    ) < float("inf"):
        return float(number)
    raise ValueError(
        f"port 'text': '{number[:60]}' is not a number; write for example 12, -3.5 or 1e-4"
    )


def _checked_length(text: str, size: int | None = None) -> str:
    count = len(text) if size is None else size
    if count > MAX_CHARACTERS:
        raise ValueError(
            f"the result would have {count:,} characters, more than a text may have"
            f" ({MAX_CHARACTERS:,})"
        )
    return text
