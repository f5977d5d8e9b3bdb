"""Quantize an ONNX file: weights and activations in 8 bits. For the runtimes that time such files, and for export.

Static quantization after training, by onnxruntime, in its QDQ format, which OpenVINO reads as well. torch's own, ``torch.ao.quantization``,
is deprecated in favor of a further package, and what it makes runs in torch only; this file runs wherever ONNX does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...core.silenced import exporters_silenced

__all__ = ["quantize"]

TOGETHER = ("Concat", "Reshape", "Transpose")  # change no number
DIMS_OF_MAPS = 4  # (batch, channels, height, width)


def quantize(float_file: Path, path: Path, calibration: Iterable[Mapping[str, Tensor]]) -> None:
    """Write the network of an ONNX file with weights and activations of 8 bits.

    Weights have a scale per output channel: those of a depthwise convolution, one filter per channel, differ by orders
    of magnitude, and with one scale for all of them most would be left with a few steps. Activations have one scale and
    zero point per tensor, from the least and the greatest value that calibration gives; but what brings answers to their units, or puts together
    what several layers answer, stays as it is, or of several values a small one would have no step left. The file as such, and so its milliseconds, are the
    same whatever it is calibrated by: to time it, a single batch of noise will do. For its accuracy, take images of the task.

    For a network of ``MobileNetV2Space`` and a single image it takes 0.25 s with preset small, 1.5 s at ImageNet's size; most of that is
    a loop of onnxruntime over output channels. With one scale per tensor it would take half, and time other files: small
    networks are 3 % faster so.

    Parameters
    ----------
    float_file
        Not changed, unless it is ``path``.
    calibration
        What to run it on, one or more times: inputs by name.

    Raises
    ------
    ValueError
        Nothing in it can be quantized.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with exporters_silenced(), tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Batch norm goes into the convolutions before it; shapes are fixed, so that symbols need not be followed.
        quant_pre_process(str(float_file), str(prepared), skip_symbolic_shape=True)
        taken = [given.name for given in onnx.load(prepared).graph.input]  # not those that make no difference
        batches = ({name: inputs[name].numpy() for name in taken} for inputs in calibration)
        quantize_static(
            str(prepared), str(path), _Calibration(batches), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=_behind_the_last_layers(onnx.load(prepared).graph),
        )  # fmt: skip
    operators = [node.op_type for node in onnx.load(path).graph.node]
    if "QuantizeLinear" not in operators:
        raise ValueError(
            f"nothing in it can be quantized: it computes {', '.join(sorted(set(operators))) or 'nothing'}"
        )


def _behind_the_last_layers(graph: Any) -> list[str]:
    """What only scales, moves or joins what the last layers answer: products and sums with constants, such as those of a
    :class:`~nni_proxyless.core.scaled_linear.ScaledLinear`, and what puts codes of boxes and logits of classes into one tensor.
    A joined map is no answer: further layers take it, in 8 bits."""
    made_by = {name: node for node in graph.node for name in node.output}
    found = []
    waiting = [(output.name, len(output.type.tensor_type.shape.dim) == DIMS_OF_MAPS) for output in graph.output]
    while waiting:
        name, is_map = waiting.pop()
        node = made_by.get(name)
        if node is None:
            continue
        variable = [name for name in node.input if name in made_by and made_by[name].op_type != "Constant"]
        if (node.op_type in TOGETHER and not is_map) or (node.op_type in ("Mul", "Add") and len(variable) == 1):
            found.append(node.name)
            waiting += [(one, is_map) for one in variable]
    return found


class _Calibration:
    """Inputs in the form that onnxruntime reads."""

    def __init__(self, batches: Iterator[dict[str, Any]]):
        self.batches = batches

    def get_next(self) -> dict[str, Any] | None:
        return next(self.batches, None)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.batches
