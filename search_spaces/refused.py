"""Spaces of NNI's hub that are refused, with the reason; no import, so the message comes at once."""

from __future__ import annotations

__all__ = ["REFUSED"]

REFUSED: dict[str, str] = {
    "nasbench101": "NasBench101 draws the edges of its cell under a limit on all of them together, and its operations have channels "
    "that depend on every edge, so its choices cannot be drawn one by one; nasbench201 is a space of cells that works here",
}
