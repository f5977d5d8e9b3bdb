"""Keys of timm's blocks in lookup tables: those of the published tables, and what follows them where a block is none of these.

=====================================================================================  ====================================
``expanded_conv-input:…-output:…-expand:3-kernel:5-stride:1-idskip:1``                  as published: ReLU6, no squeeze
``… -se:6``                                                                            squeeze-and-excitation, 6 channels
``… -gate:Hardsigmoid``                                                                another gate of it than a sigmoid
``… -act:Hardswish``                                                                   another activation than ReLU6
``… -pad:same``                                                                        its kernel pads as TensorFlow does
``… -pw:1``                                                                            expansion 1, and still a convolution for it
``conv-input:…-output:…-kernel:1-stride:2-idskip:0``                                   a bare convolution
=====================================================================================  ====================================

Tables that were made before keys said so have blocks with ReLU, and of expansion 1, under the plain key; it is among their other names.
"""

from __future__ import annotations

from typing import Any

from timm.layers import Conv2dSame
from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, InvertedResidual
from torch import nn

from nni_proxyless.latency.operation import Shape, describe, other_names, shape_text

__all__: list[str] = []

PUBLISHED = "ReLU6"
ONCE_FOR_ALL = {"ReLU6": 0, "Hardswish": 1}  # of its keys: hs
AS_QUICK = ("ReLU6", "ReLU")

Names = tuple[tuple[str, ...], ...]


@describe.register
def _(module: InvertedResidual, input_shape: Shape, output_shape: Shape) -> str:
    return _plain_key(module, input_shape, output_shape) + _beyond(module)


@describe.register
def _(module: DepthwiseSeparableConv, input_shape: Shape, output_shape: Shape) -> str:
    return _plain_key(module, input_shape, output_shape) + _beyond(module)


@describe.register
def _(module: ConvBnAct, input_shape: Shape, output_shape: Shape) -> str:
    kernel, stride = module.conv.kernel_size[0], module.conv.stride[0]
    groups = f"-groups:{module.conv.groups}" if module.conv.groups > 1 else ""
    return (
        f"conv-input:{shape_text(input_shape)}-output:{shape_text(output_shape)}-kernel:{kernel}-stride:{stride}"
        f"-idskip:{int(module.has_skip)}{groups}{_activation(module)}{_padding(module.conv)}"
    )


@other_names.register
def _(module: InvertedResidual, input_shape: Shape, output_shape: Shape) -> Names:
    return _published(module, input_shape, output_shape, module.conv_pw.out_channels)


@other_names.register
def _(module: DepthwiseSeparableConv, input_shape: Shape, output_shape: Shape) -> Names:
    return _published(module, input_shape, output_shape, input_shape[0])


def _published(module: Any, input_shape: Shape, output_shape: Shape, expanded: int) -> Names:
    """Keys of once-for-all go on with squeeze-and-excitation and the activation, and ``expand`` is a number of channels there.

    Its squeeze-and-excitation is another one than timm's.
    """
    if _squeezed(module):
        return ()
    activation, plain = _activation_of(module), _plain_key(module, input_shape, output_shape)
    older = ((plain,),) if activation in AS_QUICK and _beyond(module) else ()
    if activation not in ONCE_FOR_ALL:
        return older
    key = _expanded_conv(module, input_shape, output_shape, expanded)
    return ((f"{key}-se:0-hs:{ONCE_FOR_ALL[activation]}",), *older)


def _plain_key(module: Any, input_shape: Shape, output_shape: Shape) -> str:
    expands = isinstance(module, InvertedResidual)
    expand = module.conv_pw.out_channels / module.conv_pw.in_channels if expands else 1
    return _expanded_conv(module, input_shape, output_shape, expand)


def _expanded_conv(module: Any, input_shape: Shape, output_shape: Shape, expand: float) -> str:
    """The key of a block in the published ProxylessNAS tables."""
    kernel, stride = module.conv_dw.kernel_size[0], module.conv_dw.stride[0]
    return (
        f"expanded_conv-input:{shape_text(input_shape)}-output:{shape_text(output_shape)}"
        f"-expand:{expand:g}-kernel:{kernel}-stride:{stride}-idskip:{int(module.has_skip)}"
    )


def _beyond(module: Any) -> str:
    """What the published tables' blocks do not have."""
    squeezed = _squeezed(module)
    expands = isinstance(module, InvertedResidual) and module.conv_pw.out_channels == module.conv_pw.in_channels
    return "".join(
        (
            f"-se:{squeezed}{_gate(module)}" if squeezed else "",
            _activation(module),
            "-pw:1" if expands else "",
            _padding(module.conv_dw),
        )
    )


def _squeezed(module: Any) -> int:
    """Channels of its squeeze-and-excitation; 0 without."""
    reduce = getattr(module.se, "conv_reduce", None)
    return 0 if reduce is None else int(reduce.out_channels)


def _padding(conv: nn.Module) -> str:
    return "-pad:same" if isinstance(conv, Conv2dSame) else ""


def _gate(module: Any) -> str:
    """Of its squeeze-and-excitation; nothing for timm's default."""
    name = type(module.se.gate).__name__
    return "" if name == "Sigmoid" else f"-gate:{name}"


def _activation(module: Any) -> str:
    name = _activation_of(module)
    return "" if name == PUBLISHED else f"-act:{name}"


def _activation_of(module: nn.Module) -> str:
    return type(module.bn1.act).__name__  # type: ignore[union-attr]  # timm's BatchNormAct2d
