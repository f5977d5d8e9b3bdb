"""Choices of values: widths, kernels, depths and rates that are arguments of modules, as in NNI's tutorials and most of its hub."""

from __future__ import annotations

from typing import Any, ClassVar

import nni
import pytest
import torch
from nni.nas.nn.pytorch import MutableBatchNorm1d, MutableLinear
from nni.nas.strategy import DARTS
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from torch import Tensor

from .searches import CLASSES, FEATURES, Task, searched
from .value_spaces import SPACES, ConvNet, OfFeatures, SimpleNet

METHODS = ("reinforce", "loss")


def paths(gates: dict[str, Any], n: int):
    """Opens n random paths; gives each as label -> choice."""
    for _ in range(n):
        for gate in gates.values():
            gate.sample_path()
        yield {label: gate.value(gate.current) for label, gate in gates.items()}


@pytest.mark.parametrize("make", SPACES)
def test_a_network_computes_what_its_path_of_the_supernet_does(make):
    """Of 20 random paths, with statistics that have moved; each network is made of plain modules of torch."""
    torch.manual_seed(0)
    strategy = DSNAS()
    supernet = strategy.mutate_model(make())
    x = torch.randn(5, FEATURES)
    for sample in paths(strategy._gates, 20):
        supernet.train()(x)
        network = supernet.eval().freeze(sample)
        assert not network.training
        torch.testing.assert_close(network(x), supernet(x), rtol=0, atol=1e-6)
        assert {type(m) for m in network.modules() if type(m).__name__.startswith(("Sampled", "Mixed"))} == set()
        assert make().contains(sample)


def strategy_of(method: str, **options: Any) -> Any:
    """ProxylessNAS with that update, or DSNAS with that reward."""
    if method == "loss":
        return DSNAS(fix_gap=1.0, **options)
    options.pop("search_epochs", None)
    return ProxylessNAS(update="reinforce", arc_update_every=1, reinforce_samples=4, **options)


class OneWidth(OfFeatures):
    def __init__(self):
        super().__init__()
        width = nni.choice("width", [2, 4, 6])
        self.first, self.last = MutableLinear(FEATURES, width), MutableLinear(width, CLASSES)
        self.norm = MutableBatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.first(x)))


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_what_is_beyond_the_slice_stays_as_it_is(optimizer):
    """Weights, their momentum and running statistics, to the bit, under decay; the slice itself steps as a layer of that width."""

    class Noted(Task):
        def configure_optimizers(self) -> Any:
            if optimizer == "adam":
                return torch.optim.AdamW(self.model.parameters(), lr=0.1, weight_decay=0.1)
            return torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)

    torch.manual_seed(0)
    strategy, seen = DSNAS(search_epochs=2, fix_gap=1.0), []
    task = Noted()
    inner = strategy.module_class.weight_step

    class Watched(strategy.module_class):
        def weight_step(self, batch: Any, batch_idx: int) -> Any:
            own = self.weight_optimizer.optimizer

            def all_of() -> list[Tensor]:
                state = [v for s in own.state.values() for v in s.values() if isinstance(v, Tensor) and v.dim() > 0]
                return [
                    t.detach().clone()
                    for t in [*self.training_module.model.state_dict().values(), *state]
                    if t.dim() > 0
                ]

            before = all_of()
            result = inner(self, batch, batch_idx)
            after = all_of()
            (gate,) = self._path
            seen.append((gate.choices[self._path[gate]], before, after))
            return result

    strategy.module_class = Watched
    searched(strategy, task, OneWidth(), epochs=3, images=32)
    in_search = seen[:16]
    assert {width for width, *_ in in_search} == {2, 4, 6}
    for width, before, after in in_search:
        for one, two in zip(before, after, strict=False):
            if 6 not in one.shape:  # the bias of the last layer
                continue
            dim = one.shape.index(6)
            inside, beyond = slice(width), slice(width, None)
            rows = [t.movedim(dim, 0) for t in (one, two)]
            assert torch.equal(rows[0][beyond], rows[1][beyond])
            assert len(before) < len(after) or not torch.equal(rows[0][inside], rows[1][inside])


class OwnSGD(torch.optim.SGD):
    """A class that is not known to step each element by itself, so that whole weights step."""


class OwnAdamW(torch.optim.AdamW):
    """Likewise."""


class OwnRMSprop(torch.optim.RMSprop):
    """Likewise."""


@pytest.mark.parametrize("make", SPACES)
@pytest.mark.parametrize(
    ("optimizers", "arguments", "batches"),
    [
        ((torch.optim.SGD, OwnSGD), {"momentum": 0.9, "nesterov": True}, 1),
        ((torch.optim.SGD, OwnSGD), {"momentum": 0.9}, 2),
        ((torch.optim.AdamW, OwnAdamW), {"amsgrad": True}, 1),
        ((torch.optim.RMSprop, OwnRMSprop), {"momentum": 0.9, "centered": True}, 1),
    ],
    ids=["sgd", "sgd, two batches", "adamw", "rmsprop"],
)
def test_steps_of_slices_are_those_of_whole_weights(make, optimizers, arguments, batches):
    """Bit for bit: weights, statistics, logits and what the optimizer knows, also where several batches are one step."""
    ends = []
    for optimizer in optimizers:

        class Stepped(Task):
            def configure_optimizers(self) -> Any:
                return optimizer(self.model.parameters(), lr=0.05, weight_decay=0.1, **arguments)  # noqa: B023

        torch.manual_seed(0)
        strategy = strategy_of("reinforce", accumulate_grad_batches=batches, arc_learning_rate=0.05)
        task = Stepped()
        searched(strategy, task, make(), images=32)
        states = sorted(task.trainer.optimizers[0].state_dict()["state"].items())
        known = [state[key] for _, state in states for key in sorted(state)]
        ends.append([*task.state_dict().values(), *(gate.alpha for gate in strategy._gates.values()), *known])
    assert len(ends[0]) == len(ends[1]) > 8
    for one, two in zip(*ends, strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(two))


def test_a_step_has_gradients_of_the_sampled_network_alone():
    """Where a module clips by itself; between steps the supernet holds whole weights, also after a step that has failed."""

    class Clipping(Task):
        seen: ClassVar[list[tuple[int, int]]] = []

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.width = self.model.first.weight.shape[0]
            return super().training_step(batch, batch_idx)

        def configure_gradient_clipping(self, optimizer: Any, *args: Any) -> None:
            held = [p.grad.numel() for group in optimizer.param_groups for p in group["params"]]
            assert (
                held
                == [p.grad.numel() for p in self.model.parameters()]
                == [p.numel() for p in self.model.parameters()]
            )
            self.seen.append((self.width, sum(held)))
            if len(self.seen) == 12:
                raise ArithmeticError

    task, space = Clipping(), OneWidth()
    strategy = DSNAS(search_epochs=2, fix_gap=1.0)
    with pytest.raises(ArithmeticError):
        searched(strategy, task, space, epochs=3, images=64)
    of_width = {width: sum(p.numel() for p in network_of(width).parameters()) for width in (2, 4, 6)}
    assert {width for width, _ in task.seen} == {2, 4, 6}
    assert all(held == of_width[width] for width, held in task.seen)
    assert [tuple(p.shape) for p in task.model.parameters()] == [tuple(p.shape) for p in network_of(6).parameters()]
    assert all(
        p is q
        for p, q in zip(task.model.parameters(), task.trainer.optimizers[0].param_groups[0]["params"], strict=True)
    )


def network_of(width: int) -> torch.nn.Module:
    return OneWidth().freeze({"width": width})


class Planted(OfFeatures):
    """Any width but one gives nothing to learn from."""

    def __init__(self, planted: int):
        super().__init__()
        self.planted = planted
        width = nni.choice("width", [2, 4, 6, 8])
        self.first, self.last = MutableLinear(FEATURES, width), MutableLinear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(y if y.shape[1] == self.planted else 0 * y)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_width_is_found(method, seed):
    """Of four, each of three: the first, one in the middle, the last."""
    torch.manual_seed(seed)
    planted = (2, 6, 8)[seed]
    strategy = strategy_of(method, arc_learning_rate=0.1, seed=seed, search_epochs=6)
    searched(strategy, Task(), Planted(planted), epochs=7, images=64)
    gate = strategy._gates["width"]
    probs = dict(zip(gate.choices, torch.softmax(gate.alpha, 0).tolist(), strict=True))
    assert probs[planted] > 0.75, probs


@pytest.mark.parametrize(
    "strategy",
    [ProxylessNAS(), ProxylessNAS(update="full"), DSNAS(reward="gradient")],
    ids=["pair", "full", "gradient"],
)
def test_gate_gradients_cannot_choose_values(strategy):
    """Refused with the reason and with what can; NNI's own DARTS then searches the space as it was."""
    space = SimpleNet()
    said = (
        r"cannot search SimpleNet: module 'dropout' is a MutableDropout that depends on the choice 'rate', a value inside it, for which "
        r"there is no gate gradient: .* allowed: ProxylessNAS with update 'reinforce', DSNAS with reward 'loss'; or a candidate of "
        r"each value, LayerChoice\(\{...: Dropout\(...\), ...\}, label='rate'\)"
    )
    with pytest.raises(TypeError, match=said):
        strategy.mutate_model(space)
    space = ConvNet()
    with pytest.raises(
        TypeError, match="module 'conv1' is a MutableConv2d that depends on the choices 'channels', 'kernel', a value"
    ):
        strategy.mutate_model(space)
    (found,) = searched(DARTS(), Task(), space, epochs=1).list_models()
    assert set(found.sample) == {"channels", "kernel", "dropout"}
