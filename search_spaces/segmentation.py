"""A space of segmentation networks: the blocks of another space, and a light decoder on its maps.

    image -> stem and blocks of the backbone -> last map of each resolution -> decoder -> a number per class and pixel

The decoder is a pyramid's top-down path (:mod:`.backbone_maps`), then one separable 3x3 convolution on its largest map. It is the same for
all networks, so choices are those of the backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from .backbone_maps import (
    Pyramid,
    backbone_of,
    enlarged,
    maps_of,
    network_in,
    require_whole,
    sizes_of_maps,
    with_norm,
)

__all__ = ["Decoder", "SegmentationNetwork", "SegmentationSpace"]


class Decoder(Pyramid):
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
        super().__init__(channels, width)
        self.mix = nn.Sequential(
            *with_norm(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)), nn.ReLU6(),
            *with_norm(nn.Conv2d(width, width, 1, bias=False)), nn.ReLU6(),
        )  # fmt: skip
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.classifier(self.mix(self.sums(maps)[0]))


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
        require_whole(num_classes=num_classes, decoder_width=decoder_width, levels=levels)
        self.backbone = backbone_of(backbone, "a decoder")
        channels = [n for n, _ in sizes_of_maps(network_in(self.backbone))][-levels:]
        self.decoder = Decoder(channels, decoder_width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (batch, num_classes, height, width), of images of shape (batch, channels, height, width)."""
        return enlarged(self.decoder(maps_of(network_in(self.backbone), x)), x)

    def freeze(self, sample: Mapping[str, Any]) -> nn.Module:
        """The network of one architecture, sharing this space's weights."""
        self.validate(dict(sample))
        return SegmentationNetwork(self.backbone.freeze(sample), self.decoder)
