"""The benchmark of scale: its arithmetic on known values, and what its images note. A search at 224 pixels takes minutes."""

from __future__ import annotations

import json
import os
import sys

import psutil
import pytest

from experiments.benchmarks.common import record
from experiments.benchmarks.scale import run as scale
from experiments.benchmarks.scale.run import Halt
from nni_proxyless.data import loader


def test_growth_is_that_of_the_second_half_and_its_noise_that_of_the_rest():
    climbs_then_rests = [1000.0 + 10 * i for i in range(100)] + [2000.0] * 100
    assert scale.growth(climbs_then_rests) == {
        "share": pytest.approx(0, abs=1e-12),
        "noise": pytest.approx(0, abs=1e-12),
    }
    leaks = [1000.0 + i for i in range(200)]  # 100 MiB over the second half, whose mean is 1149.5
    assert scale.growth(leaks)["share"] == pytest.approx(100 / 1149.5)
    assert scale.growth(leaks)["noise"] == pytest.approx(0, abs=1e-9)
    shaky = [1000.0 + 50 * (i // 10 % 2) for i in range(200)]
    assert abs(scale.growth(shaky)["share"]) < scale.growth(shaky)["noise"]
    assert scale.growth([float(i) for i in range(1, 7)])["share"] == pytest.approx(3 / 5), "fewer notes than blocks"


def test_steps_between_two_halts_are_set_against_the_plain_steps_of_both():
    """Steps of 1 s; epochs of 4, of which the first is warm-up; a gap of 9 s after each epoch."""
    starts = [0, 1, 2, 3, 13, 14, 15, 16, 26, 27, 28, 29]
    halts = [Halt(12, 12.5, [0.5, 0.5]), Halt(16.5, 16.6, [0.3]), Halt(25, 25.5, [1.0]), Halt(29.5, 30, [1.0])]
    # Between the first two halts 3 steps of 1 s, since the 4th ends with the epoch; between the next two none.
    assert scale.ratios_of_turns(starts, halts, 4, 4) == pytest.approx([3 / 3 / ((0.5 + 0.5 + 0.3) / 3), 1.0])
    assert scale.ratios_of_turns(starts, halts, 4, 8) == pytest.approx([1.0]), "from the second epoch of the search on"


def test_bars_judge_the_process_that_grows_most_and_one_that_stopped_early():
    run = {
        "strategy": "dsnas", "processes": 1, "ratios": [1.0, 1.2], "steps": [60], "left_a_net": True,
        "processes_that_trained": 1, "processes_left_over": 0,
        "growth": [{"share": 0.001, "noise": 0.0}],
    }  # fmt: skip
    two = run | {
        "processes": 2,
        "processes_that_trained": 2,
        "steps": [60, 59],
        "growth": [{"share": 0.0, "noise": 0.0}, {"share": 0.03, "noise": 0.01}],
    }
    verdicts = {b["bar"]: b["verdict"] for b in scale.bars([run, two], "long")}
    assert verdicts == {
        "dsnas, 1 process: growth of memory": "met",
        "dsnas, 1 process: searched to the end, equal steps, no process left over": "met",
        "dsnas, 1 process: time of a step by a plain one": "met",
        "dsnas, 2 processes: growth of memory": "missed",
        "dsnas, 2 processes: searched to the end, equal steps, no process left over": "missed",
    }
    two["steps"] = [60, 60]
    assert "missed" not in {b["verdict"] for b in scale.bars([two], "short")}
    for wrong in ({"left_a_net": False}, {"processes_that_trained": 1}, {"processes_left_over": 1}):
        assert len(record.missed(scale.bars([two | wrong], "short"))) == 1


def test_a_process_that_lives_on_is_found(monkeypatch):
    ended, lives = (psutil.Popen([sys.executable, "-c", f"import time; time.sleep({s})"]) for s in (0, 60))
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr(scale.time, "monotonic", lambda: next(clock))
    try:
        while scale.is_alive(ended):  # in the end it is a zombie: nobody waits for it
            pass
        assert scale.left_over([ended]) == 0
        assert scale.left_over([ended, lives]) == 1
    finally:
        lives.kill()
        lives.wait()
        ended.wait()


def test_images_note_the_beginning_of_every_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "PIXELS", 8)
    data = scale.watched_noise(n_images=10, batch=4, folder=str(tmp_path))
    assert data.shape == (3, 8, 8)
    for _ in range(2):  # of 10 images, 2 batches of 4 and a rest that is dropped
        assert len(list(loader(data.train, 4, seed=0))) == 2
    assert len(list(data.train_plain)) == 10
    (notes,) = scale.read_notes(tmp_path).values()
    assert [path.stem for path in tmp_path.iterdir()] == [str(os.getpid())]
    assert len(notes) == 4, "images that are not trained on note nothing"
    assert [note[0] for note in notes] == sorted(note[0] for note in notes)
    assert all(10 < resident < 1.05 * peak for _, resident, peak in notes)  # the kernel counts the two apart
    with next(tmp_path.iterdir()).open("a") as file:
        file.write(json.dumps([1.0, 2.0, 3.0])[:5])
    assert len(next(iter(scale.read_notes(tmp_path).values()))) == 4, "a line that is being written"
