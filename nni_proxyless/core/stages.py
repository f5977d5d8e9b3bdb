"""Which epochs belong to which stage of a search: warm-up, search and, of DSNAS, training of the child."""

from __future__ import annotations

__all__ = ["first_child_epoch", "problem_of_child", "problem_of_warmup"]


def first_child_epoch(warmup_epochs: int, search_epochs: int | None, epochs: int) -> int:
    """The epoch with which the child begins, at the latest, in a training of ``epochs``; without ``search_epochs`` after half of the rest."""
    return warmup_epochs + ((epochs - warmup_epochs) // 2 if search_epochs is None else search_epochs)


def problem_of_child(warmup_epochs: int, search_epochs: int | None, epochs: int) -> str | None:
    """What is wrong with the stages of DSNAS, of which each has an epoch; None if nothing is."""
    if warmup_epochs < first_child_epoch(warmup_epochs, search_epochs, epochs) < epochs:
        return None
    search = "half of the rest" if search_epochs is None else search_epochs
    return (
        f"warmup_epochs is {warmup_epochs} and search_epochs {search}, of {epochs} epochs; allowed: at "
        "least one epoch of search and, after it, one in which the child trains"
    )


def problem_of_warmup(warmup_epochs: int, arc_start_epoch: int, epochs: int) -> str | None:
    """What is wrong with a warm-up that leaves no epoch in which the architecture is searched; None if one is left."""
    if warmup_epochs + arc_start_epoch < epochs:
        return None
    more = f" and arc_start_epoch {arc_start_epoch}" if arc_start_epoch else ""
    return (
        f"warmup_epochs is {warmup_epochs}{more}, of {epochs} epochs; allowed: at least one epoch of search after them"
    )
