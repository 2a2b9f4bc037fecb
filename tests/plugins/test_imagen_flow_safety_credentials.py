"""Pictures are signed with Content Credentials, as the last thing that touches their bytes; a
second reader, written here, agrees with the library; and no key leaves its file.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import io
import json
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import imagen_flow as flow
from imagen_flow._types.digest import digest_bytes
from imagen_flow_safety import certificates, credentials, manifests

pytest.importorskip("c2pa")

NOW = datetime.datetime.now()
YEAR = datetime.timedelta(days=365)
PIXELS = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
TEST_NOTE = (
    "signed with a test certificate, which anyone can sign with: it does not show who made the"
    " picture; give 'certificate' and 'key' for that"
)


def pem_of(key: Any, password: bytes = b"", form: str = "PKCS8") -> bytes:
    protection: Any = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    return bytes(
        key.private_bytes(
            serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), protection
        )
    )


class Authority:
    """An authority that issues certificates, made on the spot."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = self._name("An authority")
        self.certificate = self._signed(self.name, self.key, NOW - YEAR, NOW + YEAR, True)

    def _name(self, text: str) -> x509.Name:
        return x509.Name(
            [
                x509.NameAttribute(oid, text)
                for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)
            ]
        )

    def _signed(self, name: Any, key: Any, start: Any, end: Any, authority: bool) -> Any:
        usages = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        more = dict.fromkeys((*usages, "encipher_only", "decipher_only"), False)
        signs = {"key_cert_sign": authority, "crl_sign": authority}
        return (
            x509.CertificateBuilder(self.name, name, key.public_key(), 7, start, end)
            .add_extension(x509.BasicConstraints(authority, None), True)
            .add_extension(x509.KeyUsage(digital_signature=not authority, **signs, **more), True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False
            )
            .sign(self.key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, key: Any, start: Any = NOW - YEAR, end: Any = NOW + YEAR) -> bytes:
        """Give a chain for a key, in PEM."""
        issued = self._signed(self._name("A studio"), key, start, end, False)
        return bytes(issued.public_bytes(serialization.Encoding.PEM)) + self.pem


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


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


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of each JUMBF box (ISO/IEC 19566-5) at one level."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        yield kind, data[at + 8 : at + size]
        at += size


def parts(superbox: bytes) -> dict[str, bytes]:
    """Give the superboxes inside a superbox by label; the content of those with one box."""
    found = {}
    for kind, content in boxes(superbox):
        if kind == b"jumb":
            inner = list(boxes(content))
            label = inner[0][1][17:].split(b"\0")[0].decode()
            found[label] = inner[1][1] if inner[1][0] == b"cbor" else content
    return found


def cbor(data: bytes) -> Any:
    """Decode CBOR (RFC 8949), as far as manifests have it."""

    def one(at: int) -> tuple[Any, int]:
        kind, small = data[at] >> 5, data[at] & 31
        at += 1
        if kind == 7 and small == 27:
            return struct.unpack(">d", data[at : at + 8])[0], at + 8
        if kind == 7:
            return {20: False, 21: True, 22: None}[small], at
        width = {24: 1, 25: 2, 26: 4, 27: 8}.get(small, 0)
        number = int.from_bytes(data[at : at + width], "big") if width else small
        at += width
        if kind in (0, 1):
            return (number if kind == 0 else -1 - number), at
        if kind in (2, 3):
            piece = data[at : at + number]
            return (piece if kind == 2 else piece.decode()), at + number
        if kind == 6:
            return one(at)
        items = []
        for _ in range(number * (1 if kind == 4 else 2)):
            item, at = one(at)
            items.append(item)
        return (items if kind == 4 else dict(zip(items[::2], items[1::2], strict=True))), at

    return one(0)[0]


def bstr(data: bytes) -> bytes:
    """Encode a byte string as CBOR."""
    return (
        b"\x59" + struct.pack(">H", len(data)) + data
        if len(data) > 23
        else bytes([0x40 + len(data)]) + data
    )


def read_by_hand(png: bytes, key: Any) -> dict[str, Any]:
    """Verify the credentials of a PNG without the library: its bytes against the hash in the
    manifest, the assertions against the claim, the claim against the signature. Gives the claim's
    assertions.
    """
    at, store = 8, b""
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        store += png[at + 8 : at + 8 + size] if kind == b"caBX" else b""
        at += 12 + size
    [(_, content)] = list(boxes(store))
    manifest = list(parts(content).values())[-1]
    inside = parts(manifest)
    claim, signature = inside["c2pa.claim.v2"], cbor(inside["c2pa.signature"])
    [assertion_store] = [
        c for k, c in boxes(manifest) if k == b"jumb" and b"c2pa.assertions\0" in c[:60]
    ]
    raw = {
        next(boxes(box))[1][17:].split(b"\0")[0].decode(): box
        for kind, box in boxes(assertion_store)
        if kind == b"jumb"
    }
    stated = {
        one["url"].rsplit("/", 1)[1]: one["hash"]
        for kind in ("created_assertions", "gathered_assertions")
        for one in cbor(claim).get(kind, ())
    }
    assert stated == {label: hashlib.sha256(box).digest() for label, box in raw.items()}
    bound = cbor(parts(assertion_store)["c2pa.hash.data"])
    kept, start = b"", 0
    for gap in bound["exclusions"]:
        kept += png[start : gap["start"]]
        start = gap["start"] + gap["length"]
    assert hashlib.sha256(kept + png[start:]).digest() == bound["hash"]
    protected, _, _, signed = signature
    message = b"\x84\x6aSignature1" + bstr(protected) + bstr(b"") + bstr(claim)
    key.verify(signed, message)
    return {label: cbor(one) for label, one in parts(assertion_store).items()}


def test_a_second_reader_agrees_and_one_byte_breaks_it(
    sign: Callable[..., Any], authority: Authority, file: Callable[..., flow.File]
) -> None:
    """Hashes and signature of a signed PNG verify by hand, the library finds it trusted; with any
    one byte of the picture changed, both refuse it.
    """
    key = ed25519.Ed25519PrivateKey.generate()
    notes, signed = sign(
        certificate=file(authority.issue(key), "chain.pem"),
        key=file(pem_of(key), "key.pem"),
        title="A picture",
        details={
            "seed": 2**63,
            "prompt": "ä fox",
            "steps": 30,
            "more": [2**53 - 1, 1.5, True, None],
        },
    )
    assert notes == []
    found = credentials.read(file(signed), anchors=file(authority.pem, "ca.pem"))
    assert (found.status, found.valid, found.signer, found.problems) == (
        "trusted",
        True,
        "A studio",
        [],
    )
    by_hand = read_by_hand(signed, key.public_key())
    assert by_hand["org.imagen_flow.details"] == {
        "seed": str(2**63),
        "prompt": "ä fox",
        "steps": 30,
        "more": [2**53 - 1, 1.5, True, None],
    }
    [created] = by_hand["c2pa.actions.v2"]["actions"]
    assert (created["action"], created["digitalSourceType"].rpartition("/")[2]) == (
        "c2pa.created",
        "trainedAlgorithmicMedia",
    )
    begin = signed.index(b"caBX") - 4
    size = 12 + int.from_bytes(signed[begin : begin + 4], "big")
    picture = [*range(8, begin), *range(begin + size, len(signed))]
    for at in np.random.default_rng(1).choice(picture, 12):
        changed = bytearray(signed)
        changed[at] ^= 1
        try:
            status = credentials.read(file(bytes(changed))).status
        except ValueError:
            status = "unreadable"
        assert status in ("invalid", "unreadable")
        with pytest.raises((AssertionError, struct.error, ValueError)):
            read_by_hand(bytes(changed), key.public_key())


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


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (lambda: ec.generate_private_key(ec.SECP256R1()), "TraditionalOpenSSL"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "PKCS8"),
        (lambda: rsa.generate_private_key(65537, 2048), "TraditionalOpenSSL"),
    ],
)
def test_the_usual_keys_sign(
    make: Callable[[], Any],
    form: str,
    sign: Callable[..., Any],
    authority: Authority,
    file: Callable[..., flow.File],
) -> None:
    """Elliptic curves and RSA, in either form of PEM."""
    key = make()
    _, signed = sign(
        certificate=file(authority.issue(key), "c.pem"), key=file(pem_of(key, form=form), "k.pem")
    )
    assert credentials.read(file(signed), anchors=file(authority.pem, "ca.pem")).status == "trusted"


def faults(authority: Authority) -> dict[str, tuple[bytes | None, bytes | None, str]]:
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain, pem = authority.issue(key), pem_of(key)
    weak = rsa.generate_private_key(65537, 1024)
    return {
        "another key": (chain, pem_of(other), "port 'key' does not belong to the certificate"),
        "turned around": (
            authority.pem + chain,
            pem,
            "does not belong to the certificate; the signer's",
        ),
        "expired": (
            authority.issue(key, NOW - 3 * YEAR, NOW - YEAR),
            pem,
            f"to {NOW - YEAR:%Y-%m-%d}, so not now",
        ),
        "too early": (
            authority.issue(key, NOW + YEAR, NOW + 2 * YEAR),
            pem,
            f"valid from {NOW + YEAR:%Y-%m-%d}",
        ),
        "protected": (
            chain,
            pem_of(key, b"secret"),
            "protected by a passphrase; decrypt it .* openssl pkey -in",
        ),
        "no key": (chain, b"hello", "port 'key' is no private key in PEM"),
        "a certificate as key": (chain, chain, "port 'key' is no private key in PEM"),
        "no certificate": (b"hello", pem, "port 'certificate' is no certificate in PEM"),
        "a key as certificate": (pem, pem, "port 'certificate' is no certificate in PEM"),
        "self-signed": (authority.pem, pem_of(authority.key), "is self-signed, which Content"),
        "weak": (
            authority.issue(weak),
            pem_of(weak),
            "port 'key' is of a kind that .* RSA of 2,048",
        ),
        "alone": (chain, None, "port 'key' is missing"),
        "key alone": (None, pem, "port 'certificate' is missing"),
    }


NAMES = sorted(faults(Authority()))


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_sign_is_refused_in_words(
    name: str, sign: Callable[..., Any], authority: Authority, file: Callable[..., flow.File]
) -> None:
    """The message says which file is at fault and what to do; it holds nothing of the key."""
    chain, key, why = faults(authority)[name]
    given = {"certificate": chain and file(chain, "c.pem"), "key": key and file(key, "k.pem")}
    with pytest.raises(ValueError, match=why) as caught:
        sign(**given)
    body = b"".join((key or b"").splitlines()[1:-1])
    pieces = {body[i : i + 12].decode() for i in range(0, len(body) - 12, 4)}
    assert not any(piece in repr(caught.value) for piece in pieces)
    assert caught.value.__cause__ is None


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


def test_a_graph_signs_and_keeps_the_key_to_itself(tmp_path: Path, authority: Authority) -> None:
    """The signed file is written as it is, with provenance beside it, and comes from the store the
    second time; the key is in no file of the store or the output folder, nor in an event.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "chain.pem").write_bytes(authority.issue(key))
    (tmp_path / "key.pem").write_bytes(pem_of(key))
    graph = {
        "imagen_flow": 1,
        "inputs": {
            "certificate": {"type": "file"},
            "key": {"type": "file"},
            "seed": {"type": "seed", "default": 2**63 - 1},
        },
        "nodes": {
            "noise": {"type": "image.noise", "width": 20, "height": 20, "seed": "${seed}"},
            "signed": {
                "type": "credentials.sign",
                "image": "${noise}",
                "certificate": "${certificate}",
                "key": "${key}",
                "details": {"seed": "${seed}"},
            },
            "back": {"type": "credentials.read", "file": "${signed}"},
        },
        "outputs": {
            "picture": {"from": "${signed}", "path": "signed.png"},
            "status": "${back.status}",
            "report": "${back.report}",
        },
    }
    said: list[Any] = []
    written = []
    for _ in range(2):
        outputs = flow.run(
            graph,
            certificate=tmp_path / "chain.pem",
            key=tmp_path / "key.pem",
            out=tmp_path / "out",
            store=tmp_path / "store",
            on_event=said.append,
        )
        written.append((tmp_path / "out" / "signed.png").read_bytes())
        assert outputs["status"] == "valid"
    assert written[0] == written[1]
    active = outputs["report"]["manifests"][outputs["report"]["active_manifest"]]
    assert {"seed": str(2**63 - 1)} in [one["data"] for one in active["assertions"]]
    provenance = json.loads((tmp_path / "out" / "signed.png.provenance.json").read_text())
    assert provenance["output"]["kind"] == "file" and b"iTXt" not in written[0]
    secrets = [
        pem_of(key).splitlines()[1],
        base64.b64decode(b"".join(pem_of(key).splitlines()[1:-1]))[36:68],
    ]
    kept = [p for f in ("out", "store") for p in (tmp_path / f).rglob("*") if p.is_file()]
    assert len(kept) > 3
    assert not any(secret in path.read_bytes() for path in kept for secret in secrets)
    assert not any(secrets[0].decode() in repr(event) for event in said)


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
    import imagen_flow._models.libraries as libraries

    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
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
