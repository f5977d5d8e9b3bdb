"""The loss with a teacher: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531.

Search and final training take it from here. The share of the teacher falls over the epochs, so that a network can overtake it: teacher annealing (Clark et al.,
"BAM!", arXiv:1907.04829, section 3.2). Once-for-All (Cai et al., arXiv:1908.09791) teaches its supernet likewise, by the largest network.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

__all__ = ["DEFAULT_SHARE", "annealed", "distilled"]

DEFAULT_SHARE = 0.5


def annealed(share: float, epoch: int, epochs: int) -> float:
    """The share of the teacher in epoch ``epoch``, from 0 on: at first all of it, then linearly less, down to 0 behind the last of the ``epochs``."""
    return share * (1 - epoch / epochs)


def distilled(loss: Tensor, outputs: Tensor, taught: Tensor, share: float, temperature: float = 1.0) -> Tensor:
    """(1 - share) of the loss, and share of T² KL(teacher || network), in nats.

    The factor T² keeps the size of the gradients, which softer targets make smaller by as much (section 2).

    Parameters
    ----------
    loss
        Of the classes, a number.
    outputs, taught
        Logits of network and teacher for the same images, shape (batch, classes). Their divergence is computed in 32 bits or more.
    share
        Of the teacher, from 0 to 1.
    temperature
        T, greater than 0: both softmaxes are of logits divided by it.
    """
    p, q = (
        log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature, dim=1)
        for logits in (taught, outputs)
    )
    return (1 - share) * loss + share * temperature**2 * kl_div(q, p, reduction="batchmean", log_target=True)
