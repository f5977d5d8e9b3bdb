"""A training that is too short for the stages of DSNAS is refused before its first step."""

from __future__ import annotations

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from nni_proxyless.core.stages import first_child_epoch, problem_of_child

__all__ = ["check_stages", "first_child_epoch"]


def check_stages(warmup_epochs: int, search_epochs: int | None, epochs: int | None) -> None:
    """Refuse a training in which one of the stages has no epoch.

    Raises
    ------
    MisconfigurationException
        The message says what is allowed.
    """
    if epochs is None or epochs < 1:
        raise MisconfigurationException("strategy: DSNAS needs a Trainer with max_epochs, in which it has its stages")
    if problem := problem_of_child(warmup_epochs, search_epochs, epochs):
        raise MisconfigurationException(f"strategy: {problem}")
