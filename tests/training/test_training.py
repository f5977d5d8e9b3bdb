"""``nni-proxyless train``: what it reaches, what it leaves, and what each setting does."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni_proxyless.search_spaces import MobileNetV2Space
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn import functional

import nni_proxyless.timm_models  # noqa: F401  (registers the models)
from nni_proxyless import data
from nni_proxyless.cli.main import main
from nni_proxyless.config.train_config import AugmentationSection, DistillationSection, TrainConfig
from nni_proxyless.core.atomic_files import write_weights
from nni_proxyless.data.accuracy import evaluate_accuracy
from nni_proxyless.derive import Architecture, load_weights, to_timm
from nni_proxyless.training.augmentation import augmented
from nni_proxyless.training.batches import EpochBatches, divide, training_loader
from nni_proxyless.training.distributed import Processes
from nni_proxyless.training.loss import Objective
from nni_proxyless.training.optimizer import Optimization

from ..runs import history
from ..tasks.classification import classification

ALONE = Processes(0, 1, torch.device("cpu"))
QUICK = ["epochs=1", "batch_size=64", "threads=1", "device=cpu"]


class Plain(ModelSpace):
    """No batch norm, nothing at random; no model of timm."""

    def __init__(self, num_classes: int = 4):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh())
        self.head = LayerChoice({"linear": nn.Linear(16, num_classes)}, label="head")

    def forward(self, images):
        return self.head(self.body(images))


def plain(folder: Path) -> Path:
    """An architecture of :class:`Plain`, on 64 images of noise, and its weights."""
    torch.manual_seed(0)
    Architecture(
        space={"name": f"{__name__}:Plain", "arguments": {"num_classes": 4}}, choices={"head": "linear"},
        input_shape=(3, 4, 4), network=None,
        data={"name": "synthetic", "arguments": {"n_images": 64, "num_classes": 4, "image_size": 4}},
    ).write(folder / "architecture.json")  # fmt: skip
    write_weights(folder / "weights.safetensors", Plain().freeze({"head": "linear"}).state_dict())
    return folder / "architecture.json"


def small(folder: Path, *, seed: int = 0, side: int = 8, dataset: dict | None = None, **layout) -> Path:
    """The architecture of a small timm net on the digits, or on another data set, and weights of nobody's training."""
    torch.manual_seed(seed)
    space = MobileNetV2Space("small", **{"num_classes": 10, "in_channels": 1, "stem_width": 8, "widths": (8, 16), "depths": (1, 2),
                                         "strides": (2, 2), "feature_mix": 32, **layout})  # fmt: skip
    choices = dict.fromkeys(space.simplify(), "k3e3")
    Architecture(
        space={"name": "mobilenetv2", "arguments": {}}, choices=choices, input_shape=(space.in_channels, side, side),
        network=space.timm_definition(choices),
        data=dataset or {"name": "digits", "arguments": {"image_size": side}},
    ).write(folder / "architecture.json")  # fmt: skip
    write_weights(folder / "weights.safetensors", space.freeze(choices).state_dict())
    return folder / "architecture.json"


NOISE = {"name": "synthetic", "arguments": {"n_images": 128, "channels": 1, "image_size": 8}}


def run(path: Path, name: str, *words: str) -> dict[str, torch.Tensor]:
    """Train into a folder of this name; the weights that are left."""
    assert main(["train", str(path), f"output={path.parent / name}", *words]) == 0
    return load_file(path.parent / name / "weights.safetensors")


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


# -- from one end to the other -----------------------------------------------------------------------------------------


def test_the_digits_to_97_percent(command, tmp_path, capsys):
    """From scratch, on a small fixed net; about half a minute on one core."""
    small(tmp_path, side=16, widths=(16, 32), depths=(1, 1), feature_mix=64)
    words = ["weights=scratch", "epochs=10", "batch_size=32", "optimizer=adamw", "learning_rate=0.01", "warmup_epochs=1",
             "ema_decay=0.98", "threads=1", "device=cpu"]  # fmt: skip
    done = command("nni-proxyless", "train", "architecture.json", *words)
    assert done.returncode == 0, done.stderr
    final = tmp_path / "final"
    accuracy = result(final)["accuracy"]
    assert accuracy >= 0.97
    assert done.stdout.splitlines()[0] == f"test accuracy: {accuracy:.4f}"
    assert done.stdout.splitlines()[-1] == "weights: final/weights.safetensors"
    assert len([line for line in done.stderr.splitlines() if ": train loss " in line]) == 10
    assert "\r" not in done.stderr  # no progress bar: stderr is no terminal
    assert not [line for line in done.stderr.splitlines() if "Warning" in line]

    epochs = history(final)
    assert [record["epoch"] for record in epochs] == list(range(1, 11))
    assert {"train_loss", "accuracy", "learning_rate", "images_per_second"} <= epochs[0].keys()
    assert epochs[-1]["accuracy"] == accuracy
    assert epochs[1]["learning_rate"] > epochs[-2]["learning_rate"] > epochs[-1]["learning_rate"] > 0
    curves = EventAccumulator(str(final / "tensorboard")).Reload()
    for name in epochs[0].keys() - {"epoch"}:
        shown = [(event.step, event.value) for event in curves.Scalars(f"training/{name}")]
        assert shown == [(record["epoch"], pytest.approx(record[name])) for record in epochs]
    best = result(final)["best"]
    assert best["test_accuracy"] == max(record["accuracy"] for record in epochs)
    assert best["chosen_on"] == "test"
    assert yaml.safe_load((final / "train.yml").read_text())["learning_rate"] == 0.01

    for name, expected in (("weights", accuracy), ("best", best["test_accuracy"])):
        again = ["train", str(tmp_path / "architecture.json"), f"weights=final/{name}.safetensors", "device=cpu"]
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        assert main([*again, "--epochs", "0"]) == 0
        assert capsys.readouterr().out == f"test accuracy: {expected:.4f}\n"
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "0 epochs write nothing"


def test_held_out_images_choose_the_epoch_and_the_test_images_only_tell(tmp_path):
    """The 1,438 training images fall into two parts, every class alike; figures of both stand in the result."""
    division = divide(data.digits(), 0.25)
    assert division.judging is not None
    assert not set(division.train.indices) & set(division.judging.indices)
    assert len(division.train) + len(division.judging) == 1438
    targets = np.asarray(data.digits().targets)
    shares = np.bincount(targets[division.judging.indices]) / np.bincount(targets)
    assert abs(shares - 0.25).max() < 0.01

    path = small(tmp_path)
    steps = [
        "learning_rate=0.05",
        "scheduler=step",
        "decay_epochs=3",
        "decay_rate=200",
    ]  # the fourth epoch spoils the net
    run(path, "out", *QUICK, "epochs=4", "validation=0.25", "ema_decay=0", "warmup_epochs=0", *steps)
    reached = [epoch["accuracy"] for epoch in history(tmp_path / "out")]
    found = result(tmp_path / "out")
    assert found["best"]["validation_accuracy"] == max(reached)
    assert found["best"]["epoch"] == reached.index(max(reached)) + 1
    assert found["best"]["chosen_on"] == "validation"
    assert found["last"]["validation_accuracy"] == reached[-1]
    assert found["best"]["epoch"] < 4, "else the two would be one"
    assert found["best"]["test_accuracy"] != max(reached)
    assert found["accuracy"] == found["last"]["test_accuracy"] != found["best"]["test_accuracy"]
    for name, which in (("weights", "last"), ("best", "best")):
        network = to_timm(Architecture.read(path), load_weights(tmp_path / "out" / f"{name}.safetensors"))
        accuracy = evaluate_accuracy(network, data.loader(data.digits(image_size=8).test, 64))
        assert accuracy == pytest.approx(found[which]["test_accuracy"], abs=0.004)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_that_change_the_weights(tmp_path):
    """Each of them trains, leaves weights of the net, and other ones than without it."""
    path = small(tmp_path, dataset=NOISE)
    reference = run(path, "reference", *QUICK)
    assert all(torch.equal(tensor, reference[name]) for name, tensor in run(path, "again", *QUICK).items())
    for word in ("ema_decay=0", "precision=bf16-mixed", "scheduler=step", "gradient_clip_val=0.1", "optimizer=lamb",
                 "drop_path=0.5", "dropout=0.5", "mixup=0.5", "weights=scratch", "min_learning_rate=0.01"):  # fmt: skip
        found = run(path, "other", *QUICK, word)
        assert found.keys() == reference.keys()
        assert all(tensor.isfinite().all() for tensor in found.values()), word
        assert not all(torch.equal(tensor, found[name]) for name, tensor in reference.items()), word


def test_several_batches_make_one_larger_batch(tmp_path):
    path = plain(tmp_path)
    words = ["epochs=2", "threads=1", "device=cpu"]
    whole = run(path, "whole", *words, "batch_size=32")
    parts = run(path, "parts", *words, "batch_size=8", "accumulate_grad_batches=4")
    steps = run(path, "steps", *words, "batch_size=8")
    assert all(torch.allclose(parts[name], tensor, atol=1e-6) for name, tensor in whole.items())
    assert not all(torch.allclose(steps[name], tensor, atol=1e-6) for name, tensor in whole.items())


def test_the_schedule_ends_with_the_training():
    """From warm-up through the learning rate to zero, as a function of the step alone."""
    network = nn.Linear(2, 2)
    config = TrainConfig(epochs=5, warmup_epochs=1, learning_rate=0.1, warmup_learning_rate=0.01)
    optimization = Optimization(network, config, 10, torch.device("cpu"))
    rates = []
    for _ in range(50):
        network(torch.ones(1, 2)).sum().backward()
        optimization.step()
        rates.append(optimization.last_learning_rate)
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[10] == pytest.approx(0.1)
    assert rates[49] == pytest.approx(0.1 * (1 + math.cos(math.pi * 39 / 40)) / 2)


def test_norms_and_biases_do_not_decay(tmp_path):
    network = timm.create_model("proxyless_derived", architecture=str(small(tmp_path)))
    groups = Optimization(network, TrainConfig(weight_decay=0.01), 10, torch.device("cpu")).optimizer.param_groups
    assert {p.ndim for group in groups for p in group["params"] if group["weight_decay"] == 0} == {1}
    assert {p.ndim for group in groups for p in group["params"] if group["weight_decay"] == 0.01} == {2, 4}


def test_mixing_ends_at_its_epoch():
    """Mixed images have two classes each; after mixup_off_epoch the loss is the one without mixing."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    images, targets = torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0])
    network.requires_grad_(False)
    config = TrainConfig(mixup=1.0, mixup_off_epoch=2, label_smoothing=0.1)
    objective = Objective(network, config, classification(3), ALONE, None)
    alone = functional.cross_entropy(network(images), targets, label_smoothing=0.1)
    for epoch, mixed in ((0, True), (1, True), (2, False)):
        objective.begin(epoch)
        np.random.seed(0)
        share = np.random.RandomState(0)
        share.rand()  # whether this batch is mixed
        lam = float(share.beta(1.0, 1.0)) if mixed else 1.0
        logits = network(images * lam + images.flip(0) * (1 - lam))
        expected = sum(
            weight * functional.cross_entropy(logits, classes, label_smoothing=0.1)
            for weight, classes in ((lam, targets), (1 - lam, targets.flip(0)))
        )
        assert float(objective(images.clone(), targets)) == pytest.approx(float(expected), abs=1e-6)
        assert (float(expected) == pytest.approx(float(alone), abs=1e-6)) is not mixed


# -- a teacher ---------------------------------------------------------------------------------------------------------


def test_a_teacher_is_learnt_from(tmp_path):
    """The loss is (1 - weight) cross entropy + weight T^2 KL(teacher || student), and the teacher stays what it is."""
    student = timm.create_model("proxyless_derived", architecture=str(small(tmp_path)), pretrained=True)
    teacher = timm.create_model(
        "proxyless_derived", architecture=str(small(tmp_path / "teacher", seed=1)), pretrained=True
    )
    section = DistillationSection(teacher="any", temperature=2.0, weight=0.3)
    objective = Objective(
        student, TrainConfig(distillation=section, label_smoothing=0.0), classification(10), ALONE, teacher
    )
    objective.begin(0)
    assert student.training
    assert not teacher.training
    images, targets = torch.randn(4, 1, 8, 8), torch.tensor([3, 1, 4, 1])
    found = objective(images, targets).detach()
    with torch.no_grad():
        logits, wanted = student(images), teacher(images)
    distance = functional.kl_div(
        (logits / 2).log_softmax(1), (wanted / 2).log_softmax(1), reduction="batchmean", log_target=True
    )
    expected = 0.7 * functional.cross_entropy(logits, targets) + 0.3 * 4 * distance
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


def test_teachers_by_name_and_by_file(tmp_path, refused):
    path = small(tmp_path, dataset=NOISE)
    small(tmp_path / "teacher", seed=1)
    torch.manual_seed(0)
    other = timm.create_model("test_efficientnet", num_classes=10, in_chans=1)
    write_weights(tmp_path / "other.safetensors", other.state_dict())
    alone = run(path, "alone", *QUICK)
    of_timm = "{teacher: test_efficientnet, weights: other.safetensors, temperature: 2.0, weight: 0.9}"
    for name, teacher in (("own", "{teacher: teacher/architecture.json}"), ("timm", of_timm)):
        taught = run(path, name, *QUICK, f"distillation={teacher}")
        assert taught.keys() == alone.keys()
        assert not torch.equal(taught["conv_stem.weight"], alone["conv_stem.weight"])
    for teacher, said in (
        ("resnet5o", "distillation.teacher: 'resnet5o' is unknown"),
        ("resnet5o", "Did you mean 'resnet50'?"),
        ("resnet18.nobody, weights: other.safetensors", "distillation.teacher: 'resnet18.nobody': timm has no weights 'nobody' of resnet18; allowed: a1_in1k, "),
        ("resnet18.nobody", "timm has no weights 'nobody' of resnet18"),
        ("resnet18", "the weights that timm has for 'resnet18' tell 1000 classes apart, its student 10"),
        ("resnet18, weights: other.safetensors", f"distillation.weights: {tmp_path / 'other.safetensors'}: the weights of another network"),
        ("other/architecture.json", "no such file, so no architecture"),
    ):  # fmt: skip
        assert said in refused("train", path, *QUICK, f"distillation={{teacher: {teacher}}}")


# -- augmentation ------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path) -> Path:
    """An architecture whose data set is a folder of pictures: 20 scans of each of three digits, in RGB."""
    scans = load_digits()
    for label in range(3):
        for i, scan in enumerate(scans.images[scans.target == label][:20]):
            place = tmp_path / "pictures" / ("train" if i < 16 else "val") / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((scan * 255 / 16).round().astype("uint8")).resize((20, 20)).convert("RGB").save(
                place / f"{i}.png"
            )
    path = small(tmp_path, num_classes=3, in_channels=3)
    content = json.loads(path.read_text())
    content["data"] = {"name": "folder", "arguments": {"root": str(tmp_path / "pictures"), "image_size": 8}}
    path.write_text(json.dumps(content))
    return path


def test_timm_s_augmentation_takes_the_place_of_the_data_set_s_own(pictures):
    words = [*QUICK, "batch_size=16"]
    own = run(pictures, "own", *words)
    options = "{scale: [0.5, 1.0], auto_augment: rand-m9-mstd0.5, random_erasing: 0.5, color_jitter: [0.4, 0.4, 0.4, 0.1], interpolation: random}"
    again = [run(pictures, name, *words, f"augmentation={options}", more)
             for name, more in (("timm", "workers=0"), ("loaded", "workers=2"))]  # fmt: skip
    assert not torch.equal(own["conv_stem.weight"], again[0]["conv_stem.weight"])
    assert all(torch.equal(tensor, again[1][name]) for name, tensor in again[0].items()), "whoever loads the images"


def test_an_image_s_chances_are_its_own(pictures):
    """Other in another epoch, the same whenever it is loaded; evaluation is as it was."""
    architecture = Architecture.read(pictures)
    images = data.folder(**architecture.data["arguments"])
    # 1 and not 2: a draw of the interval's end would be no draw
    other = augmented(images, AugmentationSection(scale=[0.3, 1.0], interpolation="bilinear"), architecture)
    assert all(
        torch.equal(image, as_before) for (image, _), (as_before, _) in zip(other.test, images.test, strict=True)
    )

    batches = EpochBatches(len(other.train), 8, 5, ALONE)

    def epoch(number: int, first: int = 0) -> list[torch.Tensor]:
        batches.begin(number, first)
        return [batch for batch, _ in training_loader(other.train, batches, workers=0)]

    first = epoch(0)
    torch.rand(7)
    np.random.rand(7)
    assert all(torch.equal(a, b) for a, b in zip(first[3:], epoch(0, 3), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, epoch(1), strict=True))


def test_the_images_of_an_epoch_are_dealt_out_by_turns():
    """Two processes see what one with batches twice as large sees, and no image comes twice."""

    def order(processes: Processes, size: int) -> list[list[int]]:
        batches = EpochBatches(50, size, 0, processes)
        batches.begin(3)
        return [[index for _, index in batch] for batch in batches]

    one = order(ALONE, 8)
    two = [order(Processes(rank, 2, torch.device("cpu")), 4) for rank in range(2)]
    assert len(one) == 6
    assert all(sorted(a + b) == sorted(c) for a, b, c in zip(*two, one, strict=True))
    assert len({index for batch in one for index in batch}) == 48


def test_what_does_not_go_together_is_said(tmp_path, refused):
    path, other = small(tmp_path), plain(tmp_path / "plain")
    of_plain = "the network of space 'tests.training.test_training:Plain' is no model of timm"
    newer = importlib.util.find_spec("timm.scheduler.wsd_lr") is not None
    cases = [
        (path, "augmentation={hflip: 0.0}", "augmentation: the data set 'digits' holds no pictures, which timm's transforms take; leave the section out"),
        (path, "precision=16-mixed", "precision: 16-mixed needs a CUDA device, this is cpu; allowed here: 32-true, bf16-mixed"),
        (path, "weights=plain/weights.safetensors", f"weights: {other.with_name('weights.safetensors')}: the weights of another network"),
        (path, "weights=none.safetensors", "none.safetensors: no readable weights"),
        (path, "validation=0.001", "validation: class 0 has 142 images: too few for two parts, one of 0.001"),
        (other, "drop_path=0.1", f"drop_path: {of_plain}"),
        (other, "dropout=0.1", f"dropout: {of_plain}"),
        (path, "scheduler=wsd decay_epochs=7.0", "scheduler: wsd schedule requires 0 < decay_epochs") if newer  # up to timm 1.0.30 there is none
        else (path, "scheduler=wsd", "scheduler: the installed timm has no 'wsd'; allowed: cosine, or a newer timm"),
    ]  # fmt: skip
    if not torch.cuda.is_available():
        cases.append((path, "device=cuda", "device: cuda: torch finds no CUDA device here; allowed: auto, cpu"))
    for which, words, said in cases:
        given = words.split() if words.startswith("scheduler") else [words]
        assert said in refused("train", which, *QUICK, *given)
        assert not (which.parent / "final").exists()


def test_a_training_behind_a_search_in_one_trial_is_refused(tmp_path, monkeypatch, capsys):
    """NNI gives a trial its parameters once; whoever asks again waits forever."""
    path = small(tmp_path)
    (tmp_path / "search.yml").write_text("seed: 0\n")
    for name, value in (("NNI_PLATFORM", "local"), ("NNI_OUTPUT_DIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    assert main(["train", str(path), "epochs=1"]) == 2
    assert f"is trained by nni-proxyless train {tmp_path / 'architecture.json'}" in capsys.readouterr().err
