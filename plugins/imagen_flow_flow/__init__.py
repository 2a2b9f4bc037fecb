"""Nodes that steer a graph: choosing, lists, numbers, booleans, text, JSON data and seeds.

Plain Python on plain values; no pixels, no files. Graphs have no expressions; these nodes compute
instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imagen_flow import hookimpl

from . import choosing, data, lists, logic, numbers, seeds, tables, text


@hookimpl
def imagen_flow_nodes() -> Sequence[object]:
    """List the nodes that steer a graph."""
    return [
        choosing.first,
        choosing.choose,
        lists.make,
        lists.get,
        lists.cut,
        lists.concat,
        lists.length,
        lists.range_,
        lists.filter_,
        lists.sort,
        lists.flatten,
        lists.zip_,
        numbers.add,
        numbers.subtract,
        numbers.multiply,
        numbers.divide,
        numbers.power,
        numbers.modulo,
        numbers.smaller,
        numbers.larger,
        numbers.clamp,
        numbers.round_,
        numbers.floor,
        numbers.ceil,
        numbers.to_text,
        logic.equal,
        logic.less,
        logic.at_most,
        logic.greater,
        logic.at_least,
        logic.and_,
        logic.or_,
        logic.not_,
        text.format_,
        text.join,
        text.split,
        text.replace,
        text.contains,
        text.length,
        text.case,
        text.to_number,
        data.get,
        data.set_,
        data.parse,
        data.to_text,
        tables.row,
        tables.summarise,
        seeds.derive,
        seeds.several,
    ]


@hookimpl
def imagen_flow_examples() -> Mapping[str, Mapping[str, Any]]:
    """Give arguments that cannot be made up."""
    return {
        "json.get": {"data": {"a": {"b": 2}}, "path": "a.b"},
        "json.parse": {"text": '{"a": [1, 2]}'},
        "list.filter": {"values": ["a", "b"], "by": [0.2, 0.7], "at_least": 0.5},
        "table.row": {"columns": ["name", "width"], "a": "fox", "b": 3},
        "table.summarise": {"rows": [{"score": 1.0}, {"score": 3.0}], "columns": ["score"]},
        "text.to_number": {"text": "-3.5"},
    }
