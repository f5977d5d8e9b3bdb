"""The derived network: its architecture as a file, and as a model. What stands here is fixed; its code is in :mod:`.models`."""

from __future__ import annotations

from .latency.estimators.macs import count_macs
from .models.architecture import Architecture
from .models.build import build_network, count_parameters, installed_versions
from .models.timm_model import load_weights, to_timm

__all__ = [
    "Architecture",
    "build_network",
    "count_macs",
    "count_parameters",
    "installed_versions",
    "load_weights",
    "to_timm",
]
