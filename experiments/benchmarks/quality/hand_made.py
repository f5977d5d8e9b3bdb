"""Networks that nobody has searched for, at the latency of a target: MobileNetV2's block at three widths, and small designs of timm.

    mobilenetv2             in the space's skeleton, at the width that has set the target
    mobilenetv2-narrow, mobilenetv2-wide
                            at about 0.7 and 1.25 of that width, and as deep as the target allows
    original                the model that the space is made around, at the width that has set the target
    mobilenetv3_small_100, mnasnet_small, efficientnet_lite0, tinynet_e
                            timm's, as wide as the target allows: by its channel multiplier, with its depth as it is

timm's designs get the stem's stride of the space, all else is theirs: kernels, expansions, squeeze-and-excitation, activations, heads.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nni.nas.nn.pytorch import ModelSpace
from timm.models.efficientnet import _gen_efficientnet_lite, _gen_mnasnet_small, _gen_tinynet
from timm.models.mobilenetv3 import _gen_mobilenet_v3
from torch import Tensor, nn

from nni_proxyless.core.errors import UserError
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.search.mobilenetv2_baseline import reference_networks

from .cell import any_net, counted, space_of
from .grids import MOBILENETV2, ORIGINAL, Grid

ShareOf = Callable[[Architecture], float]
"""What a network takes, as a share of the target."""

# timm's functions behind the registered models, which fix the multiplier; the first argument is the name, the second the multiplier.
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mobilenetv3_small_100": functools.partial(_gen_mobilenet_v3, "mobilenetv3_small_100"),
    "mnasnet_small": functools.partial(_gen_mnasnet_small, "mnasnet_small"),
    "efficientnet_lite0": functools.partial(_gen_efficientnet_lite, "efficientnet_lite0"),
    "tinynet_e": functools.partial(_gen_tinynet, "tinynet_e", depth_multiplier=0.6),
}

LEAST = 0.95  # of the target, as for random networks
GAP = 0.1  # by which a network may be off where multiples of 8 channels, or whole blocks, leave a gap there
MULTIPLIERS = (0.05, 8.0)
TRIALS = 14  # by then multipliers differ by less than channels do
MORE = 4  # blocks by which one block is timed: alone it is lost in the noise of two timings
DEEPEST = 12  # blocks of a stage
NEAR = (1.0, 0.95, 1.05, 0.9, 1.1)  # widths by the one that is wanted, for when whole blocks leave a gap
DEPTHS = 6  # that are tried at a width


class TimmDesign(ModelSpace):
    """A design of timm as a space of one network, so that its network is an ``architecture.json`` like any other.

    Parameters
    ----------
    design
        Its name in timm.
    multiplier
        Of its channels, which timm rounds to multiples of 8.
    stem_stride
        Of the first convolution.
    num_classes, in_channels
        Outputs of the classifier, channels of the images.

    Raises
    ------
    ValueError
        An unknown design.
    """

    def __init__(
        self, design: str, *, multiplier: float = 1.0, stem_stride: int = 2, num_classes: int = 10, in_channels: int = 3
    ):
        super().__init__()
        if design not in BUILDERS:
            raise ValueError(f"design is {design!r}; allowed: {', '.join(BUILDERS)}")
        self.network: Any = BUILDERS[design](multiplier, num_classes=num_classes, in_chans=in_channels)
        self.network.conv_stem.stride = (stem_stride, stem_stride)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (batch, num_classes), of images of shape (batch, in_channels, height, width)."""
        return self.network(x)

    def freeze(self, sample: Mapping[str, Any]) -> nn.Module:
        """timm's model itself; nothing is chosen."""
        self.validate(dict(sample))
        return self.network


def mobilenetv2(base: Architecture, depths: Sequence[int], width: float) -> Architecture:
    """MobileNetV2's block everywhere in the space of ``base``, with so many blocks in each stage."""
    skeleton = {**base.space, "arguments": {**base.space["arguments"], "depths": list(depths)}}
    (net,) = reference_networks(dataclasses.replace(base, space=skeleton), [width])
    return net


def timm_design(base: Architecture, design: str, stem_stride: int, multiplier: float) -> Architecture:
    """A design of timm for the images of ``base``."""
    arguments = {
        "design": design, "multiplier": multiplier, "stem_stride": stem_stride, "num_classes": 10, "in_channels": base.input_shape[0],
    }  # fmt: skip
    space = {"name": f"{TimmDesign.__module__}:{TimmDesign.__qualname__}", "arguments": arguments}
    search = {"strategy": "reference", "weights": "fresh", "width": multiplier, "structure": design}
    return counted(dataclasses.replace(base, space=space, choices={}, network=None, search=search))


def hand_made(grid: Grid, method: str, width: float, share_of: ShareOf) -> Architecture:
    """The network of a method that uses a target up, as random networks do.

    Parameters
    ----------
    width
        Of MobileNetV2, which has set the target.
    share_of
        What a network takes, as a share of the target.

    Raises
    ------
    UserError
        None does.
    """
    base = any_net(grid)
    if method == ORIGINAL:
        (net,) = reference_networks(base, [width])
        return net
    layout = space_of(base).layout
    if method == "mobilenetv2":
        return mobilenetv2(base, layout["depths"], width)
    if method in MOBILENETV2:
        widths = [MOBILENETV2[method] * width * near for near in NEAR]
        return deepened(functools.partial(mobilenetv2, base), layout["depths"], widths, share_of)
    return widened(functools.partial(timm_design, base, method, layout["stem_stride"]), share_of)


def deepened(
    make: Callable[[Sequence[int], float], Architecture],
    depths: Sequence[int],
    widths: Sequence[float],
    share_of: ShareOf,
) -> Architecture:
    """As deep as the target allows, at the first of these widths where it can be used up.

    What a block of a stage takes is known from two networks, and what any depths take, from that; so few have to be timed.

    Parameters
    ----------
    make
        The network with so many blocks in each stage, at a width.
    depths
        Of which it has the proportions, as nearly as can be.
    """
    trials = _Trials(share_of)
    shallow = [1] * len(depths)
    for width in widths:
        least = share_of(make(shallow, width))
        deeper = [[n + MORE * (i == s) for i, n in enumerate(shallow)] for s in range(len(depths))]
        of_block = [(share_of(make(some, width)) - least) / MORE for some in deeper]
        expected = {
            some: least + sum(share * (n - 1) for share, n in zip(of_block, some, strict=True))
            for some in itertools.product(range(1, DEEPEST + 1), repeat=len(depths))
        }
        near = [some for some, share in expected.items() if abs(share - 1) <= GAP]
        near.sort(key=lambda some: (not LEAST <= expected[some] <= 1, _unlike(some, depths)))
        for some in near[:DEPTHS]:
            if LEAST <= trials.share_of(make(some, width)) <= 1:
                return trials.nearest()
    return trials.nearest()


def _unlike(some: Sequence[int], given: Sequence[int]) -> float:
    return sum((n / sum(some) - wanted / sum(given)) ** 2 for n, wanted in zip(some, given, strict=True))


def widened(make: Callable[[float], Architecture], share_of: ShareOf) -> Architecture:
    """As wide as the target allows: the range of multipliers is halved until one uses the target up.

    Parameters
    ----------
    make
        The network at a multiplier.
    """
    low, high = MULTIPLIERS
    trials = _Trials(share_of)
    for _ in range(TRIALS):
        multiplier = math.sqrt(low * high)
        share = trials.share_of(make(multiplier))
        if LEAST <= share <= 1:
            break
        low, high = (multiplier, high) if share < LEAST else (low, multiplier)
    return trials.nearest()


class _Trials:
    """Networks that were timed, and of them the one that is taken."""

    def __init__(self, share_of: ShareOf):
        self._share_of = share_of
        self._seen: list[tuple[float, Architecture]] = []

    def share_of(self, net: Architecture) -> float:
        share = self._share_of(net)
        self._seen.append((share, net))
        return share

    def nearest(self) -> Architecture:
        """The slowest that takes 95 to 100 % of the target; where there is none, the one that comes nearest to it.

        Raises
        ------
        UserError
            It is more than a tenth off.
        """
        if within := [one for one in self._seen if LEAST <= one[0] <= 1]:
            return max(within, key=lambda one: one[0])[1]
        share, net = min(self._seen, key=lambda one: abs(one[0] - 1), default=(math.inf, None))
        if net is None or abs(share - 1) > GAP:
            seen = ", ".join(f"{share:.3f}" for share, _ in self._seen) or "nothing near it"
            raise UserError(
                f"hand-made networks: of the target they take {seen}; allowed: {1 - GAP} to {1 + GAP}; take another target"
            )
        return net
