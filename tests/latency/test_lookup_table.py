"""Lookup tables: round trip, the published table, and everything that must be refused."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch
import yaml
from nni_proxyless.search_spaces import MobileNetV2Space
from torch import nn

from nni_proxyless.latency import (
    Calibration,
    LatencyPenalty,
    LatencyProfiler,
    LookupTable,
    Measurement,
    Operation,
    TableError,
    trace_operations,
)
from nni_proxyless.latency.tables.yaml_format import FORMAT

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "proxylessnas_pixel1_lookup_table.yaml"

CONTENT = {
    "format": FORMAT,
    "unit": "ms",
    "conditions": {"device": "a phone", "threads": 1},
    "measured": {"date": "2026-11-22", "repeats": 50, "warmup": 10},
    "rows": {"a-row": {"median": 0.5, "p95": 0.75, "count": 50}},
}


CALIBRATION = {
    "fixed_ms": 0.5, "slope": 1.25, "n_networks": 30, "mean_error": 0.01, "worst_error": 0.03, "date": "2026-11-22",
}  # fmt: skip


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
    """Sums of the published table: fixed part 7.4820 + 3.8821 ms; whole nets with all blocks alike, and with every block skipped
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
    """The published net has 32 channels in its first stage, the table has rows for 24 only."""
    missing = "expanded_conv-input:112x112x16-output:56x56x32-expand:3-kernel:3-stride:2-idskip:0"
    with pytest.raises(KeyError, match=f"no row '{missing}'; the nearest: {missing.replace('x32-', 'x24-')}"):
        LatencyProfiler(
            MobileNetV2Space(widths=(32, 40, 80, 96, 192, 320), aligned_init=False),
            LookupTable.read(PUBLISHED),
            (3, 224, 224),
        )


# -- files ---------------------------------------------------------------------------------------------------------------


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
        ({"format": "another table 7"}, "format is 'another table 7'; allowed: 'nni-proxyless lookup table 2'. Measure the table anew"),
        ({"unit": "us"}, "unit is 'us'; allowed here: 'ms'"),
        ({"unit": None}, "unit is None; allowed: a text such as 'ms'"),
        ({"rows": {}}, "rows is empty"),
        ({"conditions": {"threads": [1]}}, "conditions: 'threads' is [1]; allowed: a text or a number"),
        ({"row": {}}, "unknown part 'row'; allowed: format, unit, conditions, measured, rows, checksum, space, constant, calibration, "
         "networks, in_constant, references. Did you mean 'rows'?"),
        ({"checksum": "0" * 16}, "the content is not what was measured: checksum is '0000000000000000', that of the content "
         "'e46d66bf370a9a9a'. If you have changed it on purpose, delete the line 'checksum'"),
        ({"constant": {"median": float("nan"), "p95": 1, "count": 1}}, "constant: median is nan; allowed: a finite number"),
        ({"constant": {"median": 1, "p95": 1, "count": -1}}, "constant: count is -1; allowed: a number of 0 or more"),
        ({"calibration": {"slope": 1}}, "calibration has slope; allowed: fixed_ms, slope, n_networks, mean_error, worst_error, date"),
        ({"calibration": {**CALIBRATION, "slope": -1.0}}, "calibration: slope is -1.0; allowed: greater than 0"),
        ({"calibration": {**CALIBRATION, "fixed_ms": float("nan")}}, "calibration: fixed_ms is nan; allowed: a finite number"),
        ({"space": {"name": "mobilenetv2"}}, "space is {'name': 'mobilenetv2'}; allowed: name, arguments (a mapping), input_shape (a list)"),
        ({"rows": None}, "rows is missing or not a mapping"),
        ({"rows": [1, 2]}, "rows is missing or not a mapping"),
        ({"conditions": None}, "conditions is missing or not a mapping"),
    ],
)  # fmt: skip
def test_a_foreign_or_incomplete_head_is_refused(tmp_path, changes, message):
    path = written(tmp_path / "t.yml", **changes)
    with pytest.raises(TableError) as caught:
        LookupTable.read(path)
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: {a: {median: 1", "not a whole YAML file: line 1: "),
        (
            "a: {count: 1, mean: 1}\na: {count: 1, mean: 3}\n",
            "not a whole YAML file: line 2: 'a' stands twice, in lines 1 and 2",
        ),
        ("a: {count: 1, mean: 1, mean: 2}\n", "not a whole YAML file: line 1: 'mean' stands twice, in lines 1 and 1"),
        ("1: {count: 1, mean: 1}\n", "row '1': the key is a int; allowed: a text"),
        ("a: {count: 1, mean: 1" + "0" * 400 + "}\n", "row 'a': mean is 10+; allowed: a number of 0 or more"),
        ("a: 2026-13-45\n", "not YAML: month must be in 1..12"),
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
    """What the table does not say is refused like what differs: a published table says nothing."""
    table = LookupTable({}, {"device": "a phone", "threads": 1, "batch": 1}, source="my.yml")
    table.require({"device": "a phone"})
    LookupTable({}).require({})
    with pytest.raises(TableError) as caught:
        table.require({"device": "a laptop", "threads": 2, "batch": 1, "processes": 1})
    assert str(caught.value) == (
        "my.yml: measured under other conditions: device is 'a phone' in the table, 'a laptop' here; threads is 1 in the "
        "table, 2 here; processes is 1 here, the table does not say. Name another file to measure anew, or delete this one; "
        "a table of another runtime needs latency.estimator.runtime, one of another target latency.estimator.name: table"
    )


def test_options_that_nobody_asked_for_are_other_conditions():
    options = '{"mode": "max-autotune"}'
    table = LookupTable({}, {"runtime": "torch-compile 2", "options": options}, source="my.yml")
    table.require({"runtime": "torch-compile 2"})
    table.require({"runtime": "torch-compile 2", "options": options}, of_runtime=True)
    LookupTable({}, {"runtime": "torch-compile 2"}).require({"runtime": "torch-compile 2"}, of_runtime=True)
    with pytest.raises(
        TableError, match=r"my.yml: measured under other conditions: options is '.*' in the table, none here\. Name"
    ):
        table.require({"runtime": "torch-compile 2"}, of_runtime=True)


# -- more than rows ------------------------------------------------------------------------------------------------------

FULL = {
    "space": {"name": "mobilenetv2", "arguments": {"preset": "small"}, "input_shape": [1, 16, 16]},
    "constant": Measurement(0.5, 0.75, 40),
    "calibration": Calibration(**CALIBRATION),
}


def full_table() -> LookupTable:
    rows = {f"operation-{i}": Measurement(0.25 * i + 0.125, 0.5 * i + 0.25, 50 + i, predicted=i > 2) for i in range(4)}
    return LookupTable(rows, CONTENT["conditions"], measured=CONTENT["measured"], **FULL)


def test_a_full_table_comes_back_whole(tmp_path):
    full_table().write(tmp_path / "new" / "t.yml")
    again = LookupTable.read(tmp_path / "new" / "t.yml")
    for part in ("rows", "conditions", "measured", "unit", *FULL):
        assert getattr(again, part) == getattr(full_table(), part)


def test_a_calibration_is_applied_to_whole_networks():
    """m = fixed + slope t: the slope to every row, the fixed cost once, the table's own constant inside."""
    table = full_table()
    assert table.estimate(operation("operation-1")) == pytest.approx(1.25 * 0.375)
    assert table.constant_ms == pytest.approx(0.5 + 1.25 * 0.5)
    raw = table.replace(calibration=None)
    assert (raw.estimate(operation("operation-1")), raw.constant_ms) == (0.375, 0.5)
    assert table.calibration.undo(table.calibration.apply(7.0)) == pytest.approx(7.0)


def test_a_constant_may_be_negative_and_a_network_may_not(tmp_path):
    """Looking at operations takes some time, which the constant takes back; a cheapest network of nothing is refused."""
    rows = {key: Measurement(ms, ms, 1) for key, ms in (("a", 1.0),)}
    LookupTable(rows, constant=Measurement(-0.25, 0.5, 40)).write(tmp_path / "t.yml")
    assert LookupTable.read(tmp_path / "t.yml").constant_ms == -0.25
    space = MobileNetV2Space("small", num_classes=10, aligned_init=False)
    cheap = {op.key: Measurement(0.001, 0.001, 1) for op in trace_operations(space, (3, 32, 32))}
    with pytest.raises(
        ValueError, match=r"constant and calibration of the table make -4\.9\d+ ms of the cheapest network"
    ):
        LatencyProfiler(space, LookupTable(cheap, constant=Measurement(-5.0, 0.5, 40)), (3, 32, 32))


def test_the_layout_of_once_for_all(tmp_path):
    """Its keys go on with squeeze-and-excitation and activation, count channels where others say the expansion, and have
    pooling and classifier apart."""
    space = MobileNetV2Space("small", num_classes=10, aligned_init=False)
    shape = (3, 32, 32)
    rows, expected = {}, {}
    for i, op in enumerate({op.key: op for op in trace_operations(space, shape)}.values()):
        key, ms = op.key, 0.25 * (i + 1)
        if match := re.fullmatch(r"expanded_conv-input:(\d+x\d+x(\d+))-(.*)-expand:(\d+)-(.*)", key):
            names = [
                f"expanded_conv-input:{match[1]}-{match[3]}-expand:{int(match[2]) * int(match[4])}-{match[5]}-se:0-hs:0"
            ]
        elif key == "Logits-input:8x8x128-output:10":
            names = ["AvgPool2D-input:8x8x128-output:1x1x128", "Logits-input:1x1x128-output:10"]
        else:
            names = [key]
        rows |= {name: {"count": 10, "mean": ms / len(names), "std": 0.1} for name in names}
        expected[key] = ms
    (tmp_path / "ofa.yaml").write_text(yaml.safe_dump(rows))
    assert sum("Logits" in name for name in rows) == 1
    assert sum("se:0-hs:0" in name for name in rows) == len(rows) - 4
    table = LookupTable.read(tmp_path / "ofa.yaml")
    for op in trace_operations(space, shape):
        assert table.estimate(op) == pytest.approx(expected[op.key])
    assert LatencyProfiler(space, table, shape).fixed_ms == pytest.approx(
        sum(ms for key, ms in expected.items() if "expand" not in key or "expand:1-" in key)
    )


# -- damaged files -------------------------------------------------------------------------------------------------------


def damaged(text: str, draw: random.Random) -> str:
    """One accident: cut off, a character lost, doubled or mistyped, two lines or two words swapped, a line lost or doubled."""
    lines, i, j = text.split("\n"), draw.randrange(len(text)), draw.randrange(len(text))
    m, n = draw.randrange(len(lines)), draw.randrange(len(lines))
    words = re.split(r"([\s:,{}]+)", text)
    a, b = (2 * draw.randrange((len(words) + 1) // 2) for _ in range(2))

    def swapped(items: list[str], one: int, two: int) -> list[str]:
        items = list(items)
        items[one], items[two] = items[two], items[one]
        return items

    return draw.choice([
        lambda: text[:i],
        lambda: text[:i] + text[i + 1 :],
        lambda: text[:i] + text[i] + text[i:],
        lambda: text[:i] + draw.choice("0123456789.-:{}[],'\"&*!|> \n\tex\0\u00e9") + text[i + 1 :],
        lambda: "\n".join(swapped(lines, m, n)),
        lambda: "\n".join(lines[:m] + lines[m + 1 :]),
        lambda: "\n".join(lines[:m] + lines[m : m + 1] + lines[m:]),
        lambda: "".join(swapped(words, a, b)),
        lambda: text[: min(i, j)] + text[max(i, j) :],
        lambda: "\n".join(lines[:m]),
    ])()  # fmt: skip


def test_damaged_files_are_refused_or_read_right(tmp_path):
    """300 accidents: an error that names the file, or every number as it was measured; never a traceback. Without its checksum
    a changed digit would be read."""
    draw = random.Random(0)
    whole, path = full_table(), tmp_path / "t.yml"
    whole.write(path)
    text = path.read_text()
    refused = 0
    for _ in range(300):
        path.write_text(damaged(text, draw))
        try:
            found = LookupTable.read(path)
        except TableError as error:
            refused += str(error).startswith(f"{path}: ")
            found = None
        if found is None:
            continue
        for part in ("rows", "conditions", "measured", "unit", *FULL):
            assert getattr(found, part) == getattr(whole, part), path.read_text()
    assert 180 < refused < 300  # a file whose spaces or order have changed is whole
    path.write_text(text.replace("median: 0.375", "median: 0.875"))
    with pytest.raises(TableError, match="the content is not what was measured"):
        LookupTable.read(path)
    path.write_text(re.sub("checksum: .*\n", "", path.read_text()))
    assert LookupTable.read(path).rows["operation-1"].median_ms == 0.875
