"""Two pipelines of two stages learn as two whole networks do whose gradients are averaged by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nni_proxyless.config.train_config import TrainConfig
from nni_proxyless.data.accuracy import evaluate_accuracy
from nni_proxyless.training.batches import Division, EpochBatches
from nni_proxyless.training.distributed import Processes
from nni_proxyless.training.optimizer import Optimization
from nni_proxyless.training.pipeline_parallel import PipelineParallel

from ..forked import fork
from ..search.test_experiment import free_port
from ..tasks.classification import classification
from .test_pipeline import trees

CPU = torch.device("cpu")
PIPELINE = {"stages": 2, "micro_batches": 2, "cut_before": ["blocks.1.0"]}
CASES = [
    {"ema_decay": 0.5, "pipeline": PIPELINE},
    {"gradient_clip_val": 0.1, "pipeline": {**PIPELINE, "schedule": "1f1b", "rematerialize": True}},
]


def images() -> TensorDataset:
    """Of each epoch two batches of two replicas, with three images left over."""
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randn(19, 3, 16, 16, generator=generator, dtype=torch.float64)
    return TensorDataset(pictures, torch.randint(5, (19,), generator=generator))


def compare(rank: int, port: int) -> None:
    """One of four processes: every case; an error where an epoch leaves something else than :func:`by_hand`."""
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=4)
    for case in CASES:
        config = TrainConfig.model_validate({"batch_size": 4, "warmup_epochs": 0, **case})
        parallel = PipelineParallel(
            trees(), config, Processes(rank, 4, CPU), Division(images(), None, images()), classification(5)
        )
        losses = [parallel.learn(*batch).float() for batch in parallel.begin(0, 0)]
        parallel.end_epoch()
        loss = parallel.mean_loss(torch.stack(losses).sum(), len(losses))
        accuracy = parallel.judge(images())(parallel.optimization.judged)
        weights = parallel.weights()
        if rank == 0:
            expected_loss, network = by_hand(config)
            assert loss == pytest.approx(float(expected_loss), rel=1e-6)
            assert accuracy == evaluate_accuracy(network, DataLoader(images(), 4))
            for name, tensor in network.state_dict().items():
                assert torch.allclose(weights[name], tensor, rtol=1e-12, atol=1e-12), (case, name)
    torch.distributed.destroy_process_group()


def by_hand(config: TrainConfig) -> tuple[Tensor, nn.Module]:
    """An epoch of a whole network for each replica, on its micro-batches: the mean loss, and what is judged."""
    data = images()
    batches = [EpochBatches(len(data), 4, config.seed, Processes(replica, 2, CPU)) for replica in range(2)]
    replicas = [Optimization(trees(), config, 2, CPU) for _ in batches]
    criterion = LabelSmoothingCrossEntropy(config.label_smoothing)
    losses = []
    for of_each in zip(*batches, strict=True):
        for replica, batch in zip(replicas, of_each, strict=True):
            for micro_batch in (batch[:2], batch[2:]):
                pictures, targets = data[[index for _, index in micro_batch]]
                losses.append(criterion(replica.network(pictures), targets))
                losses[-1].backward()
        for first, second in zip(*(replica.network.parameters() for replica in replicas), strict=True):
            first.grad = (first.grad + second.grad) / 4
            second.grad = first.grad.clone()
        for replica in replicas:
            replica.step()
    for first, second in zip(*(replica.statistics() for replica in replicas), strict=True):
        first.copy_((first + second) / 2)
    return torch.stack(losses).detach().mean(), replicas[0].judged


def test_replicas_learn_as_whole_networks_whose_gradients_are_averaged(tmp_path: Path):
    """In float64, to 1e-12: weights, their average, statistics of batch norm. Each of 19 images is judged once."""
    port, said = free_port(), tmp_path / "said"
    processes = [fork(compare, rank, port, cwd=tmp_path, said=said) for rank in range(4)]
    for process in processes:
        process.join(150)
    assert [process.exitcode for process in processes] == [0] * 4, said.read_text()
