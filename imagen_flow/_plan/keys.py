"""What enters a key: what computes a step, and the order of its ports."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .._graph import Node
from .._plugins.offered_loaders import OpenLoader
from .._settings import devices
from .._types.artifact import Artifact
from .._types.digest import canonical, digest_bytes
from .._types.models import Loading, Model
from .._types.node import NodeType
from .._types.ports import Port
from ..errors import GraphError, Problem
from .step import at_port
from .values import Values

__all__ = ["KEY_FORMAT", "Keys"]

#: The version of what enters a key. Raise it when that changes: every stored step is then computed
# anew.
#:
#: key = H(KEY_FORMAT, node type, node version, digest of the plugin's source, versions of the
# libraries in `uses`, determinism class) followed by
#: (port, value digest) for every input port in alphabetical order: literals, defaults, references
# and models alike. So it makes no difference how a value came to a port.
KEY_FORMAT = 1

_NO_SETTINGS: Mapping[str, Any] = {}


class Keys:
    """Knows of every node what computes it, as it enters the keys of its steps."""

    def __init__(
        self, values: Values, *, device: str, dtype: str, settings: Mapping[str, Any] = _NO_SETTINGS
    ) -> None:
        self.values = values
        self.device = device
        self.dtype = dtype
        self.settings = settings
        self._ports: dict[int, list[tuple[str, Port, Artifact | None]]] = {}
        self._computing: dict[tuple[Any, ...], tuple[str, dict[str, Any]]] = {}

    def copy(self, values: Values) -> Keys:
        """Copy them for a run, which meets more node types."""
        made = Keys(values, device=self.device, dtype=self.dtype, settings=self.settings)
        made._ports, made._computing = dict(self._ports), dict(self._computing)
        return made

    def ports(self, type_: NodeType) -> list[tuple[str, Port, Artifact | None]]:
        """List a node type's ports in the order of keys, each with the artifact of its default."""
        found = self._ports.get(id(type_))
        if found is None:
            found = [
                (name, port, None if port.required else self.values.port_default(port))
                for name, port in sorted(type_.inputs.items())
            ]
            self._ports[id(type_)] = found
        return found

    def prefix(self, node: Node) -> str:
        """The part of a key that says what computes: node type, source, libraries, determinism
        class.
        """
        return self._computes(node)[0]

    def computes_with(self, node: Node) -> dict[str, Any]:
        """What computes a node's steps, as it enters their keys. Shared by all of them: not to be
        changed.
        """
        return self._computes(node)[1]

    def loader_sources(self, type_: NodeType, slots: Mapping[str, Artifact]) -> dict[str, str]:
        """Return, by port, the digest of the source of the plugin that offers the loader of the
        model there; ports whose model is loaded by the node type's own plugin are left out.
        """
        found: dict[str, str] = {}
        for port, loader in type_.loaders.items():
            if not isinstance(loader, OpenLoader):
                continue
            for leaf in at_port(slots, port):
                model = self.values.value(leaf)
                if isinstance(model, Model) and (offered := loader.offered_for(model)):
                    found[port] = offered.source_digest
        return found

    def _computes(self, node: Node) -> tuple[str, dict[str, Any]]:
        type_ = node.type
        assert isinstance(type_, NodeType)
        at: tuple[Any, ...] = (id(type_),)
        if node.settings or node.device or node.dtype:
            at = (id(type_), node.device or "", node.dtype or "", *sorted(node.settings.items()))
        found = self._computing.get(at)
        if found is None:
            self._check_libraries(node, type_)
            policy = self.policy(node) if type_.uses_torch else None
            quantizer = (
                devices.QUANTIZERS.get(policy.settings.quantization) if policy is not None else None
            )
            parts = {
                "format": KEY_FORMAT,
                "type": type_.name,
                "version": type_.version,
                "source": type_.source_digest,
                "uses": {
                    library: self.values.registry.version_of(library)
                    for library in (*type_.uses, *([quantizer] if quantizer else []))
                },
                "determinism": policy.determinism() if policy is not None else None,
            }
            if type_.environment:
                parts["environment"] = {
                    name: digest_bytes(os.environ.get(name, "").encode("utf-8", "surrogateescape"))
                    for name in type_.environment
                }
            found = self._computing[at] = (canonical(parts).decode(), parts)
        return found

    def _check_libraries(self, node: Node, type_: NodeType) -> None:
        """Warn of a library in `uses` that is not there: its version says nothing then, and its
        changes would go unnoticed.
        """
        for library in type_.uses:
            message = (
                f"the node type {type_.name} uses '{library}', and no library of that name is"
                " installed"
            )
            if self.values.registry.is_unknown(type_, library) and all(
                problem.message != message for problem in self.values.problems
            ):
                why = (
                    "its version is part of the key: without it, a change of the library recomputes"
                    " nothing"
                )
                self.values.problems.append(
                    Problem(
                        "missing-library",
                        message,
                        node.mark,
                        why,
                        self.values.registry.nearest_library(library),
                        "warning",
                    )
                )

    def policy(self, node: Node) -> devices.Policy:
        """Give the policy of a node that uses torch: its own settings override the graph's, and only
        settings that have an effect on it count.
        """
        device, dtype = self.device_and_dtype(node)
        type_ = node.type
        assert isinstance(type_, NodeType)
        settings = {
            name: value
            for name, value in {**self.settings, **node.settings}.items()
            if type_.uses_setting(name)
        }
        ladder = settings.pop("ladder", "exact")
        batch = settings.pop("batch", "exact")
        return devices.Policy(device, dtype, Loading(**settings), ladder, batch)

    def device_and_dtype(self, node: Node) -> tuple[str, str]:
        """The device and dtype that a node computes on and in."""
        if node.device is None and node.dtype is None:
            return self.device, self.dtype
        try:
            device = devices.resolve_device(node.device) if node.device else self.device
        except ValueError as missing:
            raise GraphError([Problem("bad-setting", str(missing), node.mark)]) from missing
        if node.dtype is not None and node.dtype != "auto":
            return device, node.dtype
        return device, devices.resolve_dtype("auto", device) if node.device else self.dtype
