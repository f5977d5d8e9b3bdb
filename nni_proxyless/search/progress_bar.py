"""The progress bar of a search. A file of its own, since importing Lightning takes seconds, which no other command needs to wait."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback

from ..core.progress import bar, n_fixed_text

__all__ = ["FitProgress"]


class FitProgress(Callback):
    """One bar over all batches of a Lightning fit."""

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self._bar = bar(trainer.max_epochs * trainer.num_training_batches, "search", "batch")

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        self._bar.update()

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self._bar.set_postfix_str(f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}{n_fixed_text(module)}")

    def on_train_end(self, trainer: Any, module: Any) -> None:
        self._bar.close()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        if hasattr(self, "_bar"):
            self._bar.close()
