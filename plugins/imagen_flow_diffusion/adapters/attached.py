"""Attach LoRAs, textual inversions and IP-Adapters to a loaded checkpoint for one call.

Loaded models are shared, so everything is detached again, and the base's own weights are never
written to: the next call finds them as they were loaded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import imagen_flow as flow
from imagen_flow import Image, List, Model, Range, loaders
from imagen_flow.loaders import Leased, Loader

from ..checkpoints.description import what_is
from ..checkpoints.placing import hooked_for
from ..loading.checkpoint import Checkpoint
from ..pipelines.calling import problem_of, to_pil
from . import lora_files
from .files import Adapter, CompanionsLoader
from .ip_adapters import attach_ip_adapters, check_adapter_names, load_encoder
from .loras import attach_loras


class LoRA(Loader[Adapter]):
    """A LoRA file, complete by its header. Files of equal content under two names are two adapters
    that share their companions, as for the other adapters.
    """

    takes_file = True

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return {"companions": CompanionsLoader()}

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Adapter:
        return Adapter(model, parts["companions"])

    def check(self, model: Model) -> None:
        try:
            if (header := Adapter(model).header()) is not None:
                lora_files.check_names(*header)
        except lora_files.NotLoRA as error:
            raise flow.ModelError(
                f"the LoRA '{model.reference}' cannot be applied: {error}"
            ) from error


class Embedding(Loader[Adapter]):
    """A textual inversion, whose name is a word of prompts."""

    takes_file = True

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return {"companions": CompanionsLoader()}

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Adapter:
        return Adapter(model, parts["companions"])

    def significant_name(self, model: Model) -> str:
        return token_of(model)

    def check(self, model: Model) -> None:
        if (header := Adapter(model).header()) is not None:
            _refuse_other(model, header[0])


class IPAdapter(Loader[Adapter]):
    """An IP-Adapter, complete by its header if it is one file; of a collection of files, the node
    names one.
    """

    takes_file = True

    def parts(self, model: Model) -> dict[str, Loader[Any]]:
        return {"companions": CompanionsLoader()}

    def assemble(self, model: Model, parts: Mapping[str, Any]) -> Adapter:
        return Adapter(model, parts["companions"])

    def check(self, model: Model) -> None:
        if model.path.is_file() and (header := Adapter(model).header()) is not None:
            try:
                check_adapter_names(f"the IP-Adapter '{model.reference}'", header[0])
            except ValueError as error:
                raise flow.ModelError(str(error)) from error


class ImageEncoder(Loader[Any]):
    """What reads a picture for an IP-Adapter that does not bring its own: a folder with CLIP's
    image encoder, alone or with its text encoder.
    """

    TAKES = ("CLIPModel", "CLIPVisionModel", "CLIPVisionModelWithProjection")

    def check(self, model: Model) -> None:
        if (kind := what_is(model)) not in ImageEncoder.TAKES:
            raise problem_of(
                model, "the port 'ip_encoder'", kind, f"one of {', '.join(ImageEncoder.TAKES)}"
            )

    def load(self, model: Model, *, device: str, dtype: str, settings: loaders.Loading) -> Any:
        self.check(model)
        return load_encoder(model, "", device=device, dtype=dtype)

    def disk_bytes(self, model: Model) -> int:
        return loaders.size_of(model, "")


@flow.record
class LoRAUse:
    """A LoRA, and how much of it is applied."""

    model: Annotated[Adapter, Leased(LoRA)]
    weight: Annotated[float, Range(-10, 10)] = 1.0


@flow.record
class IPAdapterUse:
    """An IP-Adapter, and the picture or pictures that it reads as a prompt."""

    model: Annotated[Adapter, Leased(IPAdapter)]
    image: Image | List[Image]
    scale: Annotated[float, Range(-10, 10)] = 1.0
    file: str | None = None


@dataclass(frozen=True)
class AttachedAdapters:
    """The adapters that a node attaches to a checkpoint."""

    loras: Sequence[LoRAUse] = ()
    embeddings: Sequence[Adapter] = ()
    ip_adapters: Sequence[IPAdapterUse] = ()
    ip_encoder: Any = None
    #: Notes for the user, collected while they are attached.
    notes: list[str] = field(default_factory=list)


@contextmanager
def attach_adapters(
    pipeline: Any, checkpoint: Checkpoint, attached: AttachedAdapters
) -> Iterator[dict[str, Any]]:
    """Attach adapters to a pipeline and remove them at the end, whatever happens. The caller holds
    the checkpoint's lock.

    Outputs: further arguments of the call. What of the adapters cannot be applied is added to the
        notes of `attached`.
    Raises:
        ValueError: an adapter does not fit, or too little or too much is given.
    """
    _check(attached)
    arguments: dict[str, Any] = {}
    changed = (
        list(checkpoint.parts.values())
        if attached.loras or attached.embeddings or attached.ip_adapters
        else []
    )
    streamed = any(
        getattr(getattr(layer, "_hf_hook", None), "offload", False)
        for part in changed
        if hasattr(part, "modules")
        for layer in part.modules()
    )
    _refuse_hooked(changed)
    stack = ExitStack()
    try:
        with loaders.at_rest(changed):
            if attached.loras:
                loaders.require_library("peft", "a LoRA", extra="adapters")
                attached.notes.extend(
                    stack.enter_context(
                        attach_loras(
                            pipeline,
                            checkpoint,
                            [lora.model for lora in attached.loras],
                            [lora.weight for lora in attached.loras],
                            streamed=streamed,
                        )
                    )
                )
            for embedding in attached.embeddings:
                stack.enter_context(_attach_embedding(pipeline, checkpoint, embedding))
            if attached.ip_adapters:
                ip_adapters = attach_ip_adapters(
                    pipeline,
                    checkpoint,
                    [use.model for use in attached.ip_adapters],
                    names=[use.file for use in attached.ip_adapters],
                    scales=[use.scale for use in attached.ip_adapters],
                    encoder=attached.ip_encoder,
                )
                attached.notes.extend(stack.enter_context(ip_adapters))
                # Several pictures for one adapter are a list in the list.
                arguments["ip_adapter_image"] = [
                    to_pil(use.image)
                    if isinstance(use.image, Image)
                    else list(map(to_pil, use.image))
                    for use in attached.ip_adapters
                ]
        yield arguments
    finally:
        with loaders.at_rest(changed):
            stack.close()


def _refuse_hooked(parts: Sequence[Any]) -> None:
    """Refuse networks whose layers diffusers casts, or brings in groups: the layers of an adapter
    would be neither.
    """
    for part in parts:
        if asked := hooked_for(part):
            raise ValueError(f"adapters do not go with {asked}; leave out one of them")


def _check(attached: AttachedAdapters) -> None:
    if attached.ip_encoder is not None and not attached.ip_adapters:
        raise ValueError("its 'ip_encoder' encodes pictures for 'ip_adapters', but none are given")
    for i, use in enumerate(attached.ip_adapters):
        if not isinstance(use.image, Image) and not use.image:
            raise ValueError(f"its 'ip_adapters[{i}]' has no 'image' to read")
    words = [token_of(embedding.model) for embedding in attached.embeddings]
    if twice := sorted(
        {word for word in words if [other.lower() for other in words].count(word.lower()) > 1}
    ):
        raise ValueError(
            f"two of its 'embeddings' are called {', '.join(twice)}, and a prompt could not tell"
            " them apart: rename one's file"
        )


def with_embedding_words(attached: AttachedAdapters, texts: Mapping[str, Any]) -> dict[str, Any]:
    """Write the words of embeddings in texts as the tokenizer knows them: without capitals. A word
    that is in none is noted.

    Params:
        texts: arguments of a call by name; what is no prompt stays as it is.
    """
    found = dict(texts)
    prompts = [name for name, text in texts.items() if "prompt" in name and isinstance(text, str)]
    for embedding in attached.embeddings:
        token = token_of(embedding.model)
        spelling = re.compile(r"\s+".join(map(re.escape, token.split(" "))), re.IGNORECASE)
        composed = {name: unicodedata.normalize("NFC", found[name]) for name in prompts}
        if not any(spelling.search(text) for text in composed.values()):
            attached.notes.append(
                f"the embedding '{embedding.name}' has no effect: no prompt contains its word"
                f" {token}"
            )
        found |= {
            name: token.lower().join(spelling.split(text))
            for name, text in composed.items()
            if spelling.search(text)
        }
    return found


# --- textual inversion
# -----------------------------------------------------------------------------------------------------------


ENCODERS = {"clip_l": ("text_encoder", "tokenizer"), "clip_g": ("text_encoder_2", "tokenizer_2")}
"""The encoders that SDXL's embeddings have vectors for, by the names in their files, and their tokenizers."""


@contextmanager
def _attach_embedding(pipeline: Any, checkpoint: Checkpoint, embedding: Adapter) -> Iterator[None]:
    if not hasattr(pipeline, "load_textual_inversion"):
        raise ValueError(f"{type(pipeline).__name__} does not support textual inversion")
    # CLIP's tokenizers read no capitals, and diffusers looks for the second vector on under the
    # word that they read.
    token = token_of(embedding.model).lower()
    with ExitStack() as off:
        for (encoder, tokenizer), vectors in _vectors(embedding, checkpoint).items():
            module, reader = checkpoint.parts[encoder], checkpoint.parts[tokenizer]
            width = module.get_input_embeddings().weight.shape[-1]
            if vectors.ndim not in (1, 2) or not len(vectors) or not vectors.is_floating_point():
                what = (
                    f"{str(vectors.dtype).removeprefix('torch.')} of shape {tuple(vectors.shape)}"
                )
                raise ValueError(
                    f"the embedding '{embedding.model.reference}' is damaged or not a"
                    f" textual inversion: for {encoder} it holds {what}, and vectors are rows of"
                    " floating-point numbers"
                )
            if vectors.shape[-1] != width:
                raise ValueError(
                    f"{_other_base(embedding, checkpoint)}: its vectors have {vectors.shape[-1]}"
                    f" numbers, and {encoder}'s {width}"
                )
            if token in reader.get_vocab() or token in map(str.lower, reader.added_tokens_encoder):
                raise ValueError(
                    f"the model '{checkpoint.model.reference}' already knows the"
                    f" word {token_of(embedding.model)}: rename the file of the embedding"
                    f" '{embedding.model.reference}'"
                )
            off.enter_context(_restoring_vocabulary(pipeline, module, reader, token))
            pipeline.load_textual_inversion(
                vectors, token=token, tokenizer=reader, text_encoder=module
            )
        yield


def _vectors(embedding: Adapter, checkpoint: Checkpoint) -> dict[tuple[str, str], Any]:
    """Give an embedding's vectors by the encoder and tokenizer of a checkpoint that they are for,
    of any of the formats in use: SDXL's, diffusers' own, Automatic1111's.

    Raises:
        ValueError: it is none of them, or has none for one of SDXL's encoders.
    """
    state = embedding.read()
    wanted = {name: parts for name, parts in ENCODERS.items() if parts[0] in checkpoint.parts}
    if "StableDiffusionXL" not in checkpoint.kind:
        old = state.get("string_to_param")
        found = (
            old.get("*")
            if isinstance(old, dict)
            else state.get("emb_params", state.get("clip_l") if "clip_g" not in state else None)
        )
        if found is None and len(state) == 1:
            ((_, found),) = state.items()
        vectors = {ENCODERS["clip_l"]: found}
    else:
        vectors = {parts: state.get(name) for name, parts in wanted.items()}
    if any(not hasattr(found, "shape") for found in vectors.values()):
        names = sorted(map(str, state))
        _refuse_other(embedding.model, names)
        raise ValueError(
            f"{_other_base(embedding, checkpoint)}: it holds {', '.join(names[:4])}, and not the"
            f" vectors of one word for each of {', '.join(sorted(parts[0] for parts in vectors))}"
        )
    return vectors


def _refuse_other(model: Model, names: Sequence[str]) -> None:
    """Refuse a file that is no textual inversion of any of the formats in use.

    Raises:
        ModelError: the message says what it is.
    """
    if any(".lora" in name or ".hada_" in name or ".lokr_" in name for name in names):
        raise flow.ModelError(f"the embedding '{model.reference}' is a LoRA: give it to 'loras'")
    if not {"emb_params", "string_to_param", "clip_l", "clip_g"} & set(names) and len(names) != 1:
        raise flow.ModelError(
            f"the embedding '{model.reference}' is not a textual inversion: it holds"
            f" {', '.join(sorted(names)[:4]) or 'nothing'}"
        )


def _other_base(adapter: Adapter, checkpoint: Checkpoint) -> str:
    return (
        f"the embedding '{adapter.model.reference}' was made for a different base than"
        f" '{checkpoint.model.reference}' ({checkpoint.kind})"
    )


@contextmanager
def _restoring_vocabulary(pipeline: Any, module: Any, reader: Any, token: str) -> Iterator[None]:
    """Remove a word from an encoder and its tokenizer at the end, and restore the rows of the words
    that were there before: new words are added to a copy, in the same table.
    """
    table = module.get_input_embeddings()
    rows = table.weight.data
    try:
        yield
    finally:
        tokens = [
            added.content
            for added in reader.added_tokens_decoder.values()
            if added.content == token or added.content.startswith(f"{token}_")
        ]
        if tokens:
            pipeline.unload_textual_inversion(tokens=tokens, tokenizer=reader, text_encoder=module)
        table.weight.data = rows
        table.num_embeddings = module.config.vocab_size = len(rows)
        module.set_input_embeddings(table)


def token_of(model: Model) -> str:
    """The word that stands for an embedding in a prompt: its file's name, or its folder's, in angle
    brackets, with letters and spaces as CLIP's tokenizers read them.
    """
    reference = model.reference.removesuffix(" (tiny)")
    # Of a repository the revision comes before the file; in paths of one's own an @ is a letter.
    repository, _, inside = (
        reference.partition("@") if reference.startswith("hf:") else (reference, "", "")
    )
    named = next(
        (
            path
            for path in map(Path, (inside, repository))
            if path.suffix in (".safetensors", ".pt", ".bin")
        ),
        None,
    )
    word = unicodedata.normalize("NFC", named.stem if named else Path(repository).name)
    return re.sub(r"\s+", " ", f"<{word}>")


def _refuse_all_skipped(checkpoint: Checkpoint, clip_skip: int) -> None:
    layers = [
        part.config.num_hidden_layers
        for name, part in checkpoint.parts.items()
        if name in ("text_encoder", "text_encoder_2") and type(part).__name__.startswith("CLIPText")
    ]
    # Families with two encoders leave the last layer out of themselves.
    most = min(layers, default=clip_skip + 1) - ("text_encoder_2" in checkpoint.parts)
    if clip_skip > most:
        raise ValueError(
            f"its 'clip_skip' is {clip_skip}, and of the text encoder of"
            f" '{checkpoint.model.reference}' at most {most} layers can be left out"
        )


@contextmanager
def skip_clip_layers(checkpoint: Checkpoint, clip_skip: int | None) -> Iterator[None]:
    """Let Stable Diffusion's pipelines find CLIP's last norm where they look for it: transformers 5
    removed the module that contained it. The caller holds the checkpoint's lock.

    Raises:
        ValueError: no layer would be left.
    """
    encoder = checkpoint.parts.get("text_encoder")
    if clip_skip is not None:
        _refuse_all_skipped(checkpoint, clip_skip)
    if (
        clip_skip is None
        or encoder is None
        or hasattr(encoder, "text_model")
        or not hasattr(encoder, "final_layer_norm")
    ):
        yield
        return
    # Not as a submodule: a module that held itself could not be walked.
    encoder.__dict__["text_model"] = encoder
    try:
        yield
    finally:
        del encoder.__dict__["text_model"]
