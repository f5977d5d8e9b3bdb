"""What else is known of choices: whether it counts beside verdicts, how much, and what losses of a training say."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from nni_proxyless.search.witnesses import hear, of_training

CANDIDATES = {f"p{i}": [f"c{j}" for j in range(3)] for i in range(6)}


def losses_of(scores: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {label: {choice: -score for choice, score in of.items()} for label, of in scores.items()}


def drawn(seed: int, n: int = 60) -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    chance = random.Random(seed)
    truth = {label: {c: chance.gauss(0, 1) for c in of} for label, of in CANDIDATES.items()}
    return [{label: chance.choice(of) for label, of in CANDIDATES.items()} for _ in range(n)], truth


def loss_of(sample: dict[str, Any], scores: dict[str, dict[str, float]]) -> float:
    return -sum(scores[label][choice] for label, choice in sample.items())


def test_what_agrees_counts_as_much_as_the_verdicts():
    samples, truth = drawn(0)
    losses = [3 + loss_of(sample, truth) for sample in samples]
    witness = hear(losses_of(truth), samples, losses, CANDIDATES)
    assert witness.correlation == pytest.approx(1)
    said = np.array([witness.loss(sample) for sample in samples])
    assert said.std() == pytest.approx(np.std(losses))
    assert said - said.mean() == pytest.approx(np.array(losses) - np.mean(losses))
    scores = {label: dict.fromkeys(of, 0.0) for label, of in CANDIDATES.items()}
    added = witness.added_to(scores)
    assert [sum(added[label][c] for label, c in s.items()) for s in samples] == pytest.approx(said.tolist())
    twice = hear(losses_of(truth), samples, [2 * loss for loss in losses], CANDIDATES)
    assert twice.weight == pytest.approx(2 * witness.weight)


def test_what_contradicts_does_not_count():
    samples, truth = drawn(0)
    contrary = hear(losses_of(truth), samples, [-loss_of(sample, truth) for sample in samples], CANDIDATES)
    assert contrary.correlation == pytest.approx(-1)
    assert contrary.weight == contrary.loss(samples[0]) == 0
    scores = {"p0": {"c0": 1.0}}
    assert contrary.added_to(scores) == scores


def test_losses_that_are_no_numbers_are_left_out():
    samples, truth = drawn(0)
    losses = [loss_of(sample, truth) for sample in samples]
    whole = hear(losses_of(truth), samples, losses, CANDIDATES)
    diverged = hear(losses_of(truth), [samples[0], *samples], [math.inf, *losses], CANDIDATES)
    assert (diverged.correlation, diverged.weight) == (whole.correlation, whole.weight)


def test_what_says_nothing_of_a_candidate_does_not_count():
    samples, truth = drawn(0)
    losses = [loss_of(sample, truth) for sample in samples]
    lacks = losses_of(truth)
    del lacks["p3"]["c1"]
    alike = {label: dict.fromkeys(of, 1.0) for label, of in CANDIDATES.items()}
    for scores in ({}, lacks, alike):
        witness = hear(scores, samples, losses, CANDIDATES)
        assert (witness.weight, math.isnan(witness.correlation)) == (0, True)
    assert hear(losses_of(truth), samples[:4], losses[:4], CANDIDATES).weight == 0


def test_sets_of_inputs_are_choices_too():
    sets = [(0,), (1,), (0, 1)]
    samples, truth = drawn(0)
    as_sets = {label: dict(zip(sets, of.values(), strict=True)) for label, of in truth.items()}
    chosen = [{label: list(sets[int(c[1:])]) for label, c in sample.items()} for sample in samples]
    losses = [loss_of(sample, truth) for sample in samples]
    witness = hear(losses_of(as_sets), chosen, losses, dict.fromkeys(CANDIDATES, sets))
    assert witness.loss(chosen[0]) - witness.loss(chosen[1]) == pytest.approx(losses[0] - losses[1])


def test_losses_of_a_training_tell_choices_apart():
    """From the losses of single batches, which fall all the time and are mostly noise."""
    paths, truth = drawn(0, 2000)
    draw = np.random.default_rng(0)
    steps = np.arange(len(paths))
    losses = [
        3 / (1 + t / 500) + 0.1 * loss_of(path, truth) + draw.normal() for t, path in zip(steps, paths, strict=True)
    ]
    scores = of_training(paths, losses, CANDIDATES)
    others, _ = drawn(1)
    said = [sum(scores[label][c] for label, c in sample.items()) for sample in others]
    assert np.corrcoef(said, [loss_of(sample, truth) for sample in others])[0, 1] > 0.8
    assert scores
    losses[7], losses[300] = math.nan, math.inf
    assert of_training(paths, losses, CANDIDATES)["p0"] == pytest.approx(scores["p0"], abs=0.01)
    assert of_training(paths[:9], losses[:9], CANDIDATES) == {}


def test_losses_of_a_training_that_choices_do_not_tell_are_left_out():
    """Of trainings whose losses are noise about one in twenty says something nevertheless: of 40 six at most (binomial, 0.99)."""
    heard = 0
    for seed in range(40):
        paths, _ = drawn(seed, 100)
        heard += bool(of_training(paths, np.random.default_rng(seed).normal(size=100).tolist(), CANDIDATES))
    assert heard <= 6
