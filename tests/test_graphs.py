"""The graphs that ship with the project: each says what it shows, plans, runs, and shows just that."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import imagen_flow as flow
from imagen_flow._models import ModelPool
from imagen_flow._store import Store
from imagen_flow._types.codec import Codecs
from imagen_flow.events import Event, RunFinished

GRAPHS = Path(__file__).parent.parent / "graphs"
NAMES = sorted(
    p.relative_to(GRAPHS).as_posix() for p in GRAPHS.rglob("*.yaml") if p.parent.name != "lines"
)
#: Those that name checkpoints of the hub: here they run on tiny ones.
REAL = [name for name in NAMES if "hf:" in (GRAPHS / name).read_text("utf-8")]
HOSTED = ["hosted.yaml"]
MAIN = [name for name in NAMES if "/" not in name and name not in [*REAL, *HOSTED]]

#: Those that write beside their inputs, in no folder of their own.
BESIDE = ("caption_folder.yaml", "caption_dataset.yaml")

#: What a shipped graph may lack on a machine where the embedded models are not trained yet.
MODELS = re.compile(r"the model 'embedded/\w+' (does not exist|has no weights)")


def need_models(*names: str) -> None:
    from imagen_flow_embedded import WEIGHTS

    for name in names:
        if not any((WEIGHTS / name).rglob("*.safetensors")):
            pytest.skip(f"embedded/{name} is not trained yet")


def models_of(name: str) -> list[str]:
    """The models that are trained here and that a graph names, those of graphs inside it too."""
    from imagen_flow_embedded import imagen_flow_models

    plan = flow.plan(GRAPHS / name, store=None)
    named = [str(m["reference"]) for m in plan.models]
    return [name.removeprefix("embedded/") for name in named if name in imagen_flow_models()]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all graphs here, so that what two of them draw alike is drawn once."""
    with Store.open(tmp_path_factory.mktemp("store"), Codecs()) as opened:
        yield opened


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graphs with few denoising steps and small pictures: what comes of them is no good picture,
    and soon there.
    """
    copied = tmp_path_factory.mktemp("quick") / "graphs"
    shutil.copytree(GRAPHS, copied)
    for path in copied.rglob("*.yaml"):
        text = re.sub(
            r"(type: (?:diffusion\.\w+|image\.edit),)",
            r"\1 num_inference_steps: 2,",
            path.read_text("utf-8"),
        )
        text = re.sub(r"\b(width|height): (?:384|512)\b", r"\1: 128", text)
        path.write_text(text, "utf-8")
    return copied


def run(path: Path, out: Path, store: Store, **inputs: Any) -> tuple[dict[str, Any], RunFinished]:
    """Run a graph and give its outputs and how it ended."""
    said: list[Event] = []
    outputs = flow.run(path, inputs, out=out, store=store, on_event=said.append)
    assert isinstance(said[-1], RunFinished)
    return outputs, said[-1]


COUNT = """
import collections, json, os, sys, time
now = time.time
time.time = lambda: now() + 10  # ten seconds after the files were written
opened = collections.Counter()
def count(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
        opened[os.path.realpath(arguments[0])] += 1
sys.addaudithook(count)
import imagen_flow as flow
for graph in sys.argv[2:]:
    flow.plan(graph, store=None, device="cpu")
print(json.dumps({name: times for name, times in opened.items() if name.startswith(sys.argv[1])}))
"""


def test_plans_of_all_graphs_read_nothing_twice() -> None:
    """One process that plans every graph here opens a file once; but a graph also for another that
    includes it, a module to import and to digest it, weights to digest them and for their header.
    """
    ran = subprocess.run(
        [sys.executable, "-B", "-c", COUNT, f"{GRAPHS.parent}/", *(str(GRAPHS / n) for n in NAMES)],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    counts = {
        name: times
        for name, times in json.loads(ran.stdout).items()
        if "/.venv/" not in name and "/__pycache__/" not in name
    }
    assert {
        name: times
        for name, times in counts.items()
        if times > 1 + name.endswith((".yaml", ".py", ".safetensors"))
    } == {}
    assert len([name for name in counts if name.endswith(".yaml")]) == len(NAMES)


def test_there_are_graphs() -> None:
    """All that the documentation names is there."""
    wanted = {
        "imagen",
        "text_to_image",
        "enlarge",
        "edit_photo",
        "caption_folder",
        "reimagine",
        "nested",
    }
    assert wanted <= {Path(name).stem for name in MAIN}


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_says_what_it_shows(name: str) -> None:
    """The first line of each graph is a comment: a whole sentence that says what it shows."""
    first = (GRAPHS / name).read_text("utf-8").partition("\n")[0]
    assert re.fullmatch(r"# [A-Z].{20,}\.", first)


@pytest.mark.parametrize("name", NAMES)
def test_a_graph_plans(name: str) -> None:
    """Each graph resolves without a warning and plans without an input; it lacks nothing but,
    perhaps, models that are not trained yet.
    """
    plan = flow.plan(GRAPHS / name, store=None)
    assert [
        str(p)
        for p in plan.problems
        if p.code != "unresolved-model" and (p.code != "bad-model" or not MODELS.match(p.message))
    ] == []
    assert name in REAL or not [p for p in plan.problems if p.code == "unresolved-model"]
    assert {s.status for s in plan.steps} <= {"runs", "waits", "unresolved"}
    assert all(i.help for n, i in plan.graph.inputs.items() if i.type.kind in ("file", "folder"))


@pytest.mark.parametrize("name", MAIN)
def test_a_graph_runs(name: str, quick: Path, store: Store, tmp_path: Path) -> None:
    """Each graph runs as it stands (with few denoising steps), gives all its outputs, writes those
    with a path, and runs again from the store alone.
    """
    need_models(*models_of(name))
    outputs, ended = run(quick / name, tmp_path, store)
    assert (ended.status, ended.failed) == ("done", 0)
    assert [n for n, value in outputs.items() if value is None] == []
    written = {
        p.relative_to(tmp_path).as_posix()
        for p in tmp_path.rglob("*")
        if p.is_file() and not p.name.endswith(".provenance.json")
    }
    wanted = sum(
        len(outputs[n]) if isinstance(outputs[n], list) and not o.whole else 1
        for n, o in flow.load(quick / name).outputs.items()
        if o.path
    )
    assert len(written) == wanted
    if name not in BESIDE:
        assert all(path.startswith(f"{Path(name).stem}/") for path in written)
    again, ended = run(quick / name, tmp_path, store)
    assert (ended.status, ended.ran) == ("done", 0)
    assert again.keys() == outputs.keys()


#: What makes the graphs of real checkpoints soon done: few steps and, where they are inputs, small
# sides.
SOON: dict[str, Any] = {
    "steps": 2,
    "prior_steps": 2,
    "large_steps": 2,
    "width": 64,
    "height": 64,
    "frames": 3,
    "per_prompt": 2,
}

#: These draw at sizes of their own, which takes long even with tiny models.
LARGE = ("kontext_edit", "qwen_edit", "upscale")


@pytest.fixture(scope="module")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tiny models are kept that several graphs share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def pool() -> Iterator[ModelPool]:
    with ModelPool() as opened:
        yield opened


def test_graphs_of_real_checkpoints_are_there() -> None:
    """Every family has its graph."""
    wanted = "adapters class controlnet controlnet_union deepfloyd_if depth film flux flux2 flux2_edit flux_canny flux_controlnet flux_fill gan hires_fix image_to_image inpaint instruct_pix2pix kandinsky kontext_edit masked_edit outpaint pixart qwen_edit qwen_image sana sd15 sd3 sdxl sdxl_adapters stable_cascade unclip unclip_variation unconditional upscale vae_sampling z_image"
    assert set(wanted.split()) <= {Path(name).stem for name in REAL}


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:diffusers",
    "ignore::FutureWarning:diffusers",
    "ignore:Already found a `peft_config`:UserWarning",
)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if Path(n).stem in LARGE else []) for n in REAL],
)
def test_a_graph_of_real_checkpoints_runs_on_tiny_ones(
    name: str,
    quick: Path,
    tiny_cache: Path,
    pool: ModelPool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `tiny` each graph plans without a problem, runs offline on small models of the same
    kind, and gives all its outputs.
    """
    monkeypatch.setenv("XDG_CACHE_HOME", str(tiny_cache))
    inputs = {key: value for key, value in SOON.items() if key in flow.load(quick / name).inputs}
    if name == "sdxl.yaml":
        inputs["steps"] = 5
    assert [str(p) for p in flow.plan(quick / name, inputs, store=None, tiny=True).problems] == []
    outputs = flow.run(
        quick / name, inputs, out=tmp_path, store=None, tiny=True, pool=pool, device="cpu"
    )
    assert [n for n, value in outputs.items() if value is None] == []
    written = sum(
        len(outputs[n]) if isinstance(outputs[n], list) else 1
        for n, o in flow.load(quick / name).outputs.items()
        if o.path and o.path.endswith(".png")
    )
    assert len(list(tmp_path.rglob("*.png"))) == written


# --- what they show
# ------------------------------------------------------------------------------------------------------------


def test_enlarge(store: Store, tmp_path: Path) -> None:
    """Enlarging by a factor gives that many times the sides, and the same things in the same
    places.
    """
    import numpy as np
    import PIL.Image

    from imagen_flow_embedded.checker import describe

    before = np.array(PIL.Image.open(GRAPHS / "samples" / "shapes.png").convert("RGB"))
    outputs, _ = run(GRAPHS / "enlarge.yaml", tmp_path, store, scale=3.0)
    after = outputs["picture"]
    assert (after.width, after.height) == (3 * before.shape[1], 3 * before.shape[0])
    then, now = describe(before).as_scene(), describe(after.rgb().as_uint8().pixels).as_scene()
    assert then is not None and now is not None
    assert [(t.size, t.colour, t.shape) for t in now.things] == [
        (t.size, t.colour, t.shape) for t in then.things
    ]


def test_safe_and_signed(store: Store, quick: Path, tmp_path: Path) -> None:
    """The file that is written has valid credentials with its seed in them, and its mark."""
    need_models("imagen")
    outputs, _ = run(quick / "safe_and_signed.yaml", tmp_path, store, seed=2**63 - 1)
    assert (outputs["safe"], outputs["watermark"]) == (True, "imagen_flow")
    check = {
        "imagen_flow": 1,
        "inputs": {"file": {"type": "file"}},
        "nodes": {
            "proof": {"type": "credentials.read", "file": "${file}"},
            "loaded": {"type": "image.load", "file": "${file}"},
            "mark": {"type": "watermark.read", "image": "${loaded}"},
        },
        "outputs": {"report": "${proof.report}", "valid": "${proof.valid}", "mark": "${mark}"},
    }
    [written] = tmp_path.rglob("*.png")
    found = flow.run(check, file=written, store=None)
    assert (found["valid"], found["mark"]) == (True, "imagen_flow")
    active = found["report"]["manifests"][found["report"]["active_manifest"]]
    assert str(2**63 - 1) in [one["data"].get("seed") for one in active["assertions"]]


def test_imagen_means_what_it_says(store: Store, tmp_path: Path) -> None:
    """The main job draws its prompt, carries out its instruction, and names what came of it: judged
    by rendering and matching, not by a model.
    """
    need_models("imagen", "edit", "caption")
    from imagen_flow_embedded.checker import describe
    from imagen_flow_embedded.world import read_caption

    outputs, _ = run(GRAPHS / "imagen.yaml", tmp_path, store)
    drawn, edited = (
        describe(outputs[name].rgb().as_uint8().pixels) for name in ("drawn", "picture")
    )
    assert (drawn.background, sorted(str(t.colour) for t in drawn.things)) == (
        "black",
        ["blue", "red"],
    )
    assert (edited.background, sorted(str(t.colour) for t in edited.things)) == (
        "black",
        ["blue", "green"],
    )
    said = read_caption(outputs["caption"])
    assert {said.get("1.colour"), said.get("2.colour")} == {"blue", "green"}
    assert said.get("background") == "black"


def test_text_to_image_means_what_it_says(store: Store, tmp_path: Path) -> None:
    """Another prompt draws another picture: its background and colours are those of the words."""
    need_models("imagen")
    from imagen_flow_embedded.checker import describe

    outputs, _ = run(GRAPHS / "text_to_image.yaml", tmp_path, store)
    found = describe(outputs["picture"].rgb().as_uint8().pixels)
    assert (found.background, sorted(str(t.colour) for t in found.things)) == (
        "white",
        ["purple", "yellow"],
    )


def test_caption_folder_means_what_it_says(store: Store, tmp_path: Path) -> None:
    """The captions of the samples name what the checker finds in them."""
    need_models("caption")
    import numpy as np
    import PIL.Image

    from imagen_flow_embedded.checker import describe
    from imagen_flow_embedded.world import read_caption

    outputs, _ = run(GRAPHS / "caption_folder.yaml", tmp_path, store)
    pictures = sorted((GRAPHS / "samples").glob("*.png"))
    assert len(outputs["captions"]) == len(pictures)
    for path, words in zip(pictures, outputs["captions"], strict=True):
        found = describe(np.array(PIL.Image.open(path).convert("RGB")))
        said = read_caption(words)
        assert said.get("background") == found.background, (path.name, words)
        assert sorted(said[k] for k in said if k.endswith("colour")) == sorted(
            str(t.colour) for t in found.things
        ), (path.name, words)


def test_caption_folder_writes_a_text_beside_each_picture(store: Store, tmp_path: Path) -> None:
    """With the folder of the pictures as output folder, x.txt lies beside x.png."""
    need_models("caption")
    pictures = tmp_path / "pictures"
    (pictures / "more").mkdir(parents=True)
    shutil.copy(GRAPHS / "samples/shapes.png", pictures / "a.png")
    shutil.copy(GRAPHS / "samples/shapes.png", pictures / "more/b.png")
    outputs, _ = run(GRAPHS / "caption_folder.yaml", pictures, store, pictures=str(pictures))
    assert [(pictures / name).read_text() for name in ("a.txt", "more/b.txt")] == [
        f"{words}\n" for words in outputs["captions"]
    ]


def test_caption_dataset_is_a_data_set(store: Store, tmp_path: Path) -> None:
    """Each line of metadata.jsonl names a picture beside it and says what it shows; a second run
    into the folder of the pictures leaves these alone.
    """
    need_models("caption")
    import json

    pictures = tmp_path / "pictures"
    (pictures / "more").mkdir(parents=True)
    shutil.copy(GRAPHS / "samples/shapes.png", pictures / "a.png")
    shutil.copy(GRAPHS / "samples/cross.png", pictures / "more/b.png")
    for out in (tmp_path / "out", pictures):
        outputs, _ = run(GRAPHS / "caption_dataset.yaml", out, store, pictures=str(pictures))
        rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
        assert [list(row) for row in rows] == [["file_name", "text"]] * 2
        assert [row["file_name"] for row in rows] == ["a.png", "more/b.png"]
        assert [row["text"] for row in rows] == [row["text"] for row in outputs["metadata"]]
        for row in rows:
            name = row["file_name"]
            assert (out / name).read_bytes() == (pictures / name).read_bytes()
        assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*.*")) == [
            "a.png",
            "metadata.jsonl",
            "more/b.png",
        ]


def test_edit_by_table_takes_the_kth_row_for_the_kth_picture(
    quick: Path, store: Store, tmp_path: Path
) -> None:
    """Each picture is edited by the instruction of its row; a table of another length is refused."""
    need_models("edit")
    outputs, _ = run(quick / "edit_by_table.yaml", tmp_path / "out", store)
    assert sorted(p.name for p in (tmp_path / "out/edit_by_table").iterdir()) == [
        "cross.png",
        "shapes.png",
    ]
    lone, _ = run(
        quick / "edit_photo.yaml",
        tmp_path / "lone",
        store,
        picture=str(GRAPHS / "samples/shapes.png"),
        instruction="make the background white, please",
        seed=4,
    )
    assert (outputs["edited"][1].pixels == lone["picture"].pixels).all()
    (tmp_path / "short.csv").write_text("instruction,seed\nmake it red,1\n")
    with pytest.raises(flow.NodeError, match="the lists of 'each' differ in length"):
        run(
            quick / "edit_by_table.yaml",
            tmp_path / "out",
            store,
            table=str(tmp_path / "short.csv"),
        )


def test_edit_photo_keeps_the_size(quick: Path, store: Store, tmp_path: Path) -> None:
    """A picture of any size is edited in its own size."""
    need_models("edit")
    import PIL.Image

    PIL.Image.open(GRAPHS / "samples" / "shapes.png").convert("RGB").resize((150, 90)).save(
        tmp_path / "odd.png"
    )
    outputs, _ = run(
        quick / "edit_photo.yaml", tmp_path / "out", store, picture=str(tmp_path / "odd.png")
    )
    assert (outputs["picture"].width, outputs["picture"].height) == (150, 90)


def test_a_prompt_of_a_megabyte_is_drawn(quick: Path, store: Store, tmp_path: Path) -> None:
    """A prompt far longer than the model reads is drawn all the same, and the run says that it was
    not read to its end.
    """
    need_models("imagen")
    notes: list[str] = []
    prompt = "a large red circle on a white background " * 25_000

    def hear(event: Event) -> None:
        notes.append(getattr(event, "note", ""))

    outputs = flow.run(quick / "text_to_image.yaml", {"prompt": prompt}, store=store, on_event=hear)
    assert outputs["picture"].width == 128
    assert any(note.startswith("the prompt is cut after") for note in notes), notes


def test_a_prompt_in_other_words_is_drawn(quick: Path, store: Store) -> None:
    """A prompt of which the model knows no word is drawn all the same, and the run says which words
    it does not know.
    """
    need_models("imagen")
    notes: list[str] = []
    outputs = flow.run(
        quick / "text_to_image.yaml",
        {"prompt": "一只红色的狐狸 🦊"},
        store=store,
        on_event=lambda event: notes.append(getattr(event, "note", "")),
    )
    assert outputs["picture"].width == 128
    assert "unknown to the text encoder: '一只红色的狐狸', '🦊'" in notes


# --- training
# ------------------------------------------------------------------------------------------------------------------

TRAINING: dict[str, dict[str, int]] = {
    "calibrate_captioner": {"made": 2, "changed": 1, "count": 3},
    "captioner": {"steps": 2, "made": 2, "count": 3, "judged": 2},
    "edit": {"reading_steps": 2, "whole_steps": 2, "close_steps": 2},
    "imagen": {"text_steps": 2, "base_steps": 2, "super_resolution_steps": 2},
    "imagen_256": {"steps": 2},
    "evaluate": {"count": 1},
}


def test_training_graphs_are_all_tried() -> None:
    """No training graph is left out below."""
    assert sorted(TRAINING) == sorted(p.stem for p in (GRAPHS / "training").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(TRAINING))
def test_a_training_graph_runs(name: str, quick: Path, tmp_path: Path) -> None:
    """A training graph runs from data to a model that another node can use, in a few steps; a
    second time nothing is trained.
    """
    file = f"training/{name}.yaml"
    need_models(*models_of(file))
    with Store.open(tmp_path / "store", Codecs()) as store:
        outputs, ended = run(quick / file, tmp_path / "out", store, **TRAINING[name])
        assert (ended.status, ended.failed) == ("done", 0)
        if "model" in outputs:
            assert list((tmp_path / "out").rglob("*.safetensors")) != []
        _, ended = run(quick / file, tmp_path / "out", store, **TRAINING[name])
        assert ended.ran == 0


@pytest.mark.slow
def test_the_models_are_trained_from_nothing_each_on_those_before_it(
    quick: Path, tmp_path: Path
) -> None:
    """As `make train` does: the captioner learns from the new cascade and the new editor."""
    out = tmp_path / "out"
    with Store.open(tmp_path / "store", Codecs()) as store:
        for name in ("imagen", "edit", "captioner"):
            file = quick / "training" / f"{name}.yaml"
            own = {key: str(out / key) for key in ("imagen", "edit")} if name == "captioner" else {}
            _, ended = run(file, out, store, **TRAINING[name], **own)
            assert (ended.status, ended.failed) == ("done", 0)
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == [
        *("caption", "edit", "imagen")
    ]


def test_the_guide_to_checkpoints_lists_each_graph_with_a_node_type_that_it_shows() -> None:
    """The guide lists every graph that draws with a real checkpoint, beside a node type that the
    graph uses.
    """
    guide = (GRAPHS.parent / "docs" / "checkpoints.md").read_text("utf-8")
    listed = []
    for nodes, graphs in re.findall(
        r"^\|[^|\n]*\|([^|\n]*)\|((?: `\w+`)+) \|$", guide, re.MULTILINE
    ):
        types = re.findall(r"`(\w+\.\w+)`", nodes)
        for name in re.findall(r"`(\w+)`", graphs):
            listed.append(f"{name}.yaml")
            assert any(
                f"type: {type}" in (GRAPHS / f"{name}.yaml").read_text("utf-8") for type in types
            ), name
    assert sorted(listed) == REAL
