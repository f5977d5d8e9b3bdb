"""The benchmark of specialization: its networks against all networks of a small space, and its bars and tables on known values."""

from __future__ import annotations

import itertools
import random

import pytest
from nni_proxyless.search_spaces import MobileNetV2Space

from experiments.benchmarks.specialization import report
from experiments.benchmarks.specialization import run as specialization
from nni_proxyless.latency import LatencyEstimator, LatencyProfiler, MacsEstimator
from nni_proxyless.latency.objectives.budget import log_probability


class BySkips(LatencyEstimator):
    """Every operation takes as long, whatever it computes."""

    conditions = {"source": "test"}  # noqa: RUF012  (a constant)

    def estimate(self, operation):
        return 1.0


@pytest.fixture(scope="module")
def profilers() -> dict[str, LatencyProfiler]:
    small = {"preset": "small", "widths": (8, 16), "depths": (2, 2), "strides": (1, 2), "aligned_init": False}
    space = MobileNetV2Space(**small, kernels=(3, 5), in_channels=1)
    return {name: LatencyProfiler(space, estimator, (1, 8, 8))
            for name, estimator in (("skips", BySkips()), (report.MACS, MacsEstimator()))}  # fmt: skip


@pytest.fixture(scope="module")
def probs(profilers) -> dict[str, dict[str, float]]:
    draw = random.Random(0)
    found = {}
    for label, costs in profilers["skips"].candidate_ms.items():
        weights = {choice: draw.uniform(0.1, 1) for choice in costs}
        found[label] = {choice: w / sum(weights.values()) for choice, w in weights.items()}
    return found


@pytest.mark.parametrize("share", [1.0, 0.7, 0.3, 0.0])
def test_no_net_of_the_score_is_faster(profilers, probs, share):
    nets = [dict(zip(probs, choices, strict=True)) for choices in itertools.product(*probs.values())]
    scores = sorted(log_probability(probs, net) for net in nets)
    score = scores[-1] if share == 1.0 else scores[int(share * len(scores))]
    for profiler in profilers.values():
        found = specialization.fastest_of_score(probs, profiler, score)
        assert log_probability(probs, found) >= score - 1e-9
        least = min(float(profiler.profile(net)) for net in nets if log_probability(probs, net) >= score - 1e-9)
        assert float(profiler.profile(found)) == pytest.approx(least, rel=specialization.CLOSE)


def test_no_net_has_a_score_above_the_best(profilers, probs):
    with pytest.raises(ValueError, match=r"score is 0\.5; allowed: up to -"):
        specialization.fastest_of_score(probs, profilers["skips"], 0.5)


def test_nets_of_all_targets_have_the_score_and_are_fastest_on_their_own(profilers, probs, monkeypatch):
    monkeypatch.setattr(specialization, "SHARE", 0.7)
    score, nets = specialization.nets_of(probs, profilers)
    assert all(log_probability(probs, net) >= score - 1e-9 for net in nets.values())
    assert report.n_different(nets["skips"], nets[report.MACS]) >= 1
    for name, profiler in profilers.items():
        assert profiler.profile(nets[name]) <= min(map(profiler.profile, nets.values())) * (1 + specialization.CLOSE)


def made_up(faster: float, accuracy: float) -> dict:
    """Two seeds, two targets: on ``a`` its own network takes ``faster`` times what the other's takes; and its network's accuracy."""

    def net(target: str, seed: int) -> dict:
        own = faster * (1 + 0.001 * seed) if target == "a" else 1.0
        return {
            "choices": {"l": target}, "accuracy": accuracy + 0.001 * seed if target == "a" else 0.9, "log_probability": -2.0,
            "table": {"a": own, report.MACS: 5.0}, "measured": {"a": [own, own * 1.01, own, own * 0.99]},
        }  # fmt: skip

    runs = [{"seed": seed, "score": -2.0, "nets": {t: net(t, seed) for t in ("a", report.MACS)}} for seed in (0, 1)]
    small = {
        "test_images": 1000,
        "unit": {"a": "ms", report.MACS: "million multiply-adds"},
        "runs": runs,
    }
    paper = {name: {"batch 1": [1.0, 2.0], "batch 8": [3.0]} for name in report.PAPER}
    found = {"small": small, "imagenet": None, "paper": paper}
    provenance = {"machine": {"cpu": "a CPU", "cores": 2}, "threads": 1, "date": "2026-11-23", "versions": {"torch": "2.15"},
                  "command": "python x.py", "settings": {}, "seconds": 60}  # fmt: skip
    return provenance | found | {"bars": specialization.bars(found)}


def test_bars_want_the_own_net_to_be_faster_and_as_accurate():
    verdicts = [b["verdict"] for b in made_up(0.8, 0.9)["bars"]]
    assert verdicts == ["met", "met", "within noise"], "faster, accurate on a, accurate by multiply-adds"
    names = {b["bar"]: b for b in made_up(1.2, 0.8)["bars"] if b["verdict"] == "missed"}
    assert list(names) == [
        "small: own network on a, timed, by the fastest other",
        "small: accuracy of the network for a less the mean of all",
    ]
    first = names["small: own network on a, timed, by the fastest other"]
    assert first["value"] == pytest.approx(1.2, rel=0.01)
    assert first["noise"] == pytest.approx(1.2 * 0.001, rel=0.01), "twice the standard error of two seeds"


def test_nets_of_two_devices_must_differ_and_those_by_multiply_adds_need_not():
    result = made_up(0.8, 0.9)
    for run in result["small"]["runs"]:
        run["nets"]["b"] = run["nets"]["a"]
    result["small"]["unit"]["b"] = "ms"
    (differ,) = (b for b in specialization.bars(result) if "differ" in b["bar"])
    assert (differ["bar"], differ["verdict"]) == ("small: choices in which the networks for a and b differ", "missed")
