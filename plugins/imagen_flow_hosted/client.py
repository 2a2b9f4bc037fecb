"""Ask OpenAI's images API once, by its own client: nothing that the service answers is trusted."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import PIL.Image

from imagen_flow import Image, services

MOST_BYTES = 256 * 2**20
"""A longer answer is not read to its end."""

MOST_PIXELS = 2**26
"""A larger picture is not decoded; the largest that the service draws has an eighth of them."""

MOST_COUNTS = 100
"""More numbers of what was charged are not kept."""

NOT_TEMPORARY = ("insufficient_quota", "billing_hard_limit_reached")
"""Codes of refusals that look like those of a busy service and do not pass."""


@dataclass(frozen=True)
class Drawn:
    """A picture of the service: its own words for the prompt, empty where it has none, and the
    tokens that were charged.
    """

    image: Image
    revised_prompt: str
    usage: Mapping[str, Any]


def connect(key: str) -> openai.OpenAI:
    """Make a client that neither retries nor follows redirects, and reads answers up to a limit.

    The address of the service, the organisation and the project are the environment's
    (``OPENAI_BASE_URL`` and so on), as everywhere with this client.
    """
    return openai.OpenAI(
        api_key=key,
        max_retries=0,
        default_headers={"Accept-Encoding": "identity"},
        http_client=openai.DefaultHttpxClient(
            follow_redirects=False, event_hooks={"response": [_bounded]}
        ),
    )


def draw(create: Callable[..., Any], arguments: Mapping[str, Any], key: str) -> Drawn:
    """Make one request and read its picture.

    Params:
        key: is not in what is returned, even if the service writes it there.

    Raises:
        Busy: it may work later.
        ServiceError: it will not.
    """
    try:
        answer = create(**arguments)
    except openai.APIStatusError as error:
        raise _problem_of(error) from error
    except openai.APIConnectionError as error:
        # The reason is the cause's; the client says "Connection error." of all.
        raise services.Busy(f"no connection ({error.__cause__ or error})") from error
    except (json.JSONDecodeError, RecursionError):
        raise services.ServiceError("its answer is no JSON that can be read") from None
    data = getattr(answer, "data", None)
    first = data[0] if isinstance(data, list) and data else None
    encoded = getattr(first, "b64_json", None)
    if not isinstance(encoded, str):
        if isinstance(getattr(first, "url", None), str):
            raise services.ServiceError(
                "it answered with a link and no picture; links are not followed"
            )
        raise services.ServiceError(
            "its answer holds no picture; check OPENAI_BASE_URL, and that the model draws pictures"
        )
    revised = getattr(first, "revised_prompt", None)
    return Drawn(
        _decoded(encoded),
        revised.replace(key, "…") if isinstance(revised, str) else "",
        _charged(getattr(answer, "usage", None), key),
    )


def _problem_of(error: openai.APIStatusError) -> Exception:
    body = error.body if isinstance(error.body, dict) else {}
    message = body.get("message") or f"it answered with status {error.status_code}"
    problem = f"{message} (status {error.status_code})" if body.get("message") else message
    if body.get("code") in NOT_TEMPORARY:
        return services.ServiceError(problem)
    if error.status_code in (408, 409, 429) or error.status_code >= 500:
        return services.Busy(problem, retry_after_s=_retry_after(error.response.headers))
    return services.ServiceError(problem)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read how long to wait, in seconds; a date is not read, and the client waits its own time."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / divisor
        except ValueError:
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def _decoded(encoded: str) -> Image:
    try:
        content = base64.b64decode(encoded, validate=True)
        with PIL.Image.open(io.BytesIO(content), formats=("PNG", "WEBP", "JPEG")) as picture:
            if picture.width * picture.height > MOST_PIXELS:
                raise services.ServiceError(
                    f"its picture of {picture.width:,} × {picture.height:,} pixels is too large"
                )
            found = Image.from_pil(picture).as_uint8()
            return found if found.channels > 2 else Image.from_pil(_coloured(found))
    except (binascii.Error, OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        raise services.ServiceError("its answer holds no picture that can be read") from None


def _coloured(grey: Image) -> PIL.Image.Image:
    return grey.to_pil().convert("RGBA" if grey.has_alpha else "RGB")


def _charged(usage: Any, key: str) -> dict[str, Any]:
    if not isinstance(usage, openai.BaseModel):
        return {}
    try:
        return _counts(usage.model_dump(warnings=False), key)
    except (RecursionError, ValueError):  # it is nested too deep; the picture is as good
        return {}


def _counts(usage: Mapping[Any, Any], key: str) -> dict[str, Any]:
    """Keep the numbers of what was charged, whatever else the service says there."""
    kept = {
        str(name).replace(key, "…")[:100]: (
            _counts(value, key) if isinstance(value, dict) else value
        )
        for name, value in list(usage.items())[:MOST_COUNTS]
        if isinstance(value, dict) or (type(value) is int and 0 <= value < 2**53)
    }
    return dict(sorted(kept.items()))


class _Bounded(httpx2.SyncByteStream):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self.inner:
            size += len(chunk)
            if size > MOST_BYTES:
                raise httpx2.ReadError(f"the answer is longer than {MOST_BYTES:,} bytes")
            yield chunk

    def close(self) -> None:
        self.inner.close()


def _bounded(response: httpx2.Response) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.DecodingError("the answer is compressed, though it was asked not to be")
    response.stream = _Bounded(response.stream)
