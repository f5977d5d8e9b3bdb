"""Every strategy of this package keeps the contract, and the contract sees each way of breaking it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni_proxyless.strategies import DSNAS, ProxylessNAS, nni_baselines
from nni_proxyless.strategies.proxyless import ProxylessModule
from torch import nn

from nni_proxyless.testing import StrategyContract


class TestTwoPath(StrategyContract):
    update = "two-path"

    def make_strategy(self, checkpoint_dir):
        return ProxylessNAS(
            update=self.update, warmup_epochs=1, arc_update_every=2, arc_learning_rate=0.05, seed=0,
            checkpoint_dir=checkpoint_dir,
        )  # fmt: skip


class TestReinforce(TestTwoPath):
    update = "reinforce"


class TestDSNAS(StrategyContract):
    def make_strategy(self, checkpoint_dir):
        return DSNAS(search_epochs=2, arc_learning_rate=0.05, seed=0, checkpoint_dir=checkpoint_dir)


class Baseline(StrategyContract):
    epochs = 1
    has_checkpoint = False

    def make_strategy(self, checkpoint_dir):
        return self.strategy()


class TestProxylessOfNNI(Baseline):
    strategy = nni_baselines.Proxyless


class TestRandomOneShot(Baseline):
    strategy = nni_baselines.RandomOneShot


class TestDARTS(Baseline):
    strategy = nni_baselines.DARTS
    trains_one_path = False


class TestGumbelDARTS(TestDARTS):
    strategy = nni_baselines.GumbelDARTS


# -- the contract can fail -------------------------------------------------------------------------------------------------


class BrokenModule(ProxylessModule):
    """Wrong in one way."""

    way: str

    def export(self) -> dict[str, Any]:
        sample = super().export()
        if self.way == "another network each time":
            self.asked = 1 - getattr(self, "asked", 1)
            sample["first"] = ("narrow", "skip")[self.asked]
        if self.way == "a label is missing":
            del sample["depth"]
        return sample

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        done = super().training_step(batch, batch_idx)
        if self.way == "decay of all weights":
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.mul_(0.99)
        return done


class Broken(ProxylessNAS):
    def configure_oneshot_module(self, training_module: Any) -> Any:
        module = super().configure_oneshot_module(training_module)
        module.__class__ = BrokenModule
        module.way = Broken.way
        return module

    def mutate_model(self, model: Any) -> Any:
        if Broken.way == "takes everything":
            return model
        if Broken.way == "leaves traces":
            model.trace = nn.Identity()
        return super().mutate_model(model)


class BrokenContract(StrategyContract):
    def make_strategy(self, checkpoint_dir):
        forgets = Broken.way == "forgets where it was"
        return Broken(
            arc_update_every=2, arc_learning_rate=0.5, seed=0, checkpoint_dir=None if forgets else checkpoint_dir
        )


@pytest.mark.parametrize(
    ("way", "test"),
    [
        ("another network each time", "test_it_exports_the_same_twice"),
        ("a label is missing", "test_a_search_ends_with_a_network_of_the_space"),
        ("decay of all weights", "test_weights_off_the_path_stay_as_they_are"),
        ("takes everything", "test_what_it_cannot_search_is_refused_and_left_as_it_was"),
        ("leaves traces", "test_what_it_cannot_search_is_refused_and_left_as_it_was"),
        ("forgets where it was", "test_a_search_that_was_stopped_goes_on_to_the_bit"),
    ],
)
def test_each_way_of_breaking_it_is_seen(way, test, tmp_path, monkeypatch):
    monkeypatch.setattr(Broken, "way", way, raising=False)
    given = (tmp_path,) if "stopped" in test else ()
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(BrokenContract(), test)(*given)
