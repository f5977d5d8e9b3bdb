"""When a measured time is said to be far from its table, and how; of records alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from nni_proxyless.models.deviation import deviation_of, deviations_in_words, with_marks

RIGHT = {
    "unit": "ms",
    "table_ms": 0.1,
    "measured_ms": 0.102,
    "measured_scatter": 0.01,
    "table_again_ms": 0.1,
    "calibrated": False,
}


def said(folder: Path = Path("run"), **changes) -> str:
    found = deviation_of({**RIGHT, **changes})
    return "" if found is None else found.in_words(folder)


@pytest.mark.parametrize(
    ("changes", "deviates"),
    [
        ({}, False),
        ({"measured_ms": 0.106}, False),  # 5 % and the scatter
        ({"measured_ms": 0.1061}, True),
        ({"measured_ms": 0.0939}, True),
        ({"measured_ms": 0.106, "measured_scatter": 0.0}, True),
        ({"measured_ms": 0.12, "measured_scatter": 0.09}, True),
        ({"measured_scatter": 0.1}, False),
        ({"measured_scatter": 0.11}, True),
        ({"table_again_ms": 0.112}, False),  # four references are no better than 10 %
        ({"table_again_ms": 0.15}, True),
        ({"measured_ms": None}, False),  # a table of another device, or a network that could not be timed
        ({"table_ms": None, "measured_ms": 9.0}, False),  # a reference network
        ({"unit": "million multiply-adds", "table_ms": 7.0}, False),
        ({"unit": "mJ", "table_ms": 7.0}, False),
    ],
)
def test_what_is_worth_saying(changes, deviates):
    assert bool(said(**changes)) is deviates


def test_why_is_said():
    """By the networks of the table that were timed beside it, where there are any."""
    slower = said(measured_ms=0.153, table_again_ms=0.15)
    assert slower == (
        "0.153 ms, 53 % above what the table says (0.100 ms): the machine is slower now than when the table was made: networks of the table, "
        "timed beside this one, take 1.50 times as long as then, and at that speed it says 0.150 ms"
    )
    assert "(0.100 ms): the machine is faster now" in said(measured_ms=0.052, table_again_ms=0.05)
    wrong = said(measured_ms=0.153, table_again_ms=0.101)
    assert (
        "the table is wrong here: networks of the table, timed beside this one, take 1.01 times as long as then"
        in wrong
    )
    assert wrong.endswith("; nni-proxyless latency check TABLE --dry-run tells how far it is off elsewhere")
    both = said(measured_ms=0.18, table_again_ms=0.13)
    assert "the machine is slower now than when the table was made, and the table is wrong here" in both
    assert "at that speed it says 0.130 ms" in both
    unknown = said(measured_ms=0.25, table_again_ms=None, calibrated=True)
    assert unknown.startswith(
        "0.250 ms, 2.5 times what the calibrated table says (0.100 ms): the machine is slower or busier now"
    )
    assert unknown.endswith("or the table is wrong here; nni-proxyless latency check TABLE --dry-run tells which")
    chance = said(table_again_ms=0.15)
    assert chance.startswith("0.102 ms, near what the table says (0.100 ms): the machine is slower now")
    restless = said(measured_ms=0.12, measured_scatter=0.2)
    assert restless.startswith(
        "0.120 ms, 20 % above what the table says (0.100 ms): the machine was restless, parts of the timing differ by 40 %"
    )
    assert restless.endswith("nni-proxyless report")


def test_in_brief():
    def brief(**changes) -> str:
        found = deviation_of({**RIGHT, **changes})
        return "" if found is None else found.brief

    assert brief(measured_ms=0.153, table_again_ms=0.15) == "53 % above the table, as the machine is slower"
    assert brief(measured_ms=0.052, table_again_ms=0.05) == "48 % below the table, as the machine is faster"
    assert brief(measured_ms=0.153, table_again_ms=0.101) == "53 % above the table"
    assert brief(measured_ms=0.153, table_again_ms=None) == "53 % above the table"
    assert brief(measured_ms=0.12, measured_scatter=0.2, table_again_ms=0.12) == "on a restless machine"


def test_records_of_earlier_versions_know_no_speed():
    """They have the operations one by one under that name, whose sum reads low."""
    earlier = {name: value for name, value in RIGHT.items() if name != "measured_scatter"}
    found = deviation_of({**earlier, "measured_ms": 0.15, "table_again_ms": 0.15})
    assert found is not None
    assert "or the table is wrong here" in found.in_words(Path())
    assert deviation_of({"table_ms": 0.1, "measured_ms": 0.104}) is None, "what a trial has reported to NNI"


def test_the_command_names_the_table_of_the_search(tmp_path):
    (tmp_path / "a run").mkdir()
    (tmp_path / "a run" / "latencies.yaml").touch()
    words = said(tmp_path / "a run", measured_ms=0.2, table_again_ms=None)
    assert f"nni-proxyless latency check '{tmp_path}/a run/latencies.yaml' --dry-run" in words


def test_several_networks_are_one_line():
    def line(*measured_ms: float, **changes) -> str:
        again = {"table_again_ms": None, **changes}
        networks = [(f"n{i}", Path("run"), {**RIGHT, **again, "measured_ms": ms}) for i, ms in enumerate(measured_ms)]
        return deviations_in_words(
            [*networks, ("untimed", Path("run"), {}), ("reference", Path("run"), {"measured_ms": 3.0})]
        )

    assert line() == line(0.1, 0.101) == ""
    assert line(0.1, 0.2).startswith("n1, measured: 0.200 ms, 2.0 times what the table says (0.100 ms): ")
    alike = line(0.15, 0.151, 0.153)
    assert alike == (
        "3 of 3 networks, measured, are 50 to 53 % above what the table says: all take 1.51 times as long as it says, so the machine is slower "
        "or busier now than when it was made"
    )
    of_machine = line(0.15, 0.151, table_again_ms=0.148)
    assert of_machine == (
        "2 of 2 networks, measured, are 50 to 51 % above what the table says: the machine is slower now than when it was made: networks of the "
        "table, timed beside these, take 1.48 times as long as then; at that speed these are 2 % off at most"
    )
    assert "or the table is wrong there" in line(0.15, 0.2, table_again_ms=0.15), "which explains one of them alone"
    apart = line(0.05, 0.1, 0.2)
    assert apart.startswith(
        "2 of 3 networks, measured, are 50 % below to 2.0 times what the table says: the machine is "
    )
    assert apart.endswith("or the table is wrong there; nni-proxyless latency check TABLE --dry-run tells which")
    assert "2 of 2 networks were timed on a restless machine" in line(0.1, 0.101, measured_scatter=0.3)
    assert "2 of 2 networks are near what the table says by chance" in line(0.1, 0.101, table_again_ms=0.2)


def test_marks_leave_digits_in_columns():
    far = deviation_of({**RIGHT, "measured_ms": 0.2})
    assert with_marks(["0.100", "0.200"], [None, far]) == ["0.100 ", "0.200*"]
    assert with_marks(["0.100"], [None]) == ["0.100"]
    assert with_marks([], []) == []
