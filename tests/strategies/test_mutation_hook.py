"""A choice in a module of the user's own: the hook of ``docs/how-to/values.md`` keeps the contract, and each way of breaking it is seen."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import nni
import pytest
import torch
from nni.nas.nn.pytorch import ModelSpace, MutableLinear
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from torch import Tensor, nn

from nni_proxyless.testing import MutationHookContract

from ..conftest import ROOT
from .searches import CLASSES, FEATURES, Task, searched

PAGE = (ROOT / "docs" / "how-to" / "values.md").read_text("utf-8")
written: dict[str, Any] = {}
for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[:2]:
    exec(block, written)  # the page's space, and its module with super-kernel
Scale, MixedScale = written["Scale"], written["MixedScale"]


class OfScale(ModelSpace):
    def __init__(self):
        super().__init__()
        width = nni.choice("width", [2, 4, 6])
        self.first, self.scale = MutableLinear(FEATURES, width), Scale(width)
        self.last = MutableLinear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.scale(self.first(x))))


class TestScale(MutationHookContract):
    hooks: ClassVar[list[Any]] = [MixedScale.mutate]
    example_shape: ClassVar[tuple[int, ...]] = (FEATURES,)

    def make_space(self) -> ModelSpace:
        return OfScale()


def broken(name: str, **methods: Any) -> Any:
    """The page's super-kernel with other methods."""
    own = {key: value for key, value in vars(MixedScale).items() if key in WRITTEN}
    return type(name, MixedScale.__bases__, {**own, **methods})


WRITTEN = ("bound_type", "argument_list", "super_init_argument", "freeze_weight", "forward_with_args")
# Runs with the width of its input, and asks nobody; uses what no network of less width holds.
Deaf = broken("Deaf", forward=lambda self, x: x * self.factor[: x.shape[1]])
Whole = broken("Whole", forward_with_args=lambda self, width, x: x * (self.factor[:width] + self.factor.sum()))


class Alone(OfScale):
    """The choice is the module's own, and its input has all features."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 6), nn.Linear(6, CLASSES)


class BrokenContract(MutationHookContract):
    example_shape: ClassVar[tuple[int, ...]] = (FEATURES,)

    def make_space(self) -> ModelSpace:
        return Alone() if self.hooks == [Deaf.mutate] else OfScale()


@pytest.mark.parametrize(
    ("hook", "test", "said"),
    [
        (Deaf, "test_every_choice_is_asked_for_when_it_runs", r"no module asks for the choice of \['width'\]"),
        (
            Whole,
            "test_a_derived_network_computes_what_its_path_of_the_supernet_does",
            "its output is off by .*; allowed: 1e-6",
        ),
        (
            Whole,
            "test_a_step_moves_no_more_than_the_weights_of_the_network",
            "weights move; allowed: those of the network",
        ),
    ],
)
def test_each_way_of_breaking_it_is_seen(hook, test, said, monkeypatch):
    monkeypatch.setattr(BrokenContract, "hooks", [hook.mutate])
    if "step" in test:  # as if the hook's modules were no super-kernels
        monkeypatch.setattr("nni_proxyless.testing.mutation_hook.SupernetParts.of", lambda supernet: NoKernels)
    with pytest.raises(AssertionError, match=said):
        getattr(BrokenContract(), test)()


class NoKernels:
    super_kernels: ClassVar[list[Any]] = []


class Bringing(OfScale):
    """Brings its hook along."""

    @classmethod
    def extra_oneshot_hooks(cls, strategy: Any) -> list[Any]:
        return [MixedScale.mutate]


def test_a_space_brings_its_hooks_along():
    (found,) = searched(DSNAS(), Task(), Bringing()).list_models()
    assert found.sample["width"] in (2, 4, 6)
    with pytest.raises(TypeError, match="module 'first' is a MutableLinear"):
        ProxylessNAS().mutate_model(Bringing())


def test_without_a_hook_it_is_refused_with_the_page():
    with pytest.raises(
        TypeError, match=r"DSNAS cannot search OfScale: module 'scale' is a Scale .*\(docs/how-to/values.md\)"
    ):
        DSNAS().mutate_model(OfScale())


def test_the_page_s_space_is_searched():
    torch.manual_seed(0)
    strategy = DSNAS()
    supernet = strategy.mutate_model(written["Widths"]())
    assert supernet(torch.randn(2, 3, 8, 8)).shape == (2, 10)
