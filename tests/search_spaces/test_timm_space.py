"""Spaces around models of timm: the model is one of the networks, candidates are cut out of its blocks or hold them."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import timm
import torch
from nni.nas.nn.pytorch import LayerChoice
from nni_proxyless.search_spaces import TimmSpace
from nni_proxyless.search_spaces.shared_weights import middle_of
from nni_proxyless.search_spaces.timm_blocks import (
    order_channels,
    problem_of_block,
    resized,
    size_of,
    sizes_around,
)
from nni_proxyless.search_spaces.timm_network import (
    build_timm_network,
    family,
    further_block,
    make_model,
    model_on_meta,
    problem_of_model,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from nni_proxyless.latency import trace_operations

MODELS = (
    "mobilenetv3_small_050", "mobilenetv2_035", "mnasnet_small", "tf_efficientnet_lite0", "tf_efficientnetv2_b0", "tinynet_e", "fbnetc_100",
    "hardcorenas_a", "mobilenetv4_conv_small_035", "lcnet_035", "mobilenet_edgetpu_100", "efficientnet_es",
)  # fmt: skip
SMALL = "mobilenetv3_small_050"


def images(side: int = 32, channels: int = 3, n: int = 2) -> Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def with_statistics(model: Any) -> Any:
    """As trained: batch norms with other statistics, scales and shifts than those they begin with."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias, module.running_mean):
                tensor.uniform_(-0.3, 0.3, generator=generator)
    return model.eval()


def made(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return with_statistics(timm.create_model(name, **options))


def labels(space: TimmSpace) -> dict[str, list[str]]:
    return {str(m.label): list(m.names) for m in space.modules() if isinstance(m, LayerChoice)}


def drawn(space: TimmSpace, seed: int = 0) -> dict[str, str]:
    generator = torch.Generator().manual_seed(seed)
    return {label: names[int(torch.randint(len(names), (1,), generator=generator))] for label, names in labels(space).items()}  # fmt: skip


def close(a: Tensor, b: Tensor, to: float) -> bool:
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max()) <= to * max(1.0, float(b.abs().max()))


@pytest.fixture(scope="module")
def small() -> TimmSpace:
    torch.manual_seed(0)
    return TimmSpace(SMALL, num_classes=10, extra_depth=1, squeeze_excite=[False, True])


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_one_of_the_networks(name, tmp_path):
    """With its weights: its outputs to 1e-5; and another network is what its definition says, a file later too."""
    model = made(name, num_classes=7)
    if MODELS.index(name) % 2:
        save_file(model.state_dict(), tmp_path / "weights.safetensors")
    else:
        torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    (file,) = tmp_path.iterdir()
    space = TimmSpace(name, weights=str(file), num_classes=7, expansions=[0.5], extra_depth=MODELS.index(name) % 2)
    assert space.original.keys() == labels(space).keys()
    x = images()
    with torch.no_grad():
        assert close(space.freeze(space.original).eval()(x), model(x), 1e-5)
        sample = drawn(space)
        frozen = space.freeze(sample).eval()
        definition = json.loads(json.dumps(space.timm_definition(sample)))
        network = build_timm_network(definition)
        network.load_state_dict(frozen.state_dict())
        assert torch.equal(network.eval()(x), frozen(x))
    assert type(network) is type(model)
    assert sum(p.numel() for p in network.parameters()) != sum(p.numel() for p in model.parameters())


BLOCKS = {
    "ir": (SMALL, 1, 1),
    "ir with squeeze-and-excitation": (SMALL, 2, 1),
    "ir with TensorFlow's padding": ("tf_efficientnet_lite0", 1, 0),
    "er": ("mobilenet_edgetpu_100", 1, 0),
    "uir": ("mobilenetv4_conv_small_035", 2, 1),
    "uir with a kernel before its expansion": ("mobilenetv4_conv_small_035", 2, 0),
    "ds": (SMALL, 0, 0),
    "cn": ("mobilenetv4_conv_small_035", 0, 0),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_larger_candidates_compute_what_the_block_does_and_smaller_ones_are_parts_of_it(kind):
    name, s, i = BLOCKS[kind]
    block = made(name).blocks[s][i].double()
    size, x = size_of(block), images(12, size_of(block).channels).double()
    around = sizes_around(size, [3, 5, 7], [0.5, 1, 2], None)
    assert around[0] == size
    assert len({one.name for one in around}) == len(around) >= 3
    seen = 0
    with torch.no_grad():
        for one in around:
            candidate: Any = resized(block, one)
            assert size_of(candidate) == one
            y = candidate(x)
            assert y.shape == block(x).shape
            if one.expanded >= size.expanded and one.kernel >= size.kernel and one.first >= size.first:
                assert close(y, block(x), 1e-12), one
                seen += 1
            theirs = block.state_dict()
            for key, tensor in candidate.state_dict().items():
                common = [min(sizes) for sizes in zip(tensor.shape, theirs[key].shape, strict=True)]
                assert torch.equal(middle_of(tensor, common), middle_of(theirs[key], common)), (one, key)
            assert not {p.data_ptr() for p in candidate.parameters()} & {p.data_ptr() for p in block.parameters()}
    assert seen >= 2


@pytest.mark.parametrize("kind", [kind for kind in BLOCKS if kind not in ("ds", "cn")])
def test_channels_are_ordered_by_what_the_projection_weighs_them(kind):
    name, s, i = BLOCKS[kind]
    block = made(name).blocks[s][i].double()
    x = images(12, size_of(block).channels).double()
    ordered = copy.deepcopy(block)
    order_channels(ordered)
    with torch.no_grad():
        assert close(ordered(x), block(x), 1e-12)
    before, after = (
        (one.pw_proj.conv if kind.startswith("uir") else one.conv_pwl).weight.detach().abs().sum((0, 2, 3)) for one in (block, ordered)
    )  # fmt: skip
    assert torch.equal(after, before.sort(descending=True).values)
    assert not torch.equal(after, before)


def test_squeeze_and_excitation_that_is_new_is_like_the_model_s_and_nearly_nothing(small):
    choice = next(m for m in small.modules() if isinstance(m, LayerChoice) and m.label == "stage1.1")
    without, new = copy.deepcopy(choice["k3m32"]).double(), copy.deepcopy(choice["k3m32se"]).double()
    assert type(new.se.gate) is type(small.network.blocks[0][0]["k3se"].se.gate) is nn.Hardsigmoid
    x = images(8, size_of(without).channels).double()
    with torch.no_grad():
        assert close(new.eval()(x), without.eval()(x), 1e-12), "a hard gate is open"


def test_further_blocks_are_left_out_in_the_model_and_at_first_give_what_they_are_given(small):
    further = {label: names for label, names in labels(small).items() if small.original[label] == "skip"}
    assert set(further) == {"stage1.2", "stage2.3", "stage3.2", "stage4.3"}
    for choice in small.modules():
        if isinstance(choice, LayerChoice) and choice.label in further:
            block: Any = choice[next(name for name in choice.names if name != "skip")]
            x = images(8, size_of(block).channels)
            with torch.no_grad():
                assert torch.equal(copy.deepcopy(block).eval()(x), x)
    assert further_block(small.network.blocks[5]) is None, "the last block is no residual"


def test_what_may_be_left_out_is_in_no_stage_the_first(small):
    skips = {label for label, names in labels(small).items() if "skip" in names}
    assert skips
    assert not any(label.endswith(".0") for label in skips)
    assert not any("skip" in names for names in labels(TimmSpace(SMALL, skip=False)).values())
    sample = {label: "skip" if label in skips else names[0] for label, names in labels(small).items()}
    network = small.freeze(sample)
    assert [len(stage) for stage in network.blocks] == [1] * 6
    assert small.timm_definition(sample)["made_from"] == [[0]] * 6
    assert network(images(64)).shape == (2, 10)


def test_networks_share_the_memory_of_the_space_and_leave_it_as_it_was(small):
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    owned = {p.data_ptr() for p in small.parameters()}
    network = small.freeze(drawn(small, 3))
    assert all(p.data_ptr() in owned for p in network.parameters())
    assert before.keys() == small.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())


def test_shared_weights_train_all_candidates_at_once():
    space = TimmSpace(SMALL, num_classes=4, shared_weights=True, expansions=[0.5, 1, 1.5])
    for module in (space, copy.deepcopy(space), space.double()):
        choice = next(m for m in module.modules() if isinstance(m, LayerChoice) and m.label == "stage3.1")
        large, little = choice["k5m112se"], choice["k3m32se"]
        with torch.no_grad():
            large.conv_pw.weight[0].fill_(7.0)
            large.conv_dw.weight[1, 0, 2, 2] = 5.0
        assert (little.conv_pw.weight[0] == 7.0).all()
        assert little.conv_dw.weight[1, 0, 1, 1] == 5.0


@pytest.mark.parametrize(
    ("name", "width", "timms"),
    [("mobilenetv2_100", 1.4, "mobilenetv2_140"), ("mobilenetv2_100", 0.5, "mobilenetv2_050"), ("mnasnet_100", 0.5, "mnasnet_050"),
     ("mobilenetv3_large_100", 0.75, "mobilenetv3_large_075"), ("mobilenetv1_100", 1.25, "mobilenetv1_125"), ("lcnet_100", 1.5, "lcnet_150")],
)  # fmt: skip
def test_another_width_is_timm_s_own_where_timm_has_it(name, width, timms):
    """Shapes of all convolutions but those of squeeze-and-excitation, whose channels timm rounds otherwise."""
    scaled = make_model(name, num_classes=5, in_chans=3, width=width)
    theirs = timm.create_model(timms, num_classes=5)

    def shapes(model: Any) -> dict[str, tuple[int, ...]]:
        return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if ".se." not in key}

    assert shapes(scaled) == shapes(theirs)
    assert scaled.eval()(images(64)).shape == (2, 5)


@pytest.mark.parametrize("name", MODELS)
def test_a_scaled_model_runs_and_is_built_again(name):
    space = TimmSpace(name, width=0.6, num_classes=3, kernels=[], expansions=[1.5])
    network = build_timm_network(space.timm_definition(space.original))
    frozen = space.freeze(space.original).eval()
    network.load_state_dict(frozen.state_dict())
    with torch.no_grad():
        assert torch.equal(network.eval()(images()), frozen(images()))
    channels = [info["num_chs"] for info in network.feature_info]
    assert [m.shape[1] for m in network.forward_intermediates(images(64), intermediates_only=True)] == channels


def test_a_stem_of_stride_1_and_what_timm_says_of_reductions():
    space = TimmSpace(SMALL, stem_stride=1, in_channels=1, num_classes=3)
    assert space.network.conv_stem.stride == (1, 1)
    network = build_timm_network(space.timm_definition(space.original))
    assert network.conv_stem.stride == (1, 1)
    maps = network.forward_intermediates(images(32, 1), intermediates_only=True)
    assert [32 // m.shape[-1] for m in maps] == [info["reduction"] for info in network.feature_info]


def test_operations_have_keys_that_say_what_differs():
    keys = [op.key for op in trace_operations(TimmSpace("tf_mobilenetv3_small_075", num_classes=4), (3, 32, 32))]
    assert any("-se:8-gate:Hardsigmoid-act:ReLU-pad:same" in key for key in keys)
    by_candidate = {op.key: op.conditions for op in trace_operations(TimmSpace(SMALL), (3, 32, 32)) if op.conditions}
    assert len({(conditions, key) for key, conditions in by_candidate.items()}) == len(by_candidate)


def test_the_family_and_what_is_none_of_it():
    names = family()
    assert len(names) > 100
    assert problem_of_model(model_on_meta("resnet18")) == "is a ResNet; allowed: models of timm's EfficientNet family"
    for name, words in {
        "efficientnet_cc_b0_4e": "blocks.4.0: a CondConvResidual; allowed: ",
        "mixnet_s": "blocks.2.0: conv_dw is a MixedConv2d",
        "efficientnet_blur_b0": "blocks.1.0: aa is a BlurPool2d",
        "efficientnet_b0_g8_gn": "blocks.0.0: conv_dw has 4 groups",
        "efficientnet_b0_gn": "blocks.1.0: bn1 is a GroupNormAct",
        "efficientnet_x_b3": "blocks.0.0: has a convolution from space to depth",
        "mobilenetv4_hybrid_medium": "blocks.2.4: a MobileAttention",
        "gc_efficientnetv2_rw_t": "blocks.3.0: se is a GlobalContext",
    }.items():
        assert name in names
        assert str(problem_of_model(model_on_meta(name))).startswith(words)
    assert problem_of_block(nn.Conv2d(3, 3, 3)) is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "mobilenetv3_smal_100"}, "model is 'mobilenetv3_smal_100'; allowed: a model of timm. Did you mean 'mobilenetv3_small_100'?"),
        ({"model": "mixnet_s"}, "no space can be made: blocks.2.0: conv_dw is a MixedConv2d"),
        ({"model": "mobilenetv3_small_100.in1k"}, "model is 'mobilenetv3_small_100.in1k': timm has no weights 'in1k' of mobilenetv3_small_100; allowed: lamb_in1k"),
        ({"model": 3}, "model is 3; allowed: the name of a model of timm"),
        ({"weights": "none.pth"}, "weights is 'none.pth': no such file; allowed: a file, or 'pretrained'"),
        ({"weights": 5}, "weights is 5; allowed: a file, or 'pretrained'"),
        ({"kernels": [3, 4]}, "kernels is [3, 4]; allowed: a list of different ones out of odd whole numbers up to 31"),
        ({"kernels": [9999999]}, "kernels is [9999999]; allowed: a list of different ones out of odd whole numbers up to 31"),
        ({"expansions": [float("inf")]}, "expansions is [inf]"),
        ({"skip": "no", "shared_weights": 1}, "skip is 'no'; allowed: true, false; shared_weights is 1; allowed: true, false"),
        ({"weights": ""}, "weights is ''; allowed: a file, or 'pretrained'"),
        ({"model": "lcnet_035", "weights": "pretrained"}, "weights is 'pretrained', of which timm has none for lcnet_035; allowed: a file, or none"),
        ({"kernels": 3}, "kernels is 3; allowed: a list"),
        ({"expansions": [0, 1]}, "expansions is [0, 1]; allowed: a list of different ones out of numbers greater than 0, up to 16"),
        ({"expansions": [1, 1]}, "expansions is [1, 1]"),
        ({"squeeze_excite": [1]}, "squeeze_excite is [1]; allowed: a list of different ones out of true, false"),
        ({"extra_depth": -1}, "extra_depth is -1; allowed: whole numbers of 0 or more"),
        ({"width": 0}, "width is 0; allowed: more than 0, up to 10"),
        ({"width": 0.5, "weights": "w.pth"}, "width is 0.5 beside weights, which are those of the model; allowed: 1, or no weights"),
        ({"stem_stride": 4}, "stem_stride is 4; allowed: 1, 2, or none, the model's"),
        ({"num_classes": 0, "dropout": 1}, "num_classes is 0; allowed: whole numbers of 1 or more; dropout is 1; allowed: 0 up to, but not, 1"),
    ],
)  # fmt: skip
def test_wrong_arguments(options, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        TimmSpace(**{"model": SMALL, **options})


def test_files_of_weights(tmp_path):
    """Of other classes and channels they are adapted."""
    model = made(SMALL, num_classes=1000)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    space = TimmSpace(SMALL, weights=str(tmp_path / "w.pth"), num_classes=5, in_channels=1)
    network: Any = space.network
    assert close(network.conv_stem.weight, model.conv_stem.weight.sum(1, keepdim=True), 1e-6)
    assert torch.equal(network.conv_head.weight, model.conv_head.weight)
    assert network.classifier.out_features == 5
    torch.save({**made(SMALL, num_classes=5).state_dict(), "classifier.bias": torch.zeros(9)}, tmp_path / "w.pth")
    assert TimmSpace(SMALL, weights=str(tmp_path / "w.pth"), num_classes=5).network.classifier.out_features == 5


def test_wrong_files_of_weights_are_refused_in_a_line(tmp_path):
    weights = made(SMALL, num_classes=5).state_dict()
    path = tmp_path / "w.pth"
    contents = {
        "those of another network: conv_stem.weight is 8x3x3x3, the model has 16x3x3x3, and 2": {**weights, "conv_stem.weight": torch.zeros(8, 3, 3, 3), "bn1.weight": torch.zeros(3), "bn1.bias": torch.zeros(3)},
        "those of another network: bn1.weight is missing": {key: one for key, one in weights.items() if key != "bn1.weight"},
        "those of another network: other is too many": {**weights, "other": torch.zeros(1)},
        "bn1.weight holds infinities or what is no number; allowed: finite weights": {**weights, "bn1.weight": torch.full((16,), torch.nan)},
        "no readable weights; allowed: a state_dict of tensors": {**weights, "bn1.weight": None},
        "no readable weights: ": [1, 2],
        "no readable weights; allowed": {},
    }  # fmt: skip
    for words, content in contents.items():
        torch.save(content, path)
        with pytest.raises(ValueError, match=re.escape(f"weights is {str(path)!r}: {words}")) as refused:
            TimmSpace(SMALL, weights=str(path), num_classes=5)
        assert len(str(refused.value).splitlines()) == 1
    for name, content in {"empty.pth": b"", "text.safetensors": b"hello", "cut.pth": path.read_bytes()[:100]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}': no readable weights: ."):
            TimmSpace(SMALL, weights=str(tmp_path / name))
