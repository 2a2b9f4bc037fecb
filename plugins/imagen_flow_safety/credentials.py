"""The node types that sign pictures with Content Credentials (C2PA), and read them."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import imagen_flow
from imagen_flow import (
    Bool,
    File,
    Image,
    Json,
    List,
    Progress,
    Range,
    Scratch,
    Steps,
    Text,
    encode_image,
    node,
)

from . import certificates, manifests


@node("credentials.sign", version=1, uses=("c2pa-python", "cryptography", "imagen-flow", "pillow"))
def sign(
    image: Image,
    *,
    certificate: File | None = None,
    key: File | None = None,
    parent: File | None = None,
    ingredients: List[File] = [],  # noqa: B006  # it is copied for each call
    title: Text = "",
    details: Json = None,
    by_model: Bool = True,
    format: Literal["png", "jpeg", "webp", "tiff"] = "png",
    quality: Annotated[int, Range(1, 100)] | None = None,
    scratch: Scratch,
) -> Steps[File]:
    """Encode a picture as a file and sign it with Content Credentials, as the last step of a graph.

    An output writes the signed file as it is, with the provenance of the run beside it: nothing may
    change a byte of it. Its path has to end like the format. Each signature is another one, so the
    step has other bytes whenever it is computed; from the store it has the same.

    Inputs:
        image: the picture.
        certificate: the chain of certificates in PEM, the signer's first.
        key: the private key of the first, in PEM, without a passphrase: P-256, P-384, P-521, Ed25519
            or RSA. The step's key has its digest; its content goes nowhere. Without `certificate`
            and `key`, a test certificate signs, which is the same everywhere: it shows that nothing
            was changed, not by whom it was made.
        parent: the file that the picture was made from. Its credentials become history; if they are
            broken, they are kept as broken, with a note.
        ingredients: other files that the picture was made with, such as examples of a style.

    Params:
        title: what the picture is called.
        details: what else is to be signed: ``{prompt: "${prompt}", seed: "${seed}"}``. Whole numbers
            from 2⁵³ on become text, and so do the numbers of a list, which readers show wrong.
        by_model: whether a model has drawn or changed the picture (IPTC: ``trainedAlgorithmicMedia``,
            with a parent ``compositeWithTrainedAlgorithmicMedia``).
        format: of the file; 16 bits stay in PNG and TIFF.
        quality: of JPEG (95 by default), and of WebP, which is lossless without it.

    Raises:
        ValueError: the certificate or the key cannot be used, or `parent` is no picture that can be
            an ingredient.

    Source:
        c2pa-python, ``Builder.sign``.
    """
    named = [("parent", parent), *(("ingredients", one) for one in ingredients)]
    identity, note = _identity(certificate, key)
    notes, given = [note] if note else [], []
    for port, file in named:
        if file is None:
            continue
        content = file.read_bytes()
        try:
            report = manifests.read(content)
        except ValueError as unreadable:
            raise ValueError(
                f"port '{port}': '{file.name}' cannot be an ingredient: {unreadable}"
            ) from unreadable
        if report.status == "invalid":
            notes.append(
                f"the credentials of {'the parent' if port == 'parent' else 'an ingredient'} are"
                f" broken ({report.problems[0]}), and so they stand in the history"
            )
        given.append(manifests.Ingredient(content, port == "parent"))
    for one in notes:
        yield Progress(0, 1, one)
    ending = {"jpeg": ".jpg", "tiff": ".tif"}.get(format, f".{format}")
    options = {} if quality is None or format in ("png", "tiff") else {"quality": quality}
    signed = manifests.sign(
        encode_image(image, ending, **options),
        identity,
        title=title,
        by_model=by_model,
        details=details,
        ingredients=given,
        version=imagen_flow.__version__,
    )
    path = scratch / f"signed{ending}"
    path.write_bytes(signed)
    return File(path, "", 0)


@sign.plan_check
def _check_sign(models: Mapping[str, Any], upstream: Mapping[str, Any]) -> None:
    manifests.require()


class Credentials(NamedTuple):
    status: Text
    valid: Bool
    signer: Text
    problems: List[Text]
    report: Json


@node("credentials.read", version=1, uses=("c2pa-python",))
def read(file: File, *, anchors: File | None = None) -> Credentials:
    """Read the Content Credentials (C2PA) of a file, and verify them. Nothing is fetched.

    Inputs:
        file: PNG, JPEG, WebP, TIFF, GIF, AVIF or HEIC.
        anchors: certificates of authorities that are trusted, in PEM.

    Outputs:
        status: ``none`` if there are none in it; ``invalid`` if the file was changed since, or they
            are broken; ``valid``; ``trusted`` if besides one of `anchors` vouches for the signer.
        valid: whether they are valid or trusted.
        signer: the name in the signer's certificate; empty if there is none.
        problems: what is wrong, as code and explanation. A valid signature of a signer that is not
            known has ``signingCredential.untrusted``.
        report: everything that c2pa reads: the manifest of the file, and those of its ingredients;
            null if there is none.

    Raises:
        ValueError: the file is no such picture, is damaged, or `anchors` is no certificate.

    Source:
        c2pa-python, ``Reader``.
    """
    trusted = "" if anchors is None else certificates.read_anchors(anchors.read_bytes())
    try:
        report = manifests.read(file.read_bytes(), trusted)
    except ValueError as unreadable:
        raise ValueError(f"'{file.name}' cannot be read: {unreadable}") from unreadable
    signature = report.active.get("signature_info", {})
    signer = signature.get("common_name") or signature.get("issuer") or ""
    return Credentials(
        report.status,
        report.status in ("valid", "trusted"),
        str(signer),
        report.problems,
        report.content,
    )


def _identity(certificate: File | None, key: File | None) -> tuple[certificates.Identity, str]:
    """Return who signs, and a note if that proves nothing."""
    if certificate is not None and key is not None:
        now = datetime.datetime.now(datetime.UTC)
        return certificates.read_identity(certificate.read_bytes(), key.read_bytes(), now), ""
    if certificate is None and key is None:
        return certificates.test_identity(), (
            "signed with a test certificate, which anyone can sign with: it does not show who made"
            " the picture; give 'certificate' and 'key' for that"
        )
    missing = "key" if key is None else "certificate"
    raise ValueError(f"port '{missing}' is missing: a certificate signs only together with its key")
