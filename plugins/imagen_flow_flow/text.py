"""Put text together, and take it apart."""

from __future__ import annotations

import re
from typing import Any, Literal

from imagen_flow import Bool, Json, List, Number, Text, node

LONGEST = 10_000_000
"""Letters that a result may have, so that a few nodes cannot fill the memory."""

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
        a to h: values for the fields ``{a}`` to ``{h}``.
        fields: values for fields of other names, as a mapping; a name may not be both.

    Params:
        in the template, a number may be followed by how to write it: ``{a:03d}`` fills with zeros,
            ``{a:.2f}`` gives two digits after the point, ``{a:.0%}`` per cent.

    Raises:
        ValueError: a field has no value, or how to write it does not suit the value.
    """
    values = {
        name: value
        for name, value in zip("abcdefgh", (a, b, c, d, e, f, g, h), strict=True)
        if value is not None
    }
    if fields is not None:
        if not isinstance(fields, dict):
            raise ValueError(
                "port 'fields' takes a mapping from names to values, for example {animal: cat}"
            )
        if both := sorted(values.keys() & fields.keys()):
            raise ValueError(
                f"the field '{both[0]}' is given twice: by port '{both[0]}' and in port 'fields';"
                " drop one"
            )
        values |= fields

    def fill(found: re.Match[str]) -> str:
        if found[0] in ("{{", "}}"):
            return found[0][0]
        if found[1] is None:
            raise ValueError(
                f"port 'template': a '{found[0]}' stands alone at letter {found.start() + 1}; write"
                f" '{found[0] * 2}' for a brace"
            )
        name, colon, how = found[1].partition(":")
        if name not in values:
            known = ", ".join(sorted(values)) or "none"
            raise ValueError(
                f"port 'template': the field '{{{name}}}' has no value (there are: {known}); give"
                " one, or write '{{' for a brace"
            )
        return _written(values[name], how if colon else None, name)

    return _bounded(_FIELD.sub(fill, template))


def _written(value: Any, how: str | None, name: str) -> str:
    """Write a scalar as interpolation in a graph does; `how` is for numbers alone."""
    if isinstance(value, str | bool) and how is None:
        return value if isinstance(value, str) else ("true" if value else "false")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if how is None:
            return str(value)
        if _SPEC.fullmatch(how):
            try:
                return format(value, how)
            except ValueError:
                pass
    if how is None:
        raise ValueError(
            f"the field '{{{name}}}' is neither text, number nor truth value; take a part of it"
            " with json.get"
        )
    raise ValueError(
        f"port 'template': '{{{name}:{how}}}' cannot write {value!r}; write for example"
        f" '{{{name}:03d}}' for whole numbers or '{{{name}:.2f}}' for others"
    )


@node("text.join", version=1)
def join(texts: List[Text], *, separator: Text = ", ") -> Text:
    """Join texts into one.

    Params:
        separator: what stands between them.
    """
    return _bounded(separator.join(texts))


@node("text.split", version=1)
def split(
    text: Text, *, separator: Text = "\n", strip: bool = True, keep_empty: bool = False
) -> List[Text]:
    """Split a text into a list, by default into its lines: one prompt a line, for example.

    Params:
        separator: where to split.
        strip: take white space off both ends of each part.
        keep_empty: keep parts without letters.

    Raises:
        ValueError: the separator is empty.
    """
    if not separator:
        raise ValueError(
            "port 'separator' is empty; write what stands between the parts, for example ','"
        )
    parts = [part.strip() if strip else part for part in text.split(separator)]
    return [part for part in parts if part or keep_empty]


@node("text.replace", version=1)
def replace(text: Text, *, find: Text, replacement: Text = "") -> Text:
    """Replace every occurrence of a text by another, letter by letter as written.

    Raises:
        ValueError: there is nothing to find, or the result is too long.
    """
    if not find:
        raise ValueError("port 'find' is empty; write the text to replace")
    grown = len(text) + text.count(find) * (len(replacement) - len(find))
    return text.replace(find, replacement) if grown <= LONGEST else _bounded("", grown)


@node("text.contains", version=1)
def contains(
    text: Text, *, find: Text, whole_words: bool = False, match_case: bool = False
) -> Bool:
    """Say whether a text contains another, for example whether a caption names a cat.

    Params:
        whole_words: ``cat`` is not in ``catalogue``.
        match_case: capitals and small letters differ.
    """
    if not match_case:
        text, find = text.casefold(), find.casefold()
    if not whole_words:
        return find in text
    return re.search(rf"(?<!\w){re.escape(find)}(?!\w)", text) is not None


@node("text.length", version=1)
def length(text: Text, *, unit: Literal["letters", "words", "lines"] = "letters") -> int:
    """Count the letters of a text (Unicode code points), its words or its lines."""
    return {"letters": len(text), "words": len(text.split()), "lines": len(text.splitlines())}[unit]


@node("text.case", version=1)
def case(text: Text, *, form: Literal["lower", "upper", "title", "sentence"]) -> Text:
    """Change the case of a text.

    Params:
        form: all small, ALL CAPITALS, Each Word, or First letter of the text alone, the others as
            they are.
    """
    match form:
        case "lower":
            return text.lower()
        case "upper":
            return text.upper()
        case "title":
            # str.title would write "Don'T".
            return re.sub(r"\S+", lambda word: word[0][:1].upper() + word[0][1:].lower(), text)
        case _:
            return text[:1].upper() + text[1:]


@node("text.to_number", version=1)
def to_number(text: Text) -> Number:
    """Read a number out of a text that is one, as ``12``, ``-3.5`` or ``1e-4``.

    Outputs:
        a whole number if written without point and exponent.

    Raises:
        ValueError: the text is no number.
    """
    word = text.strip()
    if re.fullmatch(r"[+-]?[0-9]{1,19}", word):
        return int(word)
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", word[:400]) and abs(
        float(word)
    ) < float("inf"):
        return float(word)
    raise ValueError(f"port 'text': '{word[:60]}' is no number; write for example 12, -3.5 or 1e-4")


def _bounded(text: str, size: int | None = None) -> str:
    count = len(text) if size is None else size
    if count > LONGEST:
        raise ValueError(
            f"the result would have {count:,} letters, more than a text may have ({LONGEST:,})"
        )
    return text
