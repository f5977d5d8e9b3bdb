"""Check a user's own Lightning module: what a search cannot run is refused before anything is trained.

Lightning's automatic optimization is made by hand here, so what it would do for a module has to be done, or refused.
"""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

__all__ = ["FORWARDED", "check_module", "check_skips", "clip", "loss_of", "overrides"]

FORWARDED = (
    "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer", "configure_callbacks", "backward",
)  # fmt: skip
"""Hooks that Lightning asks the module of the search for, which NNI's does not pass on."""


def overrides(module: LightningModule, name: str) -> bool:
    """Whether the user has written this method."""
    return getattr(type(module), name) is not getattr(LightningModule, name)


def clip(module: LightningModule, optimizer: Any, value: float | None, algorithm: str) -> None:
    """Clip the gradient of the weights, by the module's own ``configure_gradient_clipping`` if it has one."""
    own = overrides(module, "configure_gradient_clipping")
    if value is None and not own:
        return
    scaler = getattr(module.trainer.precision_plugin, "scaler", None)
    if scaler is not None and own:
        scaler.unscale_(optimizer.optimizer)  # it may have values of its own
    elif scaler is not None and value is not None:
        value *= float(scaler.get_scale())
    module.configure_gradient_clipping(optimizer, value, algorithm)


def check_module(module: LightningModule, optimizers: list[Any], schedules: list[Any]) -> None:
    """Refuse what a search cannot do.

    Parameters
    ----------
    optimizers, schedules
        What the module's ``configure_optimizers`` has given.

    Raises
    ------
    MisconfigurationException
        The message names the module and all that is wrong.
    """
    name = type(module).__name__
    problems = []
    if not module.automatic_optimization:
        problems.append(
            f"{name} has automatic_optimization False; allowed: True, a search makes the steps of the weights itself"
        )
    if len(optimizers) != 1:
        problems.append(f"{name}.configure_optimizers gives {len(optimizers)} optimizers; allowed: one")
    problems += [
        f"{name}.configure_optimizers gives {type(o).__name__}, which tries a step several times; allowed: an optimizer that steps "
        "once, such as SGD or AdamW"
        for o in optimizers
        if isinstance(o, torch.optim.LBFGS)
    ]
    problems += [
        f"{name}.configure_optimizers gives {type(s).__name__}, which waits for a metric that a search does not have; allowed: a "
        "schedule without one, such as CosineAnnealingLR"
        for s in schedules
        if isinstance(s, torch.optim.lr_scheduler.ReduceLROnPlateau)
    ]
    if problems:
        raise MisconfigurationException("strategy: " + "; ".join(problems))


def check_skips(module: LightningModule) -> None:
    """Refuse that one of several processes skips a batch.

    Raises
    ------
    MisconfigurationException
        There are several.
    """
    if module.trainer.world_size > 1:
        raise MisconfigurationException(
            f"strategy: {type(module).__name__}.training_step returns None, which skips a batch; allowed: with one process, the "
            "others would wait for this one"
        )


def loss_of(result: Any, module: LightningModule | None = None) -> Tensor | None:
    """What Lightning's ``training_step`` may return: a loss, a dict that holds one, or None to skip the batch.

    Raises
    ------
    TypeError
        Something else.
    """
    loss = result.get("loss") if isinstance(result, dict) else result
    if isinstance(loss, Tensor) or result is None:
        return loss
    what = f"a dict of {', '.join(map(repr, result))}" if isinstance(result, dict) else f"a {type(result).__name__}"
    raise TypeError(
        f"{type(module).__name__}.training_step returns {what}; allowed: a tensor, a dict with a tensor 'loss', or None to skip a batch"
    )
