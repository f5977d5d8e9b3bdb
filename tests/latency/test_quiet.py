"""Measuring on a machine that others use: it is seen, waited for within bounds, and said."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nni_proxyless.cli.main import main
from nni_proxyless.core.errors import UserError
from nni_proxyless.latency import LookupTable
from nni_proxyless.latency.estimators import idle_machine
from nni_proxyless.latency.estimators.idle_machine import PATIENCE, share_taken, wait_until_quiet

from ..runs import TINY


@pytest.mark.parametrize(
    ("busy", "cores", "threads", "expected"),
    [
        ([1.0] + 63 * [0.0], range(64), 1, 0.0),  # one busy core of 64
        ([1.0] + 63 * [0.0], range(64), 64, 1 / 64),
        ([1.0, 0.0], range(2), 1, 0.0),
        ([1.0, 0.0], range(2), 2, 0.5),
        ([1.0, 1.0], range(2), 1, 1.0),
        ([0.9, 0.4], range(2), 1, 0.3),  # 0.7 of a core is left
        ([1.0, 0.0], [0, 0], 1, 1.0),  # two hardware threads of one core
        ([0.5, 0.5, 0.0, 0.0], [0, 0, 1, 1], 1, 0.0),
        ([0.0, 0.0], range(2), 8, 0.0),  # more threads than cores: nobody takes anything
    ],
)
def test_what_counts_is_what_is_left(busy, cores, threads, expected):
    core_of = {i: str(core) for i, core in enumerate(cores)}
    assert share_taken(dict(enumerate(busy)), core_of, threads) == pytest.approx(expected)


@pytest.fixture
def others() -> Iterator[None]:
    """Processes that keep every core busy, and yield to the test."""
    with contextlib.ExitStack() as ending:
        for _ in os.sched_getaffinity(0):
            process = ending.enter_context(subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", "print(flush=True)\nwhile True: pass"],
                                                            stdout=subprocess.PIPE))  # fmt: skip
            ending.callback(process.kill)
            process.stdout.readline()
        yield


def test_waiting_has_an_end_and_is_said_once(others, monkeypatch, caplog):
    """All measurements of a process together wait as long as the variable says; after that they only look."""
    monkeypatch.setattr(idle_machine, "_waited", 0.0)
    monkeypatch.setenv(PATIENCE, "2")
    with caplog.at_level("INFO", "nni_proxyless"):
        assert wait_until_quiet(1) > 0.5
        assert idle_machine._waited == 2
        assert wait_until_quiet(1) > 0.5
        assert idle_machine._waited == 2
    waits, loud, loud_again = (record.message for record in caplog.records)
    assert waits.startswith("measuring waits for a quiet machine: other processes use ")
    assert waits.endswith(
        " % of the core that it needs; at most 2 s more, or as long as NNI_PROXYLESS_QUIET_SECONDS says"
    )
    for message in (loud, loud_again):
        assert message.startswith("the machine is not quiet: other processes use ")


def test_a_table_says_that_others_were_busy_and_so_does_who_reads_it(others, monkeypatch, tmp_path, capsys):
    """Two searches that end right after their table, since no network of the space is as fast as they want."""
    (tmp_path / "search.yml").write_text(TINY)
    words = ["search", str(tmp_path / "search.yml"), "latency.target_ms=0.000001"]
    monkeypatch.setattr(idle_machine, "_waited", 0.0)
    monkeypatch.setenv(PATIENCE, "0.5")
    assert main([*words, f"output={tmp_path / 'one'}"]) == 2
    busy = LookupTable.read(tmp_path / "table.yaml").measured["busy"]
    assert 0.1 < busy <= 1
    assert "the machine is not quiet" in capsys.readouterr().err
    assert main([*words, f"output={tmp_path / 'two'}"]) == 2
    assert f"measured while others used {100 * busy:.0f} % of the cores it needed" in capsys.readouterr().err


def test_nobody_looks_if_told_so(monkeypatch):
    monkeypatch.setattr(idle_machine, "_look", None)
    monkeypatch.setenv(PATIENCE, "0")
    assert wait_until_quiet(1) == 0.0


@pytest.mark.parametrize("said", ["soon", "-1", "inf"])
def test_a_wrong_number_of_seconds_is_refused(monkeypatch, said):
    monkeypatch.setenv(PATIENCE, said)
    with pytest.raises(UserError, match=f"NNI_PROXYLESS_QUIET_SECONDS is '{said}'; allowed: seconds, 0 or more"):
        wait_until_quiet(1)
