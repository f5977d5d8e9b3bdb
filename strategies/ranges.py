"""Which values the options of the strategies may have.

Strategies ask here in their constructors, and so does whoever checks a file of settings: nothing is imported for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["REWARDS", "UPDATES", "problems_of_dsnas", "problems_of_proxyless", "problems_of_sampled"]

UPDATES = ("two-path", "full", "reinforce")
REWARDS = ("loss", "gradient")


def problems_of_sampled(options: Any) -> list[str]:
    """Every option of :class:`.SampledStrategy` that is out of range, one sentence each.

    Parameters
    ----------
    options
        Has them as attributes: the strategy, or anything else.
    """
    problems = _below(options, (("warmup_epochs", 0), ("log_prob_every_n_step", 1), ("accumulate_grad_batches", 1)))
    if not 0 <= options.size_bias < math.inf:
        problems.append(f"size_bias is {options.size_bias}; allowed: 0 or more")
    if not options.arc_learning_rate > 0:
        problems.append(f"arc_learning_rate is {options.arc_learning_rate}; allowed: greater than 0")
    for name in ("warmup_learning_rate", "gradient_clip_val"):
        if getattr(options, name) is not None and not getattr(options, name) > 0:
            problems.append(f"{name} is {getattr(options, name)}; allowed: greater than 0, or none")
    if options.gradient_clip_algorithm not in ("norm", "value"):
        problems.append(f"gradient_clip_algorithm is {options.gradient_clip_algorithm!r}; allowed: 'norm', 'value'")
    if options.warmup_learning_rate is not None and options.warmup_epochs == 0:
        problems.append("warmup_learning_rate has no effect with warmup_epochs 0; allowed: warmup_epochs of 1 or more")
    if options.checkpoint_every is not None and not options.checkpoint_every >= 1:
        problems.append(f"checkpoint_every is {options.checkpoint_every}; allowed: 1 or more batches, or none")
    return problems


def problems_of_proxyless(options: Any) -> list[str]:
    """The same of :class:`.ProxylessNAS`."""
    problems = problems_of_sampled(options)
    problems += _others(
        options,
        (("update", UPDATES), ("cost_probs", ("pair", "full")), ("baseline", ("before", "after", "never"))),
    )
    problems += _below(
        options, (("arc_update_every", 1), ("arc_update_steps", 1), ("arc_start_epoch", 0), ("reinforce_samples", 1))
    )
    if not options.entropy_weight >= 0:
        problems.append(f"entropy_weight is {options.entropy_weight}; allowed: 0 or more")
    if not 0 < options.baseline_weight <= 1:
        problems.append(f"baseline_weight is {options.baseline_weight}; allowed: greater than 0, up to 1")
    if not options.reward_exponent <= 0:
        problems.append(f"reward_exponent is {options.reward_exponent}; allowed: 0 or less, a slow network earns less")
    return problems


def problems_of_dsnas(options: Any) -> list[str]:
    """The same of :class:`.DSNAS`."""
    problems = problems_of_sampled(options)
    problems += _others(options, (("reward", REWARDS), ("paths", ("per-process", "shared"))))
    if options.search_epochs is not None and options.search_epochs < 1:
        problems.append(f"search_epochs is {options.search_epochs}; allowed: 1 or more, or none for half of the epochs")
    if not options.entropy_weight >= 0:
        problems.append(f"entropy_weight is {options.entropy_weight}; allowed: 0 or more")
    for name in ("fix_gap", "baseline_weight"):
        if not 0 < getattr(options, name) <= 1:
            problems.append(f"{name} is {getattr(options, name)}; allowed: greater than 0, up to 1")
    return problems


def _below(options: Any, least: Sequence[tuple[str, int]]) -> list[str]:
    return [
        f"{name} is {getattr(options, name)}; allowed: {n} or more" for name, n in least if getattr(options, name) < n
    ]


def _others(options: Any, allowed: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    return [
        f"{name} is {getattr(options, name)!r}; allowed: {', '.join(map(repr, values))}"
        for name, values in allowed
        if getattr(options, name) not in values
    ]
