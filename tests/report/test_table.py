"""Results as text: what is said of a network's choices."""

from __future__ import annotations

from pathlib import Path

import pytest
from nni_proxyless.search_spaces.tree_layout import OPERATIONS, labels_of_edges

from nni_proxyless.models.architecture import Architecture
from nni_proxyless.report.table import figures


def lines(choices):
    """What is said of them, by the line."""
    architecture = Architecture({"name": "some"}, choices, (3, 32, 32), None, macs=1_000_000, n_params=1_000)
    text = figures(architecture, Path()).splitlines()
    return text[: next(i for i, line in enumerate(text) if line.startswith("latency:"))]


MAE = {"name": "mae", "higher_is_better": False, "is_share": False}


@pytest.mark.parametrize(
    ("search", "line"),
    [
        ({"accuracy": 0.5, "accuracy_int8": 0.4}, "accuracy:      0.5000 on the validation part, 0.4000 in int8, weights of the supernet"),
        ({"accuracy": 0.5, "test_accuracy": 0.6}, "accuracy:      0.5000 on the validation part, 0.6000 on the test images, trained by the search itself"),
        ({"mae": 3.0123, "mae_int8": 3.5, "metric": MAE}, "mae:           3.012 on the validation part, 3.5 in int8, weights of the supernet"),
        ({"mae": 3.0123, "test_mae": 4.25, "metric": MAE}, "mae:           3.012 on the validation part, 4.25 on the test images, trained by the search itself"),
        ({"average_precision": 0.5, "weights": "fresh", "metric": {"name": "average_precision"}}, "average_precision: 0.5000 on the validation part, fresh weights: train it from scratch"),
    ],
)  # fmt: skip
def test_the_figure_of_merit_has_its_name(search, line):
    architecture = Architecture({"name": "some"}, {}, (3, 32, 32), None, search=search)
    assert line in figures(architecture, Path()).splitlines()


def test_many_choices_have_a_line_for_each_block():
    labels = labels_of_edges((18, 18, 18))
    choices = {label: OPERATIONS[i * i % len(OPERATIONS)] for i, label in enumerate(labels)}
    said = lines(choices)
    assert len(said) == 54
    assert max(map(len, said)) < 100
    rows = [line.removeprefix("choices:").split() for line in said]
    assert [row[0] for row in rows] == list(dict.fromkeys(label.rpartition(".half")[0] for label in labels))
    assert [choice for row in rows for choice in row[1:]] == list(choices.values())


def test_parts_may_have_different_numbers_of_choices():
    choices = {f"stage{s}.0.edge{i}": "dw3" for s, n in ((1, 30), (2, 12)) for i in range(n)}
    assert [line.removeprefix("choices:").split() for line in lines(choices)] == [
        ["stage1.0", *["dw3"] * 30],
        ["stage2.0", *["dw3"] * 12],
    ]


def test_few_choices_and_those_of_no_part_stand_in_one_line():
    few = {f"stage1.0.edge{i}": "dw3" for i in range(40)}
    alone = {f"stage{s}.{i}": "k3e3" for s in range(7) for i in range(7)}
    for choices in (few, alone):
        (line,) = lines(choices)
        assert line.split() == ["choices:", *(f"{label}={choice}" for label, choice in choices.items())]
