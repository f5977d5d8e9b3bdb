"""Freezing: the same network as NNI's own ``freeze`` gives, of the same modules, and no candidate is copied that is not in it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from nni.mutable import SampleValidationError
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableModule, recursive_freeze
from nni_proxyless.search_spaces import MobileNetV2Space
from torch import Tensor, nn

from nni_proxyless.core.freezing import freeze, freeze_children

from ..strategies.nni_spaces import ROWS, UPDATES, Row

MOBILE = Row("mobilenetv2", lambda: MobileNetV2Space("small", num_classes=3, in_channels=1), (1, 8, 8))


def sample_of(space: ModelSpace, seed: int) -> dict[str, Any]:
    draw, sample = np.random.RandomState(seed), {}
    for mutable in space.simplify().values():
        mutable.random(sample, draw)
    return {str(label): choice for label, choice in sample.items()}


def of_nni(space: Any, sample: dict[str, Any]) -> nn.Module:
    if type(space).freeze is MutableModule.freeze:
        return recursive_freeze(space, sample, include_root=False)[0]
    return space.freeze(sample)


def anatomy(network: nn.Module, space: nn.Module) -> dict[str, Any]:
    """Every part of a network by name: its type, its mode, and which part of the space it is, if it is one."""
    parts = [*space.named_modules(), *space.named_parameters(), *space.named_buffers()]
    known = {id(part): name for name, part in parts}
    found: dict[str, Any] = {
        name: (type(module), module.training, known.get(id(module))) for name, module in network.named_modules()
    }
    tensors = [*network.named_parameters(), *network.named_buffers()]
    return found | {name: (tensor.requires_grad, known.get(id(tensor))) for name, tensor in tensors}


def outcome(network: nn.Module, x: Tensor) -> Tensor | str:
    """What a network gives, or why it does not run: not every sample of every space does."""
    try:
        return network(x)
    except (RuntimeError, TypeError) as error:
        return str(error)


def assert_the_same(space: Any, sample: dict[str, Any], x: Tensor) -> None:
    networks, outputs = [], []
    for make in (of_nni, freeze):
        torch.manual_seed(0)  # of what is made anew
        networks.append(make(space, sample))
    theirs, ours = networks
    assert anatomy(ours, space) == anatomy(theirs, space)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    for network in networks:
        torch.manual_seed(0)
        outputs.append(outcome(network.eval(), x))
    assert torch.equal(*outputs) if isinstance(outputs[0], Tensor) else outputs[0] == outputs[1]


@pytest.mark.parametrize("row", [MOBILE, *ROWS], ids=lambda row: row.name)
def test_a_space_freezes_to_what_nni_makes_of_it(row):
    torch.manual_seed(1)
    space = row.make()
    weights = copy.deepcopy(space.state_dict())
    assert_the_same(space.train(), sample_of(space, 0), torch.randn(2, *row.shape))
    assert all(torch.equal(weights[name], tensor) for name, tensor in space.state_dict().items())


@pytest.mark.parametrize(
    "row", [row for row in (MOBILE, *ROWS) if len(row.refused) < len(UPDATES)], ids=lambda r: r.name
)
def test_a_supernet_freezes_to_what_nni_makes_of_it(row):
    torch.manual_seed(1)
    update = next(update for update in UPDATES if update not in row.refused)
    supernet = row.strategy(update).mutate_model(row.make())
    sample = sample_of(supernet, 1)
    assert_the_same(supernet.train(), sample, torch.randn(2, *row.shape))
    assert anatomy(supernet.freeze(sample), supernet) == anatomy(freeze(supernet, sample), supernet)


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise AssertionError("a candidate was copied")


class Tree(ModelSpace):
    """Choices under several levels of modules, one of which stands in two places; weights on every level."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = self._choice("shared")
        deep = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Sequential(self._choice("deep"))))
        self.blocks = nn.ModuleList([self.shared, deep, self.shared])
        self.scale = nn.Parameter(torch.ones(2))

    def _choice(self, label: str) -> LayerChoice:
        return LayerChoice({name: Uncopied(2, 2) for name in "ab"}, label=label)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x * self.scale)
        return x


def test_no_candidate_is_copied():
    space: Any = Tree()
    network: Any = freeze(space, {"shared": "b", "deep": "a"})
    assert network.shared is space.shared["b"]
    assert network.blocks[0] is network.blocks[2] is space.shared["b"]
    assert network.blocks[1][1][1][0] is space.blocks[1][1][1][0]["a"]
    assert network.blocks[1][0] is not space.blocks[1][0]
    assert network.scale is not space.scale
    assert not [m for m in network.modules() if isinstance(m, LayerChoice)]
    assert [m.label for m in space.modules() if isinstance(m, LayerChoice)] == ["shared", "deep"]


def test_what_stands_around_choices_can_share_its_weights():
    """Everything of a network is a part of the space but the modules on the way to its choices; the space itself stays as it was."""
    space: Any = Tree()
    before = anatomy(space, space)
    sample = {"shared": "b", "deep": "a"}
    network: Any = freeze_children(space, sample, share=True)
    assert network.scale is space.scale
    assert network.shared is network.blocks[0] is network.blocks[2] is space.shared["b"]
    assert network.blocks[1][0] is space.blocks[1][0]
    assert network.blocks[1][1][1][0] is space.blocks[1][1][1][0]["a"]
    copied = freeze_children(space, sample)
    assert {name: a[:2] for name, a in anatomy(network, space).items() if len(a) == 3} == {
        name: a[:2] for name, a in anatomy(copied, space).items() if len(a) == 3
    }
    network.register_forward_hook(lambda module, args, output: None)
    network.blocks[1].register_buffer("more", torch.zeros(1))
    assert anatomy(space, space) == before
    assert not space._forward_hooks


def test_a_module_without_choices_is_itself():
    module = nn.Sequential(nn.Linear(2, 2))
    assert freeze_children(module, {}) is freeze_children(module, {}, share=True) is module


@pytest.mark.parametrize(("sample", "said"), [({"shared": "b"}, "deep"), ({"shared": "b", "deep": "c"}, "c not found")])
def test_what_is_no_network_of_the_space_is_refused(sample, said):
    with pytest.raises(SampleValidationError, match=said):
        freeze(Tree(), sample)
