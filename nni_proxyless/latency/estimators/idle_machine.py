"""Wait, for a limited time, until other programs leave the cores that a measurement needs.

A machine with 64 cores of which one is busy is quiet for a measurement with one thread: what counts is what is left. Where
two hardware threads share a core, a busy one takes all of it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

import psutil

from ...core.cpu_threads import cores_of, usable_cores
from ...core.errors import UserError

__all__ = ["PATIENCE", "share_taken", "wait_until_quiet"]

_logger = logging.getLogger(__name__)

PATIENCE = "NNI_PROXYLESS_QUIET_SECONDS"
"""Environment variable: how long a command waits for a quiet machine, all of its measurements together; 0: nobody looks."""

_DEFAULT_PATIENCE = 60.0
_LOOK = 1.0  # seconds; the kernel counts in hundredths
_QUIET = 0.1  # share of the cores that are needed; a desktop that does nothing takes less

_waited = 0.0


def wait_until_quiet(threads: int) -> float:
    """Wait until others leave as many cores as a measurement needs, at most as long as :data:`PATIENCE` says.

    Nothing else of this process may run meanwhile: all that does is taken for others.

    Returns
    -------
    float
        The share of these cores that others used in the end, rounded; 0.0 if the machine was quiet, or nobody looked.

    Raises
    ------
    UserError
        The environment variable is no number of seconds.
    """
    global _waited
    patience = _patience()
    if patience == 0:
        return 0.0
    # Where a quota pays for fewer cores, no more can be had, however quiet the rest is.
    threads = min(threads, usable_cores())
    has_said = False
    while (taken := share_taken(*_look(), threads)) > _QUIET and _waited < patience:
        if not has_said:
            _logger.info(
                "measuring waits for a quiet machine: other processes use %.0f %% of the %s; at most %.0f s more, or as long as "
                "%s says", 100 * taken, _cores(threads), patience - _waited, PATIENCE,
            )  # fmt: skip
            has_said = True
        _waited += _LOOK
    if taken <= _QUIET:
        return 0.0
    _logger.warning(
        "the machine is not quiet: other processes use %.0f %% of the %s. What is measured now may be too slow, and rank "
        "networks less well", 100 * taken, _cores(threads),
    )  # fmt: skip
    return round(taken, 2)


def share_taken(busy: Mapping[int, float], core_of: Mapping[int, str], threads: int) -> float:
    """How much of the cores that so many threads need is taken, from 0 to 1.

    Parameters
    ----------
    busy
        Processor -> share of the time in which it worked.
    core_of
        Processor -> name of the core that it is a hardware thread of.
    """
    cores: dict[str, float] = {}
    for processor, share in busy.items():
        cores[core_of[processor]] = min(1.0, cores.get(core_of[processor], 0.0) + share)
    needed = min(threads, len(cores))
    free = sum(1 - taken for taken in cores.values())
    return max(0.0, needed - free) / needed


def _look() -> tuple[dict[int, float], dict[int, str]]:
    """What :func:`share_taken` wants to know, of the processors that this process may use; takes a second."""
    per_cent = psutil.cpu_percent(interval=_LOOK, percpu=True)
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(len(per_cent)))
    busy = {i: share / 100 for i, share in enumerate(per_cent) if i in ours}
    return busy, {i: core for core, processors in cores_of(busy).items() for i in processors}


def _patience() -> float:
    said = os.environ.get(PATIENCE, "")
    try:
        seconds = float(said or _DEFAULT_PATIENCE)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{PATIENCE} is {said!r}; allowed: seconds, 0 or more")
    return seconds


def _cores(threads: int) -> str:
    return "core that it needs" if threads == 1 else f"{threads} cores that it needs"
