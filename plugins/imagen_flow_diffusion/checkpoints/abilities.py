"""Tell what the networks of diffusers can do besides denoising, from the library's own source: when
planning, neither it nor torch is imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import imagen_flow as flow
from imagen_flow import loaders
from imagen_flow.errors import nearest

SKIPPING = ("first_block", "mag")
"""The step caches that skip whole blocks, and so must know what these take and return."""


@dataclass(frozen=True)
class Abilities:
    """What a class of networks declares."""

    #: Whether it has step caches at all.
    caches: bool = False
    #: Whether diffusers knows what its blocks take and return, as the caches that skip blocks need.
    blocks_known: bool = False
    #: The classes of the blocks that it repeats.
    repeats: tuple[str, ...] = ()
    offloads_groups: bool = True
    #: Whether it asks for its attention by name, so that another implementation can be put there.
    dispatches: bool = False


@cache
def abilities_of(name: str) -> Abilities | None:
    """Describe a class of diffusers' models; None if it has none of that name."""
    file = _files().get(name)
    if file is None:
        return None
    text = file.read_text(encoding="utf-8")
    return next(
        (
            _described(node, "dispatch_attention_fn(" in text)
            for node in ast.parse(text).body
            if isinstance(node, ast.ClassDef) and node.name == name
        ),
        None,
    )


@cache
def _files() -> dict[str, Path]:
    """Find the file of each class of models."""
    return {
        name: file
        for file in sorted((_diffusers() / "models").rglob("*.py"))
        for name in re.findall(r"^class (\w+)\(", file.read_text(encoding="utf-8"), re.MULTILINE)
    }


@cache
def attention_names() -> tuple[str, ...]:
    """Name the implementations of attention that diffusers has, installed or not."""
    tree = ast.parse((_diffusers() / "models/attention_dispatch.py").read_text(encoding="utf-8"))
    return tuple(
        line.value.value
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == "AttentionBackendName"
        for line in node.body
        if isinstance(line, ast.Assign)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )


def _diffusers() -> Path:
    spec = find_spec("diffusers")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def _described(node: ast.ClassDef, dispatches: bool) -> Abilities:
    said = {
        target.id: line.value
        for line in node.body
        if isinstance(line, ast.Assign)
        for target in line.targets
        if isinstance(target, ast.Name)
    }
    made = set(_blocks(node))
    return Abilities(
        caches=any(isinstance(base, ast.Name) and base.id == "CacheMixin" for base in node.bases),
        blocks_known=bool(made) and made <= _known_blocks(),
        repeats=tuple(_literal(said.get("_repeated_blocks")) or ()),
        offloads_groups=_literal(said.get("_supports_group_offloading")) is not False,
        dispatches=dispatches,
    )


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


def _blocks(node: ast.ClassDef) -> Iterator[str]:
    """Name the classes of the blocks that a network makes, under the names of its attributes by
    which diffusers finds them.
    """
    for line in ast.walk(node):
        if (
            isinstance(line, ast.Assign)
            and isinstance(line.targets[0], ast.Attribute)
            and line.targets[0].attr in _block_lists()
        ):
            for call in ast.walk(line.value):
                if (
                    isinstance(call, ast.Call)
                    and isinstance(call.func, ast.Name)
                    and call.func.id[0].isupper()  # not ``range``
                ):
                    yield call.func.id


@cache
def _block_lists() -> frozenset[str]:
    """Name the attributes in which diffusers looks for blocks."""
    tree = ast.parse((_diffusers() / "hooks/_common.py").read_text(encoding="utf-8"))
    return frozenset(
        word.value
        for line in tree.body
        if isinstance(line, ast.Assign)
        and isinstance(line.targets[0], ast.Name)
        and line.targets[0].id.endswith("_TRANSFORMER_BLOCK_IDENTIFIERS")
        for word in ast.walk(line.value)
        if isinstance(word, ast.Constant) and isinstance(word.value, str)
    )


@cache
def _known_blocks() -> frozenset[str]:
    """Name the classes of blocks that diffusers has registered."""
    tree = ast.parse((_diffusers() / "hooks/_helpers.py").read_text(encoding="utf-8"))
    return frozenset(
        word.value.id
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        and node.name == "_register_transformer_blocks_metadata"
        for word in ast.walk(node)
        if isinstance(word, ast.keyword)
        and word.arg == "model_class"
        and isinstance(word.value, ast.Name)
    )


PACKAGES = {
    "aiter": ("aiter", "aiter"),
    "flash": ("flash_attn", "flash-attn"),
    "_flash_3": ("flash_attn_interface", "flash-attn 3, which is built from source"),
    "_flash_varlen_3": ("flash_attn_interface", "flash-attn 3, which is built from source"),
    "sage": ("sageattention", "sageattention"),
    "_sage": ("sageattention", "sageattention"),
    "xformers": ("xformers", "xformers"),
    "_native_npu": ("torch_npu", "torch_npu"),
    "_native_xla": ("torch_xla", "torch_xla"),
}
"""What an implementation of attention needs, module and distribution, by how its name begins; it
runs on accelerators alone. Those that are not here are torch's."""


def _check_attention(reference: str, name: str, device: str) -> None:
    """Refuse an implementation of attention that is unknown, not installed or not for this device.

    Raises:
        ModelError: it is; the message names the package.
    """
    problem = f"the model '{reference}' cannot be called with attention: diffusers/{name}"
    if name not in attention_names():
        near = nearest(name, attention_names())
        raise flow.ModelError(f"{problem}: diffusers has none of that name; {near}")
    if name.endswith("_hub"):
        raise flow.ModelError(
            f"{problem}: its code would be downloaded from the hub, and run; install the package"
            " and say its name without _hub"
        )
    begins = [begin for begin in PACKAGES if name.startswith(begin)]
    if begins:
        module, package = PACKAGES[max(begins, key=len)]
        if find_spec(module) is None:
            raise flow.ModelError(f"{problem}, for the library {package} is not installed")
    if device == "cpu" and (begins or name == "_native_cudnn"):
        raise flow.ModelError(f"{problem} on cpu: it runs on accelerators alone")


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


def check_abilities(
    reference: str, networks: Mapping[str, str], *, device: str, settings: loaders.Loading
) -> None:
    """Refuse settings that a network cannot follow. Imports neither diffusers nor torch.

    Params:
        networks: the classes of a checkpoint's denoisers, by part.
    Raises:
        ModelError: one of them cannot.
    """
    casts = settings.layerwise_casting
    if settings.offload == "groups" and device == "cpu":
        raise flow.ModelError(
            f"the model '{reference}' cannot be loaded with offload: groups on cpu: its weights are"
            " there already; say offload: none"
        )
    if casts != "none":
        for name, value, usual in (
            ("quantization", settings.quantization, "none"),
            ("compile", settings.compile, False),
        ):
            if value != usual:
                raise flow.ModelError(
                    f"the model '{reference}' cannot be loaded with layerwise_casting: {casts} and"
                    f" {name}: {str(value).lower()}: say one of them"
                )
        if settings.offload in ("layers", "groups"):
            raise flow.ModelError(
                f"the model '{reference}' cannot be loaded with layerwise_casting: {casts} and"
                f" offload: {settings.offload}: both hold the weights of its layers; say offload:"
                " model"
            )
    if settings.of_diffusers is not None:
        _check_attention(reference, settings.of_diffusers, device)
    for part, name in networks.items():
        can = abilities_of(name)
        problem = f"the {part} of the model '{reference}', {_with_article(name)}, "
        if can is None:
            continue
        if (cache := settings.step_cache) is not None:
            if not can.caches:
                raise flow.ModelError(
                    f"{problem}has no step cache: remove step_cache, or use a model that has one, as"
                    " FLUX and Qwen-Image"
                )
            if cache.kind in SKIPPING and not can.blocks_known:
                raise flow.ModelError(
                    f"{problem}has no step_cache: {cache.kind}, for diffusers does not know its"
                    " blocks; taylor_seer needs no blocks"
                )
        if settings.of_diffusers is not None and not can.dispatches:
            raise flow.ModelError(
                f"{problem}does not ask diffusers for its attention: say attention: auto, math,"
                " flash, efficient or cudnn, which are torch's"
            )
        if settings.compile == "regional" and not can.repeats:
            raise flow.ModelError(
                f"{problem}names no blocks to compile: say compile: true, for all of it"
            )
        if settings.offload == "groups" and not can.offloads_groups:
            raise flow.ModelError(
                f"{problem}cannot be offloaded in groups: say offload: layers, or model"
            )
