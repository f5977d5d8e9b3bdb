"""A space around a model of timm's EfficientNet family: MobileNetV2, V3 and V4, MNASNet, EfficientNet, Lite, V2, TinyNet, FBNet and others.

``stage{s}.{i}`` is the block ``blocks.{s}.{i}`` of the model, from 0 on: another kernel, expansion or squeeze-and-excitation, or ``skip``
where a block keeps the shape and is not the first of its stage, which is how a stage gets less deep. With ``extra_depth`` there are further blocks
behind the last one of a stage, with ``widths`` a choice ``stage{s}.width`` of the channels that the stage gives (:mod:`.timm_widths`). A candidate is cut out of the model's block, or holds it (:mod:`.timm_blocks`); names are
:attr:`.BlockSize.name`. The model itself is one of the networks, :attr:`TimmSpace.original`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from timm.models._efficientnet_builder import efficientnet_init_weights
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn

from nni_proxyless.core.freezing import freeze_children
from nni_proxyless.core.own_copy import own_copy
from nni_proxyless.core.scaled_linear import of_outputs
from nni_proxyless.latency.operation import Operation, Shape

from . import block_keys  # noqa: F401  (registers the keys of blocks in tables)
from .narrow import Narrow
from .shared_weights import share_weights
from .timm_blocks import BlockSize, order_channels, resized, size_of, sizes_around
from .timm_layout import FAMILY, problems_of_options
from .timm_network import further_block, make_model, set_stem_stride, squeeze_of
from .timm_operations import operations_by_width
from .timm_widths import (
    follow,
    is_even,
    make_elastic,
    order_stages,
    set_widths,
    ties,
    widths_around,
    with_fewer_channels,
)

__all__ = ["TimmSpace"]

SKIP = "skip"


class TimmSpace(ModelSpace):
    """Every block of a model chooses its kernel, its expansion, and where shapes agree whether it is there.

    Parameters
    ----------
    model
        Of timm; which: ``nni-proxyless init --list``.
    weights
        What the candidates start from: ``'pretrained'``, timm's own, or a file with a ``state_dict`` of the model, as safetensors or as torch
        writes it, relative to the current folder. Expanded channels are then ordered by what the projection weighs them (:func:`.order_channels`). None: fresh weights.
    width
        By which the channels of the model are multiplied (:func:`.scale_channels`).
    kernels
        Sides of depthwise kernels, and of those of fused and bare convolutions, to choose from beside the block's own.
    expansions
        Shares of the block's expanded channels to choose from, in multiples of 8 channels; the block's own is always among them.
    squeeze_excite
        ``[false, true]``: a choice of every block; None: each block as it is.
    skip
        Whether blocks that keep the shape may be left out, but for the first of each stage.
    widths
        Shares of the channels of each stage to choose from, in multiples of 8 channels; the stage's own are always among them. More than one is a
        choice that is searched by DSNAS, or with ``update: reinforce``. Stages without one: :mod:`.timm_widths`.
    extra_depth
        So many further blocks behind each stage whose last block is a residual; at first they give what they are given.
    stem_stride
        Of the first convolution; None: the model's, 2. For images of 32x32 and less 1 is usual.
    num_classes, in_channels
        Outputs of the classifier, channels of the images.
    dropout
        Before the classifier.
    shared_weights
        Candidates of a choice train the same weights as far as their shapes allow (:func:`.share_weights`). False: each has its own.

    Attributes
    ----------
    network
        The model of timm, whose blocks are the choices.
    original
        Label -> choice, of the model as timm has it.

    Raises
    ------
    ValueError
        A wrong argument, or a model of which no space can be made; the message says what is allowed.
    """

    only_at_start = ("weights",)
    """Arguments that say what the weights begin with; a space that is made again, for weights that were trained, does without."""

    def __init__(
        self,
        model: str = "mobilenetv3_small_100",
        *,
        weights: str | None = None,
        width: float = 1.0,
        kernels: Sequence[int] = (3, 5),
        expansions: Sequence[float] = (0.5, 1, 1.5),
        squeeze_excite: Sequence[bool] | None = None,
        skip: bool = True,
        widths: Sequence[float] = (1,),
        extra_depth: int = 0,
        stem_stride: int | None = None,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        shared_weights: bool = False,
    ):
        super().__init__()
        options = SimpleNamespace(
            model=model, weights=weights, width=width, kernels=kernels, expansions=expansions, squeeze_excite=squeeze_excite, skip=skip,
            widths=widths, extra_depth=extra_depth, stem_stride=stem_stride, num_classes=num_classes, in_channels=in_channels, dropout=dropout,
            shared_weights=shared_weights,
        )  # fmt: skip
        if problems := problems_of_options(options):
            raise ValueError("; ".join(problems))
        self.model, self.width, self.dropout, self.shared_weights = model, width, dropout, shared_weights
        self.num_classes, self.in_channels = num_classes, in_channels
        self.original: dict[str, str] = {}
        self._sizes: dict[tuple[int, int], dict[str, BlockSize]] = {}  # stage, block -> candidate -> size
        network: Any = make_model(
            model, weights, num_classes=num_classes, in_chans=in_channels, width=width, drop_rate=dropout
        )
        set_stem_stride(network, stem_stride)
        if weights is not None:
            for block in (block for stage in network.blocks for block in stage):
                order_channels(block)  # before stages get wider, by channels that nothing has trained
        self.ties, self.is_even = ties(network), [is_even(stage) for stage in network.blocks]
        self.widths = self._open_widths(network, widths, weights is not None)
        like = squeeze_of(network)
        stages = []
        varies = False  # whether the input of the next block has one of several widths
        for s, stage in enumerate(network.blocks):
            blocks = [*stage]
            made: list[nn.Module] = []
            further = [block for _ in range(extra_depth) if (block := further_block(blocks)) is not None]
            for i, block in enumerate([*blocks, *further]):
                size, is_further, follows = size_of(block), i >= len(blocks), i > 0 or self.ties[s]
                candidates: dict[str, nn.Module] = {}
                self._sizes[s, i] = {}
                for one in sizes_around(size, kernels, expansions, squeeze_excite):
                    candidate = resized(block, one, like)
                    candidates[one.name] = make_elastic(candidate, follows=follows) if varies else candidate
                    self._sizes[s, i][one.name] = one
                if is_further or (skip and i > 0 and size.keeps_shape):
                    candidates[SKIP] = nn.Identity()
                made.append(self._choice(f"stage{s}.{i}", candidates, SKIP if is_further else size.name))
                if i == 0 and not self.ties[s]:
                    varies = len(self.widths[s]) > 1
                    if varies:
                        narrow = {str(width): Narrow(width) for width in self.widths[s]}
                        made.append(self._choice(f"stage{s}.width", narrow, str(self.widths[s][0])))
            stages.append(nn.Sequential(*made))
        if varies:
            make_elastic(network.conv_head)
        network.blocks = nn.Sequential(*stages)
        self.network = network
        self._share_weights()

    @property
    def treats_images_alone(self) -> bool:
        """Nothing but batch norm sees more than one image, and no random number is drawn: :mod:`nni_proxyless.core.joined_batches`."""
        return self.dropout == 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (batch, num_classes), of images of shape (batch, in_channels, height, width)."""
        return self.network(x)

    def freeze(self, sample: Mapping[str, Any]) -> nn.Module:
        """The model of one architecture, sharing this space's weights, skipped blocks gone.

        Its ``state_dict`` has the names of the model that :meth:`timm_definition` describes.
        """
        self.validate(dict(sample))
        frozen: Any = freeze_children(self.network, sample, share=True)
        stages = [[block for block in stage if type(block) is not Narrow] for stage in frozen.blocks]
        if self.shapes_are_open:
            self.narrow(frozen, stages, sample)
        kept = [[block for block in stage if type(block) is not nn.Identity] for stage in stages]
        frozen.blocks = nn.Sequential(*(nn.Sequential(*stage) for stage in kept))
        return frozen

    @property
    def shapes_are_open(self) -> bool:
        """Whether any stage has a choice of its width."""
        return any(len(some) > 1 for some in self.widths)

    def channels_in(self, sample: Mapping[str, Any]) -> dict[tuple[int, int], tuple[int, int]]:
        """Channels that each block is given, and gives, in the network of an architecture: stage, block -> both."""
        found: dict[tuple[int, int], tuple[int, int]] = {}
        width = before = self.network.conv_stem.out_channels
        for (s, i), sizes in self._sizes.items():
            if i == 0 and not self.ties[s]:
                some = self.widths[s]
                width = int(sample.get(f"stage{s}.width", some[0])) if len(some) > 1 else some[0]
            out = width if self.is_even[s] else next(iter(sizes.values())).out
            found[s, i] = before, out
            before = out
        return found

    def narrow(self, network: Any, stages: Sequence[list[Any]], sample: Mapping[str, Any]) -> None:
        """Leave the blocks of stages, and the head of a network that is theirs, the channels of an architecture; they share the memory of the space.

        Parameters
        ----------
        network
            A copy of :attr:`network`, whose head is changed.
        stages
            Its blocks, or choices of them, which are changed in place.
        """
        before = 0
        for (s, i), (channels, before) in self.channels_in(sample).items():
            stages[s][i] = _with_fewer_channels(stages[s][i], channels, before)
        if isinstance(network.conv_head, nn.Conv2d):
            network.conv_head = with_fewer_channels(network.conv_head, before)

    def own_operations(self, input_shape: Shape) -> list[Operation] | None:
        """As :func:`~nni_proxyless.latency.trace_operations` gives them, where widths are open; None: they are found by running the space."""
        return operations_by_width(self, input_shape) if self.shapes_are_open else None

    def timm_definition(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Which model the architecture is, in plain types; see :func:`.build_timm_network`."""
        network: Any = self.network
        stages: list[list[tuple[int, str]]] = [[] for _ in network.blocks]
        channels = self.channels_in(sample)
        for (s, i), sizes in self._sizes.items():
            chosen = str(sample.get(f"stage{s}.{i}", next(iter(sizes))))
            if chosen != SKIP:
                stages[s].append((i, sizes[chosen].between(*channels[s, i]).definition))
        return {
            **of_outputs(self),
            "family": FAMILY,
            "model": self.model,
            "width": self.width,
            "blocks": [[definition for _, definition in stage] for stage in stages],
            "made_from": [[i for i, _ in stage] for stage in stages],
            "depths": [len(stage) for stage in network.blocks],
            "stem_stride": network.conv_stem.stride[0],
            "stem_size": network.conv_stem.out_channels,
            "num_features": network.head_hidden_size,
            "pools_first": isinstance(network, MobileNetV3),
            "num_classes": self.num_classes,
            "in_chans": self.in_channels,
            "drop_rate": self.dropout,
        }

    def _open_widths(self, network: Any, shares: Sequence[float], has_weights: bool) -> list[list[int]]:
        """The widths of each stage to choose from, for the widest of which the network holds weights from now on."""
        widths = widths_around(network, shares)  # those of a stage that is tied are the widths of the stage before
        if any(len(some) > 1 for some in widths):
            if has_weights:
                order_stages(network, [len(some) > 1 for some in widths])
            set_widths(network, follow(network, [max(some) for some in widths]))
            if not has_weights:
                efficientnet_init_weights(network)
        return widths

    def _choice(self, label: str, candidates: Mapping[str, nn.Module], own: str) -> nn.Module:
        """The choice among several candidates; the only one where there is one."""
        if len(candidates) == 1:
            return next(iter(candidates.values()))
        self.original[label] = own
        return LayerChoice(dict(candidates), label=label)

    def _share_weights(self) -> None:
        if not self.shared_weights:
            return
        for choice in self.modules():
            if isinstance(choice, LayerChoice):
                blocks = [choice[name] for name in choice.names]
                share_weights([block for block in blocks if type(block) is not nn.Identity])

    def _apply(self, fn: Any, recurse: bool = True) -> TimmSpace:
        super()._apply(fn, recurse)  # to another device or format: every parameter has got memory of its own
        self._share_weights()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # of a copy, for which the same holds
        self._share_weights()


def _with_fewer_channels(block: Any, channels: int, out: int) -> nn.Module:
    """As :func:`.with_fewer_channels`, of a block or of all blocks of a choice."""
    if not isinstance(block, LayerChoice):
        return with_fewer_channels(block, channels, out)
    choice: Any = own_copy(block)
    for name in block.names:
        choice._modules[name] = with_fewer_channels(block[name], channels, out)
    return choice
