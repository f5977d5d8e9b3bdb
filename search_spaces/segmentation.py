"""A space of segmentation networks: the blocks of another space, and a light decoder on its maps.

    image -> stem and blocks of the backbone -> last map of each resolution -> decoder -> a number per class and pixel

The decoder is the top-down path of a feature pyramid (Lin et al., arXiv:1612.03144) of few channels: each map through a 1x1 convolution,
added from the smallest up, then one separable 3x3 convolution. It is the same for all networks, so choices are those of the backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nni_proxyless.core.entry_point_names import load
from nni_proxyless.core.module_modes import evaluating

__all__ = ["Decoder", "SegmentationNetwork", "SegmentationSpace", "maps_of"]

HEAD = (
    "conv_head",
    "bn2",
    "norm_head",
    "act2",
    "global_pool",
    "flatten",
    "classifier",
)  # what makes a vector of the last map


def maps_of(network: Any, x: Tensor) -> list[Tensor]:
    """The last map of each resolution, the largest first, of a network with ``conv_stem``, ``bn1`` and stages in ``blocks``."""
    x = network.bn1(network.conv_stem(x))
    found = []
    for stage in network.blocks:
        before, x = x, stage(x)
        if x.shape[-2:] != before.shape[-2:]:
            found.append(before)
    return [*found, x]


class Decoder(nn.Module):
    """Maps, the largest first -> logits at the resolution of the largest that is used.

    Parameters
    ----------
    channels
        Of the maps.
    width
        Channels of the decoder.
    num_classes
        Numbers per pixel.
    """

    treats_images_alone = True

    def __init__(self, channels: Sequence[int], width: int, num_classes: int):
        super().__init__()
        self.lateral = nn.ModuleList(_with_norm(nn.Conv2d(n, width, 1, bias=False)) for n in channels)
        self.mix = nn.Sequential(
            *_with_norm(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)), nn.ReLU6(),
            *_with_norm(nn.Conv2d(width, width, 1, bias=False)), nn.ReLU6(),
        )  # fmt: skip
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x: Tensor | None = None
        for lateral, one in zip(reversed(self.lateral), reversed(maps[-len(self.lateral) :]), strict=True):
            seen = lateral(one)
            x = seen if x is None else seen + enlarged(x, seen)
        return self.classifier(self.mix(x))


class SegmentationNetwork(nn.Module):
    """One network: a backbone without its head, and a decoder; logits of shape (batch, num_classes, height, width)."""

    treats_images_alone = True

    def __init__(self, backbone: nn.Module, decoder: Decoder):
        super().__init__()
        self.backbone, self.decoder = backbone, decoder

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images of shape (batch, channels, height, width)."""
        return enlarged(self.decoder(maps_of(self.backbone, x)), x)


class SegmentationSpace(ModelSpace):
    """Segmentation networks with the choices of another space.

    Parameters
    ----------
    backbone
        ``{'name': …, 'arguments': {…}}``, a space with ``conv_stem``, ``bn1`` and stages in ``blocks``: ``mobilenetv2`` without choices of
        resolution, stem and widths, or ``timm``.
    num_classes
        Numbers per pixel.
    decoder_width
        Channels of the decoder.
    levels
        Of how many resolutions, from the smallest map up, the decoder sees a map; fewer where the backbone has fewer.

    Raises
    ------
    ValueError
        A wrong argument, or a space that has no such parts.
    """

    treats_images_alone = True

    def __init__(
        self,
        backbone: Mapping[str, Any],
        *,
        num_classes: int = 2,
        decoder_width: int = 64,
        levels: int = 3,
    ):
        super().__init__()
        for name, value in (("num_classes", num_classes), ("decoder_width", decoder_width), ("levels", levels)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}; allowed: a whole number of 1 or more")
        if not isinstance(backbone, Mapping) or set(backbone) != {"name", "arguments"}:
            raise ValueError(f"backbone is {backbone!r}; allowed: {{name: a space, arguments: {{…}}}}")
        space: Any = load("nni_proxyless.search_spaces", backbone["name"])(**backbone["arguments"])
        network = getattr(space, "network", space)
        if not all(hasattr(network, name) for name in ("conv_stem", "bn1", "blocks")):
            raise ValueError(
                f"the space {backbone['name']!r} has no stem and stages whose maps a decoder could see; allowed: mobilenetv2, timm, and "
                "spaces made of them"
            )
        if getattr(space, "shapes_are_open", False) or getattr(space, "resize", None) is not None:
            raise ValueError(
                f"the space {backbone['name']!r} chooses a resolution, a stem or widths, and a decoder takes maps of one shape; allowed: one value of each"
            )
        for name in HEAD:
            if hasattr(network, name):
                setattr(network, name, nn.Identity())
        self.backbone = space
        channels = channels_of(network)[-levels:]
        self.decoder = Decoder(channels, decoder_width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (batch, num_classes, height, width), of images of shape (batch, channels, height, width)."""
        network = getattr(self.backbone, "network", self.backbone)
        return enlarged(self.decoder(maps_of(network, x)), x)

    def freeze(self, sample: Mapping[str, Any]) -> nn.Module:
        """The network of one architecture, sharing this space's weights."""
        self.validate(dict(sample))
        return SegmentationNetwork(self.backbone.freeze(sample), self.decoder)


@torch.no_grad()
def channels_of(network: Any) -> list[int]:
    """Channels of the maps of a network, the largest map first."""
    side = 2 ** (1 + len(network.blocks))
    with evaluating(network):
        return [one.shape[1] for one in maps_of(network, torch.zeros(1, network.conv_stem.in_channels, side, side))]


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """A map at the height and width of another one."""
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _with_norm(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
