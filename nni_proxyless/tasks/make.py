"""A task by its name, as ``search.yml`` and ``architecture.json`` have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import registry
from ..core.errors import UserError
from .check import problem_of_task
from .task import Task

__all__ = ["make_task"]


def make_task(described: Mapping[str, Any]) -> Task:
    """A new task, which has not seen its images yet.

    Parameters
    ----------
    described
        ``{'name': …, 'arguments': {…}}``.

    Raises
    ------
    UserError
        There is nothing behind the name, it refuses its arguments, it makes something else than a task, or one that does not say what it has to.
    """
    name = described["name"]
    try:
        task = registry.load("nni_proxyless.tasks", name)(**described["arguments"])
    except Exception as error:  # of somebody's class
        raise UserError(f"task: {name}: {error or type(error).__name__}") from error
    if not isinstance(task, Task):
        raise UserError(f"task: {name} gives a {type(task).__name__}; allowed: a nni_proxyless.tasks.Task")
    if problem := problem_of_task(task):
        raise UserError(f"task: {name}: {problem}")
    return task
