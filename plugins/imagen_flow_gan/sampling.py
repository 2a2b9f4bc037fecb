"""Sample a GAN: latents from a normal distribution, through its generator, to a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from imagen_flow import Image, Json, Range, Seed, node
from imagen_flow.loaders import Leased

from .network import MAX_NUMBERS, Generator, Network, Port

if TYPE_CHECKING:
    import numpy as np

LATENTS = ("z", "w", "latent", "latents", "input", "noise")
"""What inputs for latents are called, where there are others besides, the surest name first."""

LABELS = (
    "label",
    "labels",
    "class",
    "classes",
    "class_label",
    "class_labels",
    "class_vector",
    "c",
    "y",
)
"""What inputs for a class are called."""


@node("gan.sample", version=1, uses=("onnxruntime", "numpy"))
def sample(
    model: Annotated[Network, Leased(Generator)],
    mapping: Annotated[Network, Leased(Generator)] | None = None,
    *,
    truncation: Annotated[float, Range(0.01, 10)] | None = None,
    label: Annotated[int, Range(0, 2**31 - 1)] | None = None,
    arguments: Json = None,
    output: str = "",
    values: Literal["-1 to 1", "0 to 1", "0 to 255"] = "-1 to 1",
    seed: Seed,
) -> Image:
    """Draw a picture with the generator of a GAN.

    Inputs:
        model: the generator, a file in the ONNX format, with all its weights in it. It runs on the
            processor.
        mapping: where the generator is exported in two networks (StyleGAN): the first of them,
            whose output the second takes for latents.
    Params:
        truncation: less variety for more likeness. A generator with an input for it (``psi``,
            ``truncation``) gets it there, as in StyleGAN (arXiv:1812.04948, appendix B: 1 is off);
            for any other, numbers of the latents that are further from 0 are drawn again, as in
            BigGAN (arXiv:1809.11096, section 3.1).
        label: the class to draw, for a generator of several.
        arguments: what other inputs get, by their names: a number for all of an input, or a list of
            its shape.
        output: the name of the picture among the outputs. Left out: the first that has the shape of
            one.
        values: what the generator's numbers mean, from black to white.
        seed: of the latents: those of ``numpy.random.RandomState(seed)``, which StyleGAN's own
            programs draw too.
    Outputs: the generator's picture, grey or RGB, 8 bits; of several in a batch, the first.
    Raises: ValueError if an input or the picture cannot be told from others, with all that there
        are; RuntimeError if the network fails.
    Source: Generative Adversarial Nets (arXiv:1406.2661), algorithm 1.
    """
    if arguments is not None and not isinstance(arguments, dict):
        raise ValueError("its 'arguments' takes a mapping of inputs to numbers")
    networks = [model] if mapping is None else [mapping, model]
    inputs = [port for network in networks for port in network.inputs]
    if strange := sorted((arguments or {}).keys() - {port.name for port in inputs}):
        raise ValueError(
            f"the generator has no input {' or '.join(strange)}; its inputs are {_listed(inputs)}"
        )
    if label is not None and not any(_is_label(port) for port in inputs):
        raise ValueError(f"the generator takes no label; its inputs are {_listed(inputs)}")
    takes_truncation = any(
        _is_truncation(port) and port.name not in (arguments or {}) for port in inputs
    )
    latents: np.ndarray | None = None
    for network in networks:
        given, port = _given(network, arguments or {}, truncation, label)
        if port is not None:
            given[port.name] = (
                _draw(port, seed, None if takes_truncation else truncation)
                if latents is None
                else _fitting(latents, port)
            )
        last = network is networks[-1]
        latents = network.run(given, _output(network, output if last else "", pictures=last))
    assert latents is not None  # there is at least one network
    return _picture(latents, values)


def _given(
    network: Network, arguments: dict[str, Any], truncation: float | None, label: int | None
) -> tuple[dict[str, np.ndarray], Port | None]:
    """Gather what a network gets besides latents, and say which of its inputs these are; None if
    that one is among the arguments.
    """
    import numpy as np

    given: dict[str, np.ndarray] = {}
    left: list[Port] = []
    for port in network.inputs:
        if port.name in arguments:
            given[port.name] = _filled(port, arguments[port.name])
        elif _is_truncation(port):
            given[port.name] = _filled(port, 1.0 if truncation is None else truncation)
        elif _is_label(port):
            given[port.name] = _labelled(port, label)
        elif math.prod(port.one) == 0:
            given[port.name] = np.zeros(port.one, port.dtype)
        else:
            left.append(port)
    named = [
        port for name in LATENTS for port in left if port.name.lower() == name and port.is_float
    ]
    found = left[0] if len(left) == 1 else named[0] if named else None
    others = [port for port in left if port is not found]
    if others or (left and (found is None or not found.is_float)):
        raise ValueError(
            f"it cannot be told what the generator's inputs {_listed(left)} get: name"
            f" {'what is no latents' if found is None else _listed(others or left)} in 'arguments'"
        )
    return given, found


def _is_truncation(port: Port) -> bool:
    return port.is_float and any(word in port.name.lower() for word in ("psi", "trunc"))


def _is_label(port: Port) -> bool:
    return port.name.lower() in LABELS or port.dtype.startswith("int")


def _filled(port: Port, value: Any) -> np.ndarray:
    import numpy as np

    try:
        given = np.asarray(value, port.dtype)
        return np.ascontiguousarray(
            np.broadcast_to(given, port.one)
            if given.ndim == 0
            else given.reshape(tuple(-1 if size is None else size for size in port.shape))
        )
    except (TypeError, ValueError) as odd:
        raise ValueError(
            f"the input {port} does not take what 'arguments' gives it: {odd}"
        ) from odd


def _labelled(port: Port, label: int | None) -> np.ndarray:
    """Give a class as a number, or as a one among zeros where the input is a row of floats."""
    import numpy as np

    if math.prod(port.one) == 0:
        return np.zeros(port.one, port.dtype)
    if label is None:
        raise ValueError(
            f"the generator draws several classes: say which by 'label' (its input is {port})"
        )
    if not port.is_float:
        return np.full(port.one, label, port.dtype)
    if not port.shape or (classes := port.shape[-1]) is None:
        raise ValueError(
            f"the input {port} does not say how many classes there are: give it in 'arguments'"
        )
    if label >= classes:
        raise ValueError(f"there is no class {label}: the generator has {classes}, from 0")
    made = np.zeros(port.one, port.dtype)
    made[..., label] = 1
    return made


def _draw(port: Port, seed: int, truncation: float | None) -> np.ndarray:
    """Draw latents of an input's shape; with a truncation, each number that is further from 0 is
    drawn again, until none is.
    """
    import numpy as np

    if not port.shape or port.shape[-1:] == (None,) or sum(size is None for size in port.shape[1:]):
        raise ValueError(
            f"the input {port} does not say how many numbers its latents are: export the generator"
            " with that size, or give them in 'arguments'"
        )
    if math.prod(port.one) > MAX_NUMBERS:
        raise ValueError(f"the input {port} is larger than any generator's latents")
    # The seeds of numpy's own kind end at 32 bits; a longer one is two.
    drawn = np.random.RandomState(seed if seed < 2**32 else [seed & 0xFFFFFFFF, seed >> 32])
    latents = drawn.randn(*port.one)
    while truncation is not None and (far := np.abs(latents) > truncation).any():
        latents[far] = drawn.randn(int(far.sum()))
    return latents.astype(port.dtype)


def _fitting(latents: np.ndarray, port: Port) -> np.ndarray:
    fits = len(port.shape) == latents.ndim and all(
        size in (None, came) for size, came in zip(port.shape, latents.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"the mapping gives {' × '.join(map(str, latents.shape))} numbers, and the generator's"
            f" input is {port}: they are not of one generator"
        )
    return latents.astype(port.dtype, copy=False)


def _output(network: Network, name: str, *, pictures: bool) -> str:
    """Choose an output by name, or the first that can be a picture."""
    if name:
        if name not in [port.name for port in network.outputs]:
            raise ValueError(f"there is no output '{name}'; there are {_listed(network.outputs)}")
        return name
    fitting = [port for port in network.outputs if not pictures or _axes(port.shape)]
    if not fitting:
        raise ValueError(
            "no output of the generator is a picture of 1 or 3 channels: there are"
            f" {_listed(network.outputs)}"
        )
    return fitting[0].name


def _axes(shape: tuple[int | None, ...]) -> tuple[int, ...] | None:
    """Say how a picture of this shape, with its batch, becomes (height, width, channels); None if
    it is none.
    """
    if len(shape) != 4:
        return None
    if shape[1] in (1, 3):
        return (1, 2, 0)
    return (0, 1, 2) if shape[3] in (1, 3) else (1, 2, 0) if shape[1] is None else None


def _picture(found: np.ndarray, values: str) -> Image:
    import numpy as np

    axes = _axes(found.shape)
    if axes is None or found.size > MAX_NUMBERS:
        raise ValueError(
            f"the generator gave {' × '.join(map(str, found.shape))} numbers, which is no picture"
            " of 1 or 3 channels"
        )
    one = found[0].transpose(axes).astype(np.float32)
    if not np.isfinite(one).all():
        raise ValueError("the generator gave NaN")
    unit = {"-1 to 1": (one + 1) / 2, "0 to 1": one, "0 to 255": one / 255}[values]
    return Image(np.rint(unit.clip(0, 1) * 255).astype(np.uint8))


def _listed(ports: Iterable[Port]) -> str:
    return ", ".join(map(str, ports)) or "none"
