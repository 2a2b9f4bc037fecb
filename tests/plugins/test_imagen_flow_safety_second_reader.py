"""A second reader of Content Credentials, written from the standards alone, agrees with the library on
what `credentials.sign` writes, and neither accepts a changed picture.

Source: C2PA Technical Specification 2.2, sections 11 (JUMBF, ISO/IEC 19566-5), 13 (hashes), 14 and
    RFC 9052 (signatures), RFC 8949 (CBOR).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

import imagen_flow as flow
from imagen_flow_safety import certificates, credentials, manifests

pytest.importorskip("c2pa")

DETAILS = {"seed": 2**63, "prompt": "ä fox", "steps": 30, "more": [2**53 - 1, 1.5, True, None]}


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


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A signed PNG of noise."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    scratch: Path = tmp_path_factory.mktemp("scratch")
    steps = credentials.sign(flow.Image(pixels), details=DETAILS, scratch=scratch)
    next(steps)  # the note on the test certificate
    with pytest.raises(StopIteration) as end:
        next(steps)
    content: bytes = end.value.value.path.read_bytes()
    return content


@pytest.fixture(scope="module")
def key() -> Any:
    """The public key that it is signed with."""
    pem = certificates.test_identity().key.encode()
    private: Any = serialization.load_pem_private_key(pem, None)
    return private.public_key()


def test_hashes_and_signature_verify_by_hand(signed: bytes, key: Any) -> None:
    """The picture is bound to the manifest, the assertions to the claim, the claim to the key; and
    the assertions say what the node was told.
    """
    found = read_by_hand(signed, key)
    assert found["org.imagen_flow.details"] == {**DETAILS, "seed": str(2**63)}
    [created] = found["c2pa.actions.v2"]["actions"]
    assert (created["action"], created["digitalSourceType"].rpartition("/")[2]) == (
        "c2pa.created",
        "trainedAlgorithmicMedia",
    )


def test_one_byte_of_the_picture_breaks_it_for_both(signed: bytes, key: Any) -> None:
    """Wherever a byte outside of the manifest is changed, both readers refuse the file."""
    begin = signed.index(b"caBX") - 4
    size = 12 + int.from_bytes(signed[begin : begin + 4], "big")
    picture = [*range(8, begin), *range(begin + size, len(signed))]
    assert manifests.read(signed).status == "valid"
    for at in np.random.default_rng(1).choice(picture, 12):
        changed = bytearray(signed)
        changed[at] ^= 1
        try:
            status = manifests.read(bytes(changed)).status
        except ValueError:
            status = "unreadable"
        assert status in ("invalid", "unreadable")
        with pytest.raises((AssertionError, struct.error, ValueError)):
            read_by_hand(bytes(changed), key)


def test_one_byte_of_what_is_claimed_breaks_it_for_both(signed: bytes, key: Any) -> None:
    """A changed word in the manifest breaks a hash in both."""
    changed = signed.replace("ä fox".encode(), "ä cat".encode())
    assert manifests.read(changed).status == "invalid"
    with pytest.raises((AssertionError, InvalidSignature)):
        read_by_hand(changed, key)
