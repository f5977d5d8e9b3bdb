"""ProxylessNAS's space for CIFAR: trees of operations in the blocks of a PyramidNet."""

from __future__ import annotations

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice
from nni_proxyless.search_spaces import PyramidTreeSpace
from nni_proxyless.search_spaces.tree_layout import EDGES, OPERATIONS, widths_of
from nni_proxyless.search_spaces.tree_network import PyramidTreeNet, build_pyramid_tree, drop_rates, drop_whole_batch
from nni_proxyless.strategies import ProxylessNAS
from torch import Tensor, nn

from nni_proxyless.core.batch_norm import estimate_statistics, moving_norms
from nni_proxyless.core.joined_batches import can_join
from nni_proxyless.derive import count_macs, count_parameters
from nni_proxyless.latency import LatencyProfiler, MacsEstimator, trace_operations

from . import tree_reference

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "proxylessnas_cifar10_network.json"
TINY: dict[str, Any] = {"depths": (1, 2, 1), "stem_width": 4, "final_width": 10}


@pytest.fixture(scope="module")
def paper() -> PyramidTreeSpace:
    torch.manual_seed(0)
    return PyramidTreeSpace()


def drawn(space: PyramidTreeSpace, seed: int = 0) -> dict[str, str]:
    """A network of the space; the first edges of a seed of 0 have all operations."""
    generator = torch.Generator().manual_seed(seed)
    n = len(space.operations)
    labels = labels_of(space)
    picks = torch.randint(n, (len(labels),), generator=generator).tolist()
    return {label: space.operations[i if seed == 0 and i < n else pick] for i, (label, pick) in enumerate(zip(labels, picks, strict=True))}  # fmt: skip


def labels_of(space: PyramidTreeSpace) -> list[str]:
    """In the order of the network."""
    return [module.label for module in space.modules() if isinstance(module, LayerChoice)]


def trees_of(space: PyramidTreeSpace, sample: dict[str, str]) -> list[str]:
    names = [sample[label] for label in labels_of(space)]
    return [" ".join(names[i : i + 12]) for i in range(0, len(names), 12)]


def images(n: int = 2, channels: int = 3, side: int = 16) -> Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def trained_a_little(module: nn.Module) -> None:
    """Statistics and affine parameters that are not their initial values, so that a mix-up shows."""
    generator = torch.Generator().manual_seed(1)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.copy_(torch.randn(norm.num_features, generator=generator) * 0.1)
            norm.running_var.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
            norm.weight.data.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
            norm.bias.data.copy_(torch.randn(norm.num_features, generator=generator) * 0.1)


# -- size ------------------------------------------------------------------------------------------------------------------


def test_the_paper_s_space_has_the_paper_s_size(paper):
    """54 blocks with 12 choices of 7: 7^648 networks; widths of 18 to 100, of which an output has four times as many channels."""
    values = {label: mutable.values for label, mutable in paper.simplify().items()}
    assert len(values) == 648
    assert all(tuple(v) == ("id", "avg3", "max3", "dw3", "dw5", "dw7", "dil3") for v in values.values())
    assert sum(p.numel() for p in paper.parameters()) == 17_845_878
    widths = [block.exit.conv.in_channels for stage in paper.network.blocks for block in stage]
    assert widths == tree_reference.widths((18, 18, 18), 16, 100)
    assert (widths[0], widths[17], widths[18], widths[-1]) == (18, 44, 46, 100)
    assert [block.entry.conv2.stride[0] for stage in paper.network.blocks for block in stage] == [
        2 if i in (18, 36) else 1 for i in range(54)
    ]


def test_widths_are_those_of_the_shared_file():
    if not SHARED.exists():
        pytest.skip(f"the published network is not here: {SHARED}")
    theirs = json.loads(SHARED.read_text())
    assert widths_of((18, 18, 18), 16, 100) == theirs["widths"]
    assert list(EDGES) == theirs["edge_order"]
    assert list(OPERATIONS) == theirs["ops"]


@pytest.mark.parametrize("depths", [(18, 18, 18), (1, 2, 1), (3,), (1, 12)])
def test_labels_sorted_as_texts_are_in_the_order_of_the_network(depths):
    labels = labels_of(PyramidTreeSpace("small", depths=depths, operations=["id"]))
    assert labels == sorted(labels)
    assert len(labels) == 12 * sum(depths)
    digits = "" if max(depths) < 11 else "0"
    assert labels[:3] == [f"stage1.{digits}0.half0.{path}" for path in ("0", "0.0", "0.1")]
    assert labels[-1] == f"stage{len(depths)}.{depths[-1] - 1}.half1.1.1"


@pytest.mark.parametrize("preset", ["paper", "small"])
def test_a_preset_runs_on_its_images(preset, paper):
    """Logits of the asked-for classes, from images of the asked-for channels; maps are halved twice."""
    space = paper if preset == "paper" else PyramidTreeSpace(preset, num_classes=7, in_channels=1)
    channels, classes = (3, 10) if preset == "paper" else (1, 7)
    network = space.eval().freeze(drawn(space))
    maps = []
    network.blocks.register_forward_hook(lambda module, args, output: maps.append(output.shape[1:]))
    with torch.no_grad():
        assert network(torch.randn(2, channels, 16, 16)).shape == (2, classes)
    assert maps == [((400 if preset == "paper" else 80), 4, 4)]


# -- what a network computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_network_computes_what_the_description_says(seed, train):
    """Against a construction of its own in float64, in evaluation and training mode; all operations are in it."""
    torch.manual_seed(0)
    space = PyramidTreeSpace("small", **TINY, num_classes=5).double()
    trained_a_little(space)
    sample = drawn(space, seed)
    assert set(sample.values()) == set(OPERATIONS)
    network = space.freeze(sample).train(train)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    expected = tree_reference.logits(images(), weights, trees_of(space, sample), TINY["depths"], train=train)
    torch.testing.assert_close(network(images()), expected, rtol=0, atol=1e-10)
    assert expected.std() > 1e-3, "logits that are all alike would agree for any network"
    assert count_parameters(network) == tree_reference.n_parameters(trees_of(space, sample), (1, 2, 1), 4, 10, 3, 5)


@pytest.mark.parametrize("name", ["avg5", "max5", "dw9", "dil5"])
def test_other_kernels_keep_the_shape_too(name):
    space = PyramidTreeSpace("small", **TINY, operations=[name])
    assert {m.values[0] for m in space.simplify().values()} == {name}
    assert space(torch.randn(2, 3, 16, 16)).shape == (2, 10)


def test_a_frozen_network_is_the_path_of_the_supernet_and_shares_its_weights():
    """Property 24: equal to the last bit, on the gates of two random paths; names as of the definition's network."""
    torch.manual_seed(0)
    space = PyramidTreeSpace("small", **TINY).double()
    trained_a_little(space)
    strategy = ProxylessNAS()
    supernet: Any = strategy.mutate_model(space).eval()
    for seed in (1, 2):
        sample = drawn(space, seed)
        for label, gate in strategy._gates.items():
            gate.open(gate.choices.index(sample[label]))
        frozen = supernet.freeze(sample)
        assert type(frozen) is PyramidTreeNet
        assert frozen.conv_stem.weight is supernet.network.conv_stem.weight
        assert not labels_of(frozen)
        assert len(labels_of(supernet)) == 48, "the space keeps its choices"
        network = build_pyramid_tree(space.timm_definition(sample)).double().eval()
        network.load_state_dict(frozen.state_dict())
        assert list(network.state_dict()) == list(frozen.state_dict())
        expected = supernet(images())
        assert torch.equal(frozen(images()), expected)
        assert torch.equal(network(images()), expected)
        assert network.num_classes == 10
    with pytest.raises(ValueError, match="dw9 not found in"):
        space.freeze({**sample, "stage1.0.half0.0": "dw9"})


# -- how it is made ----------------------------------------------------------------------------------------------------------


def test_weights_are_drawn_by_their_fan_out(paper):
    """sqrt(2 / (k k out / groups)), of every convolution; the bias of the classifier is 0."""
    for module in paper.modules():
        if isinstance(module, nn.Conv2d):
            n = module.weight.numel()
            k, std = module.kernel_size[0], float(module.weight.detach().std())
            expected = math.sqrt(2 / (k * k * module.out_channels / module.groups))
            assert abs(std / expected - 1) < 6 / math.sqrt(2 * n)  # six standard errors: 2e-9 a layer
    assert not paper.network.classifier.bias.any()


def test_equal_seeds_make_equal_spaces():
    def made(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return PyramidTreeSpace("small", **TINY).state_dict()

    first, again, other = made(0), made(0), made(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["network.conv_stem.weight"], other["network.conv_stem.weight"])


def test_operations_have_their_own_weights_statistics_and_hooks():
    space: Any = PyramidTreeSpace("small", **TINY)
    tensors = [*space.parameters(), *space.buffers()]
    assert len({tensor.data_ptr() for tensor in tensors}) == len(tensors)
    first, second = space.network.blocks[0][0].trees[0].branches
    called = []
    first.edge["dw3"].register_forward_hook(lambda module, args, output: called.append(module))
    x = torch.randn(2, 6, 8, 8)
    first.edge["dw3"](x)
    second.edge["dw3"](x)
    assert called == [first.edge["dw3"]]
    assert float(second.edge["dw3"].norm.running_var[0]) != 1
    assert float(first.leaves[0]["dw3"].norm.running_var[0]) == 1
    frozen = space.freeze(drawn(space))
    frozen.blocks[0][0].register_forward_hook(lambda module, args, output: called.append(module))
    space.network(torch.randn(2, 3, 8, 8))
    assert len(called) == 1 + (drawn(space)["stage1.0.half0.0"] == "dw3"), "hooks of the network are not the space's"
    copied = copy.deepcopy(space)
    assert copied.network.conv_stem.weight is not space.network.conv_stem.weight
    assert labels_of(copied) == labels_of(space)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "papers"}, "preset is 'papers'; allowed: paper, small. Did you mean 'paper'?"),
        ({"depths": []}, "depths is []; allowed: a list with one entry per stage"),
        ({"depths": 3}, "depths is 3; allowed: a list with one entry per stage"),
        ({"depths": [2, 0]}, "depths[1] is 0; allowed: whole numbers of 1 or more"),
        ({"stem_width": 7}, "stem_width is 7; allowed: even numbers of 2 or more"),
        ({"final_width": 6}, "final_width is 6; allowed: 8, which is stem_width, or more"),
        ({"final_width": True}, "final_width is True; allowed: even numbers of 2 or more"),
        ({"operations": []}, "operations is []; allowed: a list of different names, such as id, avg3, max3, dw3"),
        ({"operations": ["id", "id"]}, "operations is ['id', 'id']; allowed: a list of different names"),
        ({"operations": ["dw4"]}, "operations holds 'dw4'; allowed: id, and avg, max, dw, dil with an odd kernel of 3 or more"),
        ({"operations": ["sep3"]}, "operations holds 'sep3'; allowed: id, and avg, max, dw, dil with an odd kernel of 3 or more"),
        ({"num_classes": 0}, "num_classes is 0; allowed: whole numbers of 1 or more"),
        ({"in_channels": 1.5, "depths": ["a"]}, "depths[0] is 'a'; allowed: whole numbers of 1 or more; in_channels is 1.5; allowed: whole numbers of 1 or more"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named_with_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PyramidTreeSpace(**{"preset": "small", **arguments})


def test_batches_of_a_judged_network_are_computed_together():
    """Statistics are those of one batch after the other, to the bit; a network that draws random numbers is given them apart."""
    space = PyramidTreeSpace("small", **TINY)
    networks = [copy.deepcopy(space.freeze(drawn(space))).train() for _ in range(2)]
    assert can_join(networks[0], moving_norms(networks[0].modules()))
    batches = [torch.randn(n, 3, 8, 8) for n in (4, 4, 3)]
    estimate_statistics(networks[0], batches, torch.device("cpu"))
    networks[1].blocks[0].register_forward_hook(lambda module, args, output: None)  # of which nobody knows what it does
    assert not can_join(networks[1], moving_norms(networks[1].modules()))
    estimate_statistics(networks[1], batches, torch.device("cpu"))
    one, other = (network.state_dict() for network in networks)
    assert all(torch.equal(one[name], other[name]) for name in one)
    for rates in ({"drop_rate": 0.1}, {"path_drop_rate": 0.1}, {"cell_drop_rate": 0.1}):
        network = build_pyramid_tree(space.timm_definition(drawn(space)), **rates)
        assert not can_join(network, moving_norms(network.modules()))


# -- cost --------------------------------------------------------------------------------------------------------------------


def test_the_cost_of_a_network_is_that_of_its_operations():
    """In multiply-adds, added up over the edges, those of the frozen network; rows have names that tell operations apart."""
    space = PyramidTreeSpace("small", **TINY)
    profiler = LatencyProfiler(space, MacsEstimator(), (3, 16, 16))
    for seed in (0, 1, 2):
        sample = drawn(space, seed)
        assert profiler.profile(sample) == pytest.approx(count_macs(space.freeze(sample), (3, 16, 16)) / 1e6, rel=1e-12)
    keys = {op.key for op in trace_operations(space, (3, 16, 16))}
    assert {"norm_relu_dw_pw-input:16x16x6-output:16x16x6-kernel:5", "norm_relu_dw_pw-input:16x16x6-output:16x16x6-kernel:3-dilation:2"} <= keys  # fmt: skip
    assert {"tree_entry-input:16x16x4-output:16x16x12", "tree_exit-input:16x16x6-output:16x16x24"} <= keys
    assert {"Conv-input:16x16x3-output:16x16x4", "Logits-input:4x4x40-output:10"} <= keys


# -- dropped paths and branches ------------------------------------------------------------------------------------------------


def test_the_linear_schedule_of_drops():
    """Block l = 1 … T has 2 l rate / (T + 1)."""
    assert drop_rates(0.1, 54) == pytest.approx([2 * n * 0.1 / 55 for n in range(1, 55)])
    space = PyramidTreeSpace("small", **TINY)
    network = build_pyramid_tree(space.timm_definition(drawn(space)), path_drop_rate=0.1, cell_drop_rate=0.3)
    blocks: list[Any] = [block for stage in network.blocks for block in stage]
    assert [block.cell_drop_rate for block in blocks] == pytest.approx([0.12, 0.24, 0.36, 0.48])
    for block, rate in zip(blocks, (0.04, 0.08, 0.12, 0.16), strict=True):
        nodes = [node for tree in block.trees for node in (tree, *tree.branches)]
        assert [node.path_drop_rate for node in nodes] == pytest.approx([rate] * 6)
    with pytest.raises(ValueError, match=r"cell_drop_rate is 0.7; allowed with 4 blocks: 0 up to, but not, 0.625"):
        build_pyramid_tree(space.timm_definition(drawn(space)), cell_drop_rate=0.7)


def test_a_dropped_branch_gives_exactly_the_shortcut():
    """With a block's branch dropped, the output is the averaged input with zeros behind it; else the branch counts 1 / (1 - p)."""
    space = PyramidTreeSpace("small", **TINY)
    network: Any = build_pyramid_tree(space.timm_definition(drawn(space))).train()
    block = network.blocks[1][0]
    x = torch.randn(4, block.entry.conv1.in_channels, 8, 8)
    shortcut = torch.zeros(4, block.exit.conv.out_channels, 4, 4)
    shortcut[:, : x.shape[1]] = nn.functional.avg_pool2d(x, 2)
    branch = block(x) - shortcut
    block.set_drop_rates(path=0.0, cell=0.25)
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        y = block(x)
        if torch.equal(y, shortcut):
            seen.add("dropped")
        else:
            torch.testing.assert_close(y, shortcut + branch / 0.75, rtol=1e-4, atol=1e-5)
            seen.add("kept")
    assert seen == {"dropped", "kept"}  # else by a chance of 3e-3 of these seeds, which are fixed
    torch.testing.assert_close(block.eval()(x), block(x), rtol=0, atol=0)


def test_dropped_paths_are_left_out_of_their_sums():
    """With no norms and only the identity, a tree is a count of the paths that are kept, each with what follows it, times 1 / (1 - p) for each edge."""
    space = PyramidTreeSpace("small", **TINY, operations=["id"])
    tree: Any = space.freeze(drawn(space)).blocks[0][0].trees[0].train()
    tree.norm = nn.Identity()
    for node in (tree, *tree.branches):
        node.path_drop_rate = 0.5
    x = torch.ones(3, 6, 5, 5)
    counts = []
    for seed in range(200):
        torch.manual_seed(seed)
        y = tree(x) - x
        assert y.unique().numel() == 1, "one coin for the whole batch"
        counts.append(float(y[0, 0, 0, 0]))
    assert set(counts) == {0.0, 4.0, 8.0, 12.0, 16.0}
    # A branch: 0 with probability 1/2, else 4 times a number of kept leaves, two of them by 1/2: mean 2, variance 8 + 4 * 0.5 …
    variance = 2 * ((0 + 16 * (1 / 4) * 1 + 4 * 4 * (1 / 4) + 64 * (1 / 8)) - 4)
    assert abs(sum(counts) / len(counts) - 4) < 5 * math.sqrt(variance / len(counts))  # 6e-7


def test_drops_take_gradients_and_scale():
    x = torch.ones(2, 1, 2, 2, requires_grad=True)
    assert drop_whole_batch(x, 0.0, True) is x
    assert drop_whole_batch(x, 0.9, False) is x
    values = set()
    for seed in range(20):
        torch.manual_seed(seed)
        (gradient,) = torch.autograd.grad(drop_whole_batch(x, 0.2, True).sum(), x)
        values.add(float(gradient.unique()))
    assert values == {0.0, 1.25}
