"""The commands ``search``, ``train`` and ``report``, as a user types them, without NNI."""

from __future__ import annotations

import csv
import json
import re
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml

from nni_proxyless import data
from nni_proxyless.cli.main import main
from nni_proxyless.core.errors import UserError
from nni_proxyless.data.accuracy import evaluate_accuracy
from nni_proxyless.derive import Architecture, count_macs, count_parameters, load_weights, to_timm
from nni_proxyless.latency import Calibration, LookupTable
from nni_proxyless.latency.digits import in_words
from nni_proxyless.search.run_folder import differences

from ..forked import fork
from ..models.derived_nets import difference, logits, onnx_logits
from ..runs import TINY, choices_of, history, same_weights, search

ONE_EPOCH = ("training.epochs=1", "strategy.warmup_epochs=0")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """One search that several tests look at: its folder, and what the command printed."""
    folder = tmp_path_factory.mktemp("searched")
    search(folder)
    return folder


@pytest.fixture
def again(searched, tmp_path, monkeypatch) -> Path:
    """The current folder, with the same configuration and table."""
    for name in ("search.yml", "table.yaml"):
        shutil.copy(searched / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_search_leaves_what_the_documentation_says(searched):
    out = searched / "out"
    assert {p.name for p in out.iterdir()} == {
        "architecture.json", "data_fingerprint.json", "weights.safetensors", "history.jsonl", "latencies.yaml", "model.onnx",
        "network.svg", "probabilities.json", "supernet.safetensors", "search.yml", "tensorboard", "training_losses.json",
    }  # fmt: skip
    epochs = history(out)
    assert len(epochs) == 3
    assert {"default", "expected_ms", "table_ms", "entropy", "train_loss"} <= set(epochs[0])
    assert all(set(epoch) == set(epochs[0]) and all(isinstance(v, float) for v in epoch.values()) for epoch in epochs)
    assert epochs[0]["entropy"] == pytest.approx(1.0, abs=1e-4)  # warm-up: still undecided
    assert epochs[2]["entropy"] < epochs[0]["entropy"]
    resolved = yaml.safe_load((out / "search.yml").read_text())
    assert (resolved["training"]["epochs"], resolved["data"]["image_size"]) == (3, 8)


def test_the_architecture_file_says_everything(searched):
    """Its weights have the accuracy that it reports, as a timm model on the validation part."""
    architecture = Architecture.read(searched / "out" / "architecture.json")
    assert set(architecture.choices) == {"stage1.0", "stage1.1", "stage2.0", "stage2.1"}
    assert (architecture.search["seed"], architecture.search["threads"]) == (3, 1)
    assert all(architecture.latency[name] > 0 for name in ("measured_ms", "table_ms"))
    assert architecture.latency["measured_scatter"] >= 0
    assert architecture.latency["conditions"].items() >= {"threads": 1, "resolution": "8x8"}.items()
    assert {"torch", "nni", "timm", "python", "nni-proxyless"} <= set(architecture.versions)
    network = to_timm(architecture, load_weights(searched / "out" / "weights.safetensors"))
    assert architecture.macs == count_macs(network, architecture.input_shape)
    assert architecture.n_params == count_parameters(network)
    parts = data.split(data.digits(image_size=8), alphas=0.2, validation=0.2)
    accuracy = evaluate_accuracy(network, data.loader(parts.validation, 64))
    assert accuracy == pytest.approx(architecture.search["accuracy"], abs=0.004)


def test_its_model_onnx_is_the_network(searched):
    """With a free batch."""
    images = data.digits(image_size=8).test[0][0].expand(3, -1, -1, -1).contiguous()
    expected = logits(searched / "out" / "architecture.json", images)
    assert difference(onnx_logits(searched / "out" / "model.onnx", images, 3), expected) <= 1e-4


def test_the_command_as_typed_finds_the_same_network_again(searched, again, command):
    """Results on stdout, the log on stderr. With the same seed in a fresh process architecture and weights are the same, by the
    table read, not measured again; with another one they are others."""
    written = Path("table.yaml").stat().st_mtime_ns
    done = command("nni-proxyless", "search", "search.yml", "output=out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("choices:")
    assert done.stdout.splitlines()[-1] == "architecture: out/architecture.json"
    assert "read from table.yaml" in done.stderr
    assert Path("table.yaml").stat().st_mtime_ns == written
    epochs = [line for line in done.stderr.splitlines() if "epoch " in line]
    assert len(epochs) == 3
    assert all("validation accuracy" in line and " ms" in line for line in epochs)
    assert "\r" not in done.stderr  # no progress bar: stderr is no terminal
    assert "Warning" not in done.stderr

    assert main(["search", str(searched / "search.yml"), "output=other", "seed=4"]) == 0
    expected, found, other = searched / "out", again / "out", again / "other"
    assert choices_of(found) == choices_of(expected)
    assert same_weights(found, expected)
    assert choices_of(other) != choices_of(expected) or not same_weights(other, expected)


def test_by_default_all_milliseconds_are_those_of_onnx_runtime(tmp_path, capsys):
    """The table, the network and for the record eager torch beside it; the report says which."""
    space = (
        "space: {preset: small, widths: [8], depths: [1], strides: [2], kernels: [3], stem_width: 8, feature_mix: 16}\n"
    )
    estimator = "latency: {target_ms: 100%, table: table.yaml, estimator: {warmup: 1, repeats: 4}}\n"
    text = "".join(
        estimator if line.startswith("latency:") else space if line.startswith("space:") else line
        for line in TINY.splitlines(keepends=True)
    )
    out = search(tmp_path, *ONE_EPOCH, text=text)
    name = f"onnxruntime {version('onnxruntime')}"
    table = yaml.safe_load((out / "latencies.yaml").read_text())
    assert (table["conditions"]["runtime"], table["measured"]["method"]) == (name, "fit")
    assert yaml.safe_load((out / "search.yml").read_text())["latency"]["estimator"]["runtime"] == "onnxruntime"
    latency = json.loads((out / "architecture.json").read_text())["latency"]
    assert latency["measured_conditions"]["runtime"] == name
    assert 0 < latency["measured_eager_ms"] != latency["measured_ms"] > 0
    said, log = capsys.readouterr()
    assert re.search(rf"latencies: measured, \d+ rows, .*, {name}, float32$", log, re.MULTILINE)
    assert (
        f"measured {in_words(latency['measured_ms'])} ms in {name}, {in_words(latency['measured_eager_ms'])} ms in eager torch"
        in said
    )
    assert main(["report", str(out)]) == 0
    assert f"measured: the network timed in {name}, on this machine" in capsys.readouterr().out
    with (out / "report.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["runtime"], float(row["measured_eager_ms"])) == (name, latency["measured_eager_ms"])
    assert f"Milliseconds were measured in {name} for this page" in (out / "report.html").read_text()


def test_damaged_settings_of_an_earlier_search_are_named(tmp_path):
    (tmp_path / "search.yml").write_text("seed: [0")
    with pytest.raises(UserError, match=r"search\.yml: line 1: while parsing a flow sequence"):
        differences(tmp_path, "seed: 0")


def test_a_killed_search_is_resumed_to_the_same_network(searched, again, refused, capsys):
    """SIGKILL in the middle of an epoch, then --resume: architecture and weights of the search that was not killed."""
    words = ["search", "search.yml", "output=out", "strategy.checkpoint_every=2"]
    killed = fork(main, words, cwd=again, said=again / "said")
    while not (again / "out" / "checkpoint" / "search.previous.ckpt").exists():
        assert killed.exitcode is None, (again / "said").read_text()
        time.sleep(0.02)
    killed.kill()
    killed.join()
    assert not (again / "out" / "architecture.json").exists()

    said = refused(*words, "training.epochs=4")
    assert "out holds an unfinished search with other settings: training.epochs is 4 here, 3 there" in said
    assert "nni-proxyless search --resume out" in said

    assert main(["search", "--resume", "out"]) == 0
    assert "going on after epoch" in capsys.readouterr().err
    expected, found = searched / "out", again / "out"
    assert choices_of(found) == choices_of(expected)
    assert same_weights(found, expected)
    losses = [(of / "training_losses.json").read_text() for of in (found, expected)]
    assert losses[0] == losses[1]
    assert len(history(found)) == 3
    assert not (found / "checkpoint").exists()

    assert main(["search", "--resume", "out"]) == 0
    assert "finished already: out/architecture.json" in capsys.readouterr().out


def test_dsnas_leaves_a_trained_network(searched, tmp_path):
    """The child is deployable as it is: a timm model whose accuracy on the test images stands in the file; fixed grows to all."""
    out = tmp_path / "out"
    strategy = "strategy={name: dsnas, warmup_epochs: 1, search_epochs: 3, arc_learning_rate: 0.1, fix_gap: 0.2}"
    training = ["training.epochs=6", "training.optimizer=adamw", "training.learning_rate=0.01"]
    assert main(["search", str(searched / "search.yml"), f"output={out}", strategy, *training]) == 0
    architecture, epochs = Architecture.read(out / "architecture.json"), history(out)
    fixed = [epoch["fixed"] for epoch in epochs]
    assert fixed == sorted(fixed)
    assert (fixed[0], fixed[4], fixed[5]) == (0, 4, 4)
    assert epochs[-1]["entropy"] == 0
    assert epochs[-1]["expected_ms"] == pytest.approx(epochs[-1]["table_ms"])
    assert architecture.latency["table_ms"] <= architecture.latency["target_ms"]

    test = data.loader(data.digits(image_size=8).test, 64)
    accuracy = evaluate_accuracy(to_timm(architecture, load_weights(out / "weights.safetensors")), test)
    assert accuracy == architecture.search["test_accuracy"]
    assert json.loads((out / "final" / "result.json").read_text())["accuracy"] == accuracy
    assert same_weights(out, out / "final")
    assert accuracy > 2 * evaluate_accuracy(to_timm(architecture), test)


def test_two_processes_leave_one_network(again, command):
    """trainer.devices=2 on the CPU: Lightning starts a second process of the same command, which writes and says nothing.

    What candidates share they still share after a search whose gradients came from both.
    """
    words = ["trainer.devices=2", "training.epochs=1", "strategy.warmup_epochs=0", "space.shared_weights=true"]
    # As if nobody had set the policy; and each OpenMP that is loaded says on stderr with what.
    openmp = {"OMP_WAIT_POLICY": "", "OMP_DISPLAY_ENV": "VERBOSE"}
    done = command("nni-proxyless", "search", "search.yml", "output=out", *words, **openmp)
    assert done.returncode == 0, done.stderr
    if "GOMP_SPINCOUNT" in done.stderr:  # GNU's OpenMP: how often a thread looks before it sleeps
        assert done.stderr.count("GOMP_SPINCOUNT = '0'") == done.stderr.count("GOMP_SPINCOUNT") >= 2
    assert done.stdout.count("architecture: out/architecture.json") == 1
    out = again / "out"
    assert len(history(out)) == Architecture.read(out / "architecture.json").search["epochs"] == 1
    supernet = load_weights(out / "supernet.safetensors")
    narrow, wide = (supernet[f"blocks.1.0.{name}.conv_pw.weight"] for name in ("k3e3", "k3e6"))
    assert torch.equal(narrow, wide[: len(narrow)])
    small, large = (supernet[f"blocks.1.0.{name}.conv_dw.weight"] for name in ("k3e6", "k7e6"))
    assert torch.equal(small, large[:, :, 2:-2, 2:-2])


def test_a_wrong_file_stops_the_search_before_anything_is_touched(tmp_path, refused):
    (tmp_path / "search.yml").write_text(
        "strategy: {warmup_epoch: 5}\ntraining: {epochs: 0}\ndata: {name: folder, root: /nowhere}\n"
    )
    said = refused("search", tmp_path / "search.yml", f"output={tmp_path / 'out'}")
    assert "search.yml: strategy: unknown key 'warmup_epoch'" in said
    assert "search.yml: training.epochs: 0 is not allowed here; allowed: at least 1" in said
    assert "/nowhere" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("latency.target_ms=0.000001",), "latency.target_ms: 1e-06 ms is out of reach: the networks of this space take "),
        (("latency.estimator.threads=2",), "latency.table: {table}: measured under other conditions: threads is 1 in the table, 2 here"),
        (("space.widths=[8,24]",), "latency.table: {table}: no row 'Conv_1-input:2x2x24-output:2x2x32'; the nearest: Conv_1-input:2x2x16-output:2x2x32"),
        (("data.image_size=16",), "latency.table: {table}: measured under other conditions: resolution is '8x8' in the table, '16x16' here"),
        (("strategy.arc_update_every=1000",), "arc_update_every is 1000, but an epoch has only 13 batches"),
        (("strategy={name: dsnas, search_epochs: 3}",), "search_epochs 3, of 3 epochs; allowed: at least one epoch of search and, after it, one in which the child trains"),
        (("strategy={name: dsnas, reward: lost, fix_gap: 2}",), "strategy.reward: 'lost' is not allowed here"),
        (("training.optimizer=sdg",), "command line: training.optimizer: 'sdg' is not allowed here; allowed: an optimizer of timm, such as sgd, adamw, lamb. Did you mean 'sgd'?"),
        (("training.learning_rate=1e30", "training.epochs=2"), "training: the loss is nan after epoch 1: the training diverged. Use a smaller training.learning_rate."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_users_mistake(searched, tmp_path, refused, words, said):
    message = refused("search", searched / "search.yml", f"output={tmp_path / 'out'}", *words)
    assert said.format(table=searched / "table.yaml") in message


def test_training_to_the_end_and_report(searched, tmp_path, monkeypatch, capsys):
    shutil.copytree(searched / "out", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    words = ["epochs=5", "learning_rate=0.1", "batch_size=32", "threads=1"]
    assert main(["train", "out/architecture.json", *words]) == 0
    accuracy = float(capsys.readouterr().out.split("test accuracy: ")[1].split()[0])
    assert accuracy > 0.5
    architecture = Architecture.read(tmp_path / "out" / "architecture.json")
    network = to_timm(architecture, load_weights(tmp_path / "out" / "final" / "weights.safetensors"))
    test = data.loader(data.digits(image_size=8).test, 64)
    assert evaluate_accuracy(network, test) == pytest.approx(accuracy, abs=0.003)
    assert main(["report", "out"]) == 0
    table = capsys.readouterr().out
    assert f"{accuracy:.4f}" in table
    assert f"{architecture.search['accuracy']:.4f}" in table


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "none.json"), "none.json: No such file or directory"),
        (("train", "broken.json"), "broken.json: not an architecture: Expecting value"),
        (("train", "other.json"), "other.json: not an architecture: 'format' is not"),
        (("train", "lonely.json"), "weights.safetensors: no readable weights"),
        (("train", "lonely.json", "epoch=3"), "command line: unknown key 'epoch'"),
        (("report", "."), "report: no architecture.json in or below '.'"),
        (("report", "nosuchid"), "report: no NNI experiment on this machine"),
        (("search", "--resume", "nowhere"), "--resume nowhere: no search.yml there, so no search has begun in this folder"),
        (("search", "--resume", "x", "seed=1"), "--resume goes on with the search as it was; not allowed beside it: seed=1"),
        (("search", "a.yml", "b.yml"), "command line: more than one configuration file: a.yml, b.yml"),
        (("search", "seed=[1"), "command line: '[1' is not a value"),
    ],
)  # fmt: skip
def test_wrong_files_and_words_are_refused(searched, tmp_path, monkeypatch, refused, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("broken.json").write_text("no json")
    Path("other.json").write_text("{}")
    if words[0] == "train":
        shutil.copy(searched / "out" / "architecture.json", "lonely.json")
    assert said in refused(*words)


def test_a_peer_of_nni_runs_in_the_same_harness(searched, tmp_path):
    """``package.module:Class`` takes NNI's own strategies."""
    words = [f"output={tmp_path / 'out'}", "training.epochs=1", "strategy={name: 'nni.nas.strategy:DARTS'}"]
    assert main(["search", str(searched / "search.yml"), *words]) == 0
    assert Architecture.read(tmp_path / "out" / "architecture.json").search["strategy"] == "nni.nas.strategy:DARTS"


def test_a_table_of_another_device_is_taken_where_it_is_asked_for(searched, tmp_path, refused):
    """It is not passed off as this machine's: refused beside estimator 'device', and with 'table' nothing is timed here."""
    rows = yaml.safe_load((searched / "table.yaml").read_text())["rows"]
    foreign = {key: {"count": 10, "mean": row["median"] * 1000, "var": 0.1} for key, row in rows.items()}
    (tmp_path / "foreign.yaml").write_text(yaml.safe_dump(foreign))  # the layout of the published tables: no head
    words = ["search", str(searched / "search.yml"), *ONE_EPOCH, f"output={tmp_path / 'out'}"]
    named, table = f"latency.table={tmp_path / 'foreign.yaml'}", "latency.estimator={name: table}"
    assert main([*words, named, table]) == 0
    latency = Architecture.read(tmp_path / "out" / "architecture.json").latency
    assert latency["conditions"] == {"source": "foreign.yaml"}
    assert latency["table_ms"] == latency["predicted_ms"] > 0
    assert (latency["measured_ms"], latency["measured_conditions"]) == (None, None)
    for wrong, said in (
        ("seed=0", "threads is 1 here, the table does not say"),
        ("latency.estimator={name: table, threads: 2}", "foreign.yaml: measured under other conditions: threads is 2 here, the table does not say"),
        ("latency.estimator={name: table, unit: mJ}", "foreign.yaml: unit is 'ms'; allowed here: 'mJ'"),
        ("latency.estimator={name: macs}", "foreign.yaml: unit is 'ms'; allowed here: 'million multiply-adds'"),
    ):  # fmt: skip
        assert said in refused(*words, named, wrong)
    said = refused(*words, f"latency.table={tmp_path / 'nowhere.yaml'}", table)
    assert "nowhere.yaml: not there; latency.estimator.name 'table' measures nothing" in said


def test_a_calibrated_table_steers_and_both_figures_are_shown(searched, again, capsys):
    calibration = Calibration(0.5, 2.0, 30, 0.01, 0.02, "2026-11-22")
    LookupTable.read("table.yaml").replace(calibration=calibration).write("table.yaml")
    assert main(["search", "search.yml", "output=out", *ONE_EPOCH]) == 0
    latency = Architecture.read("out/architecture.json").latency
    assert latency["table_ms"] == pytest.approx(0.5 + 2 * latency["predicted_ms"])
    predicted, calibrated = in_words(latency["predicted_ms"]), in_words(latency["table_ms"])
    assert f"predicted {predicted} ms, calibrated {calibrated} ms, measured" in capsys.readouterr().out
