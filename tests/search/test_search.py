"""The commands ``search``, ``train`` and ``report``, as a user types them, without NNI."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from nni_proxyless import data
from nni_proxyless.cli.main import main
from nni_proxyless.core.errors import UserError
from nni_proxyless.data.accuracy import evaluate_accuracy
from nni_proxyless.derive import Architecture, count_macs, count_parameters, load_weights, to_timm
from nni_proxyless.latency import Calibration, LookupTable
from nni_proxyless.latency.digits import in_words
from nni_proxyless.search.run_folder import differences

from ..forked import fork

TINY = """
seed: 3
space: {preset: small, widths: [8, 16], depths: [2, 2], strides: [2, 2], stem_width: 8, feature_mix: 32}
data: {name: digits, image_size: 8, batch_size: 64}
strategy: {warmup_epochs: 1, arc_update_every: 2, arc_learning_rate: 0.05}
latency: {target_ms: 90%, table: table.yaml, estimator: {warmup: 1, repeats: 15}}
training: {epochs: 3}
trainer: {accelerator: cpu, threads: 1}
"""


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """One search that several tests look at: its folder, and what the command printed."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "search.yml").write_text(TINY)
    before = torch.get_num_threads()
    assert main(["search", str(folder / "search.yml"), f"output={folder / 'out'}"]) == 0
    torch.set_num_threads(before)
    return folder


def test_a_search_leaves_what_the_documentation_says(searched):
    out = searched / "out"
    assert {p.name for p in out.iterdir()} == {
        "architecture.json",
        "data_fingerprint.json",
        "weights.safetensors",
        "history.jsonl",
        "latencies.yaml",
        "model.onnx",
        "network.svg",
        "probabilities.json",
        "supernet.safetensors",
        "search.yml",
        "tensorboard",
    }
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert len(history) == 3
    assert {"default", "expected_ms", "table_ms", "entropy", "train_loss"} <= set(history[0])
    assert all(set(epoch) == set(history[0]) and all(isinstance(v, float) for v in epoch.values()) for epoch in history)
    assert history[0]["entropy"] == pytest.approx(1.0, abs=1e-4)  # warm-up: still undecided
    assert history[2]["entropy"] < history[0]["entropy"]
    resolved = yaml.safe_load((out / "search.yml").read_text())
    assert resolved["training"]["epochs"] == 3
    assert resolved["data"]["image_size"] == 8


def test_the_architecture_file_says_everything(searched):
    architecture = Architecture.read(searched / "out" / "architecture.json")
    assert set(architecture.choices) == {"stage1.0", "stage1.1", "stage2.0", "stage2.1"}
    assert architecture.search["seed"] == 3
    assert architecture.search["threads"] == 1
    assert architecture.latency["measured_ms"] > 0
    assert architecture.latency["table_again_ms"] > 0
    assert architecture.latency["table_ms"] > 0
    assert architecture.latency["conditions"]["threads"] == 1
    assert architecture.latency["conditions"]["resolution"] == "8x8"
    assert {"torch", "nni", "timm", "python", "nni-proxyless"} <= set(architecture.versions)
    network = to_timm(architecture)
    assert architecture.macs == count_macs(network, architecture.input_shape)
    assert architecture.n_params == count_parameters(network)
    assert Architecture.read(searched / "out" / "architecture.json") == architecture


def test_the_weights_have_the_accuracy_that_was_reported(searched):
    """Deployed as they are: the timm model with the saved weights, on the validation part."""
    architecture = Architecture.read(searched / "out" / "architecture.json")
    network = to_timm(architecture, load_weights(searched / "out" / "weights.safetensors"))
    parts = data.split(data.digits(image_size=8), alphas=0.2, validation=0.2)
    assert evaluate_accuracy(network, data.loader(parts.validation, 64)) == pytest.approx(
        architecture.search["accuracy"], abs=0.004
    )


def test_the_command_as_typed_finds_the_same_network_again(searched, command, tmp_path):
    """Results on stdout, the log on stderr. With the same seed in a fresh process architecture and weights are the same, by the
    table read, not measured again; with another one they are others."""
    for name in ("search.yml", "table.yaml"):
        shutil.copy(searched / name, tmp_path)
    written = (tmp_path / "table.yaml").stat().st_mtime_ns
    done = command("nni-proxyless", "search", "search.yml", "output=out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("choices:")
    assert done.stdout.splitlines()[-1] == "architecture: out/architecture.json"
    assert "read from table.yaml" in done.stderr
    assert (tmp_path / "table.yaml").stat().st_mtime_ns == written
    epochs = [line for line in done.stderr.splitlines() if "epoch " in line]
    assert len(epochs) == 3
    assert all("validation accuracy" in line and " ms" in line for line in epochs)
    assert "\r" not in done.stderr  # no progress bar: stderr is no terminal
    assert not [line for line in done.stderr.splitlines() if "Warning" in line]

    assert main(["search", str(searched / "search.yml"), f"output={tmp_path / 'other'}", "seed=4"]) == 0
    expected, again, other = searched / "out", tmp_path / "out", tmp_path / "other"
    assert choices_of(again) == choices_of(expected)
    assert have_same_weights(again, expected)
    assert choices_of(other) != choices_of(expected) or not have_same_weights(other, expected)


def choices_of(folder: Path) -> dict[str, str]:
    return Architecture.read(folder / "architecture.json").choices


def have_same_weights(one: Path, other: Path) -> bool:
    """To the last bit."""
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_damaged_settings_of_an_earlier_search_are_named(tmp_path):
    (tmp_path / "search.yml").write_text("seed: [0")
    with pytest.raises(UserError, match=r"search\.yml: line 1: while parsing a flow sequence"):
        differences(tmp_path, "seed: 0")


def test_a_killed_search_is_resumed_to_the_same_network(searched, tmp_path, monkeypatch, capsys):
    """SIGKILL in the middle of an epoch, then --resume: architecture and weights of the search that was not killed."""
    for name in ("search.yml", "table.yaml"):
        shutil.copy(searched / name, tmp_path)
    words = ["search", "search.yml", "output=out", "strategy.checkpoint_every=2"]
    killed = fork(main, words, cwd=tmp_path, said=tmp_path / "said")
    while not (tmp_path / "out" / "checkpoint" / "search.previous.ckpt").exists():
        assert killed.exitcode is None, (tmp_path / "said").read_text()
        time.sleep(0.02)
    killed.kill()
    killed.join()
    assert not (tmp_path / "out" / "architecture.json").exists()

    monkeypatch.chdir(tmp_path)
    assert main([*words, "training.epochs=4"]) == 2
    said = capsys.readouterr().err
    assert "out holds an unfinished search with other settings: training.epochs is 4 here, 3 there" in said
    assert "nni-proxyless search --resume out" in said

    assert main(["search", "--resume", "out"]) == 0
    assert "going on after epoch" in capsys.readouterr().err
    expected, found = searched / "out", tmp_path / "out"
    assert choices_of(found) == choices_of(expected)
    assert have_same_weights(found, expected)
    assert len((found / "history.jsonl").read_text().splitlines()) == 3
    assert not (found / "checkpoint").exists()

    assert main(["search", "--resume", "out"]) == 0
    assert "finished already: out/architecture.json" in capsys.readouterr().out


def test_dsnas_leaves_a_trained_network(searched, tmp_path):
    """The child is deployable as it is: a timm model whose accuracy on the test images stands in the file; fixed grows to all."""
    strategy = "strategy={name: dsnas, warmup_epochs: 1, search_epochs: 3, arc_learning_rate: 0.1, fix_gap: 0.2}"
    words = [
        f"output={tmp_path / 'out'}",
        strategy,
        "training.epochs=6",
        "training.optimizer=adamw",
        "training.learning_rate=0.01",
    ]
    assert main(["search", str(searched / "search.yml"), *words]) == 0
    out = tmp_path / "out"
    architecture = Architecture.read(out / "architecture.json")
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    fixed = [epoch["fixed"] for epoch in history]
    assert fixed == sorted(fixed)
    assert (fixed[0], fixed[4], fixed[5]) == (0, 4, 4)
    assert history[-1]["entropy"] == 0
    assert history[-1]["expected_ms"] == pytest.approx(history[-1]["table_ms"])
    assert architecture.latency["table_ms"] <= architecture.latency["target_ms"]

    weights = load_weights(out / "weights.safetensors")
    network = to_timm(architecture, weights)
    test = data.loader(data.digits(image_size=8).test, 64)
    accuracy = evaluate_accuracy(network, test)
    assert accuracy == architecture.search["test_accuracy"]
    assert json.loads((out / "final" / "result.json").read_text())["accuracy"] == accuracy
    final = load_weights(out / "final" / "weights.safetensors")
    assert all(torch.equal(final[name], tensor) for name, tensor in weights.items())
    assert accuracy > 2 * evaluate_accuracy(to_timm(architecture), test)


def test_two_processes_leave_one_network(searched, command, tmp_path):
    """trainer.devices=2 on the CPU: Lightning starts a second process of the same command, which writes and says nothing.

    What candidates share they still share after a search whose gradients came from both.
    """
    for name in ("search.yml", "table.yaml"):
        shutil.copy(searched / name, tmp_path)
    done = command(
        "nni-proxyless",
        "search",
        "search.yml",
        "output=out",
        "trainer.devices=2",
        "training.epochs=1",
        "strategy.warmup_epochs=0",
        "space.shared_weights=true",
        OMP_WAIT_POLICY="",  # as if nobody had set it
        OMP_DISPLAY_ENV="VERBOSE",  # each OpenMP that is loaded says on stderr with what
    )
    assert done.returncode == 0, done.stderr
    if "GOMP_SPINCOUNT" in done.stderr:  # GNU's OpenMP: how often a thread looks before it sleeps
        assert done.stderr.count("GOMP_SPINCOUNT = '0'") == done.stderr.count("GOMP_SPINCOUNT") >= 2
    assert done.stdout.count("architecture: out/architecture.json") == 1
    assert len((tmp_path / "out" / "history.jsonl").read_text().splitlines()) == 1
    assert Architecture.read(tmp_path / "out" / "architecture.json").search["epochs"] == 1
    supernet = load_weights(tmp_path / "out" / "supernet.safetensors")
    narrow, wide = (supernet[f"blocks.1.0.{name}.conv_pw.weight"] for name in ("k3e3", "k3e6"))
    assert torch.equal(narrow, wide[: len(narrow)])
    small, large = (supernet[f"blocks.1.0.{name}.conv_dw.weight"] for name in ("k3e6", "k7e6"))
    assert torch.equal(small, large[:, :, 2:-2, 2:-2])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume", "nowhere"], "--resume nowhere: no search.yml there, so no search has begun in this folder"),
        (["--resume", "x", "seed=1"], "--resume goes on with the search as it was; not allowed beside it: seed=1"),
    ],
)
def test_a_resume_that_cannot_be_is_refused(words, message, capsys):
    assert main(["search", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_wrong_file_stops_the_search_before_anything_is_touched(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "search.yml").write_text(
        "strategy: {warmup_epoch: 5}\ntraining: {epochs: 0}\ndata: {name: folder, root: /nowhere}\n"
    )
    assert main(["search", "search.yml", "output=out"]) == 2
    said = capsys.readouterr().err
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
def test_what_does_not_fit_is_a_users_mistake(searched, tmp_path, capsys, words, said):
    assert main(["search", str(searched / "search.yml"), f"output={tmp_path / 'out'}", *words]) == 2
    assert said.format(table=searched / "table.yaml") in capsys.readouterr().err


def test_training_to_the_end_and_report(searched, tmp_path, monkeypatch, capsys):
    shutil.copytree(searched / "out", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    words = ["epochs=5", "learning_rate=0.1", "batch_size=32", "threads=1"]
    assert main(["train", "out/architecture.json", *words]) == 0
    accuracy = float(capsys.readouterr().out.split("test accuracy: ")[1].split()[0])
    assert accuracy > 0.5

    architecture = Architecture.read(tmp_path / "out" / "architecture.json")
    network = to_timm(architecture, load_weights(tmp_path / "out" / "final" / "weights.safetensors"))
    assert evaluate_accuracy(network, data.loader(data.digits(image_size=8).test, 64)) == pytest.approx(
        accuracy, abs=0.003
    )

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
        (("search", "a.yml", "b.yml"), "command line: more than one configuration file: a.yml, b.yml"),
        (("search", "seed=[1"), "command line: '[1' is not a value"),
    ],
)  # fmt: skip
def test_wrong_files_and_words_are_refused(searched, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("broken.json").write_text("no json")
    Path("other.json").write_text("{}")
    if words[0] == "train":
        shutil.copy(searched / "out" / "architecture.json", "lonely.json")
    assert main(list(words)) == 2
    assert said in capsys.readouterr().err


def test_a_diverging_training_leaves_earlier_results_alone(searched, tmp_path, capsys):
    shutil.copytree(searched / "out", tmp_path / "out")
    path = str(tmp_path / "out" / "architecture.json")
    assert main(["train", path, "epochs=1"]) == 0
    before = {
        p.name: p.read_bytes()
        for p in (tmp_path / "out" / "final").iterdir()
        if p.name in ("weights.safetensors", "result.json")
    }
    assert main(["train", path, "epochs=1", "learning_rate=1e30", "warmup_epochs=0"]) == 2
    assert "the training diverged" in capsys.readouterr().err
    assert before == {name: (tmp_path / "out" / "final" / name).read_bytes() for name in before}


def test_a_peer_of_nni_runs_in_the_same_harness(searched, tmp_path):
    """``package.module:Class`` takes NNI's own strategies."""
    words = [f"output={tmp_path / 'out'}", "training.epochs=1", "strategy={name: 'nni.nas.strategy:DARTS'}"]
    assert main(["search", str(searched / "search.yml"), *words]) == 0
    assert Architecture.read(tmp_path / "out" / "architecture.json").search["strategy"] == "nni.nas.strategy:DARTS"


def test_a_table_of_another_device_is_taken_where_it_is_asked_for(searched, tmp_path, capsys):
    """It is not passed off as this machine's: refused beside estimator 'device', and with 'table' nothing is timed here."""
    rows = yaml.safe_load((searched / "table.yaml").read_text())["rows"]
    foreign = {key: {"count": 10, "mean": row["median"] * 1000, "var": 0.1} for key, row in rows.items()}
    (tmp_path / "foreign.yaml").write_text(yaml.safe_dump(foreign))  # the layout of the published tables: no head
    words = [
        f"output={tmp_path / 'out'}",
        "training.epochs=1",
        "strategy.warmup_epochs=0",
        f"latency.table={tmp_path / 'foreign.yaml'}",
    ]
    assert main(["search", str(searched / "search.yml"), *words]) == 2
    assert "threads is 1 here, the table does not say" in capsys.readouterr().err
    assert main(["search", str(searched / "search.yml"), *words, "latency.estimator={name: table}"]) == 0
    latency = Architecture.read(tmp_path / "out" / "architecture.json").latency
    assert latency["conditions"] == {"source": "foreign.yaml"}
    assert latency["table_ms"] == latency["predicted_ms"] > 0
    assert latency["measured_ms"] is None
    assert latency["measured_conditions"] is None
    for wrong, said in (
        ("latency.estimator={name: table, threads: 2}", "foreign.yaml: measured under other conditions: threads is 2 here, the table does not say"),
        ("latency.estimator={name: table, unit: mJ}", "foreign.yaml: unit is 'ms'; allowed here: 'mJ'"),
        ("latency.estimator={name: macs}", "foreign.yaml: unit is 'ms'; allowed here: 'million multiply-adds'"),
    ):  # fmt: skip
        assert main(["search", str(searched / "search.yml"), *words, wrong]) == 2
        assert said in capsys.readouterr().err
    absent = [f"latency.table={tmp_path / 'nowhere.yaml'}", "latency.estimator={name: table}"]
    assert main(["search", str(searched / "search.yml"), *words[:3], *absent]) == 2
    assert "nowhere.yaml: not there; latency.estimator.name 'table' measures nothing" in capsys.readouterr().err


def test_a_calibrated_table_steers_and_both_figures_are_shown(searched, tmp_path, capsys):
    table = LookupTable.read(searched / "table.yaml")
    table.replace(calibration=Calibration(0.5, 2.0, 30, 0.01, 0.02, "2026-11-22")).write(tmp_path / "table.yaml")
    words = [
        f"output={tmp_path / 'out'}",
        "training.epochs=1",
        "strategy.warmup_epochs=0",
        f"latency.table={tmp_path / 'table.yaml'}",
    ]
    assert main(["search", str(searched / "search.yml"), *words]) == 0
    latency = Architecture.read(tmp_path / "out" / "architecture.json").latency
    assert latency["table_ms"] == pytest.approx(0.5 + 2 * latency["predicted_ms"])
    said = capsys.readouterr().out
    assert (
        f"predicted {in_words(latency['predicted_ms'])} ms, calibrated {in_words(latency['table_ms'])} ms, measured"
        in said
    )
