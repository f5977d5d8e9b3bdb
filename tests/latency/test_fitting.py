"""Tables that are fitted to whole networks."""

from __future__ import annotations

import dataclasses
import logging
import random
import re
import statistics
from typing import Any

import pytest
import yaml
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, Repeat
from torch import Tensor, nn

from nni_proxyless.latency import (
    DeviceEstimator,
    LatencyEstimator,
    LatencyProfiler,
    LookupTable,
    Measurement,
    Operation,
    TableError,
    build_lookup_table,
    trace_operations,
)
from nni_proxyless.latency.tables import time_in_chunks
from nni_proxyless.latency.tables.build import method_for
from nni_proxyless.latency.tables.fit_networks import fit_networks, fitted_operations
from nni_proxyless.latency.tables.predict import features
from nni_proxyless.latency.tables.timed_networks import random_samples
from nni_proxyless.latency.tables.yaml_format import TimedNetwork
from nni_proxyless.search.measured_network import measure_derived

SHAPE = (8,)


def block(factor: int) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8 * factor), nn.ReLU(), nn.Linear(8 * factor, 8))


class Space(ModelSpace):
    """What all networks share, choices with a skip, a nested one, a depth, and keys that several places share: 216 networks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.one = LayerChoice({"wide": block(4), "narrow": block(1), "skip": nn.Identity()}, label="one")
        inner = LayerChoice([block(2), nn.Tanh(), nn.Identity()], label="inner")
        self.two = LayerChoice({"gelu": nn.GELU(), "more": nn.Sequential(nn.ReLU(), inner)}, label="two")
        self.three = LayerChoice({"wide": block(4), "wider": block(5), "skip": nn.Identity()}, label="three")
        self.body = Repeat(lambda i: LayerChoice([block(1), block(3)], label=f"body{i}"), (0, 2), label="depth")
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(self.three(self.two(self.one(self.first(x))))))


class Known(LatencyEstimator):
    """A target whose truth is known: every layer has a cost of its own, drawn anew for each seed, whatever it computes.

    Parameters
    ----------
    noise
        Standard deviation of a network's milliseconds, relative: its own for as long as it is prepared.
    fusion
        What share of a linear layer's cost is saved behind another one, as a runtime does that merges them across blocks: no
        sum over operations.
    speeds
        Of the machine, from chunk to chunk.
    """

    repeats, warmup = 5, 0

    def __init__(self, seed: int = 0, noise: float = 0.0, fusion: float = 0.0, speeds: tuple[float, ...] = (1.0,)):
        self.seed, self.noise, self.fusion, self.speeds = seed, noise, fusion, speeds
        self.calls = 0
        self.timed: list[nn.Module] = []

    @property
    def conditions(self) -> dict[str, object]:
        return {"device": "known", "runtime": f"known {self.seed}"}

    def cost(self, module: nn.Module) -> float:
        layers = [
            m for m in module.modules() if not list(m.children()) and not isinstance(m, (nn.Identity, nn.Sequential))
        ]
        costs = [random.Random(f"{self.seed} {layer}").uniform(0.2, 1.0) for layer in layers]
        linear = [isinstance(layer, nn.Linear) for layer in layers]
        saved = [i for i in range(1, len(layers)) if linear[i - 1] and linear[i]]
        return sum(costs) - self.fusion * sum(costs[i] for i in saved)

    def estimate(self, operation: Operation) -> float:
        return self.cost(operation.module)

    def network(self, network: nn.Module) -> float:
        return self.cost(network) + 0.5

    def time_in_turns(self, operations: Any, *, repeats: int | None = None, each: Any = None) -> list[list[float]]:
        rounds = self.rounds(operations)[: self.repeats if repeats is None else repeats]
        for times in rounds:
            each(times)
        return rounds

    def rounds(self, operations: Any) -> list[list[float]]:
        speed = self.speeds[min(self.calls, len(self.speeds) - 1)]
        self.calls += 1
        self.timed += [network for network, _ in operations]
        noise = random.Random(
            f"{self.seed} {[network for network, _ in operations]}"
        )  # the same for a build that goes on
        of_each = [speed * self.network(network) * noise.gauss(1, self.noise) for network, _ in operations]
        rounds = [random.Random(f"{i}").uniform(1.0, 1.5) for i in range(self.repeats)]
        middle = statistics.median(rounds)
        return [[ms * d / middle for ms in of_each] for d in rounds]


def built(estimator: Known, **arguments: Any) -> LookupTable:
    return build_lookup_table(Space(), SHAPE, estimator, method="fit", **arguments)  # type: ignore[arg-type]


def errors(table: LookupTable, estimator: Known) -> list[float]:
    """Of the sums of rows, relative to the truth, over networks that differ."""
    space = Space()
    profiler = LatencyProfiler(space, table, SHAPE)
    return [
        abs(profiler.profile(s) / estimator.network(space.freeze(s)) - 1) for s in random_samples(space, 80, seed=9)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_without_noise_the_truth_is_found(seed):
    """Sums of all networks, and every row that networks tell apart: what a skip can be in the place of."""
    estimator = Known(seed)
    table = built(estimator)
    assert max(errors(table, estimator)) < 1e-3
    operations = trace_operations(Space(), SHAPE)
    assert set(table.rows) == {op.key for op in operations if op.conditions}
    apart = [op for op in operations if op.conditions and op.conditions[0][0] in ("one", "three", "depth")]
    assert len({op.key for op in apart}) == 4
    for op in apart:
        assert table.rows[op.key].median_ms == pytest.approx(estimator.cost(op.module), rel=0.01)
    assert table.measured.items() >= {"method": "fit", "networks": 24, "repeats": 5, "warmup": 0}.items()
    assert table.measured["worst_error"] < 0.01
    assert table.measured["spearman"] > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_averaged_out_and_said(seed):
    """With 3 % per network, of which the mean of the absolute value is 2.4 %: the sums are better, the head says the noise."""
    estimator = Known(seed, noise=0.03)
    table = built(estimator, networks=100)
    assert statistics.mean(errors(table, estimator)) < 0.015
    assert 0.018 < table.measured["mean_error"] < 0.034  # 2.4 % and a quarter more for what is left out; 5 sigma of 100
    assert table.measured["worst_error"] > table.measured["mean_error"]


def test_what_no_sum_can_say_is_said_by_the_cross_validation():
    """Layers that are merged with the one before: the error over other networks is what the head says, to a factor of two."""
    for seed in range(3):
        estimator = Known(seed, fusion=0.6)
        table = built(estimator, networks=60)
        found = statistics.mean(errors(table, estimator))
        assert 0.002 < found < 0.05
        assert 0.5 < found / table.measured["mean_error"] < 2


def test_the_speed_of_the_machine_is_divided_out():
    """Chunks at 1, 1.4 and 0.7 of the speed, rounds within them at up to half more: the same table."""
    drifting = built(estimator := Known(0, speeds=(1.0, 1.4, 0.7)), networks=60)
    assert estimator.calls == 3
    assert drifting.measured["drift"] == pytest.approx(0.7, rel=1e-3)
    assert drifting.measured["unrest"] > 1.5
    steady = built(Known(0), networks=60)
    # To the speed of the middle chunk.
    assert {k: r.median_ms for k, r in drifting.rows.items()} == pytest.approx(
        {k: r.median_ms for k, r in steady.rows.items()}, rel=1e-3
    )


def test_others_on_the_machine_disturb_it_little():
    """Seven of ten timings take up to four times as long: the minimum tells, which the build finds by itself."""

    class Busy(Known):
        repeats = 20

        def rounds(self, operations: Any) -> list[list[float]]:
            draw = random.Random(self.calls)
            ms = [self.network(network) for network, _ in operations]
            self.calls += 1
            return [
                [t * draw.choice([1, 1, 1, *(draw.uniform(1, 4) for _ in range(7))]) for t in ms] for _ in range(20)
            ]

    estimator = Busy()
    table = built(estimator, networks=60)
    assert table.measured["statistic"] == "minimum"
    profiler = LatencyProfiler(Space(), table, SHAPE)
    samples = random_samples(Space(), 30, seed=9)
    ratios = [profiler.profile(s) / estimator.network(Space().freeze(s)) for s in samples]
    assert max(ratios) / min(ratios) < 1.01


def test_all_candidates_have_their_turn():
    """Of any number of networks, all different, the first are the same, and each row occurs; a chunk holds the references."""
    operations = trace_operations(Space(), SHAPE)
    samples = time_in_chunks.in_turn(Space(), operations, 48)
    assert samples[:24] == time_in_chunks.in_turn(Space(), operations, 24)
    assert len({tuple(op.runs_in(s) for op in operations) for s in samples}) == 48
    for ops in fitted_operations(operations).values():
        assert sum(any(op.runs_in(s) for op in ops) for s in samples[:24]) >= 3
    estimator = Known()
    table = built(estimator, networks=30)
    assert [len(estimator.timed[:24]), len(estimator.timed[24:])] == [24, 4 + 6]
    assert [n.measurement.count for n in table.references] == [2 * 5] * 4
    for i, reference in enumerate(table.references):
        network = Space().freeze(dict(reference.architecture))
        assert str(network) == str(estimator.timed[i]) == str(estimator.timed[24 + i])
        assert reference.measurement.median_ms == pytest.approx(estimator.network(network))


# -- rows that networks do not tell ----------------------------------------------------------------------------------------


def per_feature(operation: Operation) -> float:
    return 0.1 + 20 * features(operation)["dense_macs"] + 10 * features(operation)["activation_mbytes"]


def test_a_row_that_no_network_runs_is_predicted_from_the_others():
    """And one that a single noisy network runs is near to that as well, where no better is known."""
    operations = trace_operations(Space(), SHAPE)
    truth = {op.key: per_feature(op) for op in operations}
    samples = [s for s in random_samples(Space(), 300, seed=2) if s["three"] != "wider"]
    draw = random.Random(0)

    def ms(sample: dict[str, Any]) -> float:
        return 1 + sum(truth[op.key] for op in operations if op.runs_in(sample))

    (key,) = {op.key for op in operations if op.conditions == (("three", ("wider",)),)}
    exact = fit_networks(operations, samples[:40], [ms(s) for s in samples[:40]])
    assert exact.counts[key] == 0
    assert exact.rows[key][0] == pytest.approx(truth[key], rel=0.01)
    once = [*samples[:40], {**samples[0], "three": "wider"}]
    noisy = fit_networks(operations, once, [*(ms(s) * draw.gauss(1, 0.02) for s in once[:-1]), 1.1 * ms(once[-1])])
    assert noisy.counts[key] == 1
    assert noisy.rows[key][0] == pytest.approx(truth[key], rel=0.25)
    assert noisy.rows[key][1] > 0


def test_the_order_of_networks_within_a_fold_makes_no_difference():
    operations = trace_operations(Space(), SHAPE)
    samples = time_in_chunks.in_turn(Space(), operations, 20)
    times = [Known(3).network(Space().freeze(s)) for s in samples]
    one = fit_networks(operations, samples, times)
    other = fit_networks(operations, samples[10:] + samples[:10], times[10:] + times[:10])
    assert {k: ms for k, (ms, _) in one.rows.items()} == pytest.approx({k: ms for k, (ms, _) in other.rows.items()})


class Tiny(ModelSpace):
    """Two networks."""

    def __init__(self) -> None:
        super().__init__()
        self.one = LayerChoice({"wide": block(4), "skip": nn.Identity()}, label="one")
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.one(x))


def test_a_space_of_two_networks_has_a_table():
    estimator = Known()
    table = build_lookup_table(Tiny(), SHAPE, estimator, method="fit")
    for choice in ("wide", "skip"):
        true = estimator.network(Tiny().freeze({"one": choice}))
        assert LatencyProfiler(Tiny(), table, SHAPE).profile({"one": choice}) == pytest.approx(true, rel=1e-3)


def test_a_space_without_a_choice_is_refused():
    class One(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x)

    with pytest.raises(
        ValueError,
        match="the space has one network, and no rows can be fitted to that; allowed: 2 networks or more, or",
    ):
        build_lookup_table(One(), SHAPE, Known(), method="fit")


# -- a build that is killed, too long, or wrong ----------------------------------------------------------------------------


class Killed(BaseException):
    """As a signal: nothing catches it."""


def test_a_killed_build_goes_on_to_the_same_table(tmp_path):
    partial = tmp_path / "t.yaml.partial"
    whole = built(Known(noise=0.02), networks=60)

    def kill(done: int, total: int) -> None:
        assert total == 60
        if done > 24:
            raise Killed

    with pytest.raises(Killed):
        built(Known(noise=0.02), networks=60, partial=partial, progress=kill)
    lines = partial.read_text().splitlines()
    assert len(lines) == 1 + 2 * 5, "head, and two chunks of five rounds"
    partial.write_text("\n".join([*lines, lines[-1][: len(lines[-1]) // 2]]))
    estimator = Known(noise=0.02)
    steps: list[tuple[int, int]] = []
    again = built(estimator, networks=60, partial=partial, progress=lambda *done: steps.append(done))
    assert steps == [(44, 60), (60, 60)]
    assert estimator.calls == 1
    whole.write(tmp_path / "whole.yaml")
    again.write(tmp_path / "again.yaml")
    assert (tmp_path / "whole.yaml").read_text() == (tmp_path / "again.yaml").read_text()
    built(estimator, networks=61, partial=partial)
    assert estimator.calls == 1 + 3, "another build"


@pytest.mark.parametrize(
    ("times", "lengths"),
    [(0.1, [24]), (1.3, [24]), (1.4, [24, 9]), (2.0, [24, 24]), (2.5, [24, 24, 12]), (9.0, [24, 24, 14])],
)
def test_the_last_chunk_is_cut_to_the_time_that_is_left(times, lengths):
    chunks = [list(range(24)), list(range(24)), list(range(14))]
    found = time_in_chunks._within(chunks, times)
    assert [len(chunk) for chunk in found] == lengths
    assert time_in_chunks._within(found, times) == found


def test_a_build_says_how_long_it_takes_and_takes_no_longer_than_it_may(caplog, monkeypatch, tmp_path):
    """As many chunks as the time of the first allows, after a kill as well; all of them if somebody says how many."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(time_in_chunks, "CHUNK", 9)
    monkeypatch.setattr(time_in_chunks, "LIMIT_S", 1e-9)
    estimator = Known()
    assert built(estimator, partial=tmp_path / "p").measured["networks"] == 9
    assert estimator.calls == 1
    assert "whole networks are timed, 24 of them, or as many as 0 minutes allow" in caplog.text
    assert "9 networks in all, about 0 s more" in caplog.text
    built(estimator, partial=tmp_path / "p")
    assert estimator.calls == 1
    assert built(estimator, networks=20).measured["networks"] == 20
    with pytest.raises(ValueError, match="networks is 9; allowed: 10 or more"):
        built(estimator, networks=9)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused_with_its_network(bad):
    class Bad(Known):
        def rounds(self, operations: Any) -> list[list[float]]:
            rounds = super().rounds(operations)
            rounds[2][1] = bad
            return rounds

    second = time_in_chunks.in_turn(Space(), trace_operations(Space(), SHAPE), 2)[1]
    message = f"the network {second} was timed as {bad} ms; allowed: a finite number greater than 0"
    with pytest.raises(ValueError, match=re.escape(message)):
        built(Bad())
    message = f"the network {second} is said to take {bad} ms; allowed: a finite number greater than 0"
    with pytest.raises(ValueError, match=re.escape(message)):
        fit_networks([], [second, second], [1.0, bad])


# -- the table -------------------------------------------------------------------------------------------------------------


def test_a_fitted_table_comes_back_and_holds_for_its_space_alone(tmp_path):
    """What all networks share needs no row, and has no cost of its own even if candidates have the same key."""
    table = built(Known())
    table.write(tmp_path / "t.yaml")
    read = LookupTable.read(tmp_path / "t.yaml")
    assert [n.architecture for n in read.references] == [n.architecture for n in table.references]
    read.write(tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "t.yaml").read_text()
    operations = trace_operations(Space(), SHAPE)
    always = [op for op in operations if not op.conditions]
    assert read.in_constant == {op.key for op in always}
    assert [read.estimate(op) for op in always] == [0.0, 0.0]
    with_row = read.replace(rows={**read.rows, always[0].key: Measurement(5.0, 5.0, 1)})
    assert with_row.estimate(always[0]) == 0.0
    assert with_row.estimate(dataclasses.replace(always[0], conditions=(("one", ("wide",)),))) == 5.0
    with pytest.raises(KeyError, match="no row 'Linear-input:8-output:4-"):
        read.estimate(Operation("Linear-input:8-output:4-0", nn.Linear(8, 4), SHAPE))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("in_constant", "a", "in_constant is 'a'; allowed: a list of keys"),
        ("in_constant", [1], r"in_constant is \[1\]; allowed: a list of keys"),
        ("references", [], r"references is \[\]; allowed: a list of one network or more"),
        ("references", [{"architecture": {"a": 1}, "median": -1, "p95": 1, "count": 1}], "reference 1: median is -1"),
    ],
)
def test_what_is_wrong_with_a_fitted_table_is_said(tmp_path, part, value, message):
    built(Known()).write(tmp_path / "t.yaml")
    content = yaml.safe_load((tmp_path / "t.yaml").read_text())
    content[part] = value
    del content["checksum"]
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(TableError, match=message):
        LookupTable.read(tmp_path / "t.yaml")


def test_a_fitted_table_that_has_lost_its_constant_is_refused(tmp_path):
    """Its sums would be low by that."""
    built(Known()).write(tmp_path / "t.yaml")
    content = yaml.safe_load((tmp_path / "t.yaml").read_text())
    del content["constant"], content["checksum"]
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(TableError, match="in_constant names operations whose cost is in constant, which is missing"):
        LookupTable.read(tmp_path / "t.yaml")


def test_the_method_follows_from_the_runtime():
    assert method_for(DeviceEstimator(runtime="torch"), Tiny()) == "networks"
    other = Known()
    other.runtime = "another"  # type: ignore[attr-defined]
    assert method_for(other, Tiny()) == "fit"
    assert build_lookup_table(Tiny(), SHAPE, other).measured["method"] == "fit"
    with pytest.raises(ValueError, match="networks is 20, but method is 'networks'"):
        build_lookup_table(Tiny(), SHAPE, DeviceEstimator(runtime="torch"), networks=20)


def test_networks_of_torch_are_fitted_as_well():
    table = build_lookup_table(Tiny(), SHAPE, DeviceEstimator(runtime="torch", repeats=3, warmup=1), method="fit")
    assert table.constant is not None
    assert table.constant.median_ms > 0
    assert table.measured["networks"] == 2


def test_a_derived_network_is_timed_beside_the_references(monkeypatch, caplog, tmp_path):
    """What the table says, at the speed that the references have now: here they took a fifth of the time once."""
    monkeypatch.setenv("NNI_PROXYLESS_WAIT_FOR_QUIET", "0")
    space, estimator = Space(), DeviceEstimator(runtime="torch", repeats=3, warmup=1)
    sample = random_samples(space, 1, seed=0)[0]
    now = estimator.measure([(space.freeze(dict(sample)), SHAPE)])[0].median_ms
    table = built(Known())
    references = [
        TimedNetwork(n.architecture, Measurement(now / 5, now / 5, 3)) for n in table.references
    ]  # none of these takes twice as long as another
    profiler = LatencyProfiler(space, table.replace(references=references, conditions=estimator.conditions), SHAPE)
    found = measure_derived(profiler, estimator, space.freeze(dict(sample)), SHAPE, space, sample, tmp_path)
    assert found["measured_ms"] > 0
    assert found["table_again_ms"] > 1.5 * profiler.profile(dict(sample))
    assert "the derived network, measured: " in caplog.text
    other = LatencyProfiler(Tiny(), table, SHAPE)
    assert measure_derived(other, estimator, Tiny().freeze({"one": "wide"}), SHAPE, Tiny(), {"one": "wide"}, tmp_path)
