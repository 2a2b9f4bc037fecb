"""Keep a training run across kills: weights, their running average and the optimizer's state as safetensors, the rest as JSON.

A checkpoint is written aside and renamed, so a kill leaves the one before it or the new one. All random numbers of a step come from its seed
and number, so no generator's state needs keeping.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any


class Keeper:
    """Owns the checkpoint in a scratch folder: restores what is there and saves every ``every_s`` seconds.

    The average of the weights is exponential with ``decay``, shorter in the first steps; without a decay none is kept.
    """

    def __init__(self, scratch: Path, network: Any, optimizer: Any, settings: dict[str, Any], *, decay: float | None = None, every_s: float = 150) -> None:
        self.path = scratch / "checkpoint.safetensors"
        self.network, self.optimizer, self.settings, self.decay, self.every_s = network, optimizer, settings, decay, every_s
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()} if decay else {}
        self.log: list[dict[str, float]] = []
        self._losses: list[float] = []
        self.step, self.spent_s, self._since, self._saved_at = 0, 0.0, time.monotonic(), time.monotonic()
        scratch.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._restore()

    def learn(self, loss: Any, *, step: int, rate: float) -> str:
        """Take the optimizer's step down this loss; every tenth step log the mean loss, and give it in words."""
        import torch

        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self._losses.append(loss.item())
        if (step + 1) % 10:
            return ""
        mean = sum(self._losses) / len(self._losses)
        self.log.append({"step": step + 1, "loss": mean, "seconds": round(self.elapsed_s(), 1)})
        self._losses.clear()
        return f"loss {mean:.5f}"

    def _restore(self) -> None:
        from safetensors import safe_open

        with safe_open(self.path, "pt") as file:
            notes = json.loads(file.metadata()["notes"])
            if notes["settings"] != self.settings:
                raise ValueError(f"the checkpoint in {self.path.parent} was made with other settings: {notes['settings']}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        self.network.load_state_dict({name[6:]: value for name, value in tensors.items() if name.startswith("model.")})
        for name in self.average:
            self.average[name] = tensors[f"average.{name}"]
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        for index, parameter in enumerate(parameters):
            state = {key: tensors[f"optimizer.{index}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"optimizer.{index}.{key}" in tensors}
            if state:
                self.optimizer.state[parameter] = state
        self.step, self.spent_s, self.log = notes["step"], notes["spent_s"], notes["log"]

    def after_step(self, step: int) -> None:
        """Move the average and save if it is time."""
        import torch

        self.step = step
        if self.decay:
            decay = min(self.decay, (1 + step) / (10 + step))
            with torch.no_grad():
                for name, value in self.network.state_dict().items():
                    self.average[name].lerp_(value, 1 - decay)
        if time.monotonic() - self._saved_at > self.every_s:
            self.save()

    def elapsed_s(self) -> float:
        """Give the seconds trained, kills and restarts together."""
        return self.spent_s + time.monotonic() - self._since

    def save(self) -> None:
        """Write the checkpoint aside, then put it in place."""
        from safetensors.torch import save_file

        tensors = {f"model.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        index = 0
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                tensors |= {f"optimizer.{index}.{key}": value for key, value in self.optimizer.state.get(parameter, {}).items()}
                index += 1
        notes = {"step": self.step, "settings": self.settings, "spent_s": self.elapsed_s(), "log": self.log}
        aside = self.path.with_suffix(".new")
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, aside, {"notes": json.dumps(notes)})
        aside.replace(self.path)
        self._saved_at = time.monotonic()


def rate_at(step: int, steps: int, peak: float, *, warm_up: int = 100) -> float:
    """Give the learning rate of a step: linear warm-up, then a cosine down to nothing."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))


def set_rate(optimizer: Any, rate: float) -> None:
    """Give every group of an optimizer one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate
