"""Spaces of NNI's hub by name, for images of any number of channels.

=====================  ===========================================================================================
:class:`ShuffleNet`    ``shufflenet``: Single Path One-Shot (Guo et al., ECCV 2020); 20 choices of 4 blocks
:class:`ProxylessNet`  ``proxylessnas``: that of ProxylessNAS as NNI has it; 21 choices of 6 blocks, 5 depths
:class:`NasBench`      ``nasbench201``: NAS-Bench-201 (Dong, Yang; ICLR 2020); 6 choices of 5, the same in every cell
=====================  ===========================================================================================

Those that cannot be searched here are in :data:`REFUSED`, with the reason. Their networks are NNI's modules, not timm's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nni.nas.hub.pytorch import NasBench201, ShuffleNetSpace
from nni.nas.hub.pytorch import ProxylessNAS as ProxylessNASSpace
from torch import nn

from .refused import REFUSED

__all__ = ["REFUSED", "NasBench", "ProxylessNet", "ShuffleNet"]


class ShuffleNet(ShuffleNetSpace):
    """NNI's ``ShuffleNetSpace``, without its search for channels. Images are halved five times.

    Parameters
    ----------
    num_labels, in_channels
        Outputs of the classifier, channels of the images.
    affine
        Of all batch norms.
    """

    def __init__(self, *, num_labels: int = 1000, in_channels: int = 3, affine: bool = True):
        super().__init__(num_labels=num_labels, affine=affine)
        _take_channels(self, in_channels)


class ProxylessNet(ProxylessNASSpace):
    """NNI's ``ProxylessNAS`` space. Images are halved five times.

    Parameters
    ----------
    num_labels, in_channels
        Outputs of the classifier, channels of the images.
    base_widths
        Channels of the stem, of seven stages, and before the classifier.
    width_mult
        Channels are multiplied by it.
    dropout_rate
        Before the classifier.

    Raises
    ------
    ValueError
        Not nine widths.
    """

    def __init__(
        self, *, num_labels: int = 1000, in_channels: int = 3,
        base_widths: Sequence[int] = (32, 16, 32, 40, 80, 96, 192, 320, 1280), width_mult: float = 1.0,
        dropout_rate: float = 0.0,
    ):  # fmt: skip
        if len(base_widths) != 9:
            raise ValueError(f"base_widths has {len(base_widths)} entries; allowed: 9")
        super().__init__(
            num_labels=num_labels, base_widths=tuple(base_widths), width_mult=width_mult, dropout_rate=dropout_rate
        )
        _take_channels(self, in_channels)


class NasBench(NasBench201):
    """NNI's ``NasBench201``: three stacks of cells. Images are halved twice.

    Parameters
    ----------
    num_labels, in_channels
        Outputs of the classifier, channels of the images.
    stem_out_channels
        Of the first stack; the others have twice and four times as many.
    num_modules_per_stack
        Cells in each.
    """

    def __init__(
        self, *, num_labels: int = 10, in_channels: int = 3, stem_out_channels: int = 16, num_modules_per_stack: int = 5
    ):
        super().__init__(
            num_labels=num_labels, stem_out_channels=stem_out_channels, num_modules_per_stack=num_modules_per_stack
        )
        _take_channels(self, in_channels)


def _take_channels(space: nn.Module, channels: int) -> None:
    """Let the first convolution take images of so many channels; all spaces of the hub are made for 3."""
    name, first = next((name, module) for name, module in space.named_modules() if isinstance(module, nn.Conv2d))
    if channels == first.in_channels:
        return
    parent, _, last = name.rpartition(".")
    conv: Any = nn.Conv2d(
        channels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=first.bias is not None  # type: ignore[arg-type]  # torch says tuples of any length
    )  # fmt: skip
    setattr(space.get_submodule(parent), last, conv)
