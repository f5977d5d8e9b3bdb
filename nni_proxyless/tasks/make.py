"""A task by its name, as ``search.yml`` and ``architecture.json`` have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import registry
from ..core.errors import UserError
from .task import Task

__all__ = ["CLASSIFICATION", "make_task"]

CLASSIFICATION: Mapping[str, Any] = {"name": "classification", "arguments": {}}


def make_task(described: Mapping[str, Any]) -> Task:
    """A new task, which has not seen its images yet.

    Parameters
    ----------
    described
        ``{'name': …, 'arguments': {…}}``.

    Raises
    ------
    UserError
        There is nothing behind the name, it refuses its arguments, or it makes something else than a task.
    """
    name = described["name"]
    try:
        task = registry.load("nni_proxyless.tasks", name)(**described["arguments"])
    except (ValueError, TypeError) as error:
        raise UserError(f"task: {name}: {error}") from error
    if not isinstance(task, Task):
        raise UserError(f"task: {name} gives a {type(task).__name__}; allowed: a nni_proxyless.tasks.Task")
    return task
