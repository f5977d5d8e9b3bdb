"""Reports of networks whose figure of merit is no accuracy, and of such networks beside others."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from nni_proxyless.search_spaces import MobileNetV2Space

from nni_proxyless.cli.main import main
from nni_proxyless.core.merit import ACCURACY, Merit
from nni_proxyless.data import ImageData, TensorImages
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.models.record import merit_figures
from nni_proxyless.report.comparison import compare
from nni_proxyless.report.learning_curves import charts_of
from nni_proxyless.report.merits import merit_reported
from nni_proxyless.report.number_format import merit_difference, merit_figure
from nni_proxyless.report.pareto_front import Point, draw_front, on_front
from nni_proxyless.report.rows import rows_of
from nni_proxyless.report.runs import find
from nni_proxyless.search.nni_web_ui import in_order
from nni_proxyless.tasks.regression import MERITS

from ..report_page import Page

MAE = Merit("mae", higher_is_better=False, is_share=False)
IOU = Merit("iou")
TASKS = {ACCURACY: {"name": "classification", "arguments": {}}, MAE: {"name": "regression", "arguments": {}}}
CHOICES = {f"stage1.{i}": "k3e3" for i in range(2)}


def two_numbers() -> ImageData:
    """How bright the two halves of an image are."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(80, 2, generator=generator)
    images = targets.repeat_interleave(4, dim=1)[:, None, None, :].expand(-1, 1, 8, -1).contiguous()
    data = TensorImages(images, targets)
    return ImageData(data, data, data, list(targets), 2, (1, 8, 8))


def leave(
    folder: Path, merit: Merit, value: float | None, final: float | None = None, *, ms: float | None = None,
    target: float | None = 3.0, int8: float | None = None, task: dict[str, Any] | None = None, **search: Any,
) -> Path:  # fmt: skip
    """A network as a search and a final training leave it; timed on another machine."""
    arguments = {
        "widths": [8], "depths": [2], "strides": [2], "stem_width": 8, "feature_mix": 16, "preset": "small", "num_classes": 2, "in_channels": 1,
    }  # fmt: skip
    found = {} if value is None else {merit.name: value, **merit.described()}
    Architecture(
        space={"name": "mobilenetv2", "arguments": arguments}, choices=CHOICES, input_shape=(1, 8, 8),
        network=MobileNetV2Space(**arguments).timm_definition(CHOICES), macs=1000, n_params=100,
        data={"name": "tests.report.test_merits:two_numbers", "arguments": {}}, task=task or TASKS.get(merit, TASKS[ACCURACY]),
        latency={"measured_ms": ms, "table_ms": 2.5, "target_ms": target},
        search={"strategy": "proxyless", "seed": 0, **found, **({} if int8 is None else {f"{merit.name}_int8": int8}), **search},
    ).write(folder / "architecture.json")  # fmt: skip
    if final is not None:
        (folder / "final").mkdir()
        result = {merit.name: final, **merit.described(), "last": {"epoch": 1, f"test_{merit.name}": final}}
        (folder / "final" / "result.json").write_text(json.dumps(result))
        (folder / "final" / "train.yml").write_text("epochs: 1\nweights: scratch\n")
        (folder / "final" / "history.jsonl").write_text(json.dumps({"epoch": 1, merit.name: final}) + "\n")
    return folder


def both(folder: Path) -> Path:
    """Regressions and classifications under the same budget, trained by the same settings."""
    leave(folder / "r1", MAE, 2.9332, 3.3277, ms=1.0)
    leave(folder / "r2", MAE, 9.5, 12.25, ms=2.0)
    leave(folder / "c1", ACCURACY, 0.5, 0.75, ms=1.0)
    leave(folder / "c2", ACCURACY, 0.5, 0.625, ms=2.0)
    for i, value in enumerate((4.0, 4.5)):
        leave(folder / f"random-{i}", MAE, None, value, ms=1.5, strategy="random", weights="fresh")
    leave(folder / "random-c", ACCURACY, None, 0.5, ms=1.5, strategy="random", weights="fresh")
    return folder


def reported(folder: Path, capsys, *words: str) -> tuple[list[str], list[dict[str, str]], Page]:
    """Lines of the table, rows of the CSV, and the page."""
    assert main(["report", str(folder), *words]) == 0
    with (folder / "report.csv").open() as file:
        return capsys.readouterr().out.splitlines(), list(csv.DictReader(file)), Page(folder / "report.html")


def test_a_report_of_regressions_alone(tmp_path, capsys):
    leave(tmp_path / "a", MAE, 2.9332, 3.3277, int8=3.0111)
    leave(tmp_path / "b", MAE, 1234.5678)
    lines, rows, page = reported(tmp_path, capsys)
    assert lines[0].split()[-6:] == ["search", "mae", "search", "int8", "final", "mae"]
    assert [line.split()[-3:] for line in lines[1:3]] == [["2.933", "3.011", "3.328"], ["1235", "-", "-"]]
    assert "search mae: with the weights of the search" in "\n".join(lines)
    assert "mae: lower is better" in lines
    assert [(row["metric"], row["higher_is_better"], row["is_share"]) for row in rows] == [
        ("mae", "False", "False")
    ] * 2
    assert [float(row["search_merit"]) for row in rows] == [2.9332, 1234.5678]
    assert (rows[0]["search_merit_int8"], rows[0]["final_merit"], rows[1]["final_merit"]) == ("3.0111", "3.3277", "")
    assert page.tables[0][0][7:9] == ["searchmae", "finalmae"]
    assert [row[7:9] for row in page.tables[0][1:]] == [["2.933", "3.328"], ["1235", "–"]]
    assert "accura" not in page.words.lower()
    assert " %" not in page.words
    assert "search mae, int8 3.011" in page.words
    assert "No network has both a measured latency and a figure of merit (mae) yet." in page.words


def test_regressions_and_classifications_in_one_report(tmp_path, capsys):
    lines, rows, page = reported(both(tmp_path), capsys)
    assert lines[0].split()[-5:] == ["metric", "search", "merit", "final", "merit"]
    by_name = {line.split()[0]: line.split()[-3:] for line in lines[1:8]}
    assert by_name["c1"] == ["accuracy", "0.5000", "0.7500"]
    assert by_name["r2"] == ["mae", "9.5", "12.25"]
    assert by_name["random-1"] == ["mae", "-", "4.5"]
    assert "metric: what search merit and final merit are; those of different metrics do not compare" in lines
    assert {row["name"]: row["metric"] for row in rows if row["name"] != "random-c"} == {
        "c1": "accuracy", "c2": "accuracy", "r1": "mae", "r2": "mae", "random-0": "mae", "random-1": "mae",
    }  # fmt: skip
    assert page.tables[0][0][7:10] == ["metric", "searchmerit", "finalmerit"]
    assert {row[0]: row[7:10] for row in page.tables[0][1:]} == {
        "c1": ["accuracy", "50.00 %", "75.00 %"], "c2": ["accuracy", "50.00 %", "62.50 %"], "r1": ["mae", "2.933", "3.328"],
        "r2": ["mae", "9.5", "12.25"],
    }  # fmt: skip
    said = page.words
    assert "Best accuracy for 3.000 ms: c1 (proxyless, seed 0), 75.00 % of the test images right after the" in said
    assert "Best mae for 3.000 ms: r1 (proxyless, seed 0), mae 3.328 on the test images after the final" in said
    assert len(page.ids) == len(set(page.ids)), "a picture for each metric"
    assert "accuracy on the test images, after final training" in said
    assert "mae, lower is better on the test images, after final training" in said
    assert "Of mae, lower is better." in said


def test_comparisons_are_within_a_metric(tmp_path, capsys):
    _, _, page = reported(both(tmp_path), capsys)
    found = find([str(tmp_path)])
    compared = compare(found, rows_of(found, [f.architecture.latency for f in found if f.architecture is not None]))
    assert {same.merit.name: [group.figure.n for group in same.budgets[0].groups] for same in compared} == {
        "accuracy": [2, 1],
        "mae": [2, 2],
    }
    tables = {table[0][3]: table for table in page.tables[1:]}
    assert set(tables) == {"accuracy", "mae"}
    assert tables["accuracy"][0][4] == "above random,points"
    assert tables["accuracy"][1][3:5] == ["68.75 % ± 6.25", "+18.75"]
    assert tables["mae"][0][4] == "against random"
    assert tables["mae"][1][3:5] == ["7.789 ± 4.5", "3.54 ± 4.5 worse"]
    assert tables["mae"][2][2:4] == ["4.25 ± 0.25", "–"]
    assert "proxyless for 3.000 ms (2 networks) is 18.75 points above random networks of that budget." in page.words
    assert "is 3.54 ± 4.5 worse in mae than random networks of that budget." in page.words
    assert "Networks of different metrics (accuracy, mae) are compared apart." in page.words


def test_a_front_is_of_one_metric(tmp_path, capsys):
    """That of which there are most networks; of equally fast ones the lower error is on it."""
    folder = both(tmp_path)
    leave(folder / "r3", MAE, 2.0, 3.0, ms=2.5)
    leave(folder / "r4", MAE, 2.0, 2.5, ms=2.5)
    assert main(["report", str(folder), "--front", str(folder / "front.svg")]) == 0
    with (folder / "front.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {r["name"]: r["on_front"] for r in rows} == {
        "r1": "1", "r2": "0", "r3": "0", "r4": "1", "random-0": "0", "random-1": "0",
    }  # fmt: skip
    assert float(rows[0]["mae"]) == 3.3277
    assert rows[0]["mae_is"] == "on the test images, after final training"
    assert "c1: not in the picture of the front: its accuracy does not compare with mae" in capsys.readouterr().err


def test_points_of_different_metrics_do_not_meet():
    points = [
        Point("fast and wrong", 1.0, 9.0, True, merit=MAE),
        Point("slow and right", 2.0, 3.0, True, merit=MAE),
        Point("beaten by it", 2.0, 4.0, True, merit=MAE),
        Point("an accuracy", 3.0, 0.5, True),
        Point("an iou, faster and higher", 0.5, 0.9, True, merit=IOU),
    ]
    assert on_front(points) == [True, True, False, True, True]


def test_axes_are_those_of_the_metric():
    axes = draw_front([Point("a", 1.0, 2.5, True, merit=MAE), Point("b", 2.0, 1.5, True, merit=MAE)]).axes[0]
    assert axes.get_ylabel() == "mae, lower is better\non the test images, after final training"
    assert axes.get_ylim()[1] > 2.5
    assert axes.yaxis.get_major_formatter()(2.0) != "200 %"
    share = draw_front([Point("a", 1.0, 1.0, False, merit=IOU), Point("b", 2.0, 0.5, False, merit=IOU)]).axes[0]
    assert share.get_ylabel() == "iou\non the validation part, weights of the search"
    assert share.get_ylim()[1] == 1.005
    assert share.yaxis.get_major_formatter()(0.5) == "50 %"


def test_a_report_that_trains_the_best_says_what_came_of_it(tmp_path, capsys):
    of_task = MERITS["r2"]  # of several values
    leave(tmp_path / "a", of_task, 0.5, task=TASKS[MAE])
    leave(tmp_path / "b", of_task, 0.4, task=TASKS[MAE])
    (tmp_path / "train.yml").write_text("epochs: 1\nweights: scratch\nthreads: 1\ndevice: cpu\n")
    before = torch.get_num_threads()
    assert main(["report", str(tmp_path), "--train-best", str(tmp_path / "train.yml")]) == 0
    torch.set_num_threads(before)
    with (tmp_path / "report.csv").open() as file:
        reported = {row["name"]: row["final_merit"] for row in csv.DictReader(file)}
    (trained,) = tmp_path.rglob("result.json")
    result = json.loads(trained.read_text())[of_task.name]
    assert float(reported.pop(trained.parent.parent.name)) == pytest.approx(result)
    assert [*reported.values()] == [""]


def test_the_final_training_is_that_of_the_lowest_error(tmp_path, capsys, refused):
    """Of accuracies and errors there is no best one."""
    leave(tmp_path / "high", MAE, 0.9)
    leave(tmp_path / "low", MAE, 0.1)
    (tmp_path / "train.yml").write_text("epochs: 1\nweights: scratch\nthreads: 1\ndevice: cpu\n")
    before = torch.get_num_threads()
    assert main(["report", str(tmp_path), "--train-best", str(tmp_path / "train.yml")]) == 0
    torch.set_num_threads(before)
    said = (
        "final training of the network of the best mae of 2, that of low (0.1 with the weights of the search): 1 epochs"
    )
    assert said in capsys.readouterr().err
    assert {path.parent.parent.name for path in tmp_path.rglob("result.json")} == {"low"}
    leave(tmp_path / "other", ACCURACY, 0.99)
    assert refused("report", tmp_path, "--train-best").splitlines()[-1] == (
        "nni-proxyless: report: --train-best: the networks have different metrics (mae, accuracy), which do not compare; "
        "allowed: searches of one"
    )


# -- whose figures they are ----------------------------------------------------------------------------------------------


def test_what_nothing_has_been_judged_by_is_known_by_the_task(tmp_path):
    """Networks of fresh weights, and searches that go on."""
    leave(tmp_path / "fresh", MAE, None)
    going = tmp_path / "going"
    going.mkdir()
    (going / "search.yml").write_text("task: {name: classification, metric: f1}\n")
    (going / "history.jsonl").write_text('{"default": 0.25, "f1": 0.25, "entropy": 0.25}\n')
    fresh, going_on = find([str(tmp_path)])
    assert fresh.merit == MAE
    assert going_on.merit == Merit("f1")
    (chart, *_) = charts_of(going_on, "ms")
    assert chart.name == "f1"
    assert re.findall(r">([^<]*) %<", chart.svg)


def test_curves_of_an_error(tmp_path):
    folder = leave(tmp_path / "a", MAE, 3.0, 3.5)
    epochs = [{"default": -value, "mae": value, "expected_ms": 1.0} for value in (4.0, 3.0)]
    (folder / "history.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    (found,) = find([str(folder)])
    charts = {chart.name: chart for chart in charts_of(found, "ms")}
    assert "mae of a over 2 epochs; at the end: derived network 3" in charts["mae"].svg
    assert "mae in the final training" in charts
    assert not re.search(r">-|%", charts["mae"].svg)


@pytest.mark.parametrize(
    ("merit", "figures", "more"),
    [
        (MAE, {"mae": 2.5}, {"test_mae": 2.5, "best": 2.5, "mae_int8": 2.5}),
        (Merit("r2", is_share=False), {"r2": 0.5}, {"train_r2": 0.5, "entropy": 0.5}),
        (ACCURACY, {"accuracy": 0.5}, {"test_accuracy": 0.5, "accuracy_int8": 0.5, "train_accuracy": 0.5, "best": 0.5}),
        (ACCURACY, {"accuracy": 0.0}, {"multiplier": 0.0, "fixed": 0.0, "expected_memory": 0.0}),
    ],
)  # fmt: skip
def test_what_nni_has_been_told_says_which_metric_it_is(merit, figures, more):
    told = merit_figures(merit, figures)
    assert merit_reported(told | more) == merit
    assert merit_reported(more | told) == merit
    assert merit_reported(more) is None


def test_differences_say_which_way_is_better():
    assert merit_difference(-0.512, 0.12, MAE) == "0.512 ± 0.12 better"
    assert merit_difference(0.512, None, MAE) == "0.512 worse"
    assert merit_difference(-0.0123, None, ACCURACY) == "-1.23"
    assert merit_difference(0.0123, 0.004, Merit("error", higher_is_better=False)) == "1.23 ± 0.40 worse"
    assert merit_figure(None, MAE) == merit_figure(float("nan"), MAE) == "–"


def test_results_come_first_in_the_web_ui():
    told = {"macs": 1.0, "train_loss": 2.0, "test_mae": 3.0, "mae": 3.1, "default": -3.1, "measured_ms": 4.0}
    assert list(in_order(told)) == ["default", "mae", "test_mae", "measured_ms", "macs", "train_loss"]
