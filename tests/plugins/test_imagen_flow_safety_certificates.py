"""Certificates and keys: the usual ones sign, what cannot sign is refused in words that hold nothing
of the key, and no key leaves its file.
"""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import imagen_flow as flow
from imagen_flow_safety import certificates, manifests

pytest.importorskip("c2pa")

NOW = datetime.datetime.now()
YEAR = datetime.timedelta(days=365)


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


def identity(chain: bytes, key: bytes) -> certificates.Identity:
    return certificates.read_identity(chain, key, datetime.datetime.now(datetime.UTC))


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (lambda: ec.generate_private_key(ec.SECP256R1()), "TraditionalOpenSSL"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "PKCS8"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "PKCS8"),
        (lambda: rsa.generate_private_key(65537, 2048), "TraditionalOpenSSL"),
        (ed25519.Ed25519PrivateKey.generate, "PKCS8"),
    ],
    ids=["P-256", "P-384", "P-521", "RSA", "Ed25519"],
)
def test_the_usual_keys_sign(make: Callable[[], Any], form: str, authority: Authority) -> None:
    """What they sign is trusted by who trusts their authority, and valid for everyone else."""
    key = make()
    signed = manifests.sign(
        flow.encode_image(flow.Image(np.zeros((9, 9, 3), "uint8"))),
        identity(authority.issue(key), pem_of(key, form=form)),
        title="",
        by_model=True,
        details=None,
        ingredients=[],
        version="0",
    )
    anchors = certificates.read_anchors(authority.pem)
    assert [manifests.read(signed, a).status for a in (anchors, "")] == ["trusted", "valid"]


def faults(authority: Authority) -> dict[str, tuple[bytes, bytes, str]]:
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
    }


@pytest.mark.parametrize("name", sorted(faults(Authority())))
def test_what_cannot_sign_is_refused_in_words(name: str, authority: Authority) -> None:
    """The message says which file is at fault and what to do; it holds nothing of the key."""
    chain, key, why = faults(authority)[name]
    with pytest.raises(ValueError, match=why) as caught:
        identity(chain, key)
    body = b"".join(key.splitlines()[1:-1])
    pieces = {body[i : i + 12].decode() for i in range(0, len(body) - 12, 4)}
    assert not any(piece in repr(caught.value) for piece in pieces)
    assert caught.value.__cause__ is None


def test_an_identity_does_not_show_its_key(authority: Authority) -> None:
    """What prints it, as a traceback with local variables does, does not print the key."""
    key = ec.generate_private_key(ec.SECP256R1())
    assert "PRIVATE KEY" not in repr(identity(authority.issue(key), pem_of(key)))


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
