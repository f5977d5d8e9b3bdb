"""The front of accuracy against latency, and its picture."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from nni_proxyless.cli.main import main
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.report.pareto_front import Point, draw_front, on_front


def test_the_front_of_a_set_with_ties():
    """Fastest of equals in accuracy, best of equals in speed, both of equals in both."""
    points = [
        ("slowest and best", 5.0, 0.99, True),
        ("as good, faster", 4.0, 0.99, True),
        ("beaten by none", 2.0, 0.95, True),
        ("its equal in both", 2.0, 0.95, True),
        ("as fast, worse", 2.0, 0.94, True),
        ("slower and worse", 3.0, 0.90, True),
        ("fastest", 1.0, 0.50, True),
        ("of a search, only beaten by a trained one", 2.5, 0.60, False),
    ]
    wins = dict(zip([p[0] for p in points], on_front([Point(*p) for p in points]), strict=True))
    assert wins == {
        "slowest and best": False, "as good, faster": True, "beaten by none": True, "its equal in both": True,
        "as fast, worse": False, "slower and worse": False, "fastest": True,
        "of a search, only beaten by a trained one": True,
    }  # fmt: skip
    assert on_front([]) == []


POINTS = [
    Point("a", 2.0, 0.95, True), Point("b", 3.0, 0.90, True), Point("c", 1.0, 0.80, True),
    Point("w0.5", 1.5, 0.70, True, 0.5, "MobileNetV2"), Point("w0.35", 1.7, 0.75, True, 0.35, "MobileNetV2"),
]  # fmt: skip


def lines(figure) -> dict[str, list[tuple[float, float]]]:
    axes = figure.axes[0]
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axes.lines}


def test_the_picture_shows_front_and_reference_line():
    figure = draw_front(POINTS)
    assert lines(figure) == {
        "searched": [(3.0, 0.9)],
        "front of the searched networks": [(1.0, 0.8), (2.0, 0.95)],
        "MobileNetV2, by width": [(1.7, 0.75), (1.5, 0.7)],
    }
    assert [t.get_text() for t in figure.axes[0].texts] == ["0.35", "0.5"]
    both = lines(draw_front([*POINTS, Point("d", 2.0, 0.99, False)]))
    assert both["front of the searched networks, in the search (validation part)"] == [(2.0, 0.99)]
    assert (2.0, 0.95) in both["front of the searched networks, after final training (test images)"]


def leave(
    folder: Path, measured_ms: float | None, accuracy: float | None, final: float | None = None, *,
    conditions: dict[str, str] | None = None, final_int8: float | None = None, **search,
) -> None:  # fmt: skip
    """A net as far as a report reads it, measured on another machine."""
    Architecture(
        space={"name": "mine", "arguments": {}}, choices={}, input_shape=(1, 8, 8), network=None, macs=1000, n_params=100,
        latency={"measured_ms": measured_ms, **({} if conditions is None else {"measured_conditions": conditions})},
        search={**search, **({} if accuracy is None else {"accuracy": accuracy})},
    ).write(folder / "architecture.json")  # fmt: skip
    if final is not None:
        (folder / "final").mkdir()
        (folder / "final" / "result.json").write_text(json.dumps({"accuracy": final, "accuracy_int8": final_int8}))


def test_networks_of_other_runtimes_are_not_compared(tmp_path, capsys):
    for name, runtime, ms in (("a", "onnxruntime 1", 1.0), ("b", "onnxruntime 1", 2.0), ("c", "torch 2", 3.0)):
        leave(tmp_path / name, ms, 0.6, 0.9 if name == "c" else 0.5, conditions={"runtime": runtime})
    assert main(["report", str(tmp_path), "--front", str(tmp_path / "front.svg")]) == 0
    said = "c: not in the picture of the front: its milliseconds in torch 2 do not compare with those in onnxruntime 1"
    assert said in capsys.readouterr().err
    with (tmp_path / "front.csv").open() as file:
        assert [(r["name"], r["in"], r["on_front"]) for r in csv.DictReader(file)] == [
            ("a", "onnxruntime 1", "1"), ("b", "onnxruntime 1", "0"),
        ]  # fmt: skip
    assert ">measured latency, ms in onnxruntime 1<" in (tmp_path / "front.svg").read_text()
    points = [Point("slow", 3.0, 0.9, True, runtime="torch 2"), Point("fast", 1.0, 0.9, True, runtime="onnxruntime 1")]
    assert on_front(points) == [True, True]


def test_a_network_timed_in_int8_has_its_accuracy_in_int8(tmp_path, capsys):
    int8 = {"runtime": "onnxruntime 1", "precision": "int8"}
    leave(tmp_path / "searched", 1.0, 0.9, conditions=int8, accuracy_int8=0.5)
    leave(tmp_path / "trained", 2.0, 0.9, 0.95, conditions=int8, final_int8=0.6)
    leave(tmp_path / "unknown", 3.0, 0.9, 0.95, conditions=int8, accuracy_int8=0.7)
    assert main(["report", str(tmp_path), "--front", str(tmp_path / "front.svg")]) == 0
    with (tmp_path / "front.csv").open() as file:
        assert [(r["name"], float(r["accuracy"])) for r in csv.DictReader(file)] == [
            ("searched", 0.5),
            ("trained", 0.6),
        ]
    assert (
        "unknown: not in the picture of the front: no accuracy in int8, in which it was timed"
        in capsys.readouterr().err
    )


def test_a_report_draws_its_nets(tmp_path, capsys):
    leave(tmp_path / "runs" / "a", 1.0, 0.6, 0.8)
    leave(tmp_path / "runs" / "b", 2.0, 0.7, 0.9)
    leave(tmp_path / "runs" / "c", 3.0, 0.7, 0.85)
    leave(tmp_path / "runs" / "unmeasured", None, 0.7, 0.85)
    reference = {"strategy": "reference", "weights": "fresh", "structure": "MobileNetV2"}
    leave(tmp_path / "reference" / "width-0.5", 1.5, None, 0.7, width=0.5, **reference)
    leave(tmp_path / "reference" / "width-1.0", 2.5, None, width=1.0, **reference)
    picture = tmp_path / "pictures" / "front.svg"
    words = ["report", str(tmp_path / "runs"), "--front", str(picture), "--reference", str(tmp_path / "reference")]
    assert main(words) == 0
    said = capsys.readouterr()
    named = ["a", "b", "c", "unmeasured", "width-0.5", "width-1.0"]
    assert [line.split()[0] for line in said.out.splitlines()[1:7]] == named
    assert f"{tmp_path / 'runs' / 'unmeasured'}: not in the picture of the front: no measured latency" in said.err
    assert f"{tmp_path / 'reference' / 'width-1.0'}: not in the picture of the front: no accuracy, train it" in said.err
    with picture.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["name"], r["kind"], r["on_front"], float(r["ms"]), float(r["accuracy"])) for r in rows] == [
        ("a", "searched", "1", 1.0, 0.8), ("b", "searched", "1", 2.0, 0.9), ("c", "searched", "0", 3.0, 0.85),
        ("width-0.5", "reference, width 0.5", "0", 1.5, 0.7),
    ]  # fmt: skip
    assert ">MobileNetV2, by width<" in picture.read_text()
    # Reference nets below the source are found there, and a PNG is one.
    assert main(["report", str(tmp_path), "--front", str(tmp_path / "front.png")]) == 0
    with Image.open(tmp_path / "front.png") as image:
        assert image.size == (960, round(150 * (4.2 + 3 * 0.18)))
    with (tmp_path / "front.csv").open() as file:
        assert [r["name"] for r in csv.DictReader(file)] == ["reference/width-0.5", "runs/a", "runs/b", "runs/c"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--front", "front.pdf"], "--front front.pdf: '.pdf' is not allowed here; allowed: .svg, .png"),
        (["--front", "front.svg"], "--front: none of the networks has both a measured latency and an accuracy; allowed: searches whose estimator is the device, and reference networks after nni-proxyless train"),
        (["--front", "front.svg", "--reference", "nothing"], "report: no architecture.json in or below 'nothing'"),
    ],
)  # fmt: skip
def test_nothing_to_draw(words, message, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    leave(tmp_path / "runs" / "a", None, 0.6)
    leave(tmp_path / "runs" / "b", 2.0, 0.7, weights="fresh")
    assert refused("report", "runs", *words).splitlines()[-1] == f"nni-proxyless: {message}"
