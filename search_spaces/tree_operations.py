"""Operations on the edges of :class:`.PyramidTreeSpace` by name; all keep the number of channels and the size. Needs no NNI.

==========  ==================================================================================================
``id``      nothing
``avg3``    the average of 3x3 pixels, of those that are inside of the map
``max3``    the largest of 3x3 pixels
``dw3``     batch norm, ReLU, depthwise convolution of 3x3, convolution of 1x1: nothing between the two, or after them
``dil3``    the same with a dilation of 2
==========  ==================================================================================================

and others with another odd kernel. As the authors' ``DepthConvLayer`` and ``PoolingLayer``: mit-han-lab/proxylessnas at bf58b5c,
proxyless_nas/layers.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nni_proxyless.core.own_copy import own_copy
from nni_proxyless.latency.operation import Shape, describe, shape_text

from .tree_layout import kernel_of

__all__ = ["DepthwiseOperation", "Operations"]


class DepthwiseOperation(nn.Module):
    """Batch norm, ReLU, depthwise and pointwise convolution.

    Parameters
    ----------
    width
        Channels.
    kernel, dilation
        Of the depthwise convolution.
    """

    treats_images_alone = True  # as the other modules of these networks: :mod:`nni_proxyless.core.joined_batches`

    def __init__(self, width: int, kernel: int, dilation: int = 1):
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        padding = dilation * (kernel // 2)
        self.depthwise = nn.Conv2d(width, width, kernel, padding=padding, dilation=dilation, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(nn.functional.relu(self.norm(x), inplace=True)))


class Operations:
    """Makes operations; of each kind the constructors of torch run once, since a large space has thousands of the same.

    Weights of convolutions are left as the memory was: who makes a network draws them.
    """

    def __init__(self) -> None:
        self._first: dict[tuple[str, int], nn.Module] = {}

    def make(self, name: str, width: int) -> nn.Module:
        """A new operation of that many channels."""
        if (name, width) not in self._first:
            self._first[name, width] = _constructed(name, width)
        return _of_its_own(self._first[name, width])


def _constructed(name: str, width: int) -> nn.Module:
    kernel = kernel_of(name)
    assert kernel is not None, name
    if name == "id":
        return nn.Identity()
    if name.startswith("avg"):
        return nn.AvgPool2d(kernel, 1, kernel // 2, count_include_pad=False)
    if name.startswith("max"):
        return nn.MaxPool2d(kernel, 1, kernel // 2)
    return DepthwiseOperation(width, kernel, dilation=2 if name.startswith("dil") else 1)


def _of_its_own(module: nn.Module) -> nn.Module:
    copied = own_copy(module)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            convolves = isinstance(module, nn.Conv2d)
            copied._parameters[name] = nn.Parameter(
                torch.empty_like(parameter) if convolves else parameter.detach().clone()
            )
    for name, buffer in module._buffers.items():
        if buffer is not None:
            copied._buffers[name] = buffer.clone()
    for name, child in module._modules.items():
        if child is not None:
            copied._modules[name] = _of_its_own(child)
    return copied


@describe.register
def _(module: DepthwiseOperation, input_shape: Shape, output_shape: Shape) -> str:
    conv = module.depthwise
    dilation = f"-dilation:{conv.dilation[0]}" if conv.dilation[0] > 1 else ""
    return f"norm_relu_dw_pw-input:{shape_text(input_shape)}-output:{shape_text(output_shape)}-kernel:{conv.kernel_size[0]}{dilation}"
