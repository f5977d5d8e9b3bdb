"""``nni-proxyless derive``: other networks out of a finished search, as a user types it."""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
from pathlib import Path

import pytest
import torch
from nni_proxyless.search_spaces import MobileNetV2Space

from nni_proxyless import data
from nni_proxyless.cli.main import main
from nni_proxyless.data.accuracy import evaluate_accuracy
from nni_proxyless.derive import Architecture, count_macs, load_weights, to_timm
from nni_proxyless.latency.objectives.budget import fastest, log_probability, slowest
from nni_proxyless.search.derivation import FinishedSearch, budget_folder
from nni_proxyless.search.supernet_files import read_probabilities
from nni_proxyless.search.supernet_ranking import judge_probable

TINY = """
seed: 3
space: {preset: small, widths: [8, 16], depths: [2, 2], strides: [2, 2], stem_width: 8, feature_mix: 32}
data: {name: digits, image_size: 8, batch_size: 64}
strategy: {warmup_epochs: 1, arc_update_every: 2, arc_learning_rate: 0.05}
latency: {target_ms: 90%, estimator: {name: macs}}
training: {epochs: 2}
trainer: {accelerator: cpu, threads: 1}
"""


def search(folder: Path, *words: str) -> Path:
    (folder / "search.yml").write_text(TINY)
    before = torch.get_num_threads()
    assert main(["search", str(folder / "search.yml"), f"output={folder / 'out'}", *words]) == 0
    torch.set_num_threads(before)
    return folder / "out"


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    """A search for multiply-adds, which are the same everywhere."""
    return search(tmp_path_factory.mktemp("searched"))


@pytest.fixture(scope="module")
def reach(searched) -> tuple[float, float]:
    """Millions of multiply-adds of the cheapest and of the dearest network."""
    profiler = FinishedSearch.read(searched).profiler
    return fastest(profiler)[1], slowest(profiler)[1]


def supernet_of(run: Path) -> MobileNetV2Space:
    """A fresh space with the weights of the search, strictly by name."""
    space = MobileNetV2Space(**Architecture.read(run / "architecture.json").space["arguments"])
    space.load_state_dict(load_weights(run / "supernet.safetensors"))
    return space


def test_a_search_leaves_its_probabilities_and_all_weights(searched):
    """Its net is the one that ``derive`` takes at its target, and its trained weights are the supernet's."""
    architecture = Architecture.read(searched / "architecture.json")
    probs = read_probabilities(searched)
    target = architecture.latency["target_ms"]
    assert FinishedSearch.read(searched).best(target) == architecture.choices
    assert 0.97 * target <= architecture.latency["table_ms"] <= target
    assert all(sum(ps.values()) == pytest.approx(1, abs=1e-5) for ps in probs.values())
    frozen = supernet_of(searched).freeze(architecture.choices).state_dict()
    trained = load_weights(searched / "weights.safetensors")
    weights = {name for name in trained if "running" not in name and "tracked" not in name}
    assert len(weights) > 10
    assert all(torch.equal(frozen[name], trained[name]) for name in weights)


def test_a_budget_is_kept_and_the_weights_are_the_supernets(searched, reach, command, tmp_path):
    run = tmp_path / "out"
    shutil.copytree(searched, run)
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    low, high = reach
    budget = round(low + 0.2 * (high - low), 6)
    done = command("nni-proxyless", "derive", "out", "--budget-ms", budget)
    assert done.returncode == 0, done.stderr
    folder = run / budget_folder(budget)
    assert done.stdout.splitlines()[-1] == f"architecture: {Path('out') / folder.name / 'architecture.json'}"
    assert "weights of the supernet" in done.stdout
    assert before == {path: path.read_bytes() for path in run.iterdir() if path.is_file()}

    architecture = Architecture.read(folder / "architecture.json")
    network = to_timm(architecture, load_weights(folder / "weights.safetensors"))
    assert architecture.latency["table_ms"] <= budget
    assert count_macs(network, architecture.input_shape) / 1e6 <= budget
    assert architecture.macs == count_macs(network, architecture.input_shape)
    assert architecture.choices != Architecture.read(run / "architecture.json").choices
    probs = read_probabilities(run)
    assert architecture.search["log_probability"] == log_probability(probs, architecture.choices)

    images = torch.randn(16, *architecture.input_shape)
    path = supernet_of(run).freeze(architecture.choices)
    # In training mode, since statistics of batch norm are estimated afresh for the path.
    torch.testing.assert_close(network.train()(images), path.train()(images), rtol=0, atol=1e-5)
    fresh = MobileNetV2Space(**architecture.space["arguments"]).freeze(architecture.choices)
    assert not torch.allclose(network(images), fresh.train()(images), atol=1e-2)

    parts = data.split(data.digits(image_size=8), alphas=0.2, validation=0.2)
    network = to_timm(architecture, load_weights(folder / "weights.safetensors"))
    accuracy = evaluate_accuracy(network, data.loader(parts.validation, 64))
    assert accuracy == pytest.approx(architecture.search["accuracy"], abs=0.004)


def test_a_front_climbs(searched, reach, tmp_path, capsys):
    """From the cheapest to the dearest network: never over the budget, and each more probable than the one before."""
    folder = tmp_path / "front"
    assert main(["derive", str(searched), "--front", "5", "--output", str(folder)]) == 0
    printed = capsys.readouterr().out.splitlines()
    with (folder / "front.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if name != "unit"} for row in csv.DictReader(file)]
    assert 2 <= len(rows) <= 5
    assert len(printed) == len(rows) + 2
    assert rows[0]["budget"] == rows[0]["table_ms"] == pytest.approx(reach[0])
    assert rows[-1]["budget"] <= reach[1]
    assert all(row["table_ms"] <= row["budget"] for row in rows)
    for name in ("budget", "table_ms", "log_probability", "macs"):
        values = [row[name] for row in rows]
        assert values == sorted(set(values)), name
    probs = read_probabilities(searched)
    assert rows[-1]["log_probability"] == pytest.approx(sum(math.log(max(ps.values())) for ps in probs.values()))
    nets = sorted(folder.glob("*/architecture.json"), key=lambda path: float(path.parent.name))
    assert len(nets) == len(rows)
    for path, row in zip(nets, rows, strict=True):
        architecture = Architecture.read(path)
        network = to_timm(architecture, load_weights(path.with_name("weights.safetensors")))
        assert (architecture.macs, architecture.latency["table_ms"]) == (row["macs"], row["table_ms"])
        assert count_macs(network, architecture.input_shape) == row["macs"]
        assert architecture.search["accuracy"] == row["accuracy"]
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    # A second time it writes over its own, and nothing else is in the way.
    assert main(["derive", str(searched), "--budget-ms", "1000", "--output", str(nets[0].parent)]) == 0
    capsys.readouterr()


def test_at_least_so_much_of_the_budget(searched, reach, tmp_path, capsys):
    """The net between two costs that is most probable, where the one below a budget alone costs less than both."""
    search, (low, high) = FinishedSearch.read(searched), reach
    budgets = [low + (high - low) * i / 40 for i in range(4, 40)]
    unused = [(b, search.profiler.profile(search.best(b, at_least=0))) for b in budgets]
    budget, alone = max(unused, key=lambda pair: pair[0] - pair[1])
    least = (alone + budget) / 2
    words = ["derive", str(searched), "--budget-ms", repr(budget), "--output", str(tmp_path / "net")]
    assert main([*words, "--at-least-ms", repr(least)]) == 0
    found = Architecture.read(tmp_path / "net" / "architecture.json").latency["table_ms"]
    assert least <= found <= budget
    assert main([*words, "--at-least-ms", repr(2 * budget)]) == 2
    assert "at_least_ms is" in capsys.readouterr().err
    assert main(["derive", str(searched), "--front", "3", "--at-least-ms", "1"]) == 2
    assert "--at-least-ms: not with --front; allowed: with --budget-ms" in capsys.readouterr().err


def test_of_many_probable_nets_the_most_accurate(searched, tmp_path, monkeypatch, capsys):
    """All within the budget and near it; the most probable one among them; judged on all images that trained no weight."""
    run = tmp_path / "out"
    shutil.copytree(searched, run)
    target = Architecture.read(run / "architecture.json").latency["target_ms"]
    monkeypatch.chdir(tmp_path)
    assert main(["derive", "out", "--budget-ms", repr(target), "--judge", "6", "--output", "net"]) == 0
    said = capsys.readouterr().out
    with (tmp_path / "net" / "judged.csv").open() as file:
        rows = list(csv.DictReader(file))
    figures = [(float(row["accuracy"]), float(row["log_probability"]), float(row["table_ms"])) for row in rows]
    assert len(rows) == 6
    assert [(-a, -p) for a, p, _ in figures] == sorted((-a, -p) for a, p, _ in figures)
    most_probable = FinishedSearch.read(run).best(target)
    near = float(FinishedSearch.read(run).profiler.profile(most_probable))
    assert all(0.95 * near <= ms <= target for _, _, ms in figures)

    search = FinishedSearch.read(run)
    nets = [{label: row[label] for label in search.probs} for row in rows]
    assert most_probable in nets
    assert len({repr(net) for net in nets}) == 6
    for net, (_, log_p, ms) in zip(nets, figures, strict=True):
        assert (log_p, ms) == (log_probability(search.probs, net), float(search.profiler.profile(net)))
    architecture = Architecture.read(tmp_path / "net" / "architecture.json")
    assert architecture.choices == nets[0]

    parts = data.split(data.digits(image_size=8), alphas=0.2, validation=0.2)
    held_out = torch.utils.data.ConcatDataset([parts.alphas, parts.validation])
    assert f"judged:        6 networks on {len(held_out)} images, accuracy" in said
    network = to_timm(architecture, load_weights(tmp_path / "net" / "weights.safetensors"))
    assert evaluate_accuracy(network, data.loader(held_out, 64)) == pytest.approx(figures[0][0], abs=0.004)

    words = ["derive", str(run), "--budget-ms", repr(target), "--output", str(tmp_path / "net")]
    assert main(words) == 0
    assert not (tmp_path / "net" / "judged.csv").exists(), "of another net"


def test_nets_to_be_judged_are_drawn_from_the_probabilities(searched, tmp_path, caplog, monkeypatch):
    """Of a choice that is made its candidate in all of them; where all choices but one are, there are no more than that gives."""
    monkeypatch.setattr(logging.getLogger("nni_proxyless"), "propagate", True)  # which a command has switched off
    run = tmp_path / "out"
    shutil.copytree(searched, run)
    content = json.loads((run / "probabilities.json").read_text())
    *made, free = content["probabilities"]
    for label in made:
        content["probabilities"][label] = [
            [choice, float(i == 0)] for i, (choice, _) in enumerate(content["probabilities"][label])
        ]
    content["probabilities"][free] = [
        [choice, 1 / 2 if i < 2 else 0.0] for i, (choice, _) in enumerate(content["probabilities"][free])
    ]
    (run / "probabilities.json").write_text(json.dumps(content))
    contest = judge_probable(FinishedSearch.read(run), 1000.0, 6, at_least=0.0)
    chosen = [{label: net.choices[label] for label in made} for net in contest.networks]
    assert chosen == [{label: content["probabilities"][label][0][0] for label in made}] * 2
    assert {net.choices[free] for net in contest.networks} == {content["probabilities"][free][i][0] for i in (0, 1)}
    assert "--judge: of networks within 1000 the probabilities give 2, not 6" in caplog.text

    for label in content["probabilities"]:  # all but decided: as many as asked for, by probabilities that are less so
        (first, _), *others = content["probabilities"][label]
        content["probabilities"][label] = [[first, 1 - 1e-9], *([choice, 1e-9 / len(others)] for choice, _ in others)]
    (run / "probabilities.json").write_text(json.dumps(content))
    contest = judge_probable(FinishedSearch.read(run), 1000.0, 6, at_least=0.0)
    nets = [tuple(net.choices.values()) for net in contest.networks]
    assert len(set(nets)) == 6
    by_probability = sorted(contest.networks, key=lambda net: -net.log_probability)
    assert by_probability[0].choices == {label: ps[0][0] for label, ps in content["probabilities"].items()}


def test_on_a_device_the_network_is_timed(tmp_path, capsys):
    run = search(
        tmp_path, "latency.estimator={warmup: 1, repeats: 10}", "training.epochs=1", "strategy.warmup_epochs=0"
    )
    profiler = FinishedSearch.read(run).profiler
    budget = (fastest(profiler)[1] + slowest(profiler)[1]) / 2
    capsys.readouterr()
    assert main(["derive", str(run), "--budget-ms", repr(budget), "--output", str(tmp_path / "net")]) == 0
    latency = Architecture.read(tmp_path / "net" / "architecture.json").latency
    assert latency["table_ms"] <= budget
    assert latency["measured_ms"] > 0
    assert latency["table_again_ms"] > 0
    assert latency["measured_conditions"]["threads"] == 1
    (run / "latencies.yaml").unlink()
    assert main(["derive", str(run), "--budget-ms", repr(budget), "--output", str(tmp_path / "net")]) == 2
    assert "no latencies.yaml" in capsys.readouterr().err


def test_after_dsnas_weights_are_fresh(searched, tmp_path, capsys):
    """Its candidates are gone; its probabilities are those that its net was the best of within the target, not one and zero."""
    shutil.copytree(searched, tmp_path / "out")  # of an earlier search, of another strategy
    strategy = "strategy={name: dsnas, warmup_epochs: 1, search_epochs: 1, arc_learning_rate: 0.1}"
    run = search(tmp_path, strategy, "training.epochs=3")
    assert not (run / "supernet.safetensors").exists(), "that of the earlier search would be another strategy's"
    probs = read_probabilities(run)
    net = Architecture.read(run / "architecture.json")
    target = net.latency["target_ms"]
    assert FinishedSearch.read(run).best(target) == net.choices
    assert net.latency["table_ms"] <= target
    assert all(min(ps.values()) > 0 for ps in probs.values())
    low = fastest(FinishedSearch.read(run).profiler)[1]
    capsys.readouterr()
    assert main(["derive", str(run), "--budget-ms", repr(low), "--output", str(tmp_path / "net")]) == 0
    assert "fresh weights: train it from scratch" in capsys.readouterr().out
    architecture = Architecture.read(tmp_path / "net" / "architecture.json")
    assert architecture.latency["table_ms"] == low
    assert main(["train", str(tmp_path / "net" / "architecture.json"), "epochs=1", "threads=1"]) == 0
    capsys.readouterr()
    assert main(["derive", str(run), "--budget-ms", repr(target), "--judge", "4"]) == 2
    assert (
        "has no weights of a supernet to judge with; allowed: after a search that keeps all" in capsys.readouterr().err
    )


def test_what_cannot_be_derived_is_a_users_mistake(searched, reach, tmp_path, capsys):
    def says(*words: object) -> str:
        assert main(["derive", *map(str, words)]) == 2
        return capsys.readouterr().err

    said = says(searched, "--budget-ms", "0.00001")
    assert f"the fastest network that can be reached has {reach[0]:.9g}" in said
    assert not (searched / "budget-1e-05").exists()
    assert "nowhere: no search.yml there, so no search has been made" in says("nowhere", "--budget-ms", "3")
    assert "--front: 1 is not allowed here; allowed: 2 or more" in says(searched, "--front", "1")
    assert "--judge: 1 is not allowed here; allowed: 2 or more" in says(searched, "--budget-ms", "3", "--judge", "1")
    assert "--judge: not with --front; allowed: with --budget-ms" in says(searched, "--front", "3", "--judge", "4")
    assert "--budget-ms: nan; allowed: a number" in says(searched, "--budget-ms", "nan")
    assert "holds the results of a search" in says(searched, "--budget-ms", "3", "--output", searched)
    (tmp_path / "other").mkdir()
    shutil.copy(searched / "architecture.json", tmp_path / "other")
    assert "that derive has not written" in says(searched, "--budget-ms", "3", "--output", tmp_path / "other")

    run = tmp_path / "run"
    shutil.copytree(searched, run)
    (run / "probabilities.json").write_text("{}")
    assert "probabilities.json: no readable probabilities: 'format' is not" in says(run, "--budget-ms", "3")
    content = json.loads((searched / "probabilities.json").read_text())
    content["probabilities"]["stage1.0"] = [["k3e3", 1.0]]
    (run / "probabilities.json").write_text(json.dumps(content))
    assert "label 'stage1.0': no probability for choice 'k3e6'" in says(run, "--budget-ms", "3")
    (run / "probabilities.json").unlink()
    assert "no probabilities.json: the search was made by a version that did not keep" in says(run, "--budget-ms", "3")
    (run / "checkpoint").mkdir()
    assert f"the search has not finished; go on with it: nni-proxyless search --resume {run}" in says(
        run, "--front", "3"
    )
    (run / "checkpoint").rmdir()
    (run / "architecture.json").unlink()
    assert "the search has not finished" in says(run, "--front", "3")
