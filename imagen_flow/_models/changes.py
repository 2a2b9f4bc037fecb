"""Notice what a node left changed in a model that it was lent: the next node of the process would
compute otherwise, and its result would be kept as the unchanged model's.

What is looked at is cheap: which modules there are and how they are set, their hooks and replaced
methods, how they attend, the configurations, a few numbers of each weight, the words of tokenizers.
What a loader keeps beside what it loaded may grow.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from .mapped import objects_in

__all__ = [
    "HOOKS",
    "Look",
    "configuration_of",
    "differences",
    "look_at",
    "objects_looked_at",
    "sampled",
    "words_of",
]

#: Of each weight so many numbers are compared, spread over it.
_SAMPLES = 16

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
)
_OF_TOKENIZERS = ("model_max_length", "padding_side", "truncation_side", "special_tokens_map")

_PLAIN = (bool, int, float, str, type(None))


class _This:
    """An object, equal to itself alone. It is held, so that no other takes its place in memory."""

    __slots__ = ("of",)

    def __init__(self, of: Any) -> None:
        self.of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _This) and self.of is other.of

    def __hash__(self) -> int:
        return id(self.of)


#: What a model looked like: by where, and by what of it, something that can be compared.
Look = Mapping[tuple[str, str], Any]


def look_at(value: Any, *, moves: bool = False) -> Look:
    """Look at what a loader gave.

    Params:
        moves: its weights come and go between host and device, so that where they are says nothing.
    """
    torch = sys.modules.get("torch")
    found: dict[tuple[str, str], Any] = {}
    for path, one in objects_looked_at(value):
        found[path, "object"] = _This(one)
        if torch is not None and isinstance(one, torch.nn.Module):
            found |= {(path, what): seen for what, seen in _module(one, moves).items()}
        elif torch is not None and isinstance(one, torch.Tensor):
            found[path, "weights"] = (str(one.dtype), tuple(one.shape), _samples([one]))
        elif (words := words_of(one)) is not None:
            found[path, "words"] = words
        if (configuration := configuration_of(one)) is not None:
            found[path, "configuration"] = repr(
                sorted((str(name), repr(value)) for name, value in configuration.items())
                if isinstance(configuration, Mapping)
                else configuration
            )
    return found


def objects_looked_at(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the modules, tensors, tokenizers and processors in what a loader gave, by path."""
    torch = sys.modules.get("torch")
    known: list[str] = []
    for path, one in objects_in(value).items():
        # Of what is compared as a whole, what it holds besides comes and goes with every call.
        if any(path.startswith(above) for above in known):
            continue
        if hasattr(one, "config") or hasattr(one, "get_added_vocab"):
            known.append(f"{path}.")
        elif not type(one).__module__.startswith("transformers.") and (
            torch is None or not isinstance(one, torch.nn.Module | torch.Tensor)
        ):
            continue
        yield path, one


def words_of(one: Any) -> tuple[Any, ...] | None:
    """Give what can be compared of a tokenizer; None of anything else."""
    if not (hasattr(one, "get_added_vocab") and hasattr(one, "__len__")):
        return None
    return (
        len(one),
        tuple(sorted(one.get_added_vocab().items())),
        *(repr(getattr(one, word, None)) for word in _OF_TOKENIZERS),
    )


def configuration_of(one: Any) -> Any:
    """Give the entries of an object's configuration, its plain attributes if it is a processor of
    transformers, or whatever else it has for one; None if it has none.
    """
    if hasattr(one, "config"):
        config = one.config
        return config if isinstance(config, Mapping) else getattr(config, "__dict__", config)
    if type(one).__module__.startswith("transformers.") and not hasattr(one, "get_added_vocab"):
        return {
            word: value
            for word, value in vars(one).items()
            if isinstance(value, (*_PLAIN, list, tuple, dict))
        }
    return None


def differences(before: Look, after: Look) -> list[str]:
    """Say what of a model is not as it was, in a few words each; what was not there before is not
    looked at.
    """
    found: dict[str, None] = {}
    for (path, what), seen in before.items():
        now = after.get((path, what))
        if isinstance(seen, dict) and isinstance(now, dict):
            # A word that is not there says as little as None or False; of new ones, sizes are what
            # the libraries note by the way.
            now = {
                name: value
                for name, value in now.items()
                if value not in ("None", "False") and (name in seen or not value.isdecimal())
            }
            seen = {name: value for name, value in seen.items() if value not in ("None", "False")}
        if now != seen:
            found[f"{what} of {path}" if path and what != "object" else path or what] = None
    return list(found)


def _module(root: Any, moves: bool) -> dict[str, Any]:
    layers: list[Any] = []
    attending: list[Any] = []
    hooks: list[Any] = []
    replaced: list[Any] = []
    weights: list[Any] = []
    tensors: list[Any] = []
    settings: dict[str, str] = {}
    for name, module in root.named_modules():
        own = module.__dict__
        layers.append((name, _This(module), module.training))
        if (processor := own.get("processor")) is not None:
            # Libraries put new ones of the same class back.
            attending.append(
                (
                    name,
                    type(processor),
                    [
                        (word, repr(value) if type(value) in _PLAIN else _This(value))
                        for word, value in sorted(getattr(processor, "__dict__", {}).items())
                    ],
                )
            )
        hooks += [
            (name, kind, *strange)
            for kind in HOOKS
            if (registered := own.get(kind))
            and (
                strange := [_This(hook) for hook in registered.values() if not _is_capturing(hook)]
            )
        ]
        if (registry := own.get("_diffusers_hook")) is not None and (
            registered := getattr(registry, "hooks", None)
        ):
            hooks.append((name, *((kind, _This(hook)) for kind, hook in registered.items())))
        if (compiled := own.get("_compiled_call_impl")) is not None:
            hooks.append((name, _This(compiled)))
        if (hook := own.get("_hf_hook")) is not None:
            # Where weights come and go it is taken off and put on again around whatever changes
            # layers, with the methods that it wraps.
            hooks.append((name, type(hook) if moves else _This(hook)))
        replaced += (
            []
            if moves and hook is not None
            else [
                (name, method, _This(called))
                for method, called in own.items()
                if callable(called)
                and method != "processor"
                and callable(getattr(type(module), method, None))
            ]
        )
        settings |= {
            f"{name}.{word}": repr(value)
            for word, value in own.items()
            if type(value) in _PLAIN and not word.startswith("_") and word != "training"
        }
        fleeting = own.get("_non_persistent_buffers_set") or ()
        for part, tensor in [
            *own["_parameters"].items(),
            *((part, tensor) for part, tensor in own["_buffers"].items() if part not in fleeting),
        ]:
            if tensor is None:
                weights.append((name, part, None))
                continue
            where = () if moves else (tensor.device.type, tensor.device.index, tensor.requires_grad)
            weights.append((name, part, str(tensor.dtype), tuple(tensor.shape), *where))
            tensors.append(tensor)
    return {
        "layers": layers,
        "attention": attending,
        "hooks": hooks,
        "methods": replaced,
        "weights": (weights, _samples(tensors, moves=moves)),
        "settings": settings,
    }


def _is_capturing(hook: Any) -> bool:
    """Whether a hook is one of those by which transformers collects hidden states: they are put on
    by the first call that asks for these, and stay.
    """
    called = getattr(hook, "func", hook)
    return str(getattr(called, "__module__", "")).startswith("transformers.")


def _samples(tensors: list[Any], *, moves: bool = False) -> tuple[Any, ...]:
    """Give some numbers of each tensor, as bytes, and how often it was written to; of what is not
    dense (quantized, on no device) only that.
    """
    torch = sys.modules["torch"]
    written = () if moves else tuple(0 if t.is_inference() else t._version for t in tensors)
    found = sorted(
        (str(parts[0].dtype), bytes(torch.cat(parts).view(torch.uint8).cpu().numpy()))
        for parts in sampled(tensors)
    )
    return written, *found


def sampled(tensors: list[Any]) -> list[list[Any]]:
    """Give views of some numbers of each dense tensor, those of one device and dtype together."""
    torch = sys.modules["torch"]
    by_kind: dict[tuple[Any, ...], list[Any]] = {}
    with torch.inference_mode(False), torch.no_grad():
        for tensor in tensors:
            count = tensor.numel()
            if (
                not count
                or tensor.device.type == "meta"
                or tensor.layout != torch.strided
                or type(tensor.data) is not torch.Tensor
            ):
                continue
            if (
                1
                + sum(
                    (size - 1) * stride
                    for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
                )
                != count
            ):
                continue  # it has gaps
            step = max(1, count // _SAMPLES)
            by_kind.setdefault((tensor.device, tensor.dtype), []).append(
                tensor.detach().as_strided(
                    (min(count, _SAMPLES),), (step,), tensor.storage_offset()
                )
            )
    return list(by_kind.values())
