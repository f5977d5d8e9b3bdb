"""Building a table: both methods, going on after a kill, drift; and a table held against whole networks."""

from __future__ import annotations

import itertools
import json
import random
import statistics

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice

from nni_proxyless.core.errors import UserError
from nni_proxyless.latency import (
    Calibration,
    DeviceEstimator,
    LatencyProfiler,
    LookupTable,
    Measurement,
    TableError,
    build_lookup_table,
    check_table,
    trace_operations,
)
from nni_proxyless.latency.calibration import fit_calibration
from nni_proxyless.latency.tables.check import agreement, draw, report
from nni_proxyless.latency.tables.drift import without_drift
from nni_proxyless.latency.tables.timed_networks import Networks, balanced_samples, random_samples
from nni_proxyless.search.latency_table import build_table

from .spaces import Timed


def all_samples() -> list[dict]:
    choices = {"one": ["wide", "narrow", "skip"], "inner": [0, 1], "two": [0, 1], "body": [0, 1], "depth": [1, 2]}
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


# -- networks --------------------------------------------------------------------------------------------------------------


def test_a_network_runs_its_own_operations_and_says_how_long_each_took():
    """For all 48 architectures: the keys that the trace foresees, in order of time, and no more than the whole takes."""
    with Networks.on(DeviceEstimator(runtime="torch"), Timed(), (8,)) as networks:
        for sample in all_samples():
            total, operations = networks.run(sample)
            assert sorted(key for key, _ in operations) == sorted(
                op.key for op in networks.operations if op.runs_in(sample)
            )
            assert all(ms > 0 for _, ms in operations)
            assert sum(ms for _, ms in operations) < total
            assert networks.run_whole(sample) > 0


def test_the_space_is_left_as_it_is():
    """No hook, no mode, no choice of it changes; what is timed is a copy."""
    space = Timed().train()
    chosen = [(m._dry_run_choice if isinstance(m, LayerChoice) else None) for m in space.modules()]
    build_lookup_table(space, (8,), DeviceEstimator(runtime="torch", repeats=2, warmup=0))
    assert all(m.training and not m._forward_hooks and not m._forward_pre_hooks for m in space.modules())
    assert [(m._dry_run_choice if isinstance(m, LayerChoice) else None) for m in space.modules()] == chosen
    assert space.body._dry_run_depth == 1


def test_every_candidate_has_its_turn_in_every_round():
    space = Timed()
    samples = balanced_samples(space, trace_operations(space, (8,)), repeats=10)
    for r in range(10):
        assert {s["one"] for s in samples[3 * r : 3 * r + 3]} == {"wide", "narrow", "skip"}
    operations = trace_operations(space, (8,))
    for key in {op.key for op in operations}:
        assert sum(any(op.runs_in(s) for op in operations if op.key == key) for s in samples) >= 10, key
    assert samples == balanced_samples(space, trace_operations(space, (8,)), repeats=10)


def test_random_networks_are_different_ones():
    samples = random_samples(Timed(), 20, seed=3)
    assert len({json.dumps(s, sort_keys=True) for s in samples}) == 20
    assert samples == random_samples(Timed(), 20, seed=3) != random_samples(Timed(), 20, seed=4)
    assert len(random_samples(Timed(), 100, seed=0)) == 48, "the space has no more"


# -- building --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["networks", "isolated"])
def test_a_table_has_one_row_per_operation_and_says_how_it_was_measured(tmp_path, method):
    space = Timed()
    steps: list[tuple[int, int]] = []
    table = build_lookup_table(
        space, (8,), DeviceEstimator(runtime="torch", repeats=6, warmup=1, batch=2), method=method,
        description={"name": "tests:Space", "arguments": {}}, progress=lambda *done: steps.append(done),
    )  # fmt: skip
    keys = {op.key for op in trace_operations(space, (8,))}
    assert set(table.rows) == keys
    assert len(keys) == 9  # the first, four kinds of block, one of them twice, Linear, ReLU, Tanh, the last
    assert all(row.count >= 6 and 0 < row.median_ms <= row.p95_ms and not row.predicted for row in table.rows.values())
    assert steps == [(i + 1, len(steps)) for i in range(len(steps))]
    assert table.measured.items() >= {"method": method, "repeats": 6, "warmup": 1}.items()
    assert table.measured["drift"] > 0
    assert table.measured["unrest"] >= 1
    assert table.conditions["batch"] == 2
    assert table.conditions["processes"] == 1
    assert table.conditions["resolution"] == "8"
    assert table.space == {"name": "tests:Space", "arguments": {}, "input_shape": [8]}
    assert (table.constant is not None) == (method == "networks")
    table.write(tmp_path / "t.yml")
    assert LookupTable.read(tmp_path / "t.yml").space == table.space


def test_the_number_of_processes_is_a_condition(monkeypatch):
    """A job of two processes, as torchrun starts it, measures under other conditions than a search of one asks for."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    table = build_lookup_table(Timed(), (8,), DeviceEstimator(runtime="torch", repeats=1, warmup=0))
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(TableError, match="processes is 2 in the table, 1 here"):
        table.require(DeviceEstimator(runtime="torch").conditions)


@pytest.mark.parametrize(
    ("threads", "policy", "waiting"),
    [(2, "PASSIVE", "passive"), (2, "", "as OpenMP does by itself"), (1, "PASSIVE", None)],
)
def test_a_table_of_several_threads_says_how_they_waited(threads, policy, waiting, tmp_path, monkeypatch):
    """But compares by it with no other one: tables that do not say it are read as before."""
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    estimator = DeviceEstimator(runtime="torch", repeats=1, warmup=0, threads=threads)
    build_lookup_table(Timed(), (8,), estimator, method="isolated").write(tmp_path / "t.yml")
    table = LookupTable.read(tmp_path / "t.yml")
    assert table.measured.get("waiting") == waiting
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    table.require(estimator.conditions)


class Killed(BaseException):
    """As a signal: nothing catches it."""


@pytest.mark.parametrize("method", ["networks", "isolated"])
def test_a_killed_build_goes_on_where_it_was(tmp_path, method):
    """What was timed before the kill stays to the digit, half a line is thrown away, and only the rest is timed."""
    partial = tmp_path / "t.yml.partial"
    estimator = DeviceEstimator(runtime="torch", repeats=4, warmup=0)

    def build(progress):
        return build_lookup_table(Timed(), (8,), estimator, method=method, partial=partial, progress=progress)

    def kill(done: int, total: int) -> None:
        if done == 7:
            raise Killed

    with pytest.raises(Killed):
        build(kill)
    kept = partial.read_text().split("\n")
    assert len(kept) == 1 + 1 + 7 + 1  # head, first entry, seven steps, nothing
    partial.write_text(partial.read_text() + "[[3, 0.12")
    steps: list[int] = []
    build(lambda done, total: steps.append(done))
    assert steps[0] == 8
    assert partial.read_text().split("\n")[: len(kept) - 1] == kept[:-1]


def test_a_build_whose_cheapest_network_would_take_less_than_no_time_is_refused(tmp_path):
    """As on a machine so busy that operations, looked at one by one, took ten milliseconds more than the network they are in."""
    partial, estimator = tmp_path / "t.yml.partial", DeviceEstimator(runtime="torch", repeats=4, warmup=0)

    def kill(done: int, total: int) -> None:
        if done == total - 1:
            raise Killed

    with pytest.raises(Killed):
        build_lookup_table(Timed(), (8,), estimator, partial=partial, progress=kill)
    head, first, *runs = partial.read_text().splitlines()
    busy = [json.dumps([[key, ms if key else ms - 10] for key, ms in json.loads(run)]) for run in runs]
    partial.write_text("\n".join([head, first, *busy]) + "\n")
    with pytest.raises(
        UserError, match=r"came out as -\d+\.?\d* ms, so that the cheapest network would take less than"
    ):
        build_table(Timed(), (8,), estimator, partial=partial, method="networks")
    assert not partial.exists(), "the next build begins anew"


def test_what_another_build_has_left_is_not_taken_over(tmp_path):
    partial = tmp_path / "t.yml.partial"
    build_lookup_table(Timed(), (8,), DeviceEstimator(runtime="torch", repeats=2, warmup=0), partial=partial)
    first = partial.read_text()
    steps: list[int] = []
    build_lookup_table(Timed(), (8,), DeviceEstimator(runtime="torch", repeats=2, warmup=0, batch=2), partial=partial,
                       progress=lambda done, total: steps.append(done))  # fmt: skip
    assert steps[0] == 1
    assert partial.read_text().split("\n")[0] != first.split("\n")[0]


# -- drift -----------------------------------------------------------------------------------------------------------------


def test_drift_is_divided_out():
    """t = m_k d_r, with d over a factor of 2 and one timing in ten an outlier: m to 1 %, where plain medians are 10 % off."""
    draw_ = random.Random(0)
    true = {key: 1.0 + i for i, key in enumerate("abcdefgh")}
    runs = []
    for r in range(60):
        speed = 1.0 if r < 40 else 2.0
        keys = draw_.sample(sorted(true), 5) if r < 40 else draw_.sample(sorted(true)[:5], 5)
        runs.append([(k, true[k] * speed * (3 if draw_.random() < 0.1 else draw_.uniform(0.99, 1.01))) for k in keys])
    times, drift = without_drift(runs)
    for key, m in true.items():
        assert statistics.median(times[key]) == pytest.approx(m, rel=0.01)
    assert statistics.median(drift[40:]) == pytest.approx(2.0, rel=0.01)
    plain = {key: statistics.median(ms for run in runs for k, ms in run if k == key) for key in true}
    assert max(plain[key] / m for key, m in true.items()) > 1.1


# -- checking --------------------------------------------------------------------------------------------------------------


def test_agreement_by_hand():
    """Of predictions 10 % high, 10 % low and right: bias 0, mean 2/30, worst 0.1; one of three pairs in the wrong order."""
    found = agreement([11.0, 9.0, 12.0], [10.0, 10.0 + 1e-9, 12.0])
    assert found.bias == pytest.approx(0.0, abs=1e-9)
    assert found.mean_error == pytest.approx(0.2 / 3)
    assert found.worst_error == pytest.approx(0.1)
    assert found.rmse_ms == pytest.approx((2 / 3) ** 0.5)
    assert found.kendall[0] == pytest.approx(1 / 3)
    assert found.spearman[0] == pytest.approx(0.5)
    assert found.spearman[1] <= found.spearman[0] <= found.spearman[2]


def test_a_calibration_finds_fixed_cost_and_slope():
    t = [1.0, 2.0, 3.5, 5.0]
    assert fit_calibration(t, [0.25 + 1.5 * x for x in t]) == pytest.approx((0.25, 1.5))
    with pytest.raises(ValueError, match="what was measured does not grow with the table"):
        fit_calibration([1.0, 2.0], [2.0, 1.0])
    with pytest.raises(ValueError, match="at least two networks of different latency"):
        fit_calibration([1.0, 1.0], [2.0, 1.0])
    with pytest.raises(ValueError, match="n_networks is 1; allowed: a whole number of 2 or more"):
        Calibration(0.0, 1.0, 1, 0.0, 0.0, "2026-11-22")


def test_a_check_times_whole_networks_and_calibrates(tmp_path):
    """A table ten times too high is found to be, and its calibration mends it; nothing of the first calibration is left."""
    torch.manual_seed(0)
    estimator = DeviceEstimator(runtime="torch", repeats=15, warmup=2)
    table = build_lookup_table(Timed(), (8,), estimator)
    high = table.replace(
        rows={k: Measurement(10 * r.median_ms, 10 * r.p95_ms, r.count) for k, r in table.rows.items()},
        constant=None, calibration=Calibration(5.0, 77.0, 2, 0.0, 0.0, "2026-11-22"),
    )  # fmt: skip
    rounds: list[tuple[int, int]] = []
    check = check_table(
        high, Timed(), (8,), estimator, n_networks=12, n_calibration=12, progress=lambda *d: rounds.append(d)
    )
    assert rounds[-1] == (15, 15)
    assert check.before.bias > 3
    assert abs(check.after.bias) < 0.5  # machines are shared; without the calibration it is 9
    assert check.after.mean_error == check.calibration.mean_error < check.before.mean_error
    assert 0.03 < check.calibration.slope < 0.3
    raw = LatencyProfiler(Timed(), high.replace(calibration=None), (8,))
    assert check.predicted_ms == pytest.approx([raw.profile(s) for s in check.samples])
    calibrated = LatencyProfiler(Timed(), high.replace(calibration=check.calibration), (8,))
    assert check.calibrated_ms == pytest.approx([calibrated.profile(s) for s in check.samples])
    text = report(check)
    assert "fitted on 12 other networks" in text
    draw(check, tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"


def test_wrong_numbers_of_networks_and_methods_are_refused():
    table = build_lookup_table(Timed(), (8,), DeviceEstimator(runtime="torch", repeats=1, warmup=0))
    with pytest.raises(ValueError, match="the space has 48 different networks, fewer than the 60 that are to be timed"):
        check_table(table, Timed(), (8,), DeviceEstimator(runtime="torch"))
    with pytest.raises(ValueError, match="n_networks is 2 and n_calibration 30; allowed: 3 or more of each"):
        check_table(table, Timed(), (8,), DeviceEstimator(runtime="torch"), n_networks=2)
    with pytest.raises(ValueError, match="method is 'guess'; allowed: networks, isolated"):
        build_lookup_table(Timed(), (8,), DeviceEstimator(runtime="torch"), method="guess")
