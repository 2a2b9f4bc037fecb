"""A run lends its steps their models, with the settings that hold, and steps down the memory ladder as far as a step's key allows."""

from __future__ import annotations

from pathlib import Path

from imagen_flow import Rungs, Text, node
from imagen_flow.codec import Codecs
from imagen_flow.events import StepFailed
from imagen_flow.graph import resolve
from imagen_flow.plan import make_plan
from imagen_flow.plugins import Registry
from imagen_flow.run import execute
from imagen_flow.spec import parse
from imagen_flow.store import Store


@node("toy.tight", version=1, uses=("torch",))
def tight(text: Text, *, rungs: Rungs) -> Text:
    """Run out of memory until it may tile."""
    TIGHT.append(rungs)
    if "tile" not in rungs:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
    return f"{text} in tiles"


TIGHT: list[tuple[str, ...]] = []


def test_a_step_steps_down_as_far_as_its_key_allows(tmp_path: Path) -> None:
    """Without leave for tiles the step fails with the library's words; with it the node is told its rungs, the key is another, and the rungs are recorded."""
    registry = Registry({})
    registry.add(tight)
    text = 'imagen_flow: 1\nnodes:\n  n: {type: toy.tight, text: a%s}\noutputs:\n  o: "${n}"\n'
    keys = []
    with Store.open(tmp_path / "store", Codecs()) as store:
        for settings in ("", ", settings: {ladder: tile}"):
            TIGHT.clear()
            plan = make_plan(resolve(parse(text % settings, name="g.yaml"), registry), store=store, device="cpu")
            keys.append(plan.steps[0].key)
            last = list(execute(plan))
            if not settings:
                assert [e.message for e in last if isinstance(e, StepFailed)] == ["RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED"]
                assert TIGHT == [(), ("evict",)]
        assert TIGHT == [(), ("evict",), ("evict", "slice"), ("evict", "slice", "tile")]
        record = store.lookup(keys[1])
        assert record is not None
        assert record.provenance["rungs"] == ["evict", "slice", "tile"]
    assert keys[0] != keys[1]
