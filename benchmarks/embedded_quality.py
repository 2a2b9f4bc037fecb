"""Measure what the embedded models can do on held-out combinations, and what they do where they
ought to do nothing.

    python benchmarks/embedded_quality.py [--count 40] [--seed 2024] [--rows words,seeds,…]
                                          [--photographs FOLDER] [--record]

The judge is `imagen_flow_embedded.checker`, which renders and matches and is none of the models.
With --record, the figures of the rows that were measured are written into RESULTS.md as they are,
each row in a section of its own. Photographs come from a folder that you name; without one,
textures that are drawn on the spot stand for them alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

import imagen_flow as flow
from imagen_flow.models import ModelPool
from imagen_flow_embedded import WEIGHTS, checker, plan, world

sys.path.insert(0, str(Path(__file__).parent))
from _foreign import foreign_pictures
from _phrasings import PHRASINGS
from _results import record

KINDS = ("background", "colour", "shape", "size", "relation", "count")
SIDE = 128
LARGE = {"type": "diffusion.super_resolution", "model": "embedded/imagen", "text": "${text}"}
TEXT = {"type": "text.encode", "model": "embedded/imagen", "prompt": "${prompt}"}
BASE = {"type": "diffusion.base", "model": "embedded/imagen", "text": "${text}", "seed": "${seed}"}
DRAW = {
    "imagen_flow": 1,
    "inputs": {"prompt": {"type": "text"}, "seed": {"type": "seed"}},
    "nodes": {
        "text": TEXT,
        "base": BASE,
        "large": {**LARGE, "image": "${base}", "seed": "${seed}"},
    },
    "outputs": {"base": "${base}", "large": "${large}"},
}
ENLARGE = {
    "imagen_flow": 1,
    "inputs": {"prompt": {"type": "text"}, "seed": {"type": "seed"}, "picture": {"type": "file"}},
    "nodes": {
        "text": TEXT,
        "loaded": {"type": "image.load", "file": "${picture}"},
        "large": {**LARGE, "image": "${loaded}", "seed": "${seed}"},
    },
    "outputs": {"large": "${large}"},
}
EDIT = {
    "imagen_flow": 1,
    "inputs": {
        "picture": {"type": "file"},
        "instruction": {"type": "text"},
        "seed": {"type": "seed"},
    },
    "nodes": {
        "loaded": {"type": "image.load", "file": "${picture}"},
        "edited": {
            "type": "image.edit",
            "model": "embedded/edit",
            "image": "${loaded}",
            "instruction": "${instruction}",
            "seed": "${seed}",
        },
    },
    "outputs": {"edited": "${edited}"},
}
CAPTION = {
    "imagen_flow": 1,
    "inputs": {"picture": {"type": "file"}},
    "nodes": {
        "loaded": {"type": "image.load", "file": "${picture}"},
        "words": {"type": "image.caption", "model": "embedded/caption", "image": "${loaded}"},
    },
    "outputs": {"words": "${words}"},
}


class Bench:
    """Runs graphs with models kept between runs, and numbers the pictures that it writes."""

    def __init__(self, folder: Path, count: int, seed: int, photographs: Path | None) -> None:
        self.folder, self.count, self.seed, self.photographs = folder, count, seed, photographs
        self.pool = ModelPool()
        self.written = 0

    def run(self, graph: Mapping[str, Any], **inputs: Any) -> Any:
        """Run a graph without a store; the outputs, with their notes."""
        return flow.run(graph, inputs, store=None, device="cpu", pool=self.pool)

    def draw(self, prompt: str, seed: int, **base: Any) -> dict[str, np.ndarray]:
        """Draw a picture; more arguments go to the base."""
        nodes = DRAW["nodes"] | {"base": BASE | base}  # type: ignore[operator]
        found = self.run({**DRAW, "nodes": nodes}, prompt=prompt, seed=seed)
        return {name: pixels(found[name]) for name in ("base", "large")}

    def file(self, picture: np.ndarray) -> str:
        """Write a picture and give its path."""
        self.written += 1
        path = self.folder / f"{self.written}.png"
        Picture.fromarray(picture).save(path)
        return str(path)

    def scenes(self, count: int, part: int, **wanted: Any) -> list[world.Scene]:
        """Draw held-out scenes; `wanted` attributes are those of the first thing."""
        rng = np.random.default_rng((self.seed, part))
        found: list[world.Scene] = []
        while len(found) < count:
            scene = world.draw_scene(rng, held_out=True)
            if wanted:
                scene = replace(
                    scene, things=(replace(scene.things[0], **wanted), *scene.things[1:])
                )
                if not world.is_held_out(scene):
                    continue
            found.append(scene)
        return found


def words(bench: Bench) -> list[str]:
    """Words right: the plan's sketch enlarged without the base, the base alone, base and enlarger;
    and how far each is from the ideal picture at the same places.
    """
    scenes = bench.scenes(bench.count, 1)
    answers: dict[str, list[dict[str, bool]]] = {
        "sketch of the plan + enlarger, no base": [],
        "base": [],
        "base + enlarger": [],
    }
    errors: dict[str, list[float]] = {name: [] for name in answers}
    for number, scene in enumerate(scenes):
        prompt = world.caption(scene)
        sketch, places = sketched(bench, prompt, number)
        at = zip(scene.things, places, strict=False)
        ideal = replace(scene, things=tuple(replace(t, x=x, y=y) for t, (x, y) in at))
        drawn = bench.draw(prompt, number)
        found = bench.run(ENLARGE, prompt=prompt, seed=number, picture=bench.file(sketch))
        for row, picture in zip(
            answers, (pixels(found["large"]), drawn["base"], drawn["large"]), strict=True
        ):
            answers[row].append(checker.agree(scene, picture))
            wanted = world.render([ideal], len(picture))[0].astype(float)
            errors[row].append(float(np.sqrt(((picture - wanted) ** 2).mean())))
    rows = [
        [name, *by_kind(found), f"{np.mean(errors[name]):.1f}"] for name, found in answers.items()
    ]
    head = ["held-out combinations", "all words", "wanted", *KINDS, "all right a picture"]
    head.append("root mean square error of 255, at the places drawn")
    return markdown(head, [[row[0], row[1], "≥ 97 %", *row[2:]] for row in rows])


def sketched(bench: Bench, prompt: str, seed: int) -> tuple[np.ndarray, list[list[float]]]:
    """Give the sketch that the base sees, uint8 (64, 64, 3), and the places that the seed draws."""
    import torch
    from safetensors.torch import load_file

    graph = {
        "imagen_flow": 1,
        "inputs": {"prompt": {"type": "text"}},
        "nodes": {"text": TEXT},
        "outputs": {"text": "${text}"},
    }
    states = bench.run(graph, prompt=prompt)["text"][0].torch()
    folder = WEIGHTS / "imagen" / "plan"
    heads = load_file(folder / "model.safetensors")
    facts, places = plan.decide(states, heads, torch.Generator().manual_seed(seed))
    sketch = plan.draw_sketch(facts, places, load_file(folder / "means.safetensors"), 64)
    colours = ((sketch[0].permute(1, 2, 0).clamp(-1, 1) + 1) * 127.5).round().byte().numpy()
    return colours, places[0].tolist()


def seeds(bench: Bench) -> list[str]:
    """How far two seeds of one prompt differ, and how far things move."""
    many = 4
    difference, along, across, right = [], [], [], []
    for scene in bench.scenes(max(4, bench.count // 5), 2):
        pictures, places = [], []
        for seed in range(many):
            picture = bench.draw(world.caption(scene), seed)["large"]
            pictures.append(picture.astype(np.float32) / 255)
            right.append(checker.agree(scene, picture))
            places.append(_places(scene, picture))
        difference += [
            float(np.abs(a - b).mean()) for n, a in enumerate(pictures) for b in pictures[:n]
        ]
        known = [place for place in places if place is not None]
        if len(known) > 1 and scene.relation:
            spread = np.std(np.stack(known), 0) * SIDE  # things, xy
            first = scene.relation in ("left of", "right of")
            along += list(spread[:, 0 if first else 1])
            across += list(spread[:, 1 if first else 0])
    return markdown(
        ["two seeds of one prompt", "measured", "wanted"],
        [
            ["mean difference", f"{100 * np.mean(difference):.1f} % of full range", "≥ 3 %"],
            ["places along the relation vary by", f"{np.mean(along):.1f} px of 128", "≥ 2"],
            ["places across it vary by", f"{np.mean(across):.1f} px of 128", "≥ 5"],
            ["words right", by_kind(right)[0], "≥ 97 %"],
        ],
    )


def _places(scene: world.Scene, picture: np.ndarray) -> np.ndarray | None:
    """Give the places of a scene's things in a picture, or None if one is not found."""
    found = checker.describe(picture).things
    places = []
    for thing in scene.things:
        near = [f for f in found if (f.colour, f.shape) == (thing.colour, thing.shape)]
        if len(near) != 1:
            return None
        places.append((near[0].x, near[0].y))
    return np.array(places)


def steps_and_guidance(bench: Bench) -> list[str]:
    """Words right of the base at other steps and other guidance than the defaults."""
    scenes = bench.scenes(max(8, bench.count // 2), 3)
    rows = []
    for name, values in (
        ("num_inference_steps", (4, 8, 20, 50)),
        ("guidance_scale", (1, 3, 5, 7.5)),
    ):
        for value in values:
            answers = [
                checker.agree(scene, bench.draw(world.caption(scene), n, **{name: value})["large"])
                for n, scene in enumerate(scenes)
            ]
            shapes = by_kind(answers)[1 + KINDS.index("shape")]
            rows.append([f"{name} {value:g}", by_kind(answers)[0], shapes, "≥ 95 %"])
    return markdown(["base at", "words right after enlarging", "shapes", "wanted"], rows)


def phrasings(bench: Bench) -> list[str]:
    """What a person would type: all right, wrong with a note, wrong without a word."""
    right, noted, silent = 0, 0, []
    for number, (prompt, asked) in enumerate(PHRASINGS):
        graph = {**DRAW, "outputs": {"large": "${large}"}}
        found = bench.run(graph, prompt=prompt, seed=number)
        if all(_shows(asked, pixels(found["large"]))):
            right += 1
        elif found.notes:
            noted += 1
        else:
            silent.append(prompt)
    return [
        *markdown(
            [f"{len(PHRASINGS)} phrasings", "measured", "wanted"],
            [
                ["all right", str(right), "≥ 57"],
                ["wrong, with a note", str(noted), "the others"],
                ["wrong without a word", str(len(silent)), "0"],
            ],
        ),
        *(["", "Wrong without a word: " + "; ".join(silent) + "."] if silent else []),
    ]


def _shows(asked: Mapping[str, str], picture: np.ndarray) -> list[bool]:
    """Compare what a prompt asks for with a picture; what it leaves out is not judged. Keys are
    those of `world.attributes`.
    """
    found = checker.describe(picture)
    best: list[bool] = [False]
    for things in (found.things, found.things[::-1]):
        places = tuple(world.Thing("", "", "", thing.x, thing.y) for thing in things)
        shown: dict[str, Any] = {"background": found.background, "count": str(len(things))}
        for number, thing in enumerate(things, 1):
            for fact in ("size", "colour", "shape"):
                shown[f"{number}.{fact}"] = getattr(thing, fact)
        shown["relation"] = world.Scene("", places).relation if len(places) == 2 else None
        answer = [shown.get(name) == value for name, value in asked.items()]
        best = max(best, answer, key=lambda each: (all(each), sum(each)))
    return best


def edits(bench: Bench) -> list[str]:
    """Edits by kind: carried out, and the changed pixels that are off from the ideal picture."""
    rows = []
    for kind in world.EDIT_KINDS:
        rng = np.random.default_rng((bench.seed, 5))
        done, off, outline = [], [], []
        for number in range(max(6, bench.count // 4)):
            edit = world.draw_edit(rng, held_out=True, kind=kind)
            before, ideal = world.render([edit.before, edit.after], SIDE)
            found = bench.run(
                EDIT, picture=bench.file(before), instruction=edit.instruction, seed=number
            )
            after = pixels(found["edited"])
            error = np.abs(after.astype(int) - ideal).max(2)
            changed = np.abs(before.astype(int) - ideal).max(2) > 0
            done.append(all(checker.agree(edit.after, after).values()))
            off.append(float((error[changed] > 25).mean()))
            edge = changed & _edges(before)
            if edge.any():
                outline.append(float(np.percentile(error[edge], 90)))
        rows.append(
            [
                kind,
                percent(float(np.mean(done))),
                percent(float(np.mean(off))),
                "≤ 8 %",
                f"{np.mean(outline):.0f}" if outline else "-",
            ]
        )
    return markdown(
        [
            "edits",
            "carried out",
            "changed pixels off by more than 25 of 255",
            "wanted",
            "error on the old outline (90th percentile)",
        ],
        rows,
    )


def _edges(picture: np.ndarray) -> np.ndarray:
    """Mark the pixels whose right or lower neighbour differs much."""
    whole = picture.astype(int)
    found = np.zeros(picture.shape[:2], bool)
    found[:, :-1] |= np.abs(np.diff(whole, axis=1)).max(2) > 40
    found[:-1] |= np.abs(np.diff(whole, axis=0)).max(2) > 40
    return found


def no_edits(bench: Bench) -> list[str]:
    """Instructions that ask for nothing: no words, or a thing that is not there."""
    rng = np.random.default_rng((bench.seed, 6))
    shapes = [
        world.draw_edit(rng, held_out=True, kind="colour") for _ in range(max(4, bench.count // 8))
    ]
    cases: dict[str, list[tuple[np.ndarray, str]]] = {"empty, shapes": [], "absent, shapes": []}
    for edit in shapes:
        picture = world.render([edit.before], SIDE)[0]
        absent = next(s for s in world.SHAPES if s not in {t.shape for t in edit.before.things})
        cases["empty, shapes"].append((picture, ""))
        cases["absent, shapes"].append((picture, f"make the {absent} pink"))
    found = foreign(bench)
    photographs = [*found.get("photographs", []), *found["textures"][:8]]
    cases["empty, photographs"] = [(picture, "") for picture in photographs]
    cases["absent, photographs"] = [(picture, "make the circle pink") for picture in photographs]
    rows = []
    for name, given in cases.items():
        changed, noted = [], 0
        for number, (picture, instruction) in enumerate(given):
            found = bench.run(
                EDIT, picture=bench.file(picture), instruction=instruction, seed=number
            )
            changed.append(float((pixels(found["edited"]) != picture).any(2).mean()))
            noted += bool(found.notes)
        rows.append(
            [name, percent(float(np.mean(changed))), "0 %", f"{noted} of {len(given)}", "all"]
        )
    return markdown(["instruction", "pixels changed", "wanted", "with a note", "wanted"], rows)


def captions(bench: Bench) -> list[str]:
    """Captions of pictures of the world: rendered, drawn by the cascade, and edited."""
    rng = np.random.default_rng((bench.seed, 7))
    edits = [world.draw_edit(rng, held_out=True) for _ in range(bench.count)]
    scenes = [edit.before for edit in edits]
    drawn = [bench.draw(world.caption(scene), n)["large"] for n, scene in enumerate(scenes)]
    edited = [
        bench.run(EDIT, picture=bench.file(picture), instruction=edit.instruction, seed=n)
        for n, (picture, edit) in enumerate(zip(drawn, edits, strict=True))
    ]
    known = {
        "rendered": (list(world.render(scenes, SIDE)), scenes, "≥ 99 %"),
        "drawn by embedded/imagen": (drawn, scenes, "≥ 97 %"),
        "edited by embedded/edit": (
            [pixels(found["edited"]) for found in edited],
            [edit.after for edit in edits],
            "-",
        ),
    }
    rows = []
    for name, (pictures, asked, wanted) in known.items():
        texts = [_caption(bench, picture) for picture in pictures]
        answers = [
            _named(text, checker.describe(picture).as_scene() or scene)
            for text, picture, scene in zip(texts, pictures, asked, strict=True)
            if not _refused(text)
        ]
        told = f"{percent(len(answers) / len(texts))} of {len(texts)} described"
        rows.append([name, told, wanted, *([by_kind(answers)[0]] if answers else ["-"])])
    return markdown(["pictures to the captioner", "measured", "wanted", "words right"], rows)


def refusals(bench: Bench) -> list[str]:
    """Pictures that are none of the world, of which the captioner is to say nothing."""
    rows = []
    every: list[bool] = []
    for name, pictures in foreign(bench).items():
        refused = [_refused(_caption(bench, picture)) for picture in pictures]
        every += refused
        rows.append([name, f"{share(refused)} of {len(refused)}", "≥ 95 %"])
    rows.append(["all", f"{share(every)} of {len(every)}", "≥ 95 %"])
    return markdown(["pictures that are none of the world", "refused", "wanted"], rows)


def _caption(bench: Bench, picture: np.ndarray) -> str:
    return str(plain(bench.run(CAPTION, picture=bench.file(picture))["words"]))


def _named(text: str, scene: world.Scene) -> dict[str, bool]:
    """Say which facts of a scene a caption names, in the order of things that serves it best."""
    claimed = world.read_caption(text)
    orders = [replace(scene, things=things) for things in {scene.things, scene.things[::-1]}]
    answers = [
        {name: claimed.get(name) == value for name, value in world.attributes(order).items()}
        for order in orders
    ]
    return max(answers, key=lambda answer: sum(answer.values()))


def _refused(text: str) -> bool:
    return not world.read_caption(text).get("1.shape")


def edges(bench: Bench) -> list[str]:
    """Edges of drawn circles, and small stars."""
    rows = []
    for name, radius, transition in (("rendered", [], []), ("drawn", [], [])):
        scenes = bench.scenes(max(6, bench.count // 4), 8, shape="circle")
        scenes = [replace(scene, things=scene.things[:1]) for scene in scenes]
        for number, scene in enumerate(scenes):
            picture = (
                world.render([scene], SIDE)[0]
                if name == "rendered"
                else bench.draw(world.caption(scene), number)["large"]
            )
            spread, soft = _roundness(picture)
            radius.append(spread)
            transition.append(soft)
        wanted = "≤ 1.8 px, ≤ 1.6" if name == "drawn" else ""
        rows.append(
            [f"circles, {name}", f"{np.mean(radius):.2f} px, {np.mean(transition):.2f}", wanted]
        )
    scenes = bench.scenes(max(18, bench.count // 2), 9, shape="star", size="small")
    stars = []
    for number, scene in enumerate(scenes):
        answer = checker.agree(scene, bench.draw(world.caption(scene), number)["large"])
        stars.append(answer["1.shape"] and answer["1.size"])
    rows.append(["small stars right", f"{sum(stars)} of {len(stars)}", "≥ 95 %"])
    head = ["edges", "spread of the radius, transition pixels an edge pixel", "wanted"]
    return markdown(head, rows)


def _roundness(picture: np.ndarray) -> tuple[float, float]:
    """Measure the one circle of a picture: the largest less the smallest radius of its outline, in
    pixels, and the pixels between its colour and the ground's, for each pixel of outline.
    """
    whole = picture.astype(np.float32)
    ground = np.median(np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]]), 0)
    distance = np.linalg.norm(whole - ground, axis=2)
    top = np.percentile(distance[distance > 0.5 * distance.max()], 60)
    cover = np.clip(distance / top, 0, 1)
    rows, columns = np.nonzero(cover > 0.5)
    y, x = rows.mean(), columns.mean()
    radii = []
    for angle in np.linspace(0, 2 * np.pi, 90, endpoint=False):
        ray = np.arange(2, 0.35 * len(picture), 0.1)
        at = _bilinear(cover, y + ray * np.sin(angle), x + ray * np.cos(angle))
        below = np.flatnonzero(at < 0.5)
        radii.append(ray[below[0]] if len(below) else ray[-1])
    soft = float(((cover > 0.1) & (cover < 0.9)).sum()) / (2 * np.pi * float(np.mean(radii)))
    return float(np.ptp(radii)), soft


def _bilinear(values: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    y, x = np.clip(y, 0, len(values) - 1.001), np.clip(x, 0, values.shape[1] - 1.001)
    row, column = y.astype(int), x.astype(int)
    v, u = y - row, x - column
    upper = values[row, column] * (1 - u) + values[row, column + 1] * u
    lower = values[row + 1, column] * (1 - u) + values[row + 1, column + 1] * u
    found: np.ndarray = upper * (1 - v) + lower * v
    return found


def foreign(bench: Bench) -> dict[str, list[np.ndarray]]:
    """Draw pictures that are none of the world, and load the photographs."""
    found = foreign_pictures(bench.seed, max(8, bench.count // 2))
    photographs = []
    for path in sorted(bench.photographs.iterdir()) if bench.photographs else []:
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            with Picture.open(path) as opened:
                photographs.append(np.asarray(opened.convert("RGB").resize((SIDE, SIDE))))
    return {"photographs": photographs} | found if photographs else found


ROWS: dict[str, Callable[[Bench], list[str]]] = {
    "words": words,
    "seeds": seeds,
    "steps": steps_and_guidance,
    "phrasings": phrasings,
    "edits": edits,
    "no_edits": no_edits,
    "captions": captions,
    "refusals": refusals,
    "edges": edges,
}


def main() -> None:
    """Measure the rows asked for, print them and, if wanted, record them."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--count", type=int, default=40)
    options.add_argument("--seed", type=int, default=2024)
    options.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    options.add_argument("--photographs", type=Path, help="a folder of pictures")
    options.add_argument("--record", action="store_true", help="write the figures into RESULTS.md")
    asked = options.parse_args()
    chosen = [name for name in asked.rows.split(",") if name]
    if unknown := [name for name in chosen if name not in ROWS]:
        options.error(f"no rows named {', '.join(unknown)}; there are {', '.join(ROWS)}")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), asked.count, asked.seed, asked.photographs)
        for name in chosen:
            started = time.process_time()
            table = "\n".join(ROWS[name](bench))
            print(table + "\n", flush=True)
            if asked.record:
                seconds = time.process_time() - started
                head = (
                    f"--count {asked.count} --seed {asked.seed}; {seconds:.0f} s of processor time."
                )
                record(f"Embedded models: {name}", f"{head}\n\n{table}")


def by_kind(answers: Sequence[Mapping[str, bool]]) -> list[str]:
    """Give the share of all words that are right, that of each kind, and that of pictures in which
    all are. The count, which no word says, is shown but left out of the words.
    """
    kinds: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for answer in answers:
        for name, right in answer.items():
            kinds[name.rpartition(".")[2]].append(right)
    every = [right for kind, found in kinds.items() if kind != "count" for right in found]
    whole = [all(answer.values()) for answer in answers]
    return [share(every), *[share(found) for found in kinds.values()], share(whole)]


def share(found: Sequence[bool]) -> str:
    return percent(sum(found) / len(found)) if found else "-"


def percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def pixels(value: Any) -> np.ndarray:
    """Give the pixels of a picture that a run returned: uint8 (height, width, 3)."""
    found: np.ndarray = value.rgb().as_uint8().pixels
    return found


def plain(value: Any) -> Any:
    """Take what a run returns out of its wrapping."""
    return getattr(value, "data", getattr(value, "value", value))


if __name__ == "__main__":
    main()
