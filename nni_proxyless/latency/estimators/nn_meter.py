"""nn-Meter's latency predictors, through NNI's own profiler."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from ..estimator import LatencyEstimator
from ..operation import Operation, Shape

__all__ = ["NnMeterEstimator"]


class NnMeterEstimator(LatencyEstimator):
    """Asks nn-Meter how long each operation takes on a phone or an accelerator that is not there.

    Needs nn-Meter with onnx, onnxruntime and onnxsim; it fetches its predictors when they are first used. Of every operation
    NNI's ``NnMeterProfiler`` makes an ONNX model, in which nn-Meter finds the kernels that the target fuses.

    Parameters
    ----------
    predictor
        A name that nn-Meter knows, such as ``cortexA76cpu_tflite21``, ``adreno640gpu_tflite21``, ``myriadvpu_openvino2019r2``.

    Raises
    ------
    ValueError
        nn-Meter is not installed, or does not know the predictor.
    """

    def __init__(self, predictor: str = "cortexA76cpu_tflite21"):
        try:
            from nn_meter import load_latency_predictor

            from ...core.nni_compat import NnMeterProfiler
        except ImportError as error:
            raise ValueError(
                f"nn-Meter does not import: {error}; install it: pip install nn-meter onnx onnxruntime onnxsim"
            ) from error
        try:
            self._predictor = load_latency_predictor(predictor)
        except Exception as error:  # it knows predictors by files that it fetches
            raise ValueError(f"predictor {predictor!r}: {error}") from error
        self._profiler, self.predictor = NnMeterProfiler, predictor

    @property
    def conditions(self) -> Mapping[str, object]:
        return {"device": self.predictor, "runtime": "nn-Meter", "batch": 1}

    def estimate(self, operation: Operation) -> float:
        """Predicted milliseconds of one run on one sample.

        Raises
        ------
        KeyError
            nn-Meter cannot deal with the operation; the message has its reason.
        """
        if operation.call is not None and operation.call.plain_shapes() is None:
            raise KeyError(
                f"nn-Meter does not know '{operation.key}': it is called with {operation.input_text} and gives "
                f"{operation.call.output_text}; allowed: one batch of floats each"
            )
        space, x = alone(operation)
        try:
            profiler = self._profiler(space, x, self._predictor, custom_leaf_types=(Whole,))
            return float(profiler.profile({}))
        except Exception as error:
            raise KeyError(f"nn-Meter does not know '{operation.key}': {type(error).__name__}: {error}") from error


class Whole(nn.Module):
    """An operation that NNI's shape inference takes as it is: it knows no layers of timm, and need not look inside."""

    operation: nn.Module

    def __init__(self, operation: nn.Module, output_shape: Shape):
        super().__init__()
        self.output_shape = output_shape
        object.__setattr__(self, "operation", operation)  # no submodule: NNI looks into those

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(x)

    def _shape_forward(self, x: Any) -> Any:
        from ...core.nni_compat import MutableShape

        return MutableShape(x.real_shape[0], *self.output_shape)


class _Alone(ModelSpace):
    """One operation as a model space without choices."""

    def __init__(self, operation: Whole):
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        return self.operation(x)


@torch.no_grad()
def alone(operation: Operation) -> tuple[ModelSpace, Tensor]:
    """An operation as a model space, and an input for it."""
    module, x = copy.deepcopy(operation.module).eval(), torch.zeros(1, *operation.input_shape)
    return _Alone(Whole(module, tuple(module(x).shape[1:]))), x
