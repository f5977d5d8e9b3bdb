"""Rows of text as a table for people: columns of equal width."""

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
        So many columns begin at the same place, as names do; the others end at the same place, as numbers do.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < n_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
