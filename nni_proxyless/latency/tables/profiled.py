"""What a runtime itself says of a network: how long each of its nodes took.

A node knows the module that it was exported from, and so the operation of the space, whatever the runtime has merged it with. But
nodes are timed with a clock of microseconds that takes some of them, and what happens between nodes is in none of them. So
such milliseconds are no rows. They say what rows are like, which a fit to whole networks makes use of, see ``fit_networks.py``.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ...core.module_modes import evaluating
from ..calls import CallTree, record
from ..operation import Operation, Shape, floating_type, key_of

__all__ = ["owners", "per_operation", "together"]


def owners(
    operations: Sequence[Operation], network: nn.Module, input_shape: Shape, sample: Mapping[str, Any]
) -> dict[str, str]:
    """Which operations of a space the modules of one of its networks are: dotted name -> key, of those that hang on a choice.

    They are known by their keys: a network that was taken out of a space may have other names than the space, as after blocks
    that were left out.
    """
    wanted = Counter(op.key for op in operations if op.conditions and op.runs_in(sample))
    names = {module: name for name, module in network.named_modules()}
    found: dict[str, str] = {}

    def walk(call: CallTree) -> None:
        if call.module in names and call.unknown() is None and (key := key_of(call.module, call)) in wanted:
            found[names[call.module]] = key
            return
        for child in call.children:
            walk(child)

    device, dtype = floating_type(network)
    with evaluating(network):
        walk(record(network, (torch.zeros(1, *input_shape, dtype=dtype, device=device),), {}))
    counts = Counter(found.values())
    return {name: key for name, key in found.items() if counts[key] == wanted[key]}


def per_operation(profile: Mapping[str, float], of: Mapping[str, str]) -> dict[str, float]:
    """Key -> milliseconds of one operation of that key, from those of a network's modules.

    Parameters
    ----------
    profile
        As :meth:`~nni_proxyless.latency.runtimes.runtime.Runner.profile` says it.
    of
        As :func:`owners` says it.
    """
    counts = Counter(of.values())
    found: dict[str, float] = {}
    for name, ms in profile.items():
        key = _owner(name, of)
        if key is not None:
            found[key] = found.get(key, 0.0) + ms / counts[key]
    return found


def _owner(name: str, of: Mapping[str, str]) -> str | None:
    while name:
        for known in (name, re.sub(r"_\d+$", "", name)):  # _1, of a module that is called a second time
            if known in of:
                return of[known]
        name = name.rpartition(".")[0]
    return None


def together(found: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Key -> median milliseconds over the networks."""
    by_key: dict[str, list[float]] = {}
    for key, ms in found:
        by_key.setdefault(key, []).append(ms)
    return {key: statistics.median(times) for key, times in by_key.items()}
