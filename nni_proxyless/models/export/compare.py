"""Compare a network with its exported files: logits, figure of merit, milliseconds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from ...latency import DeviceEstimator, Measurement
from ...latency.estimators.device import InARow
from ...tasks import Classification, Task
from ...tasks.alone import alone
from .onnx_format import OnnxNetwork

__all__ = ["Run", "largest_difference", "logits_of", "merits", "scale_of", "time_side_by_side"]

Run = Callable[[Tensor], Tensor]
"""Images -> logits: a network, or a file in its runtime."""


@torch.no_grad()
def logits_of(run: Run, images: Tensor, batch: int) -> Tensor:
    """Logits of all images, in batches of exactly that many: the last one is filled up with zeros."""
    found = []
    for part in images.split(batch):
        missing = part.new_zeros(batch - len(part), *part.shape[1:])
        found.append(run(torch.cat([part, missing]))[: len(part)])
    return torch.cat(found)


def largest_difference(run: Run, images: Tensor, expected: Mapping[int, Tensor], scale: Tensor) -> tuple[float, float]:
    """The largest absolute difference of an output, and the largest by its scale; NaN where one of them is.

    Parameters
    ----------
    expected
        Batch size -> the outputs of all images, by the network itself in batches of that many.
    scale
        By :func:`scale_of`.
    """
    differences = torch.stack([(logits_of(run, images, batch) - outputs).abs() for batch, outputs in expected.items()])
    return float(differences.max()), float((differences / scale).max())  # in torch a NaN is the largest of all


def scale_of(expected: Iterable[Tensor], *, apart: bool) -> Tensor:
    """What differences are held against: the largest output, but at least 1; ``apart``: of each number of the last dimension its own largest,
    whatever that is."""
    every = torch.cat([outputs.flatten(0, -2) for outputs in expected]).abs()
    if not apart:
        return every.max().clamp(min=1)
    return every.amax(dim=0).clamp(min=torch.finfo(torch.float32).tiny)


def merits(
    runs: Mapping[str, Run], batches: Iterable[tuple[Tensor, Tensor]], batch: int, task: Task
) -> dict[str, float]:  # fmt: skip
    """The task's figure of merit of each; of classes, for all but the first, ``NAME agreement``, the share of answers that are the first's.

    ``images`` is how many there were.
    """
    of_classes = isinstance(task, Classification)
    metrics = {name: alone(task.metric()) for name in runs}
    same = dict.fromkeys(runs, 0)
    total = 0
    for images, targets in batches:
        given = {name: logits_of(run, images, batch) for name, run in runs.items()}
        first = next(iter(given.values()))
        for name, outputs in given.items():
            metrics[name].update(outputs, targets)
            same[name] += int((outputs.argmax(dim=1) == first.argmax(dim=1)).sum()) if of_classes else 0
        total += len(targets)
    _, *others = runs
    return {
        "images": total,
        **{name: float(metric.compute()) for name, metric in metrics.items()},
        **({f"{name} agreement": same[name] / total for name in others} if of_classes else {}),
    }


def time_side_by_side(
    network: nn.Module, runs: Mapping[str, Run], shape: tuple[int, ...], estimator: DeviceEstimator
) -> dict[str, Measurement]:
    """Time the network (as ``torch``) and others in turn, round after round, so that a drift of the machine hits all alike.

    On the same batch of noise and with the same clock, by which tables are measured; of the others the last of some runs in a row counts, as
    there. They bring their number of threads with them.
    """
    x = estimator.input_of(shape)
    with estimator.prepared([network]) as (copy,):
        timed: dict[str, Run] = {"torch": copy, **runs}
        once = [
            run.timed_on(x) if isinstance(run, OnnxNetwork) else functools.partial(estimator.time, run, x)
            for run in timed.values()
        ]
        rounds = estimator.rounds([once[0], *map(InARow, once[1:])])
    return {name: Measurement.of(times) for name, times in zip(timed, zip(*rounds, strict=True), strict=True)}
