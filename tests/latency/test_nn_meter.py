"""nn-Meter through NNI: what can be checked without its predictors, which it fetches from the internet."""

from __future__ import annotations

import importlib.util

import pytest
from nni.nas.profiler.pytorch.utils import ShapeTensor, submodule_input_output_shapes
from nni_proxyless.search_spaces import MobileNetV2Space

from nni_proxyless.latency import trace_operations
from nni_proxyless.latency.estimators.nn_meter import NnMeterEstimator, alone


@pytest.mark.skipif(importlib.util.find_spec("nn_meter") is not None, reason="nn-Meter is there")
def test_without_nn_meter_it_says_what_to_install():
    said = "nn-Meter does not import: No module named 'nn_meter'; install it: pip install nn-meter onnx onnxruntime onnxsim"
    with pytest.raises(ValueError, match=said):
        NnMeterEstimator()


def test_the_shapes_that_nnis_profiler_needs_are_there():
    """NNI's shape inference does not know timm's layers; an operation as a whole it takes."""
    for operation in trace_operations(MobileNetV2Space("small", num_classes=10), (3, 32, 32))[:6]:
        space, x = alone(operation)
        shapes = submodule_input_output_shapes(space, ShapeTensor(x, True))
        inputs, outputs = shapes["operation"]
        assert tuple(inputs[0]) == tuple(x.shape)
        assert tuple(outputs) == tuple(space(x).shape)
        assert not operation.module._forward_hooks
