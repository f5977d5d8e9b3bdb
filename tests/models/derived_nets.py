"""Derived nets for tests, as a search on the digits leaves them, and what they compute."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import torch
from nni_proxyless.search_spaces import MobileNetV2Space
from torch import Tensor, nn

from nni_proxyless import data
from nni_proxyless.core.atomic_files import write_weights
from nni_proxyless.derive import Architecture, load_weights, to_timm

TINY = {"widths": (8, 16), "depths": (2, 2), "strides": (2, 2), "stem_width": 8, "feature_mix": 32}
DIGITS = {"name": "digits", "arguments": {"image_size": 16}}


def leave(folder: Path, choose: Callable[[list[str]], str], *, seed: int = 0, epochs: int = 0, **layout) -> Path:
    """What a search on the digits leaves: a net with statistics of batch norm from the digits, perhaps trained a little."""
    torch.manual_seed(seed)
    space = MobileNetV2Space("small", num_classes=10, in_channels=1, **layout)
    choices = {label: choose(choice.values) for label, choice in space.simplify().items()}
    network = space.freeze(choices)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    batches = data.loader(data.digits().train_plain, 64, seed=seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, max(1, epochs * len(batches)))
    for images, targets in [batch for _ in range(epochs) for batch in batches] or batches:
        loss = nn.functional.cross_entropy(network(images), targets)
        if epochs:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    Architecture(
        space={"name": "mobilenetv2", "arguments": {"preset": "small", "num_classes": 10, "in_channels": 1, **layout}},
        choices=choices, input_shape=(1, 16, 16), network=space.timm_definition(choices), data=DIGITS,
    ).write(folder / "architecture.json")  # fmt: skip
    write_weights(folder / "weights.safetensors", network.state_dict())
    return folder / "architecture.json"


def skips(values: list[str]) -> str:
    return "skip" if "skip" in values else "k5e3"


def three_nets(folder: Path) -> dict[str, Path]:
    """With as many skips as can be, the largest, and one of all sorts; each in a folder of its name."""
    sorts = {"skips": skips, "largest": lambda values: "k7e6", "mixed": random.Random(1).choice}
    return {name: leave(folder / name, choose, seed=i) for i, (name, choose) in enumerate(sorts.items())}


def digits(n: int, side: tuple[int, int] = (16, 16)) -> Tensor:
    """The first n test images."""
    test = data.digits().test
    images = torch.stack([test[i][0] for i in range(n)])
    return nn.functional.interpolate(images, size=side) if side != (16, 16) else images


@torch.no_grad()
def logits(path: Path, images: Tensor, weights: str = "weights.safetensors") -> Tensor:
    return to_timm(Architecture.read(path), load_weights(path.parent / weights)).eval()(images)


def onnx_logits(path: Path, images: Tensor, batch: int = 1) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.cat([torch.from_numpy(session.run(None, {"input": part.numpy()})[0]) for part in images.split(batch)])


def difference(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())
