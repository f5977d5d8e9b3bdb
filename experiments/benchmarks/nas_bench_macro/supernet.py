"""Supernets trained by single paths, by several recipes: whose verdicts are the truest for their compute?

A step draws a path and trains its weights alone. What recipes differ in is which paths are drawn, and what weights have in common.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from torch.utils.data import Dataset

from nni_proxyless.data import loader
from nni_proxyless.data.accuracy import as_channels_last

from .space import LABELS, MacroSpace, every_network, macs_of, sample_of, weights_of


@dataclass(frozen=True)
class Recipe:
    """How a supernet is trained.

    Attributes
    ----------
    steps
        Of one batch each; those of the sandwich rule count once for each of their paths.
    learning_rate
        Of SGD with Nesterov's momentum; falls to 0 by a cosine.
    shared_weights
        Whether the candidates of a place train the same weights; else each has its own.
    band
        Paths cost between these shares of the budget; None: any.
    warm_up
        Share of the steps at the start whose paths may cost anything.
    size_bias
        Paths have a probability in proportion to the product of the sizes of their candidates to this power, a candidate without weights
        counting as the smallest that has some, as in ProxylessNAS' option of this name.
    sandwich
        The largest network learns from the labels, the smallest and two others from its answers (BigNAS' sandwich rule with in-place
        distillation): one step of the optimizer for four paths.
    """

    steps: int = 1080
    batch_size: int = 64
    learning_rate: float = 0.06
    momentum: float = 0.9
    weight_decay: float = 4e-5
    shared_weights: bool = False
    band: tuple[float, float] | None = None
    warm_up: float = 0.0
    size_bias: float = 0.0
    sandwich: bool = False

    @property
    def for_one_budget(self) -> bool:
        """Whether the supernet is one for a budget, so that every budget takes one of its own."""
        return self.band is not None


BAND = (0.85, 1.05)
RECIPES = {
    "uniform": Recipe(),
    "uniform-long": Recipe(steps=2160),
    "band": Recipe(band=BAND),
    "band-warm-up": Recipe(band=BAND, warm_up=0.5),
    "shared": Recipe(shared_weights=True),
    "shared-size-bias": Recipe(shared_weights=True, size_bias=1.0),
    "sandwich": Recipe(shared_weights=True, sandwich=True),
}


class Paths:
    """Draws paths: digits of networks, by probabilities over all of them.

    Parameters
    ----------
    recipe
        Says which.
    budget
        Share of the largest network that its band is of; None with a recipe without one.
    width
        Of the space.
    seed
        The only source of chance.

    Raises
    ------
    ValueError
        A band without a budget, or one in which no network lies.
    """

    def __init__(self, recipe: Recipe, budget: float | None, width: float, seed: int):
        self.recipe, self.draw = recipe, np.random.default_rng(seed)
        self.digits = every_network()
        sizes = weights_of(width)[1].astype(float)
        sizes = np.maximum(sizes, np.where(sizes > 0, sizes, np.inf).min(1, keepdims=True))
        of_path = sizes[np.arange(len(LABELS)), self.digits].prod(1) ** recipe.size_bias
        self.anywhere = of_path / of_path.sum()
        self.within = self.anywhere
        if recipe.band is not None:
            if budget is None:
                raise ValueError(f"a band of {recipe.band} of no budget; allowed: with a budget")
            macs = macs_of(self.digits, width)
            low, high = (share * budget * macs.max() for share in recipe.band)
            inside = of_path * ((low <= macs) & (macs <= high))
            if not inside.any():
                raise ValueError(
                    f"no network has {low:.0f} to {high:.0f} multiply-adds; allowed: a band with networks in it"
                )
            self.within = inside / inside.sum()

    def of_step(self, done: float) -> list[str]:
        """Names of the paths of a step, this share of all being done: one, or the four of a sandwich, the largest first."""
        probs = self.anywhere if done < self.recipe.warm_up else self.within
        n = 2 if self.recipe.sandwich else 1
        drawn = ["".join(map(str, self.digits[i])) for i in self.draw.choice(len(probs), size=n, p=probs)]
        return ["2" * len(LABELS), "0" * len(LABELS), *drawn] if self.recipe.sandwich else drawn


def train(space: MacroSpace, images: Dataset, paths: Paths, seed: int) -> float:
    """Train the weights of a space in place; returns the mean loss of the last tenth of the steps.

    Parameters
    ----------
    space
        In channels-last memory; with ``shared_weights`` as the recipe says.
    images
        Augmented.
    paths
        Which paths, and by which recipe.
    seed
        Of the order of the images.
    """
    recipe = paths.recipe
    per_step = 4 if recipe.sandwich else 1
    steps = max(1, recipe.steps // per_step)
    optimizer = torch.optim.SGD(
        space.parameters(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    space.train()
    losses = []
    for step, (x, y) in zip(range(steps), _without_end(images, recipe.batch_size, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad(set_to_none=True)  # what is not on a path gets no momentum of a step that was not its own
        losses.append(_backward(space, paths.of_step(step / steps), as_channels_last(x), y))
        optimizer.step()
    last = losses[-max(1, steps // 10) :]
    return sum(last) / len(last)


def _backward(space: MacroSpace, names: list[str], x: Tensor, y: Tensor) -> float:
    """Gradients of a step: of cross entropy for the first path, of the distance to its answers for all others."""
    logits = space.freeze(sample_of(names[0]))(x)
    loss = cross_entropy(logits, y)
    loss.backward()
    answers = softmax(logits.detach(), 1)
    for name in names[1:]:
        of_other = log_softmax(space.freeze(sample_of(name))(x), 1)
        kl_div(of_other, answers, reduction="batchmean").backward()
    return float(loss.detach())


def _without_end(images: Dataset, batch_size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    batches = loader(images, batch_size, seed=seed)
    while True:
        yield from batches
