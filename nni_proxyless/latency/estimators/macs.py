"""Multiply-adds: counting those of a module, and an estimator that gives them in place of milliseconds."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..calls import Shape, plain_products
from ..estimator import LatencyEstimator
from ..likeness import likeness
from ..operation import Operation
from ..products import MORE_FLOPS

__all__ = ["MacsEstimator", "count_macs"]


class MacsEstimator(LatencyEstimator):
    """Counts multiply-adds of convolutions and linear layers, for one sample, in millions.

    They hold on every machine and need no measurement. With it, a :class:`~nni_proxyless.latency.LatencyProfiler` gives
    the MACs of a network; all that is called ``ms`` there is in millions of multiply-adds then, as its ``unit`` says.
    """

    unit = "million multiply-adds"

    def __init__(self) -> None:
        self._known: dict[Hashable, float] = {}

    @property
    def conditions(self) -> Mapping[str, object]:
        return {"unit": self.unit, "counted": "convolutions and linear layers", "batch": 1}

    def estimate(self, operation: Operation) -> float:
        """Millions of multiply-adds of one run of ``operation`` on one sample; 0 for one without such layers."""
        kind = likeness(operation.module) if operation.call is None else None
        if kind is None:
            return self._counted(operation)
        known = kind, operation.input_shape
        if known not in self._known:
            self._known[known] = self._counted(operation)
        return self._known[known]

    @staticmethod
    def _counted(operation: Operation) -> float:
        args, kwargs = operation.inputs()
        try:
            return _count(operation.module, args, kwargs) / 1e6
        except Exception as error:
            raise ValueError(f"operation '{operation.key}' does not run on {operation.input_text}: {error}") from error


def count_macs(network: nn.Module, input_shape: Shape) -> int:
    """Multiply-adds of convolutions and matrix products for one sample of ``input_shape``.

    A linear layer has in_features * out_features of them; attention, recurrent and bilinear layers, and what a module computes
    by itself, those of their products of matrices; biases, normalization and activations count nothing. The network runs once on
    zeros, where and in the type its weights are; mode and statistics are left as they were.
    """
    return _count(network, *Operation("", network, tuple(input_shape)).inputs())


def _count(network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    # Each module has its mode back, not the network's: a part may be kept in evaluation mode while the rest trains.
    modes = [(module, module.training) for module in network.modules()]
    counter = FlopCounterMode(display=False, custom_mapping=MORE_FLOPS)
    try:
        network.eval()
        with torch.no_grad(), plain_products(), counter:
            network(*args, **kwargs)
    finally:
        for module, mode in modes:
            module.training = mode
    return counter.get_total_flops() // 2
