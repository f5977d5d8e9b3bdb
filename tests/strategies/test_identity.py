"""What makes two searches the same search: a checkpoint is gone on from by no other."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from nni.nas.oneshot.pytorch.profiler import ExpectationProfilerPenalty
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from nni_proxyless.strategies.oneshot.checkpoint import CheckpointError, CheckpointFolder
from nni_proxyless.strategies.oneshot.identity import identity_of_penalty, without_modules

from nni_proxyless.core.ranges import GreaterThan, NotIdentity
from nni_proxyless.core.settings_diff import differences
from nni_proxyless.latency import LatencyPenalty, LatencyReward, Penalties

from .searches import Cost, Space, Task, searched

OTHER: dict[str, Any] = {
    "update": "full", "arc_learning_rate": 0.5, "arc_update_every": 2, "arc_update_steps": 3, "arc_start_epoch": 1,
    "warmup_epochs": 2, "warmup_learning_rate": 0.3, "size_bias": 1.0, "gradient_clip_val": 2.0,
    "gradient_clip_algorithm": "value", "accumulate_grad_batches": 2, "cost_probs": "full", "update_active_skip": False,
    "entropy_weight": 0.1, "reinforce_samples": 4, "reward_exponent": -0.5, "baseline": "never", "baseline_weight": 0.7,
    "within_target": False, "seed": 3, "search_epochs": 7, "fix_gap": 0.9, "reward": "gradient", "paths": "shared",
    "log_prob_every_n_step": 5, "checkpoint_dir": "elsewhere", "checkpoint_every": 9,
}  # fmt: skip
METHODS = (ProxylessNAS, DSNAS)
WITHOUT_EFFECT = ("log_prob_every_n_step", "checkpoint_dir", "checkpoint_every")


def options(method: type) -> list[str]:
    """All that a strategy takes, but its penalty and what NNI's strategies take."""
    given = ("penalty", "mutation_hooks", "selector")
    return [name for name in inspect.signature(method).parameters if name not in given]


@pytest.mark.parametrize(("method", "option"), [(method, name) for method in METHODS for name in options(method)])
def test_every_option_counts_but_those_that_change_nothing(method, option):
    """Another value of any option is another search, ``reward_exponent`` and ``within_target`` among them."""
    alone = {"warmup_epochs": 1} if option == "warmup_learning_rate" else {}
    before, after = method(**alone).identity(), method(**alone, **{option: OTHER[option]}).identity()
    found = differences(after, before, "in the checkpoint")
    assert found == ([] if option in WITHOUT_EFFECT else [f"{option} is {OTHER[option]!r} here, {before[option]!r} in the checkpoint"])  # fmt: skip


class Newer(ProxylessNAS):
    def __init__(self, *, temperature: Any = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.temperature = temperature


class Forgetful(ProxylessNAS):
    def __init__(self, *, temperature: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)


@dataclass(kw_only=True, eq=False, repr=False)
class NewerField(ProxylessNAS):
    temperature: Annotated[float, GreaterThan(0)] = 1.0
    watched: Annotated[bool, NotIdentity()] = False


def test_a_new_field_counts_by_itself_and_has_its_range():
    assert differences(
        NewerField(watched=True).identity(), NewerField(temperature=2.0).identity(), "in the checkpoint"
    ) == ["temperature is 1.0 here, 2.0 in the checkpoint"]
    with pytest.raises(ValueError, match=r"^temperature is 0; allowed: greater than 0$"):
        NewerField(temperature=0)


def test_a_new_option_counts_by_itself():
    """One that a subclass, or a later version, adds, whatever its kind; one that is not kept is refused by name."""
    assert differences(Newer().identity(), Newer(temperature=2.0).identity(), "in the checkpoint") == [
        "temperature is 1.0 here, 2.0 in the checkpoint"
    ]
    assert Newer(temperature=torch.relu).identity()["temperature"] != Newer(temperature=torch.tanh).identity()["temperature"]  # fmt: skip
    assert set(ProxylessNAS().identity()) == set(Newer().identity()) - {"temperature"}
    with pytest.raises(TypeError, match="Forgetful does not keep its option 'temperature'"):
        Forgetful().identity()


class Slower(Cost):
    def __init__(self, space: Any):
        super().__init__(space)
        self.expression = self.expression + 0.125


def test_a_penalty_counts_with_all_that_it_weighs():
    """Target, weight, form, how it is bent, and the costs themselves; the same penalty made twice is the same."""
    cost = Cost(Space())
    penalties: list[Any] = [
        None, LatencyPenalty(cost, 4.0), LatencyPenalty(cost, 5.0), LatencyPenalty(cost, 4.0, 2.0), LatencyPenalty(cost, 4.0, "auto"),
        LatencyPenalty(cost, 4.0, form="add"), LatencyPenalty(cost, 4.0, nonlinear="positive"), LatencyPenalty(cost, 4.0, "auto", tolerance=0.2),
        LatencyPenalty(Slower(Space()), 4.0), LatencyReward(cost, 4.0), LatencyReward(cost, 4.0, -0.2), LatencyReward(len, 4.0),
        ExpectationProfilerPenalty(cost, 4.0), ExpectationProfilerPenalty(cost, 4.0, aggregate="mul"),
        Penalties({"a": LatencyPenalty(cost, 4.0)}), Penalties({"a": LatencyPenalty(cost, 5.0)}), Penalties({"b": LatencyPenalty(cost, 4.0)}),
    ]  # fmt: skip
    seen = [identity_of_penalty(penalty) for penalty in penalties]
    assert [a == b for i, a in enumerate(seen) for b in seen[:i]] == [False] * (len(seen) * (len(seen) - 1) // 2)
    again = LatencyPenalty(Cost(Space()), 4.0)
    assert differences(identity_of_penalty(again), seen[1]) == []
    assert differences(identity_of_penalty(again), seen[2]) == ["target_ms is 4.0 here, 5.0 there"]


def search(folder: Path, **given: Any) -> None:
    """Two batches, one epoch."""
    searched(ProxylessNAS(arc_update_every=1, checkpoint_dir=str(folder), **given), Task(), epochs=1, images=8)


def test_a_checkpoint_that_does_not_say_an_option_is_gone_on_from(tmp_path, caplog):
    """One of an earlier version: what it says must agree, what it does not say is taken as the same, and said."""
    search(tmp_path, reward_exponent=-0.2)
    with pytest.raises(CheckpointError, match=r"another search: reward_exponent is -0.3 here, -0.2 in the checkpoint"):
        search(tmp_path, reward_exponent=-0.3)
    files = CheckpointFolder(tmp_path)
    state = files.read()
    assert state is not None
    for name in ("reward_exponent", "penalty"):
        del state["identity"][name]
    files.write(state)
    search(tmp_path, reward_exponent=-0.3)
    assert "the checkpoint does not say reward_exponent, penalty: taken as the same as here" in caplog.text
    with pytest.raises(CheckpointError, match=r"another search: seed is 1 here, 0 in the checkpoint"):
        search(tmp_path, reward_exponent=-0.3, seed=1)


def test_a_class_that_has_moved_is_the_same_class(tmp_path):
    """Checkpoints of earlier versions name classes of this package by the modules that they were in then."""
    assert without_modules("nni_proxyless.latency.penalty.LatencyPenalty") == "nni_proxyless:LatencyPenalty"
    assert without_modules("nni_proxyless.latency.penalty.LatencyReward") != "nni_proxyless:LatencyPenalty"
    assert without_modules("somebody.latency.penalty.LatencyPenalty") == "somebody.latency.penalty.LatencyPenalty"
    assert Newer(temperature=LatencyPenalty).identity()["temperature"] == "nni_proxyless:LatencyPenalty"
    search(tmp_path)
    files = CheckpointFolder(tmp_path)
    state = files.read()
    assert state is not None
    state["identity"]["baseline"] = {"kind": ["nni_proxyless.old.home.Cost", "before"]}
    files.write(state)
    with pytest.raises(CheckpointError, match=r"another search: baseline is 'before' here, \{'kind': \['nni_proxyless:Cost', 'before'\]\}"):  # fmt: skip
        search(tmp_path)
