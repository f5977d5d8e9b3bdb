"""``costs`` of ``search.yml``: what is taken and refused, and a search with three targets at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from nni_proxyless.cli.main import main
from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.core.errors import UserError
from nni_proxyless.derive import Architecture


def problems(tmp_path: Path, text: str, *overrides: tuple) -> list[str]:
    (tmp_path / "search.yml").write_text(text)
    with pytest.raises(UserError) as refused:
        read_config(SearchConfig, tmp_path / "search.yml", overrides)
    return str(refused.value).replace(f"{tmp_path}/", "").splitlines()


def test_costs_are_read_and_overridden(tmp_path):
    """Defaults of a term, the name, and one entry by its dotted path, as an experiment's searchSpace has it."""
    (tmp_path / "search.yml").write_text("""
        costs:
        - {estimator: {name: macs}, target: 2.0, weight: 0.1}
        - {estimator: {name: parameters}, target: 60%, name: weights}
        - {estimator: {name: 'nni_proxyless.latency:ActivationsEstimator'}, target: 1, nonlinear: positive}
        """)
    config = read_config(SearchConfig, tmp_path / "search.yml", [("trial", "costs.1.target", "50%")])
    assert [cost.called for cost in config.costs] == ["macs", "weights", "ActivationsEstimator"]
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


TINY = """
seed: 3
space: {preset: small, widths: [8, 16], depths: [2, 2], strides: [2, 2], stem_width: 8, feature_mix: 32}
data: {name: digits, image_size: 8, batch_size: 64}
strategy: {warmup_epochs: 1, arc_update_every: 2, arc_learning_rate: 0.05}
latency: {target_ms: 90%, nonlinear: positive, estimator: {name: macs}}
costs:
- {estimator: {name: parameters}, target: 50%, weight: 20.0, name: weights}
- {estimator: {name: activations}, target: 80%, weight: 0.5, name: memory}
training: {epochs: 3}
trainer: {accelerator: cpu, threads: 1}
"""


@pytest.fixture
def search_file(tmp_path):
    (tmp_path / "search.yml").write_text(TINY)
    before = torch.get_num_threads()
    yield tmp_path / "search.yml"
    torch.set_num_threads(before)


def test_a_search_with_three_targets(search_file):
    """Every cost is reported per epoch under its name and stands beside the net that is left."""
    out = search_file.parent / "out"
    assert main(["search", str(search_file), f"output={out}"]) == 0
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert {"expected_weights", "derived_weights", "expected_memory", "derived_memory", "expected_ms"} <= set(
        history[0]
    )
    assert history[2]["expected_weights"] < history[0]["expected_weights"], "a weight of 20 pulls"
    architecture = Architecture.read(out / "architecture.json")
    weights = architecture.search["costs"]["weights"]
    assert weights["unit"] == "million parameters"
    assert weights["derived"] == pytest.approx(architecture.n_params / 1e6, rel=1e-12)
    assert weights["expected"] == history[2]["expected_weights"]
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
def test_a_search_that_cannot_meet_them_ends_with_code_2(search_file, capsys, override, said):
    words = [f"output={search_file.parent / 'out'}", override]
    assert main(["search", str(search_file), *words, "costs.1.nonlinear=positive"]) == 2
    assert said in capsys.readouterr().err


def test_a_cost_that_needs_the_sampled_path(search_file):
    """DSNAS says which path it has sampled, and ``form: threshold`` in one of several costs gets to know it."""
    out = search_file.parent / "out"
    strategy = "strategy={name: dsnas, warmup_epochs: 1, search_epochs: 1}"
    assert main(["search", str(search_file), f"output={out}", strategy, "costs.0.form=threshold"]) == 0
    assert "weights" in Architecture.read(out / "architecture.json").search["costs"]
