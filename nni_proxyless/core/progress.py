"""Progress of a long run: one bar on a terminal, one log line per epoch everywhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from .streams import say

__all__ = ["LogAboveBars", "bar", "n_fixed", "n_fixed_text", "steps"]


def bar(total: int, what: str, unit: str) -> tqdm:
    """A progress bar on stderr; none where stderr is no terminal."""
    return tqdm(total=total, desc=what, unit=unit, disable=None, dynamic_ncols=True, leave=False)


@contextmanager
def steps(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that learns how long it is; gives a function to tell it how much is done, and of how much."""
    with bar(0, what, unit) as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield progress


def n_fixed(module: Any) -> tuple[int, int]:
    """How many choices of a search are final, and of how many; (0, 0) if its strategy fixes none before the end."""
    return len(getattr(module, "fixed", ())), len(getattr(module, "searched", ()))


def n_fixed_text(module: Any) -> str:
    """The same for a person, to follow other figures; empty where there are none."""
    fixed, of = n_fixed(module)
    return f", {fixed} of {of} choices fixed" if fixed else ""


class LogAboveBars(logging.Handler):
    """A log handler for stderr that does not break the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record), lambda text: tqdm.write(text, file=sys.stderr))
