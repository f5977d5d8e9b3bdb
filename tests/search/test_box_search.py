"""A search for boxes in a folder of pictures, as the pages say it: from COCO's annotations to boxes out of an exported file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from nni_proxyless.cli.main import main
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.models.build import build_network
from nni_proxyless.models.timm_model import load_weights

SIDE = 32


def draw(root: Path, part: str, n: int) -> None:
    """Red and blue rectangles on noise, one or two of a picture."""
    generator = np.random.default_rng(len(part))
    (root / part).mkdir(parents=True)
    images, annotations = [], []
    for i in range(n):
        pixels = generator.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        for number in range(1 + i % 2):
            kind, (width, height) = (i + number) % 2, generator.integers(8, 15, 2).tolist()
            x, y = 16 * number + int(generator.integers(0, 17 - width)), int(generator.integers(0, SIDE - height))
            pixels[y : y + height, x : x + width, 2 * kind] = 230
            annotations.append({"image_id": i, "category_id": 5 + kind, "bbox": [x, y, width, height]})
        Image.fromarray(pixels).save(root / part / f"{i:02}.png")
        images.append({"id": i, "file_name": f"{i:02}.png", "width": SIDE, "height": SIDE})
    categories = [{"id": 5, "name": "red"}, {"id": 6, "name": "blue"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / f"{part}.json").write_text(json.dumps(content))


def test_the_pages_lead_from_pictures_to_boxes(pytestconfig, tmp_path, monkeypatch, capsys):
    data, tasks = ((pytestconfig.rootpath / "docs" / "how-to" / f"{name}.md").read_text(encoding="utf-8") for name in ("your_data", "tasks"))  # fmt: skip
    settings = re.search(r"```yaml\n# boxes.yml\n(.*?)```", data, re.DOTALL)
    reading = re.search(r"```python\n(import json\n.*?task\.boxes.*?)```", tasks, re.DOTALL)
    assert settings
    assert reading
    draw(tmp_path / "toys", "train", 40)
    draw(tmp_path / "toys", "val", 9)
    monkeypatch.chdir(tmp_path)
    Path("boxes.yml").write_text(settings[1])
    threads = torch.get_num_threads()
    assert main(["search", "boxes.yml", "output=run", "search.judged=4"]) == 0
    assert main(["train", "run/architecture.json", "augmentation={hflip: 0.0}"]) == 2
    said = capsys.readouterr().err
    assert (
        "augmentation: the data set 'boxes' has boxes, which timm's transforms would leave as they are; leave" in said
    )
    assert main(["train", "run/architecture.json", "epochs=2", "batch_size=8"]) == 0
    result = json.loads(Path("run/final/result.json").read_text())
    assert 0 <= result["map"] <= 1
    assert main(["export", "run/architecture.json", "--formats", "onnx", "int8", "--repeats", "2"]) == 0
    torch.set_num_threads(threads)
    exported = json.loads(Path("run/export.json").read_text())
    assert exported["map"]["torch"] == pytest.approx(result["map"], rel=1e-4)
    assert "int8" in exported["map"]

    architecture = Architecture.read(Path("run/architecture.json"))
    network = build_network(architecture, load_weights(Path("run/final/weights.safetensors"))).eval()
    images = torch.randn(1, 3, SIDE, SIDE)
    session = onnxruntime.InferenceSession("run/model.onnx")
    (outputs,) = session.run(None, {"input": images.numpy()})
    assert np.abs(outputs - network(images).detach().numpy()).max() < 1e-4 * max(1, np.abs(outputs).max())

    known: dict[str, Any] = {"images": images.numpy()}
    text = reading[1].replace("(3, 64, 64)", f"(3, {SIDE}, {SIDE})").replace("    ...  #", "    found = boxes  #")
    exec(compile(text, "tasks.md", "exec"), known)
    assert known["outputs"].shape == (1, 340, 7)
    assert known["found"].shape[1] == 4
    assert len(known["found"]) == len(known["scores"]) == len(known["classes"]) > 0
    assert float(known["found"].min()) >= 0
    assert float(known["found"].max()) <= SIDE
