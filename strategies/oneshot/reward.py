"""Rewards of sampled networks: what REINFORCE learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from nni_proxyless.latency import LatencyReward
from nni_proxyless.latency.objectives.penalty_sum import Penalties

from ..supernet.gate import Gate, sample_paths
from .distributed import average

if TYPE_CHECKING:
    from .module import SampledOneShotModule

__all__ = ["mean_reward", "reward_of", "reward_problem", "sample_and_reward"]


def reward_problem(penalty: Any) -> str | None:
    """Say why a penalty makes no reward; None where it makes one."""
    if isinstance(penalty, Penalties):
        return (
            f"penalty holds {len(penalty.penalties)} costs, of which update='reinforce' makes no one reward; "
            "allowed: LatencyReward with a function of your own, or one LatencyPenalty"
        )
    if penalty is None or isinstance(penalty, LatencyReward) or hasattr(penalty, "profiler"):
        return None
    return f"penalty is a {type(penalty).__name__}; allowed with update='reinforce': LatencyReward, LatencyPenalty"


def reward_of(penalty: Any, exponent: float) -> LatencyReward | None:
    """accuracy * (latency / target)^exponent, with profiler and target of a penalty; a ``LatencyReward`` as it is."""
    if penalty is None or isinstance(penalty, LatencyReward):
        return penalty
    return LatencyReward(penalty.profiler, penalty.baseline, exponent)


def sample_and_reward(
    module: SampledOneShotModule, batch: Any, batch_idx: int, n: int
) -> tuple[list[dict[Gate, int]], Tensor]:
    """Draw n networks from p and try them on one batch, without gradients.

    Returns
    -------
    tuple
        The paths, and R_m of each, shape (n,), in double precision where the device has it; over several processes the
        mean of what each has seen.
    """
    paths, rewards = [], []
    with torch.no_grad():
        for _ in range(n):
            paths.append(sample_paths(module.gates))
            accuracy = _accuracy(module.training_module, batch, batch_idx)
            rewards.append(accuracy if module.penalty is None else module.penalty(accuracy, module.sampled_path()))
    received = torch.tensor(rewards, dtype=torch.float64)
    if module.trainer.world_size > 1:
        # In double precision where there is one: Adam would turn a difference of rounding alone into a whole step.
        received = received.to(module.device, torch.float32 if module.device.type == "mps" else torch.float64)
        average([received])
    return paths, received


def mean_reward(rewards: Tensor) -> float:
    """The mean, exact where all are equal."""
    return float(rewards[0] + (rewards - rewards[0]).mean())


def _accuracy(module: LightningModule, batch: Any, batch_idx: int) -> float:
    """Share of right answers of the sampled path on a batch.

    The module's own ``architecture_accuracy(batch, batch_idx)`` if it has one; else the batch must be (inputs, class
    indices) and the module's output logits, as with NNI's ``Classification``.
    """
    own = getattr(module, "architecture_accuracy", None)
    if own is not None:
        return float(own(batch, batch_idx))
    if isinstance(batch, (list, tuple)) and len(batch) == 2 and isinstance(batch[1], Tensor):
        inputs, targets = batch
        network: Any = module if type(module).forward is not LightningModule.forward else module.model
        logits = network(inputs)
        if isinstance(logits, Tensor) and logits.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point():
            return float((logits.argmax(dim=1) == targets).float().mean())
    raise TypeError(
        f"update='reinforce' cannot see an accuracy in {type(module).__name__}: its batches are not "
        "(inputs, class indices), or its output is not logits; give it a method architecture_accuracy(batch, batch_idx)"
    )
