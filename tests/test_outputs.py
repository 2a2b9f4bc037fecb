from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
import wave
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagen_flow._outputs.templates import TemplateFault, check_template, fill_template
from imagen_flow._outputs.writer import OutFolder, OutputWriter, WrittenOutput
from imagen_flow._provenance.embedding import SIDECAR, try_read_embedded
from imagen_flow._store.file_digests import FileDigests
from imagen_flow._system import processes
from imagen_flow._types.digest import digest_bytes
from imagen_flow._types.models import Model
from imagen_flow._types.ports import PortType
from imagen_flow._types.value_digests import digest_value
from imagen_flow._types.values import Audio, File, Image, Mask, Tensor
from imagen_flow.errors import OutputError

IMAGE = PortType("image")
RED = Image(np.full((4, 6, 3), (255, 0, 0), "uint8"))
BLUE = Image(np.full((4, 6, 3), (0, 0, 255), "uint8"))


def document(value: Any, level: str = "full", **more: Any) -> str:
    """The least that a document holds for a writer."""
    return json.dumps(
        {"imagen_flow": 1, "provenance": level, "output": {"digest": digest_value(value)}, **more},
        separators=(",", ":"),
        ensure_ascii=False,
    )


def write(
    folder: Path | OutFolder,
    relative: str,
    value: Any = RED,
    *,
    provenance: str | None = "",
    **how: Any,
) -> WrittenOutput:
    """Write in a run of its own."""
    said = document(value) if provenance == "" else provenance
    return OutputWriter(folder).write(
        relative,
        value,
        **{"output": "picture", "provenance": said, "digest": digest_value(value), **how},
    )


def holds(path: Path, picture: Image) -> bool:
    with PIL.Image.open(path) as found:
        return np.array_equal(np.array(found), picture.pixels)


def tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def age(path: Path) -> int:
    """Give a file a time long ago, so that being touched shows."""
    os.utime(path, ns=(10**18, 10**18))
    return 10**18


#: The head of a script that writes in a process of its own.
SCRIPT = """
import os, resource, sys
from pathlib import Path
import numpy as np
from imagen_flow.errors import OutputError
from imagen_flow._outputs.writer import OutputWriter
from imagen_flow._types.values import Image
small = Image(np.full((4, 6, 3), (255, 0, 0), "uint8"))
big = Image(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype="uint8"))
out = Path(sys.argv[1])

def write(name, value):
    said = '{"imagen_flow":1,"provenance":"full","output":{"digest":"%s"}}' % value.width
    try:
        OutputWriter(out).write(name, value, output="picture", provenance=said, digest=str(value.width))
    except OutputError as refused:
        print(refused)

"""


def in_a_process(script: str, out: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", SCRIPT + script, str(out)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


# -- templates -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "type_"),
    [
        ("{graph}/{seed}-{item}.png", IMAGE),
        ("{output}.JPG", IMAGE),
        ("a/b/c.webp", PortType("mask")),
        ("{{braces}}-{digest8}.tiff", IMAGE),
        ("大/🎨.png", IMAGE),
        ("notes.txt", PortType("text")),
        ("score.json", PortType("float")),
        ("{index}.png", PortType("list", element=IMAGE)),
        ("{graph}/{item}.txt", PortType("list", element=PortType("text"))),
        ("t.safetensors", PortType("tensor")),
        ("s.wav", PortType("audio")),
        ("models/{graph}", PortType("model")),
        ("anything.bin", PortType("file")),
        ("anything.xyz", PortType("shop.Basket")),
        ("a.png", PortType("any")),
        ("a.txt", PortType("union", members=(PortType("text"), PortType("int")))),
    ],
)
def test_a_path_that_works_is_not_faulted(template: str, type_: PortType) -> None:
    """Fields, folders, braces and every ending that fits the type pass."""
    assert check_template(template, fields=["seed", "prompt"], type=type_) is None


OUT = "write a relative path; choose the folder with --out"
PICTURES = "it can be .jpeg, .jpg, .png, .tif, .tiff, .webp"


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("", TemplateFault("the path is empty", fix="write a file name such as {graph}.png")),
        (" ", TemplateFault("the path is empty", fix="write a file name such as {graph}.png")),
        (
            "/etc/a.png",
            TemplateFault("the path is absolute", "a graph only writes to the output folder", OUT),
        ),
        (
            "C:/a.png",
            TemplateFault("the path is absolute", "a graph only writes to the output folder", OUT),
        ),
        (
            "~/a.png",
            TemplateFault(
                "the path starts with '~'", "a graph only writes to the output folder", OUT
            ),
        ),
        (
            "../a.png",
            TemplateFault("the path has '..'", "a graph only writes to the output folder", OUT),
        ),
        (
            "a/../b.png",
            TemplateFault("the path has '..'", "a graph only writes to the output folder", OUT),
        ),
        (
            "a\\b.png",
            TemplateFault(
                "the path has a backslash",
                "folders are separated by '/' on every system",
                "write '/'",
            ),
        ),
        (
            "a\0.png",
            TemplateFault(
                "a name in the path has the character U+0000",
                "not every system allows such a name",
                "remove it",
            ),
        ),
        (
            "a?.png",
            TemplateFault(
                "a name in the path has '?'",
                "not every system allows such a name",
                "remove it",
            ),
        ),
        (
            "a//b.png",
            TemplateFault(
                "the path has an empty name",
                fix="separate names by a single '/', ending with a file name",
            ),
        ),
        (
            "nul.png",
            TemplateFault(
                "'nul.png' is a reserved name",
                "Windows reserves it for a device",
                "choose another name",
            ),
        ),
        (
            "a./b.png",
            TemplateFault(
                "a name in the path ends with a dot or a space",
                "not every system allows such a name",
                "remove it",
            ),
        ),
        ("{sed}.png", TemplateFault("the path has no field '{sed}'", fix="did you mean 'seed'?")),
        (
            "{seed:04}.png",
            TemplateFault(
                "the path has no field '{seed:04}'",
                "a field is only a name, without a format",
                "did you mean 'seed'?",
            ),
        ),
        (
            "{seed.png",
            TemplateFault(
                "'{' in the path does not belong to a field",
                fix="write {{ or }} for a brace in a name",
            ),
        ),
        (
            "{}.png",
            TemplateFault(
                "the path has no field '{}'",
                fix="fields are: digest8, graph, index, item, output, seed",
            ),
        ),
        (
            "a",
            TemplateFault(
                "the path has no file extension, which decides how image is written", fix=PICTURES
            ),
        ),
        ("a.gif", TemplateFault("image cannot be written as a .gif file", fix=PICTURES)),
        (
            "a.{seed}",
            TemplateFault(
                "the file extension is a field",
                "the extension decides how the value is written, so it must be known before running",
                PICTURES,
            ),
        ),
    ],
)
def test_a_path_that_cannot_work_is_faulted(template: str, fault: TemplateFault) -> None:
    """What is wrong with a path is said before anything runs: what, why, and how to mend it."""
    assert check_template(template, fields=["seed"], type=IMAGE) == fault


def test_the_path_of_a_list_tells_its_elements_apart() -> None:
    """A list is written one file an element, so its path has {item} or {index}."""
    fault = check_template("a/b.png", fields=["seed"], type=PortType("list", element=IMAGE))
    assert fault == TemplateFault(
        "the path of a list needs {item} or {index}",
        "each element is written to its own file",
        "write a/b-{index}.png",
    )


# -- filling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("a red star", "a red star"),
        (7, "7"),
        (0.5, "0.5"),
        (True, "true"),
        ("大きな円 🎨", "大きな円 🎨"),
        ("e\u0301", "é"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\x", "C__x"),
        ("a\nb\tc  d", "a b c d"),
        ("..", "_"),
        ("", "_"),
        (".hidden. ", "hidden"),
        ('<>:"|?*', "_______"),
        ("a\0b\x07\u202ec", "abc"),
        ("\ud800", "_"),
        ("x" * 200, "x" * 80),
    ],
)
def test_a_field_becomes_a_part_of_a_name(value: object, name: str) -> None:
    """Whatever a value is, its text makes a name that every system can hold, and no path."""
    assert fill_template("{prompt}.png", {"prompt": value}) == f"{name}.png"


def test_braces_and_several_fields_are_filled() -> None:
    """{{ and }} are braces; fields stand anywhere."""
    assert (
        fill_template("{graph}/{{x}}-{seed}-{item}.png", {"graph": "g", "seed": 7, "item": "a/b"})
        == "g/{x}-7-a_b.png"
    )


@pytest.mark.parametrize("name", ["con", "NUL", "com1", "LPT³", "con.tar"])
def test_names_that_windows_keeps_are_given_a_letter(name: str) -> None:
    """A name that is a device on Windows gets an underscore."""
    assert fill_template("{prompt}.png", {"prompt": name}) == f"_{name}.png"


def test_a_cut_does_not_part_what_is_one_character() -> None:
    """Cutting keeps accents on their letters, joined emoji together and bytes of one character in
    one piece.
    """
    assert fill_template("{p}.png", {"p": "x" * 79 + "\u0915\u093f"}) == "x" * 79 + ".png"
    assert fill_template("{p}.png", {"p": "x" * 78 + "👩\u200d🎨"}) == "x" * 78 + ".png"
    wide = fill_template("{p}{p}{p}.png", {"p": "🎨" * 80})
    assert wide.removesuffix(".png").strip("🎨") == ""
    # Its number and the name of its sidecar must fit too.
    assert 220 < len(wide.encode()) <= 255 - len("-9999") - len(SIDECAR)


@given(
    st.text(st.characters(codec=None), max_size=300),
    st.text(st.characters(codec=None), max_size=20),
)
def test_no_text_can_leave_its_place(prompt: str, item: str) -> None:
    """Of any two texts a path comes out with as many names as the template has, each of which can
    be a file's.
    """
    names = fill_template("{prompt}/{item}{item}.png", {"prompt": prompt, "item": item}).split("/")
    assert len(names) == 2
    for name in names:
        assert name not in ("", ".", "..")
        assert len(name.encode()) <= 255 - len(SIDECAR)
        assert not set(name) & set('<>:"|?*\\\0') and name == name.strip()
    assert names[1].endswith(".png")


# -- writing ---------------------------------------------------------------------------------------


def test_a_picture_is_written_with_its_provenance(tmp_path: Path) -> None:
    """The folder is made, the picture lies in it, and it carries its document."""
    written = write(tmp_path / "out", "a/b.png")
    assert written == WrittenOutput(tmp_path / "out/a/b.png", True)
    assert holds(written.path, RED)
    label = try_read_embedded(written.path)
    assert label is not None and label.intact and label.digest == digest_value(RED)
    assert sorted(tree(tmp_path)) == ["out/a/b.png"]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff"])
@pytest.mark.parametrize("said", ["", None])
def test_an_equal_value_is_not_written_again(tmp_path: Path, name: str, said: str | None) -> None:
    """A file that holds this very value keeps its time, whether provenance says so or the bytes do."""
    first = write(tmp_path, name, provenance=said)
    before = tree(tmp_path)
    then = age(first.path)
    assert write(tmp_path, name, provenance=said) == WrittenOutput(first.path, False)
    assert first.path.stat().st_mtime_ns == then
    assert tree(tmp_path) == before


def test_a_new_account_of_the_same_value_touches_nothing(tmp_path: Path) -> None:
    """Where only the account differs (a comment in the graph), the file stays: what it says of
    itself is still so.
    """
    path = write(tmp_path, "a.png").path
    then = age(path)
    assert not write(tmp_path, "a.png", provenance=document(RED, graph="another")).changed
    assert path.stat().st_mtime_ns == then


def test_a_change_of_level_is_carried_out(tmp_path: Path) -> None:
    """Who asks for less provenance gets a file with less of it."""
    write(tmp_path, "a.png")
    assert write(tmp_path, "a.png", provenance=document(RED, "keys")).changed
    path = write(tmp_path, "a.png", provenance=None).path
    assert b"imagen_flow" not in path.read_bytes()
    write(tmp_path, "b.jpg")
    write(tmp_path, "b.jpg", provenance=None)
    assert sorted(tree(tmp_path)) == ["a.png", "b.jpg"]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_what_a_run_wrote_is_replaced(tmp_path: Path, name: str) -> None:
    """A file that carries our provenance gives way to the next value."""
    write(tmp_path, name, RED)
    written = write(tmp_path, name, BLUE)
    assert written.changed
    label = try_read_embedded(written.path)
    assert label is not None and label.intact and label.digest == digest_value(BLUE)


def test_the_work_of_others_is_not_replaced(tmp_path: Path) -> None:
    """A file of another origin stays, and the error says what may be done."""
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(OutputError) as refused:
        write(tmp_path, "a.png")
    assert str(refused.value) == (
        f"output 'picture' is not written to {tmp_path}/a.png: another file exists\n"
        "  = why: it has no provenance of imagen_flow, so it may be someone's work\n"
        "  = fix: move it away, or set 'exists: number' or 'exists: replace' for this output"
    )
    assert tree(tmp_path) == {"a.png": b"mine"}


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_what_a_run_wrote_and_somebody_changed_is_not_replaced(tmp_path: Path, name: str) -> None:
    """A picture that was retouched, though it still carries our document, is somebody's work."""
    path = write(tmp_path, name).path
    path.write_bytes(path.read_bytes() + b"retouched")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="changed since"):
        write(tmp_path, name, BLUE)
    assert tree(tmp_path) == before


def test_replace_and_number_are_the_ways_round(tmp_path: Path) -> None:
    """`exists: replace` takes the place; `number` the next free one, and finds it again."""
    (tmp_path / "a.png").write_bytes(b"mine")
    (tmp_path / "a-2.png").write_bytes(b"mine too")
    assert write(tmp_path, "a.png", exists="number") == WrittenOutput(tmp_path / "a-3.png", True)
    assert write(tmp_path, "a.png", exists="number") == WrittenOutput(tmp_path / "a-3.png", False)
    assert (tmp_path / "a.png").read_bytes() == b"mine"
    assert write(tmp_path, "a.png", exists="replace") == WrittenOutput(tmp_path / "a.png", True)
    assert try_read_embedded(tmp_path / "a.png") is not None
    assert (tmp_path / "a-2.png").read_bytes() == b"mine too"


def test_a_foreign_file_in_the_place_of_a_sidecar_is_not_replaced(tmp_path: Path) -> None:
    """A sidecar replaces no file of another origin either; nothing is written then."""
    (tmp_path / f"a.jpg{SIDECAR}").write_text('{"my": "notes"}')
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=r"exists and was not written by imagen_flow"):
        write(tmp_path, "a.jpg")
    assert tree(tmp_path) == before


def test_a_long_document_goes_beside_the_picture(tmp_path: Path) -> None:
    """Above a megabyte provenance is a sidecar; it goes again when it is short enough to be inside."""
    long = document(RED, text="x" * 1_000_000)
    path = write(tmp_path, "a.png", provenance=long).path
    assert sorted(tree(tmp_path)) == ["a.png", f"a.png{SIDECAR}"]
    label = try_read_embedded(path)
    assert label is not None and label.intact and json.loads(label.text)["text"] == "x" * 1_000_000
    assert not write(tmp_path, "a.png", provenance=long).changed
    write(tmp_path, "a.png", BLUE)
    assert sorted(tree(tmp_path)) == ["a.png"]


@pytest.mark.skipif(os.name == "nt", reason="whether a process lives is not seen on Windows")
@pytest.mark.parametrize("value", ["RED", "FOLDER"])
def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path, value: str) -> None:
    """A file or folder that was half written goes with the next output beside it, were that there
    already; what living processes, other hosts and users have there stays.
    """
    out = tmp_path / "out"
    write(out, "x.png")
    code = f"""
import os, signal
from pathlib import Path
from imagen_flow._outputs import disk, writer as outputs
from imagen_flow._types.values import File, Folder
disk.os.replace = disk.os.rename = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
Path({str(tmp_path / "a")!r}).write_text("a")
values = {{"RED": ("y.txt", "text"), "FOLDER": ("y", Folder(Path({str(tmp_path)!r}), "0" * 40, (File(Path({str(tmp_path / "a")!r}), "0" * 40, 1, "a"),)))}}
name, value = values[{value!r}]
outputs.OutputWriter(Path({str(out)!r})).write(name, value, output="o", provenance=None, digest="0")
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    (left,) = [path for path in out.iterdir() if path.name.startswith(".imagen_flow-")]
    mine, foreign, stale = (
        out / processes.temporary_name(),
        out / ".imagen_flow-00000000_00000000_7_7_01234567.tmp",
        out / ".imagen_flow-0123456789abcdef.tmp",
    )
    stays = [
        mine,
        foreign,
        out / ".imagen_flow-0123456789abcdea.tmp",
        out / ".imagen_flow-notes.tmp",
        out / ".imagen_flow-dead00000000-1.tmp",
    ]
    for path in (*stays, stale):
        path.write_text("x")
    age(stale)
    assert not write(out, "x.png").changed
    assert left not in [*out.iterdir()]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["x.png", *(path.name for path in stays)]
    )


def test_a_run_that_was_killed_between_file_and_sidecar_is_made_good(tmp_path: Path) -> None:
    """A file without its sidecar is known by its bytes; the sidecar is written, the file not
    touched.
    """
    path = write(tmp_path, "a.jpg").path
    path.with_name(f"a.jpg{SIDECAR}").unlink()
    then = age(path)
    assert not write(tmp_path, "a.jpg").changed
    assert path.stat().st_mtime_ns == then
    assert try_read_embedded(path) is not None


def test_two_outputs_of_a_run_with_one_path_are_an_error(tmp_path: Path) -> None:
    """The second output is refused by the names of both; the first stays."""
    writer = OutputWriter(tmp_path)
    writer.write("a.png", RED, output="first", provenance=None, digest=digest_value(RED))
    writer.write("a.png", RED, output="first", provenance=None, digest=digest_value(RED))
    with pytest.raises(OutputError) as refused:
        writer.write(
            "a.png",
            BLUE,
            output="second",
            exists="replace",
            provenance=None,
            digest=digest_value(BLUE),
        )
    assert str(refused.value).startswith(
        "output 'second' and output 'first' are written to the same path, 'a.png'\n"
    )
    with pytest.raises(
        OutputError,
        match=r"output 'first' \(\[1\]\) and output 'first' are written to the same path.*\n.*\n.*\{index\}",
    ):
        writer.write(
            "a.png", BLUE, output="first", item="[1]", provenance=None, digest=digest_value(BLUE)
        )
    assert holds(tmp_path / "a.png", RED)


@pytest.mark.parametrize(
    "relative",
    [
        "../a.png",
        "/tmp/a.png",
        "a/../../b.png",
        "a\\..\\b.png",
        "C:/a.png",
        "a//b.png",
        "",
        ".",
        "a\0b.png",
    ],
)
def test_no_path_leaves_the_folder(tmp_path: Path, relative: str) -> None:
    """A writer checks its paths itself, whoever filled them."""
    with pytest.raises(OutputError, match="not a path in the output folder"):
        write(tmp_path / "out", relative)
    assert list(tmp_path.iterdir()) == []


def test_links_do_not_lead_outside(tmp_path: Path) -> None:
    """A folder that is a link to outside is refused; one that leads elsewhere inside is followed."""
    out, outside = tmp_path / "out", tmp_path / "outside"
    (out / "real").mkdir(parents=True)
    outside.mkdir()
    (out / "away").symlink_to(outside)
    (out / "near").symlink_to(out / "real")
    (out / "lost").symlink_to(tmp_path / "nowhere")
    (out / "loop").symlink_to(out / "loop")
    with pytest.raises(
        OutputError, match=r"would leave the output folder\n.*through a symbolic link"
    ):
        write(out, "away/a.png")
    with pytest.raises(OutputError, match="would leave the output folder"):
        write(out, "away/deep/a.png")
    for name in ("lost", "loop"):
        with pytest.raises(OutputError):
            write(out, f"{name}/a.png")
    assert list(outside.iterdir()) == []
    assert not (tmp_path / "nowhere").exists()
    assert write(out, "near/a.png").path == out / "near/a.png"
    assert (out / "real/a.png").is_file()


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    """A link at the place itself is somebody's; asked to, the link is replaced and not what it
    leads to.
    """
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (out / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(OutputError, match="symbolic link"):
        write(out, "a.png")
    assert write(out, "a.png", exists="number").path.name == "a-2.png"
    write(out, "a.png", exists="replace")
    assert not (out / "a.png").is_symlink()
    assert (tmp_path / "secret.png").read_bytes() == b"secret"


def test_the_output_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    """It is the user who chose it."""
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    assert write(tmp_path / "out", "a.png").path == tmp_path / "out/a.png"
    assert (tmp_path / "real/a.png").is_file()


def test_files_and_folders_are_not_put_in_one_anothers_place(tmp_path: Path) -> None:
    """A folder where a file is due, or the reverse, is an error that says so."""
    (tmp_path / "a.png").mkdir()
    (tmp_path / "b").write_text("file")
    with pytest.raises(OutputError, match="it is a folder"):
        write(tmp_path, "a.png")
    with pytest.raises(OutputError, match="a folder has the name"):
        write(tmp_path, "a.png", exists="replace")
    with pytest.raises(OutputError, match="a file has the name of the folder"):
        write(tmp_path, "b/c.png")


def test_a_name_that_the_system_refuses_is_an_error_in_words(tmp_path: Path) -> None:
    """A path that is too long for the file system says how to mend it."""
    with pytest.raises(
        OutputError,
        match=r"cannot be written to[^\n]*\n  = why: file name too long[^\n]*\n  = fix: shorten the path",
    ):
        write(tmp_path, "/".join(["x" * 230] * 20) + ".png")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions as on POSIX")
def test_a_read_only_folder_is_an_error_in_words(tmp_path: Path) -> None:
    """A folder that may not be written to gives a clear error, and what is in it stays."""
    script = """
chosen, out = out, Path(sys.argv[1]).with_name("elsewhere")
write("a.png", small)  # so that all is imported that another user may not be able to read
out = chosen
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
write("a.png", small)
write("new/b.png", small)
"""
    with tempfile.TemporaryDirectory(dir="/tmp") as above:
        os.chmod(above, 0o755)
        out = Path(above, "out")
        out.mkdir(mode=0o555)
        (out / "new").mkdir(mode=0o555)
        said = in_a_process(script, out)
        os.chmod(out, 0o755)
        assert sorted(p.name for p in out.rglob("*")) == ["new"]
    assert said == "".join(
        f"output 'picture' cannot be written to {out}/{name}\n  = why: permission denied\n  = fix: choose another folder with --out, or change its permissions\n"
        for name in ("a.png", "new/b.png")
    )


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on file sizes as on Linux")
def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    """When a file cannot be written whole there is an error, the old file stays, and nothing else
    is left.
    """
    script = """
write("a.png", small)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write("a.png", big)
write("b.png", big)
"""
    lines = in_a_process(script, tmp_path).splitlines()
    assert lines[:3] == [
        f"output 'picture' cannot be written to {tmp_path}/a.png",
        "  = why: file too large",
        "  = fix: raise the limit on the size of files, or make a smaller one",
    ]
    assert len(lines) == 6
    assert sorted(tree(tmp_path)) == ["a.png"]
    assert holds(tmp_path / "a.png", RED)


@pytest.mark.skipif(
    not Path("/dev/full").exists() or os.geteuid() != 0, reason="needs to mount a small disk"
)
def test_a_really_full_disk_says_so(tmp_path: Path) -> None:
    """On a disk without room the error names the lack of room."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    ).returncode:
        pytest.skip("this machine mounts no disks")
    try:
        big = Image(np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype="uint8"))
        with pytest.raises(
            OutputError, match=r"why: no space left on device\n  = fix: free disk space"
        ):
            write(disk, "a.png", big)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_is_as_open_as_the_umask_says(tmp_path: Path) -> None:
    """An output is no secret of its maker."""
    before = os.umask(0o022)
    try:
        assert write(tmp_path, "a.jpg").path.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_several_threads_may_write(tmp_path: Path) -> None:
    """One writer serves many threads."""
    writer = OutputWriter(tmp_path)
    threads = [
        threading.Thread(
            target=writer.write,
            args=(f"{i % 3}/{i}.png", RED),
            kwargs={"output": str(i), "provenance": document(RED), "digest": digest_value(RED)},
        )
        for i in range(24)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tree(tmp_path)) == 24


# -- other values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "content"),
    [
        ("a.txt", "a big 大 🎨", "a big 大 🎨\n"),
        ("a.md", "one newline\n", "one newline\n"),
        ("a.json", 3, "3\n"),
        ("a.txt", 0.1, "0.1\n"),
        ("a.txt", True, "true\n"),
        (
            "a.json",
            {"b": [1, None], "a": "大"},
            '{\n  "a": "大",\n  "b": [\n    1,\n    null\n  ]\n}\n',
        ),
    ],
)
def test_plain_values_are_text_or_json(tmp_path: Path, name: str, value: Any, content: str) -> None:
    """Text is UTF-8 with a newline at its end, the rest JSON with sorted keys; provenance lies
    beside.
    """
    path = write(tmp_path, name, value).path
    assert path.read_text("utf-8") == content
    assert sorted(tree(tmp_path)) == [name, name + SIDECAR]
    label = try_read_embedded(path)
    assert label is not None and label.intact


def test_a_text_that_is_no_unicode_is_an_error(tmp_path: Path) -> None:
    """Half of a pair of surrogates cannot be written as UTF-8."""
    with pytest.raises(OutputError, match="half a character"):
        write(tmp_path, "a.txt", "\ud800")
    assert list(tmp_path.iterdir()) == []


def test_a_value_of_another_kind_than_the_ending_is_an_error(tmp_path: Path) -> None:
    """Where the type is known only when running, the ending is held against it then."""
    with pytest.raises(
        OutputError,
        match=r"cannot be written as a .png file\n  = why: a value of kind text can be written as",
    ):
        write(tmp_path, "a.png", "words")


def test_a_mask_a_tensor_and_a_sound_have_their_formats(tmp_path: Path) -> None:
    """A mask is a grey picture, a tensor safetensors, sound 16-bit WAV."""
    from safetensors.numpy import load_file

    mask = Mask(np.array([[0, 255]], "uint8"))
    with PIL.Image.open(write(tmp_path, "m.png", mask).path) as picture:
        assert picture.mode == "L"
    tensor = Tensor(np.arange(6, dtype="float32").reshape(2, 3))
    assert np.array_equal(
        load_file(write(tmp_path, "t.safetensors", tensor).path)["data"], tensor.data
    )
    sound = Audio(np.array([[0, 0.5, 2], [0, -0.5, -2]], "float32"), 8000)
    with wave.open(str(write(tmp_path, "s.wav", sound).path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 8000)
        assert np.frombuffer(file.readframes(9), "<i2").tolist() == [
            0,
            0,
            16384,
            -16384,
            32767,
            -32767,
        ]


def test_a_file_is_copied_byte_for_byte(tmp_path: Path) -> None:
    """A file that passes through stays as it is, a PNG too: provenance lies beside it, and wins
    over what it may carry inside.
    """
    source = write(tmp_path / "in", "a.png", BLUE).path
    value = File(source, digest_bytes(source.read_bytes()), source.stat().st_size, "a.png")
    written = write(tmp_path / "out", "b.png", value)
    assert written.path.read_bytes() == source.read_bytes()
    label = try_read_embedded(written.path)
    assert label is not None and label.intact and label.digest == digest_value(value)
    assert not write(tmp_path / "out", "b.png", value).changed


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut its name never leads to half of it."""
    told: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        fsync(handle)
        told.append(("flushed", os.fstat(handle).st_size))

    def noted_replace(source: Any, target: Any, **more: Any) -> None:
        replace(source, target, **more)
        told.append(("named", (tmp_path / "out" / os.path.basename(target)).stat().st_size))

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    size = write(tmp_path / "out", "a.png").path.stat().st_size
    assert told == [("flushed", size), ("named", size)]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes aside only for the new one, and comes back if that does not come."""
    made, out = tmp_path / "made", tmp_path / "out"
    made.mkdir()
    (made / "a.txt").write_text("old")
    write(out, "it", FileDigests().folder_value(made))
    before = tree(out)
    (made / "a.txt").write_text("new")
    rename, calls = os.rename, []

    def faulty(source: Any, target: Any) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", faulty)
    with pytest.raises(OutputError, match="input/output error"):
        write(out, "it", FileDigests().folder_value(made))
    assert (len(calls), tree(out)) == (3, before)


@pytest.mark.parametrize("said", ["", None])
def test_a_folder_and_a_model_are_written_whole(tmp_path: Path, said: str | None) -> None:
    """A folder takes the place of the one that a run wrote before; an equal one is not touched."""
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    (made / "a.txt").write_text("a")
    (made / "deep/b.txt").write_text("b")
    out = tmp_path / "out"
    folder = FileDigests().folder_value(made)
    assert write(out, "it", folder, provenance=said).changed
    assert {k: v for k, v in tree(out).items() if not k.endswith(SIDECAR)} == {
        "it/a.txt": b"a",
        "it/deep/b.txt": b"b",
    }
    assert not write(out, "it", folder, provenance=said).changed
    (made / "a.txt").write_text("new")
    model = Model(made, FileDigests().model_digest(made), "./made")
    if said is None:
        with pytest.raises(OutputError, match="another file"):
            write(out, "it", model, provenance=None)
        assert write(
            OutFolder(out, replace=True), "it", model, provenance=None, exists="replace"
        ).changed
    else:
        assert write(out, "it", model, provenance=said).changed
    assert tree(out)["it/a.txt"] == b"new"
    (out / "it/a.txt").write_text("mine now")
    with pytest.raises(OutputError):
        write(out, "it", folder, provenance=said)
    assert tree(out)["it/a.txt"] == b"mine now"
    assert not [p for p in out.iterdir() if p.name.startswith(".")]
