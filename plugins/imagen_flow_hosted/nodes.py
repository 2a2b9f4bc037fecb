"""The node types that draw and edit pictures by OpenAI's images API."""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, Unpack

import imagen_flow as flow
from imagen_flow import Image, Json, List, Mask, Progress, Range, Steps, services
from imagen_flow.loaders import require_library

SERVICE = "openai"
KEY = "OPENAI_API_KEY"
ADDRESS = "OPENAI_BASE_URL"

FILE_FORMATS = ("gpt-image", "chatgpt-image")
"""Beginnings of the names of models that are told which format to send; others are asked not to send
a link."""

Background = Literal["transparent", "opaque"]
Quality = Literal["low", "medium", "high", "xhigh", "max", "standard", "hd"]


class Drawing(TypedDict, total=False):
    """Params:
    size: ``1536x1024``, or ``auto``; which are possible depends on the model.
    quality: which are possible depends on the model.
    background: ``transparent`` gives a picture with alpha.
    take: the service takes no seed. Another number asks for another picture; the same one gives
        the picture that the store has.
    """

    size: str
    quality: Quality
    background: Background
    take: Annotated[int, Range(0, 2**53)]


class Hosted(NamedTuple):
    image: Image
    revised_prompt: str
    usage: Json


# The version of the client is no part of the keys: with a new one, every picture would be bought again.
@flow.node("openai.generate", version=1, calls=SERVICE, environment=(ADDRESS,))
def generate(prompt: str, *, model: str, **drawing: Unpack[Drawing]) -> Steps[Hosted]:
    """Draw a picture by OpenAI's images API, or a service that speaks its protocol.

    The prompt is sent to the service, which charges for each picture. What is in the store is not
    asked for again. The key is read from the environment variable OPENAI_API_KEY, the address of
    another service from OPENAI_BASE_URL.

    Inputs:
        prompt: what to draw.
    Params:
        model: the service's name of a model, such as gpt-image-2.5-flare.
    Outputs:
        image: 8 bits, RGB, or RGBA with a transparent background.
        revised_prompt: the prompt as the service rewrote it; empty where it does not say.
        usage: the tokens that were charged, as the service counts them; a note says it too.
    Raises:
        ServiceError: there is no key; the service refuses, is busy for too long, or answers with no
            picture. A request that may work later is made again, up to 5 times.
    Source: ``openai.OpenAI().images.generate``.
    """
    arguments = _arguments(prompt, model, drawing)
    return (yield from _asked(lambda client: client.images.generate, arguments))


@flow.node("openai.edit", version=1, calls=SERVICE, environment=(ADDRESS,))
def edit(
    image: Image,
    prompt: str,
    *,
    model: str,
    mask: Mask | None = None,
    references: List[Image] | None = None,
    input_fidelity: Literal["low", "high"] | None = None,
    **drawing: Unpack[Drawing],
) -> Steps[Hosted]:
    """Edit a picture by OpenAI's images API, or a service that speaks its protocol.

    The pictures and the prompt are sent to the service, which charges for each picture. What is in
    the store is not asked for again. The key is read from the environment variable OPENAI_API_KEY,
    the address of another service from OPENAI_BASE_URL.

    Inputs:
        image: the picture to edit; sent in 8 bits.
        prompt: what to change, or the whole picture wanted.
        mask: of the size of the picture: what is inside may change.
        references: up to 15 pictures that the prompt speaks of.
    Params:
        model: the service's name of a model, such as gpt-image-2.5-flare.
        input_fidelity: how closely to keep to the picture's style and faces.
    Outputs:
        image: 8 bits, RGB, or RGBA with a transparent background; of the size that the service
            chose.
        revised_prompt: the prompt as the service rewrote it; empty where it does not say.
        usage: the tokens that were charged, as the service counts them; a note says it too.
    Raises:
        ServiceError: as openai.generate; or the mask is not of the size of the picture.
    Source: ``openai.OpenAI().images.edit``.
    """
    pictures = [image, *(references or ())]
    if len(pictures) > 16:
        raise services.ServiceError(
            f"{len(pictures) - 1} references were given, but at most 15 can be sent"
        )
    arguments = _arguments(prompt, model, drawing)
    files = [_file(_png(one), f"image-{number}") for number, one in enumerate(pictures)]
    arguments["image"] = files if references else files[0]
    if mask is not None:
        arguments["mask"] = _file(_png_of_mask(mask, image), "mask")
    if input_fidelity is not None:
        arguments["input_fidelity"] = input_fidelity
    return (yield from _asked(lambda client: client.images.edit, arguments))


def _arguments(prompt: str, model: str, drawing: Mapping[str, Any]) -> dict[str, Any]:
    """Say it in the protocol's words: what was not said is left to the service."""
    if not prompt.strip():
        raise services.ServiceError("the prompt is empty; the service takes none of these")
    size = drawing.get("size", "auto")
    if size != "auto" and not re.fullmatch(r"[1-9][0-9]{1,4}x[1-9][0-9]{1,4}", size):
        raise services.ServiceError(
            f"the size '{size}' is not 'auto' or WIDTHxHEIGHT, like 1536x1024"
        )
    said = {name: value for name, value in drawing.items() if name != "take"}
    how = (
        {"output_format": "png"}
        if model.startswith(FILE_FORMATS)
        else {"response_format": "b64_json"}
    )
    return {"prompt": prompt, "model": model, "n": 1, **how, **said}


def _asked(call: Callable[[Any], Callable[..., Any]], arguments: dict[str, Any]) -> Steps[Hosted]:
    require_library("openai", "a node of the hosted service openai", extra="hosted")
    key = services.secret(KEY, "the key of your account at OpenAI")
    from . import client as protocol

    client = protocol.connect(key)
    # A service that knows it charges once, when an answer is lost and the request is made again.
    arguments["extra_headers"] = {"Idempotency-Key": f"imagen-flow-{uuid.uuid4().hex}"}
    try:
        drawn = yield from services.ask(
            SERVICE,
            lambda: protocol.draw(call(client), arguments, key),
            stop=client.close,
            secrets=[key],
        )
    finally:
        client.close()
    yield Progress(1, 1, _charged(drawn.usage))
    return Hosted(drawn.image, drawn.revised_prompt, dict(drawn.usage))


def _charged(usage: Mapping[str, Any]) -> str:
    """Say in a note what a picture cost; nothing where the service does not."""
    counts = [
        f"{usage[name]:,} tokens {way}"
        for name, way in (("input_tokens", "in"), ("output_tokens", "out"))
        if isinstance(usage.get(name), int)
    ]
    return f"{SERVICE} charged {' and '.join(counts)} for this picture" if counts else ""


def _png(image: Image) -> bytes:
    picture = image.as_uint8().to_pil()
    return _encoded(picture.convert("RGBA" if picture.mode in ("LA", "RGBA") else "RGB"))


def _png_of_mask(mask: Mask, image: Image) -> bytes:
    """Encode a mask as the protocol has it: what may change is transparent."""
    import numpy as np
    import PIL.Image

    if (mask.height, mask.width) != (image.height, image.width):
        raise services.ServiceError(
            f"the mask is {mask.width} × {mask.height} pixels, but the picture is"
            f" {image.width} × {image.height}"
        )
    inside = Image(mask.pixels).as_uint8().pixels[:, :, 0]
    opaque = np.dstack([np.zeros((*inside.shape, 3), np.uint8), 255 - inside])
    return _encoded(PIL.Image.fromarray(opaque))


def _encoded(picture: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def _file(content: bytes, name: str) -> tuple[str, bytes, str]:
    return f"{name}.png", content, "image/png"
