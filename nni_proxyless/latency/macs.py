"""Multiply-adds: counting those of a module, and an estimator that gives them in place of milliseconds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .estimator import LatencyEstimator

if TYPE_CHECKING:  # it needs NNI
    from .operation import Operation, Shape

__all__ = ["MacsEstimator", "count_macs"]


class MacsEstimator(LatencyEstimator):
    """Counts multiply-adds of convolutions and linear layers, for one sample, in millions.

    They hold on every machine and need no measurement. With it, a :class:`~nni_proxyless.latency.LatencyProfiler` gives
    the MACs of a network; all that is called ``ms`` there is in millions of multiply-adds then, as its ``unit`` says.
    """

    unit = "million multiply-adds"

    @property
    def conditions(self) -> Mapping[str, object]:
        return {"unit": self.unit, "counted": "convolutions and linear layers", "batch": 1}

    def estimate(self, operation: Operation) -> float:
        """Millions of multiply-adds of one run of ``operation`` on one sample; 0 for one without such layers."""
        return count_macs(operation.module, operation.input_shape) / 1e6


def count_macs(network: nn.Module, input_shape: Shape) -> int:
    """Multiply-adds of convolutions and matrix products for one sample of ``input_shape``.

    A linear layer has in_features * out_features of them; biases, normalisation and activations count nothing. The
    network runs once on zeros, where and in the type its weights are; mode and statistics are left as they were.
    """
    tensors = itertools.chain(network.parameters(), network.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    # Each module has its mode back, not the network's: a part may be kept in evaluation mode while the rest trains.
    modes = [(module, module.training) for module in network.modules()]
    counter = FlopCounterMode(display=False)
    try:
        network.eval()
        with torch.no_grad(), counter:
            network(torch.zeros(1, *input_shape, device=like.device, dtype=like.dtype))
    finally:
        for module, mode in modes:
            module.training = mode
    return counter.get_total_flops() // 2
