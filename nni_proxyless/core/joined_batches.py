"""Batches computed together whose batch norms still see them one by one: the same numbers to the bit, from fewer calls.

A convolution of 32 small images takes as long to call as to compute, and of 256 half as long each. Only batch norm in training mode
looks at other images of a batch, so a network of which that is known can be given several batches at once, if each of its norms is
given them one after the other. Some convolutions sum in another order where they are given more images: each is asked once, by
computing both ways, and one that differs is given its batches one after the other too.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

__all__ = ["batches_apart", "can_join", "groups_of"]

MOST = 2**16  # numbers in the images of a group, such as 8 batches of 32 images of 16x16: more of them leave the caches

# By name, so that timm need not be imported: modules that compute each image by itself, and draw no random number.
_ALONE = {
    "torch.nn.modules": ("linear.Linear", "linear.Identity", "container.Sequential", "container.ModuleList", "activation.ReLU", "activation.ReLU6",
                         "activation.Hardswish", "activation.Hardsigmoid", "activation.Sigmoid", "activation.SiLU", "activation.GELU",
                         "activation.PReLU", "activation.LeakyReLU", "pooling.AdaptiveAvgPool2d", "pooling.AvgPool2d", "pooling.MaxPool2d"),
    "timm": ("models._efficientnet_blocks.ConvBnAct", "models._efficientnet_blocks.DepthwiseSeparableConv",
             "models._efficientnet_blocks.InvertedResidual", "models._efficientnet_blocks.EdgeResidual",
             "models._efficientnet_blocks.SqueezeExcite", "layers.adaptive_avgmax_pool.SelectAdaptivePool2d"),
    "torchvision": ("ops.misc.Conv2dNormActivation", *(f"models.detection.ssdlite.SSDLite{part}Head" for part in ("", "Classification", "Regression"))),
}  # fmt: skip
_NORMS = (
    "torch.nn.modules.batchnorm.BatchNorm1d",
    "torch.nn.modules.batchnorm.BatchNorm2d",
    "timm.layers.norm_act.BatchNormAct2d",
)
_NAMES = {f"{top}.{name}" for top, names in _ALONE.items() for name in names}


def can_join(network: nn.Module, norms: Sequence[Any]) -> bool:
    """Whether batches may be computed together: every module but these norms is known to compute each image by itself.

    Of a module of torch or timm the class is known; any other says so with ``treats_images_alone``, for its class alone: what inherits
    may do something else. On anything but a CPU the results of a convolution depend on how many images it is given.

    Parameters
    ----------
    norms
        Those that the batches are given to one by one.
    """
    apart = set(norms)
    parameters = list(network.parameters())
    return all(p.device.type == "cpu" for p in parameters) and all(
        _is_plain(module) and (_name(module) in _NORMS if module in apart else _alone(module))
        for module in network.modules()
    )


def groups_of(batches: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Batches one after the other in lists, of which each may be computed together."""
    group: list[Tensor] = []
    for batch in batches:
        if group and (batch.shape[1:] != group[0].shape[1:] or sum(b.numel() for b in (*group, batch)) > MOST):
            yield group
            group = []
        group.append(batch)
    if group:
        yield group


@contextmanager
def batches_apart(network: nn.Module, norms: Sequence[Any], sizes: Sequence[int]) -> Iterator[None]:
    """Inside, batches of so many images, given together, come to the same as one after the other, in a network that :func:`can_join`."""
    kinds = (_ConvNd, nn.Linear)
    products: list[Any] = [m for m in network.modules() if isinstance(m, kinds)] if len(sizes) > 1 else []
    for norm in norms:
        norm.forward = functools.partial(_one_by_one, norm.forward, list(sizes))
    for product in products:
        product.forward = functools.partial(_the_same, product.forward, product, list(sizes))
    try:
        yield
    finally:
        for module in (*norms, *products):
            del module.forward


def _one_by_one(forward: Any, sizes: list[int], x: Tensor) -> Tensor:
    return torch.cat([forward(part) for part in x.split(sizes)])


_is_same: dict[tuple, bool] = {}  # what a convolution is and what it is given -> whether together it gives the same


def _the_same(forward: Any, product: Any, sizes: list[int], x: Tensor) -> Tensor:
    of_convolution = [getattr(product, name, None) for name in ("stride", "padding", "dilation", "groups")]
    weight = product.weight
    what = (type(product), weight.dtype, weight.shape, weight.stride(), product.bias is None, *of_convolution)
    key = (*what, x.shape, x.stride(), *sizes, torch.get_num_threads())
    if key not in _is_same:
        together, apart = forward(x), _one_by_one(forward, sizes, x)
        _is_same[key] = torch.equal(together, apart)
        return apart
    return forward(x) if _is_same[key] else _one_by_one(forward, sizes, x)


def _name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _is_plain(module: nn.Module) -> bool:
    """Whether it is called as its class says."""
    return "forward" not in vars(module) and not module._forward_hooks and not module._forward_pre_hooks


def _alone(module: nn.Module) -> bool:
    if isinstance(module, _BatchNorm):
        return not module.training and _name(module) in _NORMS
    if isinstance(module, nn.Flatten):
        return module.start_dim == 1
    name = _name(module)
    if name in _NAMES or (name.startswith("torch.nn.modules.conv.") and "Lazy" not in name):
        return True
    declared = vars(type(module)).get("treats_images_alone", False)
    return bool(declared.__get__(module) if isinstance(declared, property) else declared)
