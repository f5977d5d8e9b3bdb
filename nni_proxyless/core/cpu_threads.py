"""Set how OpenMP threads wait and how many there are; both are read once, when the libraries of torch load.

OpenMP's threads spin while they wait, by default. As long as every thread has a core, that saves a microsecond; where
another program runs, the threads that wait take the cores away from the one that they wait for, and a step takes a hundred times
as long. And a library that counts cores does not know of a container's quota, nor of the trials and processes beside it.

So a command puts :func:`environment` into its own before anything imports torch. What the user has set stays. Standard library only.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

__all__ = [
    "cgroup_quota",
    "cores_of",
    "environment",
    "manager_url",
    "say_if_other_threads",
    "threads_in_words",
    "trials_at_a_time",
    "usable_cores",
    "use",
]

_logger = logging.getLogger(__name__)

POLICY, THREADS = "OMP_WAIT_POLICY", "OMP_NUM_THREADS"
_OURS = "NNI_PROXYLESS_OMP_NUM_THREADS"
"""What :func:`environment` has said of OMP_NUM_THREADS. A command that another one has started tells by it that the number is
not the user's, and finds its own: one may be a trial, the other not."""

_PATIENCE = 5.0  # seconds; NNI's manager, on this machine, answers within milliseconds


def environment() -> dict[str, str]:
    """Variables that make OpenMP wait passively, with as many threads as this process has cores for; for its children as well.

    Where nothing but the machine limits them, their number is left to torch, which takes one per core. Nothing is said once torch
    is loaded: then this is somebody else's program.
    """
    if _is_too_late():
        return {}
    found = {} if os.environ.get(POLICY) else {POLICY: "PASSIVE"}
    if not _is_given():
        number = max(1, usable_cores() // (trials_at_a_time() * _local_world_size()))
        if number < _cores() or THREADS in os.environ:
            found |= {THREADS: str(number), _OURS: str(number)}
    return found


def _is_too_late() -> bool:
    return "torch" in sys.modules


def use(threads: int | None, processes: int = 1) -> int:
    """Let torch compute with so many threads from now on; returns their number.

    Parameters
    ----------
    threads
        Of each process; None: those that torch has now, dealt out among the processes, unless the user has set their number.
    processes
        That one started here trains with, itself included.
    """
    import torch

    if threads is None:
        now = torch.get_num_threads()
        threads = now if processes == 1 or _is_given() else max(1, now // processes)
    torch.set_num_threads(threads)
    if processes > 1:
        # Given from now on, to those as well: else Lightning counts the machine's cores and sets its own number.
        os.environ[THREADS] = str(threads)
        os.environ.pop(_OURS, None)
    return threads


def threads_in_words(threads: int, processes: int = 1) -> str:
    """Threads and usable cores, for the log: the line shows when too many threads are set."""
    each, cores = "" if processes == 1 else f" in each of {processes} processes", usable_cores()
    return f"{threads}{each}; this process may use {cores} core{'' if cores == 1 else 's'}"


def say_if_other_threads(began_with: int | None) -> None:
    """Warn when a run resumes with another number of threads: sums are then rounded in another order.

    Parameters
    ----------
    began_with
        None if it was not recorded.
    """
    import torch

    if began_with is not None and began_with != (now := torch.get_num_threads()):
        _logger.warning(
            "it goes on with %d CPU threads and began with %d, so the result will not be the same to the last bit; for that: "
            "OMP_NUM_THREADS=%d", now, began_with, began_with,
        )  # fmt: skip


def _is_given() -> bool:
    """Whether the number of threads is the user's, or that of a process that divides its own."""
    if os.environ.get("MKL_NUM_THREADS"):  # torch takes it for its own
        return True
    said = os.environ.get(THREADS)
    if not said or said == os.environ.get(_OURS):
        return False
    return not _is_torchrun_s(said)


def _is_torchrun_s(said: str) -> bool:
    """Whether torchrun has set 1 for its processes because nobody had set anything: then its own environment began without it."""
    if said != "1" or _local_world_size() == 1 or "TORCHELASTIC_RUN_ID" not in os.environ:
        return False
    try:
        began = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:  # no Linux: nobody can tell, and one thread is always right, if slow
        return False
    return not any(variable.startswith(f"{THREADS}=".encode()) for variable in began.split(b"\0"))


# -- cores ---------------------------------------------------------------------------------------------------------


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may keep busy: those that it may run on, at most as many as its quota pays for, at least 1.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` are.
    """
    quota = cgroup_quota(root)
    cores = _cores(root)
    # Rounded down: a thread too many stops all of them for the rest of each period.
    return cores if quota is None else max(1, min(cores, int(quota)))


def _cores(root: Path = Path("/")) -> int:
    """Cores of the processors that this process may run on; two hardware threads of one core count once, as torch's MKL counts them."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    return len(cores_of(os.sched_getaffinity(0), root))


def cores_of(processors: Iterable[int], root: Path = Path("/")) -> dict[str, list[int]]:
    """The processors, which are hardware threads, by the core that they are of."""
    found: dict[str, list[int]] = {}
    for processor in processors:
        found.setdefault(_siblings(root, processor), []).append(processor)
    return found


def _siblings(root: Path, processor: int) -> str:
    try:
        path = root / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return str(processor)


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """How many cores the control groups of this process pay for: the least of its own and all above it; None if none limits it.

    Read are ``cpu.max`` of version 2, ``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` of version 1.
    """
    limits = []
    for folder, mount, version in _groups(root):
        while True:
            if (limit := _limit(folder, version)) is not None:
                limits.append(limit)
            if folder == mount or mount not in folder.parents:
                break
            folder = folder.parent
    return min(limits, default=None)


def _groups(root: Path) -> Iterator[tuple[Path, Path, int]]:
    """Folder of this process's group, folder where its hierarchy is mounted, version of the interface."""
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    # 7:cpu,cpuacct:/user.slice, and 0::/user.slice of version 2
    of = {name: path for number, names, path in (line.split(":", 2) for line in groups if line.count(":") >= 2)
          for name in ([""] if number == "0" else names.split(","))}  # fmt: skip
    for line in mounts:
        # 35 25 0:30 /docker/4f2a /sys/fs/cgroup/cpu rw,nosuid shared:14 - cgroup cgroup rw,cpu,cpuacct
        before, _, after = line.partition(" - ")
        where, what = before.split(), after.split()
        if len(where) < 5 or len(what) < 3:
            continue
        version = 2 if what[0] == "cgroup2" else 1 if what[0] == "cgroup" and "cpu" in what[2].split(",") else 0
        path = of.get({2: "", 1: "cpu"}.get(version, "none"))
        if path is None:
            continue
        mount = root / where[4].lstrip("/")
        # Only what lies below the mounted folder can be seen; from inside a container paths may begin above it.
        shown = Path(path).relative_to(where[3]) if Path(path).is_relative_to(where[3]) else Path(path.lstrip("/"))
        inside = mount / shown
        yield (inside if ".." not in shown.parts and inside.is_dir() else mount), mount, version


def _limit(folder: Path, version: int) -> float | None:
    names = ("cpu.max",) if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        quota, period = " ".join((folder / name).read_text(encoding="utf-8") for name in names).split()
        limit = float(quota) / float(period)  # "max 100000" and "-1 100000": no limit
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return limit if limit > 0 else None


# -- who shares them -----------------------------------------------------------------------------------------------


def _local_world_size() -> int:
    """Processes that torchrun has started on this machine."""
    said = os.environ.get("LOCAL_WORLD_SIZE", "")
    return int(said) if said.isdigit() and int(said) > 0 else 1


def trials_at_a_time() -> int:
    """Trials of this one's experiment that run on this machine at a time; 1 outside NNI, or where its manager does not say.

    On another machine a trial cannot ask the manager. There it has the machine for itself, if there are as many machines as
    trials at a time.
    """
    if os.environ.get("NNI_PLATFORM") != "local" or (url := manager_url("experiment")) is None:
        return 1
    import urllib.request  # takes a while, and nobody else needs it here

    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:
            return _concurrency(json.loads(answer.read()))
    except (OSError, ValueError):
        return 1


def _concurrency(profile: Any) -> int:
    """Of an experiment's profile, as NNI's manager gives it."""
    params = profile.get("params") if isinstance(profile, dict) else None
    said = [params.get(name) for name in ("trialConcurrency", "maxTrialNumber")] if isinstance(params, dict) else []
    return max(1, min((n for n in said if isinstance(n, int)), default=1))


def manager_url(what: str) -> str | None:
    """Where NNI's manager, as a trial on its machine sees it, tells of something; None where NNI says nothing of a manager."""
    # http://localhost:8080/[prefix/]env/local-env/TRIAL
    root, found, _ = os.environ.get("NNI_TRIAL_COMMAND_CHANNEL", "").partition("/env/")
    return f"{root}/api/v1/nni/{what}" if found else None
