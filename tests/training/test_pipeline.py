"""A network in stages gives what it gives in one piece, to the last bit: gradients, losses, statistics of batch norm."""

from __future__ import annotations

import itertools
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from nni_proxyless.search_spaces import PyramidTreeSpace
from nni_proxyless.search_spaces.tree_network import build_pyramid_tree
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nni_proxyless.core.batch_norm import statistics_moved_already
from nni_proxyless.core.errors import UserError
from nni_proxyless.training.pipeline import (
    SCHEDULES,
    Plan,
    Stage,
    balanced,
    bubble,
    layers_of,
    measured,
    names_in,
    pipelined,
    step_seconds,
)

from ..forked import fork
from ..search.test_experiment import free_port

N_MICRO_BATCHES, MICRO_BATCH = 4, 3  # a division by 4 rounds nothing

FINDS_OUT = torch.__version__ >= (2, 14)  # older ones move the statistics of batch norm while they do


def mobile(cls: type = EfficientNet) -> nn.Module:
    """Of timm's family, with squeeze-and-excitation and residuals, in float64."""
    from timm.models._efficientnet_builder import decode_arch_def

    torch.manual_seed(0)
    blocks = decode_arch_def([["ds_r1_k3_s1_e1_c8"], ["ir_r2_k3_s2_e2_c8_se0.25"], ["ir_r2_k5_s2_e2_c16"]])
    return prepared(cls(blocks, num_classes=5, num_features=24, stem_size=8, round_chs_fn=lambda channels: channels))


def trees() -> nn.Module:
    torch.manual_seed(0)
    space = PyramidTreeSpace(depths=(1, 2), stem_width=4, final_width=8, num_classes=5)
    operations = list(itertools.islice(itertools.cycle(space.operations), 36))
    rows = [" ".join(operations[i : i + 12]) for i in range(0, 36, 12)]
    return prepared(build_pyramid_tree({"family": "pyramid-tree", "depths": [1, 2], "stem_width": 4, "final_width": 8, "num_classes": 5, "trees": rows}))  # fmt: skip


def prepared(network: nn.Module) -> nn.Module:
    return network.double().to(memory_format=torch.channels_last)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    n = N_MICRO_BATCHES * MICRO_BATCH
    images = torch.randn(n, 3, 16, 16, generator=generator, dtype=torch.float64)
    return images.contiguous(memory_format=torch.channels_last), torch.randint(5, (n,), generator=generator)


NETWORKS = {"mobile": mobile, "trees": trees}


# -- in one process ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [mobile, lambda: mobile(MobileNetV3), trees])
def test_the_layers_in_their_order_are_the_network(make):
    network = make().eval()
    layers = layers_of(network)
    images, _ = batch()
    x = images
    for layer in layers.values():
        x = layer(x)
    assert torch.equal(x, network(images))
    held = [id(p) for layer in layers.values() for p in layer.parameters()]
    assert held == [id(p) for p in network.parameters()]


def test_a_layer_is_a_block_with_what_follows_it_without_weights():
    assert list(layers_of(mobile())) == [
        "conv_stem", "bn1", "blocks.0.0", "blocks.1.0", "blocks.1.1", "blocks.2.0", "blocks.2.1", "conv_head", "bn2", "classifier",
    ]  # fmt: skip
    layers = layers_of(trees())
    assert list(layers) == ["conv_stem", "bn1", "blocks.0.0", "blocks.1.0", "blocks.1.1", "bn2", "classifier"]
    assert len(layers["bn2"]) == 3  # with the pooling and the dropout


def test_a_network_whose_order_is_not_known_is_refused():
    with pytest.raises(
        UserError, match=r"pipeline: Linear does not say .* allowed: a network with timm's as_sequential"
    ):
        layers_of(nn.Linear(1, 1))

    class WithMore(EfficientNet):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.body, self.scale = nn.Linear(2, 2), nn.Parameter(torch.ones(1))

        def as_sequential(self) -> nn.Sequential:
            return nn.Sequential(self.body)

    with pytest.raises(UserError, match="pipeline: WithMore uses weights beside its sequence of layers: scale"):
        layers_of(WithMore())


@pytest.mark.parametrize("n_stages", [1, 2, 3, 8])
def test_the_cut_is_the_best_of_all(n_stages):
    costs = [5.0, 1.0, 2.0, 7.0, 3.0, 3.0, 1.0, 4.0]

    def variance(begins: tuple[int, ...]) -> float:
        return statistics.pvariance([sum(costs[a:b]) for a, b in zip(begins, (*begins[1:], len(costs)), strict=True)])

    every = [(0, *rest) for rest in itertools.combinations(range(1, len(costs)), n_stages - 1)]
    assert variance(balanced(costs, n_stages)) == pytest.approx(min(map(variance, every)), abs=1e-12)


def test_more_stages_than_layers_are_refused():
    with pytest.raises(ValueError, match="3 stages of 2 layers; allowed: 1 to 2"):
        balanced([1.0, 1.0], 3)


def test_the_bubble_of_the_paper():
    assert bubble(1, 8) == 0
    assert bubble(4, 16) == 3 / 19


@pytest.mark.parametrize("stages", [[0.2, 0.2, 0.2], [0.1, 0.5, 0.2], [0.4]])
def test_a_step_takes_what_its_slowest_stage_lets_through(stages):
    """Against every forward and backward pass on its own, each of which begins when its stage and what it needs are done; three times as long backward."""
    n, last = 5, len(stages) - 1
    free = [0.0] * len(stages)
    arrives = [0.0] * n  # of each micro-batch, at the stage that comes next
    for share, order in ((0.25, range(last + 1)), (0.75, range(last, -1, -1))):
        for stage in order:
            for micro_batch in range(n):
                free[stage] = max(free[stage], arrives[micro_batch]) + share * stages[stage]
                arrives[micro_batch] = free[stage]
    assert step_seconds(stages, n) == pytest.approx(max(free))
    if len(set(stages)) == 1:
        assert 1 - n * stages[0] / step_seconds(stages, n) == pytest.approx(bubble(len(stages), n))


def test_measuring_changes_nothing_and_says_what_each_layer_gives():
    network = mobile()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    layers = layers_of(network)
    images = batch()[0][:MICRO_BATCH]
    generator = torch.get_rng_state()
    costs = measured(list(layers.values()), images, repeats=2)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    assert all(cost.seconds > 0 for cost in costs)
    assert [cost.weights_bytes for cost in costs] == [
        8 * sum(p.numel() for p in layer.parameters()) for layer in layers.values()
    ]
    x = images
    for layer, cost in zip(layers.values(), costs, strict=True):
        x = layer(x)
        assert (tuple(x.shape), x.dtype) == (cost.shape, cost.dtype)


def test_a_second_pass_moves_no_statistics():
    norm = nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 2, 2)
    norm(x)
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    with statistics_moved_already(norm.modules()):
        again = norm(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.state_dict().items())
    assert torch.equal(again, norm(x))
    assert int(norm.num_batches_tracked) == 2
    assert norm.momentum == 0.1


def test_a_layer_keeps_what_its_backward_pass_needs():
    """Of a linear layer the input, of a rectifier the output: each 7 numbers of 4 bytes for each of 5 images."""
    (cost,) = measured([nn.Sequential(nn.Linear(7, 7), nn.ReLU())], torch.randn(5, 7), repeats=1)
    assert (cost.weights_bytes, cost.kept_bytes) == (4 * 56, 2 * 4 * 35)
    assert cost.bytes(n_kept=3, n_copies=4) == 4 * 224 + 3 * 280


@pytest.mark.parametrize("rematerialize", [False, True])
def test_a_stage_that_computes_again_keeps_its_input_alone(rematerialize):
    layers = layers_of(mobile())
    stage = Stage(list(layers.values())[2:5], 1, 3, rematerialize=rematerialize)
    sent = torch.randn(3, 16, 16, 8, dtype=torch.float64, requires_grad=True)
    weights = {p.untyped_storage().data_ptr() for p in stage.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        stage(sent)
    numbers = sum(n for storage, n in kept.items() if storage not in weights)
    assert numbers == sent.numel() if rematerialize else numbers > 5 * sent.numel()


# -- in several --------------------------------------------------------------------------------------------------------


def in_one_piece(network: nn.Module) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Gradients and buffers by name, and losses, of the network after a step's micro-batches."""
    losses = []
    for images, targets in zip(*(part.split(MICRO_BATCH) for part in batch()), strict=True):
        losses.append(cross_entropy(network(images), targets))
        losses[-1].backward()
    gradients = {name: p.grad / N_MICRO_BATCHES for name, p in network.named_parameters()}
    return {**gradients, **dict(network.named_buffers())}, losses


def compare(rank: int, n_stages: int, port: int) -> None:
    """One process: every case, each from fresh weights, against the network in one piece; an error where a bit differs."""
    cpu = torch.device("cpu")
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=n_stages)
    images, targets = batch()
    for make in NETWORKS.values():
        expected, losses = in_one_piece(make())
        plan: list[Any] = [None]
        if rank == 0:
            layers = list(layers_of(make()).values())
            costs = measured(layers, images[:MICRO_BATCH], repeats=1)
            plan = [Plan.of(balanced([cost.seconds for cost in costs], n_stages), costs, images[:MICRO_BATCH])]
        torch.distributed.broadcast_object_list(plan)
        plans = [*plan, None] if FINDS_OUT else plan
        for schedule, metadata, rematerialize in itertools.product(SCHEDULES, plans, (False, True)):
            network: Any = make()
            layers = list(layers_of(network).values())
            stage = Stage(layers[plan[0].layers(rank)], rank, n_stages, rematerialize=rematerialize)
            steps = pipelined(
                stage, rank, n_stages, cpu, N_MICRO_BATCHES, plan=metadata, schedule=schedule, loss=cross_entropy
            )
            found: list[Tensor] = []
            given: dict[str, Any] = {"target": targets, "losses": found} if rank == n_stages - 1 else {}
            steps.step(*([images] if rank == 0 else []), **given)
            case = (make.__name__, schedule, metadata is not None, rematerialize)
            assert torch.equal(torch.stack(found), torch.stack(losses)) if given else not found, case
            for name, own in zip(names_in(network, stage), stage.state_dict(keep_vars=True).values(), strict=True):
                tensor = own if own.grad is None else own.grad
                assert torch.equal(tensor, expected[name]), (case, name)
            assert all(p.grad is not None for p in stage.parameters()), case
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("n_stages", [2, 3])
def test_stages_give_what_the_network_gives_in_one_piece(n_stages, tmp_path: Path):
    """Both schedules, what crosses a boundary known and found out, with and without re-materialization, two kinds of networks."""
    port, said = free_port(), tmp_path / "said"
    processes = [fork(compare, rank, n_stages, port, cwd=tmp_path, said=said) for rank in range(n_stages)]
    for process in processes:
        process.join(150)
    assert [process.exitcode for process in processes] == [0] * n_stages, said.read_text()
