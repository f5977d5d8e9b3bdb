"""Format rows as a text table."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["in_columns"]


def in_columns(rows: Sequence[Sequence[str]], *, n_left: int = 0) -> list[str]:
    """A line per row.

    Parameters
    ----------
    rows
        All of one length, the header among them.
    n_left
        Number of left-aligned columns (names); the others are right-aligned (numbers).
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < n_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
