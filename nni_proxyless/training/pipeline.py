"""A network as a pipeline: cut into stages, one in each process, through which the micro-batches of a batch go one after the other.

``torch.distributed.pipelining`` schedules them. Here is what it leaves open: where to cut, what a boundary looks like, and
re-materialization.

    K, M        stages, micro-batches
    bubble      (K - 1) / (M + K - 1), the share of a step in which a process waits, if all stages take the same time

Batch norm normalizes each micro-batch by itself; otherwise losses and gradients are those of the network in one piece.

Source: Huang et al. 2019, GPipe, arXiv 1811.06965, sec. 2.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.utils.checkpoint import checkpoint

from ..core.batch_norm import statistics_moved_already
from ..core.errors import UserError
from ..core.random_state import generators_kept

__all__ = [
    "SCHEDULES",
    "LayerCost",
    "Plan",
    "Stage",
    "balanced",
    "bubble",
    "from_boundary",
    "keep_only",
    "layers_of",
    "measured",
    "names_in",
    "pipelined",
    "step_seconds",
    "to_boundary",
]

SCHEDULES: dict[str, Any] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


def bubble(n_stages: int, n_micro_batches: int) -> float:
    """The share of a step in which a process waits, with stages that take the same time (sec. 2.3)."""
    return (n_stages - 1) / (n_micro_batches + n_stages - 1)


def step_seconds(stages: Sequence[float], n_micro_batches: int) -> float:
    """Of a step by GPipe's schedule, if nothing takes time but the stages.

    Every micro-batch takes as long as the others, so they leave the pipeline as fast as its slowest stage works.

    Parameters
    ----------
    stages
        Seconds of each with a micro-batch, forward and backward.
    """
    return sum(stages) + (n_micro_batches - 1) * max(stages)


# -- where to cut ------------------------------------------------------------------------------------------------------


def layers_of(network: nn.Module) -> dict[str, nn.Sequential]:
    """The layers of a network, one after the other; each has weights, and with it what follows without any.

    Parameters
    ----------
    network
        Has ``as_sequential``, as timm's EfficientNets and MobileNets and the networks of trees do; a sequence in it is taken apart.

    Returns
    -------
    dict
        By the name of the module, in the network, whose weights are the layer's first. The modules are the network's own.

    Raises
    ------
    UserError
        It has no such method, or weights elsewhere.
    """
    if not hasattr(network, "as_sequential"):
        raise UserError(
            f"pipeline: {type(network).__name__} does not say how its layers follow each other; allowed: a network with timm's as_sequential, as "
            "those of mobilenetv2 and pyramid-tree are"
        )
    in_order: Any = network.as_sequential
    groups: list[list[nn.Module]] = [[]]
    for module in _flattened(in_order()):
        if _has_weights(module) and any(map(_has_weights, groups[-1])):
            groups.append([])
        groups[-1].append(module)
    names = {module: name for name, module in network.named_modules()}
    layers = {names[next(filter(_has_weights, group))]: nn.Sequential(*group) for group in groups}
    held = {id(p) for layer in layers.values() for p in layer.parameters()}
    if outside := [name for name, p in network.named_parameters() if id(p) not in held]:
        raise UserError(f"pipeline: {type(network).__name__} uses weights beside its sequence of layers: {outside[0]}")
    return layers


def _flattened(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) is not nn.Sequential:
        yield module
        return
    for child in module:
        yield from _flattened(child)


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


@dataclass(frozen=True)
class LayerCost:
    """What a layer costs with a micro-batch, and what it gives.

    Attributes
    ----------
    seconds
        Forward and backward, the median of several runs.
    weights_bytes, kept_bytes
        Of its weights, and of what it keeps from the forward pass for the backward pass.
    shape, dtype
        Of its output.
    """

    seconds: float
    weights_bytes: int
    kept_bytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def bytes(self, n_kept: int, n_copies: int) -> int:
        """Of memory that it takes.

        Parameters
        ----------
        n_kept
            Micro-batches between their forward and their backward pass.
        n_copies
            Of the weights: themselves, gradients, momentum, average.
        """
        return n_copies * self.weights_bytes + n_kept * self.kept_bytes


def measured(
    layers: Sequence[nn.Module], images: Tensor, *, autocast: torch.dtype | None = None, repeats: int = 3
) -> list[LayerCost]:
    """Run each layer by itself on a micro-batch; the layers, their statistics and all generators stay as they are.

    Parameters
    ----------
    layers
        In their order, in the modes in which they are trained.
    images
        A micro-batch, on the device that is measured. That never holds more than one layer and what it computes.
    autocast
        As of :class:`Stage`.
    """
    costs: list[LayerCost] = []
    x = images
    with generators_kept():
        for layer in layers:
            copied = copy.deepcopy(layer).to(images.device)
            kept, seconds = _Kept(copied), []
            for run in range(1 + repeats):  # the first one warms up
                inputs = x.detach().requires_grad_(bool(costs))
                began = _now(images.device)
                with (
                    torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None),
                    contextlib.nullcontext() if run else kept.noted(),
                ):
                    output = copied(inputs)
                output.backward(torch.ones_like(output))
                seconds.append(_now(images.device) - began)
            x = output.detach()
            weights = sum(p.nbytes for p in copied.parameters())
            costs.append(LayerCost(statistics.median(seconds[1:]), weights, kept.bytes, tuple(x.shape), x.dtype))
    return costs


class _Kept:
    """Counts what autograd keeps of a forward pass, but for the weights of a module."""

    def __init__(self, module: nn.Module):
        self._not = {p.untyped_storage().data_ptr() for p in module.parameters()}
        self._sizes: dict[int, int] = {}

    def noted(self) -> contextlib.AbstractContextManager[None]:
        """Of the forward passes inside."""
        return torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        return sum(size for place, size in self._sizes.items() if place not in self._not)

    def _note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._sizes[storage.data_ptr()] = storage.nbytes()
        return tensor


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def balanced(costs: Sequence[float], n_stages: int) -> tuple[int, ...]:
    """Cut a sequence of costs into runs whose sums vary least (sec. 2.2); the best of all cuts.

    Parameters
    ----------
    costs
        Of each layer, 0 or more.
    n_stages
        How many runs, each of one layer at least.

    Returns
    -------
    tuple of int
        The first layer of each run, ascending; the first is 0.

    Raises
    ------
    ValueError
        There are fewer layers than stages.
    """
    n_layers = len(costs)
    if not 1 <= n_stages <= n_layers:
        raise ValueError(f"{n_stages} stages of {n_layers} layers; allowed: 1 to {n_layers}")
    sums = [0.0, *itertools.accumulate(costs)]
    # Of the first `end` layers in so many runs: the sum of squares, which varies as the variance does, and the cut.
    best: dict[int, tuple[float, tuple[int, ...]]] = {end: (sums[end] ** 2, (0,)) for end in range(1, n_layers + 1)}
    for n_runs in range(2, n_stages + 1):
        best = {
            end: min(
                (best[last][0] + (sums[end] - sums[last]) ** 2, (*best[last][1], last))
                for last in range(n_runs - 1, end)
            )
            for end in range(n_runs, n_layers + 1)
        }
    return best[n_layers][1]


@dataclass(frozen=True)
class Plan:
    """How a network is cut, which every process must know alike: measured times are not.

    Attributes
    ----------
    begins
        The first layer of each stage; the first is 0.
    outputs
        Shape and type of what each layer gives for a micro-batch.
    images
        Shape of a micro-batch.
    """

    begins: tuple[int, ...]
    outputs: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    images: tuple[int, ...]

    @classmethod
    def of(cls, begins: Sequence[int], costs: Sequence[LayerCost], images: Tensor) -> Plan:
        """A cut of layers that were measured on these images."""
        return cls(tuple(begins), tuple((cost.shape, cost.dtype) for cost in costs), tuple(images.shape))

    @property
    def n_stages(self) -> int:
        return len(self.begins)

    def layers(self, stage: int) -> slice:
        """Which layers are in a stage."""
        return slice(self.begins[stage], (*self.begins, len(self.outputs))[stage + 1])

    def metadata(self, stage: int) -> tuple[Tensor, Tensor]:
        """What goes into a stage and what comes out of it for a micro-batch, without content.

        What is differentiated says so: without that, the stage before it gets no gradient.
        """
        inputs = torch.empty(self.images, device="meta") if stage == 0 else self._sent(stage - 1)
        if stage < self.n_stages - 1:
            return inputs, self._sent(stage)
        shape, dtype = self.outputs[-1]
        return inputs, torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)

    def _sent(self, stage: int) -> Tensor:
        shape, dtype = self.outputs[self.layers(stage).stop - 1]
        return to_boundary(torch.empty(shape, dtype=dtype, device="meta")).requires_grad_()


# -- stages ------------------------------------------------------------------------------------------------------------


def to_boundary(x: Tensor) -> Tensor:
    """What a stage sends: contiguous, or gloo refuses it; of a map the channels come last, as they are stored in training."""
    return (x.permute(0, 2, 3, 1) if x.ndim == 4 else x).contiguous()


def from_boundary(x: Tensor) -> Tensor:
    """The inverse of :func:`to_boundary`, with the channels last in memory."""
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


class Stage(nn.Module):
    """Some layers of a network, one after the other.

    Parameters
    ----------
    layers
        The modules of the network themselves.
    index, n_stages
        Which stage this is, from 0 on, and how many there are.
    rematerialize
        Of each micro-batch keep the input alone until its backward pass, which computes the rest again; norms move their statistics once.
    autocast
        Type of mixed precision, in training; None: none.
    """

    def __init__(
        self, layers: Sequence[nn.Module], index: int, n_stages: int, *, rematerialize: bool = False,
        autocast: torch.dtype | None = None,
    ):  # fmt: skip
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.is_first, self.is_last = index == 0, index == n_stages - 1
        self.rematerialize, self.autocast = rematerialize, autocast

    def forward(self, x: Tensor) -> Tensor:
        """Images, or what the stage before has sent -> what the next one is sent, or logits."""
        x = x if self.is_first else from_boundary(x)
        with torch.autocast(x.device.type, dtype=self.autocast, enabled=self.training and self.autocast is not None):
            if self.rematerialize and torch.is_grad_enabled():
                x = checkpoint(self.layers, x, use_reentrant=False, context_fn=self._passes)
            else:
                x = self.layers(x)
        return x if self.is_last else to_boundary(x)

    def _passes(self) -> tuple[Any, Any]:
        """Contexts of the first forward pass and of the second."""
        return contextlib.nullcontext(), statistics_moved_already(self.layers.modules())


def keep_only(own: slice, layers: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers of one stage; the others lose their weights, and this process the memory of these."""
    kept = list(layers[own])
    for layer in layers:
        if layer not in kept:
            layer.to("meta")
    return kept


def names_in(network: nn.Module, stage: nn.Module) -> list[str]:
    """The names that a network has for the tensors of a stage's ``state_dict``, in their order."""
    names = {id(tensor): name for name, tensor in network.state_dict(keep_vars=True).items()}
    return [names[id(tensor)] for tensor in stage.state_dict(keep_vars=True).values()]


def pipelined(
    stage: nn.Module, index: int, n_stages: int, device: torch.device, n_micro_batches: int, *, plan: Plan | None = None,
    schedule: str = "gpipe", loss: Callable[[Tensor, Tensor], Tensor] | None = None, group: Any = None,
) -> Any:  # fmt: skip
    """A schedule of ``torch.distributed.pipelining`` over the processes of a group; the one of rank ``index`` runs this stage.

    Parameters
    ----------
    stage
        A :class:`Stage`; or ``DistributedDataParallel`` of it, which then averages gradients after the last micro-batch.
    plan
        Says what crosses the boundaries. None: torch finds out from the first micro-batch, for which, before 2.14, it moves the statistics of
        batch norm; in evaluation that does not matter.
    schedule
        A key of :data:`SCHEDULES`.
    loss
        (logits, targets) -> mean over a micro-batch. None: no backward pass.
    group
        None: all processes.

    Returns
    -------
    ScheduleGPipe or Schedule1F1B
        Its ``step`` takes the images in the first process, ``target`` in the last, and leaves the mean gradient over the micro-batches; gradients
        that were there before are spoiled.
    """
    inputs, outputs = (None, None) if plan is None else plan.metadata(index)
    of_torch = PipelineStage(stage, index, n_stages, device, input_args=inputs, output_args=outputs, group=group)
    return SCHEDULES[schedule](of_torch, n_micro_batches, loss)
