"""Spaces of NNI's hub by name, for images of any number of channels.

=====================  ===========================================================================================
:class:`ShuffleNet`    ``shufflenet``: Single Path One-Shot (Guo et al., ECCV 2020); 20 choices of 4 blocks, and of channels
:class:`MobileNetV3`   ``mobilenetv3``: the largest of TuNAS (Bender et al., CVPR 2020); widths, expansions, kernels, depths
:class:`Former`        ``autoformer``: AutoFormer (Chen et al., ICCV 2021); a width, heads, ratios, a depth
:class:`ProxylessNet`  ``proxylessnas``: that of ProxylessNAS as NNI has it; 21 choices of 6 blocks, 5 depths
:class:`NasBench`      ``nasbench201``: NAS-Bench-201 (Dong, Yang; ICLR 2020); 6 choices of 5, the same in every cell
=====================  ===========================================================================================

Those that cannot be searched here are in :data:`REFUSED`, with the reason. Their networks are NNI's modules, not timm's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nni.nas.hub.pytorch import AutoFormer, MobileNetV3Space, NasBench201, ShuffleNetSpace
from nni.nas.hub.pytorch import ProxylessNAS as ProxylessNASSpace
from nni.nas.nn.pytorch import MutableConv2d
from torch import nn

from .refused import REFUSED

__all__ = ["REFUSED", "Former", "MobileNetV3", "NasBench", "ProxylessNet", "ShuffleNet", "take_channels"]


class ShuffleNet(ShuffleNetSpace):
    """NNI's ``ShuffleNetSpace``. Images are halved five times.

    Parameters
    ----------
    num_labels, in_channels
        Outputs of the classifier, channels of the images.
    affine
        Of all batch norms.
    channel_search
        Whether the inner channels of each block are a choice as well, of eight numbers; see docs/how-to/values.md.
    """

    def __init__(
        self, *, num_labels: int = 1000, in_channels: int = 3, affine: bool = True, channel_search: bool = False
    ):
        super().__init__(num_labels=num_labels, affine=affine, channel_search=channel_search)
        take_channels(self, in_channels)


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
        take_channels(self, in_channels)


class MobileNetV3(MobileNetV3Space):
    """NNI's ``MobileNetV3Space``; its choices are values (docs/how-to/values.md). Images are halved five times.

    Parameters
    ----------
    num_labels, in_channels
        Outputs of the classifier, channels of the images.
    base_widths
        Channels of the stem, of stages, and of the two layers before the classifier.
    width_multipliers
        Choices of each stage, by which its channels are multiplied, to multiples of eight.
    expand_ratios
        Choices of each block.
    squeeze_excite
        For each stage ``'force'``, ``'optional'`` or ``'none'``.
    depth_range
        Fewest and most blocks of each stage but the first.
    stride, activation
        Of the stem, the stages and the last layers; activations are ``'hswish'``, ``'swish'`` or ``'relu'``.
    dropout_rate
        Before the classifier.

    Raises
    ------
    ValueError
        Numbers of strides, activations or squeezes that do not go with the widths.
    """

    def __init__(
        self, *, num_labels: int = 1000, in_channels: int = 3,
        base_widths: Sequence[int] = (16, 16, 16, 32, 64, 128, 256, 512, 1024),
        width_multipliers: Sequence[float] = (0.5, 0.625, 0.75, 1.0, 1.25, 1.5, 2.0),
        expand_ratios: Sequence[float] = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0),
        squeeze_excite: Sequence[str] = ("none", "none", "optional", "none", "optional", "optional"),
        depth_range: Sequence[int] = (1, 4), stride: Sequence[int] = (2, 1, 2, 2, 2, 1, 2, 1, 1),
        activation: Sequence[str] = ("hswish", "relu", "relu", "relu", "hswish", "hswish", "hswish", "hswish", "hswish"),
        dropout_rate: float = 0.2,
    ):  # fmt: skip
        if len(base_widths) < 5:
            raise ValueError(f"base_widths has {len(base_widths)} entries; allowed: 5 or more")
        for name, given, n in (
            ("stride", stride, len(base_widths)), ("activation", activation, len(base_widths)),
            ("squeeze_excite", squeeze_excite, len(base_widths) - 3), ("depth_range", depth_range, 2),
        ):  # fmt: skip
            if len(given) != n:
                raise ValueError(f"{name} has {len(given)} entries; allowed with these base_widths: {n}")
        super().__init__(
            num_labels=num_labels, base_widths=tuple(base_widths), width_multipliers=tuple(width_multipliers),
            expand_ratios=tuple(expand_ratios), squeeze_excite=tuple(squeeze_excite), depth_range=tuple(depth_range),
            stride=tuple(stride), activation=tuple(activation), dropout_rate=dropout_rate,
        )  # fmt: skip
        take_channels(self, in_channels)


class Former(AutoFormer):
    """NNI's ``AutoFormer``; its choices are values (docs/how-to/values.md).

    Parameters
    ----------
    num_labels, in_channels
        Outputs of the classifier, channels of the images.
    img_size, patch_size
        Side of the images, and of the squares that they are cut into.
    search_embed_dim
        Widths to choose from, one for the whole network.
    search_mlp_ratio, search_num_heads
        Choices of each block.
    search_depth
        Numbers of blocks to choose from.
    drop_path_rate
        Of the last block.

    Raises
    ------
    ValueError
        Images cannot be cut into such squares.
    """

    def __init__(
        self, *, num_labels: int = 1000, in_channels: int = 3, img_size: int = 224, patch_size: int = 16,
        search_embed_dim: Sequence[int] = (192, 216, 240), search_mlp_ratio: Sequence[float] = (3.0, 3.5, 4.0),
        search_num_heads: Sequence[int] = (3, 4), search_depth: Sequence[int] = (12, 13, 14), drop_path_rate: float = 0.1,
    ):  # fmt: skip
        if img_size % patch_size:
            raise ValueError(f"patch_size {patch_size} does not divide img_size {img_size}; allowed: one that does")
        super().__init__(
            num_labels=num_labels, in_channels=in_channels, img_size=img_size, patch_size=patch_size,
            search_embed_dim=tuple(search_embed_dim), search_mlp_ratio=tuple(search_mlp_ratio),
            search_num_heads=tuple(search_num_heads), search_depth=tuple(search_depth), drop_path_rate=drop_path_rate,
        )  # fmt: skip


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
        take_channels(self, in_channels)


def take_channels(space: nn.Module, channels: int) -> None:
    """Let the first convolution take images of so many channels; all spaces of the hub are made for 3."""
    name, first = next((name, module) for name, module in space.named_modules() if isinstance(module, nn.Conv2d))
    if channels == first.in_channels:
        return
    parent, _, last = name.rpartition(".")
    conv: Any
    if isinstance(first, MutableConv2d) and first.mutables:  # its arguments are choices
        conv = MutableConv2d(**{**first.trace_kwargs, "in_channels": channels})
    else:
        conv = nn.Conv2d(
            channels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=first.bias is not None  # type: ignore[arg-type]  # torch says tuples of any length
        )  # fmt: skip
    setattr(space.get_submodule(parent), last, conv)
