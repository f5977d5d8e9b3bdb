"""Which epochs belong to which stage, where a search goes on with training its child."""

from __future__ import annotations

from pytorch_lightning.utilities.exceptions import MisconfigurationException

__all__ = ["check_stages", "first_child_epoch"]


def first_child_epoch(warmup_epochs: int, search_epochs: int | None, epochs: int) -> int:
    """The epoch with which the child begins, at the latest, in a training of ``epochs``; without ``search_epochs`` after half of the rest."""
    return warmup_epochs + ((epochs - warmup_epochs) // 2 if search_epochs is None else search_epochs)


def check_stages(warmup_epochs: int, search_epochs: int | None, epochs: int | None) -> None:
    """Refuse a training in which one of the stages has no epoch.

    Raises
    ------
    MisconfigurationException
        The message says what is allowed.
    """
    if epochs is None or epochs < 1:
        raise MisconfigurationException("strategy: DSNAS needs a Trainer with max_epochs, in which it has its stages")
    if not warmup_epochs < first_child_epoch(warmup_epochs, search_epochs, epochs) < epochs:
        search = "half of the rest" if search_epochs is None else search_epochs
        raise MisconfigurationException(
            f"strategy: warmup_epochs is {warmup_epochs} and search_epochs {search}, of {epochs} epochs; allowed: at "
            "least one epoch of search and, after it, one in which the child trains"
        )
