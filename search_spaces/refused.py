"""Spaces of NNI's hub that are refused, with the reason; no import, so the message comes at once."""

from __future__ import annotations

__all__ = ["REFUSED"]

_CELL = (
    "{} is made of cells that make their operations for each chosen input, which have no latency here; nasbench201 is a space of "
    "cells that works here"
)

REFUSED: dict[str, str] = {
    "nasbench101": "NasBench101 draws the edges of its cell under a limit on all of them together, and its operations have channels "
    "that depend on every edge, so its choices cannot be drawn one by one; nasbench201 is a space of cells that works here",
    "darts": _CELL.format("DARTS"),
    "enas": _CELL.format("ENAS"),
    "nasnet": _CELL.format("NASNet"),
    "amoebanet": _CELL.format("AmoebaNet"),
    "pnas": _CELL.format("PNAS"),
}
