"""Log the steps of a search at the loggers' own interval.

Lightning's ``log`` takes a millisecond per figure, and its loggers are told every ``log_every_n_steps`` batches: of
what a search logs in between, all but the newest is lost. Sixty probabilities and five terms of a loss came to a tenth
of a small search.
"""

from __future__ import annotations

from typing import Any

import torch

from nni_proxyless.core.many_choices import MOST_SHOWN, mean_probs
from nni_proxyless.core.nni_compat import batches_of_loggers

__all__ = ["StepLog"]


class StepLog:
    """Keeps the newest figures and hands them over when the loggers log.

    Attributes
    ----------
    figures
        Of the newest step that had them. They go through Lightning's ``log``, so callbacks find them in
        ``callback_metrics``: those of the last step are there when an epoch ends.
    probs
        Label -> choice -> probability, or None. Go to the loggers as ``prob/LABEL/CHOICE``, and into no
        ``callback_metrics``; of more than :data:`~nni_proxyless.core.many_choices.MOST_SHOWN` choices as ``prob/mean/CHOICE``.
    """

    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}
        self.probs: dict[str, dict[Any, float]] | None = None
        self._curves: dict[str, float] = {}

    def hand_over(self, module: Any) -> None:
        """At the end of a training step: log what is new if the loggers log after this batch."""
        trainer = module.trainer
        if self.probs is not None:
            shown = self.probs if len(self.probs) <= MOST_SHOWN else {"mean": mean_probs(self.probs)}
            self._curves = {f"prob/{label}/{c}": p for label, of in shown.items() for c, p in of.items()}
            self.probs = None
        steps = batches_of_loggers(trainer)
        every = trainer.log_every_n_steps
        due = (every > 0 and (steps + 1) % every == 0) or trainer.should_stop
        if (due or trainer.is_last_batch) and self.figures:
            module.log_dict({name: torch.as_tensor(value).detach() for name, value in self.figures.items()})
            self.figures = {}
        if due and self._curves:
            for logger in trainer.loggers:
                logger.log_metrics({**self._curves, "epoch": trainer.current_epoch}, step=steps)
        if trainer.is_last_batch:
            self._curves = {}  # an epoch begins with none, as in Lightning's own collection
