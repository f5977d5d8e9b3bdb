"""The network that would be derived now: after every epoch of a search, its figure of merit and what it costs."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning
import torch
from torch import nn

from ..config.search_config import SearchConfig
from ..core.divergence import DivergedError, require_finite
from ..core.freezing import freeze
from ..core.merit import ACCURACY
from ..core.progress import n_fixed, n_fixed_text
from ..data.accuracy import evaluate_merit
from ..data.image_parts import Parts, loader
from ..latency import LatencyProfiler
from ..latency.digits import in_words
from ..latency.estimators.macs import count_macs
from ..latency.operation import Shape
from ..models.build import count_parameters
from ..tasks import Classification, Task
from .costs import Cost
from .judging import CPU, with_fresh_statistics
from .tensorboard import TensorBoardLog

__all__ = ["DerivedNetworkMonitor", "judge", "judging_loaders", "mean_entropy"]

_logger = logging.getLogger(__name__)


class DerivedNetworkMonitor(pytorch_lightning.Callback):
    """After every epoch: derive the network of the moment, estimate its batch-norm statistics afresh, validate, report."""

    def __init__(
        self, *, profiler: LatencyProfiler, input_shape: Shape, calibration: Any, validation: Any,
        report: Callable[[int, dict[str, float]], None], costs: Mapping[str, Cost] | None = None, task: Task | None = None,
    ):  # fmt: skip
        self.profiler, self.input_shape = profiler, input_shape
        self.calibration, self.validation = calibration, validation
        self.report, self.task = report, task or Classification()
        self.costs = dict(costs or {})
        self.last: dict[str, float] | None = None
        self.sample: dict[str, Any] = {}
        self.probs: dict[str, dict[Any, float]] = {}
        self.network: nn.Module | None = None
        self.worth = math.nan  # of that network, its figure of merit
        self.supernet: nn.Module = nn.Module()
        self.device = CPU  # of the training, on which networks are judged
        self._tensorboard = TensorBoardLog()
        self._counted: tuple[dict[str, Any], dict[str, float]] | None = None
        self._began = time.perf_counter()

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        # Asked for by every process: means over all of them are taken here.
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        train_loss = seen.get("train_loss", math.nan)
        if not math.isfinite(train_loss):
            raise DivergedError(f"the loss is {train_loss} after epoch {trainer.current_epoch + 1}")
        require_finite(
            module, trainer.current_epoch
        )  # after the last step, whose loss was still that of the weights before
        if not trainer.is_global_zero:
            return
        self.last = {
            **self.derive(module),
            "train_loss": train_loss,
            **({"train_accuracy": seen.get("train_accuracy", math.nan)} if self.task.merit == ACCURACY else {}),
            "multiplier": seen.get("penalty/multiplier", 0.0),
            "fixed": float(n_fixed(module)[0]),
            "seconds": time.perf_counter() - self._began,
        }
        _logger.info(
            "epoch %d/%d: validation %s %s, expected %s, derived network %s %s, entropy %.3f, train loss %.4f, %.1f s%s",
            trainer.current_epoch + 1, trainer.max_epochs, self.task.merit.name, self.task.merit.in_words(self.worth),
            in_words(self.last["expected_ms"]), in_words(self.last["table_ms"]), self.profiler.unit, self.last["entropy"], train_loss, self.last["seconds"],
            n_fixed_text(module),
        )  # fmt: skip
        self._tensorboard.write(
            trainer.logger, trainer.current_epoch, trainer.max_epochs, space=module.model, figures=self.last,
            sample=self.sample, probs=module.export_probs(), input_shape=self.input_shape, unit=self.profiler.unit,
            worth=f"validation {self.task.merit.shown(self.worth)}",
        )  # fmt: skip
        self.report(trainer.current_epoch, self.last)

    def derive(self, module: Any) -> dict[str, float]:
        """Make the network of the moment, and return its figures."""
        sample = module.export()
        # Of a choice that is made for good the distribution that it was made from: there may be other budgets.
        self.probs = getattr(module, "export_searched_probs", module.export_probs)()
        self.supernet, self.device = module.model, module.device
        return self.take(module, sample)

    def take(self, module: Any, sample: dict[str, Any]) -> dict[str, float]:
        """Make the network of these choices that of the moment, and return its figures."""
        self.sample = sample
        probs = module.export_probs()
        network = copy.deepcopy(freeze(module.model, sample)).to(self.device)
        self.worth = judge(network, self.calibration, self.validation, self.device, self.task)
        self.network = network
        merit = self.task.merit
        return {
            "default": merit.score(self.worth),
            **({} if merit == ACCURACY else {merit.name: self.worth}),
            "expected_ms": float(self.profiler.expectation(probs)),
            "table_ms": float(self.profiler.profile(self.sample)),
            **{
                key: value
                for name, cost in self.costs.items()
                for key, value in cost.figures(name, self.sample, probs).items()
            },
            "entropy": mean_entropy(probs),
            **self._sizes(network),
        }

    def _sizes(self, network: nn.Module) -> dict[str, float]:
        """Multiply-adds and parameters of the network of the moment; counted anew only where it has become another one."""
        if self._counted is None or self._counted[0] != self.sample:
            macs, n_params = count_macs(network, self.input_shape), count_parameters(network)
            self._counted = self.sample, {"macs": float(macs), "n_params": float(n_params)}
        return self._counted[1]


def judge(
    network: nn.Module, calibration: Any, validation: Any, device: torch.device, task: Task | None = None
) -> float:  # fmt: skip
    """Estimate batch-norm statistics afresh, in place; returns the figure of merit on the validation part, without a task the share of right
    answers."""
    return evaluate_merit(with_fresh_statistics(network, calibration, device), validation, task or Classification())


def judging_loaders(config: SearchConfig, parts: Parts) -> tuple[Any, Any]:
    """Images for the statistics of batch norm, spread evenly over those of the weights, and those of the validation part."""
    plain: Any = parts.weights_plain  # may be sorted by class
    batch_size, workers = config.data.batch_size, config.data.workers
    step = max(1, min(math.ceil(len(plain) / config.training.calibration_images), len(plain) - 1))
    chosen = range(0, len(plain), step)
    if len(chosen) > 1 and len(chosen) % batch_size == 1:
        chosen = chosen[:-1]  # alone in the last batch: of one value nothing can be said about its spread
    some = torch.utils.data.Subset(plain, chosen)
    return loader(some, batch_size, workers=workers), loader(parts.validation, batch_size, workers=workers)


def mean_entropy(probs: Mapping[str, Mapping[Any, float]]) -> float:
    """How undecided the choices are, on average: 1 uniform, 0 decided."""
    shares = [
        float(torch.special.entr(torch.tensor(list(d.values()))).sum()) / math.log(len(d)) if len(d) > 1 else 0.0
        for d in probs.values()
    ]
    return sum(shares) / len(shares)
