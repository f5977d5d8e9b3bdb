"""REINFORCE (Williams 1992) as ProxylessNAS uses it: section 3.3 of the paper.

Symbols: R_m the reward of the m-th of M sampled networks; b the baseline; p the probabilities of one choice; k_m what
network m takes there.
"""

from __future__ import annotations

from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor

__all__ = ["MovingBaseline", "accuracy_of", "reinforce_loss"]


def reinforce_loss(log_probs: Tensor, rewards: Tensor, baseline: float) -> Tensor:
    """The scalar whose gradient is REINFORCE's: -1/M sum over m of (R_m - b) log p(network m) (ProxylessNAS eq. 8).

    Its gradient with respect to the logits of one choice is 1/M sum over m of (R_m - b)(p - e_{k_m}).

    Parameters
    ----------
    log_probs
        Log-probability of each sampled network, with its graph, shape (M,).
    rewards
        Shape (M,). Not differentiated through.
    """
    return -((rewards.detach() - baseline) * log_probs).mean()


class MovingBaseline:
    """The moving average that rewards are compared with; it begins with the mean reward of the first update.

    Parameters
    ----------
    weight
        Of the newest mean: b <- b + weight * (mean - b).
    when
        ``'before'``: moved before it is used (official code); ``'after'``: used first, which leaves the estimator without
        bias; ``'never'``: no baseline, b = 0.
    """

    def __init__(self, weight: float, when: str):
        self.weight, self.when = weight, when
        self.value: float | None = None

    def next(self, mean: float) -> float:
        """The baseline for an update whose rewards have this mean."""
        if self.when == "never":
            return 0.0
        used = mean if self.value is None else self.value
        self.value = used + self.weight * (mean - used)
        return self.value if self.when == "before" else used


def accuracy_of(module: LightningModule, batch: Any, batch_idx: int) -> float:
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
