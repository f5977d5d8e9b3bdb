"""Quantize an ONNX file: weights and activations in 8 bits.

Static quantization after training, by onnxruntime, in its QDQ format. torch's own, ``torch.ao.quantization``, is deprecated in
favor of a further package, and what it makes runs in torch only; this file runs wherever ONNX does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from ...core.silenced import exporters_silenced

__all__ = ["quantize"]


def quantize(float_file: Path, path: Path, images: Tensor, *, batch: int | None = 1) -> None:
    """Write the network of an ONNX file with weights and activations of 8 bits.

    Weights have a scale per output channel: those of a depthwise convolution, one filter per channel, differ by orders
    of magnitude, and with one scale for all of them most would be left with a few steps. Activations have one scale and
    zero point per tensor, from the least and the greatest value that the calibration images give.

    Parameters
    ----------
    float_file
        Not changed.
    images
        To calibrate by, (n, channels, height, width), as the network sees them: of the training images.
    batch
        Of the file; None where it is free. An incomplete last batch is left out.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with exporters_silenced(), tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        # Batch norm goes into the convolutions before it; shapes are fixed, so that symbols need not be followed.
        quant_pre_process(str(float_file), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared), str(path), _Calibration(images, batch), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
    onnx.checker.check_model(onnx.load(path), full_check=True)


class _Calibration:
    """Batches of images in the form that onnxruntime reads."""

    def __init__(self, images: Tensor, batch: int | None):
        parts = images.split(batch or 32)
        self._left = iter([part for part in parts if batch is None or len(part) == batch])

    def get_next(self) -> dict | None:
        part = next(self._left, None)
        return None if part is None else {"input": part.numpy()}

    def __iter__(self) -> Iterator[dict]:
        return iter(self.get_next, None)
