"""The curves of a final training in TensorBoard, which NNI's web UI opens by a button."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["FLUSH_SECONDS", "Curves"]

# An interrupt in the middle of queue.put, while a value is handed to TensorBoard's thread, can lose the wake-up of its end: then that
# thread, and close(), which waits for it, sleep until it would flush, by default for two minutes.
FLUSH_SECONDS = 1


class Curves:
    """Writes what ``history.jsonl`` holds to ``tensorboard/``; the step of a curve is the epoch.

    Parameters
    ----------
    folder
        Of the training.
    first
        The epoch that comes next, from 1 on. What is there of this and later ones, of an earlier training or of an epoch that
        is gone through again after a kill, is not shown any more.
    """

    def __init__(self, folder: Path, first: int):
        from torch.utils.tensorboard import SummaryWriter  # takes a moment, which only a training is to wait for

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first, flush_secs=FLUSH_SECONDS)

    def add(self, record: Mapping[str, float]) -> None:
        """One epoch; whoever looks sees it at once."""
        for name, value in record.items():
            if name != "epoch":
                self._writer.add_scalar(f"training/{name}", value, int(record["epoch"]))
        self._writer.flush()

    def close(self) -> None:
        """The training has ended, or failed."""
        self._writer.close()
