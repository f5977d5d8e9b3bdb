"""DSNAS on every kind of model space that NNI has, through NNI's own ``NasExperiment``; what has to hold is in ``check``."""

from __future__ import annotations

import pytest
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader, Lightning, Regression, Trainer
from nni_proxyless.strategies import DSNAS
from torch.utils.data import TensorDataset

from .test_spaces import (
    BATCH,
    KINDS,
    LABELS,
    QUIET,
    WIDTH,
    DataModule,
    Measured,
    Simple,
    Task,
    check,
    data,
    images,
    nas_bench,
    proxyless_space,
    pytestmark,  # noqa: F401  (marks this file too)
    search,  # noqa: F401  (a fixture)
    shufflenet_space,
)

REWARDS = ("loss", "gradient")


@pytest.mark.parametrize(("make", "reward"), [(make, REWARDS[i % 2]) for i, make in enumerate(KINDS)])
def test_a_search_leaves_its_most_probable_network(search, make, reward):  # noqa: F811  (the fixture)
    """Any space of LayerChoice, InputChoice and Repeat. Choices inside candidates that were not sampled may not have moved."""
    strategy = DSNAS(search_epochs=2, arc_learning_rate=0.05, fix_gap=1.0, reward=reward)
    check(search(make, strategy), make, torch.randn(5, WIDTH), lambda label: True)
    assert strategy.oneshot_module.child_since == 2


@pytest.mark.parametrize("make", [nas_bench, proxyless_space, shufflenet_space])
def test_spaces_of_the_hub(search, make):  # noqa: F811  (the fixture)
    """NASBench-201, ProxylessNAS and ShuffleNet of NNI's hub with NNI's ``Classification``: in-place activations, shared
    labels, depths; without validation data."""
    evaluator = Classification(
        num_classes=LABELS, learning_rate=0.01, train_dataloaders=images(2), max_epochs=2, **QUIET
    )
    strategy = DSNAS(arc_learning_rate=0.05, reward="gradient" if make is shufflenet_space else "loss")
    check(search(make, strategy, evaluator), make, torch.randn(2, 3, 32, 32), lambda label: True)


def test_regression_of_nni(search):  # noqa: F811  (the fixture)
    numbers = DataLoader(TensorDataset(torch.randn(48, WIDTH), torch.randn(48)), batch_size=BATCH)
    evaluator = Regression(learning_rate=0.01, train_dataloaders=numbers, max_epochs=2, **QUIET)
    check(search(Measured, DSNAS(arc_learning_rate=0.05), evaluator), Measured, torch.randn(5, WIDTH))


def test_a_data_module_of_the_users_own(search):  # noqa: F811  (the fixture)
    """A data module gives the same search as its loader handed over: the same bits in every logit."""
    found = []
    for source in ({"datamodule": DataModule()}, {"train_dataloaders": data(4)}):
        strategy = DSNAS(arc_learning_rate=0.05)
        check(
            search(Simple, strategy, Lightning(Task(), Trainer(max_epochs=3, **QUIET), **source)),
            Simple,
            torch.randn(5, WIDTH),
        )
        found.append([gate.alpha.tolist() for gate in strategy._gates.values()])
    assert found[0] == found[1]
