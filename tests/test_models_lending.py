"""The pool shares what is equal, drops what is needed last, and lends anew on the level that helps
when memory runs out.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from imagen_flow import loaders
from imagen_flow._models import (
    Identity,
    ModelPool,
    default_budget,
    estimate,
    identities_of,
    identity_of,
    lend_and_call,
    parse_reference,
    quiet_libraries,
    resolve,
)
from imagen_flow._models import pool as pool_module
from imagen_flow._models.files import needed_files, variants
from imagen_flow._types.digest import digest_file
from imagen_flow._types.models import Loading, Model
from imagen_flow.errors import ModelError


class Thing:
    """A loaded model of the tests."""

    def __init__(self, *what: Any) -> None:
        self.what = what


def loader_of(
    log: list[Any], *, settings: tuple[str, ...] = (), name: str = "Loader", **more: Any
) -> Any:
    """A loader that writes down what it is asked for."""

    class Loader(loaders.Loader):
        def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Thing:
            log.append((model.digest, device, dtype, settings))
            return Thing(model.digest, dtype, settings)

    Loader.settings = settings
    Loader.__qualname__ = name
    for method, value in more.items():
        setattr(Loader, method, staticmethod(value))
    return Loader()


def model(name: str, **parts: str) -> Model:
    return Model(Path("/nowhere") / name, name, f"./{name}", tuple(sorted(parts.items())))


# --- identity
# ------------------------------------------------------------------------------------------------------------------


def test_models_that_agree_in_what_a_loader_reads_are_one() -> None:
    """Two checkpoints with one text encoder share it; a loader that reads more sees two; the same
    part under another loader is another.
    """
    log: list[Any] = []
    text = loader_of(log, name="Text", folders=lambda model: ("text_encoder",))
    whole = loader_of(log, name="Whole")
    first, second, third = (
        model("a", text_encoder="t1", unet="u1"),
        model("b", text_encoder="t1", unet="u2"),
        model("c", text_encoder="t2", unet="u2"),
    )
    with ModelPool() as pool:
        with (
            pool.lease(text, first, device="cpu", dtype="float32") as one,
            pool.lease(text, second, device="cpu", dtype="float32") as two,
        ):
            assert one is two
        with (
            pool.lease(text, third, device="cpu", dtype="float32") as three,
            pool.lease(text, first, device="cpu", dtype="float16") as four,
        ):
            assert len({id(one), id(three), id(four)}) == 3
        with (
            pool.lease(whole, first, device="cpu", dtype="float32") as one,
            pool.lease(whole, second, device="cpu", dtype="float32") as two,
        ):
            assert one is not two
    assert [name for name, *_ in log] == ["a", "c", "a", "a", "b"]


def test_a_part_whose_files_nobody_digested_is_its_models_own() -> None:
    """A model that a node trained names no parts: it is told apart by its whole fingerprint."""
    text = loader_of([], folders=lambda model: ("text_encoder",))
    assert identity_of(text, model("a"), device="cpu", dtype="float32").fingerprint == "a"
    assert identity_of(text, model("a", unet="u"), device="cpu", dtype="float32").fingerprint == "a"


def test_parts_are_named_by_what_they_hold(tmp_path: Path) -> None:
    """The folders below a model have digests of their own: equal ones are equal wherever they lie."""
    import numpy as np
    from safetensors.numpy import save_file

    for name, fill in (("a", 1), ("b", 2)):
        for part, value in (("text_encoder", 0), ("unet", fill)):
            (tmp_path / name / part).mkdir(parents=True)
            save_file(
                {"w": np.full(3, value, "float32")}, tmp_path / name / part / "model.safetensors"
            )
    a, b = (
        dict(resolve(f"./{name}", folder=tmp_path, embedded={}, digest=digest_file).parts)
        for name in "ab"
    )
    assert a["text_encoder"] == b["text_encoder"]
    assert a["unet"] != b["unet"]


def test_settings_that_a_loader_does_not_use_make_no_difference() -> None:
    """Asked for a quantisation that it knows nothing of, a loader loads one object; what it uses
    makes another.
    """
    log: list[Any] = []
    deaf = loader_of(log, name="Deaf")
    keen = loader_of(log, name="Keen", settings=("quantization",))
    asked = Loading(quantization="int8", attention="flash")
    with ModelPool() as pool:
        with (
            pool.lease(deaf, model("a"), device="cpu", dtype="float32") as one,
            pool.lease(deaf, model("a"), device="cpu", dtype="float32", settings=asked) as two,
        ):
            assert one is two
        with (
            pool.lease(keen, model("a"), device="cpu", dtype="float32") as one,
            pool.lease(keen, model("a"), device="cpu", dtype="float32", settings=asked) as two,
        ):
            assert one is not two
    assert [settings for *_, settings in log] == [
        Loading(),
        Loading(),
        Loading(quantization="int8"),
    ]


def test_what_a_loader_of_parts_will_lease_can_be_planned() -> None:
    """Its identities are those of its parts, in order."""
    one = loader_of([], name="One", settings=("offload",))
    two = loader_of([], name="Two")
    whole = loader_of([], parts=lambda model: {"one": one, "two": two})
    named = identities_of(
        whole, model("a"), device="cpu", dtype="float32", settings=Loading(offload="model")
    )
    assert [(i.loader.rpartition(".")[2], i.settings) for i in named] == [
        ("One", Loading(offload="model")),
        ("Two", Loading()),
    ]


# --- memory
# --------------------------------------------------------------------------------------------------------------------


def test_a_pool_has_a_budget_unless_it_is_given_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of the machine's memory, or of the container's if that is less; of a GPU that is not
    there nothing is known.
    """
    here = default_budget("cpu")
    assert here is not None and 0 < here < pool_module._memory()
    assert default_budget("cuda:97") is None
    monkeypatch.setattr(pool_module, "_memory", lambda: 100)
    sizes = {"a": 30, "b": 25, "c": 20}
    loader = loader_of([], disk_bytes=lambda model: sizes[model.digest])
    with ModelPool() as pool:
        for name in "abc":
            with pool.lease(loader, model(name), device="cpu", dtype="float32"):
                pass
        assert [i.fingerprint for i in pool.resident()] == ["b", "c"]
        assert pool.weighs() == {"cpu": 45}


def test_a_model_weighs_what_its_dtype_makes_of_it(tmp_path: Path) -> None:
    """The same files take half the memory in half precision; a loader that reads a part weighs that
    part, and one that says its size on the disk is believed in proportion.
    """
    import numpy as np
    from safetensors.numpy import save_file

    for part, count in (("unet", 3000), ("vae", 1000)):
        (tmp_path / "m" / part).mkdir(parents=True)
        save_file({"w": np.zeros(count, "float32")}, tmp_path / "m" / part / "model.safetensors")
    held = resolve("./m", folder=tmp_path, embedded={}, digest=digest_file)
    said = estimate(held, "float32").disk_bytes
    with ModelPool() as pool:
        for loader in (
            loader_of([]),
            loader_of([], folders=lambda model: ("vae",)),
            loader_of([], disk_bytes=lambda model: said // 2),
        ):
            with pool.lease(loader, held, device=str(id(loader)), dtype="float16"):
                pass
        assert sorted(pool.weighs().values()) == [2000, 4000, 8000]


# --- when memory runs out under a step
# -------------------------------------------------------------------------------------------


def out_of_memory() -> Exception:
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


EXACT = ("evict", "offload", "stream")
ALL = (*EXACT, "slice", "tile", "half")


def lent(
    loader: Any,
    levels: tuple[str, ...],
    *,
    fails: int,
    error: Exception | None = None,
    device: str = "cuda:0",
    dtype: str = "float32",
    steps_down: bool = False,
    settings: Loading | None = None,
) -> Any:
    """Lend to a call that fails so often; give what it saw each time, the levels it took, and what
    is loaded.
    """
    seen: list[Any] = []

    def call(models: dict[str, Any], taken: tuple[str, ...]) -> str:
        seen.append((taken, models["m"].what[1:]))
        if len(seen) <= fails:
            raise error or out_of_memory()
        return "picture"

    with ModelPool(budget_bytes=10**9) as pool:
        with pool.lease(loader_of([]), model("idle"), device=device, dtype=dtype):
            pass
        try:
            result = lend_and_call(
                pool,
                {"m": (loader, model("a"))},
                call,
                device=device,
                dtype=dtype,
                levels=levels,
                steps_down=steps_down,
                settings=settings or Loading(),
            )
        except Exception as fault:
            result = (type(fault).__name__, ())
        return seen, result, [(i.fingerprint, i.dtype, i.settings.offload) for i in pool.resident()]


def test_the_levels_are_taken_in_turn_and_the_models_loaded_anew_for_them() -> None:
    """Others give way first, then the model itself is loaded offloaded, then the node does with
    less, then half precision; what was loaded before is gone.
    """
    seen, result, loaded = lent(loader_of([], settings=("offload",)), ALL, fails=6, steps_down=True)
    assert seen == [
        ((), ("float32", Loading())),
        (("evict",), ("float32", Loading())),
        (("evict", "offload"), ("float32", Loading(offload="model"))),
        (("evict", "offload", "stream"), ("float32", Loading(offload="layers"))),
        (("evict", "offload", "stream", "slice"), ("float32", Loading(offload="layers"))),
        (("evict", "offload", "stream", "slice", "tile"), ("float32", Loading(offload="layers"))),
        (ALL, ("float16", Loading(offload="layers"))),
    ]
    assert result == ("picture", ALL)
    assert loaded == [("a", "float16", "layers")]


def test_what_nobody_leases_gives_way_while_the_models_of_the_step_stay() -> None:
    """The first thing to give way is what no step uses now; the call is repeated as it was."""
    seen, result, loaded = lent(loader_of([]), ("evict",), fails=1)
    assert [settings for _, settings in seen] == [("float32", Loading())] * 2
    assert (result, loaded) == (("picture", ("evict",)), [("a", "float32", "none")])


@pytest.mark.parametrize(("device", "dtype"), [("cpu", "bfloat16"), ("cuda:0", "float16")])
def test_half_precision_is_what_the_device_computes_in(device: str, dtype: str) -> None:
    """A processor computes in bfloat16, which has the range of float32; a GPU in float16."""
    seen, _, loaded = lent(loader_of([]), ("half",), fails=1, device=device)
    assert [given for _, (given, _) in seen] == ["float32", dtype]
    assert loaded == [("a", dtype, "none")]


@pytest.mark.parametrize(
    ("given", "levels", "taken"),
    [
        ({}, EXACT, ("evict",)),  # a loader that uses no offload
        # the host is where it would wait
        ({"acts_on": ("offload",), "device": "cpu"}, EXACT, ("evict",)),
        ({"acts_on": ("offload",)}, (), ()),
        (
            {"acts_on": ("offload",), "settings": Loading(offload="model")},
            EXACT,
            ("evict", "stream"),
        ),
        ({"acts_on": ("offload",), "settings": Loading(offload="layers")}, EXACT, ("evict",)),
        # half already, and the node itself cannot do with less
        ({"dtype": "float16"}, ALL, ("evict",)),
        ({"dtype": "float32"}, ALL, ("evict", "half")),
        ({"steps_down": True, "dtype": "bfloat16"}, ALL, ("evict", "slice", "tile")),
    ],
)
def test_a_level_that_cannot_help_is_not_tried(
    given: dict[str, Any], levels: tuple[str, ...], taken: tuple[str, ...]
) -> None:
    """The call is repeated only when something about it is other than before; in the end its own
    error is raised.
    """
    loader = loader_of([], settings=given.pop("acts_on", ()))
    seen, result, _ = lent(loader, levels, fails=99, **given)
    assert result == ("OutOfMemoryError", ())
    assert [said for said, _ in seen] == [taken[:i] for i in range(len(taken) + 1)]


@pytest.mark.parametrize(
    "message",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "MPS backend out of memory",
    ],
)
def test_a_plain_error_that_says_so_is_out_of_memory(message: str) -> None:
    """The libraries below torch say it in words only."""
    _, result, _ = lent(loader_of([]), EXACT, fails=1, error=RuntimeError(message))
    assert result == ("picture", ("evict",))


def test_another_error_takes_no_level() -> None:
    """Nothing is dropped or loaded anew for a fault of another kind."""
    seen, result, loaded = lent(
        loader_of([], settings=("offload",)), ALL, fails=1, error=ValueError("no")
    )
    assert (len(seen), result) == (1, ("ValueError", ()))
    assert {name for name, *_ in loaded} == {"a", "idle"}


def test_a_model_that_does_not_fit_is_loaded_on_a_lower_level() -> None:
    """Loading itself runs out of memory: the models are loaded as the next level that helps says."""
    log: list[Any] = []

    class Tight(loaders.Loader[Any]):
        settings = ("offload",)

        def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> str:
            log.append(settings.offload)
            if settings.offload != "layers":
                raise out_of_memory()
            return "fits"

    with ModelPool(budget_bytes=10**9) as pool:
        result = lend_and_call(
            pool,
            {"m": (Tight(), model("a"))},
            lambda models, taken: models["m"],
            device="cuda:0",
            dtype="float16",
            levels=EXACT,
        )
        assert result == ("fits", EXACT)
        # Loading tries once more by itself each time: idle models may have stood in the way.
        assert log == ["none"] * 4 + ["model"] * 2 + ["layers"]
        with pytest.raises(ModelError) as caught:
            lend_and_call(
                pool,
                {"m": (Tight(), model("b"))},
                lambda models, taken: models["m"],
                device="cuda:0",
                dtype="float16",
                levels=("evict",),
            )
    assert str(caught.value) == "there is not enough memory on cuda:0 for the model './b'"


def test_what_was_lent_is_let_go_before_it_is_loaded_anew() -> None:
    """The offloaded model is loaded when the other is gone from memory, not beside it."""
    import gc
    import weakref

    alive: list[Any] = []
    before: list[int] = []

    class Loader(loaders.Loader[Any]):
        settings = ("offload",)

        def load(self, model: Model, *, device: str, dtype: str, settings: Loading) -> Thing:
            gc.collect()
            before.append(sum(ref() is not None for ref in alive))
            thing = Thing(settings)
            alive.append(weakref.ref(thing))
            return thing

    def call(models: dict[str, Any], taken: tuple[str, ...]) -> str:
        if "stream" not in taken:
            raise out_of_memory()
        return "picture"

    with ModelPool(budget_bytes=10**9) as pool:
        lend_and_call(
            pool,
            {"m": (Loader(), model("a")), "list": (Loader(), [model("b"), model("c")])},
            call,
            device="cuda:0",
            dtype="float16",
            levels=EXACT,
        )
    assert before == [0, 1, 2] * 3


def test_a_list_of_models_is_lent_as_a_list() -> None:
    """In its order."""
    with ModelPool() as pool:
        result, taken = lend_and_call(
            pool,
            {"m": (loader_of([]), [model("b"), model("a")])},
            lambda models, taken: [thing.what[0] for thing in models["m"]],
            device="cpu",
            dtype="float32",
        )
    assert (result, taken) == (["b", "a"], ())


def test_attention_is_what_the_settings_say_while_the_step_runs() -> None:
    """Where a loader uses it: torch has that implementation alone, and all of them again
    afterwards, also after a failure.
    """
    from torch.backends import cuda

    def enabled() -> tuple[bool, bool, bool]:
        return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()

    before, seen = enabled(), []

    def call(models: dict[str, Any], taken: tuple[str, ...]) -> None:
        seen.append(enabled())
        if len(seen) == 2:
            raise ValueError("no")

    with ModelPool() as pool:
        for acts_on in (("attention",), ("attention",), ()):
            try:
                lend_and_call(
                    pool,
                    {"m": (loader_of([], settings=acts_on), model("a"))},
                    call,
                    device="cpu",
                    dtype="float32",
                    settings=Loading(attention="math"),
                )
            except ValueError:
                pass
            assert enabled() == before
    assert seen == [(False, False, True), (False, False, True), before]


def test_a_module_is_compiled_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is placed, whatever the device."""
    import torch

    from imagen_flow.loaders import place_module

    compiled: list[str] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__)
    )
    place_module(torch.nn.Linear(1, 1), device="cpu", settings=Loading(compile=True))
    place_module(torch.nn.ReLU(), device="cpu", settings=Loading())
    assert compiled == ["Linear"]


# --- quiet
# ---------------------------------------------------------------------------------------------------------------------


def test_the_libraries_bars_are_silent_while_loading_and_as_they_were_afterwards() -> None:
    """Also where two threads load at once and the first to begin is the first to end; a user's
    choice to have none is kept.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    entered, leave = threading.Event(), threading.Event()

    def first() -> None:
        with quiet_libraries():
            entered.set()
            assert leave.wait(10)

    assert transformers_logging.is_progress_bar_enabled()
    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(10)
    with quiet_libraries():
        leave.set()
        thread.join(10)
        assert not transformers_logging.is_progress_bar_enabled()
        assert not diffusers_logging.is_progress_bar_enabled()
    assert transformers_logging.is_progress_bar_enabled()
    diffusers_logging.disable_progress_bar()
    try:
        with quiet_libraries():
            pass
        assert not diffusers_logging.is_progress_bar_enabled()
    finally:
        diffusers_logging.enable_progress_bar()


def test_silence_imports_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not imported draws nothing."""
    monkeypatch.delitem(sys.modules, "diffusers.utils.logging", raising=False)
    with quiet_libraries():
        pass
    assert "diffusers.utils.logging" not in sys.modules


# --- references and files
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts", "spelt"),
    [
        (
            "hf:org/name@main/a.safetensors",
            ("org/name", "main", "a.safetensors"),
            "hf:org/name@main/a.safetensors",
        ),
        (
            "hf:org/name@refs/pr/3/unet/a b.safetensors",
            ("org/name", "refs/pr/3", "unet/a b.safetensors"),
            "hf:org/name@refs/pr/3/unet/a b.safetensors",
        ),
        (
            "hf:org/name@feature%2Fx/a.gguf",
            ("org/name", "feature/x", "a.gguf"),
            "hf:org/name@feature%2Fx/a.gguf",
        ),
        ("hf:org/name@feature/x", ("org/name", "feature/x", ""), "hf:org/name@feature/x"),
        (
            "hf:org/name/sub/a.safetensors",
            ("org/name", "", "sub/a.safetensors"),
            "hf:org/name@main/sub/a.safetensors",
        ),
        ("hf:org/name", ("org/name", "", ""), "hf:org/name@main"),
    ],
)
def test_a_file_in_a_repository_is_named_after_the_revision(
    text: str, parts: tuple[str, str, str], spelt: str
) -> None:
    """And every reference has one spelling, which is itself a reference to the same."""
    reference = parse_reference(text)
    assert (reference.name, reference.revision, reference.file) == parts
    assert str(reference) == spelt
    assert str(parse_reference(spelt)) == spelt


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("hf:org/name@a.safetensors", "it stands after a revision: hf:org/name@main/a.safetensors"),
        (
            "hf:org/name@main/../../a.safetensors",
            "write it as hf:org/name@main/folder/file.safetensors",
        ),
        ("hf:org/name@main//a.safetensors", "write it as hf:org/name@main/folder/file.safetensors"),
        (
            "hf:org/name@refs/pr/a.safetensors",
            "it stands after a revision: hf:org/name@main/a.safetensors",
        ),
        (
            "https://huggingface.co/org/name/blob/main/a.safetensors",
            "write 'hf:org/name@main/a.safetensors'",
        ),
        ("https://huggingface.co/org/name/resolve/v1/b/a.gguf", "write 'hf:org/name@v1/b/a.gguf'"),
    ],
)
def test_a_file_that_is_spelt_otherwise_is_offered_the_spelling(text: str, fix: str) -> None:
    """Addresses of the hub's pages are turned into references."""
    with pytest.raises(ValueError) as caught:
        parse_reference(text)
    assert caught.value.fix == fix  # type: ignore[attr-defined]


SDXL = [
    "model_index.json",
    "README.md",
    "sd_xl_base_1.0.safetensors",
    "sd_xl_base_1.0_0.9vae.safetensors",
    "sd_xl_offset_example-lora_1.0.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.onnx",
    "text_encoder/flax_model.msgpack",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/openvino_model.xml",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "vae_decoder/model.onnx",
    "vae_1_0/config.json",
    "vae_1_0/diffusion_pytorch_model.safetensors",
]


def test_of_a_real_repository_one_copy_is_needed() -> None:
    """As SDXL is laid out: the parts, once, without other libraries' formats."""
    plain = [name for name in needed_files(SDXL) if name.endswith(".safetensors")]
    assert plain == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "vae_1_0/diffusion_pytorch_model.safetensors",
    ]
    halves = [name for name in needed_files(SDXL, "fp16") if name.endswith(".safetensors")]
    assert halves == [
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae_1_0/diffusion_pytorch_model.safetensors",
    ]
    assert variants(SDXL) == ["fp16"]
    assert not {"README.md", "text_encoder/model.onnx", "text_encoder/flax_model.msgpack"} & set(
        needed_files(SDXL)
    )


@pytest.mark.parametrize(
    ("names", "variant", "chosen"),
    [
        (
            [
                "t/model.fp16-00001-of-00002.safetensors",
                "t/model.fp16-00002-of-00002.safetensors",
                "t/model-00001-of-00002.safetensors",
                "t/model-00002-of-00002.safetensors",
                "t/model.safetensors.index.fp16.json",
                "t/model.safetensors.index.json",
                "model_index.json",
            ],
            None,
            [
                "model_index.json",
                "t/model-00001-of-00002.safetensors",
                "t/model-00002-of-00002.safetensors",
                "t/model.safetensors.index.json",
            ],
        ),
        (
            [
                "t/model-00001-of-00002.fp16.safetensors",
                "t/model-00002-of-00002.fp16.safetensors",
                "t/model.safetensors",
            ],
            "fp16",
            ["t/model-00001-of-00002.fp16.safetensors", "t/model-00002-of-00002.fp16.safetensors"],
        ),
        (
            ["unet/diffusion_pytorch_model.fp16.safetensors", "unet/config.json"],
            None,
            ["unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"],
        ),
        (
            ["flux1-dev.v2.safetensors", "style.a.safetensors", "style.b.safetensors"],
            None,
            ["flux1-dev.v2.safetensors", "style.a.safetensors", "style.b.safetensors"],
        ),
        (
            [
                "config.json",
                "model.safetensors",
                "consolidated.safetensors",
                "tokenizer.json",
                "onnx/model.safetensors",
            ],
            None,
            ["config.json", "model.safetensors", "tokenizer.json"],
        ),
        ([".cache/x.json", "a/.hidden/b.json", "model.gguf"], None, ["model.gguf"]),
    ],
)
def test_variants_shards_and_strangers_are_told_apart(
    names: list[str], variant: str | None, chosen: list[str]
) -> None:
    """A dot in a name makes no variant by itself; an only copy is taken whatever it is called."""
    assert needed_files(names, variant) == chosen


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"GG", "it does not begin with 'GGUF'"),
        (b"GGUF" + bytes(20), "it says version 0 with 0 tensors"),
        (b"GGUF\x03\0\0\0\x01", "it says version 3 with 1 tensors"),
    ],
)
def test_a_torn_gguf_is_told_when_planning(tmp_path: Path, content: bytes, why: str) -> None:
    """By its first bytes; a whole one is a model."""
    from imagen_flow._models import UnusableModel

    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(UnusableModel) as caught:
        resolve("./a.gguf", folder=tmp_path, embedded={}, digest=digest_file)
    assert (str(caught.value), caught.value.why) == (
        "the model './a.gguf' is damaged: a.gguf is not a complete GGUF file",
        why,
    )
    import numpy as np

    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "flux")
    writer.add_tensor("w", np.ones((4, 64), np.float32))
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    held = resolve("./a.gguf", folder=tmp_path, embedded={}, digest=digest_file)
    whole = (tmp_path / "a.gguf").read_bytes()
    assert estimate(held, "float16").memory_bytes == len(whole)
    (tmp_path / "a.gguf").write_bytes(whole[:-100])
    with pytest.raises(UnusableModel, match="a.gguf is not a complete GGUF file"):
        resolve("./a.gguf", folder=tmp_path, embedded={}, digest=digest_file)


def test_a_folder_that_lacks_a_part_is_not_whole(tmp_path: Path) -> None:
    """model_index.json says what there must be: a download that broke off is told when planning."""
    from safetensors.numpy import save_file

    from imagen_flow._models import UnresolvedModel

    (tmp_path / "m" / "unet").mkdir(parents=True)
    save_file({}, tmp_path / "m" / "unet" / "model.safetensors")
    (tmp_path / "m" / "model_index.json").write_text(
        '{"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"], "safety_checker": [null, null], "force": false}'
    )
    with pytest.raises(UnresolvedModel) as caught:
        resolve("./m", folder=tmp_path, embedded={}, digest=digest_file)
    assert (str(caught.value), caught.value.why) == (
        "unresolved: './m' is not whole",
        "model_index.json names 2 parts, and there is no vae",
    )


def test_an_identity_sorts_and_hashes() -> None:
    """So that what is resident can be listed."""
    a, b = (
        Identity("a", "L", "cpu", "float32"),
        Identity("a", "L", "cpu", "float32", Loading(compile=True)),
    )
    assert sorted({b, a, a}) == [a, b]
