"""A network of trees on a PyramidNet as one function of plain torch, written from a description of the authors' code.

It shares nothing with the package but the names of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["logits", "n_parameters", "widths"]


def widths(depths: Sequence[int], first: int, last: int) -> list[int]:
    """PyramidNet's rule, in multiples of two."""
    n = sum(depths)
    return [2 * (round(first + (last - first) * i / n) // 2) for i in range(1, n + 1)]


def logits(
    x: Tensor, weights: Mapping[str, Tensor], trees: Sequence[str], depths: Sequence[int], *, train: bool = False
) -> Tensor:
    """Of images; in training mode with the statistics of the batch.

    Parameters
    ----------
    trees
        Per block the names of its twelve operations: of half 0 branch 0 and the two behind it, branch 1 and those behind it; half 1.
    """

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = weights[f"{name}.running_mean"].clone(), weights[f"{name}.running_var"].clone()
        return functional.batch_norm(
            x, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"], training=train, eps=1e-5
        )

    def operation(x: Tensor, kind: str, name: str) -> Tensor:
        if kind == "id":
            return x
        if kind == "avg3":
            ones = functional.avg_pool2d(torch.ones_like(x), 3, 1, 1)  # the share of pixels inside of the map
            return functional.avg_pool2d(x, 3, 1, 1) / ones
        if kind == "max3":
            return functional.max_pool2d(functional.pad(x, (1, 1, 1, 1), value=-torch.inf), 3, 1)
        kernel, dilation = (3, 2) if kind == "dil3" else (int(kind.removeprefix("dw")), 1)
        y = functional.relu(norm(x, f"{name}.norm"))
        padding = dilation * (kernel - 1) // 2
        y = functional.conv2d(y, weights[f"{name}.depthwise.weight"], None, 1, padding, dilation, x.shape[1])
        return functional.conv2d(y, weights[f"{name}.pointwise.weight"])

    def block(x: Tensor, kinds: Sequence[str], name: str, stride: int) -> Tensor:
        y = functional.conv2d(norm(x, f"{name}.entry.norm1"), weights[f"{name}.entry.conv1.weight"])
        y = functional.relu(norm(y, f"{name}.entry.norm2"))
        y = functional.conv2d(y, weights[f"{name}.entry.conv2.weight"], None, stride, 1, 1, 2)
        n, channels, height, width = y.shape
        y = y.reshape(n, 2, channels // 2, height, width).transpose(1, 2).reshape(n, channels, height, width)
        total = torch.zeros_like(y[:, : channels // 2])
        for half in range(2):
            given = y[:, half * channels // 2 : (half + 1) * channels // 2]
            tree = torch.zeros_like(given)
            for branch in range(2):
                edge, *leaves = kinds[6 * half + 3 * branch :][:3]
                here = f"{name}.trees.{half}.branches.{branch}"
                after = operation(given, edge, f"{here}.edge")
                for i, leaf in enumerate(leaves):
                    tree = tree + operation(after, leaf, f"{here}.leaves.{i}")
            total = total + norm(tree, f"{name}.trees.{half}.norm") + given
        y = functional.conv2d(functional.relu(norm(total, f"{name}.exit.norm1")), weights[f"{name}.exit.conv.weight"])
        y = norm(y, f"{name}.exit.norm2")
        shortcut = functional.avg_pool2d(x, 2, 2) if stride == 2 else x
        missing = torch.zeros_like(y[:, shortcut.shape[1] :])
        return torch.cat([shortcut, missing], dim=1) + y

    x = norm(functional.conv2d(x, weights["conv_stem.weight"], None, 1, 1), "bn1")
    rows = iter(trees)
    for stage, depth in enumerate(depths):
        for i in range(depth):
            x = block(x, next(rows).split(), f"blocks.{stage}.{i}", 2 if stage and not i else 1)
    x = functional.relu(norm(x, "bn2")).mean((2, 3))
    return functional.linear(x, weights["classifier.weight"], weights["classifier.bias"])


def n_parameters(
    trees: Sequence[str], depths: Sequence[int], first: int, last: int, channels: int, classes: int
) -> int:
    """Trainable parameters, added up layer by layer."""
    total, before = 9 * channels * first + 2 * first, first
    for row, w in zip(trees, widths(depths, first, last), strict=True):
        total += 2 * before + before * w + 2 * w + 9 * w * w  # entry: two groups of w/2 -> w
        kernels = {"dw3": 9, "dil3": 9, "dw5": 25, "dw7": 49}
        total += sum(2 * w + kernels[kind] * w + w * w for kind in row.split() if kind in kernels) + 2 * 2 * w
        total += 2 * w + 4 * w * w + 2 * 4 * w
        before = 4 * w
    return total + 2 * before + before * classes + classes
