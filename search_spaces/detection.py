"""A space of detection networks: the blocks of another space, a pyramid on their maps, and SSDLite's head on its levels.

    image -> stem and blocks of the backbone -> last map of each resolution -> pyramid -> levels -> head -> numbers per anchor

The pyramid's top-down path (:mod:`.backbone_maps`) begins at the backbone's smallest map, so that every block counts. Levels whose stride is beyond
that of the backbone come of separable convolutions of stride 2, as the extra layers of SSD (Liu et al., arXiv:1512.02325) do. The head is that
of SSDLite (Sandler et al., arXiv:1801.04381, section 6.2), by torchvision. All of it is the same for all networks, so choices are those of the
backbone; and strides of levels, and so anchors, are the same whatever the backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn
from torchvision.models.detection.ssdlite import SSDLiteHead

from .backbone_maps import (
    Pyramid,
    backbone_of,
    maps_of,
    network_in,
    require_whole,
    sizes_of_maps,
    with_norm,
)

__all__ = ["BoxHead", "DetectionNetwork", "DetectionSpace"]


class BoxHead(Pyramid):
    """Maps, the largest first -> for each anchor the four codes of its box and a logit for the background and each class.

    Parameters
    ----------
    maps
        Channels and stride of the maps that it takes; of more it takes the smallest.
    width
        Channels of the pyramid.
    strides
        Of its levels, each twice the one before.
    anchors
        How many each place of a level has.
    num_classes
        The background not counted.
    """

    treats_images_alone = True

    def __init__(
        self, maps: Sequence[tuple[int, int]], width: int, strides: Sequence[int], anchors: int, num_classes: int
    ):
        super().__init__([channels for channels, _ in maps], width)
        made = [stride for _, stride in maps]
        self.extra = nn.ModuleList()
        while made[-1] < strides[-1]:
            self.extra.append(_halving(width))
            made.append(2 * made[-1])
        self.first = made.index(strides[0])
        self.last = made.index(strides[-1])
        n = len(strides)
        self.head = SSDLiteHead([width] * n, [anchors] * n, num_classes + 1, nn.BatchNorm2d)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Shape (batch, anchors, 5 + num_classes), of maps of shape (batch, channels, height, width)."""
        levels = self.sums(maps)
        for halve in self.extra:
            levels.append(halve(levels[-1]))
        found = self.head(levels[self.first : self.last + 1])
        return torch.cat([found["bbox_regression"], found["cls_logits"]], dim=2)


class DetectionNetwork(nn.Module):
    """One network: a backbone without its head, and a :class:`BoxHead`."""

    treats_images_alone = True

    def __init__(self, backbone: nn.Module, boxes: BoxHead):
        super().__init__()
        self.backbone, self.boxes = backbone, boxes

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, anchors, 5 + num_classes), of images of shape (batch, channels, height, width)."""
        return self.boxes(maps_of(self.backbone, x))


class DetectionSpace(ModelSpace):
    """Detection networks with the choices of another space.

    Networks answer with one tensor of shape (batch, anchors, 5 + num_classes): per anchor four codes of a box, then the logit of the background, then
    those of the classes. Anchors go by level, from the one of the smallest stride, then by row, by column, and by the anchors of a place.

    Parameters
    ----------
    backbone
        ``{'name': …, 'arguments': {…}}``, a space with ``conv_stem``, ``bn1`` and stages in ``blocks``: ``mobilenetv2`` without choices of
        resolution, stem and widths, or ``timm``.
    num_classes
        The background not counted.
    decoder_width
        Channels of the pyramid.
    stride
        Pixels of the image per place of the first level, in height and width.
    levels
        How many there are, each of twice the stride of the one before.
    anchors
        Of each place.

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
        num_classes: int = 1,
        decoder_width: int = 64,
        stride: int = 8,
        levels: int = 4,
        anchors: int = 4,
    ):
        super().__init__()
        require_whole(
            num_classes=num_classes, decoder_width=decoder_width, stride=stride, levels=levels, anchors=anchors
        )
        self.backbone = backbone_of(backbone, "a pyramid")
        maps = sizes_of_maps(network_in(self.backbone))
        wanted = [stride * 2**level for level in range(levels)]
        made = [one for _, one in maps]
        made += [made[-1] * 2**n for n in range(1, 1 + len(wanted) + stride.bit_length())]
        if missing := [one for one in wanted if one not in made]:
            raise ValueError(
                f"stride is {stride}, and no map of the space {backbone['name']!r} has {missing[0]} pixels per place; allowed: "
                f"{', '.join(map(str, sorted({one for _, one in maps})))}, or a power of 2 times {maps[-1][1]}"
            )
        taken = [one for one in maps if one[1] >= stride] or maps[-1:]
        self.boxes = BoxHead(taken, decoder_width, wanted, anchors, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, anchors, 5 + num_classes), of images of shape (batch, channels, height, width)."""
        return self.boxes(maps_of(network_in(self.backbone), x))

    def freeze(self, sample: Mapping[str, Any]) -> nn.Module:
        """The network of one architecture, sharing this space's weights."""
        self.validate(dict(sample))
        return DetectionNetwork(self.backbone.freeze(sample), self.boxes)


def _halving(width: int) -> nn.Sequential:
    """A map of half the height and width, rounded up."""
    return nn.Sequential(
        *with_norm(nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=False)), nn.ReLU6(),
        *with_norm(nn.Conv2d(width, width, 1, bias=False)), nn.ReLU6(),
    )  # fmt: skip
