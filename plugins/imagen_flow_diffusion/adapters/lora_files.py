"""Read a LoRA's file: what each of its tensors is, whether it is whole, and how strong each of its
layers is.

diffusers translates the names of the trainers into its own and says little of what it leaves out;
peft takes what it is given, weights of the base included. So what a file holds is sorted out
here, before either sees it: pairs of matrices go on, with ``alpha / rank`` folded into them, and
    all else is named.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_MATRIX = re.compile(
    r"(?P<stem>.+?)(?P<way>\.lora_(?:A|B|down|up|mid)(?:\.(?!weight\Z|bias\Z)\w+)?|[._]lora(?:_linear_layer)?(?P<which>\d*)\.(?:down|up))\.(?P<end>weight|bias)\Z"
)
_MAGNITUDE = re.compile(r"(?P<stem>.+?)\.(?:dora_scale|lora_magnitude_vector(?:\.\w+){0,2})\Z")
_ALPHA = re.compile(r"(?P<stem>.+)\.alpha\Z")
_HADAMARD = re.compile(r"(?P<stem>.+)\.hada_(?P<end>w1_a|w1_b|w2_a|w2_b|t1|t2)\Z")
_KRONECKER = re.compile(r"(?P<stem>.+)\.lokr_(?P<end>w1|w1_a|w1_b|w2|w2_a|w2_b|t2)\Z")
_BUNDLED = re.compile(r"bundle_emb\.(?P<name>.+?)\.(?:string_to_param|emb_params|clip_[lg]|t5)")

KINDS: dict[str, re.Pattern[str]] = {
    "OFT (rotations)": re.compile(
        r"\.(?:oft_blocks|oft_diag|oft_R|oft_r)(?:\.|\Z)|\.oft_\w+\.weight\Z"
    ),
    "BOFT (rotations)": re.compile(r"\.boft_"),
    "IA3 (scales)": re.compile(r"\.on_input\Z|\.ia3_l"),
    "GLoRA": re.compile(r"\.(?:a1|a2|b1|b2)\.weight\Z"),
    "full differences of weights": re.compile(r"\.diff(?:_b)?\Z"),
    "differences of norms": re.compile(r"\.[wb]_norm\Z"),
    "a control LoRA": re.compile(r"\Alora_controlnet\Z"),
    "an IP-Adapter": re.compile(r"\A(?:image_proj|ip_adapter|ip_adapter_proj_model)\."),
    "a textual inversion": re.compile(
        r"\A(?:emb_params|string_to_param|string_to_token|clip_[lg]|<.+>)(?:\.|\Z)"
    ),
    "a whole checkpoint": re.compile(
        r"\A(?:model\.diffusion_model|first_stage_model|cond_stage_model|conditioner|text_encoders)\."
    ),
}
"""Kinds of tensors that are no pair of low rank, by their names."""


class NotLoRA(Exception):
    """A file is not a LoRA that can be applied; the message says what it is, or what it lacks."""


@dataclass
class Pair:
    """The two matrices of a layer, and what goes with them."""

    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    mid: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None
    #: Under which names the file holds them: that of ``down`` and of ``up``.
    names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LoRAFile:
    """What a file holds: pairs by the name of their layer there, and how many tensors it holds of
    other kinds, by kind.
    """

    pairs: Mapping[str, Pair]
    others: Mapping[str, tuple[str, ...]]
    #: Whether it holds alphas: some translations of names depend on that.
    alphas: bool
    #: Words that come with it as textual inversions.
    bundled: tuple[str, ...]


@dataclass(frozen=True)
class Sorted:
    """The names in a file by what they are: of matrices by layer, then by which of its matrices."""

    pairs: dict[str, dict[str, str]] = field(default_factory=dict)
    hadamard: dict[str, dict[str, str]] = field(default_factory=dict)
    kronecker: dict[str, dict[str, str]] = field(default_factory=dict)
    alphas: dict[str, str] = field(default_factory=dict)
    magnitudes: dict[str, str] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)
    bundled: set[str] = field(default_factory=set)


def sort(names: Iterable[str]) -> Sorted:
    """Sort the names of a file's tensors.

    Raises:
        NotLoRA: it is not whole, or of another kind.
    """
    found = Sorted()
    for name in sorted(names):
        if match := _BUNDLED.match(name):
            found.bundled.add(match["name"])
        elif match := _MATRIX.match(name):
            side = (
                "mid"
                if "lora_mid" in match["way"]
                else "down"
                if re.search(r"lora_A|down", match["way"])
                else "up"
            )
            if match["end"] == "bias":
                if side != "up":
                    raise NotLoRA(f"'{name}' is of no kind that peft reads")
                side = "bias"
            # XLabs' trainer numbers the two streams of FLUX behind the word.
            sides = found.pairs.setdefault(
                match["stem"] + (f"_lora{match['which']}" if match["which"] else ""), {}
            )
            if side in sides:
                raise NotLoRA(f"it holds two matrices for one place, '{sides[side]}' and '{name}'")
            sides[side] = name
        elif match := _HADAMARD.match(name):
            found.hadamard.setdefault(match["stem"], {})[match["end"]] = name
        elif match := _KRONECKER.match(name):
            found.kronecker.setdefault(match["stem"], {})[match["end"]] = name
        elif match := _ALPHA.match(name):
            found.alphas[match["stem"]] = name
        elif match := _MAGNITUDE.match(name):
            found.magnitudes[match["stem"]] = name
        else:
            found.others.setdefault(
                next((kind for kind, looks in KINDS.items() if looks.search(name)), ""), []
            ).append(name)
    if not (found.pairs or found.hadamard or found.kronecker or found.alphas or found.magnitudes):
        raise NotLoRA(
            _other_kind(found.others, found.bundled)
            if found.others or found.bundled
            else (
                "it holds no tensors: it was not written to its end, or a training run that learned"
                " nothing saved it"
            )
        )
    _refuse_lacking(found)
    return found


def _refuse_lacking(found: Sorted) -> None:
    """Refuse a file in which a matrix has no partner: the library would leave the other as it found
    the memory.
    """
    lacking = [
        f"it holds '{next(iter(sides.values()))}' without its partner"
        for _, sides in sorted(found.pairs.items())
        if not {"down", "up"} <= sides.keys()
    ]
    for stem, held in sorted(found.hadamard.items()):
        wanted = [
            "w1_a",
            "w1_b",
            "w2_a",
            "w2_b",
            *(["t1", "t2"] if {"t1", "t2"} & held.keys() else []),
        ]
        lacking += [f"'{stem}' lacks {name}" for name in wanted if name not in held]
    for stem, held in sorted(found.kronecker.items()):
        lacking += [
            f"'{stem}' lacks {half}_{letter}"
            for half in ("w1", "w2")
            for letter in "ab"
            if half not in held and f"{half}_{letter}" not in held
        ]
    layers = found.pairs.keys() | found.hadamard.keys() | found.kronecker.keys()
    lacking += [
        f"it holds '{found.alphas[stem]}' without its matrices"
        for stem in sorted(found.alphas.keys() - layers)
    ]
    lacking += [
        f"it holds the DoRA scale of '{stem}' without its matrices"
        for stem in sorted(found.magnitudes.keys() - layers)
    ]
    if lacking:
        raise NotLoRA(
            "it is not whole:"
            f" {lacking[0]}{f', and {len(lacking) - 1} more like it' if len(lacking) > 1 else ''};"
            " download or save it again"
        )


def check_names(names: Iterable[str], metadata: Mapping[str, str]) -> None:
    """Look at what a file's header tells.

    Raises:
        NotLoRA: it is not whole, or of another kind.
    """
    sort(names)
    _strengths(metadata)


def read(state: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> LoRAFile:
    """Read a file's tensors as pairs of matrices, each at the strength that the file says.

    Params:
        metadata: of the safetensors file.
    Raises:
        NotLoRA: it is not whole, or of another kind.
    """
    found = sort(str(name) for name, tensor in state.items() if hasattr(tensor, "shape"))
    strengths = _strengths(metadata or {})
    alphas = {stem: _number(state[name], name) for stem, name in found.alphas.items()}
    pairs = {}
    for stem, sides in found.pairs.items():
        pairs[stem] = Pair(
            **{side: _wide(state[name], name) for side, name in sides.items()},
            names={side: name for side, name in sides.items() if side in ("down", "up")},
        )
        _refuse_misfit(stem, pairs[stem])
        _fold(stem, pairs[stem], alphas.get(stem), strengths)
    for kinds, pair_of in ((found.hadamard, _of_hadamard), (found.kronecker, _of_kronecker)):
        pairs |= {
            stem: pair_of(
                stem, {end: _wide(state[name], name) for end, name in held.items()}, alphas
            )
            for stem, held in kinds.items()
        }
    for stem, name in found.magnitudes.items():
        # peft writes those of convolutions with an axis of one before.
        scale, rows = (
            (
                _wide(state[name], name)
                if name.endswith("dora_scale")
                else _wide(state[name], name).flatten()
            ),
            _of(pairs[stem])[1].shape[0],
        )
        if scale.numel() != rows or scale.shape[0] != rows:
            raise NotLoRA(
                f"the DoRA scale of '{stem}' goes along the inputs ({tuple(scale.shape)}), and peft"
                " computes those along the outputs"
            )
        pairs[stem].magnitude = scale
    others = {kind: tuple(names) for kind, names in found.others.items()}
    if strange := sorted(
        str(name) for name, tensor in state.items() if not hasattr(tensor, "shape")
    ):
        others["no tensors"] = tuple(strange)
    return LoRAFile(pairs, others, bool(alphas), tuple(sorted(found.bundled)))


def _refuse_misfit(stem: str, pair: Pair) -> None:
    down, up = _of(pair)
    if (
        down.ndim < 2
        or up.ndim < 2
        or not down.numel()
        or not up.numel()
        or (pair.mid is None and down.shape[0] != up.shape[1])
    ):
        raise NotLoRA(
            f"the matrices of '{stem}' do not fit each other: {tuple(down.shape)} and"
            f" {tuple(up.shape)}"
        )


def _wide(tensor: Any, name: str) -> Any:
    """Give a copy of a tensor that can be computed with, off the mapped file: that may be written
    over while the layers are kept.
    """
    import torch

    if not tensor.is_floating_point():
        raise NotLoRA(
            f"'{name}' holds {str(tensor.dtype).removeprefix('torch.')}, and weights are"
            " floating-point numbers"
        )
    return tensor.to(torch.bfloat16) if tensor.dtype.itemsize == 1 else tensor.clone()


def _number(tensor: Any, name: str) -> float:
    if tensor.numel() != 1 or not math.isfinite(float(tensor)):
        raise NotLoRA(f"'{name}' is not a number")
    return float(tensor)


def _of(pair: Pair) -> tuple[Any, Any]:
    return pair.down, pair.up


# --- strength
# --------------------------------------------------------------------------------------------------------------------


def _strengths(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """Read how strong peft was told to make layers, where a file says so.

    Raises:
        NotLoRA: it cannot be read.
    """
    if (text := metadata.get("lora_adapter_metadata")) is None:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as broken:
        raise NotLoRA(
            f"its metadata 'lora_adapter_metadata' is no JSON ({str(broken)[:80]}), so its strength"
            " is unknown"
        ) from broken
    if not isinstance(found, dict):
        raise NotLoRA(
            "its metadata 'lora_adapter_metadata' is no mapping, so its strength is unknown"
        )
    for name, value in found.items():
        end = name.rpartition(".")[2]
        # peft takes these for regular expressions; a stranger's may not end.
        if (
            end in ("rank_pattern", "alpha_pattern")
            and isinstance(value, dict)
            and (strange := [key for key in value if not re.fullmatch(r"\^?[\w.-]+", key)])
        ):
            raise NotLoRA(
                f"its metadata names layers by '{strange[0][:80]}' in '{name}', which is no layer's"
                " name"
            )
        if end in ("r", "lora_alpha") and (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise NotLoRA(f"its metadata says of '{name}' {value!r:.80}, which is not a number")
        if (
            end in ("rank_pattern", "alpha_pattern")
            and value is not None
            and not (
                isinstance(value, dict)
                and all(isinstance(one, int | float) for one in value.values())
            )
        ):
            raise NotLoRA(
                f"its metadata says of '{name}' {value!r:.80}, which gives no layer a number"
            )
    return found


def _told(stem: str, rank: int, strengths: Mapping[str, Any]) -> float:
    """Work out the strength of a layer from peft's metadata, which names parts and layers of
    diffusers: 1 where it says nothing of it.
    """
    part = next(
        (
            part
            for part in sorted({name.partition(".")[0] for name in strengths})
            if stem.startswith(f"{part}.") and f"{part}.lora_alpha" in strengths
        ),
        None,
    )
    if part is None and "lora_alpha" not in strengths:
        return 1.0
    beginning = f"{part}." if part is not None else ""
    layer = stem.removeprefix(beginning)
    pattern = strengths.get(f"{beginning}alpha_pattern") or {}
    alpha = next(
        (
            value
            for key, value in pattern.items()
            if layer == key.lstrip("^") or (key[:1] != "^" and layer.endswith(f".{key}"))
        ),
        strengths[f"{beginning}lora_alpha"],
    )
    return float(alpha) / (math.sqrt(rank) if strengths.get(f"{beginning}use_rslora") else rank)


def _fold(stem: str, pair: Pair, alpha: float | None, strengths: Mapping[str, Any]) -> None:
    """Make a layer as strong as its file says, in its matrices themselves.

    diffusers finds alphas that differ from layer to layer in some families and not in others, and
    takes the commonest for layers without any: kohya means ``alpha = rank`` by that.
    """
    import torch

    down, up = _of(pair)
    rank = down.shape[0] if pair.mid is None else pair.mid.shape[0]
    if pair.mid is not None:
        # A core between the two matrices (LoCon's Tucker form): one matrix with it is of the same
        # rank.
        down = torch.einsum("rskl,si->rikl", pair.mid.float(), down.float().flatten(1))
        pair.mid = None
        pair.down = down
    scale = alpha / rank if alpha is not None else _told(stem, rank, strengths)
    if scale != 1.0:
        # Both are made smaller by powers of two, as far as that goes: half precision has few digits
        # left for small numbers.
        halves = max(0, math.frexp(abs(scale))[1] * -1 // 2) if scale else 0
        pair.down = (down.float() * 2.0**-halves).to(down.dtype)
        pair.up = (up.float() * (scale * 2.0**halves)).to(up.dtype)


# --- other kinds
# -----------------------------------------------------------------------------------------------------------------


def _of_hadamard(stem: str, held: Mapping[str, Any], alphas: Mapping[str, float]) -> Pair:
    """Write LoHa, ``(a1 b1) * (a2 b2)`` by elements, as a pair of the squared rank, which is the
    same matrix.

    Source: FedPara (arXiv:2108.06098); the rank of a Hadamard product.
    """
    import torch

    a1, b1, a2, b2 = (held[name].float() for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    rank, kept = b1.shape[0], held["w1_a"].dtype
    if "t1" in held:
        t1, t2 = held["t1"].float(), held["t2"].float()
        a1, a2 = a1.T, a2.T
        b1, b2 = (torch.einsum("ijkl,jr->irkl", core, b) for core, b in ((t1, b1), (t2, b2)))
    if (
        a1.shape[1] != b1.shape[0]
        or a2.shape[1] != b2.shape[0]
        or a1.shape[0] != a2.shape[0]
        or b1.shape[1:] != b2.shape[1:]
    ):
        raise NotLoRA(f"the matrices of '{stem}' do not fit one another")
    up = torch.einsum("or,os->ors", a1, a2).flatten(1)
    down = (b1[:, None] * b2[None]).flatten(0, 1)
    return _scaled(stem, down, up, alphas, rank, kept)


def _of_kronecker(stem: str, held: Mapping[str, Any], alphas: Mapping[str, float]) -> Pair:
    """Write LoKr, a Kronecker product, as a pair of the product of the ranks, which is the same
    matrix.

    Source: LyCORIS (arXiv:2309.14859); ``kron(a1 b1, a2 b2) = kron(a1, a2) kron(b1, b2)``.
    """
    import torch

    kept, rank = next(iter(held.values())).dtype, None
    if "w1" in held:
        a1, b1 = _split(held["w1"].float())
    else:
        a1, b1 = held["w1_a"].float(), held["w1_b"].float()
        rank = b1.shape[0]
    if "w2" in held:
        w2 = held["w2"].float()
        a2, b2 = _split(w2.flatten(1))
        b2 = b2.unflatten(1, w2.shape[1:])
    else:
        a2, b2 = held["w2_a"].float(), held["w2_b"].float()
        rank = b2.shape[0]
        if "t2" in held:
            a2, b2 = a2.T, torch.einsum("ijkl,jr->irkl", held["t2"].float(), b2)
    if a1.shape[1] != b1.shape[0] or a2.shape[1] != b2.shape[0]:
        raise NotLoRA(f"the matrices of '{stem}' do not fit one another")
    # torch.kron fails on a transposed matrix.
    up = torch.kron(a1, a2.contiguous())
    down = torch.einsum("ri,sd...->rsid...", b1, b2).flatten(0, 1).flatten(1, 2)
    return _scaled(stem, down, up, alphas, rank, kept)


def _split(matrix: Any) -> tuple[Any, Any]:
    """Write a matrix as a product, one factor of which is the identity: the smaller one."""
    import torch

    rows, columns = matrix.shape
    return (torch.eye(rows), matrix) if rows <= columns else (matrix, torch.eye(columns))


def _scaled(
    stem: str, down: Any, up: Any, alphas: Mapping[str, float], rank: int | None, kept: torch.dtype
) -> Pair:
    """Give a pair whose strength is that of the kind that it was: its rank is no longer the one
    that alpha is a part of.
    """
    # Where both factors of LoKr are whole there is no rank, and alpha means nothing.
    scale = alphas[stem] / rank if rank is not None and stem in alphas else 1.0
    down_name, up_name = (
        ("lora_down", "lora_up") if stem.startswith("lora_") else ("lora_A", "lora_B")
    )
    return Pair(
        down.to(kept),
        (up * scale).to(kept),
        names={"down": f"{stem}.{down_name}.weight", "up": f"{stem}.{up_name}.weight"},
    )


def _other_kind(others: Mapping[str, list[str]], bundled: set[str]) -> str:
    """Say what a file without a single pair is."""
    if bundled and not others:
        return (
            f"it holds no LoRA but the embeddings {', '.join(sorted(bundled)[:4])}: save each as a"
            " file of its own and give it to 'embeddings'"
        )
    kind, names = max(
        ((kind, names) for kind, names in others.items()),
        key=lambda held: (held[0] != "", len(held[1])),
        default=("", []),
    )
    if kind == "an IP-Adapter":
        return "it is an IP-Adapter: give it to 'ip_adapters'"
    if kind == "a textual inversion":
        return "it is a textual inversion: give it to 'embeddings'"
    if kind == "a whole checkpoint":
        return "it is a whole checkpoint: give it to 'model'"
    if kind == "a control LoRA":
        return "it is a control LoRA, which changes the network of the base"
    if kind:
        return (
            f"it holds {kind}, which neither diffusers nor peft reads from such a file; LoRA, DoRA,"
            " LoHa and LoKr can be applied"
        )
    return (
        "it is not a LoRA: it holds"
        f" {', '.join(names[:3]) or 'nothing'}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
    )


def left_out(file: LoRAFile) -> list[str]:
    """Describe what of a file is not applied, with counts; ``{name}`` stands for the file's."""
    found = []
    total = sum(len(names) for names in file.others.values()) + 2 * len(file.pairs)
    for kind, names in sorted(file.others.items()):
        what = f"are {kind}" if kind else "are not part of a LoRA (weights of the base in full)"
        found.append(
            f"{len(names)} of {total} tensors of '{{name}}' {what} and are left out:"
            f" {', '.join(names[:2])}{', …' if len(names) > 2 else ''}"
        )
    if file.bundled:
        found.append(
            f"the embeddings in '{{name}}' are left out ({', '.join(file.bundled[:4])}): save each"
            " as a file of its own and give it to 'embeddings'"
        )
    return found


# --- names
# -----------------------------------------------------------------------------------------------------------------------


def translate(file: LoRAFile, pipeline: Any, unet_config: Any = None) -> dict[str, dict[str, Pair]]:
    """Let diffusers translate the names of a file's layers, and give the pairs by part of the
    checkpoint and layer of it.

    Raises:
        NotLoRA: it knows no such names, or drops some.
        ValueError, KeyError and so on: what its translations raise of names that they do not know.
    """
    import torch

    # Names that are diffusers' own already would be translated for the alphas' sake, into some that
    # are nobody's.
    foreign = any(
        not stem.startswith(tuple(f"{part}." for part in pipeline._lora_loadable_modules))
        for stem in file.pairs
    )

    def under_names(pairs: Mapping[str, Pair]) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for pair in pairs.values():
            state |= {pair.names["down"]: pair.down, pair.names["up"]: pair.up}
        if file.alphas and foreign:
            # The translations divide them by the rank; what they make is 1.
            state |= {
                f"{stem}.alpha": torch.tensor(float(_of(pair)[0].shape[0]))
                for stem, pair in pairs.items()
            }
        return state

    found = _translated(under_names(file.pairs), pipeline, unet_config)
    _refuse_dropped(file, found)
    # A scale for each row of a layer goes where its second matrix goes: some layers are divided,
    # others joined.
    scaled = {stem: pair for stem, pair in file.pairs.items() if pair.magnitude is not None}
    for what, rows in (
        ("magnitude", scaled),
        ("bias", {stem: pair for stem, pair in file.pairs.items() if pair.bias is not None}),
    ):
        if not rows:
            continue
        as_pairs = {
            stem: Pair(
                _of(pair)[0][:1],
                getattr(pair, what).reshape(-1, *[1] * (_of(pair)[1].ndim - 1)),
                names=pair.names,
            )
            for stem, pair in rows.items()
        }
        for part, layers in _translated(under_names(as_pairs), pipeline, unet_config).items():
            for layer, pair in layers.items():
                # Where layers are joined, each has a column of its own.
                setattr(found[part][layer], what, _of(pair)[1].flatten(1).sum(1))
    return found


def _refuse_dropped(file: LoRAFile, found: Mapping[str, Mapping[str, Pair]]) -> None:
    """Refuse a file of which a translation dropped layers: its numbers in are its numbers out."""
    given = sum(_of(pair)[1].numel() for pair in file.pairs.values())
    kept = sum(_of(pair)[1].numel() for layers in found.values() for pair in layers.values())
    if kept < given:
        same = {id(pair.down) for layers in found.values() for pair in layers.values()}
        lost = (
            [stem for stem, pair in sorted(file.pairs.items()) if id(pair.down) not in same]
            if any(id(pair.down) in same for pair in file.pairs.values())
            else []
        )
        raise NotLoRA(
            "diffusers drops"
            f" {f'{len(lost)} of its {len(file.pairs)} layers, {lost[0]} first' if lost else 'some of its layers'}:"
            " it names layers in two ways"
        )


_PARTS = ("unet", "transformer", "text_encoder", "controlnet", "prior", "decoder")
"""Words that the names of diffusers begin with."""


def _translated(
    state: dict[str, Any], pipeline: Any, unet_config: Any
) -> dict[str, dict[str, Pair]]:
    more = {"unet_config": unet_config} if unet_config is not None else {}
    # Of the families' own methods some give two things, some three; alphas are 1 by now.
    try:
        translated, *_ = pipeline.lora_state_dict(
            state, return_alphas=True, return_lora_metadata=True, **more
        )
    except KeyError as lacking:
        # Some translations expect every layer of a network under the names that they know.
        raise NotLoRA(
            f"diffusers does not translate its names for {type(pipeline).__name__}: it looks for"
            f" {str(lacking)[:200]} among them"
        ) from lacking
    found: dict[str, dict[str, Pair]] = {}
    for name, tensor in translated.items():
        if name.endswith(".alpha"):
            continue
        part, _, rest = name.partition(".")
        if not part.startswith(_PARTS):
            raise NotLoRA(
                "diffusers knows no layers by its names,"
                f" '{part if rest.startswith('lora') else name}' first, for"
                f" {type(pipeline).__name__}"
            )
        layer, side = _peft_name(part, rest)
        setattr(found.setdefault(part, {}).setdefault(layer, Pair()), side, tensor)
    for part, layers in found.items():
        for layer, pair in layers.items():
            if pair.down is None or pair.up is None:
                raise NotLoRA(f"diffusers makes half a layer of it, '{part}.{layer}'")
    return found


def _peft_name(part: str, name: str) -> tuple[str, str]:
    """Give the layer of a part that a tensor of diffusers' names, old or new, is for, and the
    matrix that it is.
    """
    from diffusers.utils.state_dict_utils import (
        StateDictType,
        convert_state_dict_to_peft,
        convert_unet_state_dict_to_peft,
    )

    if ".lora_A" not in name and ".lora_B" not in name:
        if part.startswith("text_encoder"):
            kind = (
                StateDictType.DIFFUSERS
                if "lora_linear_layer." in name or ".lora." in name
                else StateDictType.DIFFUSERS_OLD
            )
            (name,) = convert_state_dict_to_peft({name: None}, original_type=kind)
        else:
            (name,) = convert_unet_state_dict_to_peft({name: None})
    found = _MATRIX.match(name)
    if found is None:
        raise NotLoRA(f"diffusers makes '{part}.{name}' of it, which is no LoRA's")
    return found["stem"], (
        "down" if ".lora_A" in found["way"] or found["way"].endswith(".down") else "up"
    )
