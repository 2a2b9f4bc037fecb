"""A store whose files hold rubbish: whatever is changed, the right value comes out of it or is
computed, and looking after it works.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imagen_flow as flow
from imagen_flow import List
from imagen_flow._plugins.registry import Registry
from imagen_flow._store import Store
from imagen_flow._system.seals import Seals, read_secret
from imagen_flow.errors import StoreError

GRAPH = {
    "imagen_flow": 1,
    "inputs": {"given": {"type": "file"}},
    "nodes": {
        "picture": {"type": "toy.picture", "level": 3},
        "other": {"type": "toy.picture", "level": 4},
        "many": {"type": "toy.many", "count": 3},
        "doubled": {"type": "toy.double", "each": {"n": "${many}"}},
        "sum": {"type": "toy.sum", "numbers": "${doubled}"},
        "file": {"type": "toy.file", "words": "made"},
        "read": {"type": "toy.read", "file": "${file}"},
        "folder": {"type": "toy.folder", "words": "inside"},
        "size": {"type": "toy.size", "file": "${given}"},
    },
    "outputs": {
        "picture": "${picture}",
        "other": "${other}",
        "sum": "${sum}",
        "read": "${read}",
        "file": "${file}",
        "folder": "${folder}",
        "size": "${size}",
    },
}


@flow.node("toy.picture", version=1)
def picture(level: int) -> flow.Image:
    return flow.Image(np.random.default_rng(level).integers(0, 256, (160, 160, 3), dtype="uint8"))


@flow.node("toy.many", version=1)
def many(count: int) -> List[int]:
    return list(range(count))


@flow.node("toy.double", version=1)
def double(n: int) -> int:
    return 2 * n


@flow.node("toy.sum", version=1)
def sum_(numbers: List[int]) -> int:
    return sum(numbers)


@flow.node("toy.file", version=1)
def file(scratch: flow.Scratch, words: str) -> flow.File:
    place = scratch / "words.txt"
    place.write_text(words)
    return flow.File(place, "", 0)


@flow.node("toy.read", version=1)
def read(file: flow.File) -> flow.Text:
    return flow.Text(file.path.read_text())


@flow.node("toy.folder", version=1)
def folder(scratch: flow.Scratch, words: str) -> flow.Folder:
    place = scratch / "made"
    place.mkdir(exist_ok=True)
    (place / "a.txt").write_text(words)
    (place / "b.txt").write_text(words * 2)
    return flow.Folder(place, "", ())


@flow.node("toy.size", version=1)
def size(file: flow.File) -> int:
    return file.size


REGISTRY = Registry({})
for function in (picture, many, double, sum_, file, read, folder, size):
    REGISTRY.add(function)


def outputs(store: Path, given: Path) -> dict[str, Any]:
    """What a run of the graph gives, as plain data."""
    made = flow.run(
        flow.load(GRAPH, registry=REGISTRY), given=str(given), store=store, device="cpu"
    )
    return {
        **{name: made[name].pixels.tobytes() for name in ("picture", "other")},
        **{name: made[name] for name in ("sum", "read", "size")},
        "file": (made["file"].name, made["file"].path.read_text()),
        "folder": {one.name: one.path.read_text() for one in made["folder"].files},
    }


# ---- one change

_RUBBISH: list[str] = [
    "CAST(x'ff00fe' AS TEXT)",
    "x''",
    "x'ff00'",
    "NULL",
    "''",
    "0",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "1e308",
    "-0.5",
    "9e999",
    "'..'",
    "'/dev/zero'",
    "'../../precious'",
    "'index.sqlite'",
    "'objects'",
    "'{}'",
    "'[]'",
    "'null'",
    "'NaN'",
    "zeroblob(70000)",
    "char(0)",
    "char(27) || '[2J'",
    "hex(zeroblob(3000))",
    "'value int ' || hex(zeroblob(20))",
    "printf('%.*c', 3000, '[')",
]
_SCHEMAS = [
    "CREATE TRIGGER t AFTER INSERT ON step BEGIN DELETE FROM value; END",
    "CREATE TABLE more (x)",
    "CREATE INDEX i ON step (used)",
    "ALTER TABLE step ADD COLUMN more",
    "DROP TABLE history",
    "ALTER TABLE step RENAME TO steps; CREATE VIEW step AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT i AS key, i AS outputs, i AS provenance, i AS used, i AS seal, i AS told FROM n",
    "ALTER TABLE value RENAME TO v; CREATE TABLE value (digest, kind, size, place, body); INSERT INTO value SELECT * FROM v",
    "ANALYZE",
    "VACUUM",
]
_PRAGMAS = [
    "user_version",
    "application_id",
    "schema_version",
    "journal_mode",
    "auto_vacuum",
    "default_cache_size",
    "journal_size_limit",
    "page_size",
    "secure_delete",
    "encoding",
]


def _tables(db: sqlite3.Connection) -> list[tuple[str, list[str]]]:
    names = [
        name
        for (name,) in db.execute(
            "SELECT name FROM sqlite_master WHERE type='table' AND name NOT LIKE 'sqlite%' ORDER BY name"
        )
    ]
    return [
        (name, [row[1] for row in db.execute(f"PRAGMA table_info({name})")]) for name in names
    ] + [("sqlite_master", ["type", "name", "tbl_name", "rootpage", "sql"])]


def change_cell(db: sqlite3.Connection, draw: random.Random) -> str:
    """Something else in a cell: rubbish, a text with a letter changed, or what another row has
    there.
    """
    table, columns = draw.choice(_tables(db))
    column = draw.choice(columns)
    (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()
    db.execute("PRAGMA writable_schema=ON")
    key = columns[0] if table == "file" else "rowid"
    row, other = (
        f"(SELECT {key} FROM {table} ORDER BY {key} LIMIT 1 OFFSET {draw.randrange(max(count, 1))})"
        for _ in range(2)
    )
    near = f"CASE typeof({column}) WHEN 'text' THEN replace({column}, substr({column}, {draw.randrange(1, 60)}, 1), '{draw.choice('0a b}')}') WHEN 'integer' THEN {column} + 1 ELSE substr({column}, 2) END"
    new = draw.choice(
        [draw.choice(_RUBBISH), f"(SELECT {column} FROM {table} WHERE {key} = {other})", near]
    )
    words = f"UPDATE OR IGNORE {table} SET {column} = {new} WHERE {key} = {row}"
    try:
        db.execute(words)
    except sqlite3.IntegrityError:
        return "nothing"
    return words


def swap_rows(db: sqlite3.Connection, draw: random.Random) -> str:
    """Two rows with each other's content."""
    table, columns = draw.choice(_tables(db)[:-1])
    rows = db.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()
    if len(rows) < 2:
        return "nothing"
    (one, *mine), (other, *theirs) = draw.sample(rows, 2)
    sets = ", ".join(f"{column} = ?" for column in columns[1:])
    db.execute(f"UPDATE {table} SET {sets} WHERE {columns[0]} = ?", (*theirs, one))
    db.execute(f"UPDATE {table} SET {sets} WHERE {columns[0]} = ?", (*mine, other))
    return f"{table} {one} {other}"


def delete_row(db: sqlite3.Connection, draw: random.Random) -> str:
    """A row less."""
    table, columns = draw.choice(_tables(db)[:-1])
    words = f"DELETE FROM {table} WHERE {columns[0]} = (SELECT {columns[0]} FROM {table} ORDER BY random() LIMIT 1)"
    db.execute(words)
    return words


def change_schema(db: sqlite3.Connection, draw: random.Random) -> str:
    """Tables that are not ours."""
    words = draw.choice(_SCHEMAS)
    try:
        db.executescript(words)
    except sqlite3.Error:
        return "nothing"
    return words


def change_pragma(db: sqlite3.Connection, draw: random.Random) -> str:
    """Another word in the head of the file."""
    words = f"PRAGMA {draw.choice(_PRAGMAS)} = {draw.choice(['0', '1', '3', '99', '-5', '2147483647', 'DELETE', 'MEMORY', '512'])}"
    try:
        db.execute(words).fetchall()
    except sqlite3.Error:
        return "nothing"
    return words


def change_file(store: Path, draw: random.Random) -> str:
    """Another byte, length or kind of one of the files."""
    path = draw.choice(sorted(p for p in store.rglob("*") if p.is_file()))
    how = draw.choice(["flip", "flip", "cut", "empty", "gone", "folder", "link", "fifo", "longer"])
    data = bytearray(path.read_bytes())
    if how == "flip" and data:
        path.chmod(0o644)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
    elif how in ("cut", "empty", "longer"):
        path.chmod(0o644)
        path.write_bytes(
            data[: len(data) // 2]
            if how == "cut"
            else b""
            if how == "empty"
            else bytes(data) + b"x"
        )
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how == "link":
            path.symlink_to(store.parent / "precious")
        elif how == "fifo":
            os.mkfifo(path)
    return f"{how} {path.relative_to(store)}"


def change(store: Path, seed: int) -> str:
    """Change one thing, and say which."""
    draw = random.Random(seed)
    how = draw.choice(
        [change_cell] * 6
        + [swap_rows] * 2
        + [delete_row, change_schema, change_pragma, change_file]
    )
    if how is change_file:
        return change_file(store, draw)
    db = sqlite3.connect(
        store / draw.choice(["index.sqlite"] * 4 + ["files.sqlite"]), isolation_level=None
    )
    try:
        return f"{how.__name__}: {how(db, draw)}"
    finally:
        db.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A store, a file that its graph reads, and what the graph gives."""
    folder = tmp_path_factory.mktemp("whole")
    given = folder / "given.txt"
    given.write_text("given")
    os.utime(given, (1, 1))
    expected = outputs(folder / "store", given)
    assert expected == outputs(folder / "store", given)
    return folder / "store", given, expected


def check(whole: tuple[Path, Path, dict[str, Any]], folder: Path, seed: int) -> None:
    """After one change: plan, run, and all that looks after a store."""
    store, given, expected = whole
    copy = folder / "store"
    shutil.copytree(store, copy)
    (folder / "precious").write_text("precious")
    what = change(copy, seed)
    try:
        flow.plan(flow.load(GRAPH, registry=REGISTRY), given=str(given), store=copy, device="cpu")
        assert outputs(copy, given) == expected
        assert outputs(copy, given) == expected
        with Store.open(copy, REGISTRY.codecs) as opened:
            opened.info()
            opened.verify()
            assert opened.verify().damaged == ()
            opened.gc(max_size=10**9)
            opened.gc(max_size=0, older_than_s=0)
            opened.clear()
        assert outputs(copy, given) == expected
        assert (folder / "precious").read_text() == "precious"
    except BaseException as error:
        error.add_note(f"seed {seed}: {what}")
        raise
    shutil.rmtree(folder)


@pytest.mark.parametrize("seed", range(40))
def test_one_change_costs_a_computation_at_most(
    whole: tuple[Path, Path, dict[str, Any]], tmp_path: Path, seed: int
) -> None:
    """A change of any cell, row, table, pragma or file ends in the right values; what looks after
    the store works before and after.
    """
    check(whole, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 2000, 100))
def test_a_thousand_changes_cost_a_computation_at_most(
    whole: tuple[Path, Path, dict[str, Any]], tmp_path: Path, start: int
) -> None:
    """The same, many times."""
    for seed in range(start, start + 100):
        (tmp_path / str(seed)).mkdir()
        check(whole, tmp_path / str(seed), seed)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
@pytest.mark.parametrize(
    "pattern",
    [
        "trees/*[0-9a-f]",
        "trees/*[0-9a-f]/*",
        "trees/*.json",
        "objects/*",
        "objects/*/*",
        "scratch",
        "pins",
        "objects",
        "trees",
        "locks",
        "CACHEDIR.TAG",
        "index.sqlite",
        "files.sqlite",
    ],
)
def test_nothing_is_written_or_removed_through_links(
    whole: tuple[Path, Path, dict[str, Any]], tmp_path: Path, pattern: str
) -> None:
    """A store whose entries lead elsewhere computes what it must, or is refused in words; what lies
    there is as it was.
    """
    store, given, expected = whole
    copy, outside = tmp_path / "store", tmp_path / "outside"
    shutil.copytree(store, copy)
    outside.mkdir()
    (outside / "a.txt").write_text("precious")
    (outside / "file").write_text("precious")
    for entry in sorted(copy.glob(pattern)):
        is_folder = entry.is_dir()
        if is_folder:
            shutil.rmtree(entry)
        else:
            entry.unlink()
        entry.symlink_to(outside if is_folder else outside / "file")
    refused = False
    try:
        assert outputs(copy, given) == expected
        with Store.open(copy, REGISTRY.codecs) as opened:
            opened.verify()
            opened.gc(max_size=0, older_than_s=0)
            opened.clear()
    except StoreError as error:
        refused = True
        assert f"its '{pattern}' is a link" in str(error)
    assert refused == (pattern in ("scratch", "pins", "objects", "trees"))
    assert {path.name: path.read_text() for path in outside.iterdir()} == {
        "a.txt": "precious",
        "file": "precious",
    }


# ---- a store that came along


def forge(store: Path) -> None:
    """Exchange what two steps gave, and seal it anew, as anybody can."""
    db = sqlite3.connect(store / "index.sqlite", isolation_level=None)
    rows = [
        (key, outputs)
        for key, outputs in db.execute("SELECT key, outputs FROM step")
        if " image " in outputs
    ]
    (one, mine), (other, theirs) = rows
    for key, outputs in ((one, theirs), (other, mine)):
        db.execute(
            "UPDATE step SET outputs=?, seal=? WHERE key=?",
            (outputs, Seals().make("step", key, outputs), key),
        )
    db.close()


def test_a_store_that_came_along_with_its_folder_is_not_believed(
    tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others put into it runs again, and is told; what the user put there is taken, and so is
    all in a store that the user named.
    """
    given, graph = tmp_path / "given.txt", tmp_path / "graph.yaml"
    given.write_text("given")
    graph.write_text(json.dumps(GRAPH))
    (tmp_path / "imagen-flow.toml").write_text('store = "kept"')
    loaded = flow.load(graph, registry=REGISTRY)

    def run(**more: Any) -> tuple[dict[str, int], bytes]:
        """How many steps of what status were planned, and a picture."""
        options = {"given": str(given), "device": "cpu", **more}
        return flow.plan(loaded, **options).counts, flow.run(loaded, **options)[
            "picture"
        ].pixels.tobytes()

    (planned, right), (again, _) = run(), run()
    assert (set(planned), set(again)) == ({"runs", "waits"}, {"cached"})
    forge(tmp_path / "kept")
    assert run() == (again | {"cached": again["cached"] - 2, "runs": 2}, right)
    monkeypatch.setenv("HOME", str(own_home / "other"))
    planned, picture = run()
    assert (set(planned), picture) == ({"runs", "waits"}, right)
    assert run() == (again, right)
    with Store.open(
        tmp_path / "kept", REGISTRY.codecs, seals=Seals(b"x" * 32, only_own=True)
    ) as opened:
        (step, *_) = opened._index.all_steps()
        assert opened.lookup(step.key) is None
        (warning,) = opened.take_warnings()
        assert "which are not trusted: these steps run again" in warning
        assert opened.verify().damaged == ()
    forge(tmp_path / "kept")
    assert run(store=tmp_path / "kept")[1] != right


def test_the_secret_of_seals_is_the_users_alone(tmp_path: Path) -> None:
    """It is drawn once; a file that others can read, or that is no file, is no secret."""
    file = tmp_path / "folder" / "secret"
    secret = read_secret(file)
    assert (len(secret), read_secret(file), file.stat().st_mode & 0o777) == (32, secret, 0o600)
    file.chmod(0o644)
    assert read_secret(file) == b""
    file.unlink()
    os.mkfifo(file)
    assert read_secret(file) == b""
    assert read_secret(file / "below") == b""
    assert sorted(path.name for path in file.parent.iterdir()) == ["secret"]
