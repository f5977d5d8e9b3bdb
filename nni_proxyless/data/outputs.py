"""Check that a network answers as its task wants it, one output per class, before it is trained."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.garbage import collection_paused
from ..core.random_state import generators_kept
from ..tasks import Task
from .accuracy import as_channels_last
from .image_parts import ImageData

__all__ = ["FILLED_IN", "outputs_problem", "require_outputs", "two_images", "where_classes_are_given"]

FILLED_IN = ("num_classes", "num_labels")  # arguments of a space's constructor that get the number of classes


@torch.no_grad()
def outputs_problem(network: nn.Module, images: Tensor, task: Task) -> str | None:
    """The problem with the outputs of a network, or None.

    Parameters
    ----------
    network
        Not changed, and no random number is drawn: a copy of it runs once, in evaluation mode.
    images
        Shape (n, channels, height, width), in the type in which they will come: float64 where all is computed so, which turns the
        network's weights too (``trainer.precision: 64-true``).
    task
        Says what is expected of each image.
    """
    wanted = task.output_shape()
    with collection_paused():
        copied = copy.deepcopy(network).eval()
    if images.dtype is torch.float64:
        copied.double()
    like = next(copied.parameters(), images)
    try:
        with generators_kept():
            found: Any = copied(as_channels_last(images.to(like.device)))  # in their type: nothing converts them later
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:  # of somebody's forward
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        return f"does not run on images of shape {tuple(images.shape[1:])}: {said}{_other_type(copied, images)}"
    allowed = f"(batch, {', '.join(map(str, wanted))})"
    if not isinstance(found, Tensor):
        return f"gives a {type(found).__name__}; allowed: a tensor of shape {allowed}"
    if tuple(found.shape) != (len(images), *wanted):
        sizes = ["batch" if size == len(images) and i == 0 else str(size) for i, size in enumerate(found.shape)]
        return f"gives outputs of shape ({', '.join(sizes)}), where the images have {task.n_outputs} {task.answers}; allowed: {allowed}"
    return None


def _other_type(network: nn.Module, images: Tensor) -> str:
    """What may have kept a network from running on images of this type, in words; empty if its weights are of it."""
    types = sorted({str(p.dtype).removeprefix("torch.") for p in network.parameters() if p.is_floating_point()})
    images_are = str(images.dtype).removeprefix("torch.")
    if types in ([], [images_are]):
        return ""
    return f". It has weights of {' and '.join(types)}, the images are {images_are}; allowed: weights of {images_are}, or a forward that converts"


def require_outputs(
    network: nn.Module, data: ImageData, what: str, advice: str = "", *, precision: str = "32-true"
) -> None:
    """Refuse a network that does not fit the images and their task.

    Parameters
    ----------
    what
        The network, for people: what an error begins with.
    advice
        What an error about the number of classes ends with.
    precision
        Lightning's, in which it will be trained.

    Raises
    ------
    UserError
        It does not run on them, or answers with another number of outputs.
    """
    images = two_images(data)
    if precision == "64-true":
        images = images.double()
    if problem := outputs_problem(network, images, data.task):
        raise UserError(f"{what} {problem}{advice if 'where the images have' in problem else ''}")


def two_images(data: ImageData) -> Tensor:
    """The first and the last training image, as they are evaluated; reading them leaves the global generators alone."""
    images: Any = data.train_plain
    with generators_kept():
        return torch.stack([images[0][0], images[len(images) - 1][0]])


def where_classes_are_given(accepted: Iterable[str], given: Mapping[str, Any], num_classes: int) -> str:
    """By which argument a space gets to know how many classes there are, in words.

    Parameters
    ----------
    accepted
        Arguments of its constructor.
    given
        Those that the configuration sets itself.
    """
    names = list(accepted)
    if ours := [name for name in FILLED_IN if name in names]:
        if set(ours) & given.keys():
            return f". Leave out space.{ours[0]}: a search fills it in"
        return f". Its constructor got {ours[0]}={num_classes}"
    likely = [name for name in names if any(word in name.lower() for word in ("class", "label", "categor"))]
    likely += difflib.get_close_matches("num_classes", names, n=1) + [name for name in names if "out" in name.lower()]
    filled = f"A search fills in an argument called {' or '.join(FILLED_IN)}"
    if likely:
        return f". {filled}; name {likely[0]!r} so, or give it: space.{likely[0]}={num_classes}"
    return f". {filled}; its constructor takes {', '.join(names) or 'none'}"
