"""``costs`` of ``search.yml``: what is taken and refused, and a search with three targets at once."""

from __future__ import annotations

import pytest
import yaml

from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.derive import Architecture

from ..config.test_config import problems
from ..runs import MACS, TINY, history, search


def test_costs_are_read_and_overridden(tmp_path):
    """Defaults of a term, the name, and one entry by its dotted path, as an experiment's searchSpace has it."""
    (tmp_path / "search.yml").write_text("""
        costs:
        - {estimator: {name: macs}, target: 2.0, weight: 0.1}
        - {estimator: {name: parameters}, target: 60%, name: weights}
        - {estimator: {name: 'nni_proxyless.latency:ActivationsEstimator'}, target: 1, nonlinear: positive}
        """)
    config = read_config(SearchConfig, tmp_path / "search.yml", [("trial", "costs.1.target", "50%")])
    assert [cost.label for cost in config.costs] == ["macs", "weights", "ActivationsEstimator"]
    assert [cost.target for cost in config.costs] == [2.0, "50%", 1]
    assert [cost.weight for cost in config.costs] == [0.1, 1.0, 1.0]
    assert [cost.nonlinear for cost in config.costs] == ["linear", "linear", "positive"]
    assert read_config(SearchConfig, None).costs == []


def test_every_wrong_key_is_named(tmp_path):
    """Of every entry, at once, in the words of the other sections."""
    said = problems(
        tmp_path,
        """
        costs:
        - {estimator: {name: mac}, target: 2.0}
        - {estimator: {name: device, threds: 1}, target: 0, wieght: 1}
        - {target: 120%, weight: -1}
        - {estimator: {name: macs}, name: 'a b'}
        """,
        ("trial", "costs.9.target", 3),
    )
    keys = "estimator, target, weight, form, nonlinear, table, name"
    share = "allowed: a number, greater than 0, or a share of the network that costs most such as 60%"
    for line in (
        "trial: 'costs.9.target': 'costs.9' is not a section",
        f"search.yml: costs.1.target: 0 is not allowed here; {share}",
        f"search.yml: costs.1: unknown key 'wieght'; allowed: {keys}. Did you mean 'weight'?",
        "search.yml: costs.2.estimator: is missing",
        f"search.yml: costs.2.target: '120%' is not allowed here; {share}",
        "search.yml: costs.3.target: is missing",
    ):
        assert line in said, line
    for start in (
        "search.yml: costs.0.estimator.name: 'mac' is unknown; allowed: ",
        "search.yml: costs.1.estimator: unknown key 'threds'; allowed: ",
        "search.yml: costs.2.weight",
        "search.yml: costs.3.name: 'a b' is not allowed here",
    ):
        assert any(line.startswith(start) for line in said), start


def test_multipliers_that_would_fight_and_names_twice_are_refused(tmp_path):
    macs = "{estimator: {name: macs}, target: 2, weight: auto}"
    said = problems(
        tmp_path, f"{{latency: {{target_ms: 2.0}}, costs: [{macs}, {{estimator: {{name: macs}}, target: 3}}]}}"
    )
    assert said == [
        "search.yml: costs.0.weight: 'auto' is not allowed here, since latency.weight is auto and their multipliers would fight; "
        "allowed: a number of 0 or more",
        "search.yml: costs.1.name: 'macs' is the name of costs.0 already; allowed: another",
    ]
    (tmp_path / "search.yml").write_text(f"costs: [{macs}]")  # without a target, the latency has no multiplier
    assert read_config(SearchConfig, tmp_path / "search.yml").costs[0].weight == "auto"


COSTS = """
costs:
- {estimator: {name: parameters}, target: 50%, weight: 20.0, name: weights}
- {estimator: {name: activations}, target: 80%, weight: 0.5, name: memory}
"""
WORDS = (*MACS, "latency.nonlinear=positive")


def test_a_search_with_three_targets(tmp_path):
    """Every cost is reported per epoch under its name and stands beside the net that is left."""
    out = search(tmp_path, *WORDS, "latency.target_ms=45%", text=TINY + COSTS)
    epochs = history(out)
    assert {f"{what}_{name}" for what in ("expected", "derived") for name in ("weights", "memory")} <= set(epochs[0])
    assert epochs[0]["expected_ms"] > 0
    assert epochs[2]["multiplier"] > 0, "the latency is held beside them"
    assert epochs[2]["expected_weights"] < epochs[0]["expected_weights"], "a weight of 20 pulls"
    architecture = Architecture.read(out / "architecture.json")
    weights = architecture.search["costs"]["weights"]
    assert weights["unit"] == "million parameters"
    assert weights["derived"] == pytest.approx(architecture.n_params / 1e6, rel=1e-12)
    assert weights["expected"] == epochs[2]["expected_weights"]
    assert architecture.search["costs"]["memory"]["target"] > 0
    assert yaml.safe_load((out / "search.yml").read_text())["costs"][1]["name"] == "memory"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("costs.0.target=1e-6", "costs.0.target: 1e-06 million parameters is out of reach: the networks of this space have "),
        ("strategy.update=reinforce", "strategy: penalty holds 3 costs, of which update='reinforce' makes no one reward"),
        ("costs.1.form=add", "allowed: 'linear'"),
    ],
)  # fmt: skip
def test_a_search_that_cannot_meet_them_ends_with_code_2(tmp_path, refused, override, said):
    (tmp_path / "search.yml").write_text(TINY + COSTS)
    words = [*WORDS, f"output={tmp_path / 'out'}", override, "costs.1.nonlinear=positive"]
    assert said in refused("search", tmp_path / "search.yml", *words)


def test_a_cost_that_needs_the_sampled_path(tmp_path):
    """DSNAS says which path it has sampled, and ``form: threshold`` in one of several costs gets to know it."""
    strategy = "strategy={name: dsnas, warmup_epochs: 1, search_epochs: 1}"
    out = search(tmp_path, *WORDS, strategy, "costs.0.form=threshold", text=TINY + COSTS)
    assert "weights" in Architecture.read(out / "architecture.json").search["costs"]
