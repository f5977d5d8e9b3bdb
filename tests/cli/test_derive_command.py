"""``nni-proxyless derive``: other networks out of a finished search, as a user types it."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from nni_proxyless.search_spaces import MobileNetV2Space
from torch import nn
from torch.utils.data import Dataset

from nni_proxyless import data
from nni_proxyless.cli.main import main
from nni_proxyless.core.batch_norm import estimate_statistics
from nni_proxyless.derive import Architecture, count_macs, load_weights, to_timm
from nni_proxyless.latency.objectives.budget import fastest, log_probability, slowest
from nni_proxyless.report.runs import find
from nni_proxyless.search.derivation import budget_folder
from nni_proxyless.search.finished_search import FinishedSearch
from nni_proxyless.search.result import found_finished
from nni_proxyless.search.supernet_files import read_probabilities
from nni_proxyless.search.supernet_selection import judging_images

from ..runs import MACS, history, same_weights, search


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    """A search for multiply-adds, which are the same everywhere."""
    return search(tmp_path_factory.mktemp("searched"), *MACS, "training.epochs=2")


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


@torch.no_grad()
def assert_accuracy(said: float, network: nn.Module, part: Dataset) -> None:
    """That of the network, whose modules may round otherwise than those it was judged with: where two classes are all but equal, either is its answer."""
    network.eval()
    batches = [(network(images), targets) for images, targets in data.loader(part, 64)]
    logits, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    of_target = logits.gather(1, targets[:, None])[:, 0]
    ahead = of_target - logits.scatter(1, targets[:, None], -torch.inf).amax(1)
    rounding = 1e-4 * float(logits.std())
    surely, perhaps = (float((ahead > least).double().mean()) for least in (rounding, -rounding))
    assert surely - 1e-9 <= said <= perhaps + 1e-9
    assert perhaps - surely < 0.02


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
    assert_accuracy(architecture.search["accuracy"], network, parts.validation)


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


def test_at_least_so_much_of_the_budget(searched, reach, tmp_path, refused):
    """The net between two costs that is most probable, where the one below a budget alone costs less than both."""
    finished, (low, high) = FinishedSearch.read(searched), reach
    budgets = [low + (high - low) * i / 40 for i in range(4, 40)]
    unused = [(b, finished.profiler.profile(finished.best(b, at_least=0))) for b in budgets]
    budget, alone = max(unused, key=lambda pair: pair[0] - pair[1])
    least = (alone + budget) / 2
    words = ["derive", str(searched), "--budget-ms", repr(budget), "--output", str(tmp_path / "net"), "--at-least-ms"]
    assert main([*words, repr(least)]) == 0
    assert least <= Architecture.read(tmp_path / "net" / "architecture.json").latency["table_ms"] <= budget
    assert "at_least_ms is" in refused(*words, 2 * budget)
    said = refused("derive", searched, "--front", 3, "--at-least-ms", 1)
    assert "--at-least-ms: not with --front; allowed: with --budget-ms" in said


def judged_in(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Rows of ``judged.csv``, and their choices alone."""
    with (folder / "judged.csv").open() as file:
        rows = list(csv.DictReader(file))
    choices = Architecture.read(folder / "architecture.json").choices
    return rows, [{label: row[label] for label in choices} for row in rows]


@pytest.mark.parametrize("method", ["raw", "ridge", "mixture", "evolution"])
def test_the_supernet_selects(method, searched, tmp_path, monkeypatch, capsys):
    """Of networks within the budget that use it up, the most probable one among them; on images that trained no weight and validate nothing.
    The same each time, and the search is left as it was."""
    run = tmp_path / "out"
    shutil.copytree(searched, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    target = Architecture.read(run / "architecture.json").latency["target_ms"]
    monkeypatch.chdir(tmp_path)
    words = ["derive", "out", "--budget-ms", repr(target), "--judge", "8", "--select", method, "--output"]
    assert main([*words, "net"]) == 0
    said = capsys.readouterr().out
    rows, nets = judged_in(tmp_path / "net")
    assert len({repr(net) for net in nets}) == len(nets)
    assert len(nets) in ((8, 9) if method in ("ridge", "mixture") else (8,))
    assert [float(row["log_loss"]) for row in rows] == sorted(float(row["log_loss"]) for row in rows)

    search = FinishedSearch.read(run)
    slowest = max(float(row["table_ms"]) for row in rows)
    assert slowest <= target
    for net, row in zip(nets, rows, strict=True):
        assert float(row["table_ms"]) == float(search.profiler.profile(net))
        assert float(row["log_probability"]) == log_probability(search.probs, net)
        assert net == search.best(target) or float(row["table_ms"]) >= 0.95 * slowest - 1e-12
    assert search.best(target) in nets
    architecture = Architecture.read(tmp_path / "net" / "architecture.json")
    (selected,) = (i for i, row in enumerate(rows) if row["selected"] == "1")
    assert architecture.choices == nets[selected]
    assert selected == 0 or method in ("ridge", "mixture")

    parts = data.split(data.digits(image_size=8), alphas=0.2, validation=0.2)
    assert f"selected:      of {len(nets)} networks that the supernet judged on {len(parts.alphas)} images; " in said
    record = architecture.search["selection"]
    assert (record["method"], record["judged"], record["images"]) == (method, len(nets), len(parts.alphas))
    assert record["knows"] == ("with a cross-validated correlation" in said)
    network = to_timm(architecture, load_weights(tmp_path / "net" / "weights.safetensors"))
    few = judging_images(search.parts).calibration  # its statistics as they were when it was judged: of fewer images
    estimate_statistics(network.train(), (batch for batch, _ in few), torch.device("cpu"))
    assert_accuracy(float(rows[selected]["accuracy"]), network, parts.alphas)

    if method != "mixture":
        return
    assert main([*words, "again"]) == 0
    for name in ("judged.csv", "weights.safetensors"):
        assert (tmp_path / "net" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert main(["derive", "out", "--budget-ms", repr(target), "--output", "net"]) == 0
    assert not (tmp_path / "net" / "judged.csv").exists(), "of another net"


def test_a_front_is_evolved_within_the_budget(searched, reach, tmp_path, capsys):
    """All networks judged keep the budget, none twice; the front is of those that no other dominates; the search is left as it was."""
    before = {path: path.read_bytes() for path in searched.rglob("*") if path.is_file()}
    budget = sum(reach) / 2
    words = ["derive", str(searched), "--evolve", "12", "--budget-ms", repr(budget), "--output"]
    assert main([*words, str(tmp_path / "net")]) == 0
    said = capsys.readouterr().out
    rows, nets = judged_in(tmp_path / "net")
    assert len(rows) == 12 == len({repr(net) for net in nets})
    points = {repr(net): (float(row["log_loss"]), float(row["table_ms"])) for net, row in zip(nets, rows, strict=True)}
    assert max(cost for _, cost in points.values()) <= budget

    with (tmp_path / "net" / "evolved_front.csv").open() as file:
        front = list(csv.DictReader(file))
    best = {
        net for net, (loss, cost) in points.items()
        if not any(other != (loss, cost) and other[0] <= loss and other[1] <= cost for other in points.values())
    }  # fmt: skip
    assert {repr({label: row[label] for label in nets[0]}) for row in front} == best
    assert [float(row["log_loss"]) for row in front] == sorted(float(row["log_loss"]) for row in front)
    assert len([line for line in said.splitlines() if re.fullmatch(r"[\d. ]+", line)]) == len(front)

    architecture = Architecture.read(tmp_path / "net" / "architecture.json")
    assert architecture.choices == nets[0]
    record = architecture.search["selection"]
    assert (record["method"], record["judged"]) == ("early-exit-evolution", 12)
    to_timm(architecture, load_weights(tmp_path / "net" / "weights.safetensors"))
    assert main([*words, str(tmp_path / "again")]) == 0
    for name in ("judged.csv", "evolved_front.csv", "weights.safetensors"):
        assert (tmp_path / "net" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert {path: path.read_bytes() for path in searched.rglob("*") if path.is_file()} == before
    assert main(["derive", str(searched), "--budget-ms", repr(budget), "--output", str(tmp_path / "net")]) == 0
    assert not (tmp_path / "net" / "evolved_front.csv").exists(), "of another network"


def test_a_front_by_the_supernet(searched, reach, tmp_path, capsys):
    """Of one set of verdicts a network for each budget, none above it; the search is left as it was; without --judge the verdicts go."""
    before = {path: path.read_bytes() for path in searched.rglob("*") if path.is_file()}
    folder = tmp_path / "front"
    words = ["derive", str(searched), "--front", "4", "--output", str(folder)]
    assert main([*words, "--judge", "12"]) == 0
    printed = capsys.readouterr().out
    assert f"judged: {folder / 'judged.csv'}" in printed.splitlines()
    with (folder / "front.csv").open() as file:
        front = list(csv.DictReader(file))
    nets = sorted(folder.glob("*/architecture.json"), key=lambda path: float(path.parent.name))
    assert 1 <= len(nets) == len(front) <= 4, "one: a supernet of two epochs may say that the fastest is the best"
    assert float(front[0]["table_ms"]) == pytest.approx(reach[0])
    assert all(float(row["table_ms"]) <= float(row["budget"]) for row in front)
    with (folder / "judged.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert 12 <= len(rows) <= 16
    chosen = [Architecture.read(path) for path in nets]
    selected = [{label: row[label] for label in chosen[0].choices} for row in rows if row["selected"] == "1"]
    assert len(selected) == len(chosen)
    assert all(architecture.choices in selected for architecture in chosen)
    for path, architecture in zip(nets, chosen, strict=True):
        record = architecture.search["selection"]
        assert (record["by"], record["method"], record["judged"]) == ("supernet", "front", len(rows))
        to_timm(architecture, load_weights(path.with_name("weights.safetensors")))
    assert {path: path.read_bytes() for path in searched.rglob("*") if path.is_file()} == before
    assert main(words) == 0
    assert not (folder / "judged.csv").exists(), "of other networks"


def test_a_search_ends_with_the_selection(searched, tmp_path, capsys):
    """What ``derive --judge`` takes out of the same search without it, to the last verdict; what it costs is noted; the supernet is the same."""
    run = search(tmp_path, *MACS, "training.epochs=2", "search={select: supernet, judged: 8}")
    assert "selected:      of " in capsys.readouterr().out
    assert (run / "supernet.safetensors").read_bytes() == (searched / "supernet.safetensors").read_bytes()
    assert read_probabilities(run) == read_probabilities(searched)
    target = Architecture.read(run / "architecture.json").latency["target_ms"]
    words = ["derive", str(searched), "--budget-ms", repr(target), "--judge", "8", "--output", str(tmp_path / "net")]
    assert main(words) == 0
    rows, nets = judged_in(run)
    assert (rows, nets) == judged_in(tmp_path / "net")
    found, derived = (Architecture.read(folder / "architecture.json") for folder in (run, tmp_path / "net"))
    assert (found.choices, found.macs, found.search["accuracy"]) == (
        derived.choices,
        derived.macs,
        derived.search["accuracy"],
    )
    assert same_weights(run, tmp_path / "net")
    took = [architecture.search["selection"]["seconds"] for architecture in (found, derived)]
    assert all(0 < seconds < 60 for seconds in took)
    (of_run,) = find([str(run)])
    assert of_run.seconds == sum(epoch["seconds"] for epoch in history(run)) + took[0]

    # What is reported again of a search that has finished is of the network that was selected.
    figures = found_finished(run, lambda metrics: None).metrics
    assert figures["default"] == found.search["accuracy"]
    assert (figures["table_ms"], figures["macs"]) == (found.latency["table_ms"], found.macs)


def test_few_networks_of_a_budget_are_all_judged(searched, reach, tmp_path, capsys):
    """Above what all cost, those of the slowest; a budget that one network meets is that network's."""
    low, _ = reach
    words = ["derive", str(searched), "--judge", "4", "--output", str(tmp_path / "net"), "--budget-ms"]
    assert main([*words, repr(low)]) == 0
    said = capsys.readouterr()
    assert "of networks within the limits 1 were found to judge, not 4" in said.err
    assert "they are too few, or too alike, to tell whether it knows which choices are better" in said.out
    (row,), _ = judged_in(tmp_path / "net")
    assert float(row["table_ms"]) == low
    assert main([*words, "1000"]) == 0
    rows, _ = judged_in(tmp_path / "net")
    slowest = max(float(row["table_ms"]) for row in rows)
    assert len(rows) in (4, 5)
    assert sum(float(row["table_ms"]) < 0.95 * slowest for row in rows) < 2, "the most probable network may"


def test_on_a_device_the_network_is_timed(tmp_path, refused):
    timed = ("latency.table=null", "latency.estimator={runtime: torch, warmup: 1, repeats: 10}")
    run = search(tmp_path, *timed, "training.epochs=1", "strategy.warmup_epochs=0")
    profiler = FinishedSearch.read(run).profiler
    budget = (fastest(profiler)[1] + slowest(profiler)[1]) / 2
    words = ["derive", str(run), "--budget-ms", repr(budget), "--output", str(tmp_path / "net")]
    assert main(words) == 0
    latency = Architecture.read(tmp_path / "net" / "architecture.json").latency
    assert latency["table_ms"] <= budget
    assert latency["measured_ms"] > 0
    assert latency["measured_scatter"] >= 0
    assert latency["measured_conditions"]["threads"] == 1
    (run / "latencies.yaml").unlink()
    assert "no latencies.yaml" in refused(*words)


def test_after_dsnas_weights_are_fresh(searched, tmp_path, refused, capsys):
    """Its candidates are gone; its probabilities are those that its net was the best of within the target, not one and zero."""
    shutil.copytree(searched, tmp_path / "out")  # of an earlier search, of another strategy
    strategy = "strategy={name: dsnas, warmup_epochs: 1, search_epochs: 1, arc_learning_rate: 0.1}"
    run = search(tmp_path, *MACS, strategy, "training.epochs=3")
    assert not (run / "supernet.safetensors").exists(), "that of the earlier search would be another strategy's"
    finished, net = FinishedSearch.read(run), Architecture.read(run / "architecture.json")
    target = net.latency["target_ms"]
    assert finished.best(target) == net.choices
    assert net.latency["table_ms"] <= target
    assert all(min(ps.values()) > 0 for ps in read_probabilities(run).values())
    low = fastest(finished.profiler)[1]
    assert main(["derive", str(run), "--budget-ms", repr(low), "--output", str(tmp_path / "net")]) == 0
    assert "fresh weights: train it from scratch" in capsys.readouterr().out
    assert Architecture.read(tmp_path / "net" / "architecture.json").latency["table_ms"] == low
    assert main(["train", str(tmp_path / "net" / "architecture.json"), "epochs=1", "threads=1"]) == 0
    said = refused("derive", run, "--budget-ms", repr(target), "--judge", 4)
    assert "has no weights of a supernet to judge with; allowed: after a search that keeps all" in said
    said = refused("derive", run, "--budget-ms", repr(target), "--evolve")
    assert "--evolve: " in said
    assert "has no weights of a supernet to judge with; allowed: after a search that keeps all" in said


def test_what_cannot_be_derived_is_a_users_mistake(searched, reach, tmp_path, refused):
    (tmp_path / "other").mkdir()
    shutil.copy(searched / "architecture.json", tmp_path / "other")
    three = ["--budget-ms", "3"]
    for words, said in (
        ([searched, "--budget-ms", "0.00001"], f"the fastest network that can be reached has {reach[0]:.9g}"),
        (["nowhere", *three], "nowhere: no search.yml there, so no search has been made"),
        ([searched, "--front", "1"], "--front: 1 is not allowed here; allowed: 2 or more"),
        ([searched, *three, "--judge", "1"], "--judge: 1 is not allowed here; allowed: 2 or more"),
        ([searched, *three, "--evolve", "1"], "--evolve: 1 is not allowed here; allowed: 2 or more"),
        (
            [searched, "--budget-ms", "0.00001", "--evolve"],
            f"the fastest network that can be reached has {reach[0]:.9g}",
        ),
        ([searched, *three, "--evolve", "--judge", "4"], "--judge: not with --evolve; allowed: one of them"),
        ([searched, "--front", "3", "--evolve"], "--evolve: not with --front; allowed: with --budget-ms"),
        ([searched, "--front", "3", "--judge", "1"], "--judge: 1 is not allowed here; allowed: 2 or more"),
        ([searched, "--front", "3", "--select", "raw"], "--select: not with --front; allowed: with --budget-ms"),
        ([searched, *three, "--select", "raw"], "--select: not without --judge; allowed: with the number of networks"),
        ([searched, "--budget-ms", "nan"], "--budget-ms: nan; allowed: a number"),
        ([searched, *three, "--output", searched], "holds the results of a search"),
        ([searched, *three, "--output", tmp_path / "other"], "that derive has not written"),
    ):
        assert said in refused("derive", *words)
    assert not (searched / "budget-1e-05").exists()

    run = tmp_path / "run"
    shutil.copytree(searched, run)
    training = run / "training_losses.json"
    training.write_text("[]")
    assert "training_losses.json: no readable losses of the training" in refused("derive", run, *three)
    training.unlink()  # of a search that noted none
    probabilities = run / "probabilities.json"
    content = json.loads(probabilities.read_text())
    probabilities.write_text("{}")
    assert "probabilities.json: no readable probabilities: 'format' is not" in refused("derive", run, *three)
    content["probabilities"]["stage1.0"] = [["k3e3", 1.0]]
    probabilities.write_text(json.dumps(content))
    assert "label 'stage1.0': no probability for choice 'k3e6'" in refused("derive", run, *three)
    probabilities.unlink()
    missing = "no probabilities.json: the search was made by a version that did not keep"
    assert missing in refused("derive", run, *three)
    (run / "checkpoint").mkdir()
    unfinished = f"the search has not finished; go on with it: nni-proxyless search --resume {run}"
    assert unfinished in refused("derive", run, "--front", "3")
    (run / "checkpoint").rmdir()
    (run / "architecture.json").unlink()
    assert "the search has not finished" in refused("derive", run, "--front", "3")
