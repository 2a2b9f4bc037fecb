"""Sample a GAN: latents from a normal distribution, through its generator, to a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from imagen_flow import Image, Json, Range, Seed, node
from imagen_flow.loaders import Leased

from .network import MAX_VALUES, GeneratorLoader, NetworkPort, OnnxNetwork

if TYPE_CHECKING:
    import numpy as np

LATENT_NAMES = ("z", "w", "latent", "latents", "input", "noise")
"""Names of latent inputs where there are other inputs too, the most certain first."""

LABEL_NAMES = (
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
"""Names of inputs for a class."""


@node("gan.sample", version=1, uses=("onnxruntime", "numpy"))
def sample(
    model: Annotated[OnnxNetwork, Leased(GeneratorLoader)],
    mapping: Annotated[OnnxNetwork, Leased(GeneratorLoader)] | None = None,
    *,
    truncation: Annotated[float, Range(0.01, 10)] | None = None,
    label: Annotated[int, Range(0, 2**31 - 1)] | None = None,
    arguments: Json = None,
    output: str = "",
    values: Literal["-1 to 1", "0 to 1", "0 to 255"] = "-1 to 1",
    seed: Seed,
) -> Image:
    """Generate a picture with the generator of a GAN.

    Inputs:
        model: the generator, an ONNX file that contains all its weights. It runs on the CPU.
        mapping: for a generator that was exported as two networks (StyleGAN), the first of them,
            whose output is the latents of the second.

    Params:
        truncation: trades variety for fidelity. A generator with an input for it (``psi``,
            ``truncation``) gets it there, as in StyleGAN (arXiv:1812.04948, appendix B: 1 is off);
            for others, values of the latents further from 0 are drawn again, as in BigGAN
            (arXiv:1809.11096, section 3.1).
        label: the class to generate, for a class-conditional generator.
        arguments: values of other inputs, by name: a number for the whole input, or a list of its
            shape.
        output: the name of the picture among the outputs; by default the first one with the shape
            of a picture.
        values: the range of the generator's values, from black to white.
        seed: of the latents: those of ``numpy.random.RandomState(seed)``, as in StyleGAN's own
            programs.

    Outputs:
        the generator's picture, grey or RGB, 8 bits; the first of a batch.

    Raises:
        ValueError: an input or the picture is ambiguous; the message lists all of them.
        RuntimeError: the network fails.

    Source:
        Generative Adversarial Nets (arXiv:1406.2661), algorithm 1.
    """
    if arguments is not None and not isinstance(arguments, dict):
        raise ValueError("its 'arguments' must be a mapping of inputs to numbers")
    networks = [model] if mapping is None else [mapping, model]
    inputs = [port for network in networks for port in network.inputs]
    if unknown := sorted((arguments or {}).keys() - {port.name for port in inputs}):
        raise ValueError(
            f"the generator has no input {' or '.join(unknown)}; its inputs are"
            f" {_list_ports(inputs)}"
        )
    if label is not None and not any(_is_label(port) for port in inputs):
        raise ValueError(f"the generator takes no label; its inputs are {_list_ports(inputs)}")
    takes_truncation = any(
        _is_truncation(port) and port.name not in (arguments or {}) for port in inputs
    )
    latents: np.ndarray | None = None
    for network in networks:
        given, port = _gather_inputs(network, arguments or {}, truncation, label)
        if port is not None:
            given[port.name] = (
                _draw(port, seed, None if takes_truncation else truncation)
                if latents is None
                else _as_latents(latents, port)
            )
        last = network is networks[-1]
        latents = network.run(given, _output(network, output if last else "", pictures=last))
    assert latents is not None  # there is at least one network
    return _picture(latents, values)


def _gather_inputs(
    network: OnnxNetwork, arguments: dict[str, Any], truncation: float | None, label: int | None
) -> tuple[dict[str, np.ndarray], NetworkPort | None]:
    """Collect the inputs of a network other than its latents, and find the latent input; None if it
    is among the arguments.
    """
    import numpy as np

    given: dict[str, np.ndarray] = {}
    left: list[NetworkPort] = []
    for port in network.inputs:
        if port.name in arguments:
            given[port.name] = _as_input(port, arguments[port.name])
        elif _is_truncation(port):
            given[port.name] = _as_input(port, 1.0 if truncation is None else truncation)
        elif _is_label(port):
            given[port.name] = _label_input(port, label)
        elif math.prod(port.single_shape) == 0:
            given[port.name] = np.zeros(port.single_shape, port.dtype)
        else:
            left.append(port)
    named = [
        port
        for name in LATENT_NAMES
        for port in left
        if port.name.lower() == name and port.is_float
    ]
    found = left[0] if len(left) == 1 else named[0] if named else None
    others = [port for port in left if port is not found]
    if others or (left and (found is None or not found.is_float)):
        raise ValueError(
            f"the purpose of the generator's inputs {_list_ports(left)} is unclear: give"
            f" {'all but the latents' if found is None else _list_ports(others or left)} in"
            " 'arguments'"
        )
    return given, found


def _is_truncation(port: NetworkPort) -> bool:
    return port.is_float and any(word in port.name.lower() for word in ("psi", "trunc"))


def _is_label(port: NetworkPort) -> bool:
    return port.name.lower() in LABEL_NAMES or port.dtype.startswith("int")


def _as_input(port: NetworkPort, value: Any) -> np.ndarray:
    import numpy as np

    try:
        given = np.asarray(value, port.dtype)
        return np.ascontiguousarray(
            np.broadcast_to(given, port.single_shape)
            if given.ndim == 0
            else given.reshape(tuple(-1 if size is None else size for size in port.shape))
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the input {port} does not accept its value in 'arguments': {error}"
        ) from error


def _label_input(port: NetworkPort, label: int | None) -> np.ndarray:
    """Encode a class as a number, or one-hot if the input is a row of floats."""
    import numpy as np

    if math.prod(port.single_shape) == 0:
        return np.zeros(port.single_shape, port.dtype)
    if label is None:
        raise ValueError(
            f"the generator has several classes: choose one with 'label' (its input is {port})"
        )
    if not port.is_float:
        return np.full(port.single_shape, label, port.dtype)
    if not port.shape or (classes := port.shape[-1]) is None:
        raise ValueError(
            f"the input {port} does not declare its number of classes: give it in 'arguments'"
        )
    if label >= classes:
        raise ValueError(f"there is no class {label}: the generator has {classes}, from 0")
    made = np.zeros(port.single_shape, port.dtype)
    made[..., label] = 1
    return made


def _draw(port: NetworkPort, seed: int, truncation: float | None) -> np.ndarray:
    """Draw latents for an input; with a truncation, values further from 0 are drawn again until
    there are none.
    """
    import numpy as np

    if not port.shape or port.shape[-1:] == (None,) or sum(size is None for size in port.shape[1:]):
        raise ValueError(
            f"the input {port} does not declare the size of its latents: export the generator"
            " with that size, or give them in 'arguments'"
        )
    if math.prod(port.single_shape) > MAX_VALUES:
        raise ValueError(f"the input {port} is larger than any generator's latents")
    # numpy's legacy seeds have 32 bits; a longer one is split in two.
    drawn = np.random.RandomState(seed if seed < 2**32 else [seed & 0xFFFFFFFF, seed >> 32])
    latents = drawn.randn(*port.single_shape)
    while truncation is not None and (far := np.abs(latents) > truncation).any():
        latents[far] = drawn.randn(int(far.sum()))
    return latents.astype(port.dtype)


def _as_latents(latents: np.ndarray, port: NetworkPort) -> np.ndarray:
    fits = len(port.shape) == latents.ndim and all(
        size in (None, came) for size, came in zip(port.shape, latents.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"the mapping gives {' × '.join(map(str, latents.shape))} numbers, but the generator's"
            f" input is {port}: they do not belong to the same generator"
        )
    return latents.astype(port.dtype, copy=False)


def _output(network: OnnxNetwork, name: str, *, pictures: bool) -> str:
    """Choose an output by name, or the first one that can be a picture."""
    if name:
        if name not in [port.name for port in network.outputs]:
            raise ValueError(
                f"there is no output '{name}'; there are {_list_ports(network.outputs)}"
            )
        return name
    fitting = [port for port in network.outputs if not pictures or _picture_axes(port.shape)]
    if not fitting:
        raise ValueError(
            "no output of the generator is a picture of 1 or 3 channels: there are"
            f" {_list_ports(network.outputs)}"
        )
    return fitting[0].name


def _picture_axes(shape: tuple[int | None, ...]) -> tuple[int, ...] | None:
    """Give the axes that turn an output of this shape into (height, width, channels); None if it is
    not a picture.
    """
    if len(shape) != 4:
        return None
    if shape[1] in (1, 3):
        return (1, 2, 0)
    return (0, 1, 2) if shape[3] in (1, 3) else (1, 2, 0) if shape[1] is None else None


def _picture(found: np.ndarray, values: str) -> Image:
    import numpy as np

    axes = _picture_axes(found.shape)
    if axes is None or found.size > MAX_VALUES:
        raise ValueError(
            f"the generator gave {' × '.join(map(str, found.shape))} numbers, which is not a"
            " picture"
            " of 1 or 3 channels"
        )
    single_shape = found[0].transpose(axes).astype(np.float32)
    if not np.isfinite(single_shape).all():
        raise ValueError("the generator gave NaN")
    unit = {
        "-1 to 1": (single_shape + 1) / 2,
        "0 to 1": single_shape,
        "0 to 255": single_shape / 255,
    }[values]
    return Image(np.rint(unit.clip(0, 1) * 255).astype(np.uint8))


def _list_ports(ports: Iterable[NetworkPort]) -> str:
    return ", ".join(map(str, ports)) or "none"
