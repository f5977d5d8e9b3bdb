"""Searches of each task, from the file to the exported network, also as trials of NNI; and a task of the user's own."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from nni_proxyless.cli.main import main
from nni_proxyless.core.merit import Merit
from nni_proxyless.data.accuracy import evaluate, evaluate_merit
from nni_proxyless.data.image_parts import loader
from nni_proxyless.data.validate import make_images
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.models.build import build_network
from nni_proxyless.models.timm_model import load_weights

from ..forked import fork
from ..runs import MACS, TINY, history, same_weights, search
from ..tasks import made
from .test_experiment import free_port
from .test_life_cycle import Experiment, experiment, until  # noqa: F401  (a fixture)

TASKS = {"regression": "values", "multi-label": "labels", "segmentation": "masks", "detection": "boxes"}
SHORT = ("training.epochs=4", "strategy.warmup_epochs=2", "search={select: supernet, judged: 6}")


def text_of(task: str, module: str = made.__name__, **more: Any) -> str:
    more = {"metric": "mae", **more} if task == "regression" else more
    content = yaml.safe_load(TINY) | {
        "data": {"name": f"{module}:{TASKS[task]}", "batch_size": 32}, "task": {"name": task, **more},
        "latency": {"target_ms": "90%", "estimator": {"name": "macs"}},
    }  # fmt: skip
    return yaml.safe_dump(content)


@pytest.fixture(scope="module", params=TASKS)
def found(request, tmp_path_factory) -> Path:
    return search(tmp_path_factory.mktemp("search"), *SHORT, text=text_of(request.param))


def images_of(architecture: Architecture) -> Any:
    return make_images(architecture.data["name"], architecture.data["arguments"], architecture.task)


def test_a_search_leaves_a_network_of_its_task(found):
    architecture = Architecture.read(found / "architecture.json")
    data = images_of(architecture)
    name, merit = data.task.merit.name, architecture.merit
    assert merit == data.task.merit
    assert "accuracy" not in architecture.search, "it is none"
    network = build_network(architecture, load_weights(found / "weights.safetensors"))
    assert network.eval()(torch.randn(2, *data.shape)).shape == (2, *data.task.output_shape())
    epochs = history(found)
    assert all(epoch["default"] == merit.score(epoch[name]) for epoch in epochs)
    assert "train_accuracy" not in epochs[0]
    with (found / "judged.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert name in rows[0]
    assert "accuracy" not in rows[0]
    assert [float(row["log_loss"]) for row in rows] == sorted(float(row["log_loss"]) for row in rows)
    assert architecture.search[name] > 0
    assert architecture.search["metric"]["name"] == name


def test_the_search_has_learned_its_task(found):
    architecture = Architecture.read(found / "architecture.json")
    data = images_of(architecture)
    trained = build_network(architecture, load_weights(found / "weights.safetensors"))
    torch.manual_seed(0)
    fresh = build_network(architecture)
    batches = loader(data.test, 64)
    assert evaluate(trained, batches, data.task)[0] < 0.9 * evaluate(fresh, batches, data.task)[0]


def test_it_is_trained_exported_and_reported(found, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(found, run)
    architecture = Architecture.read(run / "architecture.json")
    data, merit = images_of(architecture), architecture.merit
    assert main(["train", str(run / "architecture.json"), "epochs=3", "batch_size=32", "warmup_epochs=0", "validation=0.2"]) == 0  # fmt: skip
    assert f"test {merit.name}: " in capsys.readouterr().out
    result = json.loads((run / "final" / "result.json").read_text())
    assert Merit.of(result) == merit
    network = build_network(architecture, load_weights(run / "final" / "weights.safetensors")).eval()
    # The averaged weights are those that are kept.
    assert result[merit.name] == pytest.approx(evaluate_merit(network, loader(data.test, 32), data.task), rel=1e-5)
    best = history(run / "final")[result["best"]["epoch"] - 1][merit.name]
    assert merit.score(best) == max(merit.score(epoch[merit.name]) for epoch in history(run / "final"))

    assert main(["export", str(run / "architecture.json"), "--formats", "onnx", "--repeats", "2"]) == 0
    content = json.loads((run / "export.json").read_text())
    assert content[merit.name]["torch"] == pytest.approx(result[merit.name], rel=1e-4)
    session = onnxruntime.InferenceSession(str(run / "model.onnx"))
    image = torch.stack([data.test[0][0]])
    (theirs,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    ours = network(image).detach().numpy()
    assert np.abs(theirs - ours).max() <= 1e-4 * max(1, np.abs(ours).max())

    assert main(["report", str(run)]) == 0
    assert merit.name in capsys.readouterr().out
    assert (
        main(
            [
                "derive",
                str(run),
                "--judge",
                "5",
                "--budget-ms",
                str(architecture.latency["target_ms"]),
                "--output",
                str(tmp_path / "derived"),
            ]
        )
        == 0
    )
    assert Architecture.read(tmp_path / "derived" / "architecture.json").search[merit.name] > 0


def test_two_processes_find_the_figure_of_one(found, tmp_path, capsys):
    """Each judges on its part of the images, and a metric that is no mean is of all of them."""
    run = tmp_path / "run"
    shutil.copytree(found, run)
    path, name = str(run / "architecture.json"), Architecture.read(run / "architecture.json").merit.name
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}  # what torchrun tells them
    words = ["train", path, "epochs=1", "batch_size=16", "threads=1", "device=cpu"]
    processes = [
        fork(main, words, cwd=tmp_path, said=tmp_path / "said", RANK=str(rank), LOCAL_RANK=str(rank), **told)
        for rank in range(2)
    ]
    for process in processes:
        process.join(150)
    assert [process.exitcode for process in processes] == [0, 0], (tmp_path / "said").read_text()
    result = json.loads((run / "final" / "result.json").read_text())
    assert result["processes"] == 2
    capsys.readouterr()
    assert main(["train", path, "weights=final/weights.safetensors", "device=cpu", "--epochs", "0"]) == 0
    alone = float(re.search(rf"test {name}: (\S+)", capsys.readouterr().out)[1])
    assert alone == pytest.approx(result[name], rel=2e-3)


def test_it_has_references_of_its_own_kind(found, tmp_path, capsys):
    words = ["reference", str(found / "architecture.json"), "--widths", "1.0", "2.0", "--output", str(tmp_path / "r")]
    assert main(words) == 0
    searched = Architecture.read(found / "architecture.json")
    networks = [Architecture.read(path) for path in sorted((tmp_path / "r").glob("*/architecture.json"))]
    assert [network.task for network in networks] == [searched.task] * 2
    assert networks[1].macs > 1.5 * networks[0].macs
    images = torch.randn(1, *searched.input_shape)
    outputs = [build_network(network).eval()(images).shape for network in (searched, *networks)]
    assert len(set(outputs)) == 1
    assert main(words) == 0, "the same again"
    other = tmp_path / "r" / "width-1.0" / "architecture.json"
    shutil.copy(tmp_path / "r" / "width-2.0" / "architecture.json", other)
    capsys.readouterr()
    assert main(words) == 2
    assert f"{other} is there and holds another network" in capsys.readouterr().err


def test_a_search_that_goes_on_comes_to_the_same(tmp_path):
    text = text_of("regression")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    search(whole, *SHORT, text=text)
    search(parts, *SHORT, text=text)
    assert same_weights(whole / "out", parts / "out")


@pytest.mark.parametrize(
    "words",
    ["strategy.update=full", "strategy.update=reinforce", "strategy={name: dsnas, warmup_epochs: 1, search_epochs: 2}"],
)
def test_every_strategy_learns_numbers(words, tmp_path):
    out = search(tmp_path, "training.epochs=4", words, text=text_of("regression"))
    assert np.isfinite([epoch["mae"] for epoch in history(out)]).all()


def test_of_several_values_a_small_one_counts_as_much_in_the_metric_the_export_and_in_8_bits(tmp_path, capsys):
    """A radius in pixels, and the brightness in thousandths of what it was: by the mean of errors nobody would see it."""
    out = search(tmp_path, text=text_of("regression", metric=None).replace(":values", ":unlike_values"))
    architecture = Architecture.read(out / "architecture.json")
    assert architecture.merit.name == "r2"
    assert main(["train", str(out / "architecture.json"), "epochs=20", "batch_size=32", "learning_rate=0.1"]) == 0
    assert main(["export", str(out / "architecture.json"), "--formats", "onnx", "int8", "--repeats", "2"]) == 0
    network = build_network(architecture, load_weights(out / "final" / "weights.safetensors")).eval()
    images, targets = made.unlike_values().test.images, made.unlike_values().test.targets
    session = onnxruntime.InferenceSession(str(out / "model.int8.onnx"))
    eight = torch.from_numpy(np.concatenate([session.run(None, {"input": one.numpy()})[0] for one in images.split(1)]))
    answers, deviation = network(images).detach(), targets.std(dim=0)
    assert (((answers - targets) / deviation).square().mean(dim=0) < 0.7).all(), "it has learned both"
    assert (((eight - answers) / deviation).abs().mean(dim=0) < 0.2).all(), (
        "with one scale for both the small one had no step left"
    )

    capsys.readouterr()
    words = ["export", str(out / "architecture.json"), "--formats", "onnx", "--repeats", "2", "--tolerance", "1e-9"]
    assert main(words) == 2
    assert "of the largest of an output" in capsys.readouterr().err


def test_metrics_and_losses_are_asked_for_by_name(tmp_path, capsys):
    out = search(tmp_path, text=text_of("regression", metric="r2", loss="huber"))
    assert history(out)[-1]["r2"] == history(out)[-1]["default"]
    assert "mae" not in history(out)[-1]
    assert main(["train", str(out / "architecture.json"), "epochs=1", "mixup=0.2"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("allowed: 0, or a classification without class_weights")


def test_classes_that_are_rare_weigh_more_where_they_are_asked_to(tmp_path):
    out = search(tmp_path, "task={name: classification, class_weights: balanced, metric: balanced_accuracy}", *MACS)
    architecture = Architecture.read(out / "architecture.json")
    assert 0 < architecture.search["balanced_accuracy"] <= 1
    assert architecture.task["arguments"] == {"class_weights": "balanced", "metric": "balanced_accuracy"}


def test_a_task_of_ones_own_is_made_from_the_page_alone(pytestconfig, tmp_path, monkeypatch, capsys):
    page = (pytestconfig.rootpath / "docs" / "how-to" / "tasks.md").read_text()
    (module,) = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class Count" in text]
    (settings,) = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "loops:Count" in text]
    (tmp_path / "loops.py").write_text(module)
    monkeypatch.chdir(tmp_path)
    out = search(
        tmp_path,
        "training.epochs=6",
        "strategy.warmup_epochs=3",
        "search.judged=6",
        "trainer.threads=1",
        text=settings,
    )
    architecture = Architecture.read(out / "architecture.json")
    data = images_of(architecture)
    counts = torch.stack(list(data.targets))
    guessed = float((counts - counts.median()).abs().mean())
    assert history(out)[-1]["default"] == -history(out)[-1]["mae"]
    assert main(["train", str(out / "architecture.json"), "epochs=8", "warmup_epochs=1"]) == 0
    assert json.loads((out / "final" / "result.json").read_text())["mae"] < 0.7 * guessed
    assert main(["export", str(out / "architecture.json"), "--formats", "onnx", "--repeats", "2"]) == 0
    assert main(["report", str(out)]) == 0
    assert "mae" in capsys.readouterr().out


EXPERIMENT = """
experimentName: tasks
trialCommand: nni-proxyless search $NNI_TRIAL_SEQ_ID.yml
trialCodeDirectory: .
searchSpace: {seed: {_type: choice, _value: [0, 1]}}
maxTrialNumber: 2
trialConcurrency: 2
tuner: {name: GridSearch}
trainingService: {platform: local}
"""


def test_tasks_are_searched_as_trials(experiment, tmp_path, monkeypatch, capsys):  # noqa: F811  (the fixture)
    """Numbers and pixels, each searched in a trial of NNI, which shows its figure of merit; trained, exported and reported from there."""
    shutil.copy(made.__file__, tmp_path / "made.py")
    for number, task in enumerate(("regression", "segmentation")):
        (tmp_path / f"{number}.yml").write_text(text_of(task, "made"))
    (tmp_path / "experiment.yml").write_text(EXPERIMENT)
    experiment.nnictl("create", "--config", "experiment.yml")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    until(lambda: [trial["status"] for trial in experiment.trials()] == ["SUCCEEDED"] * 2, "both succeed")
    for trial, name in zip(experiment.trials(), ("mae", "iou"), strict=True):
        folder = experiment.folder(trial["trialJobId"])
        assert Architecture.read(folder / "architecture.json").merit.name == name
        (final,) = trial["finalMetricData"]
        reported = json.loads(json.loads(final["data"]))
        assert reported["default"] == Architecture.read(folder / "architecture.json").merit.score(reported[name])
        assert main(["train", str(folder / "architecture.json"), "epochs=1"]) == 0
        assert main(["export", str(folder / "architecture.json"), "--formats", "onnx", "--repeats", "2"]) == 0
    capsys.readouterr()
    assert main(["report", experiment.id]) == 0
    said = capsys.readouterr().out
    assert "mae" in said
    assert "iou" in said
