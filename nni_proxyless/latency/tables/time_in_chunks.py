"""Time many whole networks, each prepared for its runtime, some at a time.

Networks that are timed in turns must all be there at once, and hundreds of them need more memory than there is. So they come in
chunks, with the same few networks in every one of them: what these take from chunk to chunk is the drift of the machine, and is
divided out. Within a chunk median polish does it (``drift.py``).

Which of the timings of a network counts depends on the machine. Where others take it away for milliseconds, the least of all is the
only true one (ImageNet space in ONNX Runtime beside seven other processes: networks left out of a fit are 0.6 % off by the minimum, 11 % by the
10th percentile); where its clock changes, a percentile of what is left after the drift. So there are several numbers per network, and the fit
takes those that it fits best. All are brought to the level of medians, as everything else here is timed in medians. What remains is not noise of the timing: a network that is prepared anew has
its weights elsewhere in memory, and is faster or slower by some per cent for as long as it is there (``small`` at 32x32 in ONNX
Runtime: 2.4 % on average, where two halves of one run differ by 0.8 %). More networks help against that, more timings do not.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from nni.nas.nn.pytorch import ModelSpace
from torch import nn

from ...core.freezing import freeze
from ..estimators.device import Measurement
from ..estimators.timing import spread
from ..operation import Operation, Shape
from .drift import without_drift
from .kept_timings import KeptTimings, Run
from .profiled import owners, per_operation, together
from .timed_networks import balanced_samples
from .yaml_format import TimedNetwork

__all__ = ["CHUNK", "TimedNetworks", "TimesNetworks", "in_turn", "time_in_chunks"]

REFERENCES = 4  # in every chunk
CHUNK = 24  # networks at once, the references among them
STATISTICS = {"minimum": (0, False), "10th percentile": (10, True), "35th percentile": (35, True)}
"""Name -> percentile of a network's timings, and whether the drift from round to round is divided out before."""
LIMIT_S = 240.0  # of timing, unless somebody says how many networks
LONG_S = 60.0  # of a chunk
PROFILE = "profile "  # before a key, in what is kept

_logger = logging.getLogger(__name__)


class TimesNetworks(Protocol):
    """What is needed of an estimator: :class:`~nni_proxyless.latency.DeviceEstimator`, whatever its runtime."""

    repeats: int
    warmup: int

    @property
    def conditions(self) -> Mapping[str, object]: ...

    def time_in_turns(
        self, operations: Sequence[tuple[nn.Module, Shape]], *, repeats: int | None = None,
        each: Callable[[list[float]], None] | None = None, profiled: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> list[list[float]]: ...  # fmt: skip


@dataclass(frozen=True)
class TimedNetworks:
    """What :func:`time_in_chunks` has found.

    Attributes
    ----------
    statistic
        Which of the timings counts, one of :data:`STATISTICS`.
    samples, ms
        Architectures, and what each takes.
    references
        Those that were timed in every chunk: with them, a later run can tell how the machine has drifted since.
    drift
        How much longer they took in the last chunk than in the first.
    unrest
        Of the machine's speed from round to round, :func:`..estimators.timing.spread`.
    profile
        Key -> what the runtime says that an operation takes, if it was asked.
    """

    statistic: str
    samples: list[dict[str, Any]]
    ms: list[float]
    references: list[TimedNetwork]
    drift: float
    unrest: float
    profile: Mapping[str, float]


def in_turn(space: ModelSpace, operations: Sequence[Operation], n: int) -> list[dict[str, Any]]:
    """Architectures in which all candidates have their turn, no two of which run the same operations; fewer if the space has no more.

    The first of them are the same for every ``n``.
    """
    found: dict[tuple[bool, ...], dict[str, Any]] = {}
    rounds_without = 0
    for seed in itertools.count():
        before = len(found)
        for sample in balanced_samples(space, operations, 1, seed):
            found.setdefault(tuple(op.runs_in(sample) for op in operations), sample)
        rounds_without = rounds_without + 1 if len(found) == before else 0
        if len(found) >= n or rounds_without == 50:
            break
    return list(found.values())[:n]


def time_in_chunks(
    space: ModelSpace,
    samples: Sequence[Mapping[str, Any]],
    input_shape: Shape,
    estimator: TimesNetworks,
    *,
    all_of_them: bool,
    profiled: Sequence[Operation] = (),
    partial: str | Path | None = None,
    build: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[TimedNetworks]:
    """Time the networks of these architectures, and read the timings by each of :data:`STATISTICS`.

    The log says how long it will take as soon as the first chunk is timed.

    Parameters
    ----------
    samples
        All different.
    estimator
        Each network is timed ``estimator.repeats`` times, after ``estimator.warmup`` runs.
    all_of_them
        However long it takes. False: as many chunks as four minutes allow, one at least.
    profiled
        Operations of the space; the runtime is asked what they take, see ``profiled.py``.
    partial, build
        As :class:`.kept_timings.KeptTimings` has them: what was timed is kept round by round, and a round is taken over if it is of the
        networks of its chunk.
    progress
        Called with the number of networks that are timed and that are to be.

    Raises
    ------
    ValueError
        A timing that is not greater than 0 and finite; the message names the network.
    """
    step = CHUNK - REFERENCES
    shared = list(range(min(REFERENCES, len(samples))))
    others = list(range(len(shared), len(samples)))
    every_chunk = [shared + others[i : i + step] for i in range(0, max(1, len(others)), step)]
    same = {**(build or {}), "networks": samples, "all_of_them": all_of_them, "step": "round"}
    keys = ["seconds", *(str(i) for i in range(len(samples))), *dict.fromkeys(PROFILE + op.key for op in profiled)]
    kept = KeptTimings(partial, same, keys)

    def chunks_to_time() -> list[list[int]]:
        """As far as the time of the first is known and limits them."""
        if all_of_them or len(kept.runs) < estimator.repeats:
            return every_chunk
        return _within(every_chunk, LIMIT_S / _seconds(kept.runs[: estimator.repeats]))

    of_the_first = kept.runs[: estimator.repeats]
    n_kept = _n_taken_over(of_the_first, every_chunk, estimator.repeats)
    if n_kept == estimator.repeats:
        n_kept = _n_taken_over(kept.runs, chunks_to_time(), estimator.repeats)
    kept.cut(n_kept)
    allowed = "" if all_of_them else f", or as many as {LIMIT_S / 60:.0f} minutes allow"
    _logger.info("latencies: whole networks are timed, %d of them%s", len(samples), allowed)
    while True:
        done, rounds = divmod(len(kept.runs), estimator.repeats)
        chunks = chunks_to_time()
        total = len({i for chunk in chunks for i in chunk})
        if progress is not None:
            progress(len({i for chunk in chunks[:done] for i in chunk}), total)
        if done == 1:
            left = _seconds(kept.runs[: estimator.repeats]) * (len(chunks) - 1)
            _logger.info("latencies: %d networks in all, about %.0f s more", total, left)
        if done >= len(chunks):
            break
        _time_chunk(
            chunks[done],
            space,
            samples,
            input_shape,
            estimator,
            estimator.repeats - rounds,
            kept,
            () if rounds else profiled,
        )
    profile = together(
        (key.removeprefix(PROFILE), ms) for run in kept.runs for key, ms in run if key.startswith(PROFILE)
    )
    steps = [[(key, ms) for key, ms in run[1:] if not key.startswith(PROFILE)] for run in kept.runs]
    runs = [list(itertools.chain(*steps[i : i + estimator.repeats])) for i in range(0, len(steps), estimator.repeats)]
    plain = [dict(sample) for sample in samples]
    return [_together(name, plain, chunks, runs, profile) for name in STATISTICS]


def _n_taken_over(rounds: Sequence[Run], chunks: Sequence[Sequence[int]], repeats: int) -> int:
    """How many of these rounds, from the first on, are of the networks of their chunks."""
    expected = [["seconds", *map(str, chunk)] for chunk in chunks for _ in range(repeats)]
    for n, (keys, run) in enumerate(zip(expected, rounds, strict=False)):
        if [key for key, _ in run if not key.startswith(PROFILE)] != keys:
            return n
    return min(len(rounds), len(expected))


def _within(chunks: Sequence[list[int]], times_the_first: float) -> list[list[int]]:
    """The first chunk, and others as far as so many times its time allow; the last may be cut short, but not to references alone."""
    left = int(times_the_first * len(chunks[0])) - len(chunks[0])
    found = [chunks[0]]
    for chunk in chunks[1:]:
        if left < 2 * REFERENCES:
            break
        found.append(chunk[:left])
        left -= len(chunk)
    return found


def _time_chunk(
    chunk: Sequence[int], space: ModelSpace, samples: Sequence[Mapping[str, Any]], input_shape: Shape, estimator: TimesNetworks,
    repeats: int, kept: KeptTimings, profiled: Sequence[Operation],
) -> None:  # fmt: skip
    """Time the networks of these numbers in so many rounds, and keep each. The log says after the second how long it will be, if it is long."""
    networks = [(freeze(space, samples[i]), input_shape) for i in chunk]
    ends = [time.perf_counter()]
    said: Run = []

    def note(number: int, profile: Mapping[str, float]) -> None:
        of = owners(profiled, networks[number][0], input_shape, samples[chunk[number]])
        said.extend((PROFILE + key, ms) for key, ms in per_operation(profile, of).items())

    def keep(times: list[float]) -> None:
        run = [(str(i), float(ms)) for i, ms in zip(chunk, times, strict=True)]
        _require_times(run, samples)
        ends.append(time.perf_counter())
        kept.add([("seconds", ends[-1] - ends[-2]), *run, *said])
        said.clear()
        if len(ends) == 3 and (left := (ends[2] - ends[1]) * (repeats - 2)) > LONG_S:
            _logger.info("latencies: %d networks take about %.0f s more, %d rounds", len(chunk), left, repeats - 2)

    asked = {"profiled": note} if profiled else {}
    estimator.time_in_turns(networks, repeats=repeats, each=keep, **asked)


def _seconds(rounds: Sequence[Run]) -> float:
    return max(sum(run[0][1] for run in rounds), 1e-9)


def _require_times(run: Run, samples: Sequence[Mapping[str, Any]]) -> None:
    for i, ms in run:
        if not 0 < ms < float("inf"):
            raise ValueError(
                f"the network {dict(samples[int(i)])} was timed as {ms} ms; allowed: a finite number greater than 0"
            )


def _together(
    statistic: str, samples: list[dict[str, Any]], chunks: Sequence[Sequence[int]], runs: Sequence[Run],
    profile: Mapping[str, float],
) -> TimedNetworks:  # fmt: skip
    """One number per network, drift within and between chunks divided out."""
    percentile, without = STATISTICS[statistic]
    low: list[dict[str, float]] = []
    above: list[float] = []
    speeds: list[list[float]] = []
    for chunk, run in zip(chunks, runs, strict=True):
        times, drifts = without_drift([run[i : i + len(chunk)] for i in range(0, len(run), len(chunk))])
        plain: dict[str, list[float]] = {}
        for i, ms in run:
            plain.setdefault(i, []).append(ms)
        low.append({i: float(np.percentile(found, percentile)) for i, found in (times if without else plain).items()})
        above.append(statistics.median(statistics.median(found) / low[-1][i] for i, found in plain.items()))
        speeds.append(drifts)
    shared = [str(i) for i in chunks[0] if all(str(i) in found for found in low)]
    center = {i: statistics.median(found[i] for found in low) for i in shared}
    speed = [statistics.median(found[i] / center[i] for i in shared) for found in low]
    level = min(above)  # of the chunk that others disturbed least
    found_ms: dict[str, list[float]] = {}
    for found, of_chunk in zip(low, speed, strict=True):
        for i, value in found.items():
            found_ms.setdefault(i, []).append(level * value / of_chunk)
    order = sorted(found_ms, key=int)
    repeats = len(runs[0]) // len(chunks[0])
    return TimedNetworks(
        statistic,
        [samples[int(i)] for i in order],
        [statistics.median(found_ms[i]) for i in order],
        [
            TimedNetwork(
                samples[int(i)],
                Measurement(statistics.median(found_ms[i]), max(found_ms[i]), repeats * len(found_ms[i])),
            )
            for i in shared[:REFERENCES]
        ],
        speed[-1] / speed[0],
        spread([d * of_chunk for of_chunk, drifts in zip(speed, speeds, strict=True) for d in drifts]),
        profile,
    )
