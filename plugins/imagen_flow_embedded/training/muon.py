"""Muon: momentum whose step on each matrix is made orthogonal, and AdamW for what is no matrix.

A small network learns in fewer steps by it than by AdamW. Convolutions count as matrices of (output
channels, all else).

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the size
    of a step is that of AdamW, 0.2 √max(rows, columns), by arXiv:2502.16982.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MOMENTUM = 0.95
BETAS = (0.9, 0.95)
_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon:
    """An optimizer with the parts of torch's that a training uses: ``param_groups``, ``state``,
    ``zero_grad`` and ``step``.

    Params:
        matrices: parameters of two dimensions or more that are stepped orthogonally.
        others: the rest: AdamW, without weight decay.
    """

    def __init__(
        self,
        matrices: Sequence[Any],
        others: Sequence[Any],
        *,
        learning_rate: float,
        weight_decay: float = 0.01,
    ) -> None:
        self.param_groups: list[dict[str, Any]] = [
            {"params": list(matrices), "lr": learning_rate},
            {"params": list(others), "lr": learning_rate},
        ]
        self.state: dict[Any, dict[str, Any]] = {}
        self.weight_decay = weight_decay

    def zero_grad(self, *, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def step(self) -> None:
        import torch

        with torch.no_grad():
            self._step_matrices(**self.param_groups[0])
            self._step_others(**self.param_groups[1])

    def _step_matrices(self, params: Sequence[Any], lr: float) -> None:
        import torch

        alike: dict[tuple[int, int], list[tuple[Any, Any]]] = {}
        for parameter in params:
            if parameter.grad is None:
                continue
            mean = self._state(parameter, "exp_avg")["exp_avg"]
            mean.mul_(MOMENTUM).add_(parameter.grad)
            ahead = parameter.grad.add(mean, alpha=MOMENTUM).flatten(1)  # Nesterov
            alike.setdefault((ahead.shape[0], ahead.shape[1]), []).append((parameter, ahead))
        for shape, found in alike.items():
            turned = orthogonal(torch.stack([ahead for _, ahead in found]))
            for (parameter, _), update in zip(found, turned, strict=True):
                parameter.mul_(1 - lr * self.weight_decay)
                parameter.add_(update.view_as(parameter), alpha=-lr * 0.2 * max(shape) ** 0.5)

    def _step_others(self, params: Sequence[Any], lr: float) -> None:
        for parameter in params:
            if parameter.grad is None:
                continue
            state = self._state(parameter, "exp_avg", "exp_avg_sq", "step")
            state["step"] += 1
            count = state["step"].item()
            state["exp_avg"].lerp_(parameter.grad, 1 - BETAS[0])
            state["exp_avg_sq"].mul_(BETAS[1]).addcmul_(
                parameter.grad, parameter.grad, value=1 - BETAS[1]
            )
            spread = (state["exp_avg_sq"] / (1 - BETAS[1] ** count)).sqrt_().add_(1e-8)
            parameter.addcdiv_(state["exp_avg"], spread, value=-lr / (1 - BETAS[0] ** count))

    def _state(self, parameter: Any, *names: str) -> dict[str, Any]:
        import torch

        state = self.state.setdefault(parameter, {})
        for name in names:
            if name not in state:
                state[name] = torch.zeros(()) if name == "step" else torch.zeros_like(parameter)
        return state


def orthogonal(matrices: torch.Tensor, iterations: int = 4) -> torch.Tensor:
    """Bring the singular values of matrices (n, rows, columns) near 1, by the quintic
    Newton–Schulz iteration.
    """
    a, b, c = _QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
