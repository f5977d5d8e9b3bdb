"""Try a task on a few targets before anything is trained: a mistake in it would end a search in the middle."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.merit import Merit
from ..core.random_state import generators_kept
from .alone import alone
from .task import Task

__all__ = ["problem_of_answers", "problem_of_kinds", "problem_of_task", "target_problem"]

ASKED = ("problem_of_target", "loss", "metric")


def problem_of_task(task: Task) -> str | None:
    """What a task lacks that it has to say, in words; None if nothing."""
    if not isinstance(getattr(task, "merit", None), Merit):
        return "it has no attribute merit; allowed: a nni_proxyless.tasks.Merit, a name and whether more is better"
    lacking = [name for name in ASKED if getattr(type(task), name) is getattr(Task, name)]
    return f"it has no method {lacking[0]}; a task has to have {', '.join(ASKED)}" if lacking else None


def target_problem(task: Task, target: Any) -> str | None:
    """As :meth:`.Task.problem_of_target`, of somebody's class."""
    try:
        return task.problem_of_target(target)
    except Exception as error:
        return f"a {type(target).__name__} as target, on which problem_of_target fails: {error or type(error).__name__}; allowed: whatever it takes"


def problem_of_answers(task: Task, targets: Tensor) -> str | None:
    """What is wrong with loss and metric on random answers to these targets, in words; None if nothing. No random number is drawn."""
    doing = "output_shape"
    try:
        with generators_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = torch.randn(len(targets), *task.output_shape(), requires_grad=True)
            doing = "loss"
            loss = task.loss(outputs, targets, 0.1)
            if not isinstance(loss, Tensor) or loss.ndim:
                return f"loss gives {_in_words(loss)}; allowed: a tensor of one number"
            if not loss.requires_grad:
                return "loss gives a number that does not depend on the outputs, or not as torch could differentiate; allowed: one that does"
            if not bool(loss.isfinite()):
                return f"loss gives {float(loss.detach())}; allowed: a finite number"
            doing = "summed_loss"
            float(task.summed_loss(outputs.detach(), targets))
            doing = "reward"
            float(task.reward(outputs.detach(), targets))
            doing = "metric"
            metric = alone(task.metric())
            if not all(callable(getattr(metric, name, None)) for name in ("to", "update", "compute")):
                return f"metric gives {_in_words(metric)}; allowed: a Metric of torchmetrics"
            metric.update(outputs.detach(), targets)
            value: Any = metric.compute()
            if not isinstance(value, (Tensor, float, int)) or (isinstance(value, Tensor) and value.numel() != 1):
                return f"metric comes to {_in_words(value)}; allowed: one number"
    except Exception as error:  # of somebody's class
        said = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        return f"{doing} fails on {len(targets)} images: {said}"
    return None


def problem_of_kinds(task: Task, targets: Sequence[Any]) -> str | None:
    """What is wrong with the kinds of images, in words; None if nothing."""
    try:
        kinds = {name: np.asarray(of, dtype=bool) for name, of in task.kinds(targets).items()}
    except Exception as error:  # of somebody's class
        return f"kinds fails: {next(iter(str(error).strip().splitlines()), '') or type(error).__name__}"
    if any(of.shape != (len(targets),) for of in kinds.values()):
        return f"kinds gives masks of another length than {len(targets)}; allowed: one truth value per training image"
    if not kinds or not bool((np.sum([of.astype(int) for of in kinds.values()], axis=0) == 1).all()):
        return "kinds has an image in none of them, or in several; allowed: each in one"
    return None


def _in_words(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
