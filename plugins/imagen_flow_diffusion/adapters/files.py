"""An adapter's files: which of them holds its weights, and what lies beside it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagen_flow import loaders
from imagen_flow.loaders import Loader

if TYPE_CHECKING:
    from imagen_flow import Model


@dataclass(frozen=True)
class Companions:
    """What was loaded from an adapter's folder besides the adapter: image encoders, by folder."""

    encoders: dict[str, Any] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)


class CompanionsLoader(Loader[Companions]):
    """Makes room for what is loaded beside an adapter later."""

    def load(
        self, model: Model, *, device: str, dtype: str, settings: loaders.Loading
    ) -> Companions:
        return Companions()

    def disk_bytes(self, model: Model) -> int:
        return 0


@dataclass(frozen=True)
class Adapter:
    """An adapter's files, and what was loaded beside them."""

    model: Model
    companions: Companions = field(default_factory=Companions)

    def file(self, name: str | None = None) -> Path:
        """Find its file of weights: safetensors, or a pickle that the user allows.

        Raises:
            ValueError: there are several and none is named, or not that one.
        """
        path = self.model.path
        if path.is_file():
            return path
        inside = (p.relative_to(path) for p in path.rglob("*.safetensors"))
        # What is hidden is no part of the model: its digest does not know of it.
        every = sorted(
            {
                *(
                    p.as_posix()
                    for p in inside
                    if not any(part.startswith(".") for part in p.parts)
                ),
                *self.model.pickles,
            }
        )
        found = [file for file in every if name or "/" not in file]
        if name is None and "pytorch_lora_weights.safetensors" in found:
            name = "pytorch_lora_weights.safetensors"
        if name is None and len(found) == 1:
            name = found[0]
        if name not in found:
            why = f"has no file '{name}'" if name else f"has {len(found) or 'no'} files of weights"
            raise ValueError(
                f"the model '{self.model.reference}' {why};"
                f" {'these are there: ' + ', '.join(found[:8]) if found else 'name a .safetensors file'}"
            )
        return path / str(name)

    @property
    def name(self) -> str:
        """What notes call it: the last word of its reference."""
        return self.model.reference.rstrip("/").rpartition("/")[2]

    def read(self, name: str | None = None) -> dict[str, Any]:
        """Read its weights by name."""
        file = self.file(name)
        return loaders.read_weights(
            self.model,
            "" if file == self.model.path else file.relative_to(self.model.path).as_posix(),
        )

    def metadata(self) -> dict[str, str]:
        """Read what a safetensors file says of itself."""
        return (self.header() or ([], {}))[1]

    def header(self) -> tuple[list[str], dict[str, str]] | None:
        """Read the names of the tensors in a safetensors file, and what it says of itself. Nothing
        of a pickle, or where there is no one file: that is reported when it is attached.
        """
        try:
            file = self.file()
            if file.suffix != ".safetensors":
                return None
            header = loaders.read_header(self.model, file)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None
        return [name for name in header if name != "__metadata__"], dict(
            header.get("__metadata__") or {}
        )
