"""Costs other than time: parameters, and the memory of activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import nn

from ..estimator import LatencyEstimator
from ..layers import layer_calls
from ..operation import Operation

__all__ = ["ActivationsEstimator", "ParametersEstimator"]


class ParametersEstimator(LatencyEstimator):
    """Counts parameters, in millions. What a module holds twice counts once, and so do all of its calls.

    An operation that runs twice in a network is two operations, and counts twice here: that network holds fewer weights.
    """

    unit = "million parameters"

    @property
    def conditions(self) -> Mapping[str, object]:
        return {"unit": self.unit, "counted": "parameters, without statistics of normalisation"}

    def estimate(self, operation: Operation) -> float:
        """Millions of parameters of ``operation``; 0 for one without weights."""
        return sum(p.numel() for p in operation.module.parameters()) / 1e6


class ActivationsEstimator(LatencyEstimator):
    """The largest memory that activations need at any moment, in MiB, for one sample in float32.

    That of one operation is the largest over its layers of: the layer's inputs and outputs, and the operation's own input
    where a residual still needs it. Normalization, activation functions and dropout count nothing beside the layer
    before them, since runtimes fold them into it; neither does the sum at the end of a residual, which is done in place.
    Weights do not count, nor do buffers inside a layer. That of a network is the largest over its operations, hence
    ``combine = 'max'``. What is kept from operation to operation, as in a U-Net, is not seen.
    """

    unit = "MiB"
    combine: Literal["sum", "max"] = "max"

    @property
    def conditions(self) -> Mapping[str, object]:
        return {"unit": self.unit, "counted": "inputs, outputs and kept residuals", "batch": 1, "precision": "float32"}

    def estimate(self, operation: Operation) -> float:
        """MiB at the worst moment of ``operation``; 0 for one without layers that need memory of their own."""
        held = [
            call.n_inputs + call.n_outputs + call.n_kept for call in layer_calls(operation) if not _in_place(call.layer)
        ]
        return 4 * max(held, default=0) / 2**20


IN_PLACE = (
    nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.Flatten, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU,
    nn.SiLU, nn.GELU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish,
)  # fmt: skip


def _in_place(layer: nn.Module) -> bool:
    return isinstance(layer, IN_PLACE) or getattr(layer, "inplace", False) is True
