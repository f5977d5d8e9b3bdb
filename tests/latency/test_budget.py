"""The most probable network under a budget, against every network there is."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, Repeat
from nni_proxyless.search_spaces import MobileNetV2Space
from torch import Tensor, nn

from nni_proxyless.latency import (
    BudgetError,
    LatencyEstimator,
    LatencyProfiler,
    LookupTable,
    MacsEstimator,
    Measurement,
    Operation,
    best_under_budget,
    trace_operations,
)
from nni_proxyless.latency.objectives import limits as limits_module
from nni_proxyless.latency.objectives import nearness
from nni_proxyless.latency.objectives.budget import fastest, log_probability, slowest
from nni_proxyless.latency.objectives.integer_program import Program

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "proxylessnas_pixel1_lookup_table.yaml"


# -- small spaces of every kind ------------------------------------------------------------------------------------------


class OfEveryKind(ModelSpace):
    """Two or three parts: plain, nested, twice nested and shared choices, depths that contain choices; an ``InputChoice``."""

    def __init__(self, seed: int):
        super().__init__()
        draw = random.Random(seed)
        self.widths = itertools.count(1)
        kinds = [self.plain, self.nested, self.twice_nested, self.shared, self.repeated]
        parts = draw.sample(kinds, 2) + ([self.plain] if draw.random() < 0.5 else [])
        self.body = nn.Sequential(self.block(), *(part(f"p{i}", draw) for i, part in enumerate(parts)))
        self.which = InputChoice(2, 1, label="which")

    def block(self) -> nn.Module:
        # Of a width of its own, so that every block has a row of its own.
        width = next(self.widths)
        return nn.Sequential(nn.Linear(2, width), nn.Linear(width, 2))

    def plain(self, label: str, draw: random.Random) -> nn.Module:
        n = draw.randint(1, 2)
        return LayerChoice({**{f"c{i}": self.block() for i in range(n)}, "skip": nn.Identity()}, label=label)

    def nested(self, label: str, draw: random.Random) -> nn.Module:
        holder = nn.Sequential(self.block(), self.plain(f"{label}.in", draw))
        return LayerChoice([self.block(), holder, nn.Identity()], label=label)

    def twice_nested(self, label: str, draw: random.Random) -> nn.Module:
        middle = LayerChoice(
            [nn.Sequential(self.plain(f"{label}.z", draw), self.block()), self.block()], label=f"{label}.y"
        )
        return LayerChoice([middle, self.block()], label=label)

    def shared(self, label: str, draw: random.Random) -> nn.Module:
        outer = LayerChoice({"c0": nn.Sequential(self.block()), "skip": nn.Identity()}, label=f"{label}.a")
        inner = LayerChoice({"c0": self.block(), "skip": nn.Identity()}, label=f"{label}.a")
        holder = LayerChoice([inner, self.block()], label=f"{label}.b")
        return nn.Sequential(outer, holder)

    def repeated(self, label: str, draw: random.Random) -> nn.Module:
        return Repeat(lambda i: self.plain(f"{label}.{i % 2}", random.Random(i % 2)), (1, 3), label=f"{label}.depth")

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.which([x, x])


def profiler_of(space: ModelSpace, shape: tuple[int, ...], cost: Any) -> LatencyProfiler:
    """With a table whose rows come from ``cost()``."""
    keys = dict.fromkeys(operation.key for operation in trace_operations(space, shape))
    rows = {key: Measurement(ms, ms, 1) for key in keys if (ms := cost()) is not None}
    return LatencyProfiler(space, LookupTable(rows), shape)


def random_probs(profiler: LatencyProfiler, draw: random.Random) -> dict[str, dict[Any, Any]]:
    """Of softmaxes; in steps, so that there are ties; and with zeros."""
    kind = draw.choice(["softmax", "steps", "zeros"])
    probs: dict[str, dict[Any, Any]] = {}
    for label, costs in profiler.candidate_ms.items():
        if kind == "softmax":
            weights = torch.softmax(torch.tensor([draw.gauss(0, 2) for _ in costs], dtype=torch.float64), 0).tolist()
        else:
            weights = [float(draw.choice([0, 1, 2] if kind == "zeros" else [1, 2])) for _ in costs]
            weights[draw.randrange(len(weights))] = 1.0
            weights = [weight / sum(weights) for weight in weights]
        probs[label] = dict(zip(costs, weights, strict=True))
    return {**probs, "which": {(0,): 0.25, (1,): 0.75}}


def all_networks(profiler: LatencyProfiler) -> Iterator[dict[str, Any]]:
    labels = list(profiler.candidate_ms)
    for choices in itertools.product(*profiler.candidate_ms.values()):
        yield {**dict(zip(labels, choices, strict=True)), "which": [1]}


def rank(probs: dict[str, dict[Any, Any]], sample: dict[str, Any]) -> tuple[int, float]:
    """Few zeros first, then the product of the rest: larger is better."""
    chosen = [probs[label][choice] for label, choice in sample.items() if label != "which"]
    return -chosen.count(0.0), math.fsum(math.log(p) for p in chosen if p > 0)


class OfRows(LatencyEstimator):
    """A row of random cost for every operation."""

    conditions = {}  # noqa: RUF012  (a constant)

    def __init__(self, cost: Any, combine: Literal["sum", "max"] = "max"):
        self.cost, self.combine = cost, combine

    def estimate(self, operation: Operation) -> float:
        return self.cost()


def check_against_all(seed: int, combine: str = "sum") -> str:
    """One random space, three budgets; what happened."""
    draw = random.Random(seed)
    cost = draw.choice(
        [lambda: draw.uniform(0, 3), lambda: draw.choice([0.1, 0.2, 0.3]), lambda: float(draw.randint(0, 4))]
    )
    space = OfEveryKind(seed)
    profiler = profiler_of(space, (2,), cost) if combine == "sum" else LatencyProfiler(space, OfRows(cost), (2,))
    probs = random_probs(profiler, draw)
    networks = [(sample, profiler.profile(sample)) for sample in all_networks(profiler)]
    costs = sorted(ms for _, ms in networks)
    assert fastest(profiler)[1] == pytest.approx(costs[0], rel=1e-10)
    assert slowest(profiler)[1] == pytest.approx(costs[-1], rel=1e-10)
    at_a_network = draw.choice(costs)
    seen = set()
    for budget in (at_a_network, math.nextafter(at_a_network, -1), draw.uniform(costs[0], costs[-1])):
        within = [sample for sample, ms in networks if ms <= budget]
        if not within:
            with pytest.raises(BudgetError, match="the fastest network that can be reached has"):
                best_under_budget(probs, profiler, budget)
            seen.add("out of reach")
            continue
        found = best_under_budget(probs, profiler, budget)
        assert profiler.profile(found) <= budget
        assert found["which"] == [1]
        zeros, log_p = max(rank(probs, sample) for sample in within)
        assert rank(probs, found)[0] == zeros
        assert rank(probs, found)[1] == pytest.approx(log_p, abs=1e-9)
        if seed % 20 == 0:
            assert best_under_budget(probs, profiler, budget) == found
        seen.add("zeros" if zeros else "nested" if profiler.nested_ms else "plain")
    return " ".join(sorted(seen))


@pytest.mark.parametrize("block", range(6))
def test_it_is_the_best_of_all_networks(block):
    """60 random spaces, 180 budgets, of which one in three is a network's own latency, and one just below it."""
    seen = {check_against_all(seed) for seed in range(20 * block, 20 * block + 10)}
    assert any("nested" in what for what in seen)
    assert any("out of reach" in what for what in seen) or block != 0


def test_it_is_the_best_where_the_largest_operation_counts():
    """A cost such as memory, ``combine = 'max'``: 25 random spaces, 75 budgets."""
    seen = {check_against_all(seed, "max") for seed in range(25)}
    assert any("nested" in what for what in seen)
    assert any("out of reach" in what for what in seen)


def test_the_comparison_can_fail(monkeypatch):
    """With a row that is a little too narrow, a network exactly at the budget is lost; without a check, one above is let in."""
    narrow = limits_module.widened
    monkeypatch.setattr(limits_module, "widened", lambda profiler, ms: narrow(profiler, ms) - 0.6)
    with pytest.raises((AssertionError, BudgetError)):
        [check_against_all(seed) for seed in range(20)]
    monkeypatch.setattr(limits_module, "widened", lambda profiler, ms: ms + 0.6)
    monkeypatch.setattr(limits_module, "exceeded", lambda limits, sample: False)
    with pytest.raises((AssertionError, BudgetError)):
        [check_against_all(seed) for seed in range(20)]


def test_a_calibrated_table_may_have_a_negative_constant():
    """A budget is in calibrated milliseconds."""
    space, draw = OfEveryKind(7), random.Random(7)
    profiler = profiler_of(space, (2,), lambda: draw.uniform(1, 3))
    probs = random_probs(profiler, random.Random(3))
    networks = list(all_networks(profiler))
    profiler.fixed_ms -= 2.5
    profiler.expression = profiler.expression - 2.5
    for sample in networks[::5]:
        budget = profiler.profile(sample)
        found = best_under_budget(probs, profiler, budget)
        within = [other for other in networks if profiler.profile(other) <= budget]
        assert profiler.profile(found) <= budget
        assert rank(probs, found) == pytest.approx(max(rank(probs, other) for other in within), abs=1e-9)


def test_several_budgets_at_once():
    """Milliseconds and multiply-adds, for every pair of networks' own figures; and what is said where nothing fits."""
    space, draw = OfEveryKind(5), random.Random(5)
    time = profiler_of(space, (2,), lambda: draw.uniform(0.5, 3))
    macs = LatencyProfiler(space, MacsEstimator(), (2,))
    probs = random_probs(time, random.Random(1))
    networks = [(s, time.profile(s), macs.profile(s)) for s in all_networks(time)]
    refused = 0
    for (_, ms, _), (_, _, millions) in itertools.product(networks[::7], networks[::11]):
        within = [sample for sample, a, b in networks if a <= ms and b <= millions]
        if within:
            found = best_under_budget(probs, time, ms, also=[(macs, millions)])
            assert time.profile(found) <= ms
            assert macs.profile(found) <= millions
            assert rank(probs, found)[1] == pytest.approx(max(rank(probs, s)[1] for s in within), abs=1e-9)
        else:
            least = min((a for _, a, b in networks if b <= millions), default=None)
            assert least is not None
            with pytest.raises(BudgetError) as caught:
                best_under_budget(probs, time, ms, also=[(macs, millions)])
            assert f"within {millions:.9g} {macs.unit} has {least:.9g} ms" in str(caught.value)
            refused += 1
    assert refused


def enumerated(seed: int) -> tuple[random.Random, LatencyProfiler, dict, list[tuple[dict, float]], list[float]]:
    """A random space with all its networks and what they cost, and these costs in order."""
    draw = random.Random(seed)
    profiler = profiler_of(OfEveryKind(seed), (2,), lambda: draw.uniform(0, 3))
    probs = random_probs(profiler, draw)
    networks = [(sample, profiler.profile(sample)) for sample in all_networks(profiler)]
    return draw, profiler, probs, networks, sorted(ms for _, ms in networks)


@pytest.mark.parametrize("seed", range(8))
def test_at_least_so_much_if_there_is_any(seed):
    """Among networks between two costs, where choices of probability above 0 make one; else as without it."""
    draw, profiler, probs, networks, costs = enumerated(seed)
    for _ in range(4):
        i, j = sorted((draw.randrange(1, len(costs)), draw.randrange(1, len(costs))))
        least, budget = (costs[i - 1] + costs[i]) / 2, costs[j]
        if least > budget:
            continue
        within = [(sample, ms) for sample, ms in networks if ms <= budget]
        near = [sample for sample, ms in within if ms >= least and rank(probs, sample)[0] == 0]
        found = best_under_budget(probs, profiler, budget, at_least_ms=least)
        assert profiler.profile(found) <= budget
        assert not near or profiler.profile(found) >= least
        expected = max(rank(probs, sample) for sample in near or [sample for sample, _ in within])
        assert rank(probs, found) == pytest.approx(expected, abs=1e-9)


def near_rank(probs: dict, sample: dict, ms: float, near_ms: float) -> tuple[bool, int, float]:
    """As :func:`rank`, what costs at least 95 % of ``near_ms`` first; a factor of e for each per cent from 3 % below it on."""
    zeros, log_p = rank(probs, sample)
    return zeros == 0 and ms >= 0.95 * near_ms, zeros, log_p - 100 * max(0.0, 0.97 - ms / near_ms)


@pytest.mark.parametrize("seed", range(8))
def test_nearness_and_probability_are_traded_exactly(seed):
    """Among all networks within the budget, whatever has no probability last; near to the budget, to less, and in between."""
    draw, profiler, probs, networks, costs = enumerated(seed)
    for _ in range(3):
        budget = costs[draw.randrange(len(costs))]
        near_ms = budget * draw.choice((1, 0.9, 0.4))
        within = [(sample, ms) for sample, ms in networks if ms <= budget]
        expected = max(near_rank(probs, sample, ms, near_ms) for sample, ms in within)
        found = best_under_budget(probs, profiler, budget, near_ms=near_ms)
        ms = profiler.profile(found)
        assert ms <= budget
        assert near_rank(probs, found, ms, near_ms) == pytest.approx(expected, abs=1e-8)
        assert nearness.log_likelihood(profiler, ms, near_ms) == pytest.approx(-100 * max(0.0, 0.97 - ms / near_ms))
        assert best_under_budget(probs, profiler, budget, near_ms=near_ms) == found
        least = budget * 0.7
        among = [(s, ms) for s, ms in within if ms >= least and not rank(probs, s)[0]]
        if among:
            found = best_under_budget(probs, profiler, budget, near_ms=near_ms, at_least_ms=least)
            best = max(near_rank(probs, s, ms, near_ms) for s, ms in among)
            assert near_rank(probs, found, profiler.profile(found), near_ms) == pytest.approx(best, abs=1e-8)


def made_up(costs: dict[str, dict[Any, float]]) -> LatencyProfiler:
    """The sum of these milliseconds."""
    profiler = LatencyProfiler(Small(), OfNames(), (2,))
    profiler.candidate_ms, profiler.fixed_ms = costs, 0.0
    profiler.profile = lambda sample: math.fsum(costs[label][choice] for label, choice in sample.items())  # type: ignore[method-assign]
    return profiler


def test_a_target_is_used_up_where_networks_do():
    """To 95 %, whatever that costs in probability; not by a choice of probability 0, nor where nothing costs as much."""
    profiler = made_up({"only": {"full": 95.1, "probable": 90.0, "far": 50.0}})

    def found(full: float, ms: float) -> str:
        probs = {"only": {"full": full, "probable": 0.7, "far": 0.3}}
        return best_under_budget(probs, profiler, ms, near_ms=ms)["only"]

    assert found(1e-9, 100.0) == "full"
    assert found(0.0, 100.0) == "probable"
    assert found(1e-9, 95.0) == "probable"


def test_a_target_is_used_up_exactly():
    """Few networks, and choices that have decided: among all networks, the limits of a second cost included."""
    given_up = 0
    for seed in range(12):
        draw = random.Random(seed)
        labels = {label: [f"{label}{i}" for i in range(3)] for label in "abc"}
        time, size = (
            made_up({lb: {c: draw.uniform(1, 40) for c in of} for lb, of in labels.items()}) for _ in range(2)
        )
        probs = {lb: {c: math.exp(-draw.uniform(0, 30)) for c in of} for lb, of in labels.items()}
        samples = [dict(zip(labels, choices, strict=True)) for choices in itertools.product(*labels.values())]
        near_ms, most = draw.uniform(60, 100), draw.uniform(60, 100)
        within = [s for s in samples if time.profile(s) <= near_ms and size.profile(s) <= most]
        if not within:
            continue

        def key(sample: dict, near_ms: float = near_ms, probs: dict = probs, time: LatencyProfiler = time) -> tuple:
            return near_rank(probs, sample, time.profile(sample), near_ms)

        found = best_under_budget(probs, time, near_ms, near_ms=near_ms, also=[(size, most)])
        assert found == max(within, key=key)
        given_up += found != max(within, key=lambda sample: key(sample)[1:])
    assert given_up, "else nothing tells the lower end from the charge"


def test_a_little_nearer_is_not_worth_all_probability():
    """11.7 % below with a log-probability of -18, 13.4 % below with -1.2: where steps at 12 % took the former."""
    profiler = made_up({"only": {"nearer": 88.3, "probable": 86.6, "far": 50.0}})

    def found(nearer: float, probable: float) -> str:
        probs = {"only": {"nearer": math.exp(nearer), "probable": math.exp(probable), "far": 0.3}}
        return best_under_budget(probs, profiler, 100.0, near_ms=100.0)["only"]

    assert found(-18, -1.2) == "probable"
    assert found(-1.5, -1.2) == "nearer", "so undecided, 1.7 % are worth more"
    # No step anywhere: the one is left for the other where 1.7 % is what they differ by.
    assert [found(-1.2 - 1.7 + d, -1.2) for d in (-1e-6, 1e-6)] == ["probable", "nearer"]


@pytest.mark.parametrize("near_ms", [0.0, -1.0, -math.inf, 0.5])
def test_near_to_nothing_asks_nothing(near_ms):
    """Nor does what every network costs."""
    profiler = LatencyProfiler(Small(), OfNames(), (2,))
    probs = {"block0": {"wide": 0.4, "narrow": 0.6}, "block1": {"wide": 0.45, "narrow": 0.55}}
    assert best_under_budget(probs, profiler, 6.0, near_ms=near_ms) == best_under_budget(probs, profiler, 6.0)
    same = made_up({"only": {"a": 0.0, "b": 0.0}})
    same.fixed_ms, same.profile = 2.0, lambda sample: 2.0
    assert best_under_budget({"only": {"a": 0.4, "b": 0.6}}, same, 3.0, near_ms=3.0) == {"only": "b"}


# -- what is asked for and cannot be -------------------------------------------------------------------------------------


class Small(ModelSpace):
    """Two blocks of two candidates each; wide 4 ms, narrow 1 ms, 0.5 ms that are always there."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(*(
            LayerChoice({"wide": nn.Linear(2, 2), "narrow": nn.Linear(2, 2, bias=False)}, label=f"block{i}") for i in range(2)
        ))  # fmt: skip
        self.last = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(x))


class OfNames(LatencyEstimator):
    conditions = {}  # noqa: RUF012  (a constant)

    def __init__(self, **costs: float):
        self.costs = {"wide": 4.0, "narrow": 1.0, **costs}

    def estimate(self, operation: Operation) -> float:
        return self.costs[operation.conditions[-1][1][0]] if operation.conditions else 0.5


@pytest.fixture
def small() -> LatencyProfiler:
    return LatencyProfiler(Small(), OfNames(), (2,))


PROBS = {"block0": {"wide": 0.9, "narrow": 0.1}, "block1": {"wide": 0.8, "narrow": 0.2}}


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (8.5, ("wide", "wide")), (8.49, ("wide", "narrow")), (5.5, ("wide", "narrow")), (5.49, ("narrow", "narrow")),
        (math.inf, ("wide", "wide")), (2.5, ("narrow", "narrow")),
    ],
)  # fmt: skip
def test_a_budget_decides_jointly(small, budget, expected):
    live = {label: {c: torch.tensor(p, requires_grad=True) for c, p in ps.items()} for label, ps in PROBS.items()}
    assert tuple(best_under_budget(live, small, budget).values()) == expected
    assert tuple(best_under_budget(PROBS, small, budget).values()) == expected


def test_a_budget_out_of_reach_names_the_fastest(small):
    with pytest.raises(BudgetError, match=r"budget 2\.4 ms: the fastest network that can be reached has 2\.5 ms"):
        best_under_budget(PROBS, small, 2.4)
    other = LatencyProfiler(small.model_space, OfNames(wide=1.0, narrow=2.0), (2,))
    with pytest.raises(BudgetError, match=r"^budget 2 ms: the fastest network that can be reached has 2\.5 ms$"):
        best_under_budget(PROBS, small, 9, also=[(other, 2.0)])
    with pytest.raises(BudgetError, match=r"^budgets 4 ms and 3 ms: the fastest .* within 3 ms has 8\.5 ms$"):
        best_under_budget(PROBS, small, 4, also=[(other, 3.0)])
    free = LatencyProfiler(small.model_space, OfNames(wide=0.0, narrow=0.0), (2,))
    assert best_under_budget(PROBS, free, 0.5) == {"block0": "wide", "block1": "wide"}
    with pytest.raises(BudgetError, match=r"budget 0\.4 ms: the fastest network that can be reached has 0\.5 ms"):
        best_under_budget(PROBS, free, 0.4)


def test_probability_zero_is_a_last_resort(small):
    """One zero rather than two, whatever the others are worth; and none at all where it can be had."""
    probs = {"block0": {"wide": 1.0, "narrow": 0.0}, "block1": {"wide": 1 - 1e-300, "narrow": 1e-300}}
    assert best_under_budget(probs, small, 5.5) == {"block0": "wide", "block1": "narrow"}
    one_hot = {label: {"wide": 1.0, "narrow": 0.0} for label in probs}
    assert sorted(best_under_budget(one_hot, small, 5.5).values()) == ["narrow", "wide"]
    assert log_probability(one_hot, {"block0": "wide", "block1": "narrow"}) == -math.inf
    assert log_probability(PROBS, {"block0": "wide", "block1": "narrow"}) == pytest.approx(math.log(0.18))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block1": None, "blok1": {"a": 1.0}}, "no probabilities for label 'block1'. Did you mean 'blok1'?"),
        ({"block1": {"wide": 0.5, "narow": 0.5}}, "label 'block1': unknown choice 'narow'; allowed: wide, narrow. Did you mean 'narrow'?"),
        ({"block1": {"wide": 1.0}}, "label 'block1': no probability for choice 'narrow'"),
        ({"block0": {"wide": float("nan"), "narrow": 1.0}}, "label 'block0': the probability of 'wide' is nan; allowed: 0 to 1"),
        ({"block0": {"wide": -0.1, "narrow": 1.0}}, "label 'block0': the probability of 'wide' is -0.1; allowed: 0 to 1"),
        ({"block0": {"wide": 7.0, "narrow": 1.0}}, "label 'block0': the probability of 'wide' is 7.0; allowed: 0 to 1"),
        ({"block0": {"wide": 0.0, "narrow": 0.0}}, "label 'block0': no choice has a probability above 0"),
        ({"other": {"a": float("inf")}}, "label 'other': the probability of 'a' is inf; allowed: 0 to 1"),
    ],
)  # fmt: skip
def test_wrong_probabilities_are_refused_by_name(small, changes, message):
    probs = {label: ps for label, ps in {**PROBS, **changes}.items() if ps is not None}
    with pytest.raises(ValueError, match="probs: ") as caught:
        best_under_budget(probs, small, 5.0)
    assert message in str(caught.value)


@pytest.mark.parametrize("budget", [float("nan"), -math.inf, "3", None, True])
def test_a_budget_that_is_no_number_is_refused(small, budget):
    with pytest.raises(ValueError, match=r"budget_ms is .*; allowed: a number, in ms"):
        best_under_budget(PROBS, small, budget)
    with pytest.raises(ValueError, match=r"also\[0\] is .*; allowed: a number, in ms"):
        best_under_budget(PROBS, small, 3.0, also=[(small, budget)])


@pytest.mark.parametrize("name", ["at_least_ms", "near_ms"])
@pytest.mark.parametrize("least", [5.1, float("nan")])
def test_a_least_cost_above_the_budget_is_refused(small, least, name):
    with pytest.raises(ValueError, match=name + r" is .*; allowed: up to the budget, 5\.0 ms"):
        best_under_budget(PROBS, small, 5.0, **{name: least})


def test_a_least_cost_of_a_maximum_is_refused_and_nearness_asks_nothing():
    of_maximum = LatencyProfiler(OfEveryKind(0), OfRows(lambda: 1.0), (2,))
    probs = random_probs(of_maximum, random.Random(0))
    with pytest.raises(ValueError, match=r"at_least_ms is 0\.5; allowed: none, a network costs the largest"):
        best_under_budget(probs, of_maximum, 5.0, at_least_ms=0.5)
    assert best_under_budget(probs, of_maximum, 5.0, near_ms=5.0) == best_under_budget(probs, of_maximum, 5.0)


def test_profilers_of_two_spaces_are_refused(small):
    small.candidate_ms = {**small.candidate_ms, "block1": {"wide": 1.0, "skip": 0.0}}
    whole = LatencyProfiler(Small(), OfNames(), (2,))
    with pytest.raises(
        ValueError, match=r"also\[0\]: label 'block1' has the choices wide, skip there, wide, narrow in the"
    ):
        best_under_budget(PROBS, whole, 3.0, also=[(small, 3.0)])
    with pytest.raises(TypeError, match="the profiler is a dict; allowed: a LatencyProfiler"):
        best_under_budget(PROBS, {}, 3.0)


def test_a_million_networks_that_cost_the_same_are_told_from_the_budget_at_once(monkeypatch):
    """21 choices of 0, 1 and 2 ms and a budget one digit below 21: HiGHS cannot see the digit, and is not asked to."""
    asked = []
    minimize = Program.minimize
    monkeypatch.setattr(Program, "minimize", lambda self, *a: asked.append(1) or minimize(self, *a))
    profiler = made_up({f"l{i:02}": {0: 0.0, 1: 1.0, 2: 2.0} for i in range(21)})
    probs = {label: {0: 0.2, 1: 0.3, 2: 0.5} for label in profiler.candidate_ms}
    found = best_under_budget(probs, profiler, math.nextafter(21, 0))
    assert sum(found.values()) == 20
    assert len(asked) == 1
    assert sum(best_under_budget(probs, profiler, 21).values()) == 21


# -- the paper's space ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_21_layers() -> LatencyProfiler:
    """Every candidate of every block costs something else."""
    draw = random.Random(3)
    estimator = OfRows(lambda: draw.uniform(0.5, 8), "sum")
    return LatencyProfiler(MobileNetV2Space("cifar", aligned_init=False), estimator, (3, 32, 32))


def softmax_probs(profiler: LatencyProfiler, draw: random.Random) -> dict[str, dict[Any, float]]:
    return {
        label: dict(zip(costs, torch.softmax(torch.tensor([draw.gauss(0, 1) for _ in costs]), 0).tolist(), strict=True))
        for label, costs in profiler.candidate_ms.items()
    }


def best_by_table(probs: Any, profiler: LatencyProfiler, budget: float, step: float) -> float:
    """An upper bound of the best log p, by dynamic programming over costs that are rounded down to a grid."""
    steps = math.floor((budget - profiler.fixed_ms) / step)
    best = torch.zeros(steps + 1, dtype=torch.float64)
    for label, costs in profiler.candidate_ms.items():
        options = []
        for choice, ms in costs.items():
            n = math.floor(ms / step)
            moved = torch.full_like(best, -math.inf)
            moved[n:] = best[: steps + 1 - n] if n <= steps else moved[n:]
            options.append(moved + math.log(probs[label][choice]))
        best = torch.stack(options).amax(0)
    return float(best[-1])


def test_no_network_of_100_exceeds_its_budget(of_21_layers):
    """And none can be much better: rounding costs down to 1/4000 of the budget gives a bound from above."""
    draw = random.Random(11)
    probs = softmax_probs(of_21_layers, draw)
    low = fastest(of_21_layers)[1]
    high = of_21_layers.profile({label: max(ps, key=ps.get) for label, ps in probs.items()})
    previous: list[tuple[float, float]] = []
    for i in range(100):
        budget = draw.uniform(low, high)
        found = best_under_budget(probs, of_21_layers, budget)
        assert of_21_layers.profile(found) <= budget
        log_p = log_probability(probs, found)
        previous.append((budget, log_p))
        if i % 20 == 0:
            assert log_p <= best_by_table(probs, of_21_layers, budget, budget / 4000) + 1e-9
            assert log_p >= best_by_table(probs, of_21_layers, budget * (1 - 21 / 4000), budget / 4000) - 0.2
    ordered = [log_p for _, log_p in sorted(previous)]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(ordered)), "a larger budget is never worse"


def test_the_published_table_of_the_papers_phone():
    """21 choices on the Pixel 1, 80 ms: ProxylessNAS-mobile's budget; blocks of a stage share rows, so many nets tie."""
    if not PUBLISHED.exists():
        pytest.skip(f"the published table is not here: {PUBLISHED}")
    pixel = LatencyProfiler(MobileNetV2Space(aligned_init=False), LookupTable.read(PUBLISHED), (3, 224, 224))
    sample, ms = fastest(pixel)
    assert ms == pytest.approx(29.609, abs=6e-4)
    assert slowest(pixel)[1] == pytest.approx(191.030, abs=6e-4)
    draw = random.Random(2)
    probs = softmax_probs(pixel, draw)
    of_a_network = pixel.profile({label: draw.choice(list(costs)) for label, costs in pixel.candidate_ms.items()})
    for budget in (ms, 40.0, 80.0, 120.0, of_a_network):
        found = best_under_budget(probs, pixel, budget)
        assert pixel.profile(found) <= budget
        assert log_probability(probs, found) <= best_by_table(probs, pixel, budget, budget / 4000) + 1e-9
    assert pixel.profile(best_under_budget(probs, pixel, ms)) == pixel.profile(sample)
    with pytest.raises(BudgetError, match=r"budget 29 ms: the fastest network that can be reached has 29\.60"):
        best_under_budget(probs, pixel, 29)
