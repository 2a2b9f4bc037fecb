"""Change a loaded checkpoint for the length of one call: LoRA, textual inversion, IP-Adapter; and lend what stands beside it, ControlNets.

Loaded models are shared, so what is put on is taken off again, and the base's own weights are never written to: the next call finds them as they were loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagen_flow as flow

from .calling import problem_of, to_pil
from .checkpoints import load_part, weights_in, what_is
from .components import Checkpoint

if TYPE_CHECKING:
    from imagen_flow import Image, Model


@dataclass(frozen=True)
class Adapter:
    """An adapter's files, and what was loaded beside them."""

    model: Model
    encoders: dict[str, Any] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.Lock)

    def file(self, name: str | None = None) -> Path:
        """Find its file of weights.

        Raises:
            ValueError: there are several and none is named, or not that one.
        """
        path = self.model.path
        if path.is_file():
            return path
        found = sorted(p.relative_to(path).as_posix() for p in path.rglob("*.safetensors") if name or (p.parent == path))
        if name is None and "pytorch_lora_weights.safetensors" in found:
            name = "pytorch_lora_weights.safetensors"
        if name is None and len(found) == 1:
            name = found[0]
        if name not in found:
            why = f"has no file '{name}'" if name else f"has {len(found) or 'no'} files of weights"
            raise ValueError(f"the model '{self.model.reference}' {why}; {'these are there: ' + ', '.join(found[:8]) if found else 'name a .safetensors file'}")
        return path / str(name)


class Weights:
    """A LoRA, a textual inversion or an IP-Adapter: a file of weights that is put on a checkpoint."""

    @staticmethod
    def load(model: Model, *, device: str, dtype: str) -> Adapter:
        return Adapter(model)

    @staticmethod
    def size_of(model: Model) -> int:
        return 0


class ControlNet:
    """A network that holds a picture to a drawing: a folder as diffusers saves one."""

    @staticmethod
    def load(model: Model, *, device: str, dtype: str) -> Any:
        import diffusers
        from diffusers.models.modeling_utils import ModelMixin

        kind = what_is(model)
        cls = getattr(diffusers, kind, None) if kind.isidentifier() else None
        if not ("ControlNet" in kind and isinstance(cls, type) and issubclass(cls, ModelMixin)):
            raise problem_of(model, "the port 'controlnets'", kind, "a ControlNetModel of the model's own family")
        return load_part(cls, model, "", device=device, dtype=dtype)

    @staticmethod
    def size_of(model: Model) -> int:
        return weights_in(model, "")


@contextmanager
def adapted(
    pipeline: Any,
    checkpoint: Checkpoint,
    *,
    loras: Sequence[Adapter] | None = None,
    lora_weights: Sequence[float] | None = None,
    embeddings: Sequence[Adapter] | None = None,
    ip: tuple[Adapter | None, Image | None, float, str | None] = (None, None, 1.0, None),
) -> Iterator[dict[str, Any]]:
    """Put adapters on a pipeline and take them off at the end, whatever happens. Whoever calls holds the checkpoint alone.

    Outputs: further arguments of the call.
    Raises:
        ValueError: an adapter does not fit, or too little or too much is given.
    """
    _check(loras, lora_weights, ip)
    arguments: dict[str, Any] = {}
    try:
        _put_on_loras(pipeline, checkpoint, loras or [], lora_weights)
        for embedding in embeddings or []:
            _put_on_embedding(pipeline, checkpoint, embedding)
        if ip[0] is not None and ip[1] is not None:
            _put_on_ip_adapter(pipeline, checkpoint, ip[0], ip[2], ip[3])
            arguments["ip_adapter_image"] = to_pil(ip[1])
        yield arguments
    finally:
        if ip[0] is not None and hasattr(pipeline, "unload_ip_adapter"):
            pipeline.unload_ip_adapter()
        for embedding in embeddings or []:
            _take_off_embedding(pipeline, embedding)
        if loras:
            pipeline.unload_lora_weights()


def _check(loras: Sequence[Adapter] | None, lora_weights: Sequence[float] | None, ip: tuple[Adapter | None, Image | None, float, str | None]) -> None:
    if lora_weights and len(lora_weights) != len(loras or []):
        raise ValueError(f"its 'loras' are {len(loras or [])}, and 'lora_weights' holds {len(lora_weights)}: they must agree")
    if (ip[0] is None) != (ip[1] is None):
        raise ValueError("'ip_adapter' and 'ip_adapter_image' go together: give both or neither")


# --- LoRA ------------------------------------------------------------------------------------------------------------------------


def _put_on_loras(pipeline: Any, checkpoint: Checkpoint, loras: Sequence[Adapter], weights: Sequence[float] | None) -> None:
    if not loras:
        return
    need("peft", "a LoRA")
    if not hasattr(pipeline, "lora_state_dict"):
        raise ValueError(f"{type(pipeline).__name__} takes no LoRA")
    names: list[str] = []
    for number, lora in enumerate(loras):
        name = f"lora{number}"
        if _load_lora(pipeline, checkpoint, lora, name):
            names.append(name)
    if names:
        pipeline.set_adapters(names, [float(weights[int(name[4:])]) if weights else 1.0 for name in names])


def _load_lora(pipeline: Any, checkpoint: Checkpoint, lora: Adapter, name: str) -> bool:
    """Put a LoRA on those parts that are here; whether it concerned any of them."""
    file = lora.file()
    more = {"unet_config": pipeline.unet.config} if hasattr(pipeline, "text_encoder_2") and hasattr(pipeline, "unet") else {}
    fits = False
    try:
        # Of the families' own methods some give two things, some three.
        state, *rest = pipeline.lora_state_dict(str(file.parent), weight_name=file.name, local_files_only=True, return_lora_metadata=True, **more)
        metadata, alphas = rest[-1], rest[0] if len(rest) > 1 else None
        prefixes = {key.partition(".")[0] for key in state}
        known = set(pipeline._lora_loadable_modules)
        if strange := sorted(prefixes - known):
            raise ValueError(f"its weights are for {', '.join(strange[:3])}")
        for part in sorted(prefixes):
            module = checkpoint.parts.get(part)
            if module is None:
                if part not in checkpoint.index:
                    raise ValueError(f"its weights are for {part}")
                continue
            given = {"prefix": part, "adapter_name": name, "network_alphas": alphas, "metadata": metadata}
            if part.startswith("text_encoder"):
                pipeline.load_lora_into_text_encoder(state, text_encoder=module, **given)
            else:
                module.load_lora_adapter(state, **given)
            fits = True
    except (ValueError, RuntimeError, KeyError, AttributeError, TypeError) as odd:
        said = " ".join(str(odd).split())
        raise ValueError(f"the LoRA '{lora.model.reference}' was made for another base than '{checkpoint.model.reference}' ({checkpoint.kind}): {said[:200]}") from odd
    return fits


# --- textual inversion -----------------------------------------------------------------------------------------------------------


def _put_on_embedding(pipeline: Any, checkpoint: Checkpoint, embedding: Adapter) -> None:
    from safetensors.torch import load_file

    if not hasattr(pipeline, "load_textual_inversion"):
        raise ValueError(f"{type(pipeline).__name__} takes no textual inversion")
    state = load_file(embedding.file())
    token = token_of(embedding)
    pairs = [("text_encoder", "tokenizer", state.get("clip_l")), ("text_encoder_2", "tokenizer_2", state.get("clip_g"))]
    if all(vectors is None for *_, vectors in pairs):
        pairs = [("text_encoder", "tokenizer", state.get("emb_params", next(iter(state.values()), None)))]
    for encoder, tokenizer, vectors in pairs:
        module = checkpoint.parts.get(encoder)
        if vectors is None or module is None:
            continue
        width = module.get_input_embeddings().weight.shape[-1]
        if vectors.shape[-1] != width:
            raise ValueError(
                f"the embedding '{embedding.model.reference}' was made for another base than '{checkpoint.model.reference}': its vectors have {vectors.shape[-1]} numbers, and {encoder}'s {width}"
            )
        pipeline.load_textual_inversion(vectors, token=token, tokenizer=checkpoint.parts[tokenizer], text_encoder=module)


def _take_off_embedding(pipeline: Any, embedding: Adapter) -> None:
    for encoder, tokenizer in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
        reader, module = getattr(pipeline, tokenizer, None), getattr(pipeline, encoder, None)
        if reader is None or module is None:
            continue
        token = token_of(embedding)
        tokens = [added.content for added in reader.added_tokens_decoder.values() if added.content == token or added.content.startswith(f"{token}_")]
        if tokens:
            pipeline.unload_textual_inversion(tokens=tokens, tokenizer=reader, text_encoder=module)


def token_of(embedding: Adapter) -> str:
    """The word that stands for an embedding in a prompt: its file's name, or its folder's, in angle brackets."""
    name = Path(embedding.model.reference.removesuffix(" (tiny)").partition("@")[0]).name
    return f"<{name.removesuffix('.safetensors')}>"


# --- IP-Adapter ------------------------------------------------------------------------------------------------------------------


def _put_on_ip_adapter(pipeline: Any, checkpoint: Checkpoint, adapter: Adapter, scale: float, name: str | None) -> None:
    if not hasattr(pipeline, "load_ip_adapter"):
        raise ValueError(f"{type(pipeline).__name__} takes no IP-Adapter")
    file = adapter.file(name)
    if getattr(pipeline, "image_encoder", None) is None:
        encoder, processor = _image_encoder(pipeline, checkpoint, adapter, file)
        pipeline.register_modules(image_encoder=encoder, feature_extractor=processor)
    try:
        pipeline.load_ip_adapter(str(file.parent), subfolder="", weight_name=file.name, image_encoder_folder=None, local_files_only=True)
    except (ValueError, RuntimeError, KeyError, AttributeError) as odd:
        said = " ".join(str(odd).split())
        raise ValueError(f"the IP-Adapter '{adapter.model.reference}' was made for another base than '{checkpoint.model.reference}' ({checkpoint.kind}): {said[:200]}") from odd
    pipeline.set_ip_adapter_scale(scale)


def _image_encoder(pipeline: Any, checkpoint: Checkpoint, adapter: Adapter, file: Path) -> tuple[Any, Any]:
    """Load the image encoder that comes with an adapter, once: beside its file or, for the adapters that say so in their name, the smaller one of the same collection."""
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    places = [file.parent / "image_encoder", adapter.model.path / "models" / "image_encoder"]
    if "vit-h" in file.name:
        places.reverse()
    folder = next((place for place in places if (place / "config.json").is_file()), None)
    if folder is None:
        raise ValueError(f"neither the model '{checkpoint.model.reference}' nor the IP-Adapter '{adapter.model.reference}' has an image encoder")
    with adapter.lock:
        if str(folder) not in adapter.encoders:
            dtype = str(pipeline.dtype).removeprefix("torch.")
            adapter.encoders[str(folder)] = load_part(
                CLIPVisionModelWithProjection, adapter.model, folder.relative_to(adapter.model.path).as_posix(), device=str(checkpoint.device), dtype=dtype
            )
        encoder = adapter.encoders[str(folder)]
    side = encoder.config.image_size
    return encoder, CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def need(library: str, what: str, *, extra: str = "adapters") -> None:
    """Say which library to install where one is missing."""
    from importlib.util import find_spec

    if find_spec(library) is None:
        raise flow.ModelError(f"{what} needs the library {library}, which is not installed: pip install 'imagen-flow[{extra}]'")


@contextmanager
def skipping(checkpoint: Checkpoint, clip_skip: int | None) -> Iterator[None]:
    """Let Stable Diffusion's pipelines find CLIP's last norm where they look for it: transformers 5 took away the level that it lay below. Whoever calls holds the checkpoint alone."""
    encoder = checkpoint.parts.get("text_encoder")
    if clip_skip is None or encoder is None or hasattr(encoder, "text_model") or not hasattr(encoder, "final_layer_norm"):
        yield
        return
    # Not as a submodule: a module that held itself could not be walked.
    encoder.__dict__["text_model"] = encoder
    try:
        yield
    finally:
        del encoder.__dict__["text_model"]
