"""Spaces of cells of NNI's hub by name, for images of any number of channels and classes.

===================  ===========================================================================================
:class:`Darts`       ``darts``: DARTS (Liu, Simonyan, Yang; ICLR 2019); 4 nodes, 7 operations
:class:`Enas`        ``enas``: ENAS (Pham et al.; ICML 2018); 5 nodes, 5 operations, loose ends
:class:`NasNet`      ``nasnet``: NASNet (Zoph et al.; CVPR 2018); 5 nodes, 13 operations, loose ends
:class:`AmoebaNet`   ``amoebanet``: AmoebaNet (Real et al.; AAAI 2019); 5 nodes, 8 operations, loose ends
:class:`Pnas`        ``pnas``: PNAS (Liu et al.; ECCV 2018); 5 nodes, 8 operations
===================  ===========================================================================================

Every node is the sum of two operations, each with an input of its own; all normal cells of a network are alike, and all reductions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from nni.nas.hub.pytorch import DARTS, ENAS, NDS, PNAS, NASNet
from nni.nas.hub.pytorch import AmoebaNet as AmoebaNetSpace
from nni.nas.nn.pytorch import MutableLinear
from torch import nn

from nni_proxyless.core.nni_compat import NDSStage, model_context, set_depth_of_dry_run
from nni_proxyless.latency.operation import Operation, Shape, floating_type

from .cell_operations import operations_of_cells
from .hub import take_channels

__all__ = ["AmoebaNet", "CellSpace", "Darts", "Enas", "NasNet", "Pnas"]

LEAST_CELLS = 3  # one per stage


class CellSpace(NDS):
    """Three stages of cells, each with twice the channels of the one before; the second and the third begin with a reduction.

    Parameters
    ----------
    num_labels, in_channels
        Outputs of the classifier, channels of the images.
    width
        Channels of a node in the first stage, or several numbers to choose from; see docs/how-to/values.md.
    num_cells
        Cells in all stages together, or several numbers to choose from.
    dataset
        ``cifar`` halves images twice, ``imagenet`` five times.
    drop_path_prob
        How often, in training, an operation that is no skip is left out.

    Attributes
    ----------
    operations, n_nodes, merge_op
        What a cell chooses from, how many nodes it has, and which of them are its output.

    Raises
    ------
    ValueError
        Fewer than three cells.
    """

    operations: ClassVar[list[str]]
    n_nodes: ClassVar[int] = 5
    merge_op: Literal["all", "loose_end"] = "loose_end"

    def __init__(
        self, *, num_labels: int = 10, in_channels: int = 3, width: int | Sequence[int] = 16, num_cells: int | Sequence[int] = 8,
        dataset: Literal["cifar", "imagenet"] = "cifar", drop_path_prob: float = 0.0,
    ):  # fmt: skip
        numbers = [num_cells] if isinstance(num_cells, int) else list(num_cells)
        if not numbers or min(numbers) < LEAST_CELLS:
            raise ValueError(
                f"num_cells is {num_cells!r}; allowed: {LEAST_CELLS} or more, one in each of the three stages"
            )
        cells: Any = num_cells if isinstance(num_cells, int) else tuple(numbers)
        widths: Any = width if isinstance(width, int) else tuple(width)
        super().__init__(
            self.operations, self.merge_op, self.n_nodes, widths, cells, dataset, drop_path_prob=drop_path_prob
        )
        space: Any = self  # NNI does not say the types of its parts
        space.num_labels, classifier = num_labels, space.classifier
        if getattr(classifier, "mutables", ()):  # the width is a choice
            space.classifier = MutableLinear(**{**classifier.trace_kwargs, "out_features": num_labels})
        else:
            space.classifier = nn.Linear(classifier.in_features, num_labels)
        take_channels(self, in_channels)
        for stage in self.stages:
            if isinstance(stage, NDSStage):  # else this is a network, not a space
                set_depth_of_dry_run(stage, stage.max_depth)

    def freeze(self, sample: dict[str, Any]) -> nn.Module:
        with model_context(sample):
            return type(self)(**self.args)

    def own_operations(self, input_shape: Shape) -> list[Operation]:
        """All operations, which depend on what is chosen as input, and as width."""
        if isinstance(self.width, int):
            return operations_of_cells(self, input_shape)
        found = []
        for width in self.width:
            of_width = type(self)(**{**self.args, "width": width}).train(self.training)
            of_width.to(*floating_type(self))
            if_width = ("width", (width,))
            found += [
                replace(op, conditions=(if_width, *op.conditions)) for op in operations_of_cells(of_width, input_shape)
            ]
        return found


class Darts(CellSpace):
    """The space of DARTS."""

    operations = DARTS.DARTS_OPS
    n_nodes = 4
    merge_op = "all"


class Enas(CellSpace):
    """The space of cells of ENAS."""

    operations = ENAS.ENAS_OPS


class NasNet(CellSpace):
    """The space of NASNet."""

    operations = NASNet.NASNET_OPS


class AmoebaNet(CellSpace):
    """The space of AmoebaNet."""

    operations = AmoebaNetSpace.AMOEBA_OPS


class Pnas(CellSpace):
    """The space of PNAS."""

    operations = PNAS.PNAS_OPS
    merge_op = "all"
