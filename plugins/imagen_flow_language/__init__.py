"""Read and write text for pictures: prompts that vary, summaries, translations, prompts that a
language model continues, and features of text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import imagen_flow as flow

from . import expanding, features, summarising, translating, wildcards


@flow.hookimpl
def imagen_flow_nodes() -> Iterable[Any]:
    return [
        wildcards.wildcards,
        wildcards.combinations,
        summarising.summarise,
        translating.translate,
        expanding.expand,
        features.features,
    ]


@flow.hookimpl
def imagen_flow_tiny(reference: str, at: Path | None, folder: Path) -> Path | None:
    from .tiny import stand_in

    return stand_in(reference, at, folder)


@flow.hookimpl
def imagen_flow_examples() -> Mapping[str, Mapping[str, Any]]:
    files = {"files": {"colours.txt": "red\n2::blue\n"}}
    return {
        "text.wildcards": {"template": "a {__colours__|pink} cat", "folder": files},
        "text.combinations": {"template": "a {__colours__|pink} cat", "folder": files},
        "text.summarise": {
            "model": "hf:facebook/bart-large-cnn",
            "text": "A cat sat on a hill. It was red. " * 8,
        },
        "text.translate": {"model": "hf:Helsinki-NLP/opus-mt-zh-en", "text": "一只红色的猫"},
        "text.expand": {"model": "hf:AUTOMATIC/promptgen-lexart", "prompt": "a red cat"},
        "language.features": {"model": "hf:google-bert/bert-base-uncased", "text": "a red cat"},
    }
