"""Open stage entries, squeeze-and-excitation, activations, light blocks: each is timm's block, has a key of its own, and shares weights."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import re
from typing import Any

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice
from nni_proxyless.search_spaces import MobileNetV2Space, mobilenetv2
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn

from nni_proxyless.derive import count_macs, count_parameters, to_timm
from nni_proxyless.latency import LatencyProfiler, MacsEstimator, ParametersEstimator, trace_operations
from nni_proxyless.models.block_diagram import diagram_of_definition, places_of
from nni_proxyless.models.draw import draw_networks
from nni_proxyless.models.timm_model import feature_levels, total_stride
from nni_proxyless.search.mobilenetv2_baseline import reference_networks

from .test_mobilenetv2 import architecture, images, trained_a_little

TINY: dict[str, Any] = {
    "preset": "small", "num_classes": 4, "in_channels": 1, "stem_width": 8, "first_width": 8, "widths": (8, 16), "depths": (1, 2),
    "strides": (1, 2), "feature_mix": 16,
}  # fmt: skip
EVERYTHING: dict[str, Any] = {
    **TINY, "kernels": (3, 5), "expansions": (1, 3), "entry_kernels": (1, 3), "squeeze_excite": (False, True),
    "activations": ("relu6", "relu", "hard_swish", "swish", "mish"),
}  # fmt: skip


def space_of(**arguments: Any) -> MobileNetV2Space:
    torch.manual_seed(0)
    return MobileNetV2Space(**arguments)


def paths_over_all(space: MobileNetV2Space) -> list[dict[str, Any]]:
    """As few networks as there are, so that every candidate of every choice is in one."""
    values = {label: list(mutable.values) for label, mutable in space.simplify().items()}
    most = max(map(len, values.values()))
    return [{label: some[i % len(some)] for label, some in values.items()} for i in range(most)]


# -- what was there stays ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", ["imagenet", "small"])
def test_the_older_presets_have_the_candidates_and_weights_that_they_had(preset, monkeypatch):
    """Blocks made as they were, by timm's class, from the same random numbers: the same weights to the bit, and the same numbers after."""

    def as_they_were(definition: str, in_width: int) -> nn.Module:
        kernel, stride, expansion, width = map(
            int, re.fullmatch(r"ir_r1_k(\d)_s(\d)_e(\d)_c(\d+)", definition).groups()
        )  # type: ignore[union-attr]
        norm_layer = functools.partial(nn.BatchNorm2d, eps=1e-3)
        return InvertedResidual(
            in_width,
            width,
            dw_kernel_size=kernel,
            stride=stride,
            exp_ratio=expansion,
            act_layer=nn.ReLU6,
            norm_layer=norm_layer,
        )

    space = space_of(preset=preset)
    after = torch.rand(1)
    for label, mutable in space.simplify().items():
        kept = ["skip"] if "skip" in mutable.values else []
        assert mutable.values == [f"k{k}e{e}" for k in (3, 5, 7) for e in (3, 6)] + kept, label
    monkeypatch.setattr(mobilenetv2, "make_block", as_they_were)
    before = space_of(preset=preset)
    assert torch.equal(torch.rand(1), after)
    assert repr(before) == repr(space)
    old, new = before.state_dict(), space.state_dict()
    assert list(old) == list(new)
    assert all(torch.equal(tensor, new[name]) for name, tensor in old.items())


# -- timm's blocks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "size"), [({"preset": "open", "num_classes": 10}, 32), (EVERYTHING, 16)])
def test_every_candidate_is_the_block_of_timm_that_the_definition_says(arguments, size):
    """Frozen, and as timm's model of the definition with the same weights by name: logits equal to 1e-6."""
    space = space_of(**arguments)
    trained_a_little(space, size)
    space.eval()
    x = images(space, size)
    for choices in paths_over_all(space):
        frozen = space.freeze(choices)
        model = to_timm(architecture(space, choices, size), frozen.state_dict()).eval()
        assert list(model.state_dict()) == list(frozen.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(model(x), frozen(x), rtol=0, atol=1e-6)
    assert frozen(x).std() > 1e-3


def test_names_say_what_a_candidate_is():
    space = space_of(**EVERYTHING)
    entry, inner = (space.simplify()[f"stage2.{i}"].values for i in (0, 1))
    assert inner == [*(v for v in entry if not v.startswith("conv")), "skip"]
    assert {"k3e1", "k5e3sehs", "k5e3sw", "conv1", "conv3mi"} <= set(entry)
    assert not any(v.startswith("conv") for v in space.simplify()["stage1.0"].values), "whose shape stays"
    definition = space.timm_definition({"stage1.0": "skip", "stage2.0": "conv1re", "stage2.1": "k5e3sehs"})
    assert definition["blocks"] == [["ds_r1_k3_s1_c8"], ["cn_r1_k1_s2_c16_nre", "ir_r1_k5_s1_e3_c16_se0.25_nhs"]]
    assert (feature_levels(definition), total_stride(definition)) == (2, 2)
    net = diagram_of_definition(
        "a", definition, (1, 16, 16), places=places_of({"stage1.0": "skip", "stage2.0": "#", "stage2.1": "#"})
    )
    assert [block.label for block in net.blocks][1:-2] == ["MB1 3x3", "skip", "Conv 1x1 RE", "MB3 5x5 SE HS"]
    texts = [text.get_text() for text in draw_networks([net]).axes[0].texts]
    assert {"HS: hard-swish", "RE: ReLU", "SE: squeeze-and-excitation"} <= set(texts)


def test_networks_to_beat_are_mobilenetv2_s_in_an_open_skeleton_too():
    arguments = {**TINY, "preset": "open", "entry_kernels": [1], "activations": ["hard_swish"]}
    space = space_of(**arguments)
    searched = architecture(space, paths_over_all(space)[0], 16)
    (found,) = reference_networks(
        dataclasses.replace(searched, space={"name": "mobilenetv2", "arguments": arguments}), [1.0]
    )
    assert found.network is not None
    assert found.network["blocks"][1:] == [["ir_r1_k3_s1_e6_c8"], ["ir_r1_k3_s2_e6_c16", "ir_r1_k3_s1_e6_c16"]]
    assert MobileNetV2Space(**found.space["arguments"]).timm_definition(found.choices) == found.network


# -- keys and costs ------------------------------------------------------------------------------------------------------


def test_equal_keys_are_equal_work_and_published_names_are_those_of_published_blocks():
    space = space_of(**EVERYTHING)
    operations = trace_operations(space, (1, 16, 16))
    works: dict[str, set[str]] = {}
    for op in operations:
        works.setdefault(op.key, set()).add(repr(op.module))
    assert {key: work for key, work in works.items() if len(work) > 1} == {}
    at_one_place = [op.key for op in operations if op.conditions and op.conditions[0][0] == "stage2.0"]
    assert len(set(at_one_place)) == len(space.simplify()["stage2.0"].values)
    of = {op.conditions[0][1][0]: op for op in operations if op.conditions and op.conditions[0][0] == "stage2.1"}
    plain = "expanded_conv-input:8x8x16-output:8x8x16-expand:3-kernel:5-stride:1-idskip:1"
    published = plain.replace("expand:3", "expand:48")
    assert [(of[name].key.removeprefix(plain), *of[name].other_names) for name in ("k5e3", "k5e3re", "k5e3hs", "k5e3sw", "k5e3se")] == [
        ("", (f"{published}-se:0-hs:0",)), ("-act:ReLU", (plain,)), ("-act:Hardswish", (f"{published}-se:0-hs:1",)),
        ("-act:SiLU",), ("-se:4",),
    ]  # fmt: skip
    light, first = of["k3e1"].key, next(op.key for op in operations if "expand:1" in op.key and not op.conditions)
    assert light.endswith("-expand:1-kernel:3-stride:1-idskip:1-pw:1")
    assert not first.endswith("-pw:1"), "the first block has no convolution to expand"
    conv = next(op for op in operations if op.conditions == (("stage2.0", ("conv3hs",)),))
    assert conv.key == "conv-input:16x16x8-output:8x8x16-kernel:3-stride:2-idskip:0-act:Hardswish"


@pytest.mark.parametrize("arguments", [EVERYTHING, {"preset": "open", "num_classes": 10, "in_channels": 1}])
def test_costs_of_a_network_are_those_that_its_candidates_add_up_to(arguments):
    space = space_of(**arguments)
    macs, parameters = (LatencyProfiler(space, one(), (1, 16, 16)) for one in (MacsEstimator, ParametersEstimator))
    for choices in paths_over_all(space)[:6]:
        network = space.freeze(choices)
        assert macs.profile(choices) * 1e6 == pytest.approx(count_macs(network, (1, 16, 16)))
        assert parameters.profile(choices) * 1e6 == pytest.approx(count_parameters(network))


# -- shared weights ------------------------------------------------------------------------------------------------------


def parts(choice: LayerChoice, a: str, b: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What two candidates have in common, parameter by parameter."""
    found = []
    for name, one in choice[a].named_parameters():
        other = dict(choice[b].named_parameters()).get(name)
        if other is not None:
            size = [min(sizes) for sizes in zip(one.shape, other.shape, strict=True)]
            cut = [
                p.detach()[tuple(slice((n - s) // 2 if i > 1 else 0, (n - s) // 2 + s if i > 1 else s)
                                 for i, (n, s) in enumerate(zip(p.shape, size, strict=True)))]
                for p in (one, other)
            ]  # fmt: skip
            found.append((cut[0], cut[1]))
    return found


def of_a_kind(choice: LayerChoice) -> list[tuple[str, str]]:
    return [
        (a, b) for a, b in itertools.combinations(choice.names, 2)
        if "skip" not in (a, b) and a.startswith("conv") == b.startswith("conv")
    ]  # fmt: skip


@pytest.mark.parametrize("change", [lambda s: s, copy.deepcopy, lambda s: s.to(memory_format=torch.channels_last)])
def test_shared_weights_are_one_memory_as_far_as_candidates_overlap(change):
    space = change(space_of(**{**EVERYTHING, "activations": ("relu6", "hard_swish")}, shared_weights=True))
    entry, inner = space.blocks[2]
    for choice, moved in ((entry, "conv1"), (inner, "k3e1sehs")):
        with torch.no_grad():
            for parameter in choice[moved].parameters():
                parameter.add_(torch.randn_like(parameter))
    assert all(
        torch.equal(x, y) for choice in (entry, inner) for a, b in of_a_kind(choice) for x, y in parts(choice, a, b)
    )
    assert torch.equal(entry["conv3"].conv.weight[..., 1:2, 1:2], entry["conv1"].conv.weight)
    reduce = "se.conv_reduce.weight"
    assert torch.equal(inner["k5e3se"].get_parameter(reduce)[:, :16], inner["k3e1sehs"].get_parameter(reduce))


def test_bare_convolutions_start_alike_and_nothing_is_shared_unless_asked_for():
    space = space_of(**EVERYTHING).eval()
    entry = space.blocks[2][0]
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(entry["conv3"](x), entry["conv1"](x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in parts(entry, "k3e3se", "k3e3sehs"))
    before = copy.deepcopy(space.state_dict())
    with torch.no_grad():
        entry["conv1"].conv.weight.add_(1)
    changed = {name for name, tensor in space.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"blocks.2.0.conv1.conv.weight"}


# -- arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"entry_kernels": [2]}, "entry_kernels holds 2; allowed: odd numbers"),
        ({"entry_kernels": 3}, "entry_kernels is 3; allowed: a list of different whole numbers"),
        (
            {"squeeze_excite": [0.25]},
            "squeeze_excite is [0.25]; allowed: a list of different values out of false, true",
        ),
        ({"squeeze_excite": []}, "squeeze_excite is []; allowed: a list of different values out of false, true"),
        (
            {"activations": ["gelu"]},
            "activations is ['gelu']; allowed: a list of different values out of relu6, relu, hard_swish",
        ),
        ({"se_ratio": 0}, "se_ratio is 0; allowed: greater than 0, up to 1"),
    ],
)
def test_a_wrong_argument_is_named_with_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MobileNetV2Space("open", **arguments)
