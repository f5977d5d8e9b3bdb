"""The benchmark of a network in stages: what it measures, and what it computes from that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.benchmarks import ROOT
from experiments.benchmarks.pipeline import report, run
from experiments.benchmarks.pipeline.work import measure

from ..forked import fork

SETTINGS = {"network": "mobilenetv3_small_050", "side": 32, "batch": 8, "processes": 2, "micro_batches": 2, "schedule": "1f1b",
            "rematerialize": True, "steps": 2, "device": "cpu"}  # fmt: skip


def worker(store: str, rank: int) -> int:
    Path(f"said{rank}").write_text(json.dumps(measure(SETTINGS, store, rank)))
    return 0


def test_every_process_is_measured(tmp_path):
    store, said = str(tmp_path / "store"), tmp_path / "said"
    processes = [fork(worker, store, rank, cwd=tmp_path, said=said) for rank in range(2)]
    for process in processes:
        process.join(150)
    assert [process.exitcode for process in processes] == [0, 0], said.read_text()
    first, second = (json.loads((tmp_path / f"said{rank}").read_text()) for rank in range(2))
    assert first == second
    assert len(first["seconds"]) == len(first["peak_mib"]) == len(first["begins"]) == 2
    assert min(*first["seconds"], *first["layer_seconds"]) > 0
    assert all(0 < peak < 1000 for peak in first["peak_mib"])
    assert sum(report.stage_seconds(first)) == pytest.approx(sum(first["layer_seconds"]))


def test_cases_are_those_that_a_schedule_allows():
    options = run.options_from(["--stages", "1", "4", "--micro-batches", "2", "8"])
    found = [(c["processes"], c["micro_batches"], c["schedule"], c["rematerialize"]) for c in run.cases(options)]
    assert len(found) == len(set(found)) == 11
    assert (4, 2, "1f1b", False) not in found
    assert (4, 2, "gpipe", True) in found
    assert run.options_from(["--short"]).stages == [1, 2]


@pytest.mark.parametrize("form", [[], ["--short"]])
def test_timm_knows_the_network(form):
    """In a process of its own, as it is measured: here other tests may have registered it."""
    network = run.options_from(form).network
    known = f"from experiments.benchmarks.pipeline import work; assert work.timm.is_model({network!r})"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", known], cwd=ROOT).returncode == 0


def test_a_batch_that_cannot_be_divided_is_refused(capsys):
    with pytest.raises(SystemExit):
        run.options_from(["--micro-batches", "5"])
    assert (
        "--micro-batches: 5 of a batch of 64; allowed: divisors that leave 2 images or more" in capsys.readouterr().err
    )


def entry(processes: int, seconds: list[float], peaks: list[float], *, rematerialize: bool = False) -> dict:
    begins = [0] if processes == 1 else [0, 2]
    return {"processes": processes, "micro_batches": 4, "schedule": "gpipe", "rematerialize": rematerialize, "seconds": seconds,
            "peak_mib": peaks, "layer_seconds": [0.1, 0.2, 0.3], "begins": begins}  # fmt: skip


def test_what_is_expected_and_how_long_a_process_waits():
    assert report.stage_seconds(entry(2, [], [])) == pytest.approx([0.3, 0.3])
    assert report.expected(entry(1, [], [])) == pytest.approx(4 * 0.6)
    assert report.expected(entry(2, [], [])) == pytest.approx(0.6 + 3 * 0.3)
    assert report.waiting([0.1, 0.2, 0.3], 2, 4) == pytest.approx(1 / 5), "as (K - 1) / (M + K - 1), with equal stages"
    assert report.waiting([0.1, 0.2, 0.3], 3, 4) > 2 / 6


def test_bars_are_of_the_largest_number_of_micro_batches():
    entries = [
        entry(1, [2.4] * 3, [200.0]),
        entry(2, [1.5, 1.6, 2.4], [150.0, 90.0]),
        entry(2, [2.0] * 3, [80.0, 60.0], rematerialize=True),
    ]
    memory, time = report.bars(entries)
    assert (memory["value"], memory["verdict"]) == (0.4, "met")
    assert time["value"] == pytest.approx(1.6 / 1.5)
    assert time["noise"] == pytest.approx((2.0 - 1.55) / 1.5)
    assert report.bars(entries[:1]) == []
    settings = {"network": "any", "batch": 8, "side": 32}
    page = report.markdown({"machine": {"cpu": "a", "cores": 2}, "threads": 1, "date": "2026-11-30", "versions": {}, "seconds": 60, "command": "run",
                            "settings": settings, "entries": entries, "bars": report.bars(entries)})  # fmt: skip
    assert "| 2 | 4 | gpipe |  | 1600 | 1500 | 150, 90 |" in page
    assert "| 2 | 4 | 20 % | 20 % |" in page
