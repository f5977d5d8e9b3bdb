"""Lookup tables: round trip, the published table, and everything that must be refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from nni_proxyless.search_spaces import MobileNetV2Space
from torch import nn

from nni_proxyless.latency import LatencyPenalty, LatencyProfiler, LookupTable, Measurement, Operation, TableError
from nni_proxyless.latency.lookup_table import FORMAT

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "proxylessnas_pixel1_lookup_table.yaml"

CONTENT = {
    "format": FORMAT,
    "unit": "ms",
    "conditions": {"device": "a phone", "threads": 1},
    "measured": {"date": "2026-11-22", "repeats": 50, "warmup": 10},
    "rows": {"a-row": {"median": 0.5, "p95": 0.75, "count": 50}},
}


def written(path: Path, **changes) -> Path:
    """A valid table, with some parts changed; None leaves a part out."""
    content = {name: value for name, value in {**CONTENT, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(content))
    return path


def operation(key: str) -> Operation:
    return Operation(key, nn.Linear(2, 2), (2,))


# -- the published table ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pixel() -> LatencyProfiler:
    if not PUBLISHED.exists():
        pytest.skip(f"the published table is not here: {PUBLISHED}")
    return LatencyProfiler(MobileNetV2Space(aligned_init=False), LookupTable.read(PUBLISHED), (3, 224, 224))


def everywhere(profiler: LatencyProfiler, candidate: str, skip: bool = False) -> dict[str, str]:
    return {label: "skip" if skip and "skip" in costs else candidate for label, costs in profiler.candidate_ms.items()}


@pytest.mark.parametrize(
    ("candidate", "full", "skipped"),
    [
        ("k3e3", 76.048, 29.609), ("k3e6", 136.466, 50.515), ("k5e3", 87.720, 32.087),
        ("k5e6", 158.953, 55.028), ("k7e3", 103.666, 35.345), ("k7e6", 191.030, 61.617),
    ],
)  # fmt: skip
def test_published_table_gives_the_published_sums(pixel, candidate, full, skipped):
    """FACTS 1.9.3: fixed part 7.4820 + 3.8821 ms; whole nets with all blocks alike, and with every block skipped
    that may be."""
    assert pixel.fixed_ms == pytest.approx(7.4820 + 3.8821, abs=1e-4)
    assert pixel.profile(everywhere(pixel, candidate)) == pytest.approx(full, abs=6e-4)
    assert pixel.profile(everywhere(pixel, candidate, skip=True)) == pytest.approx(skipped, abs=6e-4)


def test_published_table_gives_the_published_expectation(pixel):
    """Property 15: uniform alphas give 113.98813 ms; alphas 50 apart give the latency of that one network to 1e-9."""
    penalty = LatencyPenalty(pixel, target_ms=80)
    uniform = {
        label: {c: torch.tensor(1 / len(costs), dtype=torch.float64) for c in costs}
        for label, costs in pixel.candidate_ms.items()
    }
    assert float(penalty.profile(uniform)) == pytest.approx(113.98813, abs=1e-5)

    decided = {}
    for label, costs in pixel.candidate_ms.items():
        alpha = torch.zeros(len(costs), dtype=torch.float64)
        alpha[list(costs).index("k5e3")] = 50
        decided[label] = dict(zip(costs, torch.softmax(alpha, 0).unbind(), strict=True))
    assert float(penalty.profile(decided)) == pytest.approx(pixel.profile(everywhere(pixel, "k5e3")), abs=1e-9)


def test_a_width_that_the_published_table_lacks_is_not_a_silent_constant(pixel):
    """The published net has 32 channels in its first stage, the table has rows for 24 only (FACTS 1.9.2)."""
    missing = "expanded_conv-input:112x112x16-output:56x56x32-expand:3-kernel:3-stride:2-idskip:0"
    with pytest.raises(KeyError, match=f"no row '{missing}'; the nearest: {missing.replace('x32-', 'x24-')}"):
        LatencyProfiler(MobileNetV2Space(widths=(32, 40, 80, 96, 192, 320)), LookupTable.read(PUBLISHED), (3, 224, 224))


# -- files ---------------------------------------------------------------------------------------------------------------


def test_a_table_comes_back_as_it_was_written(tmp_path):
    """Rows to a nanosecond (six decimals of a millisecond), conditions and head in full."""
    rows = {"b": Measurement(1.25, 1.5, 7), "a": Measurement(0.123456, 2.0, 50)}
    table = LookupTable(
        rows, {"device": "a phone", "threads": 1, "resolution": "32x32"}, measured={"date": "2026-11-22"}
    )
    table.write(tmp_path / "new" / "table.yml")
    again = LookupTable.read(tmp_path / "new" / "table.yml")
    assert again.rows == rows
    assert again.conditions == table.conditions
    assert again.measured == table.measured
    assert again.estimate(operation("a")) == 0.123456


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path):
    """Writing is all or nothing: an object that YAML has no plain form for fails, the file before it is still whole."""
    path = tmp_path / "table.yml"
    LookupTable({"a": Measurement(1.0, 1.0, 1)}).write(path)
    with pytest.raises(yaml.YAMLError):
        LookupTable({"a": Measurement(2.0, 2.0, 1)}, {"device": object()}).write(path)
    path_as_folder = tmp_path / "folder.yml"
    path_as_folder.mkdir()
    with pytest.raises(OSError, match="folder"):
        LookupTable({"a": Measurement(2.0, 2.0, 1)}).write(path_as_folder)
    assert LookupTable.read(path).rows["a"].median_ms == 1.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.yml", "table.yml"], "nothing half-written lies about"


def test_a_missing_row_names_the_key_and_the_nearest():
    table = LookupTable({"conv-3": Measurement(1.0, 1.0, 1), "linear": Measurement(1.0, 1.0, 1)}, source="my.yml")
    with pytest.raises(KeyError, match=r"my\.yml: no row 'conv-5'; the nearest: conv-3, linear"):
        table.estimate(operation("conv-5"))
    with pytest.raises(KeyError, match="no row 'conv-5'; the nearest: the table is empty"):
        LookupTable({}).estimate(operation("conv-5"))


ROW = CONTENT["rows"]["a-row"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "median": float("nan")}, "row 'a-row': median is nan; allowed: a number of 0 or more"),
        ({**ROW, "median": float("inf")}, "row 'a-row': median is inf; allowed: a number of 0 or more"),
        ({**ROW, "median": -0.5}, "row 'a-row': median is -0.5; allowed: a number of 0 or more"),
        ({**ROW, "median": "fast"}, "row 'a-row': median is 'fast'; allowed: a number of 0 or more"),
        ({**ROW, "median": True}, "row 'a-row': median is True; allowed: a number of 0 or more"),
        ({**ROW, "p95": None}, "row 'a-row': p95 is None; allowed: a number of 0 or more"),
        ({**ROW, "count": 0}, "row 'a-row': count is 0; allowed: a whole number of 1 or more"),
        ({**ROW, "count": 1.5}, "row 'a-row': count is 1.5; allowed: a whole number of 1 or more"),
        (3, "row 'a-row': count is None; allowed: a number of 0 or more"),
    ],
)
def test_a_bad_row_is_refused_with_its_key(tmp_path, row, message):
    """There is no partial load: the good row beside it does not help."""
    path = written(tmp_path / "t.yml", rows={"good": ROW, "a-row": row})
    with pytest.raises(TableError) as caught:
        LookupTable.read(path)
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "another table 7"}, "format is 'another table 7'; allowed: 'nni-proxyless lookup table 1'"),
        ({"unit": "us"}, "unit is 'us'; allowed: 'ms'"),
        ({"unit": None}, "unit is None; allowed: 'ms'"),
        ({"rows": None}, "rows is missing or not a mapping"),
        ({"rows": [1, 2]}, "rows is missing or not a mapping"),
        ({"conditions": None}, "conditions is missing or not a mapping"),
    ],
)
def test_a_foreign_or_incomplete_head_is_refused(tmp_path, changes, message):
    path = written(tmp_path / "t.yml", **changes)
    with pytest.raises(TableError) as caught:
        LookupTable.read(path)
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: {a: {median: 1", "not YAML: "),
        ("- a\n- b\n", "not a lookup table: expected a mapping, got list"),
        ("", "not a lookup table: expected a mapping, got NoneType"),
        ("just words", "not a lookup table: expected a mapping, got str"),
        ("some-key: 3\n", "row 'some-key': count is None; allowed: a number of 0 or more"),
        ("some-key: {count: 1, mean: .nan, var: 1}\n", "row 'some-key': mean is nan; allowed: a number of 0 or more"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path, text, message):
    (tmp_path / "t.yml").write_text(text)
    with pytest.raises(TableError, match=message):
        LookupTable.read(tmp_path / "t.yml")


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(TableError, match=r"nowhere\.yml: No such file or directory"):
        LookupTable.read(tmp_path / "nowhere.yml")
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(TableError, match=r"binary\.yml: not YAML"):
        LookupTable.read(tmp_path / "binary.yml")


def test_a_table_cut_short_is_refused(tmp_path):
    """Whatever byte of the head or of the first row a copy broke off at."""
    whole = written(tmp_path / "t.yml").read_text()
    cut = tmp_path / "cut.yml"
    for end in range(1, whole.index("a-row") + len("a-row: ") + 4):
        cut.write_text(whole[:end])
        with pytest.raises(TableError):
            LookupTable.read(cut)


def test_other_conditions_are_refused_all_at_once():
    """Conditions that the table does not know, such as those of the published ones, cannot differ."""
    table = LookupTable({}, {"device": "a phone", "threads": 1, "batch": 1}, source="my.yml")
    table.require({"device": "a phone", "precision": "float32"})
    LookupTable({}).require({"device": "a phone"})
    with pytest.raises(TableError) as caught:
        table.require({"device": "a laptop", "threads": 2, "batch": 1})
    assert str(caught.value) == (
        "my.yml: measured under other conditions: device is 'a phone' in the table, 'a laptop' here; "
        "threads is 1 in the table, 2 here. Name another file to measure anew, or delete this one."
    )
