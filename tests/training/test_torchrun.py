"""Several processes of one training, as torchrun starts them, on the CPU."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from nni_proxyless.cli.main import main

from ..forked import fork
from ..search.test_experiment import free_port
from .test_training import plain, small

TWO = ("torchrun", "--standalone", "--nproc-per-node", "2", "-m", "nni_proxyless", "train")


def test_two_processes_leave_one_log_and_one_set_of_files(command, tmp_path, capsys):
    small(tmp_path)
    done = command(*TWO, "architecture.json", "epochs=2", "batch_size=32", "threads=1", "device=cpu", timeout=150)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert len([line for line in done.stderr.splitlines() if "epoch 1/2: train loss " in line]) == 1
    assert "Warning" not in done.stderr
    final = tmp_path / "final"
    assert {path.name for path in final.iterdir()} == {
        "weights.safetensors", "best.safetensors", "result.json", "history.jsonl", "train.yml", "tensorboard",
    }  # fmt: skip
    result = json.loads((final / "result.json").read_text())
    assert result["processes"] == 2
    history = [json.loads(line) for line in (final / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in history] == [1, 2]
    # Each of the 359 test images is counted once: the same figure as one process finds.
    assert (result["accuracy"] * 359) == pytest.approx(round(result["accuracy"] * 359))
    path = str(tmp_path / "architecture.json")
    assert main(["train", path, "weights=final/weights.safetensors", "device=cpu", "--epochs", "0"]) == 0
    assert f"test accuracy: {result['accuracy']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize("taught", [False, True])
def test_two_processes_take_the_steps_of_one_with_twice_the_batch(taught, tmp_path):
    """Without batch norm, whose statistics are each process's own, the gradients are the same sums; with a teacher likewise."""
    words = ["epochs=2", "learning_rate=0.05", "ema_decay=0.9", "threads=1", "device=cpu"]
    path = plain(tmp_path)
    if taught:
        words.append("distillation={teacher: architecture.json, temperature: 2.0}")
    assert main(["train", str(path), *words, "batch_size=16", f"output={tmp_path / 'one'}"]) == 0
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}  # what torchrun tells them
    words = ["train", str(path), *words, "batch_size=8", f"output={tmp_path / 'two'}"]
    processes = [
        fork(main, words, cwd=tmp_path, said=tmp_path / "said", RANK=str(rank), LOCAL_RANK=str(rank), **told)
        for rank in range(2)
    ]
    for process in processes:
        process.join(150)
    assert [process.exitcode for process in processes] == [0, 0], (tmp_path / "said").read_text()
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(two[name], tensor, atol=1e-6) for name, tensor in one.items())
    assert not all(
        torch.equal(tensor, load_file(tmp_path / "weights.safetensors")[name]) for name, tensor in one.items()
    )


def test_a_users_mistake_is_said_once(tmp_path):
    """By the first process; the second one, which makes the same, leaves it time to speak, and torchrun ends it then."""
    path, said = small(tmp_path), tmp_path / "said"
    told = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = ["train", str(path), "epoch=2"]
    second, first = (
        fork(main, words, cwd=tmp_path, said=said, RANK=rank, LOCAL_RANK=rank, **told) for rank in ("1", "0")
    )
    first.join(150)
    second.terminate()
    second.join(150)
    assert first.exitcode == 2
    assert second.exitcode != 0
    assert said.read_text().count("nni-proxyless: command line: unknown key 'epoch'") == 1
