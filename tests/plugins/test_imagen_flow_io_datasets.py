"""Folders of captioned pictures are listed pair by pair, or it is said what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import imagen_flow as flow


def folder(root: Path, **files: str) -> Path:
    """Write files; names are written with ``__`` for a slash and ``_`` for the dot."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("latin-1"))
    return root


def load(path: Path, **more: Any) -> list[tuple[str, str]]:
    graph = {
        "imagen_flow": 1,
        "inputs": {"folder": {"type": "folder", "default": str(path), "help": "pictures"}},
        "nodes": {
            "data": {"type": "dataset.load", "folder": "${folder}", **more},
            "names": {"type": "file.name", "each": {"file": "${data.pictures}"}},
        },
        "outputs": {"names": "${names.path}", "captions": "${data.captions}"},
    }
    outputs = flow.run(graph, store=None)
    return list(zip(outputs["names"], outputs["captions"], strict=True))


def refusal(path: Path, **more: Any) -> str:
    with pytest.raises(flow.NodeError) as failed:
        load(path, **more)
    return str(failed.value.__cause__)


def test_captions_lie_beside_pictures(tmp_path: Path) -> None:
    """In texts of the same name, in folders below too; a byte order mark and ends of lines are no
    part of them, and other files are none of the set.
    """
    root = folder(
        tmp_path,
        b_png="2",
        b_txt="a fox,\r\n in  snow\n",
        a_JPG="1",
        a_txt="\xef\xbb\xbfa cat",
        sub__c_webp="3",
        sub__c_txt="a hat",
        other_txt="notes",
    )
    assert load(root) == [
        ("a.JPG", "a cat"),
        ("b.png", "a fox, in snow"),
        ("sub/c.webp", "a hat"),
    ]


def test_captions_lie_in_a_table(tmp_path: Path) -> None:
    """As Hugging Face's imagefolder reads it, JSON Lines or CSV, in a column that can be named; the
    texts beside pictures are not read then.
    """
    rows = [{"file_name": "b.png", "text": "b"}, {"file_name": "sub/a.png", "text": "a", "n": 1}]
    root = folder(tmp_path / "jsonl", b_png="", sub__a_png="", b_txt="not this")
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert load(root) == [("b.png", "b"), ("sub/a.png", "a")]
    root = folder(tmp_path / "csv", b_png="", metadata_csv="file_name,words\nb.png,two words\n")
    assert load(root, column="words") == [("b.png", "two words")]
    assert "has no text in the column 'text' (its columns are file_name, words)" in refusal(root)


def test_a_picture_without_a_caption(tmp_path: Path) -> None:
    """All are refused, or it is left out, or learnt from without words."""
    root = folder(tmp_path, a_png="", b_png="", b_txt="b", c_png="", c_txt=" \n")
    assert refusal(root) == (
        "2 of 3 pictures have no caption, 'a.png' first; write it into a.txt, or set missing: skip"
        " or missing: empty"
    )
    assert load(root, missing="skip") == [("b.png", "b")]
    assert load(root, missing="empty") == [("a.png", ""), ("b.png", "b"), ("c.png", "")]


def test_a_folder_that_is_no_set(tmp_path: Path) -> None:
    """What does not fit is named."""
    empty = folder(tmp_path / "empty", notes_md="x")
    assert "no picture in 'empty': none of its 1 files matches '*.png, " in refusal(empty)
    bare = folder(tmp_path / "bare", a_png="")
    assert refusal(bare, missing="skip") == "none of the 1 pictures has a caption"
    both = folder(tmp_path / "both", a_png="", metadata_csv="", metadata_jsonl="")
    assert "keep one of them" in refusal(both)
    gone = folder(tmp_path / "gone", a_png="", metadata_csv="file_name,text\nb.png,x\n")
    assert refusal(gone) == "row 1 of 'metadata.csv' names 'b.png', which is not in the folder"
    twice = folder(tmp_path / "twice", a_png="", metadata_csv="file_name,text\na.png,x\na.png,y\n")
    assert "row 2 of 'metadata.csv' names 'a.png', as a row before it does" in refusal(twice)
    odd = folder(tmp_path / "odd", a_png="", metadata_jsonl='[1]\n{"file_name": 3}')
    assert refusal(odd) == "row 1 of 'metadata.jsonl' has no 'file_name'"
    foreign = folder(tmp_path / "foreign", a_png="", a_txt="\xff\xfe")
    assert "'a.txt' is not UTF-8" in refusal(foreign)
    endless = folder(tmp_path / "endless", a_png="", a_txt="x" * 1_000_001)
    assert "more than max_bytes allows" in refusal(endless)
