"""Costs in any unit: files keep significant digits, not decimals, and words show them."""

from __future__ import annotations

import pytest
import yaml
from nni_proxyless.search_spaces import MobileNetV2Space

from nni_proxyless.latency import Calibration, LookupTable, MacsEstimator, Measurement, TableOnly, trace_operations
from nni_proxyless.latency.digits import DIGITS, distinct_in_words, in_words, significant
from nni_proxyless.latency.tables.kept_timings import KeptTimings
from nni_proxyless.latency.tables.yaml_format import TimedNetwork
from nni_proxyless.report.number_format import amount, figure
from nni_proxyless.search.latency_table import make_profiler

SHAPE = (1, 16, 16)
RELATIVE = 5e-12


@pytest.mark.parametrize("value", [1.2345678901234567e-11, -2.5e-7, 0.1, 123456.123456, 1 / 3, 9.9999999999999e7, 0.0])
def test_a_number_of_a_file_is_the_same_to_its_significant_digits(value):
    kept = significant(value)
    assert kept == pytest.approx(value, rel=RELATIVE, abs=0)
    assert significant(kept) == kept
    assert significant(1.23456e-9, 3) == 1.23e-9
    assert DIGITS == 12


@pytest.mark.parametrize("scale", [1e-9, 2e-5, 1.0, 1e6])
def test_a_table_in_any_unit_comes_back(tmp_path, scale):
    """Rows, constant, calibration and networks; written again, it is the same file."""
    unit = "ms" if scale == 1 else "unit"
    times = {f"key {i}": scale * (1 + i / 7) for i in range(5)}
    table = LookupTable(
        {key: Measurement(v, 1.1 * v, 9) for key, v in times.items()}, {"device": "toy"}, unit=unit,
        constant=Measurement(-scale / 3, scale / 3, 9),
        calibration=Calibration(scale / 7, 1 / 3, 30, 1 / 300, 1 / 100, "2026-01-01"),
        networks=[TimedNetwork({"a": 1}, Measurement(scale / 3, scale / 3, 5))],
    )  # fmt: skip
    table.write(tmp_path / "t.yaml")
    found = LookupTable.read(tmp_path / "t.yaml", unit=unit)
    for key, value in times.items():
        assert found.rows[key].median_ms == pytest.approx(value, rel=RELATIVE, abs=0)
        assert found.rows[key].p95_ms == pytest.approx(1.1 * value, rel=RELATIVE, abs=0)
    assert found.constant.median_ms == pytest.approx(-scale / 3, rel=RELATIVE, abs=0)
    assert found.calibration.fixed_ms == pytest.approx(scale / 7, rel=RELATIVE, abs=0)
    assert found.networks[0].measurement.median_ms == pytest.approx(scale / 3, rel=RELATIVE, abs=0)
    found.write(tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "t.yaml").read_text()


def test_a_table_of_six_decimals_opens_and_is_copied_with_the_same_numbers_and_checksum(tmp_path):
    """As versions before have written it; the checksum is theirs."""
    rows = {
        "one": {"median": 0.123457, "p95": 1234.567891, "count": 50},
        "two": {"median": 2e-6, "p95": 1.0, "count": 50},
    }
    head = {"format": "nni-proxyless lookup table 2", "checksum": "b68f2c725bd289d2", "unit": "ms"}
    content = {**head, "conditions": {"device": "toy"}, "measured": {"date": "2026-01-01"}, "rows": rows}
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(content))
    table = LookupTable.read(tmp_path / "old.yaml")
    assert table.rows == {"one": Measurement(0.123457, 1234.567891, 50), "two": Measurement(2e-6, 1.0, 50)}
    table.write(tmp_path / "copy.yaml")
    assert LookupTable.read(tmp_path / "copy.yaml").rows == table.rows
    assert yaml.safe_load((tmp_path / "copy.yaml").read_text())["checksum"] == "b68f2c725bd289d2"


def test_a_search_keeps_a_table_in_seconds(tmp_path):
    """What it works with, and its copy: every row as it was given."""
    space = MobileNetV2Space("small", num_classes=10, in_channels=1)
    seconds = {op.key: 2e-5 * MacsEstimator().estimate(op) for op in trace_operations(space, SHAPE)}
    table = LookupTable({key: Measurement(v, v, 9) for key, v in seconds.items()}, {"device": "toy"}, unit="s")
    table.write(tmp_path / "t.yaml")
    make_profiler(space, SHAPE, TableOnly(unit="s"), tmp_path / "t.yaml", tmp_path / "kept.yaml")
    kept = LookupTable.read(tmp_path / "kept.yaml", unit="s")
    assert {key: row.median_ms for key, row in kept.rows.items()} == pytest.approx(seconds, rel=RELATIVE, abs=0)
    assert len({row.median_ms for row in kept.rows.values()}) == len(set(seconds.values())) > 20


def test_a_build_that_goes_on_has_the_times_of_before(tmp_path):
    kept = KeptTimings(tmp_path / "partial", {"repeats": 1}, ["one"])
    kept.add([("one", 1.23456789e-7)])
    assert KeptTimings(tmp_path / "partial", {"repeats": 1}, ["one"]).runs == [[("one", 1.23456789e-7)]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12.3456, "12.346"), (0.5, "0.500"), (0.1, "0.100"), (0.09999, "0.100"), (0.01234, "0.0123"), (0.05, "0.0500"), (1.2345e-5, "1.23e-05"),
        (-1.2345e-5, "-1.23e-05"), (0.0, "0.000"), (1234567.0, "1234567.000"), (float("nan"), "nan"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_words_show_three_digits_that_say_something(value, text):
    assert in_words(value) == text


def test_words_of_reports_and_signs():
    assert figure(1.5e-5) == "1.5e-05"
    assert amount(2e-5, "s") == "2e-05 s"
    assert amount(2.0, "ms") == "2.000 ms"
    assert in_words(1e-5, "+") == "+1e-05"
    assert in_words(1.0, "+") == "+1.000"
    assert in_words(0.00123456, digits=4) == "0.001235"


def test_costs_of_another_unit_may_be_large(tmp_path):
    """More than a day in milliseconds is no measurement; so many nanojoules are one."""
    for unit, value in (("nJ", 1e12), ("ms", 1e12)):
        table = LookupTable({"one": Measurement(value, value, 1)}, {"device": "toy"}, unit=unit)
        table.write(tmp_path / f"{unit}.yaml")
    assert LookupTable.read(tmp_path / "nJ.yaml", unit="nJ").rows["one"].median_ms == 1e12
    with pytest.raises(
        ValueError, match=r"row 'one': median is 1000000000000.0; allowed: a number of 0 or more, below 1e\+08"
    ):
        LookupTable.read(tmp_path / "ms.yaml")


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1.234, 2.5], ["1.234", "2.500"]),
        ([1.2341, 1.2342], ["1.2341", "1.2342"]),
        ([1.25e-4, 2.5e-4], ["0.000125", "0.00025"]),
        ([1.2e-7, 1.2141e-7, 1.2142e-7], ["1.2e-07", "1.2141e-07", "1.2142e-07"]),
        ([2.0, 2.0], [f"{2:.17f}"] * 2),
    ],
)
def test_names_of_a_front_are_told_apart_in_every_unit(values, names):
    """Folders of networks by their cost: as they were in milliseconds, and not all zero in seconds."""
    assert distinct_in_words(values) == names
