"""The baseline that rewards are compared with."""

from __future__ import annotations

from ..estimators import moved_baseline

__all__ = ["MovingBaseline"]


class MovingBaseline:
    """The moving average that rewards are compared with; it begins with the mean reward of the first update.

    Parameters
    ----------
    weight
        Of the newest mean.
    when
        ``'before'``: moved before it is used (official code of ProxylessNAS); ``'after'``: used first, which leaves the
        estimator without bias; ``'never'``: no baseline, b = 0.
    """

    def __init__(self, weight: float, when: str):
        self.weight, self.when = weight, when
        self.value: float | None = None

    def next(self, mean: float) -> float:
        """The baseline for an update whose rewards have this mean."""
        if self.when == "never":
            return 0.0
        used = mean if self.value is None else self.value
        self.value = moved_baseline(used, mean, self.weight)
        return self.value if self.when == "before" else used
