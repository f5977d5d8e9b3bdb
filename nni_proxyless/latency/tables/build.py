"""Build a lookup table: what every operation of a space takes on the target.

Four methods. ``networks``: whole networks run, so drawn that all candidates have their turn in every round, and their
operations are timed where they stand. What a network takes when nobody looks, less the sum of its operations, is the table's
``constant``; looking costs some microseconds per operation, so that of a small network it may be negative. ``isolated``: operations
are timed one by one, in turns; it needs no space that runs as a whole, and its sums read low. ``fit``: whole networks are timed
and nothing else, and rows are fitted to that (``fit_networks.py``); what all networks share is in the ``constant``. It is for
runtimes that cannot be looked into, or that merge operations. ``profile``: the same, and the runtime is asked what it says of its nodes,
so that rows come near to that and fewer networks do (``profiled.py``).

What was timed is kept in a file while it lasts: a build that was killed goes on where it was.
"""

from __future__ import annotations

import datetime
import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast, get_args

from nni.nas.nn.pytorch import Cell, ModelSpace

from ..digits import significant
from ..estimators.device import DeviceEstimator, Measurement
from ..estimators.timing import spread, wait_policy_of
from ..operation import Operation, Shape, choice_of_shapes, shape_text, trace_operations
from ..value_tracing import is_open
from .drift import without_drift
from .fit_networks import NORMAL_P95, fit_networks, fitted_operations
from .kept_timings import KeptTimings, Run, digests_in
from .lookup_table import LookupTable
from .time_in_chunks import CHUNK, TimesNetworks, in_turn, time_in_chunks
from .timed_networks import Networks, balanced_samples

__all__ = ["FITTED", "METHODS", "Method", "build_lookup_table", "method_for", "require_method"]

Method = Literal["networks", "isolated", "fit", "profile"]
FITTED = ("fit", "profile")
METHODS: tuple[Method, ...] = get_args(Method)
NETWORKS_PER_ROW = 2  # to fit to; see fit_networks.py
FEWEST = 10
DRIFT_CHECKS = 10  # runs of the first entry, at the beginning and at the end


def build_lookup_table(
    space: ModelSpace,
    input_shape: Shape,
    estimator: DeviceEstimator | TimesNetworks,
    *,
    method: Method | None = None,
    networks: int | None = None,
    description: Mapping[str, Any] | None = None,
    partial: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LookupTable:
    """Measure every operation of a space.

    Parameters
    ----------
    space
        Any NNI ``ModelSpace`` of ``LayerChoice``, ``Repeat`` and ``InputChoice``. Not changed.
    input_shape
        Of one sample, (channels, height, width).
    estimator
        Where and how to measure. Each candidate runs ``estimator.repeats`` times at every place where it may stand; with ``fit``
        each network runs so often.
    method
        See above. None: :func:`method_for` the estimator and the space.
    networks
        How many to fit to. None: two per row, or as many as four minutes allow. With another method there is no choice.
    description
        ``{'name': …, 'arguments': {…}}`` of the space, for the head of the table.
    partial
        File that holds what was timed until the table is there; if it exists and is of the same build, the build goes on
        with it, otherwise it is begun anew, and a file of another build is set aside. Removed by the caller once the table is written.
    progress
        Called after every step with the number of steps done and in all; with ``fit`` a step is a network.

    Raises
    ------
    ValueError
        Unknown method; or the space does not run on that shape, or holds choices whose cost would be missed.
    """
    method = method_for(estimator, space) if method is None else method
    require_method(estimator, space, method, networks)
    if method in FITTED:
        return _fitted(space, input_shape, estimator, method, networks, description, partial, progress)
    estimator = cast(DeviceEstimator, estimator)
    keys = list(_operations(space, input_shape, method))
    open_steps = _whole_networks if method == "networks" else _one_by_one
    conditions = {**estimator.conditions, "resolution": shape_text(input_shape[1:] or input_shape)}
    settings = {"method": method, "repeats": estimator.repeats, "warmup": estimator.warmup}
    same = {"conditions": conditions, **settings, **_programs(estimator), "keys": keys}
    kept = KeptTimings(partial, same, ["", "first", *keys])
    with open_steps(space, input_shape, estimator) as steps:
        if not kept.runs:
            kept.add(_first_entry(steps))
        for i in range(len(kept.runs) - 1, len(steps)):
            kept.add(steps[i]())
            if progress is not None:
                progress(i + 1, len(steps))
        at_end = _first_entry(steps)

    runs = kept.runs[1:]
    if method == "isolated":  # a step is a single operation there, and a round is what shares one speed of the machine
        runs = [list(itertools.chain(*runs[i : i + len(keys)])) for i in range(0, len(runs), len(keys))]
    times, drifts = without_drift([[(key, ms) for key, ms in run if key] for run in runs])
    beside = [ms / d for run, d in zip(runs, drifts, strict=True) for key, ms in run if not key]
    at_start = kept.runs[0]
    drift = statistics.median(ms for _, ms in at_end) / statistics.median(ms for _, ms in at_start)
    return LookupTable(
        {key: Measurement.of(times[key]) for key in keys},
        conditions,
        measured={
            "date": datetime.date.today().isoformat(),
            **settings,
            **_policy_of(estimator),
            "drift": round(drift, 3),
            "unrest": round(spread(drifts), 3),
        },
        space=None if description is None else {**description, "input_shape": list(input_shape)},
        constant=Measurement.of(beside) if beside else None,
    )


def require_method(estimator: TimesNetworks, space: ModelSpace, method: str, networks: int | None) -> None:
    """Refuse what cannot be built, before anything is waited for or measured.

    Raises
    ------
    ValueError
        Unknown method, one that the runtime or the space cannot be measured with, or a number of networks that is none for the method.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; allowed: {', '.join(METHODS)}")
    if networks is not None and method not in FITTED:
        raise ValueError(
            f"networks is {networks}, but method is {method!r}; allowed: a number of networks with methods {' and '.join(map(repr, FITTED))} only"
        )
    if networks is not None and networks < FEWEST:
        raise ValueError(f"networks is {networks}; allowed: {FEWEST} or more")
    if method == "networks" and (why := _why_not_inside(space)) is not None:
        raise ValueError(f"method is 'networks', but {why}; allowed: methods 'fit', 'isolated'")
    if method == "networks" and isinstance(estimator, DeviceEstimator):
        estimator.require_inside()
    if method == "profile" and not getattr(estimator, "profiles", False):
        raise ValueError(
            f"runtime {estimator.conditions['runtime']} does not say what the parts of a network take, as method 'profile' asks it to; "
            f"allowed with it: method {method_for(estimator, space)!r}"
        )


def method_for(estimator: TimesNetworks, space: ModelSpace) -> Method:
    """How to build a table: the operations of eager torch can be timed where they stand, those of other runtimes cannot.

    Nor can those of a space that computes more than its networks do, or does not hold their layers.
    """
    inside = getattr(estimator, "runtime", "torch") == "torch" and _why_not_inside(space) is None
    return "networks" if inside else "fit"


def _why_not_inside(space: ModelSpace) -> str | None:
    """Why operations cannot be timed where they stand in a space; None: they can."""
    if (label := choice_of_shapes(space)) is not None:
        return (
            f"choice {label!r} gives another shape with each candidate: the space computes more there than its networks do, so times "
            "inside of it are not theirs"
        )
    for name, module in space.named_modules():
        if is_open(module):
            return f"arguments of module {name!r} are choices: the space does not hold the layers of its networks"
        if isinstance(module, Cell) and module.op_candidates_factory is not None:
            return f"module {name!r} is a Cell that makes its operations for each input: the space does not hold them"
    return None


def _fitted(
    space: ModelSpace,
    input_shape: Shape,
    estimator: TimesNetworks,
    method: Method,
    n: int | None,
    description: Mapping[str, Any] | None,
    partial: str | Path | None,
    progress: Callable[[int, int], None] | None,
) -> LookupTable:
    operations = trace_operations(space, input_shape)
    wanted = max(CHUNK, NETWORKS_PER_ROW * len(fitted_operations(operations))) if n is None else n
    samples = in_turn(space, operations, wanted)
    if len(samples) < 2:
        raise ValueError(
            "the space has one network, and no rows can be fitted to that; allowed: 2 networks or more, or method 'isolated'"
        )
    conditions = {**estimator.conditions, "resolution": shape_text(input_shape[1:] or input_shape)}
    settings = {"method": method, "repeats": estimator.repeats, "warmup": estimator.warmup}
    by_statistic = time_in_chunks(
        space, samples, input_shape, estimator, all_of_them=n is not None, partial=partial, progress=progress,
        profiled=operations if method == "profile" else (),
        build={"conditions": conditions, **settings, **_programs(estimator), "operations": [(op.key, op.conditions) for op in operations]},
    )  # fmt: skip
    if all(len({*timed.ms}) == 1 for timed in by_statistic):
        if partial is not None:
            Path(partial).unlink(missing_ok=True)  # or the next build would go on with it
        raise ValueError(
            f"all {len(samples)} networks took {significant(by_statistic[0].ms[0], 4)} ms, to the last digit: rows cannot be told from that. "
            "Allowed: the time of the network that is given, with digits enough to tell networks apart"
        )
    if method == "profile" and not by_statistic[0].profile:
        raise ValueError(
            f"runtime {conditions['runtime']} does not say which operations its nodes are of; allowed for this space: method 'fit'"
        )
    fits = [(fit_networks(operations, t.samples, t.ms, profile=t.profile), t) for t in by_statistic]
    fit, timed = min(fits, key=lambda pair: pair[0].mean_error)
    n = len(timed.samples)
    return LookupTable(
        {
            key: Measurement(ms, ms + NORMAL_P95 * error, fit.counts[key] or n, predicted=not fit.counts[key])
            for key, (ms, error) in fit.rows.items()
        },
        conditions,
        measured={
            "date": datetime.date.today().isoformat(),
            **settings,
            "networks": n,
            "statistic": timed.statistic,
            "ridge": fit.ridge,
            "mean_error": significant(fit.mean_error, 4),
            "worst_error": significant(fit.worst_error, 4),
            "spearman": significant(fit.spearman, 4),
            **({"profiled": len(timed.profile)} if method == "profile" else {}),
            **_policy_of(estimator),
            "drift": round(timed.drift, 3),
            "unrest": round(timed.unrest, 3),
        },
        space=None if description is None else {**description, "input_shape": list(input_shape)},
        constant=Measurement(fit.constant_ms[0], fit.constant_ms[0] + NORMAL_P95 * fit.constant_ms[1], n),
        in_constant={op.key for op in operations if not op.conditions},
        references=timed.references,
    )


def _policy_of(estimator: TimesNetworks) -> dict[str, str]:
    if not isinstance(estimator, DeviceEstimator) or estimator.elsewhere:
        return {}
    return wait_policy_of(estimator.device, estimator.threads)


def _programs(estimator: TimesNetworks) -> dict[str, dict[str, str]]:
    """What a build by a program depends on beside the conditions, which have the words of its command."""
    found = digests_in(getattr(estimator, "options", {}).get("command"))
    return {"programs": found} if found else {}


def _operations(space: ModelSpace, input_shape: Shape, method: str) -> dict[str, Operation]:
    """By key; but for what runs beside modules, which only ``isolated`` can time, and only if it computes anything."""
    found = trace_operations(space, input_shape)
    return {op.key: op for op in found if not op.in_constant or (method == "isolated" and op.computes)}


def _first_entry(steps: Sequence[Callable[[], Run]]) -> Run:
    """What the first step times, several times over: its operation, or its whole network."""
    return [("first", sum(ms for _, ms in steps[0]())) for _ in range(DRIFT_CHECKS)]


@contextmanager
def _whole_networks(
    space: ModelSpace, input_shape: Shape, estimator: DeviceEstimator
) -> Iterator[list[Callable[[], Run]]]:
    """One step is one network."""
    with Networks.on(estimator, space, input_shape) as networks:
        samples = balanced_samples(space, networks.operations, estimator.repeats)

        def step(sample: Mapping[str, Any]) -> Run:
            _, operations = networks.run(sample)
            return [*operations, ("", networks.run_whole(sample) - sum(ms for _, ms in operations))]

        for sample in balanced_samples(space, networks.operations, min(estimator.warmup, 2)):
            step(sample)
        yield [lambda sample=sample: step(sample) for sample in samples]  # type: ignore[misc]  # bound now, not later


@contextmanager
def _one_by_one(space: ModelSpace, input_shape: Shape, estimator: DeviceEstimator) -> Iterator[list[Callable[[], Run]]]:
    """One step is one operation; in rounds."""
    operations = list(_operations(space, input_shape, "isolated").values())
    with estimator.runs(operations) as runs:

        def step(i: int) -> Run:
            return [(operations[i].key, runs[i]())]

        estimator.warm_up(runs)
        yield [lambda i=i: step(i) for _ in range(estimator.repeats) for i in range(len(operations))]  # type: ignore[misc]  # as above
