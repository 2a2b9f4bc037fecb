"""Pictures are signed with Content Credentials, as the last thing that touches their bytes; a
second reader, written here, agrees with the library; and no key leaves its file.
"""

from __future__ import annotations

import hashlib
import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import imagen_flow as flow
from imagen_flow._types.digest import digest_bytes
from imagen_flow_safety import certificates, credentials, manifests

pytest.importorskip("c2pa")

PIXELS = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
TEST_NOTE = (
    "signed with a test certificate, which anyone can sign with: it does not show who made the"
    " picture; give 'certificate' and 'key' for that"
)


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., flow.File]:
    """Write a file and give it as nodes get it."""

    def get(content: bytes, name: str = "a.png") -> flow.File:
        path = tmp_path / f"{digest_bytes(content)[:8]}-{name}"
        path.write_bytes(content)
        return flow.File(path, digest_bytes(content), len(content), name)

    return get


@pytest.fixture
def sign(tmp_path: Path) -> Callable[..., tuple[list[str], bytes]]:
    """Sign a picture: the notes and the file."""

    def run(pixels: np.ndarray = PIXELS, **params: Any) -> tuple[list[str], bytes]:
        steps, notes = credentials.sign(flow.Image(pixels), scratch=tmp_path, **params), []
        while True:
            try:
                notes.append(next(steps).note)
            except StopIteration as end:
                return notes, end.value.path.read_bytes()

    return run


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff"])
@pytest.mark.parametrize(
    ("side", "channels", "dtype"),
    [(40, 3, "uint8"), (1, 1, "uint8"), (9, 4, "uint16"), (9, 2, "float32")],
)
def test_every_format_is_signed_and_keeps_its_pixels(
    format: str,
    side: int,
    channels: int,
    dtype: str,
    sign: Callable[..., Any],
    file: Callable[..., flow.File],
) -> None:
    """The file decodes to what it was without a signature, and its credentials are valid."""
    top = {"uint8": 255, "uint16": 65535, "float32": 1}[dtype]
    drawn = np.random.default_rng(side).random((side, side, channels)) * top
    pixels = drawn.astype(dtype)
    notes, signed = sign(pixels, format=format)
    ending = {"jpeg": ".jpg", "tiff": ".tif"}.get(format, f".{format}")
    plain = flow.encode_image(flow.Image(pixels), ending)
    from imagen_flow_io.pictures import _decoded

    assert np.array_equal(_decoded(signed, "a", 10**6), _decoded(plain, "a", 10**6))
    assert notes == [TEST_NOTE]
    found = credentials.read(file(signed))
    assert (found.status, found.signer) == ("valid", certificates.TEST_NAME)
    assert found.problems == ["signingCredential.untrusted: signing certificate untrusted"]


@pytest.mark.parametrize("quality", [None, 40])
def test_quality_is_that_of_an_output(
    quality: int | None, sign: Callable[..., Any], tmp_path: Path
) -> None:
    """A signed JPEG has the pixels of an unsigned one of that quality."""
    _, signed = sign(format="jpeg", quality=quality)
    options = {} if quality is None else {"quality": quality}
    plain = flow.encode_image(flow.Image(PIXELS), ".jpg", **options)
    a, b = (np.asarray(PIL.Image.open(io.BytesIO(one))) for one in (signed, plain))
    assert np.array_equal(a, b)


def test_a_parents_credentials_become_history(
    sign: Callable[..., Any], file: Callable[..., flow.File]
) -> None:
    """The manifest of a signed JPEG is kept in a PNG that is made of it, and in what is made of
    that; other files are inputs.
    """
    _, first = sign(format="jpeg", title="first")
    _, second = sign(PIXELS[:20], parent=file(first, "first.jpg"), title="second")
    plain = file(flow.encode_image(flow.Image(PIXELS)), "plain.png")
    _, third = sign(
        PIXELS[:10], parent=file(second, "second.png"), ingredients=[plain], title="third"
    )
    found = credentials.read(file(third))
    stored = found.report["manifests"]
    assert found.valid and len(stored) == 3
    active = stored[found.report["active_manifest"]]
    assert [one["relationship"] for one in active["ingredients"]] == ["parentOf", "inputTo"]
    actions = next(a for a in active["assertions"] if a["label"].startswith("c2pa.actions"))
    assert [one["action"] for one in actions["data"]["actions"]] == ["c2pa.opened", "c2pa.edited"]
    assert {m["title"] for m in stored.values()} == {"first", "second", "third"}


def test_broken_credentials_of_a_parent_are_kept_as_broken(
    sign: Callable[..., Any], file: Callable[..., flow.File]
) -> None:
    """The new picture verifies; its history says that the parent did not, and so does a note."""
    _, first = sign(format="jpeg")
    changed = bytearray(first)
    changed[-20] ^= 1
    notes, second = sign(parent=file(bytes(changed), "first.jpg"))
    assert [note.partition(" (")[0] for note in notes] == [
        TEST_NOTE,
        "the credentials of the parent are broken",
    ]
    assert "assertion.dataHash.mismatch" in notes[1]
    found = credentials.read(file(second))
    assert found.valid
    [ingredient] = found.report["manifests"][found.report["active_manifest"]]["ingredients"]
    failures = ingredient["validation_results"]["activeManifest"]["failure"]
    assert "assertion.dataHash.mismatch" in [one["code"] for one in failures]


def test_a_damaged_manifest_is_invalid_and_no_failure(
    sign: Callable[..., Any], file: Callable[..., flow.File]
) -> None:
    """A file whose manifest cannot be parsed has a status; a file without one has none."""
    _, signed = sign()
    changed = bytearray(signed)
    changed[signed.index(b"jumdc2pa") + 300] ^= 255
    found = credentials.read(file(bytes(changed)))
    assert (found.status, found.valid, found.signer) == ("invalid", False, "")
    assert "the credentials cannot be read" in found.problems[0] or found.report is not None
    assert credentials.read(file(flow.encode_image(flow.Image(PIXELS)))) == (
        "none",
        False,
        "",
        [],
        None,
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"hello", "it is not a PNG, JPEG, WebP"),
        (b"", "it is not a PNG, JPEG, WebP"),
        (b"\x89PNG\r\n\x1a\nhello", "it is damaged"),
    ],
)
def test_what_is_no_picture_is_refused(
    content: bytes, why: str, sign: Callable[..., Any], file: Callable[..., flow.File]
) -> None:
    """Reading and taking as a parent say the same."""
    with pytest.raises(ValueError, match=f"'a.png' cannot be read: {why}"):
        credentials.read(file(content))
    with pytest.raises(ValueError, match=f"port 'parent': 'a.png' cannot be an ingredient: {why}"):
        sign(parent=file(content))


@pytest.mark.parametrize(("given", "missing"), [("key", "certificate"), ("certificate", "key")])
def test_a_certificate_and_its_key_belong_together(
    given: str, missing: str, sign: Callable[..., Any], file: Callable[..., flow.File]
) -> None:
    """One without the other is refused, rather than signed with the test certificate."""
    with pytest.raises(ValueError, match=f"port '{missing}' is missing"):
        sign(**{given: file(b"x")})


def test_a_sweep_signs_each_item(tmp_path: Path) -> None:
    """Each item has credentials of its own, with its own seed in them."""
    graph = {
        "imagen_flow": 1,
        "inputs": {"seed": {"type": "seed", "default": 1}},
        "nodes": {
            "noise": {"type": "image.noise", "width": 9, "height": 9, "seed": "${seed}"},
            "signed": {
                "type": "credentials.sign",
                "image": "${noise}",
                "format": "webp",
                "details": {"seed": "${seed}"},
            },
        },
        "outputs": {"picture": {"from": "${signed}", "path": "{seed}.webp"}},
    }
    for _ in flow.sweep(graph, axes={"seed": [3, 4]}, out=tmp_path, store=None):
        pass
    seeds = []
    for name in ("3.webp", "4.webp"):
        report = manifests.read((tmp_path / name).read_bytes())
        assert report.status == "valid"
        seeds += [
            a["data"]["seed"]
            for a in report.active["assertions"]
            if a["label"] == manifests.DETAILS
        ]
    assert seeds == [3, 4]


def test_a_path_that_ends_otherwise_is_refused(tmp_path: Path) -> None:
    """A signed PNG is not written under the name of a JPEG."""
    graph = {
        "imagen_flow": 1,
        "nodes": {
            "noise": {"type": "image.noise", "width": 9, "height": 9, "seed": 1},
            "signed": {"type": "credentials.sign", "image": "${noise}"},
        },
        "outputs": {"picture": {"from": "${signed}", "path": "signed.jpg"}},
    }
    with pytest.raises(flow.OutputError, match=r"it is a .png file and is written as it is"):
        flow.run(graph, out=tmp_path, store=None)


@pytest.mark.parametrize("format", ["png", "jpeg", "webp", "tiff"])
def test_a_signed_picture_that_comes_in_is_noted(
    format: str, sign: Callable[..., Any], tmp_path: Path
) -> None:
    """Loading a signed picture says that its credentials stay behind; what is saved of it has none,
    and so no broken ones. Passed on as a file, it keeps them.
    """
    _, signed = sign(format=format)
    ending = {"jpeg": ".jpg", "tiff": ".tif"}.get(format, f".{format}")
    (tmp_path / f"photo{ending}").write_bytes(signed)
    graph = {
        "imagen_flow": 1,
        "inputs": {"photo": {"type": "file", "default": f"./photo{ending}"}},
        "nodes": {"loaded": {"type": "image.load", "file": "${photo}"}},
        "outputs": {
            "again": {"from": "${loaded}", "path": f"again{ending}"},
            "same": {"from": "${photo}", "path": f"same{ending}"},
        },
    }
    (tmp_path / "g.yaml").write_text(json.dumps(graph))
    outputs = flow.run(tmp_path / "g.yaml", out=tmp_path / "out", store=None)
    assert [note.message for note in outputs.notes] == [
        "the file carries Content Credentials, which what is made of it does not: to keep them as its history, give the file to credentials.sign as 'parent'"
    ]
    statuses = [
        manifests.read((tmp_path / "out" / f"{n}{ending}").read_bytes()).status
        for n in ("again", "same")
    ]
    assert statuses == ["none", "valid"]


def test_details_are_read_as_they_were_signed(
    sign: Callable[..., Any], file: Callable[..., flow.File]
) -> None:
    """Lists of numbers are signed as text, whoever reads them; those of other signers are read
    right.
    """
    details = {"size": [300, 1], "deep": [{"scores": [1, 2.5]}], "mixed": [1, "a"], "none": []}
    _, signed = sign(details=details)
    expected = {
        "size": ["300", "1"],
        "deep": [{"scores": ["1", "2.5"]}],
        "mixed": [1, "a"],
        "none": [],
    }
    found = manifests.read(signed)
    assert [a["data"] for a in found.active["assertions"] if a["label"] == manifests.DETAILS] == [
        expected
    ]
    as_others = manifests._c2pa().Builder(
        {
            "claim_generator_info": [{"name": "other", "version": "1"}],
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": manifests._actions([], [], True)}},
                {"label": "org.other", "data": details},
            ],
        }
    )
    import c2pa

    identity, out = certificates.test_identity(), io.BytesIO()
    info = c2pa.C2paSignerInfo(
        identity.algorithm, identity.chain.encode(), identity.key.encode(), None
    )
    picture = io.BytesIO(flow.encode_image(flow.Image(PIXELS)))
    as_others.sign(c2pa.Signer.from_info(info), "image/png", picture, out)
    found = manifests.read(out.getvalue())
    assert [a["data"] for a in found.active["assertions"] if a["label"] == "org.other"] == [details]


def test_credentials_that_lie_elsewhere_are_not_fetched(
    sign: Callable[..., Any], file: Callable[..., flow.File]
) -> None:
    """A file that names an address of its manifest has none, as a problem says; nobody is asked, in
    reading and in taking it as a parent.
    """
    import c2pa

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/manifest.c2pa"
        actions = {
            "label": "c2pa.actions.v2",
            "data": {"actions": manifests._actions([], [], True)},
        }
        builder = c2pa.Builder({"assertions": [actions]}, context=manifests._context(c2pa))
        builder.set_no_embed()
        builder.set_remote_url(address)
        identity, out = certificates.test_identity(), io.BytesIO()
        info = c2pa.C2paSignerInfo(
            identity.algorithm, identity.chain.encode(), identity.key.encode(), None
        )
        picture = io.BytesIO(flow.encode_image(flow.Image(PIXELS)))
        builder.sign(c2pa.Signer.from_info(info), "image/png", picture, out)
        found = credentials.read(file(out.getvalue()))
        assert (found.status, found.valid) == ("none", False)
        assert address in found.problems[0]
        sign(parent=file(out.getvalue()))
        with pytest.raises(BlockingIOError):
            server.accept()


def test_more_than_can_be_signed_is_refused(
    sign: Callable[..., Any], file: Callable[..., flow.File]
) -> None:
    """Details of megabytes, and anchors without a certificate, are refused in words."""
    with pytest.raises(
        ValueError, match=r"'details' have 3,000,0\d\d characters .* 500,000 can be"
    ):
        sign(details={"a": "x" * 3_000_000})
    empty = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for content in (b"", b"hello", empty):
        with pytest.raises(ValueError, match="port 'anchors' has no certificate in PEM"):
            credentials.read(file(sign()[1]), anchors=file(content, "ca.pem"))


def test_without_the_library_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    """Planning says what to install."""
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *more: None if name == "c2pa" else found(name, *more),
    )
    said = refused(
        noise={"type": "image.noise", "width": 9, "height": 9, "seed": 1},
        signed={"type": "credentials.sign", "image": "${noise}"},
        back={"type": "credentials.read", "file": "${signed}"},
    )
    assert said == (
        "signing and reading credentials needs the library c2pa, which is not installed: pip install"
        " 'imagen-flow[credentials]'"
    )


def test_the_test_certificate_is_the_same_everywhere() -> None:
    """Its chain never changes, so that readers can be told to expect it."""
    digest = hashlib.sha256(certificates.test_identity().chain.encode()).hexdigest()
    assert digest == "56f42c2f170cc6f853725e28664ccd4f3f9cad2d29e9d4825b1cf918473c0bb5"
