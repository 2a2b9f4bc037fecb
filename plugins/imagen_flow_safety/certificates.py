"""Read what signs: a chain of certificates and the private key of the first.

Everything that would fail is found here and said in words; of a key, nothing is ever part of a
message.
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass, field
from typing import Any

TEST_NAME = "imagen_flow test certificate (anyone can sign with it)"


@dataclass(frozen=True)
class Identity:
    """Who signs: PEM texts of the chain, the signer's first, and of the key, and the algorithm."""

    chain: str
    key: str = field(repr=False)
    algorithm: str


def read_identity(certificates: bytes, key: bytes, now: datetime.datetime) -> Identity:
    """Read an identity from PEM files.

    Raises:
        ValueError: one of them is not what it should be, they do not belong together, or the
            certificate is not valid now.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        chain = x509.load_pem_x509_certificates(certificates)
    except ValueError:
        raise ValueError(
            "port 'certificate' is no certificate in PEM, which begins with -----BEGIN"
            " CERTIFICATE-----"
        ) from None
    try:
        private: Any = serialization.load_pem_private_key(key, None)
    except TypeError:
        raise ValueError(
            "port 'key' is protected by a passphrase; decrypt it into a file that only you can"
            " read: openssl pkey -in key.pem -out plain.pem"
        ) from None
    except Exception:  # whatever the library says may hold a part of the key
        raise ValueError(
            "port 'key' is no private key in PEM, which begins with -----BEGIN PRIVATE KEY-----"
        ) from None
    signer = chain[0]
    if _public(signer.public_key()) != _public(private.public_key()):
        raise ValueError(
            "port 'key' does not belong to the certificate; the signer's certificate must be the"
            " first of the chain, and the key its own"
        )
    if signer.subject == signer.issuer:
        raise ValueError(
            "port 'certificate' is self-signed, which Content Credentials do not allow; use one that"
            " an authority issued, or leave out both 'certificate' and 'key' for a test"
        )
    if not signer.not_valid_before_utc <= now <= signer.not_valid_after_utc:
        raise ValueError(
            f"port 'certificate' is valid from {signer.not_valid_before_utc:%Y-%m-%d} to"
            f" {signer.not_valid_after_utc:%Y-%m-%d}, so not now; renew it"
        )
    return Identity(_pem(chain), _unprotected(private), _algorithm(private))


def read_anchors(certificates: bytes) -> str:
    """Read the certificates of authorities from a PEM file, which c2pa would pass over in silence
    if there are none.

    Raises:
        ValueError: it has none.
    """
    from cryptography import x509

    try:
        return _pem(x509.load_pem_x509_certificates(certificates))
    except ValueError:
        raise ValueError("port 'anchors' has no certificate in PEM") from None


def test_identity() -> Identity:
    """Return an identity that is the same everywhere and proves nothing: its key is made of a
    public text.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def key(of: bytes) -> Any:
        seed = hashlib.sha256(b"imagen_flow test certificate: " + of).digest()
        return Ed25519PrivateKey.from_private_bytes(seed)

    def name(text: str) -> Any:
        parts = ((NameOID.ORGANIZATION_NAME, "imagen_flow"), (NameOID.COMMON_NAME, text))
        return x509.Name([x509.NameAttribute(oid, part) for oid, part in parts])

    authority, signer = key(b"authority"), key(b"signer")
    usages = ["digital_signature", "content_commitment", "key_encipherment", "data_encipherment"]
    usages += ["key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]

    def certificate(number: int, text: str, of: Any, usage: str, *more: Any) -> Any:
        made = x509.CertificateBuilder(
            issuer_name=name("imagen_flow test authority"),
            subject_name=name(text),
            public_key=of.public_key(),
            serial_number=number,
            not_valid_before=datetime.datetime(2020, 1, 1),
            not_valid_after=datetime.datetime(2120, 1, 1),
        )
        is_authority = usage == "key_cert_sign"
        for extension, critical in (
            (x509.BasicConstraints(ca=is_authority, path_length=None), True),
            (x509.KeyUsage(**{one: one == usage for one in usages}), True),
            (x509.SubjectKeyIdentifier.from_public_key(of.public_key()), False),
            *((one, False) for one in more),
        ):
            made = made.add_extension(extension, critical)
        return made.sign(authority, None)

    chain = [
        certificate(
            2,
            TEST_NAME,
            signer,
            "digital_signature",
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
        ),
        certificate(1, "imagen_flow test authority", authority, "key_cert_sign"),
    ]
    return Identity(_pem(chain), _unprotected(signer), "ed25519")


def _pem(chain: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return "".join(one.public_bytes(Encoding.PEM).decode() for one in chain)


def _public(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found


def _unprotected(key: Any) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem.decode()


def _algorithm(key: Any) -> str:
    """Name the algorithm of a key as C2PA does.

    Raises:
        ValueError: C2PA has none for it.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    curve = key.curve.name if isinstance(key, ec.EllipticCurvePrivateKey) else ""
    named = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}.get(curve)
    if named is None:
        raise ValueError(
            "port 'key' is of a kind that Content Credentials do not know; use P-256, P-384, P-521,"
            " Ed25519, or RSA of 2,048 bits and more"
        )
    return named
