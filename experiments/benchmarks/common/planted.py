"""Chains in which one candidate of each choice is planted: labels are what the network of the planted ones says."""

from __future__ import annotations

import copy
import logging
import math
from typing import Any, NamedTuple

import torch
from nni.nas.evaluator.pytorch import LightningModule, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

SPACE_EPS = 1e-3
# Small enough for hundreds of searches.
CHANNELS, PIXELS, LAYERS, CANDIDATES, CLASSES = 6, 6, 4, 4, 10
SHARPNESS = 3.0  # standard deviation of the logits of the network of the planted candidates


class Way(NamedTuple):
    """One way to reward: which reward, the eps of all batch norms, and where the gate stands."""

    name: str
    reward: str
    eps: float
    on_branch: bool = False


class Branch(nn.Module):
    """Convolution, batch norm, ReLU; with its input added, if it is a residual block."""

    def __init__(self, eps: float, *, residual: bool):
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(CHANNELS, eps=eps)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        return x + y if self.residual else y


class Chosen(nn.Module):
    """A choice among branches; its input is added behind the gate, so that the gate measures the branch alone."""

    def __init__(self, choice: LayerChoice, *, add_input: bool):
        super().__init__()
        self.choice, self.add_input = choice, add_input

    def forward(self, x: Tensor) -> Tensor:
        y = self.choice(x)
        return x + y if self.add_input else y


class Chain(ModelSpace):
    """Four choices between a stem and a head. Where the residual is added changes no number that the network computes."""

    def __init__(self, way: Way, *, residual: bool):
        super().__init__()
        inside = residual and not way.on_branch
        self.stem = nn.Sequential(
            nn.Conv2d(3, CHANNELS, 3, padding=1, bias=False), nn.BatchNorm2d(CHANNELS, eps=way.eps)
        )
        layers = []
        for i in range(LAYERS):
            candidates: list[nn.Module] = [Branch(way.eps, residual=inside) for _ in range(CANDIDATES)]
            layers.append(Chosen(LayerChoice(candidates, label=f"layer{i}"), add_input=residual and way.on_branch))
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Conv2d(CHANNELS, 16, 1, bias=False), nn.BatchNorm2d(16, eps=way.eps), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, CLASSES),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)))


class StillWeights(LightningModule):
    """Cross entropy; an optimizer is there, since a search has one, and does nothing."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.model.parameters(), lr=0.0)


class EndAfter(Callback):
    """Ends a fit after so many epochs, before the stage of a search that nobody asks for here."""

    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        trainer.should_stop |= trainer.current_epoch + 1 == self.epochs


def trainer(epochs: int, *callbacks: Callback) -> Any:
    return Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip


def planted_task(way: Way, *, residual: bool, seed: int, images: int) -> tuple[Chain, dict[str, int], TensorDataset]:
    """A chain, which candidates are planted in it, and images with the labels that the network of these gives them."""
    torch.manual_seed(seed)
    space = Chain(way, residual=residual)
    planted = {f"layer{i}": int(torch.randint(CANDIDATES, ())) for i in range(LAYERS)}
    with torch.no_grad():
        for i, best in enumerate(planted.values()):
            layer: Any = space.layers[i]
            for j in range(CANDIDATES):
                if j != best:  # not quite another function, or the choice would be too easy
                    weight = layer.choice[j].conv.weight
                    weight.copy_(math.sqrt(0.5) * (weight + layer.choice[best].conv.weight))
        x = torch.randn(images, 3, PIXELS, PIXELS)
        network = copy.deepcopy(space).freeze(planted).train()
        # Logits of one size and mean for every class, in the supernet too: else one class would have most of the images.
        logits = network(x)
        classifier: Any = space.head[-1]
        scale = logits.std(0) / SHARPNESS
        classifier.weight.div_(scale[:, None])
        classifier.bias.sub_(logits.mean(0)).div_(scale)
        labels = ((logits - logits.mean(0)) / scale).argmax(1)
    for p in space.parameters():
        p.requires_grad_(False)  # spares their half of backward; logits have their gradients all the same
    return space, planted, TensorDataset(x, labels)


def silence() -> None:
    """Hear errors alone of what runs many small fits."""
    for name in ("pytorch_lightning", "lightning", "nni", "nni_proxyless"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # These two set a level of their own, and warn of what is meant here: no validation data.
    for name in ("pytorch_lightning.utilities.rank_zero", "nni.nas.evaluator.pytorch.lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
