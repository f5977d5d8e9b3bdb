"""Trials for the networks that an evolution asks for, one generation after the other.

A generation waits for the last of its trials. A trial has the number of its network, counted in the order in which the evolution asks; as that
is the same each time, a trial of an experiment that was stopped and goes on keeps its number.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from ..core.plain_values import as_plain

if TYPE_CHECKING:
    from ..strategies import EarlyExitEvolution
    from ..strategies.bounded_space import Genome
    from ..strategies.evolution import Trial

__all__ = ["EvolutionTrials"]


class EvolutionTrials:
    """What is to be trained, and what has become of it.

    Parameters
    ----------
    evolution
        Has begun.
    start
        Called with the number and the parameters, label -> plain value, of a trial that is to be started.

    Attributes
    ----------
    is_over
        Whether no trial will be started any more.
    """

    def __init__(self, evolution: EarlyExitEvolution, start: Callable[[int, dict[str, Any]], None]):
        self.evolution, self._start = evolution, start
        self.is_over = False
        self._genomes: list[Genome] = []  # by number
        self._numbers: dict[str, int] = {}  # by parameters, as text
        self._jobs: dict[int, str] = {}
        self._generation = range(0)
        self._open: set[int] = set()  # trials of the generation that have not ended
        self._waiting: deque[int] = deque()  # those of them that have not been started
        self._free = 0
        self._advance()

    def request(self, n: int) -> None:
        """There is room for n more trials; it is kept for the next generation, if this one needs none."""
        self._free += n
        self._fill()

    def goes_on(self, numbers: Collection[int]) -> None:
        """These trials need no start: NNI itself goes on with them, after a stop."""
        self._waiting = deque(n for n in self._waiting if n not in numbers)

    def result(self, number: int, metric: float | None, job: str) -> None:
        """A trial, by NNI's id ``job``, has reported its final result; more is better, None is none.

        One of an earlier generation only tells its id: it had reported before a stop, had not ended, and NNI ran it again.
        """
        if number < len(self._genomes):
            self._jobs.setdefault(number, job)
        if number in self._generation:
            self.evolution.record(self._genomes[number], metric)

    def known(self, parameters: Mapping[str, Any], metric: float | None, job: str) -> None:
        """A result from before a stop. The evolution lacks it where all was killed before it could be told."""
        number = self._numbers.get(_as_text(parameters))
        if number is None:
            return
        self._jobs[number] = job
        if number in self._open:
            self.goes_on({number})
            self.result(number, metric, job)
            self.end(number)

    def end(self, number: int) -> None:
        """A trial has ended; if it has reported nothing, it has failed.

        On other machines NNI 3.0 may give two trials that start at once each other's parameters. What they report has the number of their
        parameters, their ends have the other. So it is when all have ended that it is certain which have no result.
        """
        if number not in self._open:
            return
        self._open.remove(number)
        for n in (number,) if self._open else self._generation:
            if not self.evolution.has_trial(self._genomes[n]):
                self.evolution.record(self._genomes[n], None)
        self._advance()
        self._fill()

    def front(self) -> list[tuple[str | None, Trial]]:
        """The front of all networks trained so far, the best metric first; with NNI's id of each trial, where it is known."""
        found = self.evolution.front()
        return [(self._jobs.get(self._numbers[_as_text(_plain(one.sample))]), one) for one in found]

    def _advance(self) -> None:
        """Go on to a generation that has trials to be started, or to the end."""
        while not self._open and not self.is_over:
            if self._generation:
                self.evolution.tell()
            genomes = self.evolution.ask()
            self.is_over = not genomes
            self._generation = range(len(self._genomes), len(self._genomes) + len(genomes))
            self._genomes += genomes
            self._numbers |= {_as_text(self._parameters(n)): n for n in self._generation}
            self._open = {n for n in self._generation if not self.evolution.has_trial(self._genomes[n])}
            self._waiting = deque(sorted(self._open))

    def _fill(self) -> None:
        while self._free and self._waiting:
            self._free -= 1
            number = self._waiting.popleft()
            self._start(number, self._parameters(number))

    def _parameters(self, number: int) -> dict[str, Any]:
        return _plain(self.evolution.space.sample(self._genomes[number]))


def _plain(sample: Mapping[str, Any]) -> dict[str, Any]:
    return {label: as_plain(choice) for label, choice in sample.items()}


def _as_text(parameters: Mapping[str, Any]) -> str:
    return json.dumps(parameters, sort_keys=True)
