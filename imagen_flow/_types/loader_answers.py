"""Ask loaders about models, and check their answers. Plugins write loaders: one that raises or
returns what it should not is refused in words, as a `ModelError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ImagenFlowError, ModelError
from .models import Loader, Loading, Model
from .values import FileChanged

__all__ = [
    "check",
    "check_support",
    "disk_bytes_of",
    "folders_of",
    "parts_of",
    "significant_name_of",
    "with_replaced_parts",
]


def check(loader: Loader[Any], model: Model) -> None:
    _ask(loader, "check", model)


def check_support(
    loader: Loader[Any], model: Model, *, device: str, dtype: str, settings: Loading
) -> None:
    _ask(loader, "check_support", model, device=device, dtype=dtype, settings=settings)


def parts_of(loader: Loader[Any], model: Model) -> Mapping[str, Loader[Any]] | None:
    found = _ask(loader, "parts", model)
    is_right = found is None or (
        isinstance(found, Mapping)
        and all(isinstance(name, str) for name in found)
        and all(Loader in type(part).__mro__ for part in found.values())
    )
    return _checked(found, is_right, loader, "parts", "a mapping of names to loaders, or None")


def folders_of(loader: Loader[Any], model: Model) -> Sequence[str] | None:
    found = _ask(loader, "folders", model)
    is_right = found is None or (
        isinstance(found, Sequence | set | frozenset)
        and not isinstance(found, str)
        and all(isinstance(name, str) for name in found)
    )
    return _checked(found, is_right, loader, "folders", "a list of names, or None")


def disk_bytes_of(loader: Loader[Any], model: Model) -> int | None:
    found = _ask(loader, "disk_bytes", model)
    is_right = found is None or (isinstance(found, int) and found >= 0)
    return _checked(found, is_right, loader, "disk_bytes", "a number of bytes, or None")


def significant_name_of(loader: Loader[Any], model: Model) -> str:
    found = _ask(loader, "significant_name", model)
    return _checked(found, isinstance(found, str), loader, "significant_name", "text")


def with_replaced_parts(loader: Loader[Any], model: Model, others: Mapping[str, Model]) -> Model:
    found = _ask(loader, "with_replaced_parts", model, others)
    return _checked(found, isinstance(found, Model), loader, "with_replaced_parts", "a Model")


def _ask(loader: Loader[Any], question: str, model: Model, *more: Any, **named: Any) -> Any:
    try:
        return getattr(loader, question)(model, *more, **named)
    except (ImagenFlowError, FileChanged):
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"the loader {type(loader).__qualname__} cannot tell about the model"
            f" '{model.reference or model.path}': its {question} raised {type(error).__name__}:"
            f" {error}"
        ) from error


def _checked(found: Any, is_right: bool, loader: Loader[Any], question: str, wanted: str) -> Any:
    if not is_right:
        raise ModelError(
            f"the loader {type(loader).__qualname__} is at fault: its {question} must return"
            f" {wanted}, not {type(found).__name__}"
        )
    return found
