"""The final training of networks of trees: drops by batch, cutout, and a decay of every weight."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from nni_proxyless.cli.main import main
from nni_proxyless.config.read import read_config
from nni_proxyless.config.recipes import find_recipe
from nni_proxyless.config.train_config import TrainConfig
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.training.augmentation import Cutout
from nni_proxyless.training.networks import student
from nni_proxyless.training.optimizer import Optimization

from ..models.test_tree_networks import leave
from .test_training import QUICK, result, run, small


def config_of(**given: Any) -> TrainConfig:
    return TrainConfig(weights="scratch", **given)


def test_the_recipe_is_that_of_the_authors():
    config = read_config(TrainConfig, find_recipe("cifar-tree"))
    known = {
        "epochs": 300, "batch_size": 64, "optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1, "scheduler": "cosine",
        "min_learning_rate": 0.0, "warmup_epochs": 0, "weight_decay": 1e-4, "weight_decay_of": "all", "label_smoothing": 0.0, "cutout": 16,
        "ema_decay": 0.0, "path_drop": 0.0, "cell_drop": 0.0, "mixup": 0.0, "cutmix": 0.0, "dropout": 0.0,
    }  # fmt: skip
    assert {key: getattr(config, key) for key in known} == known


def test_drops_of_the_file_are_those_of_the_network(tmp_path):
    """Block l of T has 2 l rate / (T + 1)."""
    path = leave(tmp_path)
    network: Any = student(config_of(path_drop=0.1, cell_drop=0.3, dropout=0.2), path, Architecture.read(path))
    blocks = [block for stage in network.blocks for block in stage]
    assert [block.cell_drop_rate for block in blocks] == pytest.approx([0.2, 0.4])
    assert [block.trees[1].branches[0].path_drop_rate for block in blocks] == pytest.approx([0.2 / 3, 0.4 / 3])
    assert network.drop_rate == 0.2


def test_a_training_with_drops_and_cutout_goes_to_its_end(tmp_path):
    path = leave(tmp_path)
    words = [
        "epochs=1",
        "path_drop=0.1",
        "cell_drop=0.2",
        "cutout=6",
        "device=cpu",
        "weight_decay_of=all",
        "weights=scratch",
    ]
    run(path, "out", *words)
    assert result(tmp_path / "out")["accuracy"] > 0
    assert main(["train", str(path), "weights=out/weights.safetensors", "device=cpu", "--epochs", "0"]) == 0


def test_drops_of_another_kind_of_network_are_refused(tmp_path, refused):
    trees, blocks = leave(tmp_path / "trees"), small(tmp_path / "blocks")
    cases = [
        (trees, "drop_path=0.1", "drop_path: the network of space 'pyramid-tree' knows nothing of it; allowed: 0; it has path_drop, cell_drop"),
        (blocks, "path_drop=0.1", "path_drop: the network of space 'mobilenetv2' knows nothing of it; allowed: 0; it has drop_path"),
        (blocks, "cell_drop=0.1", "cell_drop: the network of space 'mobilenetv2' knows nothing of it; allowed: 0; it has drop_path"),
        (trees, "cell_drop=0.9", "cell_drop_rate is 0.9; allowed with 2 blocks: 0 up to, but not, 0.75"),
    ]  # fmt: skip
    for path, word, said in cases:
        assert said in refused("train", path, *QUICK, word)


@pytest.mark.parametrize(("which", "decays"), [("all", {"convolution", "norm"}), ("weights", {"convolution"})])
def test_what_decays(which, decays, tmp_path):
    """Of gradients of 0, a first step of Nesterov's SGD leaves 1 - lr · decay · (1 + momentum) of what decays, and all of the rest."""
    path = leave(tmp_path)
    network: Any = student(config_of(), path, Architecture.read(path))
    config = config_of(
        weight_decay=0.5, weight_decay_of=which, momentum=0.9, learning_rate=0.1, warmup_epochs=0, ema_decay=0.0
    )
    optimization = Optimization(network, config, 10, torch.device("cpu"))
    parts = {"convolution": network.conv_stem.weight, "norm": network.bn1.weight}
    before = {name: parameter.detach().clone() for name, parameter in parts.items()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimization.step()
    for name, parameter in parts.items():
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.1 * 0.5 * 1.9 if name in decays else 1.0))


def test_cutout_is_a_square_around_any_pixel():
    """16 by 16 zeros, as many as are inside of the image; each pixel is a center as often as any other, and the data set keeps its images."""
    n, side = 2000, 16
    kept = torch.ones(2, 2, 32, 32)
    images = Cutout(TensorDataset(kept, torch.tensor([3, 5])), side)
    assert len(images) == 2
    torch.manual_seed(0)
    rows: Counter[tuple[int, int]] = Counter()
    for _ in range(n):
        image, target = images[1]
        assert target == 5
        empty = image == 0
        assert torch.equal(empty[0], empty[1])
        down, across = empty[0].any(1).nonzero().flatten(), empty[0].any(0).nonzero().flatten()
        assert int(empty[0].sum()) == len(down) * len(across), "one rectangle"
        assert max(len(down), len(across)) <= side
        rows[int(down[0]), len(down)] += 1
    assert bool(kept.all())
    # Rows of centers 0 to 8 begin at 0, with 8 to 16 rows; others inside; of 25 to 31 less than 16 are left.
    assert {length for first, length in rows if first == 0} == set(range(8, 17))
    assert {length for first, length in rows if first > 16} == set(range(9, 16))
    expected = n / 32
    assert all(abs(count - expected) < 5.5 * expected**0.5 for count in rows.values())  # 32 rows by 4e-8 each
    assert len(rows) == 32
