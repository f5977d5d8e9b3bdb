"""``nni-proxyless train … pipeline.stages=2``: a training in stages leaves what one in a single process leaves."""

from __future__ import annotations

import contextlib
import math
import re
import resource
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

from nni_proxyless.cli.main import main
from nni_proxyless.config.train_config import TrainConfig
from nni_proxyless.core.errors import UserError
from nni_proxyless.data.accuracy import as_channels_last
from nni_proxyless.training.batches import Division
from nni_proxyless.training.checkpoint import TrainingCheckpoint
from nni_proxyless.training.distributed import Processes
from nni_proxyless.training.pipeline import balanced, layers_of, measured
from nni_proxyless.training.pipeline_parallel import PipelineParallel

from ..forked import fork
from ..models.test_tree_networks import leave
from ..runs import history, same_weights
from ..search.test_experiment import free_port
from ..tasks.classification import classification
from .test_pipeline import trees
from .test_torchrun import TWO
from .test_training import plain, result, small

STAGES = ["pipeline.stages=2", "pipeline.micro_batches=4", "batch_size=64", "threads=1", "device=cpu"]
FILES = {"weights.safetensors", "best.safetensors", "result.json", "history.jsonl", "train.yml", "tensorboard"}


def begin(
    folder: Path, *words: str | Path, command: Callable[[list[str]], int] = main, n_processes: int = 2
) -> list[BaseProcess]:
    """``nni-proxyless train`` in so many processes, with what torchrun tells them."""
    told = {"WORLD_SIZE": str(n_processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    words = ("train", *map(str, words))
    return [
        fork(command, list(words), cwd=folder, said=folder / "said", RANK=str(rank), LOCAL_RANK=str(rank), **told)
        for rank in range(n_processes)
    ]


def train(folder: Path, *words: str | Path, **options: Any) -> str:
    """The same to its end; what was said."""
    processes = begin(folder, *words, **options)
    for process in processes:
        process.join(150)
    said = (folder / "said").read_text()
    assert [process.exitcode for process in processes] == [0] * len(processes), said
    return said


def evaluated(path: Path, weights: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What one process says of these weights in the plain network."""
    assert main(["train", str(path), f"weights={weights}", "device=cpu", "--epochs", "0"]) == 0
    return capsys.readouterr().out


def test_stages_leave_one_log_and_one_set_of_files(command, tmp_path, capsys):
    path, final = small(tmp_path), tmp_path / "final"
    done = command(*TWO, "architecture.json", *STAGES, "epochs=2", "validation=0.2")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    for line in ("epoch 1/2: train loss ", "pipeline: stage 1: conv_stem to ", " to classifier, "):
        assert len([one for one in done.stderr.splitlines() if line in one]) == 1, done.stderr
    assert "Warning" not in done.stderr
    assert {one.name for one in final.iterdir()} == FILES
    found = result(final)
    assert found["processes"] == 2
    assert len(found["pipeline"]["cut_before"]) == 1
    for name in ("last", "best"):  # each of the 359 test images is counted once, as one process counts them
        figure = found[name]["test_accuracy"]
        weights = "final/weights.safetensors" if name == "last" else "final/best.safetensors"
        assert f"test accuracy: {figure:.4f}" in evaluated(path, weights, capsys)


def test_a_training_in_stages_learns_as_one_in_one_piece(tmp_path):
    """Batch norm sees 16 images in the place of 64; the bound is 4 standard deviations of a difference of two shares, 6e-5."""
    path = small(tmp_path)
    words = ["epochs=6", "weights=scratch", "label_smoothing=0", "ema_decay=0.9"]
    assert (
        main(["train", str(path), *words, "batch_size=64", "threads=1", "device=cpu", f"output={tmp_path / 'one'}"])
        == 0
    )
    train(tmp_path, path, *words, *STAGES, f"output={tmp_path / 'two'}")
    one, two = (result(tmp_path / name)["accuracy"] for name in ("one", "two"))
    assert one > 0.8
    assert abs(one - two) < 4 * math.sqrt(2 * one * (1 - one) / 359)


DRAWS = ["epochs=2", "validation=0.2", "dropout=0.2", "drop_path=0.2", "mixup=0.2", "gradient_clip_val=0.5"]


@pytest.mark.parametrize(("n_processes", "more"), [(2, ["workers=1"]), (4, ["ema_decay=0.9", "batch_size=32"])])
def test_a_killed_training_goes_on_to_the_same_weights_in_the_same_stages(tmp_path, capsys, n_processes, more):
    """All processes, of one pipeline or of two replicas, get SIGKILL in the middle of an epoch. Dropout draws by stage, so another cut would give other weights."""
    path, killed = small(tmp_path), tmp_path / "killed"
    words = [path, *STAGES, *DRAWS, *more]
    processes = begin(tmp_path, *words, f"output={killed}", "checkpoint_every=3", n_processes=n_processes)
    while not (killed / "checkpoint" / "history.jsonl").exists():  # written with the first checkpoint
        assert processes[0].exitcode is None, (tmp_path / "said").read_text()
        time.sleep(0.01)
    for process in processes:
        process.kill()
        process.join()
    state = TrainingCheckpoint(killed).read()
    assert state["batch"] > 0
    assert " of epoch 1 of 2" in train(tmp_path, "--resume", killed, n_processes=n_processes)

    cut = state["pipeline"]["cut_before"]
    (tmp_path / "said").unlink()
    said = train(
        tmp_path, *words, f"pipeline.cut_before=[{cut[0]}]", f"output={tmp_path / 'whole'}", n_processes=n_processes
    )
    assert said.count("epoch 1/2: train loss ") == said.count("pipeline: stage 1: ") == 1
    assert "Warning" not in said
    assert result(tmp_path / "whole")["processes"] == n_processes
    assert {one.name for one in killed.iterdir()} == FILES
    for name in ("weights.safetensors", "best.safetensors"):
        assert same_weights(killed, tmp_path / "whole", name)
    figures = [[epoch | {"images_per_second": 0} for epoch in history(one)] for one in (killed, tmp_path / "whole")]
    assert figures[0] == figures[1]
    assert result(killed)["pipeline"] == result(tmp_path / "whole")["pipeline"] == {"cut_before": cut}


def test_where_it_is_cut_changes_no_weights(tmp_path):
    """Without what draws at random, and with one bound for the gradients of all stages, which rounds in their order."""
    path = small(tmp_path)
    words = [
        path,
        *STAGES,
        "batch_size=256",
        "epochs=1",
        "gradient_clip_val=0.1",
        "pipeline.schedule=1f1b",
        "pipeline.rematerialize=true",
    ]
    for layer in ("bn1", "blocks.2.1"):
        train(tmp_path, *words, f"pipeline.cut_before=[{layer}]", f"output={tmp_path / layer}")
    one, two = (load_file(tmp_path / layer / "weights.safetensors") for layer in ("bn1", "blocks.2.1"))
    assert one.keys() == load_file(tmp_path / "weights.safetensors").keys()
    assert all(torch.allclose(two[name], tensor, rtol=1e-4, atol=1e-6) for name, tensor in one.items())


def test_a_network_of_trees_is_trained_in_stages_and_in_mixed_precision(tmp_path, capsys):
    path = leave(tmp_path)
    train(tmp_path, path, *STAGES, "batch_size=512", "epochs=1", "precision=bf16-mixed", "pipeline.rematerialize=true")
    accuracy = result(tmp_path / "final")["accuracy"]
    assert f"test accuracy: {accuracy:.4f}" in evaluated(path, "final/weights.safetensors", capsys)


def limited(words: list[str]) -> int:
    """``nni-proxyless`` in a process that may have 300 MiB more than it begins with."""
    (used,) = re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())
    resource.setrlimit(resource.RLIMIT_DATA, (int(used) * 1024 + 300 * 2**20,) * 2)
    return main(words)


def test_a_network_that_one_process_cannot_hold_is_trained_in_two(tmp_path):
    """A step of one process keeps 470 MiB of activations; of two, in eight micro-batches, each holds a fraction of that."""
    pictures = {"name": "synthetic", "arguments": {"n_images": 64, "num_classes": 10, "image_size": 96}}
    path = small(tmp_path, side=96, dataset=pictures, in_channels=3)
    words = [str(path), "epochs=1", "batch_size=64", "threads=1", "device=cpu"]
    alone = fork(limited, ["train", *words, f"output={tmp_path / 'one'}"], cwd=tmp_path, said=tmp_path / "alone")
    alone.join(150)
    assert alone.exitcode not in (0, None)
    assert "memory" in (tmp_path / "alone").read_text()
    assert not (tmp_path / "one" / "weights.safetensors").exists()

    stages = ["pipeline.stages=2", "pipeline.micro_batches=8", "pipeline.rematerialize=true"]
    train(tmp_path, *words, *stages, f"output={tmp_path / 'two'}", command=limited)
    assert (tmp_path / "two" / "weights.safetensors").exists()


@contextlib.contextmanager
def group_of_one() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def first_of_all(network: nn.Module, pipeline: dict[str, Any] | None = None, **given: Any) -> PipelineParallel:
    """As the first process sees a training of 64 images, before it needs another one."""
    section = {"stages": 2, "micro_batches": 4, **(pipeline or {})}
    config = TrainConfig.model_validate({"batch_size": 32, **given, "pipeline": section})
    images = TensorDataset(torch.zeros(64, 3, 16, 16), torch.zeros(64, dtype=torch.int64))
    processes = Processes(0, section["stages"], torch.device("cpu"))
    with group_of_one():
        return PipelineParallel(network, config, processes, Division(images, None, images), classification(5))


@pytest.mark.parametrize(("given", "n_kept"), [({}, 4), ({"schedule": "1f1b"}, 2), ({"rematerialize": True}, 1)])
def test_stages_may_take_the_same_memory(given, n_kept):
    """Of weights, their gradients, momenta and averages, and of activations of as many micro-batches as are held at a time."""
    layers = layers_of(trees().float())
    costs = measured(list(layers.values()), as_channels_last(torch.zeros(8, 3, 16, 16)), repeats=1)
    _, second = balanced([cost.bytes(n_kept, n_copies=4) for cost in costs], 2)
    assert first_of_all(trees().float(), {"balance": "memory", **given}).cut_before == [list(layers)[second]]


def test_the_first_process_holds_its_stage_until_it_gets_all_weights():
    network = trees().float()
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = as_channels_last(torch.randn(2, 3, 16, 16))
    expected = network.eval()(images)
    parallel = first_of_all(network)
    held = {name for name, p in network.named_parameters() if p.device.type == "cpu"}
    assert held == {name for name, _ in network.named_parameters()} & set(parallel.names)
    assert 0 < len(held) < len(list(network.parameters()))
    whole = parallel.whole(weights)
    assert torch.equal(whole(images), expected)
    assert len(list(whole.parameters())) == len(list(network.parameters()))


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_processes", [1, 3])
def test_a_multiple_of_the_stages_of_processes(tmp_path, refused, monkeypatch, n_processes):
    monkeypatch.setenv("WORLD_SIZE", str(n_processes))
    said = refused("train", small(tmp_path), *STAGES)
    assert (
        f"pipeline.stages: 2, but the number of processes is {n_processes}; allowed: 2 processes, or a multiple of that: torchrun --standalone --nproc-per-node 2"
        in said
    )


def test_a_network_whose_layers_have_no_order_is_refused(tmp_path):
    processes = begin(tmp_path, plain(tmp_path), *STAGES, "dropout=0")
    processes[0].join(150)
    processes[1].terminate()
    processes[1].join(150)
    assert processes[0].exitcode == 2
    assert "pipeline: Plain does not say how its layers follow each other; allowed: " in (tmp_path / "said").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pipeline": {"stages": 9}}, r"pipeline\.stages: 9 for 7 layers with weights; allowed: up to 7"),
        ({"pipeline": {"cut_before": ["blocks.1.2"]}}, r"pipeline\.cut_before: there is no layer 'blocks\.1\.2'; allowed: bn1, .*Did you mean 'blocks\.1\."),
        ({"pipeline": {"stages": 3, "cut_before": ["bn2", "bn1"]}}, r"pipeline\.cut_before: bn2, bn1 do not stand in the order of the layers"),
        ({"batch_size": 128}, "batch_size: 128, but a pipeline has only 64 training images; allowed with pipeline, whose micro-batches have one size: up to 64"),
        ({"optimizer": "lamb"}, "optimizer: lamb divides by the norm of all gradients, .* such as sgd, adamw, lars"),
    ],
)  # fmt: skip
def test_what_a_pipeline_cannot_do_is_said(given, said):
    with pytest.raises(UserError, match=said):
        first_of_all(trees().float(), **given)
