"""The checksum of a table. Standard library only: ``nni-proxyless latency export`` copies this file to the target."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["checksum"]


def checksum(content: Mapping[Any, Any]) -> str:
    """16 hex digits over everything but the checksum itself, whatever the order and layout of the file."""
    rest = {str(name): part for name, part in content.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()[:16]
