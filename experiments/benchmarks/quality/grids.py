"""The grids: which methods, targets and seeds are compared, and how long it may take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

FASHION_MNIST = "experiments.benchmarks.common.fashion:part_of_fashion_mnist"
INPUT_SHAPE = (1, 32, 32)
DIGITS = "digits"
CIFAR10: dict[str, Any] = {
    "dataset": "experiments.benchmarks.common.cifar10:part_of_cifar10",
    "input_shape": (3, 32, 32),
}
SPACE: dict[str, Any] = {
    "name": "mobilenetv2", "preset": "small", "stem_width": 16, "stem_stride": 2, "first_width": 8,
    "widths": [16, 32, 64], "depths": [3, 3, 2], "strides": [2, 2, 1], "feature_mix": 128,
    "kernels": [3, 5], "expansions": [1, 3, 6], "shared_weights": True,
}  # fmt: skip
# Of what random networks of equal cost differ in, stage entries and depth are open; the stem halves images, or a training took four times as long.
OPEN: dict[str, Any] = {"preset": "open", "stem_stride": 2}

PROXYLESS = ("two-path", "full", "reinforce")
UNTAUGHT = "untaught"
"""Two-path, from the weights of the model that the space is made around, but without it as a teacher."""
MOBILENETV2 = {"mobilenetv2-narrow": 0.7, "mobilenetv2": 1.0, "mobilenetv2-wide": 1.25}
"""MobileNetV2's block everywhere, at three widths: name -> width by that which has set the target."""
TIMM = ("mobilenetv3_small_100", "mnasnet_small", "efficientnet_lite0", "tinynet_e")
"""Small designs of timm, by timm's names."""
ORIGINAL = "original"
"""The model that a space is made around, at the width that sets the target."""
GROUPS = {"best-mobilenetv2": tuple(MOBILENETV2), "best-timm": TIMM}
"""Several hand-made networks, of which a user keeps the best on held-out images."""

CORE = ("two-path", "dsnas", "random", "mobilenetv2")
OPEN_CORE = ("two-path", "dsnas", "random", *MOBILENETV2, *TIMM)
EVERY = (
    "two-path", "full", "reinforce", "dsnas", "nni-darts", "nni-gumbel-darts", "nni-proxyless", "nni-random", "random", "mobilenetv2",
)  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """What is compared, and how long it may take.

    Attributes
    ----------
    space, data
        Sections of ``search.yml``.
    widths
        Of MobileNetV2, or of the model that the space is made around; each sets a target: what that takes.
    n_drawn
        Random networks that are trained for every seed. How many of them count, the compute of a search says: :mod:`.compare`.
    n_judged
        Networks that are judged with the weights of a supernet.
    select
        How a search ends; with probabilities a network is derived afterwards, where a supernet is left that can judge.
    search_epochs, warmup_epochs, final_epochs
        Of a search in all, of its weights alone, of the final training. A search costs about one final training, as in the papers.
    search_batch_size, batch_size
        Of a search and of the final training. Smaller in a search: what it lacks is steps.
    search_learning_rate
        For such batches; 0.1 in the final training.
    space
        Its candidates share their weights, so every step trains all of them.
    images
        That train, of all of the data set: 60,000 of Fashion-MNIST, 50,000 of CIFAR-10.
    n_more_test
        Of those that are left, so many judge with the 10,000 test images: on these alone networks of this grid differ by 0.2 points
        more than they do.
    dataset, input_shape
        Where images come from, and the shape of one.
    runtime
        What times networks and the rows of their table.
    original_epochs
        Of the model that the space is made around, once, before a search starts from its weights and learns from it; so does what is trained
        beside it. 0: everything is trained from scratch, and learns from nothing.
    others_epochs
        Of the final training of networks that were not searched, for as much compute as a search and its training take; None: as many.
    """

    methods: tuple[str, ...]
    widths: tuple[float, ...]
    seeds: tuple[int, ...]
    n_drawn: int = 2
    n_judged: int = 32
    select: Literal["probabilities", "supernet"] = "probabilities"
    search_epochs: int = 12
    warmup_epochs: int = 4
    final_epochs: int = 18
    images: int = 10_000
    n_more_test: int = 0
    dataset: str = FASHION_MNIST
    input_shape: tuple[int, int, int] = INPUT_SHAPE
    runtime: str = "torch"
    batch_size: int = 64
    search_batch_size: int = 32
    search_learning_rate: float = 0.07
    learning_rate: float = 0.1
    original_epochs: int = 0
    others_epochs: int | None = None
    space: dict[str, Any] = field(default_factory=lambda: dict(SPACE))

    @property
    def data(self) -> dict[str, Any]:
        if self.dataset == DIGITS:
            return {"name": self.dataset, "image_size": self.input_shape[1]}
        if self.dataset == "synthetic":  # noise, where a grid only has to run
            return {
                "name": self.dataset,
                "n_images": self.images,
                "channels": self.input_shape[0],
                "image_size": self.input_shape[1],
            }
        return {"name": self.dataset, "n_train": self.images, "n_more_test": self.n_more_test}

    def cells(self) -> Iterator[tuple[str, float, int]]:
        """Method, width and seed; stopped early, whole seeds are there."""
        for seed in self.seeds:
            for width in self.widths:
                for method in self.methods:
                    yield method, width, seed


GRIDS = {
    "short": Grid(
        OPEN_CORE, (0.5,), (0,), n_judged=4, select="supernet", search_epochs=3, warmup_epochs=1, final_epochs=1, images=160,
        runtime="onnxruntime", space={"name": "mobilenetv2", **OPEN, "shared_weights": True}, dataset="synthetic", input_shape=(3, 32, 32),
    ),
    # Settings were chosen by trials with seed 0, the number of test images and of seeds by what seeds 1 to 5 had shown.
    "core": Grid(CORE, (0.5,), tuple(range(6, 14)), n_more_test=50_000),
    # Seeds that no setting was chosen on; networks that can differ, see ../gate. Nearly all of a search is warm-up: what selects is the supernet,
    # not the probabilities (../nas_bench_macro). It is short beside a training, since random networks have as much compute.
    "core-cifar10": Grid(
        OPEN_CORE, (0.5,), tuple(range(20, 32)), n_drawn=4, n_judged=128, search_epochs=8, warmup_epochs=6, final_epochs=10, n_more_test=40_000,
        runtime="onnxruntime", select="supernet", space={"name": "mobilenetv2", **OPEN, "shared_weights": True}, **CIFAR10,
    ),
    # Seeds that no setting was chosen on, and settings of the grid before. The target is what the model itself takes.
    "around-mobilenetv3": Grid(
        ("two-path", "random", ORIGINAL), (1.0,), tuple(range(40, 50)), n_judged=128, search_epochs=8, warmup_epochs=6, final_epochs=10,
        n_more_test=40_000, runtime="onnxruntime", select="supernet",
        space={"name": "timm", "model": "mobilenetv3_small_050", "stem_stride": 1, "shared_weights": True}, **CIFAR10,
    ),
    # Settings were chosen by trials with seed 0. The model is trained to the end, or a student that trains on overtakes its teacher. From its
    # weights, at what it takes at 0.7 of its width. What was not searched trains for the compute of a search; random networks begin with
    # weights that are cut out of the model's, as those of a search do.
    "from-mobilenetv3": Grid(
        ("two-path", UNTAUGHT, "random", ORIGINAL), (0.7,), tuple(range(60, 65)), n_drawn=1, n_judged=128, search_epochs=8, warmup_epochs=6,
        final_epochs=10, original_epochs=60, others_epochs=24, search_learning_rate=0.03, learning_rate=0.05, n_more_test=40_000, runtime="onnxruntime", select="supernet",
        space={"name": "timm", "model": "mobilenetv3_small_050", "stem_stride": 1, "shared_weights": True}, **CIFAR10,
    ),
    "full": Grid(EVERY, (0.5, 0.75, 1.0), (0, 1, 2, 3, 4), search_epochs=60, warmup_epochs=15, final_epochs=60, images=60_000),
}  # fmt: skip
