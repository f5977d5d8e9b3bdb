"""Trials of an evolution, in whatever order they end, fail, are stopped and go on; NNI's part is played by a few lines."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from nni_proxyless.strategies import EarlyExitEvolution

from nni_proxyless.search.evolution_trials import EvolutionTrials
from nni_proxyless.search.evolved_space import EvolvedSpace

from ..strategies.test_evolution import Judge, searched

SEARCH = """
space: {preset: small, widths: [8, 16], depths: [2, 2], strides: [2, 2], stem_width: 8, feature_mix: 32}
data: {name: digits, image_size: 8}
latency: {target_ms: 60%, estimator: {name: macs}}
costs: [{estimator: {name: parameters}, target: 70%}]
"""
SIZE, GENERATIONS = 6, 4


@pytest.fixture(scope="module")
def evolved(tmp_path_factory) -> EvolvedSpace:
    path = tmp_path_factory.mktemp("evolved") / "search.yml"
    path.write_text(SEARCH)
    return EvolvedSpace.read(path)


def worth(parameters: dict[str, Any]) -> float:
    """A number that looks like chance and is the same each time."""
    return random.Random(json.dumps(parameters, sort_keys=True)).random()


def evolution_of(evolved: EvolvedSpace, state_file: Path | None = None) -> EarlyExitEvolution:
    options = {"population_size": SIZE, "n_generations": GENERATIONS, "seed": 1}
    return EarlyExitEvolution(
        limits=evolved.limits, state_file=None if state_file is None else str(state_file), **options
    )


class Manager:
    """What NNI's manager does: asks for so many trials at a time, and tells of each result and of each end."""

    def __init__(self, evolved: EvolvedSpace, state_file: Path | None = None, *, at_once: int = 2, seed: int = 0):
        self.started: dict[int, dict[str, Any]] = {}
        self.running: list[int] = []
        self.chance = random.Random(seed)
        self.at_once = at_once
        evolution = evolution_of(evolved, state_file)
        evolution.begin(evolved.space)
        self.trials = EvolutionTrials(evolution, self.start)

    def start(self, number: int, parameters: dict[str, Any]) -> None:
        self.started[number] = parameters
        self.running.append(number)
        assert len(self.running) <= self.at_once
        assert len({n // SIZE for n in self.running}) == 1, "a generation waits for all trials of the one before"

    def report(self, number: int) -> None:
        self.trials.result(number, worth(self.started[number]), f"job{number}")

    def end(self, number: int) -> None:
        self.running.remove(number)
        self.trials.end(number)
        self.trials.request(1)

    def run(self, n: int | None = None, fails: Any = lambda number: False) -> None:
        """Let n more trials end, in any order; None: all."""
        while self.running and n != 0:
            number = self.chance.choice(self.running)
            if not fails(number):
                self.report(number)
            self.end(number)
            n = None if n is None else n - 1


def run(evolved: EvolvedSpace, **options: Any) -> Manager:
    manager = Manager(evolved, **options)
    manager.trials.request(manager.at_once)
    manager.run()
    return manager


@pytest.mark.parametrize("at_once", [1, 4])
def test_trials_are_what_the_strategy_trains_by_an_engine_of_nni(evolved, at_once):
    manager = run(evolved, at_once=at_once)
    assert manager.trials.is_over
    assert list(manager.started) == list(range(SIZE * GENERATIONS))
    assert len({json.dumps(parameters) for parameters in manager.started.values()}) == SIZE * GENERATIONS
    for parameters in manager.started.values():
        for profiler, bound in evolved.limits.values():
            assert profiler.profile(parameters) <= bound

    strategy = searched(evolution_of(evolved), evolved.space, Judge(worth))
    assert [trial for _, trial in manager.trials.front()] == strategy.front()
    for job, trial in manager.trials.front():
        assert manager.started[int(job.removeprefix("job"))] == trial.sample


def test_trials_that_fail_are_left_out(evolved):
    manager = Manager(evolved)
    manager.trials.request(2)
    manager.run(fails=lambda number: number % 3 == 0)
    assert list(manager.started) == list(range(SIZE * GENERATIONS))
    failed = [trial.sample for trial in manager.trials.evolution.trials() if trial.metric is None]
    assert sorted(map(str, failed)) == sorted(str(p) for number, p in manager.started.items() if number % 3 == 0)
    assert not any(trial.sample in failed for _, trial in manager.trials.front())


def test_parameters_that_two_trials_have_swapped_count_for_whom_they_are(evolved):
    """Trial 0 has the parameters of trial 1, and fails; trial 1 reports for 0, after trial 0 has ended."""
    manager = Manager(evolved, at_once=SIZE)
    manager.trials.request(SIZE)
    manager.end(0)
    manager.report(0)
    manager.end(1)
    manager.run()
    trials = {str(trial.sample): trial.metric for trial in manager.trials.evolution.trials()}
    assert trials[str(manager.started[0])] == worth(manager.started[0])
    assert trials[str(manager.started[1])] is None
    assert manager.trials.is_over


@pytest.mark.parametrize("after", [0, 3, SIZE, SIZE + 1, SIZE * GENERATIONS])
def test_an_experiment_that_was_stopped_ends_with_the_same_front(evolved, tmp_path, after):
    """Two trials are running then; NNI goes on with one, the other was killed in between, its result known to NNI alone."""
    whole = run(evolved)
    first = Manager(evolved, tmp_path / "evolution.json")
    first.trials.request(2)
    first.run(after)
    left = list(first.running)

    second = Manager(evolved, tmp_path / "evolution.json", seed=1)
    for number in (number for number in first.started if number not in left[:1]):
        second.trials.known(first.started[number], worth(first.started[number]), f"job{number}")
    second.trials.known({"another": "experiment"}, 1.0, "imported")
    second.started |= first.started
    second.running = left[:1]
    second.trials.goes_on(left[:1])
    second.trials.request(2 - len(second.running))
    second.run()
    assert second.trials.is_over
    assert second.started == whole.started
    assert second.trials.front() == whole.trials.front()


def test_a_trial_that_had_reported_before_a_stop_and_not_ended_has_its_name_in_the_front(evolved, tmp_path):
    """As the last of its generation: the next one has begun when NNI runs it again, since to NNI it had not succeeded."""
    first = Manager(evolved, tmp_path / "evolution.json")
    first.trials.request(2)
    first.run(SIZE - 1)
    (last,) = first.running
    first.report(last)

    second = Manager(evolved, tmp_path / "evolution.json")
    for number in first.started.keys() - {last}:
        second.trials.known(first.started[number], worth(first.started[number]), f"job{number}")
    second.started |= first.started
    second.running = [last]
    second.trials.goes_on({last})
    second.report(last)
    second.end(last)
    second.run()
    assert second.trials.front() == run(evolved).trials.front()


def test_what_is_no_trial_of_the_generation_changes_nothing(evolved):
    manager = Manager(evolved)
    manager.trials.request(2)
    manager.run(SIZE)
    before = manager.trials.evolution.state_dict()
    manager.trials.result(0, 5.0, "again")
    manager.trials.end(0)
    manager.trials.end(None)  # added in the web UI
    assert manager.trials.evolution.state_dict() == before
