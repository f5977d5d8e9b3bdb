"""Several costs in one loss: milliseconds and memory, milliseconds on two devices."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ...core.errors import did_you_mean
from ...core.nni_compat import ExpectationProfilerPenalty
from .penalty import LatencyPenalty

__all__ = ["Penalties"]


class Penalties(ExpectationProfilerPenalty):
    """Several :class:`~nni_proxyless.latency.LatencyPenalty` as one, for every strategy that takes one.

    They are applied one after the other, each to the loss that the one before has given. With the additive forms the
    gradient is the sum of all gradients, in whatever order; ``'mul#log'`` multiplies what stands before it, so its place
    counts. The first is what a reader that knows one penalty only sees as ``profiler`` and ``target_ms``.

    ``weight='auto'`` is for one of them at most, and that one comes last, whatever its place here: its multiplier then sees
    the gradients of all others as part of the task's, and holds its target against them.

    Parameters
    ----------
    penalties
        Name -> penalty, as what each is logged: ``'<name>/penalty'`` and so on. Without names each has that of its unit.

    Raises
    ------
    ValueError
        None given, one that is no ``LatencyPenalty``, a name that is none or is there twice, more than one with ``weight='auto'``, or one penalty
        under two names. The message names all of them.
    """

    def __init__(self, penalties: Mapping[str, LatencyPenalty] | Sequence[LatencyPenalty]):
        problems = []
        if not isinstance(penalties, Mapping):
            units = [str(getattr(getattr(p, "profiler", None), "unit", type(p).__name__)) for p in penalties]
            for unit, count in Counter(units).items():
                if count > 1:
                    problems.append(
                        f"penalties: {count} are in {unit}; allowed: one of a unit, or a dict with a name for each"
                    )
            penalties = dict(zip(units, penalties, strict=True))
        if not penalties:
            problems.append("penalties is empty; allowed: one LatencyPenalty or more")
        for name, penalty in penalties.items():
            if not isinstance(name, str) or not name or "." in name or "/" in name:
                problems.append(f"penalties: {name!r} is no name; allowed: text without '.' and '/'")
            if not isinstance(penalty, LatencyPenalty):
                problems.append(f"penalties: {name} is a {type(penalty).__name__}; allowed: LatencyPenalty")
        if len({id(penalty) for penalty in penalties.values()}) < len(penalties):
            problems.append("penalties: the same LatencyPenalty stands there twice; allowed: once")
        automatic = [name for name, penalty in penalties.items() if getattr(penalty, "weight", None) == "auto"]
        if len(automatic) > 1:
            problems.append(
                f"penalties: weight is 'auto' for {', '.join(map(str, automatic))}; allowed: for one, since each multiplier is "
                "computed as if the others stood still, and they would fight. Give the others a number"
            )
        if problems:
            raise ValueError("; ".join(problems))
        first = next(iter(penalties.values()))
        super().__init__(first.profiler, first.baseline, first.scale)
        # Not by attribute: a module has 'profiler' and 'scale' itself, and a cost may be called so.
        self.parts = nn.ModuleDict({f"cost {name}": penalty for name, penalty in penalties.items()})
        self.weight, self.target_ms = first.weight, first.target_ms

    @property
    def penalties(self) -> dict[str, LatencyPenalty]:
        """Name -> penalty, in the order in which they were given."""
        parts: Any = self.parts
        return {key.removeprefix("cost "): penalty for key, penalty in parts.items()}

    def __getitem__(self, name: str) -> LatencyPenalty:
        try:
            return self.penalties[name]
        except KeyError:
            known = list(self.penalties)
            raise KeyError(f"no penalty '{name}'; there are: {', '.join(known)}.{did_you_mean(name, known)}") from None

    @property
    def last_multiplier(self) -> float:
        """That of the one with ``weight='auto'``; nan without one, and before the first backward pass."""
        return self._in_turn()[-1][1].last_multiplier

    def _in_turn(self) -> list[tuple[str, LatencyPenalty]]:
        return sorted(self.penalties.items(), key=lambda item: item[1].weight == "auto")

    def forward(
        self, loss: Tensor, sample: dict[str, Any], path: dict[str, Any] | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Join the loss with every expected cost; as :meth:`LatencyPenalty.forward`.

        Returns
        -------
        tuple
            The loss, and the details of every penalty under ``'<name>/…'``. ``'penalty'`` and ``'normalized_penalty'`` are
            those of the first, ``'loss_original'`` and ``'loss_final'`` those of all together, ``'multiplier'`` that of the
            automatic one, if there is one.
        """
        details: dict[str, Any] = {}
        total = loss
        for name, penalty in self._in_turn():
            total, found = penalty(total, sample, path)
            details |= {f"{name}/{key}": value for key, value in found.items()}
            if "multiplier" in found:
                details["multiplier"] = found["multiplier"]
        first = next(iter(self.penalties))
        details |= {key: details[f"{first}/{key}"] for key in ("penalty", "normalized_penalty")}
        return total, {"loss_original": loss.detach(), **details, "loss_final": total.detach()}

    def profile(self, sample: dict[str, Any]) -> Any:
        """Expected cost of the first, which is what a single number can stand for."""
        return next(iter(self.penalties.values())).profile(sample)

    def __deepcopy__(self, memo: dict[int, Any]) -> Penalties:
        # Each copies itself, and knows best whose supernet it looks at; 'profiler' is the first one's own.
        copied = type(self)({name: copy.deepcopy(penalty, memo) for name, penalty in self.penalties.items()})
        memo[id(self)] = copied
        return copied.train(self.training)
