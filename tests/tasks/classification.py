"""A task that has seen its images."""

from __future__ import annotations

from nni_proxyless.tasks import Classification

__all__ = ["classification"]


def classification(num_classes: int) -> Classification:
    """Of so many classes."""
    task = Classification()
    task.begin(num_classes, (3, 8, 8), list(range(num_classes)))
    return task
