"""EarlyExitEvolution on spaces so small that what it has to find is known; NNI's own engine runs the trials."""

from __future__ import annotations

import builtins
import importlib
import itertools
import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import nni
import numpy as np
import pytest
from nni.mutable import ExpressionConstraint
from nni.nas.evaluator import Evaluator
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, Repeat
from nni_proxyless.strategies import EarlyExitEvolution
from nni_proxyless.strategies.bounded_space import BoundedSpace
from nni_proxyless.strategies.evolution import Trial
from nni_proxyless.strategies.nsga2 import EarlyExitSampling, RandomReset
from torch import Tensor, nn

from nni_proxyless.config import registry
from nni_proxyless.core.nni_compat import ModelStatus, RawFormatModelSpace, SequentialExecutionEngine
from nni_proxyless.latency import BudgetError, LatencyProfiler, MacsEstimator, ParametersEstimator

from .searches import OF_EXPERIMENTS

pytestmark = OF_EXPERIMENTS
WIDTH = 8
WORTH = {"skip": 0.0, "thin": 0.4, "plain": 0.5, "wide": 1.0}
MACS = {"skip": 0, "thin": 32, "plain": 64, "wide": 512}
PARAMETERS = {"skip": 0, "thin": 32, "plain": 72, "wide": 552}


class Layers(ModelSpace):
    """A choice of four for each of n layers."""

    def __init__(self, n: int):
        super().__init__()
        self.layers = nn.Sequential(*(LayerChoice(self.candidates(), label=f"layer{i}") for i in range(n)))

    @staticmethod
    def candidates() -> dict[str, nn.Module]:
        thin = nn.Sequential(nn.Linear(WIDTH, 2, bias=False), nn.Linear(2, WIDTH, bias=False))
        wide = nn.Sequential(nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH))
        return {"skip": nn.Identity(), "thin": thin, "plain": nn.Linear(WIDTH, WIDTH), "wide": wide}

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Judge(Evaluator):
    """Reports what a function says of the choices, and keeps them."""

    def __init__(self, metric: Callable[[dict[str, Any]], float]):
        self.metric = metric
        self.judged: list[dict[str, Any]] = []

    def _execute(self, model: Any) -> None:
        self.judged.append(dict(model.sample))
        nni.report_final_result(self.metric(model.sample))


def worth(sample: dict[str, Any]) -> float:
    """Later layers count more, and neighbors that are alike a little."""
    by_layer = sum((i + 1) * WORTH[choice] for i, choice in enumerate(sample.values()))
    return by_layer + 0.3 * sum(a == b for a, b in itertools.pairwise(sample.values()))


def macs(space: ModelSpace) -> LatencyProfiler:
    return LatencyProfiler(space, MacsEstimator(), (WIDTH,))


def limits_of(space: ModelSpace, macs_bound: float, parameters_bound: float) -> dict[str, tuple[Any, float]]:
    parameters = LatencyProfiler(space, ParametersEstimator(), (WIDTH,))
    return {"macs": (macs(space), macs_bound), "parameters": (parameters, parameters_bound)}


def searched(
    strategy: EarlyExitEvolution, space: ModelSpace, judge: Judge, max_model_count: int | None = None
) -> EarlyExitEvolution:
    engine = SequentialExecutionEngine(max_model_count=max_model_count, continue_on_failure=True)
    strategy(RawFormatModelSpace(space, judge), engine)
    return strategy


def names(samples: list[dict[str, Any]]) -> list[tuple]:
    return [tuple(sorted(sample.items())) for sample in samples]


def dominated(one: list[float], other: list[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other


@pytest.fixture(scope="module")
def eight() -> tuple[Layers, dict[str, tuple[Any, float]]]:
    """A space of 65,536 networks, two thirds of which keep both bounds: two wide layers at most, and the others not all plain."""
    space = Layers(8)
    return space, limits_of(space, 1.35e-3, 1.45e-3)


# -- bounds ------------------------------------------------------------------------------------------------------------


def test_ten_thousand_draws_keep_every_bound(eight):
    space, limits = eight
    sampling = EarlyExitSampling(BoundedSpace(space, limits), max_draws=100_000)
    drawn = sampling.do(None, 10_000, random_state=np.random.default_rng(0)).get("X")
    choices = list(Layers.candidates())
    for bound, costs in ((1350, MACS), (1450, PARAMETERS)):
        assert np.array([costs[choice] for choice in choices])[drawn].sum(1).max() <= bound
    assert len({tuple(genome) for genome in drawn}) == 10_000
    assert sampling.n_draws > 14_000


def test_every_network_within_the_bounds_is_as_likely():
    space = Layers(2)
    bounded = BoundedSpace(space, {"macs": (macs(space), 1e-4)})
    within = [genome for genome in itertools.product(range(4), repeat=2) if bounded.keeps(genome)]
    assert 3 < len(within) < 16
    chance, n = np.random.default_rng(0), 2000
    drawn = Counter(
        tuple(EarlyExitSampling(bounded, 1000).do(None, 1, random_state=chance).get("X")[0]) for _ in range(n)
    )
    p = 1 / len(within)
    assert set(drawn) == set(within)
    assert all(abs(drawn[g] / n - p) < 5 * math.sqrt(p * (1 - p) / n) for g in within)  # 6e-7 each


def test_no_network_above_a_bound_and_none_twice_is_trained(eight):
    space, limits = eight
    judge = Judge(worth)
    strategy = searched(EarlyExitEvolution(limits=limits, population_size=20, n_generations=12), space, judge)
    assert len(judge.judged) == 240 == len(set(names(judge.judged)))
    for bound, costs in ((1350, MACS), (1450, PARAMETERS)):
        most = max(sum(costs[choice] for choice in sample.values()) for sample in judge.judged)
        assert 0.95 * bound < most <= bound
    assert strategy.sampling.n_draws - strategy.sampling.n_over >= 20


def test_a_bound_of_nothing_is_a_cost_to_minimize(eight):
    space, _ = eight
    strategy = EarlyExitEvolution(limits={"macs": (macs(space), math.inf)}, population_size=10, n_generations=3)
    front = searched(strategy, space, Judge(worth)).front()
    assert strategy.sampling.n_over == 0
    assert [trial.costs["macs"] for trial in front] == sorted((t.costs["macs"] for t in front), reverse=True)


def test_bounds_that_no_network_keeps_are_named_with_the_least_that_was_seen(eight):
    space, limits = eight
    strategy = EarlyExitEvolution(limits={**limits, "macs": (limits["macs"][0], -1)}, max_draws=300)
    with pytest.raises(
        BudgetError,
        match=r"limits: of 300 random networks none keeps every bound \(macs at most -1, least seen 0\.000\d+; parameters at most 0\.00145, "
        r"least seen 0\.000\d+\); allowed: bounds that networks of the space keep",
    ):
        searched(strategy, space, Judge(worth))


# -- the front ---------------------------------------------------------------------------------------------------------


def test_the_front_of_a_small_space_is_that_of_all_its_networks():
    space = Layers(3)
    limits = limits_of(space, 6e-4, 7e-4)
    bounded, judge = BoundedSpace(space, limits), Judge(worth)
    strategy = searched(EarlyExitEvolution(limits=limits, population_size=8, n_generations=100), space, judge)
    within = [bounded.sample(g) for g in itertools.product(range(4), repeat=3) if bounded.keeps(g)]
    assert 20 < len(within) < 64
    assert sorted(names(judge.judged)) == sorted(names(within)), "all are tried, and the search ends by itself"
    every = [Trial(sample, worth(sample), bounded.costs(sample)) for sample in within]
    best = [one for one in every if not any(dominated(one.objectives(), other.objectives()) for other in every)]
    assert sorted(names([trial.sample for trial in strategy.front()])) == sorted(names([one.sample for one in best]))


def test_evolution_finds_what_random_draws_do_not():
    """Of 4^10 networks the best one: 480 draws have it with a probability of 0.05 %."""
    space = Layers(10)
    strategy = searched(
        EarlyExitEvolution(limits={}, population_size=20, n_generations=24),
        space,
        Judge(lambda sample: sum(WORTH[choice] for choice in sample.values())),
    )
    (best,) = strategy.front()
    assert best.metric == 10.0
    assert set(best.sample.values()) == {"wide"}


def test_models_are_those_of_the_front(eight):
    space, limits = eight
    strategy = searched(EarlyExitEvolution(limits=limits, population_size=10, n_generations=3), space, Judge(worth))
    models = list(strategy.list_models())
    assert [model.sample for model in models] == [trial.sample for trial in strategy.front()]
    assert [model.metric for model in models] == sorted((worth(m.sample) for m in models), reverse=True)
    assert {model.status for model in models} == {ModelStatus.Trained}
    assert [model.sample for model in strategy.list_models(limit=2)] == [model.sample for model in models[:2]]
    assert len(list(strategy.list_models(sort=False))) == 30


def test_in_an_experiment_of_nni(eight, home):
    space, limits = eight
    strategy, judge = EarlyExitEvolution(limits=limits, population_size=6, n_generations=2), Judge(worth)
    config = NasExperimentConfig(execution_engine="sequential", model_format="raw")
    experiment = NasExperiment(space, judge, strategy, config=config)
    assert experiment.run()
    experiment.stop()
    assert len(judge.judged) == 12
    best, *_ = experiment.export_top_models(formatter="dict")
    assert worth(best) == max(map(worth, judge.judged))


# -- trials that fail, and ends of a budget ----------------------------------------------------------------------------


def test_trials_that_fail_are_left_out_and_the_search_goes_on(eight):
    space, limits = eight

    def fails(sample: dict[str, Any]) -> float:
        if sample["layer0"] == "skip":
            raise OSError("no space left")
        return math.nan if sample["layer1"] == "skip" else worth(sample)

    judge = Judge(fails)
    strategy = searched(EarlyExitEvolution(limits=limits, population_size=20, n_generations=10), space, judge)
    assert len(judge.judged) == 200 == len(set(names(judge.judged)))
    failed = [trial for trial in strategy.trials() if trial.metric is None]
    assert failed
    assert all("skip" in (trial.sample["layer0"], trial.sample["layer1"]) for trial in failed)
    assert len([t for t in strategy.trials()[100:] if t.metric is None]) < len(failed) / 2, "they have no offspring"
    assert all(trial.metric is not None for trial in strategy.front())


def test_a_generation_may_fail_but_not_the_first(eight):
    space, _ = eight
    n = 0

    def later(sample: dict[str, Any]) -> float:
        nonlocal n
        n += 1
        if n in range(7, 13):
            raise OSError
        return worth(sample)

    strategy = searched(EarlyExitEvolution(limits={}, population_size=6, n_generations=4), space, Judge(later))
    assert [trial.metric is None for trial in strategy.trials()] == [False] * 6 + [True] * 6 + [False] * 12

    with pytest.raises(RuntimeError, match="all 6 trials of the first generation have failed"):
        searched(EarlyExitEvolution(limits={}, population_size=6), space, Judge(lambda sample: math.nan))


def test_a_search_ends_with_the_budget_of_the_engine(eight):
    space, limits = eight
    strategy = EarlyExitEvolution(limits=limits, population_size=10, n_generations=5)
    searched(strategy, space, Judge(worth), max_model_count=17)
    assert len(strategy.trials()) == 17
    assert strategy.front()


# -- stop and go on ----------------------------------------------------------------------------------------------------


class Interrupted(Judge):
    """Stops the search while the n-th network is trained."""

    def __init__(self, metric: Callable[[dict[str, Any]], float], n: int):
        super().__init__(metric)
        self.n = n

    def _execute(self, model: Any) -> None:
        super()._execute(model)
        if len(self.judged) == self.n:
            raise KeyboardInterrupt


def options(limits: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"limits": limits, "population_size": 12, "n_generations": 6, "seed": 3, **more}


@pytest.mark.parametrize("at", [5, 12, 31])
def test_a_search_that_was_stopped_ends_with_the_same_front(eight, at):
    space, limits = eight
    judge = Judge(lambda sample: math.nan if sample["layer0"] == "skip" else worth(sample))
    whole = searched(EarlyExitEvolution(**options(limits)), space, judge)

    first, stop = EarlyExitEvolution(**options(limits)), Interrupted(judge.metric, at)
    with pytest.raises(KeyboardInterrupt):
        searched(first, space, stop)
    state = json.loads(json.dumps(first.state_dict()))

    second, rest = EarlyExitEvolution(**options(limits)), Judge(judge.metric)
    second.initialize(RawFormatModelSpace(space, rest), SequentialExecutionEngine())
    second.load_state_dict(state)
    second.run()
    assert second.front() == whole.front()
    assert second.trials() == whole.trials()
    assert [*stop.judged[: at - 1], *rest.judged] == judge.judged, "no network is trained twice but the one interrupted"


def test_a_file_has_the_state_of_a_search_that_was_killed(eight, tmp_path):
    space, limits = eight
    whole = searched(EarlyExitEvolution(**options(limits)), space, Judge(worth))
    file = tmp_path / "deeper" / "evolution.json"
    with pytest.raises(KeyboardInterrupt):
        searched(EarlyExitEvolution(**options(limits, state_file=str(file))), space, Interrupted(worth, 20))
    assert len(json.loads(file.read_text())["trials"]) == 19

    rest = Judge(worth)
    longer = searched(EarlyExitEvolution(**options(limits, state_file=str(file), n_generations=8)), space, rest)
    assert longer.trials()[:72] == whole.trials()
    assert len(rest.judged) == 96 - 19


def test_a_state_of_another_search_is_refused(eight):
    space, limits = eight
    strategy = searched(EarlyExitEvolution(**options(limits)), space, Judge(worth), max_model_count=3)
    state = strategy.state_dict()

    def refused(state: dict[str, Any], space: ModelSpace, **options: Any) -> str:
        other = EarlyExitEvolution(**options)
        other.initialize(RawFormatModelSpace(space, None), SequentialExecutionEngine())
        with pytest.raises(ValueError, match="the state is of") as error:
            other.load_state_dict(state)
        return str(error.value)

    assert refused(state, space, **options(limits, population_size=13)) == (
        "the state is of another search: options.population_size is 13 here, 12 in the state"
    )
    tighter = {**limits, "macs": (limits["macs"][0], 5e-4)}
    assert "options.limits.macs is 0.0005 here, 0.00135 in the state" in refused(state, space, **options(tighter))
    larger = Layers(9)
    assert "candidates.layer8 is only here" in refused(state, larger, **options(limits_of(larger, 1.35e-3, 1.45e-3)))
    assert strategy.state_dict() == state
    state["trials"][0]["costs"]["macs"] = 7.0
    assert "the state is of other costs" in refused(state, space, **options(limits))


def test_a_file_that_is_no_state_is_named(eight, tmp_path):
    space, limits = eight
    for text, said in (
        ("{", "Expecting property name"),
        ('{"samples": 3}', "the state is of another search: options is only here"),
    ):
        (tmp_path / "other.json").write_text(text)
        strategy = EarlyExitEvolution(limits=limits, state_file=str(tmp_path / "other.json"))
        with pytest.raises(ValueError, match=f"state_file '.*other.json': {said}"):
            strategy.initialize(RawFormatModelSpace(space, None), SequentialExecutionEngine())
        assert (tmp_path / "other.json").read_text() == text


# -- spaces and options ------------------------------------------------------------------------------------------------


class Mixed(ModelSpace):
    """Inputs, a depth, and two layers of which one at most may be wide."""

    def __init__(self) -> None:
        super().__init__()
        first, second = (LayerChoice(Layers.candidates(), label=label) for label in ("first", "second"))
        self.first, self.second = first, second
        both = (first.choice == "wide") & (second.choice == "wide")
        self.add_mutable(ExpressionConstraint(both == False, label="one_wide"))  # noqa: E712  (an expression)
        self.inputs = InputChoice(n_candidates=3, n_chosen=2, label="inputs")
        self.deep = Repeat(lambda index: nn.Linear(WIDTH, WIDTH), (1, 3), label="depth")

    def forward(self, x: Tensor) -> Tensor:
        return self.deep(self.inputs([x, self.first(x), self.second(x)]))


def test_inputs_depths_and_constraints_of_a_space():
    space, judge = Mixed(), Judge(lambda sample: sample["depth"] + len(sample["inputs"]))
    searched(EarlyExitEvolution(limits={}, population_size=30, n_generations=40), space, judge)
    assert len(judge.judged) == (16 - 1) * 3 * 3
    assert all(space.contains(sample) for sample in judge.judged)
    assert sorted({tuple(sample["inputs"]) for sample in judge.judged}) == [(0, 1), (0, 2), (1, 2)]


class Continuous(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nni.uniform("drop", 0, 1)
        self.add_mutable(self.drop)


def test_what_it_cannot_search_is_refused_by_name():
    with pytest.raises(ValueError, match="choice 'drop' is a Numerical; allowed: choices among finitely many"):
        searched(EarlyExitEvolution(limits={}), Continuous(), Judge(worth))
    with pytest.raises(ValueError, match="the space has no choices; allowed: one or more"):
        searched(EarlyExitEvolution(limits={}), Layers(0), Judge(worth))


def test_options_out_of_range_are_named_all_at_once():
    with pytest.raises(ValueError, match=r"population_size is 1; allowed: 2 or more; mutation_prob is 2; .*up to 1"):
        EarlyExitEvolution(limits={}, population_size=1, mutation_prob=2)
    with pytest.raises(ValueError, match=r"limits\['ms'\] is None, 3; allowed: a profiler and a number, which may be "):
        EarlyExitEvolution(limits={"ms": (None, 3)})


def test_a_mutated_gene_is_another_candidate_of_its_label():
    sizes = np.array([1, 2, 5])

    class Problem:
        xu = sizes - 1

    genes = np.zeros((3000, 3), dtype=int)
    mutated = RandomReset(0.5)._do(Problem, genes, random_state=np.random.default_rng(0))
    assert (mutated < sizes).all()
    changed = (mutated != 0).mean(0)
    assert changed[0] == 0
    assert abs(changed[1:] - 0.5).max() < 5 * math.sqrt(0.25 / 3000)  # 6e-7 each
    assert set(mutated[:, 2]) == set(range(5))


def test_without_pymoo_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name: str, *args: Any) -> Any:
        if name.split(".")[0] == "pymoo":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    for name in ("evolution", "nsga2"):
        monkeypatch.delitem(sys.modules, f"nni_proxyless.strategies.{name}")
    with pytest.raises(ImportError, match=r"needs pymoo, which is missing; install nni-proxyless\[evolution\]"):
        importlib.import_module("nni_proxyless.strategies.evolution")


def test_it_has_a_name():
    assert registry.load("nni_proxyless.multi_trial_strategies", "early-exit-evolution") is EarlyExitEvolution
