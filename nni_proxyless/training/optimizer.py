"""Optimizer, schedule and weight average of the final training, all timm's, in mixed precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..config.train_config import TrainConfig
from ..core.errors import UserError

__all__ = ["AUTOCAST", "Optimization"]

AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Precision -> type of mixed precision; None: none."""


class Optimization:
    """Gradients -> steps. What is not in its state is a function of the number of steps.

    Parameters
    ----------
    network
        On its device already.
    steps_per_epoch
        How often weights move in an epoch.

    Raises
    ------
    UserError
        timm refuses the optimizer or the schedule, or the device the precision.
    """

    def __init__(self, network: nn.Module, config: TrainConfig, steps_per_epoch: int, device: torch.device):
        self.network, self.config, self.device = network, config, device
        self.n_steps = 0
        self.last_learning_rate = config.learning_rate  # of the step before
        self.dtype = AUTOCAST[config.precision]
        if config.precision == "16-mixed" and device.type != "cuda":
            raise UserError(
                f"precision: 16-mixed needs a CUDA device, this is {device.type}; allowed here: 32-true, bf16-mixed"
            )
        self.scaler: Any = torch.amp.GradScaler("cuda") if config.precision == "16-mixed" else None
        try:
            self.optimizer: Any = create_optimizer_v2(
                network, config.optimizer, lr=config.learning_rate, weight_decay=config.weight_decay,
                momentum=config.momentum, filter_bias_and_bn=config.weight_decay_of == "weights",
            )  # fmt: skip
        except Exception as error:  # an optimizer of a package that is not here, an argument that it refuses, …
            raise UserError(f"optimizer: timm's {config.optimizer}: {error}") from error
        self.scheduler = _scheduler(self.optimizer, config, steps_per_epoch)
        self.average = ModelEmaV3(network, decay=config.ema_decay, use_warmup=True) if config.ema_decay else None

    @property
    def judged(self) -> nn.Module:
        """The network whose accuracy counts: averaged over the steps, if there is an average."""
        return self.network if self.average is None else self.average.module

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Add a batch's gradients to those that are there."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def step(self, norm_of_all: Callable[[Tensor], Tensor] = lambda norm: norm) -> None:
        """Update the weights with the accumulated gradients, and clear these.

        Parameters
        ----------
        norm_of_all
            Norm of the gradients that are here -> norm of all that are clipped together.
        """
        self.last_learning_rate = float(self.optimizer.param_groups[0]["lr"])
        if self.config.gradient_clip_val is not None:
            if self.scaler is not None:
                self.scaler.unscale_(self.optimizer)
            parameters = list(self.network.parameters())
            norm = norm_of_all(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
            nn.utils.clip_grads_with_norm_(parameters, self.config.gradient_clip_val, norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad()
        self.n_steps += 1
        if self.average is not None:
            self.average.update(self.network, step=self.n_steps)
        self._schedule()

    def state_dict(self) -> dict[str, Any]:
        """Weights, their average, and what the optimizer remembers."""
        return {
            "n_steps": self.n_steps,
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.n_steps = state["n_steps"]
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self._schedule()

    def statistics(self) -> list[Tensor]:
        """What each process has its own of: statistics of batch norm, of the network and of its average."""
        networks: Iterable[nn.Module] = [self.network] if self.average is None else [self.network, self.average.module]
        return [buffer for network in networks for buffer in network.buffers() if buffer.is_floating_point()]

    def is_finite(self) -> bool:
        """Whether all weights are finite."""
        with torch.no_grad():
            return bool(torch.stack([p.sum() for p in self.network.parameters()]).isfinite().all())

    def _schedule(self) -> None:
        if self.scheduler is not None:
            self.scheduler.step_update(self.n_steps)


def _scheduler(optimizer: Any, config: TrainConfig, steps_per_epoch: int) -> Any:
    """A schedule over steps, warm-up included, that ends with the last epoch."""
    warmup = min(config.warmup_epochs, config.epochs - 1)
    given: dict[str, Any] = {
        "decay_epochs": config.decay_epochs, "decay_rate": config.decay_rate, "decay_milestones": config.decay_milestones,
    }  # fmt: skip
    try:
        scheduler, _ = create_scheduler_v2(
            optimizer, config.scheduler, num_epochs=config.epochs - warmup, warmup_epochs=warmup, warmup_prefix=True,
            warmup_lr=config.learning_rate / 10 if config.warmup_learning_rate is None else config.warmup_learning_rate,
            min_lr=config.min_learning_rate, step_on_epochs=False, updates_per_epoch=steps_per_epoch,
            **{name: value for name, value in given.items() if value is not None},
        )  # fmt: skip
    except (ValueError, AssertionError) as error:
        raise UserError(f"scheduler: {error}") from error
    if scheduler is None and config.scheduler != "none":
        raise UserError(f"scheduler: the installed timm has no '{config.scheduler}'; allowed: cosine, or a newer timm")
    return scheduler
