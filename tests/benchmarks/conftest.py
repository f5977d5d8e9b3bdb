"""Benchmarks are scripts, which silence loggers for good; where a test runs one in its own process, the next test is to hear them."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in list(logging.root.manager.loggerDict)}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
