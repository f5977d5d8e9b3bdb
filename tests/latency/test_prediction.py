"""Predicting what a table lacks: hand counts of features, a truth inside the model, and the published table."""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from nni_proxyless.search_spaces import MobileNetV2Space
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn

from nni_proxyless.latency import LookupTable, Measurement, Operation, trace_operations
from nni_proxyless.latency.tables.predict import features, fit, predict_missing

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "proxylessnas_pixel1_lookup_table.yaml"


def block(width: int, out: int, size: int, kernel: int = 3, stride: int = 1, expand: int = 3) -> Operation:
    module = InvertedResidual(width, out, dw_kernel_size=kernel, stride=stride, exp_ratio=expand)
    return Operation(f"block-{width}-{out}-{size}-{kernel}-{stride}-{expand}", module, (width, size, size))


def linear(inputs: int, outputs: int) -> Operation:
    return Operation(f"linear-{inputs}-{outputs}", nn.Linear(inputs, outputs), (inputs,))


@functools.cache
def many() -> list[Operation]:
    blocks = [
        block(w, 2 * w, size, k, s, e)
        for (w, size), k, s, e in itertools.product(((8, 16), (16, 8)), (3, 5), (1, 2), (3, 6))
    ]
    return [*blocks, *(linear(a, b) for a, b in ((64, 10), (256, 512), (1024, 256)))]


# -- features ------------------------------------------------------------------------------------------------------------


def test_features_of_a_block_by_hand():
    """A pointwise, a depthwise 5x5 of stride 2, a pointwise convolution; its batch norms and activations move bytes."""
    expanded, before, after = 24, 16 * 16, 8 * 8
    found = features(block(8, 16, 16, kernel=5, stride=2))
    grouped = expanded * after * 25
    assert found["operation"] == 1
    assert found["dense_macs"] * 1e6 == pytest.approx(8 * expanded * before + expanded * 16 * after)
    assert found["grouped_macs"] * 1e6 == pytest.approx(grouped)
    assert found["grouped_macs_x_kernel"] * 1e6 == pytest.approx(5 * grouped)
    assert found["strided_outputs"] * 1e6 == pytest.approx(expanded * after)
    # Weight, bias, mean and variance of a batch norm; each of the two activations is a layer of its own.
    weights = 8 * expanded + 25 * expanded + expanded * 16 + 4 * (2 * expanded + 16)
    assert found["weight_mbytes"] * 1e6 == pytest.approx(4 * weights)
    wide, narrow = expanded * before, expanded * after
    elements = (
        (8 * before + wide) + 2 * 2 * wide + (wide + narrow) + 2 * 2 * narrow + (narrow + 16 * after) + 2 * 16 * after
    )
    assert found["activation_mbytes"] * 1e6 == pytest.approx(4 * elements)


def test_features_of_a_linear_layer_by_hand():
    assert features(linear(64, 10)) == pytest.approx(
        {
            "operation": 1, "dense_macs": 640e-6, "grouped_macs": 0, "grouped_macs_x_kernel": 0, "strided_outputs": 0,
            "activation_mbytes": 4e-6 * 74, "weight_mbytes": 4e-6 * 650,
        }
    )  # fmt: skip


def test_features_leave_the_operation_as_it_is():
    """Mode of every part, statistics, and no hook stays."""
    operation = block(8, 8, 4)
    operation.module.train()
    operation.module.bn1.eval()
    before = {name: tensor.clone() for name, tensor in operation.module.state_dict().items()}
    assert features(operation) == features(operation)
    assert operation.module.training
    assert not operation.module.bn1.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in operation.module.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in operation.module.modules())


def test_an_operation_that_does_not_run_is_named():
    with pytest.raises(ValueError, match=r"operation 'bad' on input 5: .*shapes cannot be multiplied"):
        features(Operation("bad", nn.Linear(4, 4), (5,)))


# -- the fit -------------------------------------------------------------------------------------------------------------

TRUTH = {
    "operation": 0.01, "dense_macs": 0.3, "grouped_macs": 0.9, "grouped_macs_x_kernel": 0.05, "strided_outputs": 2.0,
    "activation_mbytes": 0.25, "weight_mbytes": 0.5,
}  # fmt: skip


@functools.cache
def truth(operation: Operation) -> float:
    return sum(TRUTH[name] * value for name, value in features(operation).items())


def test_a_truth_inside_the_model_is_recovered():
    """Without noise every coefficient, and so any other operation, to rounding; left-out rows as well."""
    operations = many()
    prediction = fit(operations, [truth(op) for op in operations])
    assert prediction.coefficients == pytest.approx(TRUTH, rel=1e-6)
    unseen = block(16, 24, 20, kernel=7, stride=2, expand=4)
    assert prediction.predict(unseen) == pytest.approx(truth(unseen), rel=1e-9)
    assert prediction.error.worst < 1e-6


def test_a_row_is_predicted_from_the_others_alone():
    """One that took twice as long: from rows that agree it is predicted half of that, in a fit with it more."""
    operations = many()
    ms = [truth(op) * (2 if i == 3 else 1) for i, op in enumerate(operations)]
    assert fit(operations, ms, folds=len(operations)).error.worst >= 0.5 - 1e-6
    assert fit(operations, ms).predict(operations[3]) > 0.51 * ms[3]


def test_the_order_of_rows_makes_no_difference():
    """Folds go by key."""
    operations = many()
    ms = [truth(op) * (1 + 0.1 * (i % 3)) for i, op in enumerate(operations)]
    one, other = fit(operations, ms), fit(operations[::-1], ms[::-1])
    assert one == other
    assert one.error.mean > 1e-3
    assert str(one.error).startswith(f"{len(operations)} operations, 10 folds: relative error ")


def test_no_coefficient_is_negative():
    """Where unconstrained least squares would take off for bytes, nothing is predicted below 0."""
    operations = many()
    ms = [max(1e-3, truth(op) - 0.3 * features(op)["activation_mbytes"]) for op in operations]
    prediction = fit(operations, ms)
    assert all(value >= 0 for value in prediction.coefficients.values())
    assert 0 in prediction.coefficients.values()
    assert prediction.predict(block(8, 16, 16, expand=9)) >= 0


def test_the_relative_error_is_what_is_minimised():
    """Rows that no fit can meet: no coefficient can be changed, within w >= 0, to a smaller sum of squared relative errors."""
    operations = many()
    ms = np.array([truth(op) * (1 + 0.3 * (i % 2)) for i, op in enumerate(operations)])
    found = fit(operations, ms.tolist()).coefficients
    x = np.array([[features(op)[name] for name in found] for op in operations])
    w = np.array(list(found.values()))

    def loss(w: np.ndarray) -> float:
        return float((((x @ w - ms) / ms) ** 2).sum())

    assert loss(w) > 0.1
    for i, truth_i in enumerate(TRUTH.values()):
        for step in (1e-3 * truth_i, -1e-3 * truth_i):
            moved = w + step * np.eye(len(w))[i]
            assert moved[i] < 0 or loss(moved) > loss(w)


def test_what_cannot_be_fitted_is_refused():
    operations = many()
    ms = [truth(op) for op in operations]
    with pytest.raises(
        ValueError,
        match=r"5 measured operations; needed: at least 14, twice as many as they have features \(operation, ",
    ):
        fit(operations[:5], ms[:5])
    with pytest.raises(ValueError, match="0 measured operations; needed: at least 2"):
        fit([], [])
    with pytest.raises(ValueError, match=f"{len(ms)} operations, but 3 times; allowed: one time each"):
        fit(operations, ms[:3])
    with pytest.raises(ValueError, match="'linear-64-10' stands there 2 times; allowed: once"):
        fit([*operations, linear(64, 10)], [*ms, 1.0])
    for folds in (1, 20):
        with pytest.raises(ValueError, match=f"folds is {folds}; allowed: 2 to 19"):
            fit(operations, ms, folds=folds)
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"'linear-64-10' takes {value} ms; allowed: greater than 0"):
            fit(operations, [value if op.key == "linear-64-10" else t for op, t in zip(operations, ms, strict=True)])


def test_what_no_measured_operation_does_is_not_taken_for_nothing():
    operations = [linear(a, b) for a in (8, 16, 32, 64) for b in (4, 10)]
    prediction = fit(operations, [truth(op) for op in operations], folds=8)
    assert set(prediction.coefficients) == {"operation", "dense_macs", "activation_mbytes", "weight_mbytes"}
    said = "'block-8-8-4-3-1-3' has grouped_macs, grouped_macs_x_kernel, and no measured operation has; measured ones have operation, dense_macs"
    with pytest.raises(KeyError, match=said):
        prediction.predict(block(8, 8, 4))


def test_predicted_rows_are_marked_and_never_fitted_on():
    """Keys that occur twice are one row; nothing that was measured comes back; a predicted row is no evidence."""
    operations = many()
    rows = {op.key: Measurement(truth(op), truth(op), 9) for op in operations[:-1]}
    unseen = [operations[-1], block(16, 24, 20)]
    predicted, error = predict_missing(rows, [*operations, *operations, *unseen])
    assert set(predicted) == {op.key for op in unseen}
    for op in unseen:
        row = predicted[op.key]
        assert row.predicted
        assert row.median_ms == pytest.approx(truth(op), rel=1e-6)
        assert row.p95_ms >= row.median_ms
        assert row.count == len(operations) - 1 == error.rows
    wrong = {operations[-1].key: Measurement(1e6, 1e6, 1, predicted=True)}
    assert predict_missing(rows | wrong, [*operations, *unseen])[1] == error
    assert list(predict_missing(rows | wrong, [*operations, *unseen])[0]) == [unseen[1].key]


# -- the published table ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pixel() -> LookupTable:
    if not PUBLISHED.exists():
        pytest.skip(f"the published table is not here: {PUBLISHED}")
    return LookupTable.read(PUBLISHED)


def operations_of(**arguments) -> dict[str, Operation]:
    space = MobileNetV2Space(aligned_init=False, **arguments)
    return {op.key: op for op in trace_operations(space, (3, 224, 224))}


def test_left_out_rows_of_the_published_table(pixel):
    """70 operations of a Pixel 1, each predicted from the other 69: 6.8 % on average, 4.2 % median, measured. The worst is
    the first block, the only one without expansion: 60 %."""
    found = operations_of()
    error = fit(list(found.values()), [pixel.rows[key].median_ms for key in found], folds=len(found)).error
    print(error)
    assert error.rows == error.folds == 70
    assert error.mean < 0.075
    assert error.median < 0.05
    assert error.worst < 0.65
    assert "expand:1" in error.worst_key


def test_the_width_that_the_published_table_lacks(pixel):
    """All 18 blocks from or to 32 channels: a larger kernel and a larger expansion cost more, and each costs
    between 0.8 and 1.4 times as much as with 24 channels, which is 1.33 times as many."""
    found = operations_of(widths=(32, 40, 80, 96, 192, 320))
    predicted, error = predict_missing(pixel.rows, list(found.values()))
    print(error)
    assert set(predicted) == {key for key in found if "56x56x32" in key}
    assert len(predicted) == 18
    assert error.rows == 52
    assert error.mean < 0.07
    for key, row in predicted.items():
        narrow = pixel.rows[key.replace("56x56x32", "56x56x24")].median_ms
        assert 0.8 * narrow < row.median_ms < 1.4 * narrow
        assert row.p95_ms > row.median_ms > 0
        for small, large in (("kernel:3", "kernel:5"), ("kernel:5", "kernel:7"), ("expand:3", "expand:6")):
            if small in key:
                assert predicted[key.replace(small, large)].median_ms > row.median_ms
    table = LookupTable({**pixel.rows, **predicted}, pixel.conditions)
    assert all(table.estimate(operation) > 0 for operation in found.values())
