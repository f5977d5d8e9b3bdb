"""EEEA-Net's space of cells (Termritthikun et al., EAAI 104, 2021; arXiv:2108.06156), and its published networks.

Source: chakkritte/EEEA-Net at 58ba072, EEEA/cifar/eeea/network. Each of five nodes, i = 2 … 6, is the sum of two operations, k = 0 and 1:

``normal/op_{i}_{k}``     which operation
``normal/input_{i}_{k}``  what it is given: 0 and 1 are the outputs of the two cells before, 2 … i - 1 the nodes before

and likewise ``reduce``. A cell gives the nodes that no other node has been given. Where paper and code differ: ``docs/methods/evolution.md``.
"""

from __future__ import annotations

from typing import Any, ClassVar

from nni.nas.nn.pytorch import MutableBatchNorm2d, MutableConv2d
from torch import Tensor, nn

from nni_proxyless.core.nni_compat import add_cell_operation

from .cells import CellSpace

__all__ = ["PUBLISHED", "EeeaNetSpace", "InvertedResidual"]


class InvertedResidual(nn.Module):
    """Convolution of 1x1, depthwise convolution, convolution of 1x1, all of as many channels; with stride 1 the input is added.

    ReLU comes before the first two, batch norm after each of the three.

    Parameters
    ----------
    channels
        Of input and output; a number, or a choice of numbers.
    kernel, stride
        Of the depthwise convolution.
    affine
        Of the batch norms.
    """

    def __init__(self, channels: Any, kernel: int, stride: int, affine: bool = True):
        super().__init__()
        self.adds_input = stride == 1
        self.layers = nn.Sequential(
            nn.ReLU(),
            MutableConv2d(channels, channels, 1, bias=False),
            MutableBatchNorm2d(channels, affine=affine),
            nn.ReLU(),
            MutableConv2d(channels, channels, kernel, stride=stride, padding=kernel // 2, groups=channels, bias=False),
            MutableBatchNorm2d(channels, affine=affine),
            MutableConv2d(channels, channels, 1, bias=False),
            MutableBatchNorm2d(channels, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.adds_input else y


add_cell_operation("inv_res_3x3", lambda channels, stride, affine: InvertedResidual(channels, 3, stride, affine))
add_cell_operation("inv_res_5x5", lambda channels, stride, affine: InvertedResidual(channels, 5, stride, affine))


class EeeaNetSpace(CellSpace):
    """The space of EEEA-Net: 5 nodes, 9 operations, loose ends. Its final networks have ``width=36`` and ``num_cells=20``."""

    operations: ClassVar[list[str]] = [
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
        "inv_res_3x3",
        "inv_res_5x5",
    ]


def _choices(**cells: str) -> dict[str, Any]:
    """Label -> choice, of cells that are written as their nodes: of each, two operations and what they are given."""
    choices: dict[str, Any] = {}
    for cell, nodes in cells.items():
        for i, node in enumerate(nodes.split("; "), 2):
            for k, pair in enumerate(node.split(", ")):
                operation, given = pair.split()
                choices |= {f"{cell}/op_{i}_{k}": operation, f"{cell}/input_{i}_{k}": [int(given)]}
    return choices


PUBLISHED: dict[str, dict[str, Any]] = {
    "ea-net": _choices(
        normal="dil_conv_3x3 0, max_pool_3x3 0; inv_res_5x5 1, dil_conv_5x5 1; avg_pool_3x3 1, avg_pool_3x3 1; inv_res_5x5 3, inv_res_3x3 2; sep_conv_3x3 4, max_pool_3x3 3",
        reduce="avg_pool_3x3 0, inv_res_3x3 0; inv_res_5x5 1, dil_conv_3x3 0; inv_res_3x3 0, dil_conv_5x5 0; max_pool_3x3 3, skip_connect 3; max_pool_3x3 0, sep_conv_3x3 0",
    ),
    "eeea-net-a": _choices(
        normal="max_pool_3x3 0, inv_res_3x3 0; dil_conv_3x3 1, max_pool_3x3 0; skip_connect 2, inv_res_3x3 0; avg_pool_3x3 2, skip_connect 3; avg_pool_3x3 4, skip_connect 3",
        reduce="skip_connect 0, dil_conv_3x3 0; max_pool_3x3 1, avg_pool_3x3 0; dil_conv_3x3 0, avg_pool_3x3 0; skip_connect 2, skip_connect 3; dil_conv_3x3 3, dil_conv_5x5 0",
    ),
    "eeea-net-b": _choices(
        normal="skip_connect 0, max_pool_3x3 0; max_pool_3x3 1, skip_connect 1; skip_connect 1, skip_connect 2; dil_conv_3x3 3, sep_conv_3x3 1; max_pool_3x3 4, sep_conv_3x3 4",
        reduce="skip_connect 0, inv_res_5x5 0; avg_pool_3x3 0, dil_conv_3x3 1; inv_res_3x3 1, skip_connect 1; max_pool_3x3 1, avg_pool_3x3 1; avg_pool_3x3 2, dil_conv_3x3 3",
    ),
    "eeea-net-c": _choices(
        normal="dil_conv_5x5 0, max_pool_3x3 0; inv_res_5x5 0, inv_res_3x3 0; dil_conv_5x5 2, inv_res_3x3 2; sep_conv_5x5 1, skip_connect 2; sep_conv_3x3 1, avg_pool_3x3 4",
        reduce="inv_res_3x3 0, dil_conv_3x3 0; avg_pool_3x3 0, inv_res_3x3 0; dil_conv_5x5 1, max_pool_3x3 1; skip_connect 3, max_pool_3x3 3; inv_res_5x5 4, inv_res_3x3 2",
    ),
}
"""Label -> choice, of the networks without a bound and of those below 3, 4 and 5 million parameters, in this order."""
