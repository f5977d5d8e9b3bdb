"""Both strategies through NNI's own ``NasExperiment``, from the space to the network; other spaces are in ``test_nni_spaces.py``."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import nni
import pytest
import pytorch_lightning
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader, Lightning, LightningModule, Regression, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, Repeat, ValueChoice
from nni.nas.space import model_context
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from nni_proxyless.strategies.supernet.layers import SampledModule
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from . import kinds
from .searches import OF_EXPERIMENTS, QUIET
from .spaces import CLASSES, WIDTH, bent, linear

BATCH = 16
UPDATES, REWARDS = ("two-path", "full", "reinforce"), ("loss", "gradient")

pytestmark = OF_EXPERIMENTS


class Task(LightningModule):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)


def data(n: int, seed: int = 0) -> DataLoader:
    """n batches of noise with a trace of the class in it."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (n * BATCH,), generator=generator)
    x = torch.randn(n * BATCH, WIDTH, generator=generator) + y.float().reshape(-1, 1)
    return DataLoader(TensorDataset(x, y), batch_size=BATCH)


def strategy_of(method: str) -> Any:
    """ProxylessNAS with that update, or DSNAS with that reward."""
    if method in REWARDS:
        return DSNAS(reward=method, arc_learning_rate=0.05, fix_gap=1.0)
    return ProxylessNAS(update=method, arc_update_every=1, arc_learning_rate=0.05)


def loaders(method: str, train: Any, held_out: Any) -> dict[str, Any]:
    """DSNAS does without validation data."""
    return {"train_dataloaders": train, **({} if method in REWARDS else {"val_dataloaders": held_out})}


@pytest.fixture
def search(home):
    """Runs NNI's experiment to the end; returns it before it is stopped, and stops it after the test."""
    running = []

    def run(make, method: str, evaluator: Lightning | None = None) -> NasExperiment:
        torch.manual_seed(0)
        trainer = Trainer(
            max_epochs=4 if method in REWARDS else 3, **QUIET
        )  # of four, two search and two train the child
        evaluator = evaluator or Lightning(Task(), trainer, **loaders(method, data(4), data(3, 1)))
        experiment = NasExperiment(make(), evaluator, strategy_of(method))
        running.append(experiment)
        assert experiment.run()
        return experiment

    yield run
    for experiment in running:
        experiment.stop()
    listed = home / "nni-experiments" / ".experiment"
    assert all(experiment.id in listed.read_text() for experiment in running), "NNI lists experiments elsewhere"


def initial(make, searched: Any) -> tuple[ModelSpace, dict[str, Tensor]]:
    """Supernet and logits as a search with the same strategy and seeds starts from."""
    torch.manual_seed(0)
    strategy = type(searched)(seed=searched.seed)
    space = strategy.mutate_model(make())
    return space, {label: gate.alpha.detach().clone() for label, gate in strategy._gates.items()}


def check(experiment: NasExperiment, make, example: Tensor) -> None:
    """What has to hold after every search.

    Property 24: the derived network is the argmax of every gate, the same at every call, and its output equals the
    supernet's between steps, to the bit. Logits of all gates have moved, and weights of trunk and candidates.
    """
    strategy = experiment.strategy
    (found,) = experiment.export_top_models(formatter="dict")
    assert experiment.export_top_models(formatter="dict") == [found]
    assert all(strategy.oneshot_module.export() == found for _ in range(10))
    argmax = {label: gate.choices[int(gate.alpha.argmax())] for label, gate in strategy._gates.items()}
    assert found == {label: list(value) if isinstance(value, tuple) else value for label, value in argmax.items()}

    before, alphas = initial(make, strategy)
    stayed = {label for label, alpha in alphas.items() if torch.equal(alpha, strategy._gates[label].alpha)}
    assert not stayed
    after = strategy.supernet.state_dict()
    start = before.state_dict()
    moved = [name for name, value in after.items() if not torch.equal(value, start[name])]
    assert len(moved) >= 4, moved

    (network,) = experiment.export_top_models(formatter="instance")
    assert not any(
        isinstance(module, (SampledModule, LayerChoice, InputChoice, Repeat)) for module in network.modules()
    )
    expected = strategy.supernet.eval()(example)
    assert torch.equal(network.eval()(example), expected)

    fresh = make()
    assert fresh.contains(found)
    assert fresh.simplify().keys() == found.keys()
    with model_context(found):
        rebuilt = make()
    rebuilt.load_state_dict(network.state_dict())
    assert torch.equal(rebuilt.eval()(example), expected)


class DepthOfValueChoice(kinds.Deep):
    """As NNI's documentation of ``Repeat`` writes it: an old name of ``Categorical``, with a warning of NNI's own."""

    def build(self):
        with pytest.warns(DeprecationWarning, match="ValueChoice is deprecated"):
            depth = ValueChoice([1, 3], label="depth")
        self.blocks = Repeat(lambda index: bent(), depth)


CHOICES = {
    kinds.Simple: {"listed": [0, 1, 2], "named": ["straight", "bent"]},
    kinds.SharedLabel: {"both": [0, 1]},
    kinds.Inputs: {"pick": [(0,), (1,), (2,), (3,)]},
    kinds.TwoInputs: {"pick": list(combinations(range(4), 2))},
    kinds.AnyInputs: {"pick": [c for n in (1, 2, 3, 4) for c in combinations(range(4), n)]},
    kinds.Deep: {"depth": [1, 2, 3]},
    kinds.DepthFromZero: {"depth": [0, 1, 2]},
    kinds.DepthOfChoice: {"depth": [1, 3]},
    kinds.DepthOfExpression: {"depth": [1, 2]},
    kinds.DepthOfTwoLabels: {"more": [0, 1], "most": [1, 2]},
    kinds.DepthOfOneChoice: {"block": [0, 1], "depth": [1, 2, 3]},
    kinds.DepthOfChoices: {"block0": [0, 1], "block1": [0, 1], "block2": [0, 1], "depth": [1, 2, 3]},
    DepthOfValueChoice: {"depth": [1, 3]},
    kinds.OneCandidate: {"only": [0], "other": [0, 1]},
}


@pytest.mark.parametrize("make", CHOICES)
def test_what_there_is_to_choose_from(make):
    """One gate per label of the space, in the order of labels; sets of inputs, not inputs, are candidates."""
    strategy = ProxylessNAS()
    strategy.mutate_model(make())
    assert list(strategy._gates) == list(CHOICES[make])
    assert {label: gate.choices for label, gate in strategy._gates.items()} == CHOICES[make]


class Twin(kinds.Small):
    """One module under two names of one parent: both names must run the sampled candidate."""

    def build(self):
        self.first = LayerChoice([linear(), bent()], label="both")
        self.second = self.first

    def body(self, x):
        return self.second(torch.relu(self.first(x)))


def test_one_choice_under_two_names_is_one_choice():
    """y = o_k(relu(o_k(x))) for every k: the second name must not stay at the first candidate without a word."""
    torch.manual_seed(0)
    strategy = ProxylessNAS()
    space = strategy.mutate_model(Twin()).eval()
    x = torch.randn(5, WIDTH)
    for k in range(2):
        strategy._gates["both"].open(k)
        candidate = space.first[k]
        assert torch.equal(space(x), space.last(candidate(torch.relu(candidate(x)))))


class OnlyOne(kinds.Small):
    def build(self):
        self.only = LayerChoice([bent()], label="only")

    def body(self, x):
        return self.only(x)


def test_a_space_in_which_nothing_is_open_is_refused():
    """Every choice has one candidate: there is no gradient for any logit, which must be said before training starts."""
    with pytest.raises(ValueError, match="nothing to search"):
        ProxylessNAS().mutate_model(OnlyOne())


# -- NNI's evaluators ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["reinforce", "gradient"])
def test_classification_of_nni(search, method):
    """NNI's ``Classification``, whose accuracy is a reward."""
    given = loaders(method, data(4), data(3, 1))
    evaluator = Classification(num_classes=CLASSES, learning_rate=0.01, max_epochs=2, **given, **QUIET)
    check(search(kinds.Simple, method, evaluator), kinds.Simple, torch.randn(5, WIDTH))


class Measured(kinds.Small):
    """Numbers in the place of logits."""

    def build(self):
        self.choice = LayerChoice([linear(), bent()], label="choice")
        self.number = nn.Linear(CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.number(self.last(self.choice(x)))[:, 0]


@pytest.mark.parametrize("method", ["two-path", "full", "loss"])
def test_regression_of_nni(search, method):
    """NNI's ``Regression`` with what differentiates the loss."""
    numbers = [DataLoader(TensorDataset(torch.randn(48, WIDTH), torch.randn(48)), batch_size=BATCH) for _ in range(2)]
    evaluator = Regression(learning_rate=0.01, max_epochs=2, **loaders(method, *numbers), **QUIET)
    check(search(Measured, method, evaluator), Measured, torch.randn(5, WIDTH))


@nni.trace
class DataModule(pytorch_lightning.LightningDataModule):
    """Makes its data when Lightning says so."""

    def setup(self, stage: str) -> None:
        self.stage = stage

    def train_dataloader(self):
        assert self.stage == "fit"
        return data(4)

    def val_dataloader(self):
        return data(3, seed=1)


@pytest.mark.parametrize("method", [*UPDATES, "loss"])
def test_a_module_and_a_data_module_of_the_users_own(search, method):
    """A data module gives the same search as its loaders handed over: the same bits in every logit."""
    found = []
    for source in ({"datamodule": DataModule()}, loaders(method, data(4), data(3, 1))):
        experiment = search(kinds.Simple, method, Lightning(Task(), Trainer(max_epochs=2, **QUIET), **source))
        check(experiment, kinds.Simple, torch.randn(5, WIDTH))
        found.append([gate.alpha.tolist() for gate in experiment.strategy._gates.values()])
    assert found[0] == found[1]
