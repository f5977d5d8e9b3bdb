"""The final training with the model that the space is made around as its teacher."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from nni_proxyless.search_spaces import TimmSpace
from safetensors.torch import load_file
from torch.nn import functional

import nni_proxyless.timm_models  # noqa: F401  (registers the models)
from nni_proxyless.cli.main import main
from nni_proxyless.config.train_config import DistillationSection, PipelineSection, TrainConfig
from nni_proxyless.core.atomic_files import write_weights
from nni_proxyless.core.errors import UserError
from nni_proxyless.data.validate import make_images
from nni_proxyless.derive import Architecture, to_timm
from nni_proxyless.models.original import Original, sha256_of
from nni_proxyless.training.batches import EpochBatches, divide, seed_everything, training_loader
from nni_proxyless.training.loop import train
from nni_proxyless.training.loss import Objective
from nni_proxyless.training.teacher import with_teacher

from ..runs import same_weights
from ..tasks.classification import classification
from .test_training import ALONE, NOISE, QUICK, result, run, small

MODEL = "test_efficientnet"  # of timm; 350 thousand weights


def around(folder: Path, *, weights: str | None = "original.pth", **data) -> Path:
    """The architecture of a network of the space around a model, with weights of nobody's training; and, in ``original.pth``, the model's."""
    torch.manual_seed(0)
    images = {**NOISE, "arguments": {**NOISE["arguments"], **data}}
    n_classes = images["arguments"].get("num_classes", 10)
    space = TimmSpace(MODEL, num_classes=10, in_channels=1, stem_stride=1)
    space.eval()
    choices = {label: mutable.default() for label, mutable in space.simplify().items()}
    kept = {} if weights is None else {"original": {"model": MODEL, "weights": str(folder / weights)}}
    Architecture(
        space={"name": "timm", "arguments": {"model": MODEL, "num_classes": 10, "in_channels": 1, "stem_stride": 1}},
        choices=choices, input_shape=(1, 8, 8), network=space.timm_definition(choices), data=images, search=kept,
    ).write(folder / "architecture.json")  # fmt: skip
    write_weights(folder / "weights.safetensors", space.freeze(choices).state_dict())
    torch.save(original(n_classes).state_dict(), folder / "original.pth")
    return folder / "architecture.json"


def original(n_classes: int = 10, seed: int = 1) -> torch.nn.Module:
    """The model, whose answers differ from image to image."""
    torch.manual_seed(seed)
    model = timm.create_model(MODEL, num_classes=n_classes, in_chans=1)
    torch.nn.init.normal_(model.classifier.weight, std=1.0)
    return model


def images_of(path: Path):
    data = Architecture.read(path).data
    return make_images(data["name"], data["arguments"], {"name": "classification", "arguments": {}})


# -- by default --------------------------------------------------------------------------------------------------------


def test_half_of_the_loss_is_the_originals_by_default(tmp_path, capsys):
    path = around(tmp_path)
    taught = run(path, "taught", *QUICK)
    said = capsys.readouterr().err
    file = tmp_path / "original.pth"
    assert said.count(f"distillation: learns from {MODEL} ({file}), whose share of the loss is 0.5") == 1
    section = {"teacher": MODEL, "weights": str(file), "share": 0.5, "temperature": 1.0, "anneal": True}
    assert result(tmp_path / "taught")["distillation"] == section
    resolved = yaml.safe_load((tmp_path / "taught" / "train.yml").read_text())["distillation"]
    assert resolved == {"teacher": None, "weights": str(file), "temperature": 1.0, "weight": 0.5, "anneal": True}
    for words in (["distillation=0.5"], ["distillation={weights: original.pth}"], ["distillation.weight=0.5"]):
        again = run(path, "again", *QUICK, *words)
        assert all(torch.equal(again[name], tensor) for name, tensor in taught.items())
    alone = run(path, "alone", *QUICK, "distillation=0")
    assert "distillation" not in result(tmp_path / "alone")
    assert not torch.equal(alone["conv_stem.weight"], taught["conv_stem.weight"])
    assert sha256_of(original()) == sha256_of(Original(MODEL, str(file), 1).teacher(10, 1)), "it stays what it is"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda folder: (folder / "original.pth").unlink(), "original.pth: no such file"),
        (lambda folder: (folder / "original.pth").write_text("nothing"), "original.pth: no readable weights"),
        (lambda folder: torch.save(original(7).state_dict(), folder / "original.pth"), "tell 7 classes apart, the images have 10"),
        (lambda folder: torch.save(timm.create_model("test_resnet", num_classes=10, in_chans=1).state_dict(), folder / "original.pth"), "have no classifier"),
        (lambda folder: torch.save(timm.create_model("lcnet_035", num_classes=10, in_chans=1).state_dict(), folder / "original.pth"), "those of another network"),
    ],
)  # fmt: skip
def test_an_original_that_cannot_teach(change, why, tmp_path, refused, capsys):
    """By default there is no teacher, and one line says why; one that is asked for is an error before anything is trained."""
    path = around(tmp_path)
    change(tmp_path)
    said = refused("train", path, *QUICK, "distillation=0.5", f"output={tmp_path / 'asked'}")
    lines = [line for line in said.splitlines() if "distillation: " in line]
    assert len(lines) == 1
    assert why in lines[0]
    assert not (tmp_path / "asked").exists()
    run(path, "default", *QUICK)
    lines = [line for line in capsys.readouterr().err.splitlines() if "distillation: " in line]
    assert len(lines) == 1
    assert "distillation: trained without a teacher: " in lines[0]
    assert why in lines[0]
    assert "distillation" not in result(tmp_path / "default")


def test_where_there_is_no_original(tmp_path, refused, capsys):
    for folder, path in ((tmp_path / "a", small(tmp_path / "a", dataset=NOISE)), (tmp_path / "b", None)):
        folder.mkdir(exist_ok=True)
        path = path or around(folder, weights=None)
        run(path, "default", *QUICK)
        assert "distillation" not in capsys.readouterr().err
        said = refused("train", path, *QUICK, "distillation=0.5")
        assert "of the network is not made around a model with weights; allowed: weight 0, or a teacher" in said
    assert result(tmp_path / "b" / "default").get("distillation") is None
    run(path, "given", *QUICK, "distillation.weights=original.pth")  # of the model, which the space names
    assert result(tmp_path / "b" / "given")["distillation"]["teacher"] == MODEL


def test_a_pipeline_goes_without(tmp_path, caplog):
    path = around(tmp_path)
    config = TrainConfig(pipeline=PipelineSection(stages=2, micro_batches=4))
    given = (path, Architecture.read(path), to_timm(Architecture.read(path)), images_of(path), tmp_path, ALONE)
    with caplog.at_level("WARNING"):
        settled, teaching = with_teacher(config, *given)
    assert "trained without a teacher: in a pipeline the last stage" in caplog.text
    assert (settled.distillation.weight, teaching.network, teaching.described) == (0.0, None, {})
    asked = config.model_copy(update={"distillation": DistillationSection(weight=0.5)})
    with pytest.raises(UserError, match="in a pipeline the last stage"):
        with_teacher(asked, *given)


# -- what is computed --------------------------------------------------------------------------------------------------


def test_gradients_reach_the_student_alone_and_both_see_the_mixed_images(tmp_path):
    path = around(tmp_path)
    student = to_timm(Architecture.read(path), load_file(tmp_path / "weights.safetensors"))
    teacher = Original.of(Architecture.read(path)).teacher(10, 1)
    section = DistillationSection(weight=0.3, temperature=2.0)
    config = TrainConfig(distillation=section, mixup=0.4, cutmix=1.0, batch_size=8)
    objective = Objective(student, config, classification(10), ALONE, teacher)
    objective.begin(0)
    images, targets = torch.randn(8, 1, 8, 8), torch.arange(8)
    seed_everything(1)
    loss = objective(images.clone(), targets)
    loss.backward()
    assert not teacher.training
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())
    seed_everything(1)
    mixed, soft = objective.mixed(images.clone(), targets)
    assert not torch.equal(mixed, images)
    with torch.no_grad():
        ours, theirs = student(mixed), teacher(mixed)
    p, q = (theirs / 2).softmax(1), (ours / 2).softmax(1)
    expected = 0.7 * functional.cross_entropy(ours, soft) + 0.3 * 4 * (p * (p / q).log()).sum(1).mean()
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("anneal", "shares"), [(True, [0.4, 0.3, 0.2, 0.1]), (False, [0.4] * 4)])
def test_the_share_of_the_teacher_by_epoch(tmp_path, anneal, shares):
    path = around(tmp_path)
    student = to_timm(Architecture.read(path), load_file(tmp_path / "weights.safetensors")).eval()
    teacher = Original.of(Architecture.read(path)).teacher(10, 1)
    config = TrainConfig(epochs=4, label_smoothing=0.0, distillation=DistillationSection(weight=0.4, anneal=anneal))
    objective = Objective(student, config, classification(10), ALONE, teacher)
    images, targets = torch.randn(8, 1, 8, 8), torch.arange(8)
    with torch.no_grad():
        ours, p = student(images), teacher(images).softmax(1)
        plain = float(functional.cross_entropy(ours, targets))
        distance = float((p * (p.log() - ours.log_softmax(1))).sum(1).mean())
        for epoch, share in enumerate(shares):
            objective.begin(epoch)
            assert float(objective(images, targets)) == pytest.approx((1 - share) * plain + share * distance, rel=1e-5)


def test_two_steps_by_hand(tmp_path):
    """SGD without anything else; the loss that is logged is the whole one, and the weights are the same."""
    path = around(tmp_path)
    n_images = len(images_of(path).train)
    settings = {
        "epochs": 1,
        "batch_size": n_images // 2,
        "learning_rate": 0.01,
        "optimizer": "momentum",
        "momentum": 0.0,
        "weight_decay": 0.0,
    }
    config = TrainConfig(**settings, scheduler="constant", warmup_epochs=0, label_smoothing=0.0, ema_decay=0.0, device="cpu", threads=1)  # fmt: skip
    train(config, path, tmp_path / "found")
    student = to_timm(Architecture.read(path), load_file(tmp_path / "weights.safetensors"))
    teacher = original()
    teacher.conv_stem.stride = (1, 1)
    teacher.eval()
    batches = EpochBatches(n_images, config.batch_size, config.seed, ALONE)
    division = divide(images_of(path), 0.0)
    loader = training_loader(division.train, batches, 0)
    batches.begin(0, 0)
    losses = []
    student.train()
    for images, targets in loader:
        student.zero_grad()
        outputs = student(images)
        with torch.no_grad():
            p = teacher(images).softmax(1)
        distance = (p * (p.log() - outputs.log_softmax(1))).sum(1).mean()
        loss = 0.5 * functional.cross_entropy(outputs, targets) + 0.5 * distance
        loss.backward()
        with torch.no_grad():
            for weight in student.parameters():
                weight -= 0.01 * weight.grad
        losses.append(float(loss.detach()))
    assert len(losses) == 2
    record = json.loads((tmp_path / "found" / "history.jsonl").read_text())
    assert record["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    found = load_file(tmp_path / "found" / "weights.safetensors")
    for name, tensor in student.state_dict().items():
        assert torch.allclose(found[name].float(), tensor.float(), atol=1e-5), name


# -- stop and resume ---------------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def stopped(path: Path, folder: Path, **given) -> None:
    """A training of two epochs that ends after the first."""

    def stop(metrics: dict) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        train(
            TrainConfig(epochs=2, threads=1, device="cpu", mixup=0.2, dropout=0.1, **given), path, folder, report=stop
        )


def test_it_goes_on_with_the_teacher_that_it_began_with(tmp_path, refused, capsys):
    path, folder, file = around(tmp_path), tmp_path / "final", tmp_path / "original.pth"
    words = ["epochs=2", "threads=1", "device=cpu", "mixup=0.2", "dropout=0.1"]
    whole = run(path, "whole", *words)
    stopped(path, folder)
    kept = file.read_bytes()
    again = (["train", "--resume", folder], ["train", path, *words])
    file.unlink()
    for command in again:
        said = refused(*command)
        assert f"{file}: no such file" in said
        assert f"The training in {folder} began with it: give it back, or delete {folder / 'checkpoint'}" in said
    torch.save(original(seed=2).state_dict(), file)
    for command in again:
        assert "sha256 of the teacher's weights is '" in refused(*command)
    assert "distillation is None here" in refused("train", path, *words, "distillation=0")
    file.unlink()
    (tmp_path / "moved.pth").write_bytes(kept)
    capsys.readouterr()
    assert main(["train", str(path), *words, "distillation.weights=moved.pth"]) == 0
    assert "going on after epoch 1 of 2" in capsys.readouterr().err
    assert same_weights(folder, tmp_path / "whole", "weights.safetensors")
    assert result(folder)["distillation"]["weights"] == str(tmp_path / "moved.pth")
    assert whole.keys() == load_file(folder / "weights.safetensors").keys()


def test_it_goes_on_without_a_teacher_that_was_not_there(tmp_path, capsys):
    path, folder = around(tmp_path), tmp_path / "final"
    (tmp_path / "original.pth").rename(tmp_path / "moved.pth")
    stopped(path, folder)
    (tmp_path / "moved.pth").rename(tmp_path / "original.pth")
    assert main(["train", "--resume", str(folder)]) == 0
    assert "learns from" not in capsys.readouterr().err
    assert "distillation" not in result(folder)
