"""``train.yml``, overrides and recipes: what is allowed, and what is said of the rest."""

from __future__ import annotations

import pytest

from nni_proxyless.config.read import read_config
from nni_proxyless.config.recipes import find_recipe, recipes
from nni_proxyless.config.train_config import TrainConfig
from nni_proxyless.core.errors import UserError

PIPELINE = {"stages": 2, "micro_batches": 4}


def said_of(**given) -> str:
    with pytest.raises(UserError) as error:
        read_config(TrainConfig, None, [("train.yml", name.replace("__", "."), value) for name, value in given.items()])
    return str(error.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epoch": 3}, "train.yml: unknown key 'epoch'; allowed: seed, output, weights, epochs,"),
        ({"epochs": -1}, "train.yml: epochs: -1 is not allowed here; allowed: at least 0"),
        ({"weights": "inherit"}, "train.yml: weights: 'inherit' is not allowed here; allowed: inherited, scratch, or the path of a .safetensors file. Did you mean 'inherited'?"),
        ({"optimizer": "adam_w"}, "optimizer: 'adam_w' is not allowed here; allowed: an optimizer of timm, such as sgd, adamw, lamb. Did you mean 'adamw'?"),
        ({"scheduler": "cosin"}, "scheduler: 'cosin' is not allowed here; allowed: a scheduler of timm: cosine, tanh,"),
        ({"scheduler": "plateau"}, "scheduler: 'plateau' is not allowed here"),
        ({"precision": "bf16-mix"}, "precision: 'bf16-mix' is not allowed here; allowed: '32-true', 'bf16-mixed' or '16-mixed'. Did you mean 'bf16-mixed'?"),
        ({"device": "gpu"}, "device: 'gpu' is not allowed here; allowed: auto, cpu, cuda, or another device of torch"),
        ({"augmentation__scal": [0.5, 1]}, "train.yml: augmentation: unknown key 'scal'; allowed: scale, ratio,"),
        ({"augmentation__scale": 0.5}, "augmentation.scale: 0.5 is not allowed here; allowed: two numbers greater than 0, the smaller one first"),
        ({"augmentation__color_jitter": [0.1]}, "augmentation.color_jitter: [0.1] is not allowed here; allowed: a number of 0 or more, or a list"),
        ({"augmentation__auto_augment": "rund"}, "augmentation.auto_augment: 'rund' is not allowed here; allowed: a policy of timm, such as rand-m9-mstd0.5"),
        ({"distillation__temperature": 0}, "distillation.temperature: 0 is not allowed here; allowed: greater than 0"),
        ({"distillation": 1.5}, "distillation.weight: 1.5 is not allowed here; allowed: at most 1"),
        ({"distillation": -0.1}, "distillation.weight: -0.1 is not allowed here; allowed: at least 0"),
        ({"distillation": float("nan")}, "distillation.weight: nan is not allowed here; allowed: a finite number"),
        ({"distillation": {"teacher": "resnet18", "weights": "w.pth"}}, "distillation.weights: 'w.pth' is not allowed beside a teacher; allowed: the path of a .safetensors file"),
        ({"pipeline": PIPELINE, "distillation": 0.5}, "distillation: its teacher needs the images, which the last stage does not see"),
        ({"distillation": "resnet50"}, "train.yml: distillation: 'resnet50' is not allowed here; allowed: a section with keys"),
        ({"mixup": 0.2, "batch_size": 33}, "train.yml: batch_size: 33 is odd; allowed with mixup and cutmix: an even number"),
        ({"pipeline__stages": 2}, "pipeline.micro_batches: is missing"),
        ({"pipeline": {"stages": 1, "micro_batches": 4}}, "pipeline.stages: 1 is not allowed here; allowed: at least 2"),
        ({"pipeline": {"stages": 2, "micro_batches": 5}}, "train.yml: pipeline.micro_batches: 5 of batch_size 64; allowed: a divisor that leaves 2 images or more"),
        ({"pipeline": {"stages": 2, "micro_batches": 64}}, "pipeline.micro_batches: 64 of batch_size 64; allowed: a divisor"),
        ({"pipeline": {"stages": 4, "micro_batches": 2, "schedule": "1f1b"}}, "pipeline.schedule: '1f1b' needs 4 micro_batches for 4 stages, there are 2; allowed: gpipe, or more of them"),
        ({"pipeline": {"stages": 3, "micro_batches": 4, "cut_before": ["bn1"]}}, "pipeline.cut_before: 1 layers for 3 stages; allowed: 2, or none"),
        ({"pipeline": PIPELINE, "accumulate_grad_batches": 2}, "train.yml: accumulate_grad_batches: 2; allowed with pipeline, which takes the mean of all gradients that are there: 1, and more pipeline.micro_batches"),
        ({"pipeline": PIPELINE, "distillation": {"teacher": "resnet50"}}, "train.yml: distillation: its teacher needs the images, which the last stage does not see; allowed with pipeline: weight 0, or none said"),
        ({"pipeline": PIPELINE, "precision": "16-mixed"}, "train.yml: precision: '16-mixed' scales all gradients alike; allowed with pipeline: 32-true, bf16-mixed"),
        ({"seed.x": 1}, "seed: {'x': 1} is not allowed here; allowed: a whole number"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(given, said):
    assert said in said_of(**given)


def test_all_of_it_at_once():
    assert len(said_of(epoch=3, mixup=-1, augmentation__hflip=2).splitlines()) == 3


def test_recipes_are_valid_and_give_their_source():
    assert recipes() == [
        "cifar",
        "cifar-tree",
        "imagenet-cpu",
        "imagenet-gpu",
        "imagenet-mobile",
        "imagenet-mobile14",
        "small",
    ]
    for name in recipes():
        assert read_config(TrainConfig, find_recipe(name)).epochs >= 60
        assert "\n# Source: " in find_recipe(name).read_text()


def test_the_authors_dropout():
    """The README of their code gives one for each net; the rest is the same for all."""
    found = {}
    for net in ("mobile", "gpu", "cpu", "mobile14"):
        config = read_config(TrainConfig, find_recipe(f"imagenet-{net}"))
        found[net] = config.dropout
        assert (config.epochs, config.batch_size, config.learning_rate, config.weight_decay) == (300, 256, 0.05, 4e-5)
    assert found == {"mobile": 0.1, "gpu": 0.3, "cpu": 0.2, "mobile14": 0.3}


def test_a_recipe_is_found_by_its_name_and_a_wrong_one_is_not(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    said = refused("train", "architecture.json", "imagenet-mobil")
    assert "'imagenet-mobil' is neither a file nor a recipe; the recipes: cifar, cifar-tree, imagenet-cpu," in said
    assert "Did you mean 'imagenet-mobile'?" in said
    assert "none.yml: No such file or directory" in refused("train", "architecture.json", "none.yml")
    (tmp_path / "small").write_text("epochs: -1")  # a file of that name comes first
    assert "small: epochs: -1 is not allowed here" in refused("train", "architecture.json", "small")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train"], "train: which network? Give the path of an architecture.json"),
        (["train", "--resume", "nowhere"], "--resume nowhere: no checkpoint/training.ckpt there, so no training to go on with"),
        (["train", "a.json", "seed=1", "--resume", "x"], "--resume goes on with the training as it was; not allowed beside it: seed=1"),
        (["train", "a.json", "a.yml", "b.yml"], "command line: more than one configuration file: a.yml, b.yml"),
        (["train", "a.json", "--epochs", "-1"], "command line: epochs: -1 is not allowed here; allowed: at least 0"),
    ],
)  # fmt: skip
def test_wrong_words(words, said, refused):
    assert said in refused(*words)
