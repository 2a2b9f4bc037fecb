"""Reports of sweeps: what is read from an index, found on the disk, and written."""

from __future__ import annotations

import base64
import html.parser
import json
import os
import re
from collections.abc import Callable, Iterable
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import imagen_flow as flow
from imagen_flow import _cli as cli
from imagen_flow._sweep.report.folder import write_report
from imagen_flow._sweep.report.labels import axes_of, choose_grid, labels_of, shorten_values
from imagen_flow._sweep.report.pictures import find_pictures
from imagen_flow._sweep.report.rows import Index, read_index
from imagen_flow._types.lettering import Lettering
from imagen_flow.errors import OutputError

HOSTILE = "</script><script>alert(1)</script ><img src=x onerror=alert(2)> <!-- <script & \"'` ${x} \u2028 \u202e]]>"


def write_index(folder: Path, rows: Iterable[dict[str, Any]]) -> Index:
    lines = [json.dumps(row) for row in rows]
    (folder / "index.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return read_index(folder / "index.jsonl")


def draw(folder: Path, name: str, *, size: tuple[int, int] = (32, 24)) -> dict[str, Any]:
    """Put a picture into a folder; return it as an output in an index."""
    PIL.Image.new("RGB", size, (200, 30, 30)).save(folder / name)
    return {"path": name, "kind": "image", "digest": "d" * 40, "key": "e" * 40}


def product(folder: Path, **axes: list[Any]) -> list[dict[str, Any]]:
    """Rows for all combinations of values, with one picture each."""
    rows: list[dict[str, Any]] = [{}]
    for name, values in axes.items():
        rows = [{**row, name: value} for row in rows for value in values]
    picture = draw(folder, "p.png")
    return [
        {"index": i, "item": f"i{i}", "axes": row, "inputs": row, "outputs": {"picture": picture}}
        for i, row in enumerate(rows)
    ]


class Elements(html.parser.HTMLParser):
    """The elements of a page with their attributes, and the content of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((tag, ""))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem and self.raw:
            self.raw[-1] = (self.raw[-1][0], self.raw[-1][1] + data)

    def data(self, id: str) -> Any:
        scripts = [attributes for tag, attributes in self.found if tag in ("script", "style")]
        return next(
            json.loads(text)
            for attributes, (_, text) in zip(scripts, self.raw, strict=True)
            if attributes.get("id") == id
        )


def page_of(folder: Path, rows: Iterable[dict[str, Any]]) -> Elements:
    write_index(folder, rows)
    write_report(folder, sheet=False)
    return Elements((folder / "report.html").read_text("utf-8"))


# --- reading


def test_rows_are_read_as_text(tmp_path: Path) -> None:
    """Values become text as on the command line, files their paths; only finite numbers are
    scores.
    """
    row = {
        "index": 3,
        "item": "a",
        "axes": {"seed": 2**63, "picture": {"path": "in/a.png", "digest": "0"}},
        "inputs": {"flag": True, "sizes": [1, 2.5], "none": None},
        "seeds": {"seed": 7},
        "outputs": {
            "score": {"value": 0.25},
            "large": {"value": 10**400},
            "nan": {"value": float("nan")},
            "flag": {"value": True},
            "words": {"value": "x", "kind": "text"},
        },
        "notes": "one note",
        "command": "imagen-flow run g.yaml",
    }
    (read,) = write_index(tmp_path, [row]).rows
    assert (read.number, read.item, read.status, read.error) == (3, "a", "done", "")
    assert read.axes == {"seed": "9223372036854775808", "picture": "in/a.png"}
    assert read.inputs == {"flag": "true", "sizes": "[1, 2.5]", "none": "null"}
    assert (read.seeds, read.notes) == ({"seed": "7"}, ("one note",))
    assert {o.name: (o.text, o.score) for o in read.outputs} == {
        "score": ("0.25", 0.25),
        "large": ("1" + "0" * 400, None),
        "nan": ("NaN", None),
        "flag": ("true", None),
        "words": ("x", None),
    }


def test_lines_that_are_no_rows_are_counted(tmp_path: Path) -> None:
    """Damaged lines are skipped with a reason; the last line of an item counts."""
    lines = [
        b'{"item": "a", "status": "failed"}',
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b"[1]",
        b'{"index": -1}',
        b'{"index": true}',
        b"9" * 10_000,
        b"",
        b'{"item": "a", "status": "done"}',
        b'{"item": "b", "index": 9, "outputs": [1], "axes": 3, "inputs": null, "notes": {"a": 1}}',
        b'{"item": "half',
    ]
    (tmp_path / "index.jsonl").write_bytes(b"\n".join(lines))
    index = read_index(tmp_path / "index.jsonl")
    assert [(row.item, row.status) for row in index.rows] == [("a", "done"), ("b", "done")]
    assert (index.bad_count, dict(index.bad_lines)[6]) == (8, "its 'index' is not a row number")
    assert [number for number, _ in index.bad_lines] == [2, 3, 4, 5, 6, 7, 8, 12]


def test_long_lines_are_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line beyond the limit is one bad line, and so are its parts; reading stops at a bound."""
    monkeypatch.setattr("imagen_flow._sweep.report.rows._MAX_LINE", 100)
    (tmp_path / "index.jsonl").write_bytes(
        b'{"item": "a"}\n{"item": "' + b"x" * 250 + b'"}\n{"item": "b"}\n'
    )
    index = read_index(tmp_path / "index.jsonl")
    assert ([row.item for row in index.rows], index.bad_count) == (["a", "b"], 1)
    monkeypatch.setattr("imagen_flow._sweep.report.rows._MAX_BYTES", 20)
    cut = read_index(tmp_path / "index.jsonl")
    assert ([row.item for row in cut.rows], cut.is_cut) == (["a"], True)


def test_names_have_a_bound(tmp_path: Path) -> None:
    """However many names the rows have, each has a place in the page with every item: beyond the
    limit they are left out, and no grid is searched among all of them.
    """
    index = write_index(
        tmp_path,
        [
            {
                "item": f"{i}",
                "axes": {f"a{k}": (i + k) % 3 for k in range(250)},
                "outputs": {f"s{i}-{k}": {"value": k, "kind": "number"} for k in range(250)},
            }
            for i in range(40)
        ],
    )
    assert [len(row.outputs) for row in index.rows] == [250, 6, *[0] * 38]
    axes = axes_of(index.rows)
    assert len(axes) == 250
    assert max(choose_grid(index.rows, axes)) < 12
    write_report(tmp_path, sheet=False)
    data = Elements((tmp_path / "report.html").read_text("utf-8")).data("data")
    assert len(data["scores"]) == 256


def test_more_rows_than_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows beyond the limit are counted, and the page says so."""
    monkeypatch.setattr("imagen_flow._sweep.report.rows.MAX_ROWS", 3)
    page = page_of(tmp_path, product(tmp_path, seed=[*range(5)]))
    assert (page.data("data")["total"], len(page.data("data")["items"])) == (5, 3)


# --- labels


def test_labels_say_what_differs() -> None:
    """Words that all long values share are elided; short values are left as they are."""
    assert shorten_values(("a cat", "a dog")) == ("a cat", "a dog")
    style = "on a black background in studio light"
    assert shorten_values((f"a cat {style}", f"a dog {style}")) == ("a cat …", "a dog …")
    assert shorten_values(
        (f"one red cat {style} version 1", f"one blue dog {style} version 2")
    ) == ("one red cat … 1", "one blue dog … 2")
    assert shorten_values((f"of {style} a", f"of {style} b c")) == ("… a", "… b c")


@pytest.mark.parametrize(
    ("axes", "grid", "label"),
    [
        ({}, (-1, -1), ["i0"]),
        ({"seed": [1, 2, 3]}, (-1, -1), ["seed 1"]),
        ({"seed": [1, 2], "cfg": [3, 5, 7]}, (0, 1), ["seed 1", "cfg 3"]),
        ({"a": [*range(30)], "b": [1, 2]}, (0, 1), ["a 0", "b 1"]),
        (
            {
                "a": [1, 2],
                "b": [1, 2],
                "c": [1, 2, 3],
                "d": [1, 2],
                "prompt": ["a large cat", "dog"],
            },
            (0, 2),
            ["a 1", "b 1", "c 1", "d 1", "prompt a large cat"],
        ),
        ({"only": ["x"], "seed": [1, 2]}, (-1, -1), ["seed 1"]),
    ],
)
def test_axes(
    tmp_path: Path, axes: dict[str, list[Any]], grid: tuple[int, int], label: list[str]
) -> None:
    """Axes that do not vary are none; two axes that fill a grid make one, columns fit a screen."""
    rows = write_index(tmp_path, product(tmp_path, **axes)).rows
    found = axes_of(rows)
    assert choose_grid(rows, found) == grid
    assert labels_of(rows[0], found) == label


def test_axes_side_by_side_make_no_grid(tmp_path: Path) -> None:
    """The k-th prompt with the k-th seed is a list: a table of them would be empty but for its
    diagonal.
    """
    rows = product(tmp_path, seed=[*range(6)])
    for row in rows:
        row["axes"] = {**row["axes"], "prompt": f"number {row['index']}"}
    index = write_index(tmp_path, rows)
    assert choose_grid(index.rows, axes_of(index.rows)) == (-1, -1)


# --- finding pictures


def test_pictures_outside_the_folder_are_refused(tmp_path: Path) -> None:
    """A name that leads elsewhere, by dots, as an absolute path or through a link, and what is not
    a regular file, is missing with its reason.
    """
    folder = tmp_path / "out"
    folder.mkdir()
    draw(tmp_path, "secret.png")
    draw(folder, "a b?#%.png")
    os.mkfifo(folder / "fifo.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "loop.png").symlink_to("loop.png")
    names = {
        "a b?#%.png": "",
        "../secret.png": "it is outside the folder of the index",
        str(tmp_path / "secret.png"): "it is outside the folder of the index",
        "link.png": "it is outside the folder of the index",
        "fifo.png": "it is not a regular file",
        "gone.png": "the file is missing",
        "a\0b.png": "its name cannot be used",
        "https://example.com/x.png": "the file is missing",
        "javascript:alert(1).png": "the file is missing",
    }
    index = write_index(folder, [{"item": "a", "outputs": {"p": {"path": [*names]}}}])
    found = find_pictures(index.rows, folder)["a"]
    assert {p.listed: p.missing for p in found} == names
    assert [p.url for p in found if p.url] == ["./a%20b%3F%23%25.png"]
    looping = write_index(folder, [{"item": "a", "outputs": {"p": {"path": "loop.png"}}}])
    assert find_pictures(looping.rows, folder)["a"][0].missing


def test_moved_pictures_are_found(tmp_path: Path) -> None:
    """A file that was moved within the folder is found by its provenance; a changed one is not."""
    (tmp_path / "g.yaml").write_text(
        "imagen_flow: 1\ninputs:\n  colour: red\nnodes:\n"
        '  p: {type: image.solid, width: 8, height: 8, colour: "${colour}"}\n'
        'outputs:\n  p: {from: "${p}", path: "{colour}.png"}\n'
    )
    out = tmp_path / "out"
    list(flow.sweep(tmp_path / "g.yaml", {"colour": ["red", "green", "blue"]}, out=out, store=None))
    (out / "sub").mkdir()
    written = sorted(out.glob("**/*.png"))
    assert len(written) == 3
    moved, changed, left = written
    moved.rename(out / "sub" / "other name.png")
    changed.rename(out / "sub" / "changed.png")
    PIL.Image.new("RGB", (8, 8)).save(out / "sub" / "changed.png")
    report = write_report(out, sheet=False)
    assert [p.url for _, p in report.moved] == ["./sub/other%20name.png"]
    assert [p.listed for _, p in report.missing] == [changed.relative_to(out).as_posix()]
    assert left.exists()


# --- the page


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    """Nothing from the index is markup: the page has its own elements and no others, and its data
    are the texts, whole.
    """
    draw(tmp_path, "p.png")
    hostile = {
        "index": 0,
        "item": HOSTILE,
        "axes": {HOSTILE: HOSTILE},
        "inputs": {HOSTILE: HOSTILE},
        "seeds": {HOSTILE: HOSTILE},
        "status": HOSTILE[:30],
        "error": HOSTILE,
        "notes": [HOSTILE],
        "outputs": {HOSTILE: {"path": "p.png"}, "x": {"path": f"{HOSTILE}.png", "kind": HOSTILE}},
        "command": HOSTILE,
    }
    plain = {"index": 1, "item": "x", "axes": {HOSTILE: "\ud800"}, "outputs": {}}
    clean = page_of(tmp_path, [{"index": 0, "item": "x"}])
    write_index(tmp_path, [hostile, plain])
    write_report(tmp_path, sheet=False, title=HOSTILE)
    text = (tmp_path / "report.html").read_text("utf-8")
    page = Elements(text)
    # A browser ends a script at less than Python's parser does: there must be no tag in the data.
    for block in re.findall(r'<script type="application/json"[^>]*>(.*)', text):
        assert not set("<>&") & set(block.removesuffix("</script>"))
    assert text.count("</script>") == 4  # data, the page's own, details, thumbnails
    assert [tag for tag, _ in page.found if tag != "script"] == [
        tag for tag, _ in clean.found if tag != "script"
    ]
    assert {a.get("type") for tag, a in page.found if tag == "script"} == {None, "application/json"}
    assert not any(name.startswith("on") for _, a in page.found for name in a)
    data = page.data("data")
    assert [axis["full"] for axis in data["axes"]] == [[HOSTILE, "\ud800"]]
    assert data["items"][0]["i"] == HOSTILE
    details = page.data("details-0")[0]
    assert (details["error"], details["notes"]) == (HOSTILE, [HOSTILE])
    assert "copy" not in details


def test_the_policy_allows_the_own_script_alone(tmp_path: Path) -> None:
    """The page's policy names its script and its style by their digests, allows pictures, and
    nothing else.
    """
    page = page_of(tmp_path, [{"index": 0, "item": "x"}])
    policy = next(
        a["content"] for _, a in page.found if a.get("http-equiv") == "Content-Security-Policy"
    )
    (style,) = [text for tag, text in page.raw if tag == "style"]
    scripts = [a for tag, a in page.found if tag in ("script", "style")]
    (script,) = [
        text
        for a, (tag, text) in zip(scripts, page.raw, strict=True)
        if tag == "script" and "type" not in a
    ]

    def digest(text: str) -> str:
        return "sha256-" + base64.b64encode(sha256(text.encode()).digest()).decode()

    assert policy == (
        f"default-src 'none'; script-src '{digest(script)}'; style-src '{digest(style)}';"
        " img-src 'self' file: data:; base-uri 'none'; form-action 'none'"
    )


@pytest.mark.parametrize(
    ("command", "copy", "warning"),
    [
        ("imagen-flow run g.yaml --set 'prompt=a b; rm -rf ~'", True, ""),
        ("imagen-flow run g.yaml; rm -rf ~", False, "not a plain"),
        ("imagen-flow run g.yaml `id`", False, "not a plain"),
        ("imagen-flow run $(id)", False, "not a plain"),
        ("imagen-flow run 'unclosed", False, "not a plain"),
        ("rm -rf x", False, "not a plain"),
        ("imagen-flow run 'a\x1b[201~b'", False, "not a plain"),
        ("imagen-flow run 'a\u202eb'", False, "invisible"),
        ("imagen-flow run g.yaml --plugin x.py", True, "--plugin lets other code run"),
        ("", False, None),
    ],
)
def test_only_plain_commands_are_copied(
    tmp_path: Path, command: str, copy: bool, warning: str | None
) -> None:
    """A command has a copy button only if a shell would do nothing but call imagen-flow; what runs
    other code is pointed out.
    """
    page = page_of(tmp_path, [{"index": 0, "item": "x", "command": command}])
    details = page.data("details-0")[0]
    assert details.get("copy", False) is copy
    if warning is None:
        assert "command" not in details
    else:
        assert warning in details.get("warning", "")
        assert bool(warning) == ("warning" in details)


def test_the_page_has_all_of_an_item(tmp_path: Path) -> None:
    """Inputs that all items share are kept once; numbers keep all their digits."""
    rows = product(tmp_path, seed=[2**63 + 1, 5])
    for row in rows:
        row["inputs"] = {**row["inputs"], "steps": 20}
        row["outputs"]["score"] = {"value": 0.5 + row["index"], "kind": "number"}
    page = page_of(tmp_path, rows)
    data = page.data("data")
    assert data["common"] == [["steps", "20"]]
    assert data["axes"] == [
        {
            "name": "seed",
            "full": ["9223372036854775809", "5"],
            "short": ["9223372036854775809", "5"],
        }
    ]
    assert (data["scores"], [item["v"] for item in data["items"]]) == (["score"], [[0.5], [1.5]])
    details = page.data("details-0")[0]
    assert details["inputs"] == [["seed", "9223372036854775809"]]
    assert ["picture: key", "e" * 40] in details["keys"]
    thumbnail = PIL.Image.open(BytesIO(base64.b64decode(page.data("thumbnails-0")[0])))
    assert (thumbnail.format, thumbnail.size) == ("WEBP", (32, 24))


def test_two_thousand_pictures_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thumbnails of many pictures have a common budget, which noise does not exceed."""
    monkeypatch.setattr("imagen_flow._sweep.report.page._MAX_THUMBNAILS", 600_000)
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), "uint8")
    names = [f"{n}.png" for n in range(2000)]
    PIL.Image.fromarray(noise).save(tmp_path / names[0], compress_level=1)
    for name in names[1:]:
        os.link(tmp_path / names[0], tmp_path / name)
    rows = [
        {
            "index": n,
            "item": str(n),
            "axes": {"a": n % 40, "b": n // 40},
            "outputs": {"p": {"path": name}},
        }
        for n, name in enumerate(names)
    ]
    page = page_of(tmp_path, rows)
    assert (tmp_path / "report.html").stat().st_size < 2 << 20
    data = page.data("data")
    assert (len(data["items"]), data["layout"]) == (2000, [1, 0])
    assert sum(len(page.data(f"thumbnails-{n}")) for n in range(20)) == 2000


def test_pictures_that_cannot_be_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damaged, huge and foreign files have a reason in place of a picture."""
    (tmp_path / "text.png").write_text("no picture")
    whole = tmp_path / "cut.png"
    draw(tmp_path, "cut.png", size=(500, 500))
    whole.write_bytes(whole.read_bytes()[:100])
    monkeypatch.setattr("imagen_flow._types.thumbnails._MAX_PIXELS", 1_000_000)
    draw(tmp_path, "bomb.png", size=(2000, 1000))
    rows = [
        {"index": n, "item": name, "outputs": {"p": {"path": name}}}
        for n, name in enumerate(["text.png", "cut.png", "bomb.png"])
    ]
    page = page_of(tmp_path, rows)
    assert [item["p"]["0"][4] for item in page.data("data")["items"]] == [
        "it cannot be read as a picture",
        "it cannot be read as a picture",
        "it is too large to be shown",
    ]


# --- the contact sheet


def size_of(path: Path) -> tuple[int, int]:
    with PIL.Image.open(path) as picture:
        return picture.size


def test_a_contact_sheet_is_a_table_of_two_axes(tmp_path: Path) -> None:
    """With two axes, rows and columns have heads; the pictures stand at their places."""
    write_index(tmp_path, product(tmp_path, seed=[1, 2], cfg=[3, 5, 7]))
    report = write_report(tmp_path, page=False)
    assert report.paths == (tmp_path / "contact_sheet.png",)
    with PIL.Image.open(tmp_path / "contact_sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    red = (abs(pixels - [200, 30, 30]).sum(axis=2) < 30).astype(int)
    across = np.flatnonzero(np.diff(red.max(axis=0), prepend=0) == 1)
    down = np.flatnonzero(np.diff(red.max(axis=1), prepend=0) == 1)
    assert (len(across), len(down)) == (3, 2)
    assert across[0] > 160  # the heads of the rows are left of it


def test_a_contact_sheet_of_many_has_pages(tmp_path: Path) -> None:
    """Many pictures take several pages of a bounded size; fewer ones later remove what is left
    over, but not what is another's.
    """
    write_index(tmp_path, product(tmp_path, seed=[*range(700)]))
    paths = write_report(tmp_path, page=False).paths
    assert [path.name for path in paths] == ["contact_sheet.png", "contact_sheet-2.png"][
        : len(paths)
    ]
    assert all(max(size_of(path)) < 5000 for path in paths)
    (tmp_path / "contact_sheet-9.png").write_bytes((tmp_path / "p.png").read_bytes())
    (tmp_path / "contact_sheet-8.png").write_bytes(paths[0].read_bytes())
    write_index(tmp_path, product(tmp_path, seed=[1]))
    write_report(tmp_path, page=False)
    assert sorted(p.name for p in tmp_path.glob("contact*")) == [
        "contact_sheet-9.png",
        "contact_sheet.png",
    ]


def test_letters_that_the_font_lacks_are_told(tmp_path: Path) -> None:
    """Characters without a glyph become boxes, and the report lists them."""
    write_index(tmp_path, product(tmp_path, prompt=["猫 \U0001f600", "dog"]))
    report = write_report(tmp_path, page=False, lettering=Lettering(size=13))
    assert report.unknown_letters == "猫\U0001f600"


def test_labels_wrap_between_words() -> None:
    """A label is broken between words and within words that are too long; the rest is an
    ellipsis.
    """
    lettering = Lettering(size=14)
    text = "a large red circle left of a small blue square"
    lines = lettering.wrap(text, 100, lines=9)
    assert " ".join(lines) == text
    assert all(lettering.width(line) <= 100 for line in lines)
    assert lettering.wrap(text, 100, lines=2)[-1].endswith("…")
    assert "".join(lettering.wrap("x" * 60, 100, lines=9)) == "x" * 60
    assert lettering.wrap("  ", 100, lines=2) == []


# --- files and commands


@pytest.mark.parametrize("name", ["report.html", "contact_sheet.png"])
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_is_not_ours_is_not_replaced(tmp_path: Path, name: str, kind: str) -> None:
    """A file, a link or a folder of that name stays as it is, and the error says how to go on."""
    write_index(tmp_path, product(tmp_path, seed=[1, 2]))
    (tmp_path / "mine").write_text("mine")
    if kind == "file":
        (tmp_path / name).write_text("mine")
    elif kind == "link":
        (tmp_path / name).symlink_to("mine")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match="another file exists\n.*someone's work\n.*move it away"):
        write_report(tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_report_is_made_again(tmp_path: Path) -> None:
    """The same index and pictures give the same bytes."""
    write_index(tmp_path, product(tmp_path, seed=[1, 2]))
    first = [path.read_bytes() for path in write_report(tmp_path).paths]
    assert [path.read_bytes() for path in write_report(tmp_path).paths] == first


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(arguments)
        return int(exited.value.code or 0), *capsys.readouterr()

    return call


def test_report_command(tmp_path: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    """`report` prints what it wrote, and what is missing on standard error."""
    rows = product(tmp_path, seed=[1, 2, 3])
    rows[1]["outputs"] = {"picture": {"path": "gone\x1b[2J.png"}}
    write_index(tmp_path, rows)
    with (tmp_path / "index.jsonl").open("a") as file:
        file.write("{\n" + " " * (4 << 20) + "{}\n")
    assert call("report", ".") == (
        0,
        "report.html\ncontact_sheet.png\n",
        "1 picture of 3 items missing:\n"
        "  gone�[2J.png: the file is missing\n"
        "2 lines of the index skipped: line 4: it is not JSON; line 5: it is longer than 4 MiB\n",
    )


def test_report_without_an_index(tmp_path: Path, call: Callable[..., tuple[int, str, str]]) -> None:
    """A folder without an index, or with an empty one, has no report."""
    code, out, err = call("report", ".")
    assert (code, out) == (1, "")
    assert "its index.jsonl cannot be read: no such file or directory" in err
    (tmp_path / "index.jsonl").write_text("\n")
    assert "its index.jsonl lists no items" in call("report", ".")[2]
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "its index.jsonl lists no items"),
        (
            '{"item": "a"}\n{"item": "b"}\n'.encode("utf-16"),
            "no line of its index.jsonl is an item; line 1: it is not UTF-8",
        ),
        (
            b'\n{"item": "a", "axes": {"x": ' + b"1" * 5000 + b"}}",
            "no line of its index.jsonl is an item; line 2: it has a number with too many digits",
        ),
    ],
)
def test_an_index_without_items_says_why(tmp_path: Path, content: bytes, why: str) -> None:
    """An index in another encoding is not empty."""
    (tmp_path / "index.jsonl").write_bytes(content)
    with pytest.raises(OutputError) as refused:
        write_report(tmp_path)
    assert str(refused.value) == f"there is no report of '{tmp_path}'\n  = why: {why}"


def test_report_with_a_font_that_is_none(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    """A file that is no font is refused before anything is written."""
    write_index(tmp_path, product(tmp_path, seed=[1]))
    assert call("report", ".", "--font", "index.jsonl") == (
        2,
        "",
        "error: 'index.jsonl' is not a readable font: give a .ttf or .otf file\n",
    )
    assert not (tmp_path / "report.html").exists()


def test_run_makes_reports_of_sweeps(
    tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    """`run --sweep --report --contact-sheet` makes both, also if an item fails; without a sweep
    they are refused.
    """
    (tmp_path / "g.yaml").write_text(
        "imagen_flow: 1\ninputs:\n  colour: red\nnodes:\n"
        '  p: {type: image.solid, width: 8, height: 8, colour: "${colour}"}\n'
        'outputs:\n  p: {from: "${p}", path: "{item}.png"}\n'
    )
    code, out, _ = call(
        *("run", "g.yaml", "--sweep", "colour=red,no-such-colour", "--no-store"),
        *("--report", "--contact-sheet"),
    )
    assert code == 1
    assert out.splitlines()[-2:] == ["out/report.html", "out/contact_sheet.png"]
    page = Elements((tmp_path / "out" / "report.html").read_text("utf-8"))
    assert [item["s"] for item in page.data("data")["items"]] == ["done", "failed"]
    code, out, err = call("run", "g.yaml", "--no-store", "--contact-sheet")
    assert (code, out) == (2, "")
    assert re.search(r"--contact-sheet shows the items of a sweep; add --sweep", err)
