"""``--tiny``: any graph runs offline on small random models of the kinds that it names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import imagen_flow as flow
from imagen_flow import _cli as cli
from imagen_flow_diffusion.tiny.kinds import MAKERS
from imagen_flow_diffusion.tiny.known import stand_in

GRAPH = """
imagen_flow: 1
nodes:
  text: {type: text.encode, model: "hf:some/stable-diffusion-v1-5", prompt: a fox}
  latents: {type: diffusion.denoise, model: "hf:some/stable-diffusion-v1-5", text: "${text}", num_inference_steps: 1, seed: 1}
  picture: {type: latents.decode, model: "hf:some/stable-diffusion-v1-5", latents: "${latents}"}
outputs:
  picture: {from: "${picture}", path: picture.png}
"""


def said(capsys: pytest.CaptureFixture[str], *given: str) -> tuple[int, str, str]:
    """Run the command line; give its exit code and what it printed."""
    with pytest.raises(SystemExit) as left:
        cli.main(list(given))
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_a_graph_runs_offline_on_small_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], own_home: Path
) -> None:
    """Without the model the graph cannot run, with `--tiny` it does; the small model is kept for
    the next time, and planning then loads no library.
    """
    (tmp_path / "graph.yaml").write_text(GRAPH)
    graph = str(tmp_path / "graph.yaml")
    code, _, err = said(capsys, "plan", graph, "--no-store")
    assert (code, "is not on this machine" in err) == (1, True)
    code, _, err = said(
        capsys,
        "run",
        graph,
        "--tiny",
        "--no-store",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "out"),
    )
    assert (code, err.splitlines()[-1].startswith("done")) == (0, True)
    assert (tmp_path / "out" / "picture.png").is_file()
    kept = list((own_home / ".cache").rglob("model_index.json")) or list(
        own_home.rglob("model_index.json")
    )
    assert len(kept) == 1
    code = (
        "import sys\nfrom imagen_flow import _cli as cli\n"
        f"try: cli.main(['plan', {graph!r}, '--tiny', '--no-store', '--device', 'cpu'])\nexcept SystemExit as left: print('code', left.code or 0)\n"
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("code 0\n[]\n"), ran.stdout + ran.stderr
    assert "3 steps" in ran.stdout


def test_a_model_whose_kind_cannot_be_told_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No plugin knows the name: the plan says so, and how to go on."""
    (tmp_path / "graph.yaml").write_text(GRAPH.replace("stable-diffusion-v1-5", "thing"))
    code, out, err = said(capsys, "plan", str(tmp_path / "graph.yaml"), "--tiny", "--no-store")
    assert code == 1
    assert "there is no tiny model to replace 'hf:some/thing'" in out + err


@pytest.mark.parametrize("kind", ["aura-flow", "lumina", "sd3", "z-image"])
def test_a_tiny_model_draws_at_the_size_of_the_true_one(kind: str, tmp_path: Path) -> None:
    """A graph that says 1024 pixels, and many words, is tried as it is: no table of places ends
    before.
    """
    path = MAKERS[kind](tmp_path / kind)
    given = {
        "prompt": "a fox on a hill, " * 100,
        "width": 1024,
        "height": 1024,
        "num_inference_steps": 1,
        "seed": 1,
    }
    graph = {
        "imagen_flow": 1,
        "nodes": {"one": {"type": "diffusion.text_to_image", "model": str(path), **given}},
        "outputs": {"out": "${one}"},
    }
    assert flow.run(graph, store=None, device="cpu")["out"].pixels.shape == (1024, 1024, 3)


def test_a_tiny_model_is_made_once(tmp_path: Path) -> None:
    """What is kept is taken again as it is; what is half made is not there."""
    first = stand_in("hf:org/sd-lora", None, tmp_path)
    assert first is not None
    made = first.stat().st_mtime_ns
    assert stand_in("hf:other/lora", None, tmp_path) == first
    assert first.stat().st_mtime_ns == made
    assert [path.name for path in first.parent.parent.iterdir()] == ["lora"]


def test_companions_keep_their_former_name() -> None:
    """Scripts that import the companions of tiny checkpoints by their former name get all of them."""
    from imagen_flow_diffusion.tiny import beside, companions

    made = {
        name
        for name, value in vars(companions).items()
        if getattr(value, "__module__", "") == companions.__name__ and not name.startswith("_")
    }
    assert made - set(beside.__all__) == set()
    assert all(getattr(beside, name) is getattr(companions, name) for name in beside.__all__)
