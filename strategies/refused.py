"""Strategies of NNI that are not to be had here, and why; without an import, so that whoever names one is told at once."""

from __future__ import annotations

__all__ = ["REFUSED"]

REFUSED: dict[str, str] = {
    "nni-enas": "NNI's ENAS needs tianshou and gym, which this package does not bring, and was not repaired here; proxyless with update "
    "reinforce learns from rewards as well"
}
