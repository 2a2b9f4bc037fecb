"""Load a network from an ONNX file and run it on the CPU. The file is untrusted: external files and
custom operators are not loaded.
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

MAX_VALUES = 2**26
"""The most values of an input or output: a picture of 4096 × 4096, and far more than any
generator's latents.
"""

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}


@dataclass(frozen=True)
class NetworkPort:
    """An input or output as the file declares it; a size is None if any size is accepted."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def is_float(self) -> bool:
        return self.dtype.startswith("float")

    @property
    def single_shape(self) -> tuple[int, ...]:
        """The shape for one picture."""
        return tuple(1 if size is None else size for size in self.shape)

    def __str__(self) -> str:
        sizes = " × ".join("?" if size is None else str(size) for size in self.shape)
        return f"'{self.name}' ({sizes or 'one number'}, {self.dtype})"


@dataclass(frozen=True)
class OnnxNetwork:
    """A network that is ready to run, with its ports."""

    model: Model
    session: Any
    inputs: tuple[NetworkPort, ...]
    outputs: tuple[NetworkPort, ...]

    def run(self, given: Mapping[str, np.ndarray], output: str) -> np.ndarray:
        """Compute one output for the given inputs.

        Raises:
            RuntimeError: the network fails, with onnxruntime's message.
        """
        try:
            return self.session.run([output], dict(given))[0]
        except Exception as error:  # onnxruntime's errors have no class in common
            raise RuntimeError(
                f"the network '{self.model.reference}' failed: {_first_line(error)}"
            ) from error


class GeneratorLoader(Loader[OnnxNetwork]):
    """Loads a generator from an ONNX file."""

    def check(self, model: Model) -> None:
        if not (model.path.is_file() and model.path.suffix.lower() == ".onnx"):
            raise flow.ModelError(
                f"gan.sample cannot use the model '{model.reference}': it needs a generator in one"
                " .onnx file"
            )

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> OnnxNetwork:
        """Load a network for the CPU, with its weights unchanged.

        Raises:
            ModelError: onnxruntime is not installed or cannot load the file, the file refers to
                other files, or it declares ports that are too large.
        """
        self.check(model)
        try:
            import onnxruntime
        except ImportError as missing:
            raise flow.ModelError(
                "a generator in an .onnx file needs onnxruntime: pip install 'imagen-flow[onnx]'"
            ) from missing
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.load_model_format", "ONNX")
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # External weight files are not part of the model's digest, and their paths are untrusted:
        # onnxruntime looks for them in an empty folder.
        with tempfile.TemporaryDirectory() as empty:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", empty
            )
            try:
                session = onnxruntime.InferenceSession(
                    model.path.read_bytes(), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # onnxruntime's errors have no class in common
                message = _first_line(error)
                if "xternal data" in message:
                    raise flow.ModelError(
                        f"the model '{model.reference}' has weights in external files: save it as"
                        " one file (onnx.save_model without save_as_external_data)"
                    ) from error
                raise flow.ModelError(
                    f"the model '{model.reference}' cannot be loaded: {message}"
                ) from error
        return OnnxNetwork(
            model,
            session,
            _ports(model, session.get_inputs()),
            _ports(model, session.get_outputs()),
        )

    def disk_bytes(self, model: Model) -> int:
        return model.path.stat().st_size


def _ports(model: Model, declared: Any) -> tuple[NetworkPort, ...]:
    ports = []
    for port in declared:
        shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in port.shape)
        if math.prod(size for size in shape if size is not None) > MAX_VALUES:
            raise flow.ModelError(
                f"the model '{model.reference}' declares '{port.name}' of"
                f" {' × '.join(map(str, shape))} numbers, which no generator of pictures has"
            )
        ports.append(NetworkPort(port.name, shape, _DTYPES.get(port.type, port.type)))
    return tuple(ports)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
