"""Which epochs belong to which stage, where a search goes on with training its child."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytorch_lightning.utilities.exceptions import MisconfigurationException

if TYPE_CHECKING:
    from ..dsnas import DSNAS

__all__ = ["check_stages", "first_child_epoch"]


def first_child_epoch(options: DSNAS, epochs: int) -> int:
    """The epoch with which the child begins, at the latest, in a training of ``epochs``."""
    warmup, search = options.warmup_epochs, options.search_epochs
    return warmup + ((epochs - warmup) // 2 if search is None else search)


def check_stages(options: DSNAS, epochs: int | None) -> None:
    """Refuse a training in which one of the stages has no epoch.

    Raises
    ------
    MisconfigurationException
        The message says what is allowed.
    """
    if epochs is None or epochs < 1:
        raise MisconfigurationException("strategy: DSNAS needs a Trainer with max_epochs, in which it has its stages")
    if not options.warmup_epochs < first_child_epoch(options, epochs) < epochs:
        search = "half of the rest" if options.search_epochs is None else options.search_epochs
        raise MisconfigurationException(
            f"strategy: warmup_epochs is {options.warmup_epochs} and search_epochs {search}, of {epochs} epochs; allowed: at "
            "least one epoch of search and, after it, one in which the child trains"
        )
