"""For the tests of plugins: sample pictures, a run of one node, and the check of a whole plugin.

::

    from imagen_flow import testing

    from my_nodes import posterise


    def test_it_leaves_few_tones():
        picture = testing.run_node(posterise, image=testing.picture(), levels=2)
        assert len(set(picture.pixels.flat)) <= 2


    def test_the_plugin_behaves():
        assert testing.check("my-nodes").findings == ()

The same check is the command ``imagen-flow plugin check my-nodes``.
"""

from __future__ import annotations

from typing import Any

from . import api
from ._kit import RULES, Finding, Report, check
from ._kit.arguments import picture
from ._kit.single import single_graph
from ._plugins.registry import discover
from ._types.node import NodeFunction

__all__ = ["RULES", "Finding", "Report", "check", "picture", "run_node"]


def run_node(node: NodeFunction, **arguments: Any) -> Any:
    """Run a node through the engine, on the CPU, with tiny models and without a store.

    Params:
        node: a function decorated with ``@node``; its plugin need not be installed.
        arguments: by port; literals as a graph has them, or values.
    Returns:
        What it gives: its output, or a mapping of its outputs by name if it has several.
    Raises:
        GraphError: the arguments do not fit.
        NodeError: it failed.
    """
    registry = discover()
    type_ = node.type
    owner = registry.offered_by(type_.name)  # it stands in for the one that is installed
    registry.add(node, plugin=owner.name if owner is not None else "local")
    outputs = api.run(single_graph(type_, arguments, registry), store=None, tiny=True, device="cpu")
    return dict(outputs) if type_.named_outputs else outputs[type_.primary]
