"""Take the steps of a training run, and keep it across kills: weights, their running average and
the optimizer's state as safetensors, the rest as JSON.

A checkpoint is written aside and renamed, so a kill leaves the one before it or the new one. All
random numbers of a step come from its seed and number, so no generator's state needs keeping. A run
that is cancelled between two steps saves first.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

NOTED = 10
"""The losses that are told are the means of this many steps."""


class Keeper:
    """Owns the checkpoint in a scratch folder: restores what is there and saves every ``every_s``
    seconds.

    The average of the weights is exponential with ``decay``, shorter in the first steps; without a
    decay none is kept.
    ``log`` holds the mean losses of every ten steps.
    Raises: ValueError if the checkpoint was made with other settings.
    """

    def __init__(
        self,
        scratch: Path,
        network: Any,
        optimizer: Any,
        settings: dict[str, Any],
        *,
        decay: float | None = None,
        every_s: float = 150,
    ) -> None:
        self.path = scratch / "checkpoint.safetensors"
        self.network, self.optimizer, self.settings, self.decay, self.every_s = (
            network,
            optimizer,
            settings,
            decay,
            every_s,
        )
        self.average = (
            {name: value.detach().clone() for name, value in network.state_dict().items()}
            if decay
            else {}
        )
        self.log: list[dict[str, float]] = []
        self.step, self.spent_s, self._since, self._saved_at = (
            0,
            0.0,
            time.monotonic(),
            time.monotonic(),
        )
        scratch.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            self._restore()

    def train(
        self,
        steps: int,
        losses: Callable[[int], Mapping[str, torch.Tensor]],
        rate: Callable[[int], float],
    ) -> Generator[tuple[int, int, str], None, None]:
        """Train from the step that was reached up to ``steps``; the network then holds the average
        of its weights, if one is kept.

        Params:
            losses: given the number of a step, the losses whose sum it lowers, by name.
            rate: given the number of a step, its learning rate.
        Outputs: yields (steps done, steps in all, the losses lately) after each step.
        """
        recent: list[dict[str, float]] = []
        note = ""
        try:
            for step in range(self.step, steps):
                found = losses(step)
                self._learn(found, rate(step))
                recent.append({name: value.item() for name, value in found.items()})
                if self.step % NOTED == 0 or self.step == steps:
                    means = {
                        name: fmean(each[name] for each in recent if name in each) for name in found
                    }
                    self.log.append(
                        {"step": self.step, **means, "seconds": round(self._elapsed_s(), 1)}
                    )
                    note = " ".join(f"{name} {mean:.4f}" for name, mean in means.items())
                    recent.clear()
                yield self.step, steps, note
                if time.monotonic() - self._saved_at > self.every_s:
                    self.save()
        except GeneratorExit:
            self.save()
            raise
        self.save()
        if self.average:
            self.network.load_state_dict(self.average)

    def _learn(self, losses: Mapping[str, torch.Tensor], rate: float) -> None:
        import torch

        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        if self.decay:
            decay = min(self.decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for name, value in self.network.state_dict().items():
                    self.average[name].lerp_(value, 1 - decay)

    def save(self) -> None:
        """Write the checkpoint aside, then put it in place."""
        from safetensors.torch import save_file

        tensors = {f"model.{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for index, parameter in enumerate(self._parameters()):
            tensors |= {
                f"optimizer.{index}.{key}": value
                for key, value in self.optimizer.state.get(parameter, {}).items()
            }
        notes = {
            "step": self.step,
            "settings": self.settings,
            "spent_s": self._elapsed_s(),
            "log": self.log,
        }
        aside = self.path.with_suffix(".new")
        save_file(
            {name: value.contiguous().clone() for name, value in tensors.items()},
            aside,
            {"notes": json.dumps(notes)},
        )
        aside.replace(self.path)
        self._saved_at = time.monotonic()

    def _restore(self) -> None:
        from safetensors import safe_open

        with safe_open(self.path, "pt") as file:
            notes = json.loads(file.metadata()["notes"])
            if notes["settings"] != self.settings:
                raise ValueError(
                    f"the checkpoint in {self.path.parent} was made with other settings:"
                    f" {notes['settings']}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        self.network.load_state_dict(
            {
                name.removeprefix("model."): value
                for name, value in tensors.items()
                if name.startswith("model.")
            }
        )
        for name in self.average:
            self.average[name] = tensors[f"average.{name}"]
        for index, parameter in enumerate(self._parameters()):
            state = {
                key: tensors[f"optimizer.{index}.{key}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"optimizer.{index}.{key}" in tensors
            }
            if state:
                self.optimizer.state[parameter] = state
        self.step, self.spent_s, self.log = notes["step"], notes["spent_s"], notes["log"]

    def _parameters(self) -> list[Any]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _elapsed_s(self) -> float:
        """Give the seconds trained, kills and restarts together."""
        return self.spent_s + time.monotonic() - self._since


def rate_at(step: int, steps: int, peak: float, *, warm_up: int = 100) -> float:
    """Give the learning rate of a step: linear warm-up, then a cosine down to nothing."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return (
        peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / max(1, steps - warm_up))))
    )
