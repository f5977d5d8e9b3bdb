"""Strategies for NNI, each in a file that reads like its paper: two one-shot methods, and a multi-trial one.

==============================  ========================================================================
:mod:`.proxyless`               ProxylessNAS (Cai, Zhu, Han; ICLR 2019)
:mod:`.dsnas`                   DSNAS (Hu, Xie et al.; CVPR 2020)
:mod:`.estimators`              the formulas of both, with their symbols
:mod:`.evolution`               EEEA, a front within bounds (Termritthikun et al.; EAAI 2021); needs the extra ``evolution``
:mod:`.nsga2`                   NSGA-II within bounds, by ask and tell, and its operators
:mod:`.bounded_space`           a space as genomes, and the bounds on its networks
:mod:`.nni_baselines`           NNI's own strategies, to compare with
:mod:`.refused`                 NNI's strategies that are refused, with the reason
:mod:`.supernet.gate`           the gate of a choice
:mod:`.supernet.gate_gradient`  the gradient that a gate would have received
:mod:`.supernet.layers`         modules that run only the sampled path: layers, inputs, depths
:mod:`.supernet.frozen`         weights without gradient, for architecture steps
:mod:`.oneshot.strategy`        a method as a strategy of NNI: options, supernet, data
:mod:`.oneshot.module`          the search inside Lightning: weight steps, parts of an architecture step
:mod:`.oneshot.data`            batches: held-out data, replay after a resume, shares of processes
:mod:`.oneshot.warmup`          the learning rate of the warm-up
:mod:`.oneshot.reward`          rewards of sampled networks, for REINFORCE
:mod:`.oneshot.baseline`        the moving baseline of rewards and losses
:mod:`.oneshot.constraints`     targets as hard limits of the network that is left
:mod:`.oneshot.stages`          refuses a training too short for the stages of DSNAS
:mod:`.oneshot.child`           makes the chosen network of the supernet
:mod:`.oneshot.distributed`     several processes
:mod:`.oneshot.resume`          resumes a search that was stopped
:mod:`.oneshot.checkpoint`      the file that a search resumes from, ``search.ckpt``
:mod:`.oneshot.identity`        the options that make two searches the same search
:mod:`.oneshot.step_log`        figures of a step, for the loggers
:mod:`.oneshot.own_module`      checks a user's own Lightning module
:mod:`.oneshot.refusal`         refuses spaces that cannot be searched, and restores them
==============================  ========================================================================

What is named here is imported when it is asked for: NNI, torch and Lightning take many seconds, and who only asks which
options there are needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dsnas import DSNAS
    from .evolution import EarlyExitEvolution
    from .proxyless import ProxylessNAS

__all__ = ["DSNAS", "EarlyExitEvolution", "ProxylessNAS"]

_HOMES = {"DSNAS": "dsnas", "EarlyExitEvolution": "evolution", "ProxylessNAS": "proxyless"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
