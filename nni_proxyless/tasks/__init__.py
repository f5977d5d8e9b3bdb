"""What is learned from images: a loss, a figure of merit, what a target is, and how a space becomes one of the task's networks."""

from .classification import Classification
from .multi_label import MultiLabel
from .regression import Regression
from .segmentation import Segmentation
from .task import Task

__all__ = ["Classification", "MultiLabel", "Regression", "Segmentation", "Task"]
