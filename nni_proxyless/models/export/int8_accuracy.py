"""What 8 bits cost a network in accuracy, before anybody exports it."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.silenced import first_line
from ...tasks import Task
from .check_images import spread, stacked
from .compare import merits
from .onnx_format import OnnxNetwork, write_int8, write_onnx

__all__ = ["CALIBRATION_IMAGES", "int8_merit", "is_for_int8"]

_logger = logging.getLogger(__name__)

CALIBRATION_IMAGES = 256
BATCH = 32


def is_for_int8(conditions: Mapping[str, Any]) -> bool:
    """Whether milliseconds of these conditions are those of networks in 8 bits."""
    return conditions.get("precision") == "int8"


def int8_merit(
    network: nn.Module, training: Any, judged: Iterable[tuple[Tensor, Tensor]], task: Task
) -> float | None:  # fmt: skip
    """The task's figure of merit of a network that is quantized as ``export`` does it, in ONNX Runtime whatever the runtime of the search.

    Parameters
    ----------
    network
        With its weights. Not changed.
    training
        A data set of (image, target), not augmented; up to 256 images of it, spread evenly over all, calibrate.
    judged
        Batches of images with their targets, others than these.

    Returns
    -------
    float or None
        None where it cannot be quantized, which the log says: no reason to lose a search or a training.
    """
    try:
        images = stacked(spread(training, CALIBRATION_IMAGES))
        with tempfile.TemporaryDirectory(prefix="nni-proxyless-") as folder:
            float_file, file = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
            write_onnx(copy.deepcopy(network).float(), images.shape[1:], float_file, batch=None)
            write_int8(float_file, file, images, batch=None)
            run = OnnxNetwork(file, torch.get_num_threads())
        return merits({"int8": run}, judged, BATCH, task)["int8"]
    except Exception as error:  # exporters and runtimes raise what they like, and the network may be anybody's
        _logger.warning("the %s in int8 is not known: %s", task.merit.name, first_line(error))
        return None
