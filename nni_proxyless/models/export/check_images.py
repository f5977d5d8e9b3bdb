"""Images to check an exported file with: those of the data set of the search, or noise."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.utils.data import Subset

from ...core.silenced import first_line
from ...data.image_parts import ImageData, loader
from ...data.outputs import outputs_problem
from ...data.validate import make_images
from ...latency.estimators.timing import noise
from ..architecture import Architecture

__all__ = ["CheckImages", "spread", "stacked"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckImages:
    """Images of one size.

    Attributes
    ----------
    shape
        Of one image as the exported network sees it, (channels, height, width). Images of another size are enlarged or
        reduced to it.
    data
        The data set; None where it cannot be had.
    source
        What the images are, for people.
    why_not
        Why there is no data set; empty where there is one.
    """

    shape: tuple[int, ...]
    data: ImageData | None
    source: str
    why_not: str = ""

    @classmethod
    def of(cls, architecture: Architecture, shape: Sequence[int], network: nn.Module | None = None) -> CheckImages:
        """Those of the data set that the architecture names; if it cannot be had, noise, and the log says why.

        So it is where their classes are not those of the network.
        """
        shape = tuple(shape)
        try:
            name = architecture.data["name"]
            data = make_images(name, architecture.data.get("arguments", {}), architecture.task)
            if data.shape[0] != shape[0]:
                raise ValueError(f"its images have {data.shape[0]} channels, the network takes {shape[0]}")
            if network is not None and (problem := outputs_problem(network, torch.zeros(2, *shape), data.task)):
                raise ValueError(f"the network {problem}")
        except Exception as error:  # files that are not here, a module of somebody else's
            known = f"the data set '{architecture.data['name']}'" if "name" in architecture.data else "a data set"
            why = "none is named" if "name" not in architecture.data else first_line(error)
            _logger.warning(
                "%s cannot be had here (%s): files are checked on noise, and nothing is said of accuracy", known, why
            )
            return cls(shape, None, "noise", why)
        size = "" if tuple(data.shape) == shape else f", resized to {shape[1]}x{shape[2]}"
        return cls(shape, data, f"test images of '{name}'{size}")

    def some(self, n: int) -> Tensor:
        """Up to n test images, spread evenly over all; n of noise where there is no data set."""
        if self.data is None:
            return noise(self.shape, n, torch.device("cpu"), "float32")
        return self._stacked(self.data.test, n)

    def calibration(self, n: int) -> Tensor:
        """Up to n training images, not augmented, spread evenly over all: they may be sorted by class."""
        assert self.data is not None
        return self._stacked(self.data.train_plain, n)

    def labeled(self, n: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Up to n test images with their classes, in batches; the last one may be smaller."""
        assert self.data is not None
        for images, targets in loader(spread(self.data.test, n), batch):
            yield self._resized(images), targets

    def _stacked(self, dataset: Any, n: int) -> Tensor:
        return self._resized(stacked(spread(dataset, n)))

    def _resized(self, images: Tensor) -> Tensor:
        if images.shape[1:] == self.shape:
            return images.contiguous()
        return interpolate(images, size=self.shape[1:], mode="bilinear", align_corners=False, antialias=True)


def spread(dataset: Any, n: int) -> Subset:
    """Up to n images of a data set, spread evenly over it: it may be sorted by class."""
    n = min(n, len(dataset))
    return Subset(dataset, [i * len(dataset) // n for i in range(n)])


def stacked(dataset: Any) -> Tensor:
    """Its images as one tensor, (n, channels, height, width)."""
    return torch.stack([dataset[i][0] for i in range(len(dataset))])
