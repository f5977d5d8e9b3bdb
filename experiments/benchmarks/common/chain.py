"""A searched chain of timm's blocks, the plain training step that everything is a ratio to, and searches in real fits."""

from __future__ import annotations

import argparse
import functools
import random
from collections.abc import Callable, Sequence
from typing import Any

import nni.nas.strategy  # noqa: F401  (first: else NNI's circular imports leave nni.nas.strategy with broken strategies)
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from timm.layers import BatchNormAct2d
from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, nn

UPDATE_EVERY = 5
EPOCHS = 4  # DSNAS wants one for its child; fits end in their first batch all the same
CLASSES = 100
STEM, WIDTHS = 16, (24, 40, 80)
SGD = {"lr": 1e-3, "momentum": 0.9, "nesterov": True, "weight_decay": 4e-5}
FORMATS = {"channels-last": torch.channels_last, "contiguous": torch.contiguous_format}

# (kernel, expansion) per candidate. Every set has the mean expansion 4 and a mean expansion * kernel^2 of about 100, so
# that a sampled path costs about the same whatever the number of candidates; 7 is the paper's set, with its skip.
CANDIDATES: dict[int, list[tuple[int, int] | None]] = {
    2: [(5, 3), (5, 5)],
    4: [(5, 3), (7, 3), (3, 5), (5, 5)],
    7: [*((kernel, expansion) for kernel in (3, 5, 7) for expansion in (3, 6)), None],
    12: [(kernel, expansion) for kernel in (3, 5, 7) for expansion in (2, 3, 5, 6)],
}

Path = dict[str, Any]  # label -> choice; of a layer the name of its candidate


class Chain(ModelSpace):
    """Inverted residuals in three widths; of each width the first block, which halves the image, is fixed."""

    def __init__(self, layers: int, n_candidates: int):
        super().__init__()
        block = functools.partial(InvertedResidual, act_layer=nn.ReLU6)
        chain: list[nn.Module] = [nn.Conv2d(3, STEM, 3, 2, 1, bias=False), BatchNormAct2d(STEM, act_layer=nn.ReLU6)]
        before = STEM
        for stage, width in enumerate(WIDTHS):
            chain.append(block(before, width, stride=2, exp_ratio=3))
            before = width
            for layer in range(len(range(stage, layers, len(WIDTHS)))):
                candidates: dict[str, nn.Module] = {}
                for shape in CANDIDATES[n_candidates]:
                    if shape is None:
                        candidates["skip"] = nn.Identity()
                    else:
                        kernel, expansion = shape
                        candidates[f"k{kernel}e{expansion}"] = block(
                            width, width, dw_kernel_size=kernel, exp_ratio=expansion
                        )
                chain.append(LayerChoice(candidates, label=f"stage{stage}.{layer}"))
        self.chain = nn.Sequential(*chain, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.chain(x)


def plain_chain(space: Any, path: Path) -> nn.Module:
    """One network of a chain, of the very modules that a search runs, and nothing of a search around them."""
    return nn.Sequential(*(m[path[m.label]] if isinstance(m, LayerChoice) else m for m in space.chain))


class Task(LightningModule):
    """Cross entropy and SGD; its first batch is given to :attr:`inside`, and is the last one of its fit."""

    inside: Callable[[], None]

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), **SGD)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int:
        self.inside()
        self.trainer.should_stop = True  # no second epoch
        return -1  # Lightning's sign to skip the rest of the epoch


class Search:
    """A supernet with its Lightning module and trainer, as NNI puts them together.

    Parameters
    ----------
    plain
        Gives the network of a path for a plain training step, from the space and the path.
    sizes
        What is recorded of it: at least ``pixels`` and ``batch``.
    options
        ``seed``, ``device``, ``precision``.

    Attributes
    ----------
    first_steps
        Of a plain network, before it is used: where it has weights of its own and layers of new sizes, the first takes longer.
    """

    first_steps = 0

    def __init__(
        self,
        strategy: Any,
        space: ModelSpace,
        plain: Callable[[Any, Path], nn.Module],
        sizes: dict[str, int],
        memory: str,
        options: argparse.Namespace,
        *,
        classes: int = CLASSES,
    ):
        torch.manual_seed(options.seed)
        self.sizes, self.memory, self._plain = sizes, memory, plain
        self.device, self.precision = torch.device(options.device), options.precision
        self.space: Any = strategy.mutate_model(space).to(memory_format=FORMATS[memory])
        images, pixels = sizes["batch"], sizes["pixels"]
        self.batch, self.held_out = (
            (
                torch.randn(images, 3, pixels, pixels, device=self.device).contiguous(memory_format=FORMATS[memory]),
                torch.randint(classes, (images,), device=self.device),
            )
            for _ in range(2)
        )
        trainer = Trainer(
            max_epochs=EPOCHS, accelerator="gpu" if self.device.type == "cuda" else "cpu", devices=1, precision=self.precision,
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        # Ready-made batches: what loading costs is not the question.
        train, held_out = (DataLoader([b] * 2 * UPDATE_EVERY, batch_size=None) for b in (self.batch, self.held_out))
        self.task = Task()
        self.evaluator = strategy.mutate_evaluator(
            Lightning(self.task, trainer, train_dataloaders=train, val_dataloaders=held_out)
        )
        self.module: Any = self.evaluator.module
        self.layers = [m for m in self.space.modules() if isinstance(m, LayerChoice)]

    def plain(self, path: Path) -> nn.Module:
        return self._plain(self.space, path).to(self.device, memory_format=FORMATS[self.memory])

    def any_path(self) -> Path:
        """A path for steps that run all candidates."""
        return {layer.label: random.choice(layer.names) for layer in self.layers}

    def autocast(self) -> Any:
        """What Lightning puts around a training step."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed")

    def prepare(self) -> None:
        """Inside its fit, give every weight its momentum: else a candidate's first step would cost more than the others."""
        for optimizer in self.module.trainer.optimizers:
            if isinstance(optimizer, torch.optim.SGD):
                give_momentum(optimizer)


def give_momentum(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            optimizer.state[p] = {"momentum_buffer": torch.zeros_like(p)}


class Floor:
    """A plain training step of one network."""

    def __init__(self, search: Search, path: Path):
        self.network, self.batch, self.autocast = search.plain(path), search.batch, search.autocast
        self.optimizer = torch.optim.SGD(self.network.parameters(), **SGD)
        give_momentum(self.optimizer)
        for _ in range(search.first_steps):
            self.step()

    def step(self) -> None:
        x, y = self.batch
        self.optimizer.zero_grad()
        with self.autocast():
            loss = nn.functional.cross_entropy(self.network(x), y)
        loss.backward()
        self.optimizer.step()


def attached(searches: Sequence[Search], measure: Callable[[], None]) -> None:
    """Call ``measure`` inside fits of all the searches, each nested in the first batch of the one before it."""
    if not searches:
        measure()
        return
    searches[0].task.inside = lambda: attached(searches[1:], measure)
    searches[0].evaluator.evaluate(searches[0].space)
