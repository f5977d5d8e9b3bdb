"""NNI's own strategies by name: through the command ``search``, on a space with a layer, a depth and inputs to choose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, Repeat
from torch import nn

from nni_proxyless.cli.main import main
from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.derive import Architecture, build_network, load_weights

from ..runs import history

DIFFERENTIABLE = ("nni-darts", "nni-gumbel-darts", "nni-proxyless")
SEARCH = """
space: {name: "tests.search.test_peers:Choices"}
data: {name: synthetic, n_images: 320, num_classes: 2, channels: 1, image_size: 8, batch_size: 16}
latency: {target_ms: 60%, weight: 10000.0, estimator: {name: macs}}
training: {epochs: 2, optimizer: adamw, learning_rate: 0.01}
search: {select: probabilities}
trainer: {accelerator: cpu, threads: 1}
"""


def conv(channels: int, kernel: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, kernel, padding=kernel // 2), nn.BatchNorm2d(channels), nn.ReLU()
    )


class Choices(ModelSpace):
    """The cheapest network: ``layer`` narrow, ``depth`` 1."""

    def __init__(self, num_classes: int = 2):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.layer = LayerChoice({"wide": conv(4, 5), "narrow": conv(4, 1)}, label="layer")
        self.deep = Repeat(lambda index: conv(4, 3), (1, 3), label="depth")
        self.pick = InputChoice(2, n_chosen=1, label="pick")
        self.head = nn.Linear(4, num_classes)

    def forward(self, images):
        maps = self.layer(self.stem(images))
        return self.head(self.pick([maps, self.deep(maps)]).mean((2, 3)))


def search(folder: Path, strategy: str, *overrides: str) -> int:
    (folder / "search.yml").write_text(SEARCH)
    return main(["search", str(folder / "search.yml"), f"strategy={strategy}", f"output={folder / 'out'}", *overrides])


def left(folder: Path) -> tuple[Architecture, dict, dict]:
    """Architecture, label -> choice -> probability, and figures of the last epoch."""
    out = folder / "out"
    pairs = json.loads((out / "probabilities.json").read_text())["probabilities"]
    probs = {label: {str(choice): p for choice, p in found} for label, found in pairs.items()}
    return Architecture.read(out / "architecture.json"), probs, history(out)[-1]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_with_a_huge_weight_the_cheapest_candidates_win(tmp_path, name):
    """Which they do only if the penalty's gradient reaches all logits, those of a ``Repeat`` too.

    The network is the most probable one, and the probabilities that are left are those that were reported: NNI's GumbelDARTS
    draws noise whenever it is asked, its Proxyless exports a network at random.
    """
    assert search(tmp_path, f"{{name: {name}, arc_learning_rate: 0.5}}") == 0
    architecture, probs, last = left(tmp_path)
    assert (architecture.choices["layer"], architecture.choices["depth"]) == ("narrow", 1)
    assert probs["layer"]["narrow"] > 0.9
    assert probs["depth"]["1"] > 0.8
    assert probs["pick"][str(architecture.choices["pick"])] == max(probs["pick"].values())
    assert all(sum(distribution.values()) == pytest.approx(1) for distribution in probs.values())
    layer, deep = 4 * 4 * 64 / 1e6, 4 * 4 * 9 * 64 / 1e6  # of 1x1 and of 3x3, with 4 channels of 8x8
    expected = 4 * 9 * 64 / 1e6 + 8 / 1e6  # stem and head
    expected += layer * (probs["layer"]["narrow"] + 25 * probs["layer"]["wide"])
    expected += deep * sum(int(depth) * p for depth, p in probs["depth"].items())
    assert last["expected_ms"] == pytest.approx(expected, rel=1e-4)
    assert build_network(architecture, load_weights(tmp_path / "out" / "weights.safetensors"))


def test_random_is_a_network_within_the_target(tmp_path, capsys):
    """The target is a hard limit, the probabilities stay even, and the curve is that of one network."""
    for seed in range(3):
        (folder := tmp_path / str(seed)).mkdir()
        assert search(folder, "{name: nni-random}", f"seed={seed}", "latency.target_ms=30%") == 0
        architecture, probs, _ = left(folder)
        assert 0 < architecture.latency["table_ms"] <= architecture.latency["target_ms"]
        assert all(len(set(distribution.values())) == 1 for distribution in probs.values())
        assert len({epoch["table_ms"] for epoch in history(folder / "out")}) == 1
    capsys.readouterr()
    # With its probabilities all networks tie: another one of them, under another budget, with the supernet's weights.
    budget = architecture.latency["table_ms"]
    assert main(["derive", str(folder / "out"), "--budget-ms", str(budget)]) == 0
    assert "weights of the supernet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ("{name: nni-darts, warmup_epoch: 1}", "command line: strategy: unknown key 'warmup_epoch'; allowed: name, arc_learning_rate, warmup_epochs, gradient_clip_val, log_prob_every_n_step. Did you mean 'warmup_epochs'?"),
        ("{name: nni-random, warmup_epochs: 1}", "command line: strategy: unknown key 'warmup_epochs'; allowed: name."),
        ("{name: nni-gumbel-darts, temperature: [0.3, 1.0]}", "command line: strategy: temperature is [0.3, 1.0]; allowed: a number greater than 0, or two of them, the greater one first"),
        ("{name: nni-proxyless, arc_learning_rate: 0.0}", "command line: strategy: arc_learning_rate is 0.0; allowed: greater than 0"),
        ("{name: nni-enas}", "strategy.name: 'nni-enas' is refused: NNI's ENAS needs tianshou and gym, which this package does not bring"),
        ("{name: nni-dart}", "allowed: dsnas, nni-darts, nni-gumbel-darts, nni-proxyless, nni-random, proxyless, or package.module:Class. Did you mean 'nni-darts'?"),
        ("{name: 'nni.nas.strategy:PolicyBasedRL'}", "'nni.nas.strategy:PolicyBasedRL' is of another kind; allowed: a class that inherits NNI's OneShotStrategy"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(tmp_path, capsys, strategy, message):
    assert search(tmp_path, strategy) == 2
    assert message in capsys.readouterr().err


def test_what_only_a_running_search_can_tell_is_refused_as_well(tmp_path, capsys):
    assert search(tmp_path, "{name: nni-darts}", "latency.form=threshold", "latency.weight=0.1") == 2
    assert "strategy: form 'threshold' needs the sampled path, which NNI's DARTS does not say; use DSNAS" in (
        capsys.readouterr().err
    )
    below_all_but_one = "latency.target_ms=0.002"
    assert search(tmp_path, "{name: nni-random}", below_all_but_one, "space.name=tests.search.test_peers:Rare") == 2
    assert "strategy: of 100 random networks none was within the targets; allowed: larger targets" in (
        capsys.readouterr().err
    )


class Rare(ModelSpace):
    """One network in 4,096 is cheap."""

    def __init__(self, num_classes: int = 2):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1, stride=2)
        self.layers = nn.Sequential(
            *(LayerChoice({"wide": conv(2, 5), "narrow": conv(2, 1)}, label=f"layer{i}") for i in range(12))
        )
        self.head = nn.Linear(2, num_classes)

    def forward(self, images):
        return self.head(self.layers(self.stem(images)).mean((2, 3)))


def test_the_shipped_experiment_knows_all_of_them(pytestconfig):
    """Every strategy that it chooses is there with its own arguments."""
    folder = pytestconfig.rootpath / "experiments"
    experiment = yaml.safe_load((folder / "peers.yml").read_text(encoding="utf-8"))
    chosen = experiment["searchSpace"]["strategy.name"]["_value"]
    assert set(chosen) >= {*DIFFERENTIABLE, "nni-random", "proxyless", "dsnas"}
    own = yaml.safe_load((folder / "search_peers.yml").read_text(encoding="utf-8"))["strategies"]
    for name in chosen:
        overrides = [("NNI's parameters", "strategy.name", name)]
        config = read_config(SearchConfig, folder / "search_peers.yml", overrides)
        assert config.strategy.arguments == own.get(name, {})
