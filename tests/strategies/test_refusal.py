"""What a strategy cannot search is refused by name, and left as it was: another strategy of NNI can search it then."""

from __future__ import annotations

from typing import Any

import nni
import pytest
from nni.nas.evaluator.pytorch import DataLoader
from nni.nas.nn.pytorch import (
    Cell,
    InputChoice,
    LayerChoice,
    ModelSpace,
    MutableConv2d,
    MutableEmbedding,
    MutableLayerNorm,
    MutableLinear,
    MutableModule,
    Repeat,
)
from nni.nas.strategy import DARTS
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from nni_proxyless.strategies.nni_baselines import Proxyless
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from .searches import FEATURES, Noisy, Plain, Task, searched


class Scaled(MutableModule):
    """A module of the user's own."""

    def __init__(self):
        super().__init__()
        self.add_mutable(nni.choice("scale", [1, 2]))


class Refused(ModelSpace):
    """Choices that can be searched, nested, before and behind one that cannot be."""

    def __init__(self, kind: str):
        super().__init__()
        inner = LayerChoice([nn.Linear(FEATURES, FEATURES), nn.Identity()], label="inner")
        self.first = LayerChoice([nn.Sequential(inner, nn.ReLU()), nn.Linear(FEATURES, FEATURES)], label="first")
        self.depth = Repeat(lambda i: nn.Linear(FEATURES, FEATURES), (1, 2), label="depth")
        self.inputs = InputChoice(2, 1, label="inputs")
        if kind == "linear":
            self.other: Any = MutableLinear(FEATURES, nni.choice("width", [4, 8]))
        elif kind == "conv":
            self.other = nn.Sequential(MutableConv2d(3, 4, nni.choice("kernel", [3, 5])))
        elif kind == "embedding":
            self.other = MutableEmbedding(4, nni.choice("width", [4, 8]))
        elif kind == "own":
            self.other = nn.Sequential(Scaled())
        elif kind == "padding":
            kernel = nni.choice("kernel", [3, 5])
            self.other = MutableConv2d(3, 4, kernel, padding=kernel // 2, padding_mode="reflect")
        elif kind == "eps":
            self.other = MutableLayerNorm(4, nni.choice("eps", [1e-5, 1e-3]))
        elif kind == "cell":
            self.other = Cell([nn.Identity(), nn.ReLU()], 1, 1, 1, merge_op="loose_end", label="cell")
        elif kind == "cell of a function":
            with pytest.warns(DeprecationWarning, match="Directly passing a callable"):
                self.other = Cell(lambda: {"a": nn.Identity(), "b": nn.ReLU()}, 1, 1, 1, label="cell")
        elif kind == "cell by op_index":
            made = {"a": lambda node, op, chosen: nn.Linear(FEATURES, FEATURES, bias=op == 0), "b": nn.ReLU()}
            self.other = Cell(made, 1, 2, 1, label="cell")
        elif kind == "unused":
            self.add_mutable(nni.choice("idle", ["a", "b"]))
        elif kind == "number":
            self.add_mutable(nni.uniform("rate", 0.0, 1.0))
        elif kind == "many":
            self.other = InputChoice(20, 10, label="inputs of many")

    def forward(self, x: Tensor) -> Tensor:
        return self.inputs([self.first(x), self.depth(x)])


def structure(space: nn.Module) -> dict[str, Any]:
    return {
        "children": [(name, id(module), type(module), vars(module).get("freeze")) for name, module in space.named_modules()],
        "weights": [(name, id(tensor)) for name, tensor in space.named_parameters()],
    }  # fmt: skip


KINDS = {
    "embedding": r"module 'other' is a MutableEmbedding that depends on the choice 'width', and no mutation hook knows how it runs with it; "
    r"allowed: LayerChoice, InputChoice, Repeat, arguments of MutableConv2d, MutableLinear, .* and of modules without weights; or a "
    r"hook of its own \(docs/how-to/values.md\), or a candidate of each value, LayerChoice\(\{...: Embedding\(...\), ...\}, "
    r"label='width'\)",
    "own": r"module 'other.0' is a Scaled that depends on the choice 'scale', and no mutation hook",
    "padding": r"module 'other': padding is a choice, with padding_mode 'reflect'; allowed: 'zeros'",
    "eps": r"module 'other': Unsupported value choice on argument: eps",
    "cell": r"module 'other' is a Cell with merge_op 'loose_end', whose output has another shape in each network; allowed: merge_op 'all', or",
    "cell of a function": r"module 'other' is a Cell that makes its operations in a way of its own; allowed: a Cell with a list or dict",
    "cell by op_index": r"module 'other' is a Cell that makes other operations for another op_index",
    "unused": r"no module uses 'idle', which would stay untrained",
    "number": r"choice 'rate' is a Numerical; allowed: the choices of LayerChoice, InputChoice and Repeat",
    "many": r"choice 'inputs of many' has more than 256 sets of inputs",
}
OF_GATES = {
    "linear": r"module 'other' is a MutableLinear that depends on the choice 'width', a value inside it, for which there is no gate "
    r"gradient: .* allowed: ProxylessNAS with update 'reinforce', DSNAS with reward 'loss'; or a candidate of each value, "
    r"LayerChoice\(\{...: Linear\(...\), ...\}, label='width'\)",
    "conv": r"module 'other.0' is a MutableConv2d that depends on the choice 'kernel', a value",
}


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [(kind, strategy) for strategy in (ProxylessNAS(update="reinforce"), DSNAS()) for kind in KINDS]
    + [(k, s) for s in (ProxylessNAS(), ProxylessNAS(update="full"), DSNAS(reward="gradient")) for k in OF_GATES],
)
def test_a_space_that_is_refused_is_left_as_it_was(kind, strategy):
    """Strategy, space, module and label are in the message; every module and weight is where it was, the same object."""
    space = Refused(kind)
    before = structure(space)
    said = {**KINDS, **OF_GATES}[kind]
    with pytest.raises(TypeError, match=f"^{type(strategy).__name__} cannot search Refused: {said}"):
        strategy.mutate_model(space)
    assert structure(space) == before


def test_nni_s_own_strategies_leave_a_refused_space_as_well():
    space = Refused("linear")
    before = structure(space)
    with pytest.raises(MisconfigurationException, match="NNI's Proxyless cannot search Refused"):
        Proxyless().mutate_model(space)
    assert structure(space) == before


def test_nni_s_darts_searches_what_was_refused_for_its_evaluator():
    """Loaders, arguments or a Trainer that a strategy cannot use: the space is none of their business."""
    space = Plain()
    before = structure(space)
    with pytest.raises(TypeError, match="the training data are a list of loaders; allowed: one loader"):
        searched(ProxylessNAS(), Task(), space, train_dataloaders=[DataLoader(Noisy(8, 1))])
    assert structure(space) == before
    with pytest.raises(MisconfigurationException, match="arc_update_every is 5, but an epoch has only 4 batches"):
        searched(ProxylessNAS(), Task(), space)
    assert structure(space) == before
    with pytest.raises(MisconfigurationException, match="of 1 epochs; allowed: at least one epoch of search"):
        searched(DSNAS(), Task(), space, epochs=1)
    assert structure(space) == before
    (found,) = searched(DARTS(), Task(), space, epochs=1).list_models()
    assert set(found.sample) == {"one", "repeated0", "repeated1", "repeated2", "depth"}
