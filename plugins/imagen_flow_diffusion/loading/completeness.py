"""Refuse, when planning, checkpoints that lack files or hold weights that would be read wrongly."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import imagen_flow as flow
from imagen_flow.loaders import read_json

from ..checkpoints.description import index_of
from ..checkpoints.folder import refuse_scaled
from ..checkpoints.quantizing import saved_as
from .grouping import names_in

if TYPE_CHECKING:
    from imagen_flow import Model


def refuse_unreadable(model: Model, group: str) -> None:
    """Refuse, by what lies in a checkpoint's folder, parts without weights, and weights that would
    be read without their scales.
    """
    _refuse_empty(model, group)
    _refuse_wordless(model, group)
    elsewhere = {name for name, _ in model.replaced_parts} | dict(
        model.base.holds if model.base is not None else ()
    ).keys()
    for part in names_in(model, group):
        if (
            part not in elsewhere
            and (model.folder / part / "config.json").is_file()
            and not saved_as(read_json(model, f"{part}/config.json"))
        ):
            refuse_scaled(model, part)


_WORDLESS = re.compile(
    r"(tokenizer|special_tokens_map|added_tokens|generation|processor|preprocessor|config|chat_template|additional_chat_templates)[\w.]*\.(json|jinja)|README\.md"
)
"""Names of the files of a tokenizer that hold none of its words; all others may."""


def _refuse_wordless(model: Model, group: str) -> None:
    """Refuse a tokenizer whose folder lacks the file of its words: transformers makes one that
    reads everything as unknown, and says nothing.
    """
    for part in names_in(model, group):
        folder = model.folder / part
        if (
            not folder.is_dir()
            or "Tokenizer" not in index_of(model)[part][1]
            or index_of(model)[part][1].startswith(("ByT5", "Canine"))
        ):  # these read bytes
            continue
        names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
        words = {
            name
            for name in names
            if re.match(r"tokenizer\.([\d.]+\.)?json\Z", name) or not _WORDLESS.fullmatch(name)
        }
        if not words or words == {"vocab.json"} or words == {"merges.txt"}:
            lacking = (
                "the file of its words (tokenizer.json, vocab.json with merges.txt, or the like)"
                if not words
                else "merges.txt"
                if words == {"vocab.json"}
                else "vocab.json"
            )
            raise flow.ModelError(
                f"the model '{model.reference}' is not whole: its {part} lacks {lacking}; download"
                " it again"
            )


def _refuse_empty(model: Model, group: str) -> None:
    if empty := [part for part in names_in(model, group) if _is_empty(model, part)]:
        raise flow.ModelError(
            f"the model '{model.reference}' is not whole: the folder {empty[0]} has a config.json"
            " and no weights; download it again"
        )


_WEIGHTLESS = ("Extractor", "Processor", "Scheduler", "Tokenizer")
"""Words in the names of classes that have no weights."""


def _is_empty(model: Model, part: str) -> bool:
    """Whether a network lies in a folder without weights, and they come from nowhere else: a copy
    that broke off.
    """
    folder = model.folder / part
    if (
        any(word in index_of(model)[part][1] for word in _WEIGHTLESS)
        or not (folder / "config.json").is_file()
    ):
        return False
    elsewhere = {name for name, _ in model.replaced_parts} | dict(
        model.base.holds if model.base is not None else ()
    ).keys()
    return (
        part not in elsewhere
        and not any(folder.glob("*.safetensors"))
        and not any(name.startswith(f"{part}/") for name in model.pickles)
    )
