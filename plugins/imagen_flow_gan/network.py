"""Load a network from an ONNX file and run it on the processor. The file is a stranger's: it may
hold no paths, and no custom operators are loaded.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import imagen_flow as flow
from imagen_flow.loaders import Loader, Loading

if TYPE_CHECKING:
    import numpy as np

    from imagen_flow import Model

MAX_NUMBERS = 2**26
"""That an input or an output may hold: a picture of 4096 × 4096, and latents of far more than any generator reads."""

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}


@dataclass(frozen=True)
class Port:
    """An input or output as the file declares it: a size is None where any is taken."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith("float")

    @property
    def one(self) -> tuple[int, ...]:
        """The shape for one picture."""
        return tuple(1 if size is None else size for size in self.shape)

    def __str__(self) -> str:
        return (
            f"'{self.name}'"
            f" ({' × '.join('?' if size is None else str(size) for size in self.shape) or 'one number'},"
            f" {self.dtype})"
        )


@dataclass(frozen=True)
class Network:
    """A network that is ready to run, with its ports."""

    model: Model
    session: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def run(self, given: Mapping[str, np.ndarray], output: str) -> np.ndarray:
        """Give one output for given inputs.

        Raises:
            RuntimeError: the network fails; what onnxruntime says of it.
        """
        try:
            return self.session.run([output], dict(given))[0]
        except Exception as failed:  # onnxruntime's errors have no class in common
            raise RuntimeError(
                f"the network '{self.model.reference}' fails: {_first_line(failed)}"
            ) from failed


class Generator(Loader[Network]):
    """A file in the ONNX format."""

    def check(self, model: Model) -> None:
        if not (model.path.is_file() and model.path.suffix.lower() == ".onnx"):
            raise flow.ModelError(
                f"gan.sample cannot use the model '{model.reference}': it takes a generator in one"
                " .onnx file"
            )

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Network:
        """Load a network for the processor, with its weights as they are.

        Raises:
            ModelError: onnxruntime is not installed or cannot load the file, the file refers to
                others, or it declares what is too large.
        """
        self.check(model)
        try:
            import onnxruntime
        except ImportError as missing:
            raise flow.ModelError(
                "a generator in an .onnx file wants onnxruntime: pip install 'imagen-flow[onnx]'"
            ) from missing
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Weights in files beside it are not in the model's digest, and their paths are a
        # stranger's: they are looked for where there are none.
        with tempfile.TemporaryDirectory() as empty:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", empty
            )
            try:
                session = onnxruntime.InferenceSession(
                    model.path.read_bytes(), options, providers=["CPUExecutionProvider"]
                )
            except Exception as failed:  # onnxruntime's errors have no class in common
                said = _first_line(failed)
                if "xternal data" in said:
                    raise flow.ModelError(
                        f"the model '{model.reference}' has weights in files beside it: save it as"
                        " one file (onnx.save_model without save_as_external_data)"
                    ) from failed
                raise flow.ModelError(
                    f"the model '{model.reference}' cannot be loaded: {said}"
                ) from failed
        return Network(
            model,
            session,
            _ports(model, session.get_inputs()),
            _ports(model, session.get_outputs()),
        )

    def disk_bytes(self, model: Model) -> int:
        return model.path.stat().st_size


def _ports(model: Model, declared: Any) -> tuple[Port, ...]:
    ports = []
    for port in declared:
        shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in port.shape)
        if math.prod(size for size in shape if size is not None) > MAX_NUMBERS:
            raise flow.ModelError(
                f"the model '{model.reference}' declares '{port.name}' of"
                f" {' × '.join(map(str, shape))} numbers, which no generator of pictures has"
            )
        ports.append(Port(port.name, shape, _DTYPES.get(port.type, port.type)))
    return tuple(ports)


def _first_line(failed: Exception) -> str:
    return " ".join(str(failed).split())[:300]
