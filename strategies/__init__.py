"""One-shot strategies for NNI: two methods, each in a file that reads like its paper.

=============================  =============================================================================
:mod:`.proxyless`              ProxylessNAS (Cai, Zhu, Han; ICLR 2019)
:mod:`.dsnas`                  DSNAS (Hu, Xie et al.; CVPR 2020)
:mod:`.estimators`             the formulas of both, with their symbols
:mod:`.nni_baselines`          NNI's own strategies, to compare with
:mod:`.supernet.gate`          the gate of a choice
:mod:`.supernet.gate_gradient` the gradient that a gate would have received
:mod:`.supernet.layers`        modules that run only the sampled path: layers, inputs, depths
:mod:`.oneshot.strategy`       a method as a strategy of NNI: options, supernet, data
:mod:`.oneshot.module`         the search inside Lightning: weight steps, and the parts of an architecture step
:mod:`.oneshot.distributed`    the same on several processes
:mod:`.oneshot.resume`         the same when it is killed and started again
:mod:`.oneshot.identity`       which options make it another search
:mod:`.oneshot.refusal`        spaces that none of them can search
=============================  =============================================================================

What is named here is imported when it is asked for: NNI, torch and Lightning take many seconds, and who only asks which options
there are needs none of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dsnas import DSNAS
    from .proxyless import ProxylessNAS

__all__ = ["DSNAS", "ProxylessNAS"]

_HOMES = {"DSNAS": "dsnas", "ProxylessNAS": "proxyless"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
