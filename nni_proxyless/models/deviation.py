"""How far the time of a network is from what its table says, what that comes from, and how it is said.

Symbols, in milliseconds: m, the network as it was timed, with its relative scatter s; t, what the table says, calibrated where the table is;
a, what the table says at the speed that the machine had while m was timed, known where networks of the table were timed beside it.

    far        |m / t - 1| > 5 % + s
    restless   s > 10 %: the machine changed its speed while m was timed
    by chance  not far, but |m / a - 1| > 10 % + s and |a / t - 1| > 10 %: the table is wrong, and the machine is not as it was

One of these is worth saying, nothing else is. A right table on a quiet machine has none of them: the scatter is that of the network from preparation to
preparation, and from one half of the timing to the other.
"""

from __future__ import annotations

import math
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..latency.digits import in_words
from .record import unit_of

__all__ = ["MARK", "TABLE", "Deviation", "deviation_of", "deviations_in_words", "with_marks"]

MARK = "*"
"""Beside a measured number that deviates."""

TABLE = "latencies.yaml"
"""What a search calls the table that it works with."""

WORTH_SAYING = 0.05  # what a search is to end within
RESTLESS = 0.1  # prepared anew, the smallest networks are 2.4 % faster or slower on average (time_in_chunks.py)
OF_REFERENCES = 0.1  # they are four, prepared once each
TIME_AGAIN = "time again while nothing else runs: nni-proxyless report"
ENOUGH = 3  # networks whose common speed says something of the machine


@dataclass(frozen=True)
class Deviation:
    """A measured time that is far from the table's, or that says little; made by :func:`deviation_of`.

    Attributes
    ----------
    measured_ms, table_ms
        m and t.
    table_again_ms
        a; None where it is not known.
    scatter
        s; 0 where it is not known.
    is_calibrated
        Whether t is.
    """

    measured_ms: float
    table_ms: float
    table_again_ms: float | None
    scatter: float
    is_calibrated: bool

    @property
    def relative(self) -> float:
        """m / t - 1."""
        return self.measured_ms / self.table_ms - 1

    @property
    def is_far(self) -> bool:
        return abs(self.relative) > WORTH_SAYING + self.scatter

    @property
    def is_restless(self) -> bool:
        return self.scatter > RESTLESS

    @property
    def speed(self) -> float | None:
        """a / t: how many times as long as in the table its own networks took, timed beside this one."""
        return None if self.table_again_ms is None else self.table_again_ms / self.table_ms

    @property
    def left(self) -> float:
        """|m / a - 1|: how far the time is off at the speed of the machine; infinite where that is not known."""
        return math.inf if self.table_again_ms is None else abs(self.measured_ms / self.table_again_ms - 1)

    @property
    def is_of_machine(self) -> bool:
        """Whether the speed of the machine explains how far the time is off, but for what is not worth saying."""
        return not self.is_restless and self.left <= min(WORTH_SAYING + self.scatter, abs(self.relative) / 2)

    @property
    def is_by_chance(self) -> bool:
        if self.is_far or self.table_again_ms is None:
            return False
        beside = abs(self.measured_ms / self.table_again_ms - 1)
        return beside > OF_REFERENCES + self.scatter and abs(self.table_again_ms / self.table_ms - 1) > OF_REFERENCES

    @property
    def brief(self) -> str:
        """Such as ``53 % above the table, as the machine is slower``, to stand beside the number."""
        if self.is_far:
            why = f", as the machine is {_slower(self.speed)}" if self.speed is not None and self.is_of_machine else ""
            return f"{_apart(self.relative)} the table{why}"
        return "on a restless machine" if self.is_restless else "like the table by chance"

    def in_words(self, folder: Path) -> str:
        """The measured number, how far it is off, why, and what tells more; one sentence, which begins with the number.

        Parameters
        ----------
        folder
            Of the search, which keeps the table.
        """
        says = f"the {'calibrated ' if self.is_calibrated else ''}table says"
        then = f"({in_words(self.table_ms)} ms)"
        head = f"{in_words(self.measured_ms)} ms, "
        head += f"{_apart(self.relative) if abs(self.relative) > WORTH_SAYING else 'near'} what {says} {then}"
        return f"{head}: {self._cause(_check(folder))}"

    def _cause(self, check: str) -> str:
        if self.is_restless:
            return f"the machine was restless, parts of the timing differ by {200 * self.scatter:.0f} %; {TIME_AGAIN}"
        if self.table_again_ms is None or self.speed is None:
            slower = "slower or busier" if self.relative > 0 else "faster"
            return f"the machine is {slower} now than when the table was made, or the table is wrong here; {check} tells which"
        speed, again = self.speed, self.table_again_ms
        beside = f"networks of the table, timed beside this one, take {speed:.2f} times as long as then"
        slower = _slower(speed)
        if self.is_of_machine:
            return f"the machine is {slower} now than when the table was made: {beside}, and at that speed it says {in_words(again)} ms"
        tells = f"{check} tells how far it is off elsewhere"
        if abs(speed - 1) <= WORTH_SAYING:
            return f"the table is wrong here: {beside}; {tells}"
        return (
            f"the machine is {slower} now than when the table was made, and the table is wrong here: {beside}, and at that speed it says "
            f"{in_words(again)} ms; {tells}"
        )


def deviation_of(record: Mapping[str, Any]) -> Deviation | None:
    """What is to be said of a record under ``latency``, or of the figures of a trial; None where nothing is.

    So it is where the network was not timed, as for a table of another device, or has no table; where a table does not count milliseconds;
    and where both numbers agree.
    """
    if _ratio(record) is None:
        return None
    scatter = record.get("measured_scatter")
    # Without a scatter the record is of an earlier version, whose number may be that of operations one by one in eager torch.
    again = None if scatter is None else record.get("table_again_ms")
    found = Deviation(record["measured_ms"], record["table_ms"], again, scatter or 0.0, bool(record.get("calibrated")))
    return found if found.is_far or found.is_restless or found.is_by_chance else None


def deviations_in_words(networks: Sequence[tuple[str, Path, Mapping[str, Any]]]) -> str:
    """What is to be said of several networks, in one line; empty where nothing is.

    Parameters
    ----------
    networks
        Name, folder of the search, and record of each; also of those that do not deviate.
    """
    marked = [(name, folder, found) for name, folder, record in networks if (found := deviation_of(record)) is not None]
    if not marked:
        return ""
    name, folder, furthest = max(marked, key=lambda one: abs(one[2].relative))
    if len(marked) == 1:
        return f"{name}, measured: {furthest.in_words(folder)}"
    ratios = [ratio for *_, record in networks if (ratio := _ratio(record)) is not None]
    off = [found for *_, found in marked if found.is_far]
    far = sorted(found.relative for found in off)
    parts = []
    if far:
        apart = _from_to(_apart(far[0]), _apart(far[-1]))
        parts.append(
            f"{len(far)} of {len(ratios)} networks, measured, are {apart} what the table says: {_of_machine(off) or _common(ratios, folder)}"
        )
    if n := sum(found.is_restless for *_, found in marked):
        parts.append(f"{n} of {len(ratios)} networks were timed on a restless machine; {TIME_AGAIN}")
    if n := sum(found.is_by_chance for *_, found in marked):
        parts.append(
            f"{n} of {len(ratios)} networks are near what the table says by chance; {_check(folder)} tells how far it is off elsewhere"
        )
    return "; ".join(parts)


def with_marks(texts: Sequence[str], found: Iterable[Deviation | None]) -> list[str]:
    """Numbers as text with :data:`MARK` behind those that deviate, and a blank behind the others, if any does, so that digits stand in columns."""
    marks = ["" if deviation is None else MARK for deviation in found]
    return [text + mark.ljust(max(map(len, marks))) for text, mark in zip(texts, marks, strict=True)]


def _ratio(record: Mapping[str, Any]) -> float | None:
    """m / t, where both are known."""
    measured_ms, table_ms = record.get("measured_ms"), record.get("table_ms")
    return measured_ms / table_ms if measured_ms and table_ms and unit_of(record) == "ms" else None


def _of_machine(far: Sequence[Deviation]) -> str:
    """Why they are, where it is the machine with all of them; else empty."""
    speeds = sorted(found.speed for found in far if found.speed is not None and found.is_of_machine)
    if len(speeds) < len(far) or _slower(speeds[0]) != _slower(speeds[-1]):
        return ""
    times = _from_to(f"{speeds[0]:.2f}", f"{speeds[-1]:.2f}")
    return (
        f"the machine is {_slower(speeds[0])} now than when it was made: networks of the table, timed beside these, take {times} times as "
        f"long as then; at that speed these are {100 * max(found.left for found in far):.0f} % off at most"
    )


def _slower(speed: float) -> str:
    return "slower" if speed > 1 else "faster"


def _common(ratios: Sequence[float], folder: Path) -> str:
    common = statistics.median(ratios)
    slower = "slower or busier" if common > 1 else "faster"
    if len(ratios) >= ENOUGH and max(abs(ratio / common - 1) for ratio in ratios) <= WORTH_SAYING:
        return f"all take {common:.2f} times as long as it says, so the machine is {slower} now than when it was made"
    return (
        f"the machine is {slower} now than when it was made, or the table is wrong there; {_check(folder)} tells which"
    )


def _apart(relative: float) -> str:
    if relative >= 1:
        return f"{1 + relative:.1f} times"
    return f"{100 * abs(relative):.0f} % {'above' if relative > 0 else 'below'}"


def _from_to(low: str, high: str) -> str:
    """Such as ``45 to 59 % above``, or ``8 % below to 59 % above``."""
    if low == high:
        return low
    same = low.partition(" ")[2] == high.partition(" ")[2]
    return f"{low.partition(' ')[0]} to {high}" if same else f"{low} to {high}"


def _check(folder: Path) -> str:
    table = folder / TABLE
    return f"nni-proxyless latency check {shlex.quote(str(table)) if table.exists() else 'TABLE'} --dry-run"
