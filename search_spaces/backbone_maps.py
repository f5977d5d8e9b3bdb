"""What spaces whose networks answer for places of an image share: the blocks of another space as a backbone, its maps, and a pyramid on them.

    image -> stem and blocks of the backbone -> last map of each resolution -> top-down path -> the same maps, of one number of channels

The top-down path is that of a feature pyramid (Lin et al., arXiv:1612.03144) of few channels: each map through a 1x1 convolution, added
from the smallest up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nni_proxyless.core.entry_point_names import load
from nni_proxyless.core.module_modes import evaluating

__all__ = ["Pyramid", "backbone_of", "enlarged", "maps_of", "network_in", "require_whole", "sizes_of_maps", "with_norm"]

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


class Pyramid(nn.Module):
    """Maps, the largest first -> as many of ``width`` channels, each of which has seen those that are smaller.

    Parameters
    ----------
    channels
        Of the maps.
    width
        Channels of what it gives.
    """

    def __init__(self, channels: Sequence[int], width: int):
        super().__init__()
        self.lateral = nn.ModuleList(with_norm(nn.Conv2d(n, width, 1, bias=False)) for n in channels)

    def sums(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Of the smallest of the maps, as many as there are channels for; the largest first."""
        given = [one.shape[1] for one in maps[-len(self.lateral) :]]
        wanted = [lateral[0].in_channels for lateral in self.lateral]  # type: ignore[index]  # each is a Sequential
        # A stage halves what is one place already. A trace, in which sizes are tensors, is of images that ran before.
        if not torch.jit.is_tracing() and given != wanted:
            raise ValueError(
                "images are so small that the last maps have one place each; allowed: larger ones, or a smaller stem_stride"
            )
        found: list[Tensor] = []
        for lateral, one in zip(reversed(self.lateral), reversed(maps[-len(self.lateral) :]), strict=True):
            seen = lateral(one)
            found.insert(0, seen + enlarged(found[0], seen) if found else seen)
        return found


def backbone_of(described: Mapping[str, Any], seen_by: str) -> Any:
    """A space whose networks have maps, without what makes a vector of the last one.

    Parameters
    ----------
    described
        ``{'name': …, 'arguments': {…}}``, a space with ``conv_stem``, ``bn1`` and stages in ``blocks``: ``mobilenetv2`` without choices of
        resolution, stem and widths, or ``timm``.
    seen_by
        What takes the maps, for people: ``a decoder``.

    Raises
    ------
    ValueError
        It has no such parts, or maps whose shapes depend on what is chosen.
    """
    if not isinstance(described, Mapping) or set(described) != {"name", "arguments"}:
        raise ValueError(f"backbone is {described!r}; allowed: {{name: a space, arguments: {{…}}}}")
    space: Any = load("nni_proxyless.search_spaces", described["name"])(**described["arguments"])
    network = network_in(space)
    if not all(hasattr(network, name) for name in ("conv_stem", "bn1", "blocks")):
        raise ValueError(
            f"the space {described['name']!r} has no stem and stages whose maps {seen_by} could see; allowed: mobilenetv2, timm, and "
            "spaces made of them"
        )
    if getattr(space, "shapes_are_open", False) or getattr(space, "resize", None) is not None:
        raise ValueError(
            f"the space {described['name']!r} chooses a resolution, a stem or widths, and {seen_by} takes maps of one shape; allowed: one value of each"
        )
    for name in HEAD:
        if hasattr(network, name):
            setattr(network, name, nn.Identity())
    return space


def network_in(space: Any) -> Any:
    """What has the stem and the stages: the space itself, or what it holds."""
    return getattr(space, "network", space)


@torch.no_grad()
def sizes_of_maps(network: Any) -> list[tuple[int, int]]:
    """Channels and stride of each map of a network, the largest map first: a map has one place per stride x stride pixels."""
    side = 2 ** (1 + len(network.blocks))
    with evaluating(network):
        maps = maps_of(network, torch.zeros(1, network.conv_stem.in_channels, side, side))
    return [(one.shape[1], side // one.shape[-1]) for one in maps]


def require_whole(**numbers: Any) -> None:
    """Refuse what is no whole number of 1 or more, by its name."""
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; allowed: a whole number of 1 or more")


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """A map at the height and width of another one."""
    return interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def with_norm(conv: nn.Conv2d) -> nn.Sequential:
    """A convolution, and the batch norm of its channels."""
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
