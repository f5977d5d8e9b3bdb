"""Weights that candidates of one choice have in common: where they start, and, if asked for, all the time.

Of the inverted residuals of one choice the widest with the largest kernel holds all the others: a candidate of kernel k and m expanded
channels is the middle k x k of the first m channels. Of its bare convolutions so does that with the largest kernel.

    conv_pw          m x C_in x 1 x 1     the first m filters
    conv_dw          m x 1 x k x k        the middle of the first m
    conv_pwl         C_out x m x 1 x 1    the first m inputs
    bn1, bn2         m                    scale and shift of the first m
    bn3              C_out                scale and shift
    se.conv_reduce   r x m x 1 x 1        the first m inputs; r is the same for all
    se.conv_expand   m x r x 1 x 1        the first m filters
    conv             C_out x C_in x k x k the middle: a bare convolution

Running statistics of batch norm stay each candidate's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["align_candidates", "middle_of", "share_weights"]


def align_candidates(candidates: Sequence[Any]) -> None:
    """Let candidates of one choice, all of one kind of block, start as nearly the same function.

    Every candidate takes its pointwise weights from the widest one with the smallest kernel, as many expanded channels
    as it has; larger kernels hold the smallest one in their middle and zeros around it. In a supernet trained
    one path at a time, a block without a residual otherwise gives its successors another random basis with every
    candidate, and a short training never sorts them out: on the digits, 20 epochs bring the training loss from 2.3 to 2.1
    without this and to 1.5 with it.
    """
    base = min(candidates, key=lambda c: (-_width(c), _kernel(c), not _squeezes(c)))
    theirs = dict(base.named_parameters())
    with torch.no_grad():
        for candidate in candidates:
            for name, own in candidate.named_parameters():
                if candidate is base or name not in theirs:
                    continue
                common = [min(sizes) for sizes in zip(own.shape, theirs[name].shape, strict=True)]
                if own.shape[2:] != theirs[name].shape[2:]:
                    own.zero_()
                middle_of(own, common).copy_(middle_of(theirs[name], common))


def share_weights(candidates: Sequence[Any]) -> None:
    """Let candidates of one choice train the same weights: superkernels (Stamoulis et al., Single-Path NAS, 2019).

    Every candidate keeps parameters of its own, each a view of the largest candidate's memory. So a step of one candidate is
    a step of all, as far as they overlap, and each still is an ordinary block: its ``state_dict`` has its own shapes, its
    gradients and what an optimizer knows of it are its own, and what is not sampled has no gradient.

    Whatever gives parameters new memory, as ``module.to`` may, parts them again; then call it again.

    Parameters
    ----------
    candidates
        In any order, all of one kind of block. One that is as wide as the widest, has the largest kernel and, where any has it,
        squeeze-and-excitation must be among them, as it is where kernels, expansions and the rest are free.
    """
    base = max(candidates, key=lambda c: sum(p.numel() for p in c.parameters()))
    theirs = dict(base.named_parameters())
    for candidate in candidates:
        if candidate is not base:
            for name, own in candidate.named_parameters():
                own.data = middle_of(theirs[name].data, own.shape)


def middle_of(whole: Tensor, shape: Sequence[int]) -> Tensor:
    """A view of so many of the first filters and inputs, and of the middle of the kernel."""
    begins = [
        (large - small) // 2 if i > 1 else 0 for i, (large, small) in enumerate(zip(whole.shape, shape, strict=True))
    ]
    return whole[tuple(slice(begin, begin + size) for begin, size in zip(begins, shape, strict=True))]


def _conv(candidate: Any) -> nn.Conv2d:
    """The convolution that decides: the depthwise one, or the only one."""
    return candidate.conv_dw if hasattr(candidate, "conv_dw") else candidate.conv


def _width(candidate: Any) -> int:
    return _conv(candidate).out_channels


def _kernel(candidate: Any) -> int:
    return int(_conv(candidate).kernel_size[0])


def _squeezes(candidate: Any) -> bool:
    return hasattr(candidate, "se") and not isinstance(candidate.se, nn.Identity)
