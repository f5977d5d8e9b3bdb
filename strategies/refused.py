"""Strategies of NNI that are refused, with the reason; no import, so the message comes at once."""

from __future__ import annotations

__all__ = ["REFUSED"]

REFUSED: dict[str, str] = {
    "nni-enas": "NNI's ENAS needs tianshou and gym, which this package does not bring, and was not repaired here; proxyless with update "
    "reinforce learns from rewards as well"
}
