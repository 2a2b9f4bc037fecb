"""Sign files with Content Credentials and read them back, by c2pa-python.

Nothing is fetched: neither manifests that lie elsewhere, nor whether a certificate was revoked.

Source: C2PA Technical Specification 2.2 (actions: 18.15; ingredients: 18.16).
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from imagen_flow.loaders import require_library

from .certificates import Identity

SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
"""Where the IPTC defines how a picture came to be."""

DETAILS = "org.imagen_flow.details"
"""The label of what a graph says about a picture."""

EXACT = 2**53
"""Whole numbers from here on are written as text: readers in JavaScript round them, and c2pa refuses
those from 2⁶³ on.
"""

LONGEST = 500_000
"""How much a graph may say about a picture, as JSON; c2pa takes no manifest of a megabyte."""

UNKNOWN = "signingCredential.untrusted"
"""What c2pa says of a signer for whom no known authority vouches."""

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"WEBP", 8, "image/webp"),
    (b"II*\0", 0, "image/tiff"),
    (b"MM\0*", 0, "image/tiff"),
    (b"GIF8", 0, "image/gif"),
    (b"ftypavif", 4, "image/avif"),
    (b"ftypheic", 4, "image/heic"),
    (b"ftypmif1", 4, "image/heif"),
)


class Ingredient(NamedTuple):
    """A file that a picture was made from: its parent, or something else."""

    content: bytes
    is_parent: bool


class Report(NamedTuple):
    """What a file's credentials say: ``none``, ``invalid``, ``valid`` or ``trusted``; what is wrong
    with them, and everything that c2pa reads.
    """

    status: str
    problems: list[str]
    content: Mapping[str, Any] | None

    @property
    def active(self) -> Mapping[str, Any]:
        """The manifest of the file itself, not of what it was made from."""
        content = self.content or {}
        found: Mapping[str, Any] = content.get("manifests", {}).get(
            content.get("active_manifest"), {}
        )
        return found


def format_of(content: bytes) -> str | None:
    """Return the media type of a picture by its first bytes; None if it is none that can be
    signed.
    """
    return next((t for start, at, t in _SIGNATURES if content.startswith(start, at)), None)


def sign(
    content: bytes,
    identity: Identity,
    *,
    title: str,
    by_model: bool,
    details: Any,
    ingredients: Iterable[Ingredient],
    version: str,
) -> bytes:
    """Sign a picture's file. Nothing may change a byte of it afterwards.

    Raises:
        ValueError: c2pa cannot sign it, or does not verify what it signed.
    """
    c2pa = _c2pa()
    given = {f"i{number}": one for number, one in enumerate(ingredients)}
    parents = [label for label, one in given.items() if one.is_parent]
    others = [label for label, one in given.items() if not one.is_parent]
    assertions = [
        {"label": "c2pa.actions.v2", "data": {"actions": _actions(parents, others, by_model)}}
    ]
    if details is not None:
        data = details if isinstance(details, dict) else {"value": details}
        assertions.append({"label": DETAILS, "data": _exact(data)})
    if (size := len(json.dumps([title, details]))) > LONGEST:
        raise ValueError(
            f"ports 'title' and 'details' have {size:,} characters together, and {LONGEST:,} can be"
            " signed"
        )
    kind = format_of(content)
    definition = {
        "claim_generator_info": [{"name": "imagen_flow", "version": version}],
        "format": kind,
        "assertions": assertions,
        **({"title": title} if title else {}),
    }
    out = io.BytesIO()
    try:
        builder = c2pa.Builder(definition, context=_context(c2pa))
        for label, one in given.items():
            relation = "parentOf" if one.is_parent else "inputTo"
            builder.add_ingredient(
                {"label": label, "relationship": relation},
                format_of(one.content),
                io.BytesIO(one.content),
            )
        signer = c2pa.Signer.from_info(
            c2pa.C2paSignerInfo(
                identity.algorithm, identity.chain.encode(), identity.key.encode(), None
            )
        )
        builder.sign(signer, kind, io.BytesIO(content), out)
    except c2pa.C2paError as error:
        raise ValueError(f"the picture cannot be signed ({_reason(error)})") from None
    signed = out.getvalue()
    report = read(signed)
    if report.status == "invalid":
        raise ValueError(
            f"the picture was signed, but its credentials do not verify: {report.problems[0]}"
        )
    return signed


def read(content: bytes, anchors: str = "") -> Report:
    """Read and verify the credentials of a picture's file.

    Params:
        anchors: PEM texts of authorities that are trusted.

    Raises:
        ValueError: it is not a picture that may have credentials.
    """
    c2pa = _c2pa()
    kind = format_of(content)
    if kind is None:
        raise ValueError("it is not a PNG, JPEG, WebP, TIFF, GIF, AVIF or HEIC file")
    try:
        reader = c2pa.Reader(kind, io.BytesIO(content), context=_context(c2pa, anchors))
        found = _corrected(json.loads(reader.json()), json.loads(reader.crjson()))
    except c2pa.C2paError.ManifestNotFound:
        return Report("none", [], None)
    except c2pa.C2paError as error:
        if str(error).startswith("Remote"):
            return Report("none", [f"the credentials lie elsewhere ({_reason(error)})"], None)
        if b"c2pa" not in content:
            raise ValueError(f"it is damaged ({_reason(error)})") from None
        return Report("invalid", [f"the credentials cannot be read ({_reason(error)})"], None)
    problems = sorted(
        (
            f"{one['code']}: {one.get('explanation', '')}".removesuffix(": ")
            for one in found.get("validation_status", ())
        ),
        key=lambda problem: problem.startswith(UNKNOWN),  # it breaks nothing, so it comes last
    )
    return Report(str(found["validation_state"]).lower(), problems, found)


def _actions(parents: list[str], others: list[str], by_model: bool) -> list[dict[str, Any]]:
    inputs = {"parameters": {"ingredientIds": others}} if others else {}
    if not parents:
        source = "trainedAlgorithmicMedia" if by_model else "algorithmicMedia"
        return [{"action": "c2pa.created", "digitalSourceType": SOURCES + source, **inputs}]
    source = "compositeWithTrainedAlgorithmicMedia" if by_model else "algorithmicallyEnhanced"
    return [
        {"action": "c2pa.opened", "parameters": {"ingredientIds": parents}},
        {"action": "c2pa.edited", "digitalSourceType": SOURCES + source, **inputs},
    ]


def _exact(data: Any) -> Any:
    """Write as text what readers would show wrong: large whole numbers, and the numbers of a list,
    which the reader of c2pa takes for bytes.
    """
    if isinstance(data, dict):
        return {str(key): _exact(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        numbers = all(_is_number(value) for value in data)
        return [str(value) if numbers else _exact(value) for value in data]
    is_large = isinstance(data, int) and abs(data) >= EXACT
    return str(data) if is_large else data


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _corrected(found: dict[str, Any], exact: Mapping[str, Any]) -> dict[str, Any]:
    """Put right the assertions that are not C2PA's own: of lists of numbers, ``Reader.json`` shows
    the lowest eight bits of some in Base64; ``Reader.crjson`` has them as they are.
    """
    assertions = {one["label"]: one.get("assertions", {}) for one in exact.get("manifests", ())}
    for label, manifest in found.get("manifests", {}).items():
        for one in manifest.get("assertions", ()):
            if not one["label"].startswith("c2pa.") and one["label"] in assertions.get(label, {}):
                one["data"] = assertions[label][one["label"]]
    return found


def require() -> None:
    """Refuse in words if the library is missing."""
    require_library("c2pa", "signing and reading credentials", extra="credentials")


def _c2pa() -> Any:
    require()
    import c2pa

    return c2pa


def _context(c2pa: Any, anchors: str = "") -> Any:
    settings: dict[str, Any] = {
        "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
        "builder": {"thumbnail": {"enabled": False}},
    }
    if anchors:
        settings["trust"] = {"trust_anchors": anchors}
    return c2pa.Context(c2pa.Settings.from_dict(settings))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
