"""timm's own scripts, unmodified, on a derived net and a folder of images.

They are in timm's repository and not in its wheel: NNI_PROXYLESS_TIMM_SCRIPTS names a folder with its train.py and validate.py.
"""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

import nni_proxyless.timm_models  # noqa: F401  (registers the models)
from nni_proxyless.derive import load_weights

from .test_timm_models import leave

SCRIPTS = Path(os.environ.get("NNI_PROXYLESS_TIMM_SCRIPTS", ""))

pytestmark = pytest.mark.skipif(
    "NNI_PROXYLESS_TIMM_SCRIPTS" not in os.environ,
    reason="NNI_PROXYLESS_TIMM_SCRIPTS names no folder with timm's train.py and validate.py",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """``digits/train``, ``digits/validation``: 40 scans, 8x8, of each of the classes 0, 1 and 2; ``net/``: a derived net."""
    folder = tmp_path_factory.mktemp("timm")
    scans = load_digits()
    for label in range(3):
        for i, scan in enumerate(scans.images[scans.target == label][:40]):
            part = folder / "digits" / ("train" if i < 32 else "validation") / str(label)
            part.mkdir(parents=True, exist_ok=True)
            Image.fromarray((scan * 255 / 16).round().astype("uint8")).save(part / f"{i}.png")
    leave(folder / "net", num_classes=3)
    return folder


def words(folder: Path) -> list[str]:
    """What both scripts are told."""
    return [
        str(folder / "digits"), "--model", "proxyless_derived", "--model-kwargs", f"architecture={folder / 'net' / 'architecture.json'}",
        "--in-chans", "1", "--device", "cpu", "--workers", "0", "--batch-size", "16",
    ]  # fmt: skip


def test_train_py_trains_and_validate_py_agrees(folder, command):
    """Two epochs lower the loss, from the weights that the search left; validate.py finds the accuracy that train.py noted."""
    done = command(
        sys.executable, SCRIPTS / "train.py", *words(folder), "--device-modules", "nni_proxyless.timm_models", "--pretrained",
        "--epochs", "2", "--warmup-epochs", "0", "--no-aug", "--opt", "adamw", "--lr", "0.01",
        "--output", folder, "--experiment", "trained", timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = done.stdout + done.stderr
    assert f"Loading pretrained weights from file ({folder / 'net' / 'weights.safetensors'})" in log
    assert "mean: (0.3053,)" in log
    with (folder / "trained" / "summary.csv").open() as file:
        first, second = csv.DictReader(file)
    assert float(second["train_loss"]) < float(first["train_loss"])

    checkpoint = folder / "trained" / "last.pth.tar"
    done = command(
        sys.executable, "-m", "nni_proxyless.timm_script", SCRIPTS / "validate.py", *words(folder), "--checkpoint", checkpoint,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(re.search(r"--result\n(.*)", done.stdout, re.DOTALL)[1])
    assert result["top1"] == pytest.approx(float(second["eval_top1"]), abs=1e-3)

    architecture = str(folder / "net" / "architecture.json")
    model = timm.create_model("proxyless_derived", architecture=architecture, checkpoint_path=str(checkpoint))
    inherited = load_weights(folder / "net" / "weights.safetensors")["conv_stem.weight"]
    assert not torch.equal(model.conv_stem.weight, inherited)


def test_validate_py_alone_does_not_know_the_models(folder, command):
    """It has no option for modules; that is what timm_script is for."""
    done = command(sys.executable, SCRIPTS / "validate.py", *words(folder), "--pretrained", timeout=300)
    assert done.returncode == 1
    assert "Unknown model (proxyless_derived)" in done.stderr
