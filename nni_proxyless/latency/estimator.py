"""The interface that every source of latencies has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # it needs NNI
    from .operation import Operation

__all__ = ["LatencyEstimator"]


class LatencyEstimator(ABC):
    """Tells how long an operation takes on the estimator's target.

    A new one is registered under the entry-point group ``nni_proxyless.estimators``, or named in ``search.yml`` as
    ``package.module:Class``.
    """

    @property
    @abstractmethod
    def conditions(self) -> Mapping[str, object]:
        """What the numbers hold for: device, runtime, threads, batch, precision and so on. Tables are compared by it."""

    unit: str = "ms"
    """Of the numbers. Milliseconds, unless the estimator is there for another cost."""

    combine: Literal["sum", "max"] = "sum"
    """What a network costs: the sum over its operations, as time does, or the largest of them, as a peak of memory does."""

    constant_ms: float = 0.0
    """What every network costs beside its operations."""

    @abstractmethod
    def estimate(self, operation: Operation) -> float:
        """Milliseconds of one run of ``operation`` under :attr:`conditions`.

        Raises
        ------
        KeyError
            The estimator does not know the operation. A missing entry is never a silent constant.
        """
