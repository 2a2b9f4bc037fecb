"""What both stages of super-resolution learn by: a loss that is about edges, and an optimizer.

The absolute error pulls as hard on a pixel that is off by one level of 255 as on one that is off by a
hundred, and nineteen pixels in twenty lie in flat colour, nearly right. Errors too small to see
count by their square here, so that what is left to learn from are the edges.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagen_flow_embedded.training.muon import Muon

if TYPE_CHECKING:
    import torch

MOST_WEIGHT = 2.5
"""Cap of the loss's weight, 1 / sigma."""
SEEN = 0.05
"""The weighted error, of a range of 2, from which on it counts by its absolute value."""


def edge_losses(
    guess: torch.Tensor, clean: torch.Tensor, sigma: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Compare guesses with clean pictures, both (N, 3, height, width), at noise levels sigma (N).

    Outputs: by name, the losses of the pixels and of their slopes: an edge that wavers is wrong in
        its slopes more than in its pixels.
    Source: P. J. Huber, "Robust Estimation of a Location Parameter" (1964).
    """
    from torch.nn import functional as F

    error = (1 / sigma).clamp(max=MOST_WEIGHT).view(-1, 1, 1, 1) * (guess - clean)

    def huber(values: torch.Tensor) -> torch.Tensor:
        return F.smooth_l1_loss(values, values.new_zeros(()).expand_as(values), beta=SEEN)

    slopes = huber(error.diff(dim=2)) + huber(error.diff(dim=3))
    return {"pixels": huber(error), "slopes": 0.5 * slopes}


def build_optimizer(network: Any, learning_rate: float) -> Muon:
    """Give Muon for the inner convolutions, and AdamW within it for the first and the last one, the
    embeddings and the vectors.
    """
    matrices: list[Any] = []
    others: list[Any] = []
    for name, parameter in network.named_parameters():
        inner = parameter.ndim == 4 and not name.startswith(("conv_in", "conv_out"))
        (matrices if inner else others).append(parameter)
    return Muon(matrices, others, learning_rate=learning_rate)


def start_from(network: Any, start: Path) -> None:
    """Give a denoiser the weights of a super-resolution stage of the same build."""
    from safetensors.torch import load_file

    file = start / "super_resolution" / "diffusion_pytorch_model.safetensors"
    network.load_state_dict(load_file(file))
