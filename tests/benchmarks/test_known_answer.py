"""A case with a known answer: what a network is worth among all others, and the command in its smallest form."""

from __future__ import annotations

import json
import math

import pytest
import torch

from experiments.benchmarks.known_answer import networks as known_networks
from experiments.benchmarks.known_answer import run as known_answer

# Four networks: accuracies of two trainings each, and multiply-adds.
TRUTH = {
    "accuracies": {"a": [0.9, 0.8], "b": [0.8, 0.8], "c": [0.5, 0.5], "d": [0.7, 0.7]},
    "macs": {"a": 100, "b": 50, "c": 10, "d": 40},
}


def test_standing_within_a_target():
    accuracies = known_networks.allowed(TRUTH, None)
    assert accuracies == pytest.approx({"a": 0.85, "b": 0.8, "c": 0.5, "d": 0.7})
    assert known_networks.standing("a", accuracies, 0.0) == {"rank": 1, "regret": 0.0, "within_noise": True}
    found = known_networks.standing("b", accuracies, 0.06)
    assert found == {"rank": 2, "regret": pytest.approx(0.05), "within_noise": True}
    assert not known_networks.standing("b", accuracies, 0.04)["within_noise"]
    # Half of the largest is 50: b is within it, and the best then.
    assert set(known_networks.allowed(TRUTH, 0.5)) == {"b", "c", "d"}
    assert known_networks.standing("d", known_networks.allowed(TRUTH, 0.5), 0.0)["rank"] == 2


def test_noise_is_that_of_a_difference_of_two_means():
    # Variances 0.005, 0, 0, 0; of a mean of two half of it; of a difference twice that.
    assert known_networks.noise_of(TRUTH, None) == pytest.approx(math.sqrt(2 * 0.005 / 4 / 2))
    assert known_networks.noise_of(TRUTH, 0.5) == 0
    assert (
        known_networks.noise_of({**TRUTH, "accuracies": {n: v[:1] for n, v in TRUTH["accuracies"].items()}}, None) == 0
    )


def test_what_random_networks_get():
    one = known_networks.chance(TRUTH, None, 1)
    assert (one["networks"], one["best"], one["rank"], one["is_best"], one["top_5"]) == (4, "a", 2.5, 0.25, 1)
    regret = (0 + 0.05 + 0.35 + 0.15) / 4
    assert one["regret"] == one["regret_of_best_of_draws"] == pytest.approx(regret)
    # Of all four the best of the first training is a, of the second one of the equals, a before b.
    assert known_networks.chance(TRUTH, None, 4)["regret_of_best_of_draws"] == 0
    # Two of four: a is one of them in 3 of 6 pairs, b the best in 2, d in 1.
    assert known_networks.chance(TRUTH, None, 2)["regret_of_best_of_draws"] == pytest.approx((2 * 0.05 + 0.15) / 6)


def test_random_networks_near_a_target():
    """Half of the largest is 50: b alone is near it; 45 leaves d, which takes 40, 12 % less."""
    assert known_networks.near(TRUTH, None) == known_networks.allowed(TRUTH, None)
    assert list(known_networks.near(TRUTH, 0.5)) == ["b"]
    assert list(known_networks.near(TRUTH, 0.45)) == ["d"]
    assert list(known_networks.near(TRUTH, 0.3)) == ["c"], "nothing takes half of it, so all"
    found = known_networks.chance(TRUTH, 0.5, 2)
    assert found["near"] == {"networks": 1, "regret": 0, "regret_of_best_of_draws": 0}
    assert found["regret_of_best_of_draws"] == pytest.approx(0.1 / 3), "d of c and d, else b"


def test_networks_side_by_side_never_meet():
    """Each copy sees its own images alone: a gradient of one output reaches no other input."""
    network = known_networks.Small(3).freeze({"layer0": "k5", "layer1": "skip", "layer2": "k3"})
    x = torch.randn(4, 3, 8, 8, requires_grad=True)
    network(x).view(4, 3, 10)[:, 1].sum().backward()
    assert [bool(x.grad[:, i].any()) for i in range(3)] == [False, True, False]


def test_accuracies_of_another_training_are_not_taken(tmp_path):
    file = tmp_path / "truth.json"
    assert known_networks.read_truth(file) is None
    truth = {"settings": known_networks.settings_of_truth(), "accuracies": {}}
    file.write_text(json.dumps({"truth": truth}), encoding="utf-8")
    assert known_networks.read_truth(file) == truth
    truth["settings"]["epochs"] += 1
    file.write_text(json.dumps({"truth": truth}), encoding="utf-8")
    assert known_networks.read_truth(file) is None


def test_all_networks_are_trained_several_times(monkeypatch):
    monkeypatch.setattr(known_networks, "EPOCHS", 1)
    two = known_networks.architectures()[:2]
    monkeypatch.setattr(known_networks, "architectures", lambda: two)
    truth = known_networks.measure_truth(2)
    assert list(truth["accuracies"]) == list(truth["macs"]) == ["skip-skip-skip", "skip-skip-k1"]
    assert all(len(found) == 2 and 0 <= min(found) <= max(found) <= 1 for found in truth["accuracies"].values())
    assert truth["macs"]["skip-skip-k1"] - truth["macs"]["skip-skip-skip"] == 8 * 8 * 2 * 2
    assert known_networks.measure_truth(2)["accuracies"] == truth["accuracies"]


def test_the_command_searches_and_records(tmp_path, monkeypatch):
    """In its smallest form, in a world where the network that costs most is the best and each step down costs 0.01."""
    monkeypatch.setattr(known_answer, "WARMUP_EPOCHS", 1)
    monkeypatch.setattr(known_answer, "SEARCH_EPOCHS", 1)
    monkeypatch.setitem(known_answer.PLANTED, "two-path", {"epochs": 1, "arc_learning_rate": 0.1})
    macs = {known_networks.name_of(net): 1 + i for i, net in enumerate(known_networks.architectures())}
    world = {name: [0.3 + 0.01 * cost] * 2 for name, cost in macs.items()}
    truth = {"settings": known_networks.settings_of_truth(), "accuracies": world, "macs": macs}
    given, file = tmp_path / "truth.json", tmp_path / "result.json"
    given.write_text(json.dumps({"truth": truth}), encoding="utf-8")
    monkeypatch.setattr(known_answer, "TARGETS", (None,))
    words = ["--planted-seeds", "1", "--seeds", "1", "--strategies", "two-path"]
    code = known_answer.main([*words, "--truth", str(given), "--output", str(file)])
    result = json.loads(file.read_text(encoding="utf-8"))
    assert code == bool([bar for bar in result["bars"] if bar["verdict"] == "missed"])
    assert [(row["strategy"], row["residual"], len(row["found"])) for row in result["planted"]] == [
        ("two-path", False, 1), ("two-path", True, 1),
    ]  # fmt: skip
    (found,) = result["searches"]
    assert found["rank"] == 65 - macs[found["found"]]
    assert found["regret"] == pytest.approx(0.01 * (found["rank"] - 1))
    assert result["chance"][0]["regret"] == pytest.approx(0.01 * 63 / 2)
