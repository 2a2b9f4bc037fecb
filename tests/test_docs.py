"""The documents are true: examples run, links lead somewhere, commands and options exist, and the
references mention all that the code knows.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import click
import pytest

import imagen_flow as flow
from imagen_flow import _cli as cli
from imagen_flow._graph import resolve
from imagen_flow._plugins.registry import Registry, discover
from imagen_flow._text import spec
from imagen_flow.errors import CODES, GraphError

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], key=lambda p: p.relative_to(ROOT)
)
#: The pages whose YAML is graphs; the lines of hot folders have tests of their own.
GRAPHS = [p for p in PAGES if p.name not in ("hot-folders.md", "CHANGELOG.md")]


@dataclass(frozen=True)
class Block:
    """A block of code in a page: its language, its text, and the number of its first line."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(found[1], found[2], text.count("\n", 0, found.start()) + 2)


def names(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def inline_code(text: str) -> set[str]:
    """What stands between single backticks, outside of blocks."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`([^`\n]+)`", outside))


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower()).replace(" ", "-")


# --- links and pictures
# -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links(page: Path) -> None:
    """Every file and heading that a page points to is there."""
    text = page.read_text("utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)|<img [^>]*src=\"([^\"]+)\"", text)
    missing = []
    for target in (a or b for a, b in targets):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists():
            missing.append(target)
        elif anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
            if anchor not in map(slug, headings):
                missing.append(target)
    missing += [
        name
        for name in inline_code(text)
        if re.fullmatch(r"(graphs|docs|tests|plugins|imagen_flow|benchmarks)/[\w./@-]+", name)
        and "NAME" not in name
        and not (ROOT / name).exists()
        and not (ROOT / "plugins" / name).exists()
    ]
    assert missing == []


def test_pictures_are_small_and_shown() -> None:
    """The pictures of the documents come to less than 300 KB, and each is shown on some page."""
    pictures = sorted(p for p in (ROOT / "docs" / "images").iterdir() if p.suffix != ".py")
    assert pictures
    assert sum(p.stat().st_size for p in pictures) < 300_000
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    assert [p.name for p in pictures if f"images/{p.name}" not in text] == []


# --- examples
# -----------------------------------------------------------------------------------------------------------------


def completed(text: str) -> str:
    """A part of a graph as a whole one: with its first line, and an output for each node where it
    lists none.
    """
    if not re.search(r"^imagen_flow:", text, re.MULTILINE):
        text = f"imagen_flow: 1\n{text}"
    if not re.search(r"^outputs:", text, re.MULTILINE):
        nodes = spec.parse(text, name="graph.yaml").nodes
        text += "outputs:\n" + "".join(f'  {name}: "${{{name}}}"\n' for name in nodes)
    return text


@pytest.fixture(scope="module")
def registry() -> Registry:
    return discover()


@pytest.mark.parametrize("page", GRAPHS, ids=names)
def test_yaml(
    page: Path, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs on a page resolve without a warning and plan without a problem; those that need no
    model run, and give what the JSON below them says. One that is refused earns the text below it.
    """
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "graphs" / "samples", tmp_path / "photos")
    shutil.copy(ROOT / "graphs" / "samples" / "shapes.png", tmp_path / "photo.png")
    shown = list(blocks(page))
    for number, block in enumerate(shown):
        if block.language != "yaml":
            continue
        below = shown[number + 1] if number + 1 < len(shown) else None
        text = completed(block.text)
        if named := re.match(r"# ([\w-]+\.yaml)\n", text):
            (tmp_path / named[1]).write_text(text, "utf-8")
            text = text.partition("\n")[2]
        if below is not None and below.text.startswith("graph.yaml:"):
            with pytest.raises(GraphError) as wrong:
                resolve(spec.parse(text, name="graph.yaml", path=tmp_path / "graph.yaml"), registry)
            assert "\n\n".join(map(str, wrong.value.problems)) + "\n" == below.text
            continue
        file = tmp_path / "graph.yaml"
        file.write_text(text, "utf-8")
        where = f"{names(page)}:{block.line}"
        graph = flow.load(file, registry=registry)
        assert list(map(str, graph.warnings)) == [], where
        given = {name: 7 for name, i in graph.inputs.items() if i.default is None and i.type.seed}
        given |= {
            name: "orange"
            for name, i in graph.inputs.items()
            if i.default is None and i.type.kind == "text"
        }
        plan = flow.plan(graph, given, store=None, tiny=True)
        assert list(map(str, plan.problems)) == [], where
        if not plan.models:
            outputs = flow.run(graph, given, store=None)
            if below is not None and below.language == "json":
                assert outputs == json.loads(below.text), where
        else:
            assert below is None or below.language != "json", where


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b.language == "python" for b in blocks(p))], ids=names
)
def test_python(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python on a page runs, from top to bottom, as in a notebook; a block whose first line
    names a file is that file, and can be imported.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graphs").symlink_to(ROOT / "graphs")
    shown: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.language != "python":
            continue
        if named := re.match(r"# (\w+\.py)\n", block.text):
            file = tmp_path / named[1]
            file.write_text(block.text, "utf-8")
            found = spec_from_file_location(file.stem, file)
            assert found is not None and found.loader is not None
            module = module_from_spec(found)
            monkeypatch.setitem(sys.modules, file.stem, module)
            found.loader.exec_module(module)
        else:
            code = "\n" * (block.line - 1) + block.text
            exec(compile(code, names(page), "exec"), shown)


# --- commands
# -----------------------------------------------------------------------------------------------------------------


def commands(
    group: click.Group | None = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Our own commands, with those inside groups."""
    top = group or cli.commands
    listed = cli.COMMANDS if group is None else top.list_commands(click.Context(top))
    for name in listed:
        found = top.get_command(click.Context(top), name)
        assert found is not None
        yield (*path, name), found
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))


COMMANDS = dict(commands())


def options(command: click.Command) -> set[str]:
    context = click.Context(command)
    return {
        opt
        for parameter in command.get_params(context)
        if isinstance(parameter, click.Option)
        for opt in (*parameter.opts, *parameter.secondary_opts)
    }


def invocations(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The command lines on a page: in blocks and between backticks."""
    lines = [
        line
        for block in blocks(page)
        if block.language in ("console", "sh", "shell")
        for line in re.sub(r"\\\n\s*", "", block.text).splitlines()
    ]
    for line in (*lines, *sorted(inline_code(page.read_text("utf-8")))):
        line = line.removeprefix("$ ")
        if re.match(r"([\w./]*/)?imagen-flow( |$)", line):
            words = shlex.split(line, comments=True)
            yield line, [w for w in words[1:] if w not in ("…", "...", "[…]")]


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_command_lines(page: Path) -> None:
    """Every `imagen-flow …` on a page is a command that exists, with options that it has."""
    for line, words in invocations(page):
        if words[:1] in ([], ["--version"], ["--help"]):
            continue
        path = tuple(words[:2]) if tuple(words[:2]) in COMMANDS else tuple(words[:1])
        assert path in COMMANDS, (names(page), line)
        command = COMMANDS[path]
        rest = words[len(path) :]
        try:
            command.make_parser(click.Context(command)).parse_args(list(rest))
        except click.UsageError as wrong:
            pytest.fail(f"{names(page)}: {line}: {wrong.message}")


def test_targets_of_make() -> None:
    """Every `make …` on a page is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for page in PAGES:
        text = page.read_text("utf-8")
        for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (names(page), target)


# --- references
# -----------------------------------------------------------------------------------------------------------------


def test_the_reference_of_the_format_is_whole() -> None:
    """The reference of the graph format mentions each key, option, reserved word, type, field,
    setting, file ending, limit and problem code that the code knows.
    """
    from imagen_flow._graph import expansion, nodes, resolver
    from imagen_flow._outputs import encoding, templates
    from imagen_flow._sweep import MAX_ITEMS, index, tables
    from imagen_flow._text import words as limits
    from imagen_flow._types.node import RESERVED
    from imagen_flow._types.ports import INPUT_TYPES

    text = (ROOT / "docs" / "graph-format.md").read_text("utf-8")
    told = inline_code(text)
    wanted = {
        "top-level keys": set(spec.TOP),
        "options of an input": set(spec.OF_INPUT),
        "types of inputs": set(INPUT_TYPES),
        "reserved words": set(RESERVED),
        "keys of an output": {*spec.OF_OUTPUT, *spec.OF_FORMAT},
        "keys of a sweep": set(spec.OF_SWEEP),
        "keys of a row of the index": set(index.ROW_KEYS),
        "choices of an output": {word for words in spec.CHOICES.values() for word in words},
        "fields of a path": {f"{{{field}}}" for field in templates.FIELDS},
        "endings": {ending for endings in encoding.ENDINGS.values() for ending in endings},
        "settings": set(resolver._SETTINGS),
        "values of settings": {
            str(choice)
            for port in (nodes.DTYPE, *nodes.LOADING.values())
            for choice in port.choices
        },
        "included graphs": set(resolver.GRAPH_SUFFIXES),
        "tables": set(tables.TABLE_SUFFIXES),
        "problem codes": set(CODES),
    }
    assert {what: sorted(words - told) for what, words in wanted.items() if words - told} == {}
    for limit in (
        f"{limits.MAX_BYTES >> 20} MiB",
        f"{limits.MAX_WORDS:,}",
        f"{limits.MAX_DEPTH} deep",
        f"{limits.MAX_DIGITS:,}",
        f"{resolver.DEPTH} deep",
        f"{expansion.STEPS:,}",
        f"{MAX_ITEMS:,}",
    ):
        assert f"| {limit} |" in text, limit
    assert dict(
        re.findall(r"^\| `([\w-]+)` \| (.+) \|$", text.split("## Problem codes")[1], re.M)
    ) == (CODES)


def test_plugins_md_names_the_words_that_no_port_may_have() -> None:
    """The sentence on reserved words in docs/plugins.md names each of them, and no other."""
    from imagen_flow._types.node import RESERVED

    text = sections((ROOT / "docs" / "plugins.md").read_text("utf-8"))["The declaration"]
    sentence = next(line for line in text.splitlines() if "reserved words" in line)
    assert set(re.findall(r"`(\w+)`", sentence)) == RESERVED


def test_plugins_md_has_the_rules_of_the_check() -> None:
    """Each rule of `imagen-flow plugin check`, with the reason that a finding gives."""
    from imagen_flow.testing import RULES

    text = sections((ROOT / "docs" / "plugins.md").read_text("utf-8"))["Testing a plugin"]
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", text, re.MULTILINE)) == RULES


def sections(text: str) -> dict[str, str]:
    """A page's text by heading, each up to the next heading of any level."""
    parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def listed_options(text: str) -> set[str]:
    """The options that the tables of a section have a row for."""
    rows = re.findall(r"^\| (`-.*?`) \|", text.replace("\\|", "¦"), re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`(--?[\w-]+)", row)}


def test_the_reference_of_the_command_line_is_whole() -> None:
    """Each command has a section in docs/cli.md with just the options that it has, and docs/cli.md has no
    other sections of commands.
    """
    told = sections((ROOT / "docs" / "cli.md").read_text("utf-8"))
    planning = listed_options(told["Planning options"])
    assert {name for name in told if name.startswith("imagen-flow ")} == {
        f"imagen-flow {' '.join(path)}" for path in COMMANDS
    }
    for path, command in COMMANDS.items():
        text = told[f"imagen-flow {' '.join(path)}"]
        shown = listed_options(text) | (planning if "(#planning-options)" in text else set())
        assert shown == options(command) - {"-h", "--help"}, path


def test_the_reference_of_settings_is_whole() -> None:
    """docs/settings.md mentions each key of imagen-flow.toml, each environment variable that the code
    reads, and each setting of a graph.
    """
    from imagen_flow._graph import resolver
    from imagen_flow._settings import config

    text = (ROOT / "docs" / "settings.md").read_text("utf-8")
    variables = {
        name
        for folder in ("imagen_flow", "plugins")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(
            r"""environ(?:\.get\(|\[|\.setdefault\()\s*"([A-Z_]+)""", path.read_text("utf-8")
        )
    }
    assert variables >= {"IMAGEN_FLOW_STORE", "NO_COLOR", "HF_ENDPOINT"}
    wanted = {*config._KEYS, *resolver._SETTINGS, *variables}
    assert sorted(wanted - inline_code(text)) == []


def test_the_guide_to_plugins_lists_the_hooks() -> None:
    """The table of hooks in docs/plugins.md has just those that a plugin may implement."""
    from imagen_flow._plugins import hookspecs

    text = sections((ROOT / "docs" / "plugins.md").read_text("utf-8"))["Sharing a plugin"]
    told = re.findall(r"^\| `(imagen_flow_\w+)` \|", text, re.MULTILINE)
    assert sorted(told) == sorted(n for n in vars(hookspecs) if n.startswith("imagen_flow_"))


def test_the_reference_of_python_is_whole() -> None:
    """Every public name is mentioned in docs/python.md or docs/plugins.md, and so is every event."""
    from imagen_flow import _watch, events, loaders, models, services, testing

    text = "".join(
        (ROOT / "docs" / name).read_text("utf-8") for name in ("python.md", "plugins.md")
    )
    told = set(re.findall(r"\w+", " ".join(inline_code(text)))) | {
        name
        for page in ("python.md", "plugins.md")
        for block in blocks(ROOT / "docs" / page)
        for name in re.findall(r"\w+", block.text)
    }
    kinds = {
        kind.__name__
        for kind in (*events.Event.__args__, *_watch.WatchEvent.__args__)
        if isinstance(kind, type)
    }
    public = {n for m in (flow, loaders, models, services, testing) for n in m.__all__}
    assert sorted((public | kinds) - told) == []
