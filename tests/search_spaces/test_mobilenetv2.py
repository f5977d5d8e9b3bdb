"""The MobileNetV2-style space: its size, its arguments, the published networks, and the way over to timm."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice
from nni_proxyless.search_spaces import MobileNetV2Space
from nni_proxyless.search_spaces.mobilenetv2 import PRESETS
from nni_proxyless.strategies import ProxylessNAS
from torch import Tensor, nn

from nni_proxyless.derive import Architecture, count_macs, count_parameters, to_timm
from nni_proxyless.models.published import NETWORKS

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "published_architectures.json"
SIZES = {"imagenet": 224, "cifar": 32, "small": 16, "open": 32, "open-imagenet": 224}

# Published networks (han-cai/files): layout, candidates of the blocks in order ("-" a skip), parameters, MACs.
PUBLISHED = {
    "proxyless_mobile": {
        "layout": {"stem_width": 32, "first_width": 16, "widths": (32, 40, 80, 96, 192, 320), "feature_mix": 1280},
        "blocks": "k5e3 k3e3 - - k7e3 k3e3 k5e3 k5e3 k7e6 k5e3 k5e3 k5e3 k5e6 k5e3 k5e3 k5e3 k7e6 k7e6 k7e3 k7e3 k7e6",
        "params_million": 4.081,
        "macs_million": 320.4,
    },
    "proxyless_gpu": {
        "layout": {"stem_width": 40, "first_width": 24, "widths": (32, 56, 112, 128, 256, 432), "feature_mix": 1728},
        "blocks": "k5e3 - - - k7e3 - - k3e3 k7e6 - - k5e3 k5e6 - k3e3 k5e3 k7e6 k7e6 k7e6 k5e6 k7e6",
        "params_million": 7.120,
        "macs_million": 465.3,
    },
}


def labels(space: MobileNetV2Space) -> list[str]:
    """In the order of the network."""
    return [module.label for module in space.modules() if isinstance(module, LayerChoice)]


def choices_of(space: MobileNetV2Space, blocks: str) -> dict[str, str]:
    return dict(zip(labels(space), blocks.replace("-", "skip").split(), strict=True))


def architecture(space: MobileNetV2Space, choices: dict[str, str], size: int) -> Architecture:
    return Architecture(
        space={"name": "mobilenetv2", "arguments": {}}, choices=choices,
        input_shape=(space.in_channels, size, size), network=space.timm_definition(choices),
    )  # fmt: skip


def images(space: MobileNetV2Space, size: int, n: int = 2) -> Tensor:
    return torch.randn(n, space.in_channels, size, size, generator=torch.Generator().manual_seed(0))


# -- size ----------------------------------------------------------------------------------------------------------------


def test_the_paper_s_space_has_the_paper_s_size():
    """The space of the official search code: 21 choices, 15 of them with a skip, 6^6 * 7^15 = 2.2e17 networks."""
    space = MobileNetV2Space(aligned_init=False)
    values = {label: mutable.values for label, mutable in space.simplify().items()}
    assert len(values) == 21
    assert sum("skip" in v for v in values.values()) == 15
    kinds = ["k3e3", "k3e6", "k5e3", "k5e6", "k7e3", "k7e6"]
    assert all([c for c in v if c != "skip"] == kinds for v in values.values())
    assert math.prod(map(len, values.values())) == 6**6 * 7**15
    assert labels(space) == [f"stage{s}.{i}" for s, depth in enumerate((4, 4, 4, 4, 4, 1), 1) for i in range(depth)]


def test_a_skip_is_only_where_shapes_agree():
    """Stride 1 and as many channels out as in; without ``skip`` nowhere."""
    space = MobileNetV2Space("small", widths=[8, 24], depths=[2, 2], strides=[1, 1])
    assert {label: "skip" in m.values for label, m in space.simplify().items()} == {
        "stage1.0": True, "stage1.1": True, "stage2.0": False, "stage2.1": True,
    }  # fmt: skip
    assert not any("skip" in m.values for m in MobileNetV2Space("small", skip=False).simplify().values())


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_runs_on_its_images(preset):
    """Logits of the asked-for classes, from images of the asked-for channels; the last map is neither lost nor too large."""
    space = MobileNetV2Space(preset, num_classes=7, in_channels=1, aligned_init=False).eval()
    maps = []
    space.blocks.register_forward_hook(lambda module, args, output: maps.append(output.shape[-1]))
    with torch.no_grad():
        assert space(images(space, SIZES[preset])).shape == (2, 7)
    assert maps == [{"imagenet": 7, "cifar": 4, "small": 4, "open": 4, "open-imagenet": 7}[preset]]


# -- arguments -----------------------------------------------------------------------------------------------------------


def test_all_wrong_arguments_are_named_at_once():
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole text is compared)
        MobileNetV2Space(
            "small", stem_width=4, stem_stride=3, feature_mix="x", widths=(12, 16, 24), depths=0, kernels=(4, "a"),
            expansions=(3, 3), dropout=1, num_classes=0, in_channels=1.5,
        )  # fmt: skip
    expected = (
        "stem_width is 4; allowed: multiples of 8; feature_mix is 'x'; allowed: multiples of 8; "
        "num_classes is 0; allowed: whole numbers of 1 or more; in_channels is 1.5; allowed: whole numbers of 1 or more; "
        "widths[0] is 12; allowed: multiples of 8; depths is 0; allowed: a list with one entry per stage; "
        "stem_stride is 3; allowed: 1, 2; kernels holds 4; allowed: odd numbers; "
        "kernels is 'a'; allowed: whole numbers of 1 or more; "
        "expansions is (3, 3); allowed: a list of different whole numbers; dropout is 1; allowed: 0 up to, but not, 1"
    )
    assert sorted(str(caught.value).split("; ")) == sorted(expected.split("; "))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"preset": "imagnet"},
            "preset is 'imagnet'; allowed: imagenet, cifar, small, open, open-imagenet. Did you mean 'imagenet'?",
        ),
        ({"widths": [16]}, "widths, depths and strides have 1, 3, 3 entries; allowed: the same number, one per stage"),
        ({"strides": [1, 2, 4]}, "strides[2] is 4; allowed: 1, 2"),
        ({"kernels": []}, r"kernels is []; allowed: a list of different whole numbers"),
        ({"expansions": "36"}, "expansions is '36'; allowed: a list of different whole numbers"),
        ({"dropout": -0.1}, "dropout is -0.1; allowed: 0 up to, but not, 1"),
        ({"num_classes": True}, "num_classes is True; allowed: whole numbers of 1 or more"),
        ({"stem_stride": 0}, "stem_stride is 0; allowed: 1, 2"),
        ({"stem_stride": 1.5}, "stem_stride is 1.5; allowed: 1, 2"),
        ({"stem_stride": "2"}, "stem_stride is '2'; allowed: 1, 2"),
        ({"dropout": "a"}, "dropout is 'a'; allowed: 0 up to, but not, 1"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MobileNetV2Space(**{"preset": "small", **arguments})


# -- the published networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_have_the_published_counts(name):
    """Property 21: parameters and MACs to the digits given, of the frozen space and of the timm model alike; the package
    holds the same structure for timm's registry."""
    known = PUBLISHED[name]
    space = MobileNetV2Space(**known["layout"], aligned_init=False)
    choices = choices_of(space, known["blocks"])
    assert NETWORKS[name] == space.timm_definition(choices)
    for network in (space.freeze(choices), to_timm(architecture(space, choices, 224))):
        assert round(count_parameters(network) / 1e6, 3) == known["params_million"]
        assert round(count_macs(network, (3, 224, 224)) / 1e6, 1) == known["macs_million"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_networks_above_are_those_of_the_shared_file(name):
    if not SHARED.exists():
        pytest.skip(f"the published architectures are not here: {SHARED}")
    theirs, known = json.loads(SHARED.read_text())[name], PUBLISHED[name]
    first, *blocks = theirs["blocks"]
    assert known["blocks"] == " ".join("-" if b == "skip" else f"k{b['kernel']}e{b['expand']}" for b in blocks)
    assert (known["params_million"], known["macs_million"]) == (theirs["params_million"], theirs["macs_million"])
    layout = {"stem_width": theirs["stem"], "first_width": first["out_channels"], "feature_mix": theirs["feature_mix"]}
    space = MobileNetV2Space(**known["layout"], aligned_init=False)
    made = [space.blocks[s][i] for s in range(1, 7) for i in range(len(space.blocks[s]))]
    for block, choice in zip(blocks, made, strict=True):
        if block != "skip":
            candidate = choice[f"k{block['kernel']}e{block['expand']}"]
            assert candidate.conv_pw.in_channels == block["in_channels"]
            assert candidate.conv_pwl.out_channels == block["out_channels"]
            assert candidate.conv_dw.stride == (block["stride"],) * 2
    assert layout.items() <= known["layout"].items()


# -- over to timm ------------------------------------------------------------------------------------------------------------


def trained_a_little(space: MobileNetV2Space, size: int) -> None:
    """Running statistics and affine parameters that are not their initial values, so that a mix-up shows."""
    generator = torch.Generator().manual_seed(1)
    for module in space.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.1)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(module.num_features, generator=generator) * 0.1)


@pytest.mark.parametrize(
    ("preset", "path"),
    [("imagenet", 0), ("cifar", 1), ("small", "all skipped"), ("small", 2), ("small", 3)],
)
def test_the_timm_model_computes_what_the_supernet_does_on_that_path(preset, path):
    """Property 24 through timm: equal names in ``state_dict``, logits equal to 1e-5, in evaluation mode; with skips."""
    torch.manual_seed(0)
    space = MobileNetV2Space(preset, num_classes=10, aligned_init=False)
    size = SIZES[preset]
    trained_a_little(space, size)
    strategy = ProxylessNAS()
    supernet = strategy.mutate_model(space).eval()
    generator = torch.Generator().manual_seed(path if isinstance(path, int) else 0)
    choices = {}
    for label, gate in strategy._gates.items():
        draw = int(torch.randint(len(gate.choices), (), generator=generator))
        k = gate.choices.index("skip") if path == "all skipped" and "skip" in gate.choices else draw
        gate.open(k)
        choices[label] = gate.choices[k]
    if preset != "small" or path == "all skipped":
        assert "skip" in choices.values()

    frozen = supernet.freeze(choices)
    network = to_timm(architecture(space, choices, size), frozen.state_dict()).eval()
    assert list(network.state_dict()) == list(frozen.state_dict())
    with torch.no_grad():
        expected = supernet(images(space, size))
        torch.testing.assert_close(network(images(space, size)), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(frozen(images(space, size)), expected, rtol=0, atol=0)
    assert expected.std() > 1e-3, "logits that are all alike would agree for any network"


def test_a_stage_that_is_skipped_as_a_whole_leaves_no_gap():
    """A stage whose every block may be skipped disappears, and the later ones move up, here as in timm."""
    space = MobileNetV2Space("small", widths=(8, 16), depths=(2, 1), strides=(1, 2))
    choices = {"stage1.0": "skip", "stage1.1": "skip", "stage2.0": "k3e3"}
    frozen = space.freeze(choices).eval()
    network = to_timm(architecture(space, choices, 16), frozen.state_dict()).eval()
    assert len(network.blocks) == 2
    assert frozen.conv_stem.weight is space.conv_stem.weight, "what trains the network trains the space"
    assert len(labels(space)) == 3, "which keeps its choices"
    assert not labels(frozen)
    torch.testing.assert_close(network(images(space, 16)), frozen(images(space, 16)), rtol=1e-5, atol=1e-5)


# -- the same start for all candidates ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("aligned", [True, False])
def test_aligned_candidates_start_as_nearly_the_same_function(aligned):
    """In evaluation mode, on fresh statistics, candidates of one expansion differ in nothing but the kernel's zeros, so they
    are the same function; drawn for themselves they have nothing in common."""
    torch.manual_seed(0)
    space = MobileNetV2Space("small", skip=False, aligned_init=aligned).eval()
    choice = space.blocks[1][1]
    x = torch.randn(4, 16, 8, 8)
    with torch.no_grad():
        outputs = {name: choice[name](x) - x for name in choice.names}  # without the residual

    def likeness(a: str, b: str) -> float:
        return float(torch.cosine_similarity(outputs[a].flatten(), outputs[b].flatten(), dim=0))

    for other in ("k5e3", "k7e3"):
        if aligned:
            torch.testing.assert_close(outputs[other], outputs["k3e3"], rtol=1e-4, atol=1e-5)
        else:
            assert abs(likeness(other, "k3e3")) < 0.3
    # Half the expanded channels: half of the sum, so alike but not the same.
    assert (likeness("k3e3", "k3e6") > 0.4) == aligned


def test_alignment_takes_the_order_of_candidates_for_nothing():
    """The widest candidate with the smallest kernel is the base, wherever it stands in the list."""
    torch.manual_seed(0)
    space = MobileNetV2Space("small", kernels=(7, 3, 5), expansions=(6, 3))
    choice = space.blocks[2][1]
    base, other = choice["k3e6"], choice["k7e3"]
    expanded = other.conv_pw.out_channels
    assert torch.equal(other.conv_pw.weight, base.conv_pw.weight[:expanded])
    assert torch.equal(other.conv_pwl.weight, base.conv_pwl.weight[:, :expanded])
    assert torch.equal(other.conv_dw.weight[:, :, 2:5, 2:5], base.conv_dw.weight[:expanded])
    assert other.conv_dw.weight.abs().sum() == other.conv_dw.weight[:, :, 2:5, 2:5].abs().sum()
