"""Judge networks of a space with the weights that they find there: mean loss and figure of merit on images that trained none of them.

choices -> a copy of the network, batch-norm statistics estimated afresh on training images -> held-out images -> :class:`Verdict`
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from ..core.batch_norm import estimate_statistics
from ..core.freezing import freeze
from ..data.accuracy import as_channels_last, evaluate, in_type_of
from ..latency import LatencyProfiler
from ..tasks import Classification, Task

__all__ = ["CPU", "Verdict", "judge_networks", "with_fresh_statistics"]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Verdict:
    """A network, and what held-out images say of it.

    Attributes
    ----------
    choices
        Label -> choice.
    log_loss
        Mean loss of the task, of classification the cross entropy in nats; infinite where an answer is no number. Less noisy than accuracy,
        and closer to what the network reaches when it is trained by itself (``experiments/benchmarks/RESULTS.md``).
    merit
        The task's figure of merit, of classification the share of right answers.
    cost
        In the unit of the profiler; nan without one.
    """

    choices: dict[str, Any]
    log_loss: float
    merit: float
    cost: float = math.nan


def judge_networks(
    space: ModelSpace,
    samples: Sequence[Mapping[str, Any]],
    calibration: Any,
    validation: Any,
    device: torch.device = CPU,
    profiler: LatencyProfiler | None = None,
    on_done: Callable[[], Any] | None = None,
    task: Task | None = None,
) -> list[Verdict]:
    """Judge networks of a supernet, each as a copy: weights and statistics of the space stay as they are.

    Parameters
    ----------
    space
        With trained weights, in the modes in which it was trained. Modules without choices keep their weights only as
        :func:`..core.nni_compat.keep_modules_when_frozen` has it, which a strategy and ``derive`` have called.
    samples
        The networks: label -> choice.
    calibration, validation
        Batches of (images, targets), gone through once for each network: for the statistics of batch norm, and to judge by.
    device
        Where the copies compute.
    profiler
        Of ``cost``.
    on_done
        Called after each network.
    task
        By whose loss and metric; None: classification.
    """
    task = task or Classification()
    verdicts = []
    for sample in samples:
        network = with_fresh_statistics(copy.deepcopy(freeze(space, sample)).to(device), calibration, device)
        log_loss, merit = evaluate(network, validation, task)
        cost = math.nan if profiler is None else float(profiler.profile(dict(sample)))
        verdicts.append(Verdict(dict(sample), log_loss if math.isfinite(log_loss) else math.inf, merit, cost))
        if on_done is not None:
            on_done()
    return verdicts


def with_fresh_statistics(network: nn.Module, calibration: Any, device: torch.device) -> nn.Module:
    """The same network, its batch-norm statistics estimated afresh on batches of (images, targets)."""
    typed = in_type_of(network)
    estimate_statistics(network, (as_channels_last(typed(batch)) for batch, _ in calibration), device)
    return network
