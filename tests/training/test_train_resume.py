"""A training that was killed goes on to the same weights; one that cannot go on says why."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch

from nni_proxyless.cli.main import main
from nni_proxyless.training.checkpoint import TrainingCheckpoint

from ..forked import fork
from ..runs import history, same_weights
from .test_training import small

# Everything that draws at random or has a memory.
SETTINGS = ["epochs=2", "batch_size=32", "threads=1", "dropout=0.2", "drop_path=0.1", "mixup=0.2", "cutmix=0.5",
            "momentum=0.9", "gradient_clip_val=1.0", "accumulate_grad_batches=2", "validation=0.2", "device=cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A training that nobody has disturbed, without loader processes."""
    folder = tmp_path_factory.mktemp("trained")
    path = small(folder)
    torch.set_num_threads(1)
    assert main(["train", str(path), *SETTINGS]) == 0
    return folder


def same(found: Path, expected: Path) -> bool:
    """Whether two trainings have left the same weights, to the last bit, and the same figures but for the time."""
    histories = [[epoch | {"images_per_second": 0} for epoch in history(folder)] for folder in (found, expected)]
    files = ("weights.safetensors", "best.safetensors")
    return histories[0] == histories[1] and all(same_weights(found, expected, name) for name in files)


def test_a_killed_training_goes_on_to_the_same_weights(trained, tmp_path, refused, capsys):
    """SIGKILL in the middle of an epoch; the killed one has a loader process, the others have none."""
    shutil.copy(trained / "architecture.json", tmp_path)
    shutil.copy(trained / "weights.safetensors", tmp_path)
    words = ["train", str(tmp_path / "architecture.json"), *SETTINGS, "workers=1", "checkpoint_every=4"]
    final = tmp_path / "final"
    killed = fork(main, words, cwd=tmp_path, said=tmp_path / "said")
    while not (final / "checkpoint" / "history.jsonl").exists():  # written with the first checkpoint
        assert killed.exitcode is None, (tmp_path / "said").read_text()
        time.sleep(0.01)
    killed.kill()
    killed.join()
    assert not (final / "weights.safetensors").exists()

    said = refused(*words, "learning_rate=0.1")
    assert "holds an unfinished training with other settings: learning_rate is 0.1 here, 0.05 there" in said
    assert f"delete {final / 'checkpoint'} to start over" in said

    checkpoint = TrainingCheckpoint(final)
    state = checkpoint.read()
    assert state["threads"] == 1
    checkpoint.write(state | {"threads": 2})  # as if more had been free then

    assert main(["train", "--resume", str(final)]) == 0
    captured = capsys.readouterr()
    assert "goes on with 1 CPU threads and began with 2" in captured.err
    assert "going on after batch " in captured.err
    assert " of epoch 1 of 2" in captured.err
    assert "test accuracy: " in captured.out
    assert same(final, trained / "final")
    assert not (final / "checkpoint").exists()

    assert main(["train", "--resume", str(final)]) == 0
    assert f"finished already: {final / 'weights.safetensors'}" in capsys.readouterr().out


def test_loader_processes_change_nothing_and_the_seed_does(trained, tmp_path):
    for name, more in (("workers", "workers=1"), ("seed", "seed=1")):
        assert main(["train", str(trained / "architecture.json"), *SETTINGS, more, f"output={tmp_path / name}"]) == 0
    assert same(tmp_path / "workers", trained / "final")
    assert not same(tmp_path / "seed", trained / "final")


def test_a_diverging_training_spoils_nothing(trained, tmp_path, refused):
    """Neither the results that are there, nor a checkpoint."""
    out = tmp_path / "out"
    shutil.copytree(trained / "final", out)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    words = ["train", trained / "architecture.json", f"output={out}", "epochs=1", "warmup_epochs=0", "threads=1",
             "learning_rate=1e30", "ema_decay=0", "device=cpu", "checkpoint_every=1"]  # fmt: skip
    said = refused(*words)
    assert "in epoch 1: the training diverged. Use a smaller learning_rate" in said
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    checkpoint = out / "checkpoint" / "training.ckpt"
    if checkpoint.exists():
        first = checkpoint.read_bytes()
        assert f"and delete {out / 'checkpoint'} to start over" in said
        refused(*words)
        assert checkpoint.read_bytes() == first


def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, refused):
    path, place = small(tmp_path), tmp_path / "final" / "checkpoint"
    place.mkdir(parents=True)
    (place / "training.ckpt").write_bytes(b"nni-proxyless training 1\n" + b"0" * 64 + b"\nhalf a fi")
    damage = "truncated or changed: the content does not have the digest that was written with it"
    alone = f"no other checkpoint to go on from. Delete {place} to start over"
    assert f"{place / 'training.ckpt'}: {damage}; {alone}" in refused("train", path, *SETTINGS)


def test_where_the_newest_checkpoint_is_damaged_the_one_before_it_counts(tmp_path, caplog):
    checkpoint = TrainingCheckpoint(tmp_path)
    for epoch in (1, 2):
        checkpoint.write({"settings": {"seed": 0}, "epoch": epoch})
    assert checkpoint.read()["epoch"] == 2
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-1])
    again = TrainingCheckpoint(tmp_path)
    assert again.read_for({"seed": 0})["epoch"] == 1
    assert "going on from the checkpoint before it" in caplog.text
    again.remove()
    assert not again.exists
