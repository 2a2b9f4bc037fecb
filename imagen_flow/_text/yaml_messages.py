"""Explain the parser's errors in the user's terms."""

from __future__ import annotations

__all__ = ["INVALID_ESCAPE", "explain"]

INVALID_ESCAPE = (
    "a backslash in double quotes starts an invalid escape",
    "double the backslash, or use single quotes",
)


def explain(
    problem: str, context: str, here: str, line: str, bracket: str, opened: int, first: str
) -> tuple[str, str, str]:
    """Translate a message of ruamel: message, why, fix.

    Params:
        here: the character at which it stopped, and `line` the text before it in its line.
        bracket: what would close the mapping or list in brackets that is being read, if any.
        opened: the line in which the part that is being read started, and `first` its first
            character.
    """
    ended = not here or "stream end" in problem or "end of stream" in problem
    if here == "\t":
        return "a tab cannot indent", "indentation must be spaces", "replace the tab with spaces"
    if ("cannot start any token" in problem and here not in "}],") or "mapping keys" in problem:
        return f"a word cannot start with '{here}'", "", "quote it"
    if "sequence entries" in problem:
        return (
            "a list cannot start here",
            "",
            "start each '- ' on its own line, or quote the text",
        )
    if any(what in context for what in ("an anchor", "an alias", "a tag")):
        return f"a word cannot start with '{first}'", "", "quote it"
    if "unknown escape" in problem or "escape sequence" in problem:
        return INVALID_ESCAPE[0], "", INVALID_ESCAPE[1]
    if "document separator" in problem:
        return (
            "a quote is never closed",
            "'---' or '...' at the start of a line ends the text",
            "indent the line",
        )
    if "quoted scalar" in context and ended:
        return (
            "a quote is never closed",
            "the text ends before it",
            'close it; a quote inside the text is doubled in \'…\' and written \\" in "…"',
        )
    if "block scalar" in context:
        return (
            "the text of a block starts on the line after '|' or '>'",
            "",
            "start the text on the next line",
        )
    if bracket:
        what = "mapping" if bracket == "}" else "list"
        if ended or "block end" in problem:
            return (
                f"the {what} is never closed",
                "the text ends before it",
                f"close it with '{bracket}'",
            )
        fix = (
            f"close it with '{bracket}', put ',' between its items, and quotes around text with"
            " brackets, commas or ': ' in it"
        )
        return (
            f"',' or '{bracket}' is expected here",
            f"the {what} that was opened in line {opened} is still open",
            fix,
        )
    if "mapping values are not allowed" in problem and ": " not in line:
        return (
            "there is a ':' where no key can be",
            "the line above is not finished: it is text, or a key without ':'",
            "fix the line above, or the indentation of this one",
        )
    if "mapping values are not allowed" in problem:
        return (
            "a second ':' in one line",
            "a line can hold only one 'key: value'",
            "quote the text if ': ' belongs to it, else fix the indentation",
        )
    if "expected ':'" in problem:
        return (
            "a key has no ':'",
            "",
            "write 'key: value', or indent the line if it belongs to the one above",
        )
    if "block end" in problem or "indentation" in problem:
        return (
            "the line does not fit the ones above it",
            "its indentation differs, or there is a word where none is allowed",
            "give lines that belong together the same indentation, and quote text with special"
            " characters",
        )
    if "expected the node content" in problem or "cannot start any token" in problem:
        return (
            (
                f"'{here}' is where a value is expected"
                if here.strip()
                else "a value is expected here"
            ),
            "",
            "write a value, or quote the text",
        )
    if "document start" in problem or "document end" in problem:
        return (
            "the text goes on after its end",
            "a graph is one mapping",
            "remove the rest, or the bracket that closes too early",
        )
    return problem or context or "this is neither YAML nor JSON", "", ""
