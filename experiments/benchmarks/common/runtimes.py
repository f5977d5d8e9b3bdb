"""The runtimes and spaces that questions of latency are asked of, and how a part of one is made in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nni.nas.nn.pytorch import ModelSpace
from nni_proxyless.search_spaces import MobileNetV2Space

from nni_proxyless.latency import DeviceEstimator

PROGRAM = Path(__file__).resolve().parent / "time_onnx_file.py"


@dataclass(frozen=True)
class Target:
    """What networks are timed on: a runtime with its precision, batch and options; one thread."""

    runtime: str
    precision: str = "float32"
    batch: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)

    def estimator(self, *, repeats: int, warmup: int) -> DeviceEstimator:
        """What times on it.

        Raises
        ------
        ValueError
            The runtime is not installed here, or has no such precision.
        """
        return DeviceEstimator(
            runtime=self.runtime, precision=self.precision, batch=self.batch, options=dict(self.options), threads=1,
            repeats=repeats, warmup=warmup,
        )  # fmt: skip


TARGETS: dict[str, Target] = {
    "torch": Target("torch"),
    "torch-compile": Target("torch-compile"),
    "onnxruntime": Target("onnxruntime"),
    "openvino": Target("openvino"),
    "ncnn": Target("ncnn"),
    "mnn": Target("mnn"),
    "onnxruntime-batch-32": Target("onnxruntime", batch=32),
    "onnxruntime-int8": Target("onnxruntime", precision="int8"),
    "command": Target(
        "command", options={"command": [sys.executable, str(PROGRAM), "{file}"], "target": "ONNX Runtime of another process"}
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Space:
    """A space and the shape of one image."""

    arguments: Mapping[str, Any]
    shape: tuple[int, int, int]

    def make(self) -> ModelSpace:
        return MobileNetV2Space(**self.arguments)


TINY = {
    "stem_width": 8, "stem_stride": 2, "first_width": 8, "widths": (8, 16), "depths": (2, 1), "strides": (1, 2),
    "feature_mix": 16, "kernels": (3, 5),
}  # fmt: skip
SPACES: dict[str, Space] = {
    "small": Space({"preset": "small"}, (3, 32, 32)),
    "small-16": Space({"preset": "small"}, (3, 16, 16)),
    "imagenet": Space({"preset": "imagenet"}, (3, 224, 224)),
    "tiny": Space({"preset": "small", **TINY}, (3, 16, 16)),
}
"""The last one is for short forms: 96 networks."""


def chosen(pairs: Sequence[str] | None, spaces: Sequence[str], targets: Sequence[str]) -> list[tuple[str, str]]:
    """Which of all (space, target) are asked for: ``small:ncnn,mnn``, ``small`` for all of its targets; None for everything.

    Raises
    ------
    ValueError
        An unknown name.
    """
    if pairs is None:
        return [(space, target) for space in spaces for target in targets]
    found = []
    for pair in pairs:
        space, _, names = pair.partition(":")
        wanted = names.split(",") if names else list(targets)
        if space not in SPACES:
            raise ValueError(f"{pair}: no space is called {space!r}; allowed: {', '.join(SPACES)}")
        if unknown := [name for name in wanted if name not in TARGETS]:
            raise ValueError(f"{pair}: no target is called {unknown[0]!r}; allowed: {', '.join(TARGETS)}")
        found += [(space, name) for name in wanted]
    return list(dict.fromkeys(found))


def in_this_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns or raises. For short forms: a fresh process takes seconds to begin."""
    return function(*arguments)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The same of a function of a module, in a fresh process: memory and caches are as in one command."""
    with multiprocessing.get_context("spawn").Pool(1) as pool, contextlib.redirect_stdout(sys.stderr):
        return pool.apply(function, arguments)
