"""The figure of merit of a task: its name, and which way is better.

In a record it stands under its name, ``accuracy`` or ``mae``; where it is no accuracy, ``metric`` beside it says what it is. NNI, which
maximizes, is reported the ``score``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ACCURACY", "CLASSIFICATION", "Merit"]

CLASSIFICATION: Mapping[str, Any] = {"name": "classification", "arguments": {}}  # the task where none is named


@dataclass(frozen=True)
class Merit:
    """A figure of merit.

    Attributes
    ----------
    name
        Of one word, as it stands in records: ``accuracy``, ``mae``.
    higher_is_better
        Which way is better.
    is_share
        Whether it is a share, which people read in percent.
    """

    name: str
    higher_is_better: bool = True
    is_share: bool = True

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Merit:
        """That of a record, which is an accuracy where nothing else is said."""
        said = record.get("metric")
        return ACCURACY if said is None else cls(**said)

    def described(self) -> dict[str, Any]:
        """What a record has beside the figure, for :meth:`of`."""
        return {} if self == ACCURACY else {"metric": asdict(self)}

    def score(self, value: float) -> float:
        """The same as a number of which more is better."""
        return value if self.higher_is_better else -value

    def in_words(self, value: float | None, digits: int = 4) -> str:
        """``0.9123``; of what is no share, as many digits in all."""
        if value is None:
            return "-"
        return f"{value:.{digits}f}" if self.is_share else f"{value:.{digits}g}"

    def shown(self, value: float) -> str:
        """With its name: ``accuracy 91.2 %``, ``mae 0.512``."""
        return f"{self.name} {100 * value:.1f} %" if self.is_share else f"{self.name} {value:.4g}"


ACCURACY = Merit("accuracy")
