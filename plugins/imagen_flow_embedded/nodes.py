"""Node types of the shapes world: pictures to learn from, training, and judgement by a checker that
is no model.

Scenes cross edges as JSON (`world.Scene` as plain data), so that a graph can pass on what a picture
ought to show.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from imagen_flow import Image, Json, List, Model, Progress, Range, Scratch, Seed, Steps, Text, node

if TYPE_CHECKING:
    from .world import Scene

Count = Annotated[int, Range(1, 100_000)]
Stage = Annotated[int, Range(0, 100_000)]
Side = Annotated[int, Range(16, 512)]
Rate = Annotated[float, Range(1e-6, 1.0)]
Batch = Annotated[int, Range(1, 4096)]
Part = Literal["training", "held_out", "all"]

_HELD_OUT: dict[str, bool | None] = {"training": False, "held_out": True, "all": None}


# --- data
# ------------------------------------------------------------------------------------------------------------------------


class Shapes(NamedTuple):
    pictures: List[Image]
    captions: List[Text]
    scenes: List[Json]


@node("dataset.shapes", version=1, uses=("numpy",))
def shapes(
    *, count: Count, seed: Seed, side: Side = 32, part: Part = "training", varied: bool = False
) -> Shapes:
    """Draw captioned pictures of the shapes world.

    Params:
        side: of the square pictures, in pixels.
        part: ``training`` leaves out the combinations of attributes that are held out, ``held_out``
            draws only those.
        varied: captions in varied words; else in the plain form.
    Outputs:
        pictures: 8-bit RGB, anti-aliased.
        scenes: what each picture shows, as JSON.
    """
    import numpy as np

    from . import world

    rng = np.random.default_rng(seed)
    scenes = [world.draw_scene(rng, held_out=_HELD_OUT[part]) for _ in range(count)]
    captions = [world.caption(scene, rng if varied else None) for scene in scenes]
    return Shapes(
        [Image(p) for p in world.render(scenes, side)], captions, [asdict(s) for s in scenes]
    )


class Edits(NamedTuple):
    pictures: List[Image]
    instructions: List[Text]
    scenes: List[Json]
    expected: List[Json]
    captions: List[Text]


@node("dataset.edits", version=1, uses=("numpy",))
def edits(*, count: Count, seed: Seed, side: Side = 128, part: Part = "training") -> Edits:
    """Draw pictures with an instruction each, and what each ought to show afterwards.

    Outputs:
        pictures: before the edit.
        scenes, expected: what is shown before and after, as JSON.
        captions: of the pictures before the edit.
    """
    import numpy as np

    from . import world

    rng = np.random.default_rng(seed)
    drawn = [world.draw_edit(rng, held_out=_HELD_OUT[part]) for _ in range(count)]
    pictures = world.render([e.before for e in drawn], side)
    return Edits(
        [Image(p) for p in pictures],
        [e.instruction for e in drawn],
        [asdict(e.before) for e in drawn],
        [asdict(e.after) for e in drawn],
        [world.caption(e.before) for e in drawn],
    )


# --- training
# --------------------------------------------------------------------------------------------------------------------


def _train(steps: Generator[tuple[int, int, str], None, Path]) -> Steps[Model]:
    """Carry out a training run, and give the folder that it writes as a model."""
    while True:
        try:
            done, total, losses = next(steps)
        except StopIteration as stop:
            return Model(Path(stop.value))
        yield Progress(done, total, status=losses)


@node("train.text_encoder", version=3, uses=("diffusers", "torch", "transformers"))
def train_text_encoder(
    scratch: Scratch,
    *,
    steps: Count = 2280,
    batch_size: Batch = 64,
    learning_rate: Rate = 1.5e-3,
    seed: Seed,
) -> Steps[Model]:
    """Train the text encoder of the embedded Imagen to say what stands where.

    Outputs: a folder with ``tokenizer/``, ``text_encoder/`` and ``plan/``.
    """
    from .training.text_encoder import train_text_encoder as train

    return (
        yield from _train(
            train(
                scratch, steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed
            )
        )
    )


@node("train.diffusion", version=3, uses=("diffusers", "torch", "transformers"))
def train_diffusion(
    text_encoder: Model,
    scratch: Scratch,
    *,
    steps: Count = 4825,
    batch_size: Batch = 16,
    learning_rate: Rate = 2e-3,
    seed: Seed,
) -> Steps[Model]:
    """Train the base diffusion of the embedded Imagen on a frozen text encoder.

    Outputs: a folder with ``unet/`` and ``scheduler/``.
    """
    from .training.diffusion import train_diffusion as train

    return (
        yield from _train(
            train(
                scratch,
                text_encoder.path,
                steps=steps,
                batch_size=batch_size,
                learning_rate=learning_rate,
                seed=seed,
            )
        )
    )


@node("train.super_resolution", version=4, uses=("diffusers", "torch", "transformers"))
def train_super_resolution(
    text_encoder: Model,
    base: Model,
    scratch: Scratch,
    *,
    start: Model | None = None,
    steps: Count = 3174,
    batch_size: Batch = 16,
    learning_rate: Rate = 2e-3,
    seed: Seed,
) -> Steps[Model]:
    """Train the super-resolution diffusion of the embedded Imagen, on true small pictures and on
    those that the base repairs.

    Inputs:
        start: a model with ``super_resolution/`` to go on from; without one it begins anew.
    Outputs: a folder with ``super_resolution/`` and its scheduler.
    """
    from .training.super_resolution import train_super_resolution as train

    return (
        yield from _train(
            train(
                scratch,
                text_encoder.path,
                base.path,
                start=start.path if start else None,
                steps=steps,
                batch_size=batch_size,
                learning_rate=learning_rate,
                seed=seed,
            )
        )
    )


@node("train.second_super_resolution", version=2, uses=("diffusers", "torch"))
def train_second_super_resolution(
    scratch: Scratch,
    *,
    start: Model | None = None,
    steps: Count = 1800,
    batch_size: Batch = 16,
    learning_rate: Rate = 2e-3,
    seed: Seed,
) -> Steps[Model]:
    """Train the second super-resolution stage of the embedded Imagen, 128 px to 256 px.

    Inputs:
        start: such a stage to go on from; without one it begins anew.
    Outputs: a folder with ``super_resolution/`` and its scheduler.
    """
    from .training.second_super_resolution import train_second_super_resolution as train

    return (
        yield from _train(
            train(
                scratch,
                start=start.path if start else None,
                steps=steps,
                batch_size=batch_size,
                learning_rate=learning_rate,
                seed=seed,
            )
        )
    )


@node("train.edit", version=3, uses=("diffusers", "torch", "transformers"))
def train_edit(
    scratch: Scratch,
    *,
    start: Model | None = None,
    reading_steps: Stage = 14_000,
    whole_steps: Stage = 5200,
    close_steps: Stage = 9400,
    batch_size: Batch = 16,
    learning_rate: Rate = 1e-3,
    seed: Seed,
) -> Steps[Model]:
    """Train the model that edits a picture by an instruction.

    Inputs:
        start: an editor to go on from; without one it begins anew.
    Params:
        reading_steps: of the text encoder, which is frozen then.
        whole_steps: of the UNet that sees the whole picture and finds what is meant.
        close_steps: of the UNet that paints what changes in a close-up.
    Outputs: a folder with ``tokenizer/``, ``text_encoder/``, ``plan/``, ``unet/``, ``close_up/`` and
        ``scheduler/``.
    """
    from .training.edit import train_edit as train

    return (
        yield from _train(
            train(
                scratch,
                start=start.path if start else None,
                reading_steps=reading_steps,
                whole_steps=whole_steps,
                close_steps=close_steps,
                batch_size=batch_size,
                learning_rate=learning_rate,
                seed=seed,
            )
        )
    )


@node(
    "train.captioner",
    version=3,
    uses=("diffusers", "torch", "transformers"),
    paired=("pictures", "scenes"),
)
def train_captioner(
    scratch: Scratch,
    *,
    pictures: List[Image] | None = None,
    scenes: List[Json] | None = None,
    start: Model | None = None,
    steps: Count = 4000,
    batch_size: Batch = 64,
    learning_rate: Rate = 1e-3,
    seed: Seed,
) -> Steps[Model]:
    """Train the model that describes a picture.

    Inputs:
        pictures, scenes: pictures that other models made and what each was to show, to learn from
            beside rendered ones; those that do not show it are left out.
        start: a captioner to go on from; without one it begins anew.
    Outputs: a folder as transformers lays it out.
    """
    from .training.captioner import shown_rightly
    from .training.captioner import train_captioner as train

    _same_length(pictures or [], scenes or [], "pictures", "scenes")
    made = shown_rightly(
        [picture.rgb().as_uint8().pixels for picture in pictures or []],
        [_scene(scene) for scene in scenes or []],
    )
    return (
        yield from _train(
            train(
                scratch,
                made=made,
                start=start.path if start else None,
                steps=steps,
                batch_size=batch_size,
                learning_rate=learning_rate,
                seed=seed,
            )
        )
    )


@node(
    "calibrate.captioner",
    version=3,
    uses=("torch", "transformers"),
    paired=("pictures", "scenes"),
)
def calibrate_captioner(
    captioner: Model,
    scratch: Scratch,
    *,
    pictures: List[Image] | None = None,
    scenes: List[Json] | None = None,
    count: Count = 40,
    seed: Seed,
) -> Steps[Model]:
    """Calibrate how sure a captioner has to be of a caption, on pictures of its world and others.
    One that describes no picture correctly, such as one trained for a few steps, is calibrated to
    refuse all, with a note.

    Inputs:
        captioner: as `train.captioner` gives it.
        pictures, scenes: pictures that other models made and what each was to show; those that do
            not show it are left out.
    Params:
        count: of the pictures of the world that are drawn, of those that are none of it, and of
            those that nearly are of it.
    Outputs: the captioner, with the calibration.
    """
    from .training.captioner import shown_rightly
    from .training.refusal import calibrate_captioner as calibrate

    _same_length(pictures or [], scenes or [], "pictures", "scenes")
    made = shown_rightly(
        [picture.rgb().as_uint8().pixels for picture in pictures or []],
        [_scene(scene) for scene in scenes or []],
    )
    calibration = calibrate(scratch, captioner.path, made=made, count=count, seed=seed)
    while True:
        try:
            progress = next(calibration)
        except StopIteration as stop:
            return Model(Path(stop.value))
        yield Progress(*progress)


@node("model.join", version=1)
def join(parts: List[Model], scratch: Scratch) -> Model:
    """Put the folders of several models into one, as the parts of one model.

    Raises: ValueError where two parts bring a file of the same name and different content.
    """
    import shutil

    whole = scratch / "model"
    shutil.rmtree(whole, ignore_errors=True)
    for part in parts:
        for file in sorted(p for p in part.path.rglob("*") if p.is_file()):
            target = whole / file.relative_to(part.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and target.read_bytes() != file.read_bytes():
                raise ValueError(f"two parts bring a file {file.relative_to(part.path).as_posix()}")
            shutil.copyfile(file, target)
    return Model(whole)


# --- judgement
# -------------------------------------------------------------------------------------------------------------------


class Judgement(NamedTuple):
    score: float
    all_right: float
    report: Json


@node("evaluate.pictures", version=1, uses=("numpy",), paired=("pictures", "scenes"))
def evaluate_pictures(pictures: List[Image], scenes: List[Json]) -> Judgement:
    """Judge whether pictures show what they ought to, by rendering and matching.

    Inputs:
        scenes: what each picture ought to show, as `dataset.shapes` gives it.
    Outputs:
        score: the share of attributes that are right, 0 to 1.
        all_right: the share of pictures in which every attribute is right.
        report: both by kind of attribute, and the count.
    """
    from . import checker

    _same_length(pictures, scenes, "pictures", "scenes")
    return _judged(
        [
            checker.agree(_scene(scene), picture.rgb().as_uint8().pixels)
            for picture, scene in zip(pictures, scenes, strict=True)
        ]
    )


class EditJudgement(NamedTuple):
    carried_out: float
    report: Json


#: How far pixels outside the changed region may be off, as a share of full range.
OUTSIDE = 0.05


@node(
    "evaluate.edits",
    version=1,
    uses=("numpy",),
    paired=("before", "after", "scenes", "expected"),
)
def evaluate_edits(
    before: List[Image], after: List[Image], scenes: List[Json], expected: List[Json]
) -> EditJudgement:
    """Judge whether instructions were carried out, and nothing else with them.

    Inputs:
        before, after: the pictures, of equal sizes.
        scenes, expected: what they show before, and ought to show after.
    Outputs:
        carried_out: the share of edits whose asked attribute is right, whose other attributes keep
            their values, and whose mean absolute
            difference outside the changed region is at most 0.05 of full range.
        report: by kind of edit.
    """
    import numpy as np

    from . import checker, world

    _same_length(before, after, "before", "after")
    _same_length(before, scenes, "before", "scenes")
    _same_length(before, expected, "before", "expected")
    kinds: dict[str, list[bool]] = {}
    differences: list[float] = []
    for first, second, was, wanted in zip(before, after, scenes, expected, strict=True):
        old, new = _scene(was), _scene(wanted)
        side = second.width
        right = checker.agree(new, second.rgb().as_uint8().pixels)
        renders = world.render([old, new], side).astype("float32")
        changed = np.abs(renders[0] - renders[1]).max(axis=2) > 0
        outside = np.abs(second.rgb().as_float().pixels - first.rgb().as_float().pixels)[~changed]
        difference = float(outside.mean()) if outside.size else 0.0
        differences.append(difference)
        kinds.setdefault(_kind(old, new), []).append(all(right.values()) and difference <= OUTSIDE)
    done = [d for found in kinds.values() for d in found]
    report = {
        "count": len(done),
        "carried_out": _share(done),
        "outside": round(float(np.mean(differences)), 5),
        "kinds": {
            kind: {"count": len(found), "carried_out": _share(found)}
            for kind, found in sorted(kinds.items())
        },
    }
    return EditJudgement(_share(done), report)


@node("evaluate.captions", version=1, paired=("captions", "scenes"))
def evaluate_captions(captions: List[Text], scenes: List[Json]) -> Judgement:
    """Judge whether captions name what their pictures show; two things may be named in either
    order.

    Outputs: as for `evaluate.pictures`.
    """
    from . import world

    _same_length(captions, scenes, "captions", "scenes")
    return _judged(
        [
            _named(world.read_caption(text), _scene(scene))
            for text, scene in zip(captions, scenes, strict=True)
        ]
    )


def _named(described: dict[str, str], scene: Scene) -> dict[str, bool]:
    """Say for each attribute of a scene whether a caption names it, in whichever order serves the
    caption best.
    """
    from . import world

    orders = [scene]
    if len(scene.things) == 2:
        orders.append(world.Scene(scene.background, scene.things[::-1]))
    answers = [
        {name: described.get(name) == value for name, value in world.attributes(order).items()}
        for order in orders
    ]
    return max(answers, key=lambda answer: sum(answer.values()))


def _judged(answers: Sequence[dict[str, bool]]) -> Judgement:
    kinds: dict[str, list[bool]] = {}
    for answer in answers:
        for name, right in answer.items():
            kinds.setdefault(name.rpartition(".")[2], []).append(right)
    every = [right for found in kinds.values() for right in found]
    whole = [all(answer.values()) for answer in answers]
    report: dict[str, Any] = {
        "count": len(answers),
        "score": _share(every),
        "all_right": _share(whole),
        "kinds": {k: _share(v) for k, v in sorted(kinds.items())},
    }
    return Judgement(_share(every), _share(whole), report)


def _share(found: Sequence[bool]) -> float:
    return round(sum(found) / len(found), 4) if found else 0.0


def _kind(old: Scene, new: Scene) -> str:
    """Name the kind of an edit by what differs."""
    if old.background != new.background:
        return "background"
    if len(old.things) != len(new.things):
        return "remove"
    pairs = list(zip(old.things, new.things, strict=True))
    return next(
        (
            kind
            for kind in ("colour", "shape", "size")
            if any(getattr(a, kind) != getattr(b, kind) for a, b in pairs)
        ),
        "none",
    )


def _scene(data: Any) -> Scene:
    """Read a scene from JSON."""
    from . import world

    try:
        return world.Scene(
            str(data["background"]), tuple(world.Thing(**thing) for thing in data["things"])
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"no scene of the shapes world: {error}; 'dataset.shapes' gives them"
        ) from error


def _same_length(a: Sequence[Any], b: Sequence[Any], first: str, second: str) -> None:
    if len(a) != len(b):
        raise ValueError(
            f"'{first}' has {len(a)} elements and '{second}' has {len(b)}; they belong together one"
            " by one"
        )


ALL = (
    shapes,
    edits,
    train_text_encoder,
    train_diffusion,
    train_super_resolution,
    train_second_super_resolution,
    train_edit,
    train_captioner,
    calibrate_captioner,
    join,
    evaluate_pictures,
    evaluate_edits,
    evaluate_captions,
)
