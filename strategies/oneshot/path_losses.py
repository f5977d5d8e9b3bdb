"""The paths that weights were trained on, and their losses.

Every weight step runs one path and has its loss: of many such steps a regression on the choices says what each candidate adds to the loss, at no
cost, since all of it was computed anyway. One loss is of one batch and says little; a search has thousands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..supernet.gate import Gate

__all__ = ["PathLosses"]

KEPT = 8192  # steps


class PathLosses:
    """The last steps of a search: path and loss of each.

    Parameters
    ----------
    gates
        In the order in which a checkpoint has them.

    Attributes
    ----------
    steps
        All that there were.
    """

    def __init__(self, gates: Sequence[Gate]):
        self.gates = list(gates)
        self.steps = 0
        # A byte per choice: of 648 choices the paths are 5 MB, in memory and in each checkpoint.
        self._type = torch.uint8 if all(len(gate.choices) <= 256 for gate in self.gates) else torch.int16
        self._paths: deque[Tensor] = deque(maxlen=KEPT)
        self._losses: deque[Tensor] = deque(maxlen=KEPT)  # where they were computed: a device is not waited for

    def add(self, path: Mapping[Gate, int], loss: Tensor) -> None:
        """Note the path of a step and its loss, one number."""
        self.steps += 1
        self._paths.append(torch.tensor([path[gate] for gate in self.gates], dtype=self._type))
        self._losses.append(loss.detach())

    def later_half(self) -> tuple[list[dict[str, Any]], list[float]]:
        """Label -> choice and loss of each step in the later half of all, as far as it is kept, the oldest first.

        In the earlier half weights know so little that the loss says which paths learn fast.
        """
        n = min(len(self._paths), self.steps // 2)
        paths = [
            {gate.label: gate.value(i) for gate, i in zip(self.gates, path.tolist(), strict=True)}
            for path in list(self._paths)[len(self._paths) - n :]
        ]
        losses: list[float] = self._stacked()[len(self._paths) - n :].tolist()
        return paths, losses

    def _stacked(self) -> Tensor:
        return torch.stack(list(self._losses)).float().cpu() if self._losses else torch.zeros(0)

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors and plain types."""
        return {
            "steps": self.steps,
            "paths": torch.stack([*self._paths]) if self._paths else torch.zeros(0, len(self.gates), dtype=self._type),
            "losses": self._stacked(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.steps = state["steps"]
        self._paths = deque(state["paths"].to(self._type).unbind(), maxlen=KEPT)
        self._losses = deque(state["losses"].unbind(), maxlen=KEPT)
