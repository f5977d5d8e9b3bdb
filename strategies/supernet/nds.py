"""The spaces of cells of NNI's hub (``NDS``: DARTS, ENAS, NASNet, AmoebaNet, PNAS): stages of variable depth, and networks with weights.

A cell has two inputs, the outputs of the two cells before it, and brings both to its own channels: ``pre0`` the older one, ``pre1``
the newer one. Two things make a network differ from its supernet there:

- the ``pre0`` that follows a stage of one cell has the shape of what came before that stage, so the stage holds one for
  either case, and gives what comes out;
- a loose end that a network does not have is missing there, and 0 in the supernet: what it is multiplied by is left out.

A width that is a choice makes super-kernels (:mod:`.values`) of all layers; of what a cell gives, each width has the first channels.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from typing import Any, cast

import torch
from nni.mutable import Mutable
from nni.nas.hub.pytorch import NDS
from nni.nas.nn.pytorch import Cell, recursive_freeze
from torch import Tensor, nn

from nni_proxyless.core.nni_compat import FactorizedReduce, NDSStage, ReLUConvBN

from .gate import Gate
from .layers import SampledRepeat

__all__ = ["SampledStage", "complete"]


class SampledStage(SampledRepeat):
    """A stage of cells of variable depth: its two last outputs, the older one as the next stage takes it."""

    def __init__(self, stage: Any, gates: Mapping[str, Gate]):
        super().__init__(list(stage.blocks), stage.depth_choice, gates)
        self.after_one: nn.Module | None = None
        self.after_several: nn.Module | None = None
        if self.min_depth == 1:
            channels, width = stage.estimated_out_channels_prev, stage.estimated_out_channels
            following = 2 * width // stage.blocks[0].num_nodes  # of a node of the next stage
            self.after_one = (
                FactorizedReduce(channels, following)
                if stage.downsampling
                else ReLUConvBN(channels, following, 1, 1, 0)
            )

    def join(self, preprocessor: Any) -> None:
        """Take over ``pre0`` of the next stage."""
        self.after_several, preprocessor.pre0 = preprocessor.pre0, nn.Identity()

    def before_next(self, depth: int) -> nn.Module | None:
        """``pre0`` of the next stage behind so many cells; None: there is none."""
        return self.after_one if depth == 1 else self.after_several

    def _finish(self, depth: int, x: Any) -> Any:
        older, newer = x
        pre = self.before_next(depth)
        return [newer if pre is None else pre(older), newer]

    @classmethod
    def mutate(
        cls, module: nn.Module, name: str, memo: dict[str, Any], mutate_kwargs: dict[str, Any]
    ) -> SampledStage | None:
        """NNI's mutation hook: replaces an ``NDSStage`` whose depth is open."""
        if type(module) is not NDSStage or not isinstance(module.depth_choice, Mutable):
            return None
        return cls(module, {label: memo[label] for label in module.depth_choice.simplify()})


def complete(supernet: nn.Module) -> None:
    """Let the supernet of an ``NDS`` run at all depths, and freeze to networks with its weights; any other stays as it is."""
    if not isinstance(supernet, NDS):
        return
    stages: Any = supernet.stages
    for stage, following in itertools.pairwise(stages):
        if isinstance(stage, SampledStage):
            stage.join(following.blocks[0].preprocessor)
    if isinstance(stages[-1], SampledStage):
        stages[-1].after_one = None  # nothing follows
    cast(Any, supernet).freeze = functools.partial(_frozen, supernet)


def _frozen(supernet: Any, sample: dict[str, Any]) -> nn.Module:
    """The network of NNI with these choices, and the supernet's weights in it."""
    with torch.device("meta"):  # no memory, and no random number
        network = type(supernet).freeze(supernet, sample)
    stages = nn.ModuleList(stage.freeze(sample) for stage in supernet.stages)
    for stage, frozen, following in zip(supernet.stages, stages, stages[1:], strict=False):
        if isinstance(stage, SampledStage):
            before = cast(nn.Module, stage.before_next(len(cast(Any, frozen))))
            cast(Any, following)[0].preprocessor.pre0 = recursive_freeze(before, sample)[0]
    others = {name: child for name, child in supernet.named_children() if child is not supernet.stages}
    whole = nn.ModuleDict(
        {"stages": stages, **{name: recursive_freeze(child, sample)[0] for name, child in others.items()}}
    )
    weights = whole.state_dict()
    for name, layer, channels in _inputs(network):
        weights |= {
            f"{name}.{key}": weights[f"{name}.{key}"].index_select(1, channels.to(weights[f"{name}.{key}"].device))
            for key, tensor in layer.state_dict().items()
            if tensor.ndim > 1
        }
    network.load_state_dict(weights, assign=True)
    return network.train(supernet.training)


def _inputs(network: Any) -> list[tuple[str, nn.Module, Tensor]]:
    """Layers whose input is the output of a cell, by name, and which channels of all nodes it has."""
    cells = [(f"stages.{s}.{i}", cell) for s, stage in enumerate(network.stages) for i, cell in enumerate(stage)]
    found = []
    for i, (name, cell) in enumerate(cells):
        if i > 0:
            found.append((f"{name}.preprocessor.pre1", cell.preprocessor.pre1, cells[i - 1][1]))
        if i > 1:
            found.append((f"{name}.preprocessor.pre0", cell.preprocessor.pre0, cells[i - 2][1]))
    found.append(("classifier", network.classifier, cells[-1][1]))
    return [(name, layer, _channels(cell)) for name, layer, cell in found]


def _channels(cell: Cell) -> Tensor:
    """Of the output of all nodes, those of the loose ends."""
    pre: Any = cell.preprocessor
    width = pre.pre1[1].out_channels
    return torch.cat(
        [torch.arange(width) + (node - cell.num_predecessors) * width for node in cell.output_node_indices]
    )
