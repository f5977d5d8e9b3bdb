"""Errors in the user's input, and the parts of their messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "did_you_mean", "on_one_line", "shown"]


class UserError(Exception):
    """A user's mistake: the command prints the message, without a traceback, and ends with code 2.

    torch raises the error of a loader's worker process again, with a traceback in front of its message; that is cut off.
    """

    def __init__(self, message: object = ""):
        text = str(message)
        if text.startswith("Caught ") and "Original Traceback" in text:
            text = text.rpartition(f"\n{UserError.__module__}.{UserError.__qualname__}: ")[2].rstrip("\n")
        super().__init__(text)


def did_you_mean(name: object, allowed: Iterable[object]) -> str:
    """``" Did you mean 'x'?"`` for the nearest allowed name, or nothing."""
    near = difflib.get_close_matches(str(name), [str(a) for a in allowed], n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def shown(value: object) -> str:
    """A value as it stands in a message: cut where it would fill the screen."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def on_one_line(text: str) -> str:
    """A message whose user has put line ends, or orders to the terminal, into a name."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
