"""A linear layer that answers in the units of its targets: the weights know of none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["OUTPUT", "ScaledLinear", "of_outputs", "scale_outputs"]

OUTPUT = "output_scale"  # of a space, and of a definition of a network: mean and deviation of what it answers


class ScaledLinear(nn.Linear):
    """mean + deviation * (W x + b), for each number of its own.

    The weights are as if targets had mean 0 and deviation 1, which is what learning rates and initializations are made for. Its ``state_dict`` is
    that of a linear layer: mean and deviation are of the definition, not of the weights.

    Parameters
    ----------
    mean, deviation
        Shape (out_features,), in the units of the targets; deviations above 0.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, in_features: int, mean: Sequence[float], deviation: Sequence[float]):
        super().__init__(in_features, len(mean))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation, dtype=torch.float32), persistent=False)

    @classmethod
    def of(cls, linear: nn.Linear, mean: Sequence[float], deviation: Sequence[float]) -> ScaledLinear:
        """With the weights of a linear layer."""
        scaled = cls(linear.in_features, mean, deviation)
        scaled.load_state_dict(linear.state_dict())
        return scaled

    def forward(self, input: Tensor) -> Tensor:
        return self.mean + self.deviation * super().forward(input)


def of_outputs(space: object) -> dict[str, dict[str, list[float]]]:
    """What the definition of a network of this space says of its outputs; empty where they have no scale."""
    scale = getattr(space, OUTPUT, None)
    return {} if scale is None else {OUTPUT: scale}


def scale_outputs(model: nn.Module, scale: Mapping[str, Sequence[float]] | None) -> None:
    """Give a model's ``classifier`` a scale, where there is one and it answers with so many numbers: for others it is no use."""
    last = getattr(model, "classifier", None)
    if scale is not None and type(last) is nn.Linear and last.out_features == len(scale["mean"]):
        model.classifier = ScaledLinear.of(last, **scale)
