"""ProxylessNAS's space for CIFAR (paper sec. 4.1): trees of paths in the blocks of a PyramidNet.

Source: the released network, mit-han-lab/proxylessnas at bf58b5c, proxyless_nas/cifar_modules.py, and its structure in han-cai/files at
4d8b775, proxylessnas/proxyless_cifar.config; code of the search was never published.

Every edge of a tree is a choice among operations, :mod:`.tree_operations`, labeled ``stage{s}.{i}.half{h}.{path}``: in stage s = 1 …,
block i = 0 …, half h of the channels, along the branch, and the leaf behind it, that the path names (:data:`.EDGES`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal

from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from nni_proxyless.core.freezing import freeze_children
from nni_proxyless.core.garbage import collection_paused

from .tree_layout import EDGES, FAMILY, OPERATIONS, labels_of_edges, problems_of_tree, tree_layout_of
from .tree_network import PyramidTreeNet
from .tree_operations import Operations

__all__ = ["PyramidTreeSpace"]


class PyramidTreeSpace(ModelSpace):
    """Twelve choices in every block: which operation is on which edge of its two trees. Maps are halved between stages.

    Parameters
    ----------
    preset
        ``'paper'``: 54 blocks, 648 choices, for 32x32 images. ``'small'``: 6 blocks, 72 choices, for a small machine. All arguments that
        are None come from it.
    depths
        Blocks of each stage.
    stem_width, final_width
        Channels of the first convolution, and of a half in the last block, whose output has four times as many. In between the
        width grows evenly from block to block, in multiples of two: final_width - stem_width is PyramidNet's alpha.
    operations
        What every edge may choose from; None: ``id``, ``avg3``, ``max3``, ``dw3``, ``dw5``, ``dw7`` and ``dil3``, the paper's.
    num_classes, in_channels
        Outputs of the classifier, channels of the images.

    Attributes
    ----------
    network
        A :class:`.PyramidTreeNet` whose edges are the choices.

    Raises
    ------
    ValueError
        A wrong argument; the message names all of them and what is allowed.
    """

    def __init__(
        self,
        preset: Literal["paper", "small"] = "paper",
        *,
        depths: Sequence[int] | None = None,
        stem_width: int | None = None,
        final_width: int | None = None,
        operations: Sequence[str] | None = None,
        num_classes: int = 10,
        in_channels: int = 3,
    ):
        super().__init__()
        options = SimpleNamespace(
            preset=preset, depths=depths, stem_width=stem_width, final_width=final_width, operations=operations,
            num_classes=num_classes, in_channels=in_channels,
        )  # fmt: skip
        if problems := problems_of_tree(options):
            raise ValueError("; ".join(problems))
        self.layout: dict[str, Any] = tree_layout_of(options)
        self.operations = tuple(OPERATIONS if operations is None else operations)
        self.num_classes, self.in_channels = num_classes, in_channels
        made = Operations()

        def choice(label: str, width: int) -> nn.Module:
            return LayerChoice({name: made.make(name, width) for name in self.operations}, label=label)

        with collection_paused():
            self.network = PyramidTreeNet(choice, **self.layout, num_classes=num_classes, in_chans=in_channels)

    # What the latency of the fixed part is made of, by the names of the published tables.
    fixed_operations = {  # noqa: RUF012  (a class attribute that nobody changes)
        "Conv": ("network.conv_stem", "network.bn1"),
        "Logits": ("network.global_pool", "network.classifier"),
    }

    treats_images_alone = True
    """Nothing but batch norm sees more than one image, and no random number is drawn: :mod:`nni_proxyless.core.joined_batches`."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape (batch, num_classes), of images of shape (batch, in_channels, height, width)."""
        return self.network(x)

    def freeze(self, sample: Mapping[str, Any]) -> nn.Module:
        """The :class:`.PyramidTreeNet` of one architecture, sharing this space's weights.

        Its ``state_dict`` has the names of the model that :meth:`timm_definition` describes.
        """
        return freeze_children(self.network, sample, share=True)

    def timm_definition(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Which model of timm the architecture is, in plain types; see :func:`.build_pyramid_tree`."""
        names = [str(sample[label]) for label in labels_of_edges(self.layout["depths"])]
        rows = (names[i : i + len(EDGES)] for i in range(0, len(names), len(EDGES)))
        return {
            "family": FAMILY,
            **self.layout,
            "depths": list(self.layout["depths"]),
            "trees": [" ".join(row) for row in rows],
            "num_classes": self.num_classes,
            "in_chans": self.in_channels,
        }
