"""Load the network of an ``architecture.json`` with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ...core.errors import UserError
from ...core.silenced import first_line
from ..architecture import Architecture
from ..build import build_network
from ..timm_model import load_weights, total_stride

if TYPE_CHECKING:  # it needs NNI
    from ...latency.operation import Shape

__all__ = ["check_size", "find_weights", "load_network"]


def find_weights(architecture: Path, given: Path | None) -> tuple[Path, str]:
    """Choose the weights, and say what they are: trained, from the search, or named by the user.

    Raises
    ------
    UserError
        There are none.
    """
    if given is not None:
        if not given.is_file():
            raise UserError(f"--weights {given}: no such file")
        return given, "named"
    trained, left = architecture.parent / "final" / "weights.safetensors", architecture.with_name("weights.safetensors")
    for path, what in ((trained, "trained"), (left, "as the search left them")):
        if path.is_file():
            return path, what
    raise UserError(f"{left}: no such file, nor final/weights.safetensors beside it; name one: --weights FILE")


def load_network(path: Path, architecture: Architecture, weights: Path) -> nn.Module:
    """The derived network with its weights, in evaluation mode.

    Raises
    ------
    UserError
        The architecture makes no network, or the weights are those of another one.
    """
    tensors = load_weights(weights)
    try:
        network = build_network(architecture)
    except Exception as error:  # timm's parser and somebody's space raise what they like
        raise UserError(f"{path}: it makes no network: {first_line(error)}") from error
    wanted = network.state_dict()
    wrong = [f"'{name}' is missing" for name in wanted if name not in tensors]
    wrong += [f"'{name}' is too many" for name in tensors if name not in wanted]
    wrong += [
        f"'{name}' is {_size(tensors[name])}, the network has {_size(tensor)}"
        for name, tensor in wanted.items()
        if name in tensors and tensor.shape != tensors[name].shape
    ]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(f"{weights}: the weights of another network than {path}: {wrong[0]}{more}")
    network.load_state_dict(tensors)
    return network.eval()


@torch.no_grad()
def check_size(architecture: Architecture, network: nn.Module, shape: Shape, batch: int) -> None:
    """Refuse images of a size that the network cannot process.

    Raises
    ------
    UserError
        They are smaller than the total stride of the network, or the network does not run on them.
    """
    side = f"{shape[1]}x{shape[2]}"
    definition = architecture.network
    if definition is not None and "resolution" not in definition:  # else it takes any size
        stride = total_stride(definition)
        if min(shape[1:]) < stride:
            raise UserError(
                f"--input-size is {side}; the network makes maps {stride} times smaller; allowed: {stride} or more, each"
            )
    try:
        network(torch.zeros(batch, *shape))
    except RuntimeError as error:
        raise UserError(f"--input-size is {side}; the network does not run on it: {first_line(error)}") from error


def _size(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
