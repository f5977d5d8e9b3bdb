"""A search knows its images again, and stops where they are others; a look at them changes nothing."""

from __future__ import annotations

import dataclasses
import json
import random

import numpy as np
import pytest
import timm
import torch
from torch.utils.data import TensorDataset

from nni_proxyless import data
from nni_proxyless.cli.main import main
from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.config.train_config import TrainConfig
from nni_proxyless.core.errors import UserError
from nni_proxyless.data.fingerprint import FINGERPRINT, fingerprint, image_differences, record_or_compare, require_same
from nni_proxyless.search.run import run_search
from nni_proxyless.training.loop import train

from ..training.test_training import small

SEARCH = """
data: {name: "tests.data.test_data_fingerprint:some", batch_size: 6}
space: {preset: small, widths: [8], depths: [1], strides: [2], stem_width: 8, feature_mix: 8}
strategy: {warmup_epochs: 0, arc_update_every: 1}
latency: {estimator: {name: macs}}
training: {epochs: 3}
search: {select: probabilities}
trainer: {accelerator: cpu, threads: 1}
"""
SETTINGS = [("test", "epochs", 2), ("test", "batch_size", 32), ("test", "threads", 1), ("test", "device", "cpu")]
given: dict[str, int] = {}  # what the function below has at this moment


def some() -> data.ImageData:
    """Two classes of noise; which images there are is not said in the configuration."""
    n, seed, shift = given.get("n", 120), given.get("seed", 0), given.get("shift", 0)
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.arange(n) + shift) % 2
    images = TensorDataset(torch.randn(n, 1, 8, 8, generator=generator) + targets[:, None, None, None], targets)
    return data.ImageData(images, images, images, targets.tolist(), 2, (1, 8, 8), statistics=((0.25,), (2.0,)))


@pytest.fixture(autouse=True)
def _nothing_given():
    given.clear()
    yield
    given.clear()


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"n": 140}, ["images: 120 then, 140 now"]),
        ({"shift": 1}, ["labels: other ones, or in another order"]),
        ({"seed": 1}, ["pixels: of 32 images that were looked at, 32 are others, or in another order"]),
        ({}, []),
    ],
)
def test_what_differs_is_said(now, said):
    there = json.loads(json.dumps(fingerprint(some())))
    given.update(now)
    assert image_differences(there, fingerprint(some())) == said


class Reading(torch.utils.data.Dataset):
    """Images of two classes in turns, read by a function of their index."""

    def __init__(self, read, n=120):
        self.read, self.n = read, n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        return torch.as_tensor(self.read(index), dtype=torch.float32), index % 2


def test_a_look_draws_no_random_number_and_leaves_augmented_images_alone():
    refusing = Reading(lambda index: 1 / 0)
    drawing = Reading(lambda index: torch.rand(1, 8, 8) + random.random() + np.random.rand())
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    found = [fingerprint(dataclasses.replace(some(), train=refusing, train_plain=drawing)) for _ in range(2)]
    assert found[0] == found[1]
    assert (states[0], states[1]) == (random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(states[2], torch.get_rng_state())


def test_images_that_are_never_the_same_are_known_by_their_labels():
    chance = np.random.default_rng(0)
    others = dataclasses.replace(some(), train_plain=Reading(lambda index: chance.random((1, 8, 8))))
    there = fingerprint(others)
    assert there["pixels"] is None
    assert image_differences(there, fingerprint(others)) == []


def test_few_images_are_read_of_many():
    read, n = [], 1_000_000
    many = Reading(lambda index: read.append(index) or torch.zeros(1, 8, 8), n)
    fingerprint(dataclasses.replace(some(), train_plain=many, targets=(np.arange(n) % 2).tolist()))
    assert len(read) == 34
    assert max(read) > 900_000


def test_an_image_of_another_shape_is_named():
    images = [(torch.zeros(1, 8, 8), i % 2) for i in range(119)] + [(torch.zeros(1, 9, 8), 1)]
    with pytest.raises(
        UserError, match=r"image 3 of train_plain has shape \(1, 9, 8\); allowed with shape \(1, 8, 8\)"
    ):
        fingerprint(dataclasses.replace(some(), train_plain=[*images[:3], images[-1]]))


def stop_after(n: int):
    """What is reported to; the n-th report never comes back."""
    told = []

    def report(metrics: dict[str, float]) -> None:
        told.append(metrics)
        if len(told) == n:
            raise InterruptedError

    return report


def test_a_search_goes_on_and_is_derived_from_with_its_own_images_only(tmp_path, refused, caplog):
    (tmp_path / "search.yml").write_text(SEARCH)
    run = tmp_path / "run"
    with pytest.raises(InterruptedError):
        run_search(read_config(SearchConfig, tmp_path / "search.yml"), run, report=stop_after(2))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    assert run / "checkpoint" in {path.parent for path in before}
    given["n"] = 140
    said = refused("search", "--resume", run)
    assert f"data: these are not the images of the search in {run}: images: 120 then, 140 now. They would be" in said
    assert all(path.read_bytes() == content for path, content in before.items())

    given.clear()
    assert main(["search", "--resume", str(run)]) == 0

    derive = ["derive", str(run), "--budget-ms", "100", "--output", str(tmp_path / "other")]
    given["seed"] = 1
    for more in ([], ["--judge", "2"]):
        assert "32 are others, or in another order. They would be divided anew" in refused(*derive, *more)
    (run / FINGERPRINT).write_text('{"format": "nni-pro')
    assert f"{run / FINGERPRINT}: no readable fingerprint of the images: " in refused(*derive)
    (run / FINGERPRINT).unlink()  # of an older version
    assert main(derive) == 0
    for folder in (run, tmp_path / "other"):
        network = timm.create_model("proxyless_derived", architecture=str(folder / "architecture.json"))
        assert (network.pretrained_cfg["mean"], network.pretrained_cfg["std"]) == ((0.25,), (2.0,))
    assert "its normalization is unknown" not in caplog.text, "the data set gives it"


def test_a_search_that_begins_takes_any_images(tmp_path, caplog):
    record_or_compare(tmp_path, some(), goes_on=False)
    given["n"] = 140
    record_or_compare(tmp_path, some(), goes_on=False)
    assert json.loads((tmp_path / FINGERPRINT).read_text())["n_images"] == 140
    (tmp_path / FINGERPRINT).unlink()
    record_or_compare(tmp_path, some(), goes_on=True)  # begun by an older version
    assert "nobody can tell" in caplog.text
    require_same(tmp_path, some())


def test_a_training_goes_on_with_its_own_images_only(tmp_path, refused):
    path = small(tmp_path, num_classes=2)
    content = json.loads(path.read_text())
    content["data"] = {"name": "tests.data.test_data_fingerprint:some", "arguments": {}}
    path.write_text(json.dumps(content))
    final = tmp_path / "final"
    with pytest.raises(InterruptedError):
        train(read_config(TrainConfig, None, SETTINGS), path, final, report=stop_after(1))
    given["seed"] = 1
    said = refused("train", "--resume", final)
    assert f"data: these are not the images of the training in {final} (train_plain): pixels: of 32 images" in said
