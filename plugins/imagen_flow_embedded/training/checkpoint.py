"""A training run that outlives its process: weights, their average, the optimizer's moments and the step, in safetensors and JSON.

A checkpoint is written under a new name, then ``checkpoint.json`` is replaced to name it: a kill at any point leaves the old one or the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

INDEX = "checkpoint.json"


class Average:
    """An exponential moving average of a module's parameters, slower as training goes on, held beside the module."""

    def __init__(self, module: torch.nn.Module, *, decay: float = 0.999) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.named_parameters()}

    def update(self, module: torch.nn.Module, step: int) -> None:
        """Take in the parameters after step ``step`` (from 0)."""
        import torch

        decay = min(self.decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(self.values.values()), [value.detach() for value in module.parameters()], 1 - decay)

    def swap(self, module: torch.nn.Module) -> None:
        """Exchange the average with the module's parameters; twice gives the first state back."""
        for name, value in module.named_parameters():
            held = value.detach().clone()
            value.data.copy_(self.values[name])
            self.values[name].copy_(held)


def save(scratch: Path, step: int, module: torch.nn.Module, average: Average, optimizer: torch.optim.Optimizer) -> None:
    """Write a checkpoint that ``restore`` continues from after ``step`` steps; an earlier one is removed."""
    from safetensors.torch import save_file

    tensors = {f"model/{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"average/{name}": value for name, value in average.values.items()}
    for name, value in module.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq"):
            if value in optimizer.state:
                tensors[f"{moment}/{name}"] = optimizer.state[value][moment]
                tensors[f"taken/{name}"] = optimizer.state[value]["step"].reshape(1)
    scratch.mkdir(parents=True, exist_ok=True)
    target = scratch / f"checkpoint-{step}.safetensors"
    aside = scratch / f"{target.name}.part"
    save_file({name: value.detach().contiguous().clone() for name, value in tensors.items()}, str(aside))
    os.replace(aside, target)
    note = scratch / f"{INDEX}.part"
    note.write_text(json.dumps({"step": step, "file": target.name}), encoding="utf-8")
    os.replace(note, scratch / INDEX)
    for other in scratch.glob("checkpoint-*.safetensors*"):
        if other != target:
            other.unlink()


def taken(scratch: Path) -> int:
    """Give the number of steps that the checkpoint of ``scratch`` has taken; 0 without one."""
    index = _index(scratch)
    return index["step"] if index else 0


def restore(
    scratch: Path,
    module: torch.nn.Module,
    average: Average,
    optimizer: torch.optim.Optimizer,
    *,
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
) -> int:
    """Load the checkpoint of ``scratch`` into what trains.

    Params:
        change: done to the tensors first, where the module is not of the shape it had.
    Outputs: the number of steps already taken; 0 without a checkpoint, and nothing is touched.
    """
    from safetensors.torch import load_file

    index = _index(scratch)
    if index is None:
        return 0
    tensors = load_file(str(scratch / index["file"]))
    if change:
        tensors = change(tensors)
    module.load_state_dict({name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")})
    for name, value in module.named_parameters():
        average.values[name].copy_(tensors[f"average/{name}"])
        if f"exp_avg/{name}" in tensors:
            moments = {moment: tensors[f"{moment}/{name}"] for moment in ("exp_avg", "exp_avg_sq")}
            steps = tensors[f"taken/{name}"][0]  # fewer than the checkpoint's where a part was not trained from the start
            optimizer.state[value] = {"step": steps.clone(), **moments}
    return int(index["step"])


def _index(scratch: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((scratch / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found
