"""A search that is killed at any moment and started again ends, to the last bit, as the search that was never killed."""

from __future__ import annotations

import os
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from nni_proxyless.strategies.oneshot.checkpoint import CheckpointError, CheckpointFolder

from ..forked import processes
from . import searches

KILLS = int(os.environ.get("NNI_PROXYLESS_KILLS", "2"))  # 20 for the record, which takes some minutes


def start(folder: Path | None, result: Path, **options: Any) -> BaseProcess:
    process = processes.Process(target=searches.killable, args=(str(folder) if folder else None, str(result), options))
    process.start()
    return process


def finish(folder: Path | None, result: Path, **options: Any) -> dict[str, Any]:
    process = start(folder, result, **options)
    process.join(240)
    assert process.exitcode == 0, process.exitcode
    return torch.load(result, weights_only=True)


def assert_same(found: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    else:
        assert found == expected, where


METHODS = ("proxyless", "dsnas")


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], float]]:
    """Method -> the result of the search without checkpoints, and how many seconds it takes with them."""
    results = {}
    for method in METHODS:
        folder = tmp_path_factory.mktemp("never_killed")
        expected = finish(None, folder / "result", method=method)
        began = time.monotonic()
        with_checkpoints = finish(folder / "checkpoints", folder / "with", method=method)
        seconds = time.monotonic() - began
        assert_same(with_checkpoints, expected)  # writing checkpoints changes nothing
        results[method] = expected, seconds
    return results


@pytest.mark.parametrize("kill", range(KILLS))
@pytest.mark.parametrize("method", METHODS)
def test_a_killed_search_ends_like_one_that_was_never_killed(method, kill, never_killed, tmp_path):
    """SIGKILL at a random moment, then the same command again: weights, statistics, logits, architecture are equal."""
    expected, seconds = never_killed[method]
    moment = seconds * random.Random(1000 + kill).random()
    process = start(tmp_path / "checkpoints", tmp_path / "result", method=method)
    time.sleep(moment)
    process.kill()  # SIGKILL; nothing if it has ended
    process.join()
    assert_same(finish(tmp_path / "checkpoints", tmp_path / "result", method=method), expected)


@pytest.mark.parametrize("batch", [27, 52, 76])
def test_stages_of_dsnas_go_on_as_exactly(batch, never_killed, tmp_path):
    """Killed in the search, when some choices are fixed, in the child's first epoch, at its start: fixed stays fixed, what has
    left stays away."""
    expected, _ = never_killed["dsnas"]
    assert len(expected["fixed"]) == 6  # at the end, all; each has left its mark in weights and logits
    searches.stopped_after(batch, str(tmp_path / "checkpoints"))
    if batch == 27:
        checkpoint = CheckpointFolder(tmp_path / "checkpoints")
        state = checkpoint.read()
        assert state["threads"] == 1
        checkpoint.write(state | {"threads": 2})  # as if more had been free then: no reason to refuse
    assert_same(finish(tmp_path / "checkpoints", tmp_path / "result", method="dsnas"), expected)


@pytest.mark.parametrize("options", [{"update": "full", "accumulate_grad_batches": 4}, {"update": "reinforce", "warmup_learning_rate": 0.02}])  # fmt: skip
def test_other_updates_go_on_as_exactly(options, tmp_path):
    """The same with accumulated gradients, a warm-up schedule, and REINFORCE's baseline in the checkpoint."""
    expected = finish(None, tmp_path / "expected", **options)
    process = start(tmp_path / "checkpoints", tmp_path / "result", **options)
    files = tmp_path / "checkpoints" / "search.previous.ckpt"
    while not files.exists() and process.is_alive():
        time.sleep(0.01)
    time.sleep(0.4)
    process.kill()
    process.join()
    assert_same(finish(tmp_path / "checkpoints", tmp_path / "result", **options), expected)


def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(never_killed, tmp_path):
    """Half a file is no checkpoint; the search goes on from the one before, and still ends the same."""
    folder = tmp_path / "checkpoints"
    process = start(folder, tmp_path / "result")
    while not (folder / "search.previous.ckpt").exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    newest = folder / "search.ckpt"
    if newest.exists():
        newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    assert_same(finish(folder, tmp_path / "result"), never_killed["proxyless"][0])


def test_the_checkpoint_of_another_search_is_refused_and_kept(tmp_path):
    """Other arguments: another search, whose checkpoint must not be taken up, and not be lost."""
    folder = tmp_path / "checkpoints"
    finish(folder, tmp_path / "result")
    before = (folder / "search.ckpt").read_bytes()
    with pytest.raises(CheckpointError, match=r"of another search: seed is 5 here, 0 in the checkpoint"):
        searches.killable(str(folder), str(tmp_path / "other"), {"seed": 5})
    assert (folder / "search.ckpt").read_bytes() == before
