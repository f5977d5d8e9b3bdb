"""``nni-proxyless latency``, as a user types it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
import yaml
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from nni_proxyless.cli.main import main
from nni_proxyless.latency import LookupTable
from nni_proxyless.latency.tables.lookup_table import Calibration

from ..forked import fork

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "proxylessnas_pixel1_lookup_table.yaml"
LAYOUT = ("preset=small", "widths=[8,16]", "depths=[2,2]", "strides=[2,2]", "stem_width=8", "feature_mix=32", "num_classes=10")  # fmt: skip
SPACE = ("--space", "mobilenetv2", *LAYOUT, "--resolution", "16x8", "--channels", "1")


class FarApart(ModelSpace):
    """Five choices between two convolutions and some forty times their work.

    Its networks differ by far more than a busy machine errs, so that what is measured always grows with the table.
    """

    def __init__(self) -> None:
        super().__init__()
        choices = (LayerChoice({"light": branch(8), "heavy": branch(320)}, label=f"choice {i}") for i in range(5))
        self.blocks = nn.Sequential(*choices)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(torch.cat([x] * 8, 1)).mean((2, 3)))


def branch(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(8, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 8, 3, padding=1))


def build(path: Path, *words: str) -> int:
    return main(
        [
            "latency",
            "build",
            *SPACE,
            "--runtime",
            "torch",
            "--repeats",
            "4",
            "--warmup",
            "1",
            "--output",
            str(path),
            *words,
        ]
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "table.yaml"
    assert build(path) == 0
    return path


def test_build_writes_a_table_that_says_what_it_is_of(table):
    found = LookupTable.read(table)
    assert len(found.rows) == 4 + 4 * 6  # three parts and the first block; four positions
    assert found.conditions.items() >= {"threads": 1, "batch": 1, "precision": "float32", "resolution": "16x8"}.items()
    assert found.measured["method"] == "networks"
    assert found.space["name"] == "mobilenetv2"
    assert found.space["arguments"]["widths"] == [8, 16]
    assert found.space["input_shape"] == [1, 16, 8]
    assert [p.name for p in table.parent.iterdir()] == ["table.yaml"], "what a killed build would go on with is gone"


def test_check_prints_draws_and_stores_a_calibration(tmp_path, capsys):
    space = [
        "--space",
        f"{__name__}:FarApart",
        "--resolution",
        "16",
        "--channels",
        "1",
        "--method",
        "isolated",
        "--runtime",
        "torch",
    ]
    assert main(["latency", "build", *space, "--repeats", "10", "--output", str(tmp_path / "t.yaml")]) == 0
    before = (tmp_path / "t.yaml").read_text()
    words = ["--networks", "8", "--calibration", "8", "--repeats", "10"]
    assert main(["latency", "check", str(tmp_path / "t.yaml"), *words, "--dry-run"]) == 0
    assert (tmp_path / "t.yaml").read_text() == before
    capsys.readouterr()
    assert main(["latency", "check", str(tmp_path / "t.yaml"), *words, "--json", str(tmp_path / "t.json")]) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "t.png").read_bytes()[:4] == b"\x89PNG"
    calibration = LookupTable.read(tmp_path / "t.yaml").calibration
    assert calibration.n_networks == 8
    figures = json.loads((tmp_path / "t.json").read_text())
    assert len(figures["networks"]) == 8
    assert figures["after"]["mean_error"] == pytest.approx(calibration.mean_error, abs=1e-6)
    assert f"{calibration.slope:.4f} * predicted" in said


def test_a_killed_build_goes_on(tmp_path, monkeypatch, capsys):
    """The process is killed in the middle; the same command ends it and keeps what was timed."""
    words = ["latency", "build", *SPACE, "--runtime", "torch", "--repeats", "60", "--output", "table.yaml"]
    partial, said = tmp_path / "table.yaml.partial", tmp_path / "said"
    process = fork(main, words, cwd=tmp_path, said=said)
    deadline = time.monotonic() + 120
    while not (partial.exists() and partial.read_text().count("\n") > 20):
        assert process.exitcode is None, said.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    said.unlink()
    assert not (tmp_path / "table.yaml").exists()
    head, first, *kept = partial.read_text().splitlines(keepends=True)
    # What was timed first comes out as the drift, if it is kept: a thousand times what is timed last.
    first = json.dumps([[key, 1000 * ms] for key, ms in json.loads(first)]) + "\n"
    partial.write_text(head + first + "".join(kept))
    monkeypatch.chdir(tmp_path)
    assert main(words) == 0
    assert "going on with table.yaml.partial" in capsys.readouterr().err
    measured = LookupTable.read(tmp_path / "table.yaml").measured
    assert measured["repeats"] == 60
    assert measured["drift"] < 0.1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.yaml"]


def test_a_table_is_fitted_to_whole_networks(tmp_path, capsys):
    """The command says how true it is; check and predict work with it, and predict for no other fixed part."""
    path = tmp_path / "t.yaml"
    space = ["--space", f"{__name__}:FarApart", "--resolution", "16", "--channels", "1", "--runtime", "torch"]
    assert main(["latency", "build", *space, "--method", "fit", "--networks", "12", "--output", str(path)]) == 0
    told = capsys.readouterr()
    assert "latencies: whole networks are timed, 12 of them" in told.err
    assert "fitted to 12 networks; those left out of the fit are off by" in told.out
    found = LookupTable.read(path)
    assert len(found.rows) == 2
    assert found.measured.items() >= {"method": "fit", "networks": 12, "repeats": 30}.items()
    words = ["--networks", "5", "--calibration", "5", "--repeats", "25"]
    assert main(["latency", "check", str(path), *words]) == 0
    assert LookupTable.read(path).calibration is not None
    assert main(["latency", "predict", str(path), "--output", str(tmp_path / "u.yaml")]) == 0
    assert "nothing to predict" in capsys.readouterr().out
    assert main(["latency", "predict", str(path), *SPACE, "--output", str(tmp_path / "u.yaml")]) == 2
    assert "was fitted to networks that all run 'Linear-input:8-output:10-" in capsys.readouterr().err
    assert main(["latency", "build", *space, "--networks", "12", "--output", str(tmp_path / "v.yaml")]) == 2
    assert "networks is 12, but method is 'networks'" in capsys.readouterr().err


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published table is not beside this clone")
def test_predict_fills_up_the_published_table(tmp_path, capsys):
    """The published net has 32 channels in its first stage, the table 24."""
    words = ["--space", "mobilenetv2", "widths=[32,40,80,96,192,320]", "--resolution", "224"]
    output = tmp_path / "filled.yaml"
    assert main(["latency", "predict", str(PUBLISHED), *words, "--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert "18 rows predicted from 52" in said
    assert "relative error" in said
    found = LookupTable.read(output)
    assert sum(row.predicted for row in found.rows.values()) == 18
    assert found.measured["predicted_rows"] == 18
    assert 0 < found.measured["predicted_error"] < 0.1
    assert main(["latency", "predict", str(output), "--output", str(tmp_path / "again.yaml")]) == 0
    assert "nothing to predict" in capsys.readouterr().out


def test_what_was_fitted_to_networks_of_another_space_is_left_out(table, tmp_path, refused):
    calibrated, output = tmp_path / "calibrated.yaml", tmp_path / "u.yaml"
    found = LookupTable.read(table)
    found.replace(calibration=Calibration(0.1, 2.0, 30, 0.01, 0.02, "2026-12-01")).write(calibrated)
    words = ["--space", "mobilenetv2", *(word.replace("[8,16]", "[8,24]") for word in LAYOUT), "--resolution", "16x8", "--channels", "1"]  # fmt: skip
    assert main(["latency", "predict", str(calibrated), *words, "--output", str(output)]) == 0
    predicted = LookupTable.read(output)
    assert predicted.calibration is None
    assert predicted.conditions["resolution"] == "16x8"
    assert predicted.space["arguments"]["widths"] == [8, 24]


def changed(table: Path, path: Path, **conditions: object) -> Path:
    content = yaml.safe_load(table.read_text())
    content["conditions"] |= conditions
    del content["checksum"]
    path.write_text(yaml.safe_dump(content))
    return path


def test_what_is_wrong_is_said(table, tmp_path, refused):
    other = changed(table, tmp_path / "other.yaml", device="a phone")
    newer = changed(table, tmp_path / "newer.yaml", runtime="torch 9.9", processes=2)
    bare = tmp_path / "bare.yaml"
    bare.write_text("a: {count: 1, mean: 1.0}\n")
    wrong = [
        (["build", *SPACE, "--output", str(table)], f"--output {table}: is there already. Name another file"),
        (["build", "--space", "mobilnetv2", "--output", "x"], "--space: 'mobilnetv2' is unknown; allowed: amoebanet, autoformer, darts, detection, eeea-net, enas, mobilenetv2, mobilenetv3, nasbench201, nasnet, pnas, proxylessnas, pyramid-tree, regression, segmentation, shufflenet, timm, or package.module:Class. Did you mean 'mobilenetv2'?"),
        (["build", "--space", "mobilenetv2", "preset=smal", "--output", "x"], "space.preset: 'smal' is not allowed here"),
        (["build", "--space", "mobilenetv2", "small", "--output", "x"], "--space: small: what follows the name has the form key=value"),
        (["build", "--resolution", "1x2x3", "--output", "x"], "--resolution is '1x2x3'; allowed: a number of pixels such as 224"),
        (["build", *SPACE, "--threads", "0", "--repeats", "0", "--output", "x"], "threads is 0; allowed: 1 or more; repeats is 0; allowed: 1 or more"),
        (["check", str(tmp_path / "none.yaml")], "none.yaml: No such file or directory"),
        (["check", str(bare)], "bare.yaml: its head names no space; say --space and --resolution"),
        (["check", str(bare), *SPACE], "bare.yaml: does not say torch_device, threads, batch, precision: its target cannot be timed here"),
        (["check", str(other)], "other.yaml: measured under other conditions: device is 'a phone' in the table"),
        (["check", str(newer)], "processes is 2 in the table, 1 here"),
        (["check", str(newer)], "runtime is 'torch 9.9' in the table"),
        (["check", str(table), "--networks", "2"], "n_networks is 2 and n_calibration 30; allowed: 3 or more of each"),
        (["check", str(table), "--space", "mobilenetv2", *LAYOUT[:-2], "--resolution", "16x8", "--channels", "1"], "no row 'Conv_1"),
        (["check", str(table), "--json", str(tmp_path)], f"latency check: {tmp_path} is a folder; allowed: a file that can be written"),
        (["check", str(table), "--json", str(table / "a.json")], f"{table}: is no folder"),
        (["check", str(table), "--resolution", "24"], "table.yaml: another space or resolution than its head's; say --space and --resolution"),
        (["predict", str(bare), *SPACE, "--output", str(tmp_path / "y")], "latency predict: "),
    ]  # fmt: skip
    for words, said in wrong:
        assert said in refused("latency", *words)
    assert not (tmp_path / "x").exists()
    assert not Path("x").exists()


def test_a_search_stops_where_tables_would_be_mixed(table, tmp_path, refused):
    """Torch version, threads and number of processes: of a table that is named, and of one that a search goes on with."""
    for conditions, said in (
        ({"runtime": "torch 1.0"}, "runtime is 'torch 1.0' in the table"),
        ({"threads": 2}, "threads is 2 in the table, 1 here"),
        ({"processes": 4}, "processes is 4 in the table, 1 here"),
        ({"precision": "bfloat16"}, "precision is 'bfloat16' in the table, 'float32' here"),
    ):
        other = changed(table, tmp_path / "other.yaml", **conditions)
        assert said in refused("search", f"output={tmp_path / 'out'}", f"latency.table={other}")
