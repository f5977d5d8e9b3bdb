"""ProxylessNAS on every kind of model space that NNI has: searches through NNI's experiment, and gate gradients.

The first part runs NNI's own ``NasExperiment``, from the space to the derived network. The second compares the gradient of
a gate with its closed form, dL/dg_j = sum(dL/dy * o_j(x)), from a forward pass that uses nothing of the code under test.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import combinations
from typing import Any

import nni
import pytest
import pytorch_lightning
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader, Lightning, LightningModule, Regression, Trainer
from nni.nas.experiment import NasExperiment
from nni.nas.hub.pytorch import NasBench201, ShuffleNetSpace
from nni.nas.hub.pytorch import ProxylessNAS as ProxylessSpace
from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice, ModelSpace, Repeat, ValueChoice
from nni.nas.space import model_context
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.supernet.frozen import gradients_off
from nni_proxyless.strategies.supernet.gate import Gate
from nni_proxyless.strategies.supernet.layers import SampledModule
from torch import Tensor, nn
from torch.utils.data import TensorDataset

WIDTH, CLASSES, BATCH = 6, 3, 16
QUIET = {
    "enable_progress_bar": False, "enable_checkpointing": False, "logger": False, "enable_model_summary": False,
    "accelerator": "cpu",
}  # fmt: skip
UPDATES = ("two-path", "full", "reinforce")

pytestmark = [
    # NasExperiment leaves its log file open when it stops.
    pytest.mark.filterwarnings("ignore:.*FileIO name=.*experiment.log:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file.*experiment.log:ResourceWarning"),
]


def linear(index: int = 0) -> nn.Module:
    return nn.Linear(WIDTH, WIDTH)


def bent() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())


# -- spaces, from features to logits -----------------------------------------------------------------------------------


class Small(ModelSpace):
    """Features -> body -> logits."""

    def __init__(self):
        super().__init__()
        self.build()
        self.last = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.body(x))


class Simple(Small):
    """Two choices, one of names and one with a skip."""

    def build(self):
        self.named = LayerChoice({"straight": linear(), "bent": bent()}, label="named")
        self.listed = LayerChoice([linear(), bent(), nn.Identity()], label="listed")

    def body(self, x):
        return self.listed(torch.relu(self.named(x)))


class Nested(Small):
    """A choice as a candidate, and a choice inside a candidate."""

    def build(self):
        inner = LayerChoice([linear(), bent()], label="inner")
        deep = nn.Sequential(linear(), LayerChoice([linear(), bent(), nn.Identity()], label="deep"))
        self.outer = LayerChoice([bent(), inner, deep], label="outer")

    def body(self, x):
        return self.outer(x)


class SharedLabel(Small):
    """Two layers of one label, and one of them called twice."""

    def build(self):
        self.first = LayerChoice([linear(), bent()], label="both")
        self.second = LayerChoice([linear(), bent()], label="both")

    def body(self, x):
        return self.first(torch.relu(self.second(torch.relu(self.first(x)))))


class Inputs(Small):
    """Some of four inputs; with ``concat`` their number of features grows, so what follows must fit."""

    n_chosen: int | None = 1
    reduction = "sum"

    def build(self):
        self.parts = nn.ModuleList(linear() for _ in range(4))
        self.pick = InputChoice(4, self.n_chosen, self.reduction, label="pick")
        self.join = nn.Linear(WIDTH * (self.n_chosen or 1 if self.reduction == "concat" else 1), WIDTH)

    def body(self, x):
        return self.join(self.pick([torch.relu(part(x)) for part in self.parts]))


class TwoInputs(Inputs):
    n_chosen = 2


class MeanOfThreeInputs(Inputs):
    n_chosen, reduction = 3, "mean"


class ConcatenatedInputs(Inputs):
    n_chosen, reduction = 2, "concat"


class AnyInputs(Inputs):
    n_chosen, reduction = None, "mean"


class Deep(Small):
    """Some of the first blocks."""

    def build(self):
        self.blocks = Repeat(lambda index: bent(), (1, 3), label="depth")

    def body(self, x):
        return self.blocks(x)


class DepthFromZero(Deep):
    def build(self):
        self.blocks = Repeat(bent(), (0, 2), label="depth")


class DepthOfChoice(Deep):
    def build(self):
        self.blocks = Repeat([linear(), bent(), linear()], nni.choice("depth", [1, 3]))


class DepthOfExpression(Deep):
    def build(self):
        self.blocks = Repeat(lambda index: bent(), nni.choice("depth", [1, 2]) * 2)


class DepthOfTwoLabels(Deep):
    def build(self):
        self.blocks = Repeat(lambda index: bent(), nni.choice("more", [0, 1]) + nni.choice("most", [1, 2]))


class DepthOfOneChoice(Deep):
    """Deep copies of one choice: all blocks take the same candidate."""

    def build(self):
        self.blocks = Repeat(LayerChoice([linear(), bent()], label="block"), (1, 3), label="depth")


class DepthOfChoices(Deep):
    """A choice of its own in every block."""

    def build(self):
        self.blocks = Repeat(
            lambda index: LayerChoice([linear(), bent()], label=f"block{index}"), (1, 3), label="depth"
        )


class FixedDepthOfChoices(Deep):
    """Nothing to choose in the depth itself."""

    def build(self):
        self.blocks = Repeat(lambda index: LayerChoice([linear(), bent()], label=f"block{index}"), 2)


class Weighed(nn.Module):
    """Two tensors and a number in, one by keyword."""

    def __init__(self, bias: bool):
        super().__init__()
        self.left, self.right = nn.Linear(WIDTH, WIDTH, bias), nn.Linear(WIDTH, WIDTH, bias)

    def forward(self, a: Tensor, b: Tensor, *, share: float = 0.5) -> Tensor:
        return share * self.left(a) + (1 - share) * self.right(b)


class Arguments(Small):
    def build(self):
        self.two = LayerChoice([Weighed(True), Weighed(False)], label="two")
        self.named = LayerChoice([Weighed(True), Weighed(False)], label="named")

    def body(self, x):
        y = torch.relu(self.two(x, -x))
        return self.named(a=x, share=0.25, b=y)


class Halves(nn.Module):
    """One tensor in; two tensors out, in a tuple, or nested in a dict."""

    def __init__(self, kind: type):
        super().__init__()
        self.kind, self.linear = kind, linear()

    def forward(self, x: Tensor):
        y = self.linear(x)
        return (y, torch.tanh(y[:, :2])) if self.kind is tuple else {"y": y, "more": [torch.tanh(y[:, :2]), "a word"]}


class Outputs(Small):
    def build(self):
        self.pair = LayerChoice([Halves(tuple), Halves(tuple)], label="pair")
        self.dict = LayerChoice([Halves(dict), Halves(dict)], label="dict")

    def body(self, x):
        y, few = self.pair(x)
        out = self.dict(torch.relu(y))
        assert out["more"][1] == "a word"
        return out["y"] * (few.sum(dim=1, keepdim=True) + out["more"][0].sum(dim=1, keepdim=True))


class OneCandidate(Small):
    """A choice that has only one candidate, beside one that has two."""

    def build(self):
        self.only = LayerChoice([bent()], label="only")
        self.other = LayerChoice([linear(), bent()], label="other")

    def body(self, x):
        return self.other(self.only(x))


class CellOfNNI(Small):
    """NNI's own cell, an ``InputChoice`` and a ``LayerChoice`` per edge."""

    def build(self):
        self.cell = Cell([linear(), bent()], num_nodes=3, num_ops_per_node=1, num_predecessors=1, label="cell")
        self.join = nn.Linear(3 * WIDTH, WIDTH)

    def body(self, x):
        return self.join(self.cell(x))


# -- searching ---------------------------------------------------------------------------------------------------------


class Task(LightningModule):
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)


def data(n: int, seed: int = 0, classes: int = CLASSES, shape: tuple[int, ...] = (WIDTH,), size: int = BATCH):
    """n batches of noise with a trace of the class in it."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n * size,), generator=generator)
    x = torch.randn(n * size, *shape, generator=generator) + y.float().reshape(-1, *(1 for _ in shape))
    return DataLoader(TensorDataset(x, y), batch_size=size)


@pytest.fixture
def search(home):
    """Runs NNI's experiment to the end; returns it before it is stopped, and stops it after the test."""
    running = []

    def run(make, strategy: Any, evaluator: Lightning | None = None) -> NasExperiment:
        torch.manual_seed(0)
        evaluator = evaluator or Lightning(
            Task(), Trainer(max_epochs=3, **QUIET), train_dataloaders=data(4), val_dataloaders=data(3, seed=1)
        )
        experiment = NasExperiment(make(), evaluator, strategy)
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


def check(experiment: NasExperiment, make, example: Tensor, unreached=lambda label: False) -> dict:
    """What has to hold after every search; returns the architecture.

    Property 24: the derived network is the argmax of every gate, the same at every call, and its output equals the
    supernet's between steps, to the bit. Logits of all gates that have a choice have moved, but for those that no sampled
    path may have reached; weights of trunk and candidates have moved.
    """
    strategy = experiment.strategy
    (found,) = experiment.export_top_models(formatter="dict")
    assert experiment.export_top_models(formatter="dict") == [found]
    assert all(strategy.oneshot_module.export() == found for _ in range(10))
    argmax = {label: gate.choices[int(gate.alpha.argmax())] for label, gate in strategy._gates.items()}
    assert found == {label: list(value) if isinstance(value, tuple) else value for label, value in argmax.items()}

    before, alphas = initial(make, strategy)
    stayed = {label for label, alpha in alphas.items() if torch.equal(alpha, strategy._gates[label].alpha)}
    decided = {label for label, gate in strategy._gates.items() if len(gate.choices) == 1}
    assert decided <= stayed
    assert not [label for label in stayed - decided if not unreached(label)]
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
    return found


KINDS = (
    Simple, Nested, SharedLabel, Inputs, TwoInputs, MeanOfThreeInputs, ConcatenatedInputs, AnyInputs, Deep, DepthFromZero,
    DepthOfChoice, DepthOfExpression, DepthOfTwoLabels, DepthOfOneChoice, DepthOfChoices, FixedDepthOfChoices, Arguments,
    Outputs, OneCandidate, CellOfNNI,
)  # fmt: skip
WITH_EVERY_UPDATE = (Simple, Nested, TwoInputs, DepthOfTwoLabels, DepthOfChoices, Outputs)


@pytest.mark.parametrize(
    ("make", "update"),
    [(make, UPDATES[i % 3]) for i, make in enumerate(KINDS) if make not in WITH_EVERY_UPDATE]
    + [(make, update) for make in WITH_EVERY_UPDATE for update in UPDATES],
)
def test_a_search_leaves_its_most_probable_network(search, make, update):
    """Any space of LayerChoice, InputChoice and Repeat, with any update; see :func:`check`."""
    experiment = search(make, ProxylessNAS(update=update, arc_update_every=1, arc_learning_rate=0.05))
    check(experiment, make, torch.randn(5, WIDTH))


def choices(make) -> dict[str, list]:
    strategy = ProxylessNAS()
    strategy.mutate_model(make())
    return {label: gate.choices for label, gate in strategy._gates.items()}


def test_what_there_is_to_choose_from():
    """One gate per label of the space, in the order of labels; sets of inputs, not inputs, are candidates."""
    assert choices(Simple) == {"listed": [0, 1, 2], "named": ["straight", "bent"]}
    assert choices(SharedLabel) == {"both": [0, 1]}
    assert choices(Inputs) == {"pick": [(0,), (1,), (2,), (3,)]}
    assert choices(TwoInputs) == {"pick": list(combinations(range(4), 2))}
    assert choices(AnyInputs) == {"pick": [c for n in (1, 2, 3, 4) for c in combinations(range(4), n)]}
    assert choices(Deep) == {"depth": [1, 2, 3]}
    assert choices(DepthFromZero) == {"depth": [0, 1, 2]}
    assert choices(DepthOfChoice) == {"depth": [1, 3]}
    assert choices(DepthOfExpression) == {"depth": [1, 2]}
    assert choices(DepthOfTwoLabels) == {"more": [0, 1], "most": [1, 2]}
    assert choices(DepthOfOneChoice) == {"block": [0, 1], "depth": [1, 2, 3]}
    assert list(choices(DepthOfChoices)) == ["block0", "block1", "block2", "depth"]
    assert choices(OneCandidate) == {"only": [0], "other": [0, 1]}


class DepthOfValueChoice(Deep):
    """As NNI's documentation of ``Repeat`` writes it."""

    def build(self):
        with pytest.warns(DeprecationWarning, match="ValueChoice is deprecated"):
            depth = ValueChoice([1, 3], label="depth")
        self.blocks = Repeat(lambda index: bent(), depth)


def test_the_old_name_of_a_choice_still_works():
    """``ValueChoice`` is a ``Categorical``, with a warning of NNI's own."""
    assert choices(DepthOfValueChoice) == {"depth": [1, 3]}


class Twin(Small):
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


class OnlyOne(Small):
    def build(self):
        self.only = LayerChoice([bent()], label="only")

    def body(self, x):
        return self.only(x)


def test_a_space_in_which_nothing_is_open_is_refused():
    """Every choice has one candidate: there is no gradient for any logit, which must be said before training starts."""
    with pytest.raises(ValueError, match="nothing to search"):
        ProxylessNAS().mutate_model(OnlyOne())


class Strided(ModelSpace):
    """A cell whose operations depend on the input that is chosen, as in the DARTS and ENAS spaces of NNI's hub."""

    def __init__(self):
        super().__init__()
        factory = {"a": lambda node, op, chosen: nn.Linear(WIDTH, WIDTH), "b": lambda node, op, chosen: nn.Identity()}
        self.cell = Cell(factory, num_nodes=2, num_ops_per_node=1, num_predecessors=1, label="cell")

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)


def test_a_cell_with_operations_made_per_input_is_refused_by_name():
    """Its operations are made for an input that is not chosen yet: a supernet of them computes something else than any
    network of the space."""
    with pytest.raises(TypeError, match="cell"):
        ProxylessNAS().mutate_model(Strided())


# -- NNI's spaces and evaluators ---------------------------------------------------------------------------------------


LABELS = 2


def images(n: int, seed: int = 0) -> DataLoader:
    return data(n, seed, classes=LABELS, shape=(3, 32, 32), size=4)


def classification(n: int) -> Classification:
    return Classification(
        num_classes=LABELS, learning_rate=0.01, train_dataloaders=images(n), val_dataloaders=images(2, seed=1), max_epochs=1,
        **QUIET,
    )  # fmt: skip


def nas_bench() -> ModelSpace:
    return NasBench201(stem_out_channels=4, num_modules_per_stack=1, num_labels=LABELS)


def proxyless_space() -> ModelSpace:
    return ProxylessSpace(num_labels=LABELS, base_widths=(8,) * 9)


def shufflenet_space() -> ModelSpace:
    return ShuffleNetSpace(num_labels=LABELS)


@pytest.mark.parametrize("update", UPDATES)
def test_nas_bench_201(search, update):
    """Three cells share the six labels of one cell; ``none`` and ``skip_connect`` are among the candidates. NNI's
    ``Classification`` is the evaluator."""
    strategy = ProxylessNAS(update=update, arc_update_every=1, arc_learning_rate=0.05)
    found = check(search(nas_bench, strategy, classification(3)), nas_bench, torch.randn(2, 3, 32, 32))
    assert len(found) == 6


@pytest.mark.parametrize("update", UPDATES)
def test_proxyless_space_of_the_hub(search, update):
    """21 layers of six candidates in stages of depth 1 to 4. Layers that no sampled depth has reached may not have moved;
    with REINFORCE they have, as p(network) is a product over all choices. Modules of NNI that could hold choices, like
    ``MutableConv2d``, keep their weights in the derived network."""
    strategy = ProxylessNAS(update=update, arc_update_every=2, arc_learning_rate=0.05)

    def unreached(label: str) -> bool:
        return update != "reinforce" and label.endswith(("_i1", "_i2", "_i3"))

    experiment = search(proxyless_space, strategy, classification(2))
    check(experiment, proxyless_space, torch.randn(2, 3, 32, 32), unreached)


def test_shufflenet_space_of_the_hub(search):
    """20 layers of four candidates, with ReLU(inplace=True) all over and dropout before the classifier."""
    strategy = ProxylessNAS(arc_update_every=1, arc_learning_rate=0.05)
    check(search(shufflenet_space, strategy, classification(1)), shufflenet_space, torch.randn(2, 3, 32, 32))


class Measured(Small):
    """Numbers in the place of logits."""

    def build(self):
        self.choice = LayerChoice([linear(), bent()], label="choice")
        self.number = nn.Linear(CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.number(self.last(self.choice(x)))[:, 0]


@pytest.mark.parametrize("update", ["two-path", "full"])
def test_regression_of_nni(search, update):
    """NNI's ``Regression`` with the two updates that differentiate the loss."""
    numbers = [DataLoader(TensorDataset(torch.randn(48, WIDTH), torch.randn(48)), batch_size=BATCH) for _ in range(2)]
    evaluator = Regression(
        learning_rate=0.01, train_dataloaders=numbers[0], val_dataloaders=numbers[1], max_epochs=1, **QUIET
    )
    strategy = ProxylessNAS(update=update, arc_update_every=1, arc_learning_rate=0.05)
    check(search(Measured, strategy, evaluator), Measured, torch.randn(5, WIDTH))


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


@pytest.mark.parametrize("update", UPDATES)
def test_a_module_and_a_data_module_of_the_users_own(search, update):
    """A data module gives the same search as its loaders handed over: the same bits in every logit."""
    found = []
    for source in ({"datamodule": DataModule()}, {"train_dataloaders": data(4), "val_dataloaders": data(3, seed=1)}):
        strategy = ProxylessNAS(update=update, arc_update_every=1, arc_learning_rate=0.05)
        evaluator = Lightning(Task(), Trainer(max_epochs=2, **QUIET), **source)
        check(search(Simple, strategy, evaluator), Simple, torch.randn(5, WIDTH))
        found.append([gate.alpha.tolist() for gate in strategy._gates.values()])
    assert found[0] == found[1]


# -- the gradient of a gate, in closed form ----------------------------------------------------------------------------


def supernet(make, seed: int = 0) -> tuple[ModelSpace, dict[str, Gate]]:
    """The supernet in float64, in eval mode so that a candidate computes the same alone and in the net."""
    torch.manual_seed(0)
    strategy = ProxylessNAS(seed=seed)
    net = strategy.mutate_model(make()).double().eval()
    return net, {label: gate.double() for label, gate in strategy._gates.items()}


def features(n: int = 5) -> Tensor:
    return torch.randn(n, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def variables(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.float64, requires_grad=True)


def curved(y: Tensor) -> Tensor:
    """A loss whose gradient depends on y."""
    return (y**3).sum() + (y**2).sum()


def given(loss, y: Tensor | list[Tensor], outputs: list) -> Tensor:
    """(dL/dy * o_j).sum() for every j, summed over the tensors of y, by plain autograd."""
    as_list = [y] if isinstance(y, Tensor) else list(y)
    leaves = [tensor.detach().requires_grad_() for tensor in as_list]
    grads = torch.autograd.grad(loss(leaves[0] if isinstance(y, Tensor) else leaves), leaves)
    rows = [[o] if isinstance(o, Tensor) else list(o) for o in outputs]
    return torch.stack([sum((g * o).sum() for g, o in zip(grads, row, strict=True)) for row in rows]).detach()


def reduced(reduction: str, inputs: list[Tensor]) -> Tensor:
    if reduction == "concat":
        return torch.cat(inputs, dim=1)
    return sum(inputs) / (len(inputs) if reduction == "mean" else 1)


class InputsAlone(ModelSpace):
    """The choice itself."""

    def __init__(self, n_chosen: int | None, reduction: str):
        super().__init__()
        self.pick = InputChoice(4, n_chosen, reduction, label="pick")

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return self.pick(inputs)


@pytest.mark.parametrize(
    ("n_chosen", "reduction"),
    [(1, "sum"), (2, "sum"), (2, "mean"), (3, "mean"), (2, "concat"), (None, "sum"), (None, "mean")],
)
def test_gate_gradient_of_chosen_inputs(n_chosen, reduction):
    """Property 1: dL/dg_j = (dL/dy * r(inputs of set j)).sum() for every set j, active or not.

    Inputs outside the active set receive no gradient; those inside receive that of the reduction.
    """
    net, gates = supernet(lambda: InputsAlone(n_chosen, reduction))
    gate, sets = gates["pick"], gates["pick"].choices
    for active, chosen in enumerate(sets):
        leaves = [torch.randn(5, WIDTH, dtype=torch.float64, requires_grad=True) for _ in range(4)]
        probe = variables(len(sets))
        gate.open(active, range(len(sets)), probe)
        y = net(leaves)
        assert torch.equal(y, reduced(reduction, [leaves[i] for i in chosen]))
        curved(y).backward()
        outputs = [reduced(reduction, [leaves[i] for i in s]) for s in sets]
        torch.testing.assert_close(probe.grad, given(curved, y, outputs), rtol=1e-12, atol=1e-12)
        plain = torch.autograd.grad(
            curved(reduced(reduction, [leaves[i] for i in chosen])), [leaves[i] for i in chosen]
        )
        for i, leaf in enumerate(leaves):
            if i in chosen:
                torch.testing.assert_close(leaf.grad, plain[chosen.index(i)], rtol=1e-12, atol=1e-12)
            else:
                assert leaf.grad is None or not leaf.grad.any()


def count_blocks(net: ModelSpace) -> list[int]:
    """How often each block of ``net.blocks`` has run since."""
    runs = [0] * len(net.blocks)
    for i, block in enumerate(net.blocks.blocks):

        def count(*_, i=i):
            runs[i] += 1

        block.register_forward_hook(count)
    return runs


def at_depth(net: ModelSpace, depth: int, x: Tensor) -> Tensor:
    """The first blocks, one after the other, by hand."""
    for i in range(depth):
        x = net.blocks.blocks[i](x)
    return x


@pytest.mark.parametrize(
    ("make", "depths"),
    [(Deep, [1, 2, 3]), (DepthFromZero, [0, 1, 2]), (DepthOfChoice, [1, 3]), (DepthOfExpression, [2, 4])],
)
def test_gate_gradient_of_a_depth(make, depths):
    """Property 1: dL/dg_d = (dL/dy * o_d).sum() for shallower and deeper d, 0 included; forward runs the active depth only.

    In backward a deeper network goes on from y, so each of its further blocks runs once per probe and no other.
    """
    net, gates = supernet(make)
    gate, x = gates["depth"], features()
    for active, depth in enumerate(depths):
        probe = variables(len(depths))
        gate.open(active, range(len(depths)), probe)
        expected = given(lambda y: curved(net.last(y)), at_depth(net, depth, x), [at_depth(net, d, x) for d in depths])
        runs = count_blocks(net)
        y = net(x)
        assert runs == [int(i < depth) for i in range(len(runs))]
        curved(y).backward()
        in_backward = [sum(i < d and (i >= depth or d < depth) for d in depths if d != depth) for i in range(len(runs))]
        assert runs == [int(i < depth) + in_backward[i] for i in range(len(runs))]
        torch.testing.assert_close(probe.grad, expected, rtol=1e-10, atol=1e-13)


def test_gate_gradients_of_a_depth_that_is_a_sum():
    """Each label of ``more + most`` is measured with the other one as it is: dL/dg_(more=m) = (dL/dy * o_(m + most)).sum()."""
    net, gates = supernet(DepthOfTwoLabels)
    more, most, x = gates["more"], gates["most"], features()
    for i, m in enumerate(more.choices):
        for j, n in enumerate(most.choices):
            probes = variables(2), variables(2)
            more.open(i, range(2), probes[0])
            most.open(j, range(2), probes[1])
            curved(net(x)).backward()
            y = at_depth(net, m + n, x)
            for probe, depths in ((probes[0], [0 + n, 1 + n]), (probes[1], [m + 1, m + 2])):
                expected = given(lambda y: curved(net.last(y)), y, [at_depth(net, d, x) for d in depths])
                torch.testing.assert_close(probe.grad, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_gate_gradients_of_choices_inside_a_depth(depth):
    """Inside the active depth a choice has its closed form, measured where it stands; beyond it there is no gradient.

    A deeper probe runs the candidates that are active there.
    """
    net, gates = supernet(DepthOfChoices)
    x, active = features(), {"block0": 1, "block1": 0, "block2": 1}
    probes = {label: variables(len(gate.choices)) for label, gate in gates.items()}
    for label, gate in gates.items():
        gate.open(depth - 1 if label == "depth" else active[label], range(len(gate.choices)), probes[label])
    curved(net(x)).backward()

    blocks = [[net.blocks.blocks[i][j] for j in range(2)] for i in range(3)]

    def run(start: int, end: int, x: Tensor) -> Tensor:
        for i in range(start, end):
            x = blocks[i][active[f"block{i}"]](x)
        return x

    expected = given(lambda y: curved(net.last(y)), run(0, depth, x), [run(0, d, x) for d in (1, 2, 3)])
    torch.testing.assert_close(probes["depth"].grad, expected, rtol=1e-10, atol=1e-13)
    for i in range(3):
        probe = probes[f"block{i}"]
        if i >= depth:
            assert probe.grad is None
            continue
        before = run(0, i, x)
        expected = given(
            lambda y, i=i: curved(net.last(run(i + 1, depth, y))),
            blocks[i][active[f"block{i}"]](before),
            [candidate(before) for candidate in blocks[i]],
        )
        torch.testing.assert_close(probe.grad, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("active", [0, 1])
def test_gate_gradient_of_several_arguments(active):
    """Property 1 for positional and keyword arguments: every candidate is measured on the same ones."""
    net, gates = supernet(Arguments)
    x, probe = features(), variables(2)
    gates["two"].open(0)
    gates["named"].open(active, (0, 1), probe)
    curved(net(x)).backward()
    middle = torch.relu(net.two[0](x, -x))
    outputs = [net.named[j](a=x, share=0.25, b=middle) for j in range(2)]
    expected = given(lambda y: curved(net.last(y)), outputs[active], outputs)
    torch.testing.assert_close(probe.grad, expected, rtol=1e-12, atol=0)


class TwoTensors(ModelSpace):
    """Two tensors of different shapes through a choice with a skip."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.long, self.short = linear(), nn.Linear(1, 1)

        def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return self.long(pair[0]), self.short(pair[1])

    def __init__(self, skip: bool):
        super().__init__()
        self.choice = LayerChoice([self.Both(), self.Both(), nn.Identity() if skip else self.Both()], label="choice")

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return self.choice(pair)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("active", [0, 1, 2])
def test_gate_gradient_of_several_outputs(active, skip):
    """dL/dg_j = sum over all tensors t of y of (dL/dy_t * o_jt).sum(), against the skip's where there is one, which then has
    exactly 0; an output that the loss does not use adds nothing."""
    net, gates = supernet(lambda: TwoTensors(skip))
    pair = (features(), features()[:, :1])
    outputs = [net.choice[j](pair) for j in range(3)]
    for loss in (lambda y: curved(y[0]) + (y[1] ** 3).sum(), lambda y: curved(y[1])):
        probe = variables(3)
        gates["choice"].open(active, range(3), probe)
        loss(net(pair)).backward()
        leaves = [tensor.detach().requires_grad_() for tensor in outputs[active]]
        grads = torch.autograd.grad(loss(leaves), leaves, allow_unused=True)
        expected = torch.stack(
            [sum((g * o).sum() for g, o in zip(grads, out, strict=True) if g is not None) for out in outputs]
        ).detach()
        torch.testing.assert_close(probe.grad, expected - expected[2] if skip else expected, rtol=1e-10, atol=1e-10)
        assert not skip or probe.grad[2].item() == 0.0


class Indices(nn.Module):
    """A tensor, and integers that have no gradient."""

    def __init__(self):
        super().__init__()
        self.linear = linear()

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        y = self.linear(x)
        return OrderedDict(y=y, index=y.argmax(dim=1))


class WithIndices(ModelSpace):
    def __init__(self):
        super().__init__()
        self.choice = LayerChoice([Indices(), Indices()], label="choice")

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return self.choice(x)


def test_outputs_without_a_gradient_pass_through():
    """Integers among the outputs come out as they are, in the type that the candidate returned, and add nothing to dL/dg."""
    net, gates = supernet(WithIndices)
    x, probe = features(), variables(2)
    outputs = [net.choice[j](x) for j in range(2)]
    gates["choice"].open(0, (0, 1), probe)
    out = net(x)
    assert type(out) is OrderedDict
    assert list(out) == ["y", "index"]
    assert torch.equal(out["index"], outputs[0]["index"])
    curved(out["y"]).backward()
    torch.testing.assert_close(
        probe.grad, given(curved, outputs[0]["y"], [o["y"] for o in outputs]), rtol=1e-12, atol=0
    )


# -- copies ------------------------------------------------------------------------------------------------------------


class Bare(ModelSpace):
    """A choice whose output goes straight into the loss."""

    def __init__(self, in_place: bool):
        super().__init__()
        self.before = linear()
        self.choice = LayerChoice([linear() for _ in range(3)], label="choice")
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.choice(self.before(x))
        return nn.functional.relu(y, inplace=True) if self.in_place else y


def kept_activations(net: ModelSpace, gate: Gate, x: Tensor) -> tuple[int, Tensor]:
    """How many different activations one architecture step's forward pass keeps, and what the gates received."""
    kept, probe = [], variables(len(gate.choices))

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.detach())
        return tensor

    with gradients_off(list(net.parameters())), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        gate.open(1, range(len(gate.choices)), probe)
        y = net(x)
        loss = (y**3).sum()
    storages = {tensor.untyped_storage().data_ptr() for tensor in kept if tensor.shape == x.shape}
    loss.backward()
    return len(storages), probe.grad


def test_a_choice_stops_copying_its_output_when_nothing_behind_it_works_in_place():
    """The first step keeps x, y and a copy of y, which the cube needs; from the second on the cube is given y itself."""
    net, gates = supernet(lambda: Bare(in_place=False))
    x = features()
    steps = [kept_activations(net, gates["choice"], x) for _ in range(3)]
    assert [n for n, _ in steps] == [3, 2, 2]
    assert torch.equal(steps[0][1], steps[1][1])
    outputs = [net.choice[j](net.before(x)) for j in range(3)]
    torch.testing.assert_close(steps[2][1], given(lambda y: (y**3).sum(), outputs[1], outputs), rtol=1e-12, atol=0)


def test_a_choice_goes_on_copying_its_output_when_something_behind_it_works_in_place():
    """The ReLU changes the copy: y stays what the candidate gave, and every step's gradient is the closed form."""
    net, gates = supernet(lambda: Bare(in_place=True))
    x = features()
    outputs = [net.choice[j](net.before(x)) for j in range(3)]
    expected = given(lambda y: (torch.relu(y) ** 3).sum(), outputs[1], outputs)
    for _ in range(4):
        n, got = kept_activations(net, gates["choice"], x)
        assert n == 3
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


class TwiceInPlace(ModelSpace):
    """One choice called twice: behind the first call a ReLU works in place, behind the second nothing does."""

    def __init__(self):
        super().__init__()
        self.choice = LayerChoice([linear() for _ in range(3)], label="choice")

    def forward(self, x: Tensor) -> Tensor:
        return self.choice(nn.functional.relu(self.choice(x), inplace=True))


def test_one_call_without_anything_in_place_says_nothing_about_the_others():
    """Whether a copy is needed can differ from call to call: no step may fail, and each one's gradient is the closed form,
    the sum over both calls."""
    net, gates = supernet(TwiceInPlace)
    x, gate = features(), gates["choice"]
    inner = net.choice[1](x)
    middle = torch.relu(inner)
    expected = given(lambda y: curved(net.choice[1](torch.relu(y))), inner, [net.choice[j](x) for j in range(3)])
    expected += given(curved, net.choice[1](middle), [net.choice[j](middle) for j in range(3)])
    for _ in range(4):
        probe = variables(3)
        gate.open(1, range(3), probe)
        curved(net(x)).backward()
        torch.testing.assert_close(probe.grad, expected, rtol=1e-10, atol=1e-12)


class InPlaceBlocks(ModelSpace):
    """Blocks that begin with ReLU(inplace=True), as in pre-activation networks."""

    def __init__(self):
        super().__init__()
        self.before = linear()
        self.blocks = Repeat(lambda index: nn.Sequential(nn.ReLU(inplace=index > 0), linear()), (1, 3), label="depth")
        self.last = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(self.before(x)))


@pytest.mark.parametrize("active", [0, 1, 2])
def test_blocks_that_work_in_place_on_the_block_before_never_falsify_a_probe(active):
    """As for candidates: the closed form, or a refusal that says why."""
    net, gates = supernet(InPlaceBlocks)
    x, probe = features(), variables(3)
    gates["depth"].open(active, range(3), probe)
    try:
        curved(net(x)).backward()
    except (RuntimeError, TypeError) as error:
        assert "in place" in str(error) or "inplace" in str(error)  # noqa: PT017  (both outcomes are right)
        return
    outputs = [at_depth(net, d, net.before(x)).clone() for d in (1, 2, 3)]
    expected = given(lambda y: curved(net.last(y)), outputs[active], outputs)
    torch.testing.assert_close(probe.grad, expected, rtol=1e-10, atol=1e-12)


# -- mixed precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: Bare(in_place=False), Deep], ids=["layer", "depth"])
def test_gate_gradients_under_autocast(make):
    """In bfloat16 the gate gradients are summed in float32 and near the float32 ones; a probed candidate runs under the
    autocast that forward had, although backward is called outside of it."""
    torch.manual_seed(0)
    strategy = ProxylessNAS()
    net = strategy.mutate_model(make()).eval()
    ((_, gate),) = strategy._gates.items()
    x, n = torch.randn(64, WIDTH), len(gate.choices)
    dtypes = []
    for module in net.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda module, args, y: dtypes.append(y.dtype))

    def gradients(enabled: bool) -> Tensor:
        probe = torch.zeros(n, requires_grad=True)
        gate.open(0, range(n), probe)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y = net(x)
        curved(y.float()).backward()
        assert probe.grad.dtype is torch.float32
        return probe.grad

    exact = gradients(False)
    assert set(dtypes) == {torch.float32}
    dtypes.clear()
    half = gradients(True)
    assert set(dtypes) == {torch.bfloat16}, "in forward and in backward"
    assert len(dtypes) > n
    assert not torch.equal(exact, half)
    torch.testing.assert_close(half, exact, rtol=0.05, atol=0.02 * exact.abs().max().item())
