"""Networks of :class:`.PyramidTreeSpace` as models of timm: a pyramidal residual network with two trees of operations in each block. Needs no NNI.

Source: mit-han-lab/proxylessnas at bf58b5c, proxyless_nas/cifar_modules.py; the widths are those of PyramidNet.

    conv_stem, bn1            3x3 convolution, no ReLU
    blocks.{s}.{i}            stage s = 0 …, block i = 0 …; a stage but the first begins with stride 2
    bn2                       with ReLU
    global_pool, classifier

A block is ``shortcut(x) + branch(x)``, without a ReLU. The shortcut averages 2x2 pixels at stride 2, and channels that it lacks are zeros
after its own. The branch: ``entry``, which gives two halves of the channels; of each half x ``norm(tree(x)) + x``; ``exit`` of their sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from timm.layers import BatchNormAct2d, create_classifier
from torch import Tensor, nn

from nni_proxyless.latency.operation import Shape, describe, shape_text

from .tree_layout import BOTTLENECK, EDGES, GROUPS, labels_of_blocks, operations_in, widths_of
from .tree_operations import Operations

__all__ = ["PyramidTreeNet", "TreeBlock", "build_pyramid_tree", "drop_rates", "drop_whole_batch"]

MakeEdge = Callable[[str, int], nn.Module]
"""Label, channels -> what is on that edge."""


def drop_whole_batch(x: Tensor, rate: float, training: bool) -> Tensor:
    """In training, zeros with a probability of ``rate``, one coin for the whole batch, else ``x / (1 - rate)``; in evaluation x.

    What is dropped has been computed: so norms see every batch, and weights have gradients of 0 in the place of none, in every process.
    """
    return x * nn.functional.dropout(x.new_ones(()), rate) if training and rate > 0 else x


def drop_rates(rate: float, n_blocks: int) -> list[float]:
    """The linear schedule: block l = 1 … T has ``2 l rate / (T + 1)``, on average ``rate``.

    Source: jeffreyzpan/micronet-submission at cb8cffb, Proxyless-NAS/Code/CIFAR, the authors' package for reviewers.
    """
    return [2 * block * rate / (n_blocks + 1) for block in range(1, n_blocks + 1)]


class Branch(nn.Module):
    """An edge, and the sum of two edges after it."""

    def __init__(self, edge: nn.Module, leaves: Sequence[nn.Module]):
        super().__init__()
        self.edge, self.leaves = edge, nn.ModuleList(leaves)
        self.path_drop_rate = 0.0

    @property
    def treats_images_alone(self) -> bool:
        """Whether no random number is drawn."""
        return self.path_drop_rate == 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.edge(x)
        first, second = (drop_whole_batch(leaf(x), self.path_drop_rate, self.training) for leaf in self.leaves)
        return first + second


class Tree(nn.Module):
    """The sum of two branches, with batch norm, and a residual."""

    def __init__(self, branches: Sequence[Branch], width: int):
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.norm = nn.BatchNorm2d(width)
        self.path_drop_rate = 0.0

    @property
    def treats_images_alone(self) -> bool:
        """Whether no random number is drawn."""
        return self.path_drop_rate == 0

    def forward(self, x: Tensor) -> Tensor:
        first, second = (drop_whole_batch(branch(x), self.path_drop_rate, self.training) for branch in self.branches)
        return self.norm(first + second) + x


class Entry(nn.Module):
    """What comes before the trees: the channels of each of its groups, dealt out to all of them by turns."""

    treats_images_alone = True

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, GROUPS * width, 3, stride, 1, groups=GROUPS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.norm1(x))
        x = self.conv2(nn.functional.relu(self.norm2(x), inplace=True))
        return x.unflatten(1, (GROUPS, -1)).transpose(1, 2).flatten(1, 2)


class Exit(nn.Module):
    """What comes after them."""

    treats_images_alone = True

    def __init__(self, width: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, BOTTLENECK * width, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.conv(nn.functional.relu(self.norm1(x), inplace=True)))


@describe.register(Entry)
@describe.register(Exit)
def _(module: nn.Module, input_shape: Shape, output_shape: Shape) -> str:
    # The shapes say all of it: the stride, the width.
    return f"tree_{type(module).__name__.lower()}-input:{shape_text(input_shape)}-output:{shape_text(output_shape)}"


class TreeBlock(nn.Module):
    """A residual block with a tree for each half of its channels.

    Parameters
    ----------
    in_channels
        Of its input.
    width
        Of a half; the output has :data:`.BOTTLENECK` times as many channels.
    stride
        1 or 2.
    make_edge
        Is asked for every edge of :data:`.EDGES`, in order.
    label
        Of the block: an edge is ``{label}.half{path}``.
    """

    def __init__(self, in_channels: int, width: int, stride: int, make_edge: MakeEdge, label: str):
        super().__init__()
        self.entry = Entry(in_channels, width, stride)
        edges = iter([make_edge(f"{label}.half{path}", width) for path in EDGES])

        def branch() -> Branch:
            edge, *leaves = (next(edges) for _ in range(3))
            return Branch(edge, leaves)

        self.trees = nn.ModuleList(Tree([branch(), branch()], width) for _ in range(GROUPS))
        self.exit = Exit(width)
        self.downsample = nn.AvgPool2d(2) if stride > 1 else nn.Identity()
        self.n_more = BOTTLENECK * width - in_channels
        self.cell_drop_rate = 0.0

    def set_drop_rates(self, *, path: float, cell: float) -> None:
        """How often, in training, a path of a tree is left out, and how often the whole branch."""
        self.cell_drop_rate = cell
        for tree in self.trees:
            for node in (tree, *tree.branches):  # type: ignore[misc]  # torch says of a child that it is a tensor or a module
                node.path_drop_rate = path

    @property
    def treats_images_alone(self) -> bool:
        """Whether no random number is drawn."""
        return self.cell_drop_rate == 0

    def forward(self, x: Tensor) -> Tensor:
        shortcut = nn.functional.pad(self.downsample(x), (0, 0, 0, 0, 0, self.n_more))
        halves = self.entry(x).chunk(GROUPS, dim=1)
        first, second = (tree(half) for tree, half in zip(self.trees, halves, strict=True))
        return shortcut + drop_whole_batch(self.exit(first + second), self.cell_drop_rate, self.training)


class PyramidTreeNet(nn.Module):
    """The network, with what timm asks of its models.

    Parameters
    ----------
    make_edge
        Gives what is on each edge, a layer that keeps the shape.
    depths
        Blocks of each stage.
    stem_width, final_width
        Channels of the first convolution, and of a half in the last block; in between the width grows evenly.
    num_classes, in_chans
        Outputs of the classifier, 0 for none; channels of the images.
    global_pool
        As timm's.
    drop_rate
        Before the classifier.
    path_drop_rate, cell_drop_rate
        On average over the blocks, see :func:`drop_rates`: how often, in training, an edge with what follows it is left out of its sum, and
        how often the whole branch of a block; see :func:`drop_whole_batch`.

    Raises
    ------
    ValueError
        A rate by which the last block would always be dropped.
    """

    def __init__(
        self, make_edge: MakeEdge, depths: Sequence[int], stem_width: int, final_width: int, *, num_classes: int = 10,
        in_chans: int = 3, global_pool: str = "avg", drop_rate: float = 0.0, path_drop_rate: float = 0.0,
        cell_drop_rate: float = 0.0,
    ):  # fmt: skip
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        widths = widths_of(depths, stem_width, final_width)
        self.conv_stem = nn.Conv2d(in_chans, stem_width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_width)
        channels, stages = stem_width, []
        self.feature_info: list[dict[str, Any]] = []
        following = iter(zip(labels_of_blocks(depths), widths, strict=True))
        for s, depth in enumerate(depths):
            blocks = []
            for i in range(depth):
                label, width = next(following)
                blocks.append(TreeBlock(channels, width, 2 if s and not i else 1, make_edge, label))
                channels = BOTTLENECK * width
            stages.append(nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": channels, "reduction": 2**s, "module": f"blocks.{s}"})
        self.blocks = nn.Sequential(*stages)
        self.num_features = self.head_hidden_size = channels
        self.bn2 = BatchNormAct2d(channels)
        self.global_pool, self.classifier = create_classifier(channels, num_classes, pool_type=global_pool)
        self._set_drop_rates(path_drop_rate, cell_drop_rate)
        draw_weights(self)

    def _set_drop_rates(self, path: float, cell: float) -> None:
        blocks: list[Any] = [block for stage in self.blocks for block in stage]  # type: ignore[attr-defined]  # a Sequential
        most = (len(blocks) + 1) / (2 * len(blocks))
        for name, rate in (("path_drop_rate", path), ("cell_drop_rate", cell)):
            if not 0 <= rate < most:
                raise ValueError(
                    f"{name} is {rate}; allowed with {len(blocks)} blocks: 0 up to, but not, {most:.4g}, where the last block would always be dropped"
                )
        of_blocks = (drop_rates(rate, len(blocks)) for rate in (path, cell))
        for block, path_rate, cell_rate in zip(blocks, *of_blocks, strict=True):
            block.set_drop_rates(path=path_rate, cell=cell_rate)

    @property
    def treats_images_alone(self) -> bool:
        """Whether no random number is drawn."""
        return self.drop_rate == 0

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str = "avg") -> None:
        """A new last layer with fresh weights, for another number of classes; 0 for none."""
        self.num_classes = num_classes
        self.global_pool, self.classifier = create_classifier(self.num_features, num_classes, pool_type=global_pool)
        draw_weights(self.classifier)

    def as_sequential(self) -> nn.Sequential:
        """Its layers one after the other, as timm's models give them."""
        dropout = nn.Dropout(self.drop_rate)
        return nn.Sequential(
            self.conv_stem, self.bn1, *self.blocks, self.bn2, self.global_pool, dropout, self.classifier
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, shape (batch, num_features, height, width)."""
        return self.bn2(self.blocks(self.bn1(self.conv_stem(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of such a map; with ``pre_logits`` what the classifier is given."""
        x = nn.functional.dropout(self.global_pool(x), self.drop_rate, self.training)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (batch, num_classes), of images of shape (batch, in_chans, height, width)."""
        return self.forward_head(self.forward_features(x))


def build_pyramid_tree(definition: Mapping[str, Any], **overrides: Any) -> PyramidTreeNet:
    """The network of a definition, with fresh weights.

    Parameters
    ----------
    definition
        As :meth:`.PyramidTreeSpace.timm_definition` gives it: arguments of :class:`PyramidTreeNet`, and in the place of ``make_edge``
        ``trees``, for each block the names of its operations, in a row. Not changed.
    overrides
        Take the place of arguments.

    Raises
    ------
    ValueError
        As :func:`.operations_in`; or a rate of drops is too large.
    """
    chosen, operations = operations_in(definition), Operations()
    options = {name: value for name, value in {**definition, **overrides}.items() if name not in ("family", "trees")}
    return PyramidTreeNet(lambda label, width: operations.make(chosen[label], width), **options)


@torch.no_grad()
def draw_weights(network: nn.Module) -> None:
    """Weights of convolutions from normal distributions by their fan-out, where a group counts for itself; biases of linear layers 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            module.weight.normal_(0, math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.zero_()
