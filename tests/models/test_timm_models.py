"""Derived and published nets as models of timm's registry."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import logging
import os
import re
import sys
from pathlib import Path

import pytest
import timm
import torch
from nni_proxyless.search_spaces import MobileNetV2Space
from PIL import Image
from sklearn.datasets import load_digits
from timm.data import create_transform, resolve_model_data_config
from timm.models import EfficientNet, adapt_input_conv, resolve_pretrained_cfg
from torch import nn

import nni_proxyless.timm_models  # noqa: F401  (registers the models)
from nni_proxyless import data
from nni_proxyless.core.atomic_files import write_weights
from nni_proxyless.data.normalization import preprocessing
from nni_proxyless.derive import Architecture, count_macs, count_parameters, load_weights, to_timm
from nni_proxyless.models.published import NETWORKS

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "published_architectures.json"


def leave(folder: Path, *, seed: int = 0, **layout) -> Path:
    """What a search on the digits leaves in ``folder``: an architecture and its weights; the path of the first."""
    torch.manual_seed(seed)
    space = MobileNetV2Space("small", **{"num_classes": 10, "in_channels": 1, "widths": (8, 16), "depths": (2, 2),
                                         "strides": (2, 2), "feature_mix": 32, **layout})  # fmt: skip
    for module in space.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    choices = {label: m.values[-1] if "skip" in m.values else "k5e3" for label, m in space.simplify().items()}
    Architecture(
        space={"name": "mobilenetv2", "arguments": {}}, choices=choices, input_shape=(space.in_channels, 16, 16),
        network=space.timm_definition(choices), data={"name": "digits", "arguments": {"image_size": 16}},
    ).write(folder / "architecture.json")  # fmt: skip
    write_weights(folder / "weights.safetensors", space.freeze(choices).state_dict())
    return folder / "architecture.json"


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return leave(tmp_path_factory.mktemp("search"))


def images(channels: int = 1, side: int = 16) -> torch.Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def derived(path: Path, **arguments) -> nn.Module:
    return timm.create_model("proxyless_derived", architecture=str(path), **arguments).eval()


# -- derived nets ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_derived_net_computes_what_to_timm_does(path):
    model = derived(path, pretrained=True)
    expected = to_timm(Architecture.read(path), load_weights(path.with_name("weights.safetensors"))).eval()(images())
    assert type(model) is EfficientNet
    assert torch.equal(model(images()), expected)
    torch.manual_seed(1)
    assert not torch.allclose(derived(path)(images()), expected), "without pretrained the weights are fresh"


@torch.no_grad()
def test_other_weights_are_named_relative_to_the_architecture(tmp_path):
    """After ``train`` the trained weights are in ``final/``."""
    path = leave(tmp_path)
    leave(tmp_path / "other", seed=1)
    (tmp_path / "final").mkdir()
    (tmp_path / "other" / "weights.safetensors").rename(tmp_path / "final" / "weights.safetensors")
    trained = derived(path, pretrained=True, weights="final/weights.safetensors")
    expected = to_timm(Architecture.read(path), load_weights(tmp_path / "final" / "weights.safetensors")).eval()
    assert torch.equal(trained(images()), expected(images()))
    assert not torch.allclose(derived(path, pretrained=True)(images()), expected(images()))


def test_the_file_fills_timm_s_configuration(path):
    model = derived(path)
    cfg = model.pretrained_cfg
    assert model.default_cfg is cfg
    known = {
        "architecture": "proxyless_derived", "file": str(path.with_name("weights.safetensors")), "num_classes": 10,
        "input_size": (1, 16, 16), "pool_size": (4, 4), "mean": (0.3053,), "std": (0.3189,), "interpolation": "bilinear",
        "crop_pct": 1.0, "first_conv": "conv_stem", "classifier": "classifier",
    }  # fmt: skip
    assert {key: cfg[key] for key in known} == known
    maps = []
    model.blocks.register_forward_hook(lambda module, args, output: maps.append(tuple(output.shape[-2:])))
    model(images())
    assert maps == [cfg["pool_size"]]


@pytest.mark.parametrize("side", [8, 16, 32])
def test_timm_prepares_an_image_as_our_data_do(side, path):
    """A scan, read from a file by timm's transform, is the tensor that the search saw; files hold whole grey values."""
    cfg = {"input_size": (1, side, side), **preprocessing({"name": "digits"}, (1, side, side))}
    if side == 16:
        assert resolve_model_data_config(derived(path)).items() >= cfg.items()
    transform = create_transform(**cfg)
    ours = data.digits(image_size=side)
    scan = load_digits().images[0]
    image = transform(Image.fromarray((scan * 255 / 16).round().astype("uint8")))
    candidates = torch.stack([part[i][0] for part in (ours.train_plain, ours.test) for i in range(len(part))])
    nearest = (candidates - image).abs().amax(dim=(1, 2, 3)).min()
    assert nearest < 1.5 / 255 / cfg["std"][0]


def test_what_is_known_of_our_data_sets_and_said_of_others(caplog):
    assert preprocessing({"name": "cifar100"}, (3, 32, 32))["std"] == (0.2470, 0.2435, 0.2616)
    assert preprocessing({"name": "nni_proxyless.data:fashion_mnist"}, (1, 32, 32))["mean"] == (0.2190,)
    normal = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    imagenet = {**normal, "interpolation": "bilinear", "crop_pct": 0.875}
    assert preprocessing({"name": "folder"}, (3, 224, 224)) == imagenet
    with caplog.at_level(logging.WARNING, logger="nni_proxyless.data.normalization"):
        found = preprocessing({"name": "mine:images"}, (2, 64, 64))
    assert (found["mean"], found["std"], found["crop_pct"]) == ((0.5, 0.5), (0.5, 0.5), 0.875)
    assert "'mine:images': its normalization is unknown; mean (0.5, 0.5), std (0.5, 0.5) are taken" in caplog.text
    caplog.clear()
    found = preprocessing({"name": "mine:images", "mean": [0.1, 0.2], "std": [0.3, 0.4]}, (2, 64, 64))
    assert (found["mean"], found["std"], found["crop_pct"]) == ((0.1, 0.2), (0.3, 0.4), 1.0)
    assert not caplog.text


@torch.no_grad()
@pytest.mark.parametrize(("have", "want"), [(3, 1), (1, 3)])
def test_other_channels_adapt_the_weights(have, want, tmp_path):
    """As timm does: a grey image gives the same logits, in one channel as in three."""
    if have == 1 and "base_chans" not in inspect.signature(adapt_input_conv).parameters:
        pytest.skip(f"timm {timm.__version__} adapts weights of three channels only")
    path = leave(tmp_path, in_channels=have)
    theirs, ours = derived(path, pretrained=True), derived(path, pretrained=True, in_chans=want)
    assert (theirs.conv_stem.weight.shape[1], ours.conv_stem.weight.shape[1]) == (have, want)
    grey = images()
    expected = theirs(grey.expand(-1, have, -1, -1))
    torch.testing.assert_close(ours(grey.expand(-1, want, -1, -1)), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_another_number_of_classes_gets_a_fresh_head_only(path):
    whole, few = derived(path, pretrained=True), derived(path, pretrained=True, num_classes=3)
    assert few(images()).shape == (2, 3)
    assert few.pretrained_cfg["num_classes"] == 10
    assert torch.equal(few.forward_features(images()), whole.forward_features(images()))
    assert derived(path, pretrained=True, num_classes=0)(images()).shape == (2, 32)


def test_timm_s_other_arguments_reach_the_net(path):
    model = derived(path, drop_rate=0.3, drop_path_rate=0.4, global_pool="max", bn_momentum=0.02, act_layer="relu")
    assert model.drop_rate == 0.3
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.blocks for block in stage]
    assert rates == pytest.approx([0.4 * i / len(rates) for i in range(len(rates))])
    assert rates[-1] > 0
    assert model.global_pool.pool_type == "max"
    assert (model.bn1.momentum, model.bn1.eps) == (0.02, 1e-3)
    assert isinstance(model.bn1.act, nn.ReLU)
    model.reset_classifier(7, "avg")
    assert model(images()).shape == (2, 7)
    assert derived(path, pretrained_cfg_overlay={"mean": (0.0,)}).pretrained_cfg["mean"] == (0.0,)


@torch.no_grad()
def test_weights_from_elsewhere_as_train_py_gives_them(path, tmp_path):
    """``--pretrained-path``: another file, and a fresh head with as many classes as the architecture says."""
    other = leave(tmp_path, seed=1).with_name("weights.safetensors")
    model = derived(path, pretrained=True, pretrained_cfg_overlay={"file": str(other), "num_classes": -1})
    assert torch.equal(model.conv_stem.weight, load_weights(other)["conv_stem.weight"])
    assert model(images()).shape == (2, 10)
    assert not torch.equal(model.classifier.weight, load_weights(other)["classifier.weight"])


def test_the_registered_entries_do_not_hide_those_of_the_file(path):
    """timm's newer scripts look up what is registered under the name and pass it; what differs from it was asked for."""
    registered = resolve_pretrained_cfg("proxyless_derived")
    for given in (registered, registered.to_dict(), dataclasses.replace(registered, crop_pct=0.5)):
        cfg = derived(path, pretrained_cfg=given).pretrained_cfg
        assert (cfg["input_size"], cfg["num_classes"]) == ((1, 16, 16), 10)
    assert cfg["crop_pct"] == 0.5


# -- maps --------------------------------------------------------------------------------------------------------------------


def listed(maps: list[torch.Tensor] | dict[str, torch.Tensor]) -> list[torch.Tensor]:
    return list(maps.values()) if isinstance(maps, dict) else maps


@torch.no_grad()
@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("feature_cls", [None, "list", "dict", "hook", "getter"])
def test_feature_maps_have_the_reductions_they_say(stem_stride, feature_cls, tmp_path):
    path = leave(tmp_path, stem_stride=stem_stride)
    asked = {} if feature_cls is None else {"feature_cls": feature_cls}
    model = derived(path, pretrained=True, features_only=True, **asked)
    maps = listed(model(images(side=32)))
    assert model.feature_info.reduction() == [stem_stride, 2 * stem_stride, 4 * stem_stride]
    assert model.feature_info.reduction() == [32 // m.shape[-1] for m in maps]
    assert model.feature_info.channels() == [m.shape[1] for m in maps] == [8, 8, 16]
    whole = derived(path, pretrained=True)
    torch.testing.assert_close(maps, whole.forward_intermediates(images(side=32), intermediates_only=True))
    assert [info["reduction"] for info in whole.feature_info] == model.feature_info.reduction()

    last = derived(path, pretrained=True, features_only=True, out_indices=(2,), **asked)
    (only,) = listed(last(images(side=32)))
    assert only.shape == maps[2].shape


@torch.no_grad()
def test_a_net_of_another_resolution_is_a_model_of_timm(tmp_path):
    """It takes images of any size; its configuration says that of the data, and of its own last map."""
    path = leave(tmp_path, resolution=24)
    model = derived(path, pretrained=True)
    assert (model.pretrained_cfg["input_size"], model.pretrained_cfg["pool_size"]) == ((1, 16, 16), (6, 6))
    assert model.forward_features(images(side=16)).shape[-2:] == (6, 6)
    assert torch.equal(model(images(side=16)), copy.deepcopy(model)(images(side=16)))
    assert model.forward_features(images(side=40)).shape[-2:] == (6, 6)
    wide = derived(path, pretrained=True, in_chans=3)
    assert wide(torch.randn(1, 3, 16, 16)).shape == (1, 10)
    for more in ({}, {"feature_cls": "list"}):
        with pytest.raises(ValueError, match="features_only: the network resizes its images to 24x24"):
            derived(path, features_only=True, **more)


@torch.no_grad()
@pytest.mark.parametrize(("stem_stride", "side"), [(1, 64), (2, 128)])
def test_a_derived_net_keeps_the_strides_of_its_space(stem_stride, side, tmp_path):
    """Five reductions after the stem: timm counts its stem as 2 and turns what goes beyond 32 into dilations."""
    layout = {"widths": (8,) * 5, "depths": (1,) * 5, "strides": (2,) * 5, "stem_stride": stem_stride}
    path = leave(tmp_path, **layout)
    whole = derived(path, pretrained=True)
    assert whole.forward_features(images(side=side)).shape[-1] == 2
    assert whole.feature_info[-1]["reduction"] == side // 2
    limited = derived(path, features_only=True, output_stride=8)
    assert [side // m.shape[-1] for m in limited(images(side=side))][-1] == limited.feature_info.reduction()[-1] == 8


# -- published nets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "millions", "macs"),
    [
        ("proxyless_cpu", 4.362, 439.2),
        ("proxyless_gpu", 7.120, 465.3),
        ("proxyless_mobile", 4.081, 320.4),
        ("proxyless_mobile_14", 6.858, 580.9),
    ],
)
def test_published_nets_have_the_published_counts(name, millions, macs):
    assert timm.list_models("proxyless*") == sorted([*NETWORKS, "proxyless_derived"])
    assert timm.list_models("proxyless*", pretrained=True) == []
    model = timm.create_model(name)
    assert round(count_parameters(model) / 1e6, 3) == millions
    assert round(count_macs(model, (3, 224, 224)) / 1e6, 1) == macs
    with pytest.raises(RuntimeError, match=f"No pretrained weights exist for {name}"):
        timm.create_model(name, pretrained=True)
    maps = timm.create_model(name, num_classes=5, in_chans=1, features_only=True)
    assert (maps.feature_info.reduction(), maps.conv_stem.in_channels) == ([2, 4, 8, 16, 32], 1)


@pytest.mark.parametrize("name", ["proxyless_gpu", "proxyless_mobile"])
def test_published_nets_are_those_of_the_shared_file(name):
    if not SHARED.exists():
        pytest.skip(f"the published architectures are not here: {SHARED}")
    theirs = json.loads(SHARED.read_text())[name]
    model = timm.create_model(name)
    blocks = [block for stage in model.blocks for block in stage]
    for block, known in zip(blocks, [b for b in theirs["blocks"] if b != "skip"], strict=True):
        assert block.conv_dw.kernel_size == (known["kernel"],) * 2
        assert block.conv_dw.stride == (known["stride"],) * 2
        assert block.conv_dw.in_channels == known["in_channels"] * known["expand"]
        assert (block.conv_pwl if known["expand"] > 1 else block.conv_pw).out_channels == known["out_channels"]
    assert model.conv_stem.out_channels == theirs["stem"]
    assert (model.num_features, model.num_classes) == (theirs["feature_mix"], theirs["classes"])


# -- wrong files -----------------------------------------------------------------------------------------------------------------


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_network(path: Path, **changes) -> None:
    network = {**json.loads(path.read_text())["network"], **changes}
    edit(path, network={key: value for key, value in network.items() if value is not None})


def weights_of_another(path: Path, **layout) -> dict:
    """Arguments with weights that do not fit, and a head that is adapted, so that timm is not strict."""
    leave(path.parent / "other", **layout)
    return {"weights": "other/weights.safetensors", "num_classes": 3}


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda path: {"architecture": path.with_name("architectur.json")}, FileNotFoundError, "architectur.json: no such file, so no architecture; allowed: the path of an architecture.json. Did you mean 'architecture.json'?"),
        (lambda path: {"architecture": path.parent}, FileNotFoundError, ": a folder, so no architecture; allowed: the path of an architecture.json. Did you mean 'architecture.json'?"),
        (lambda path: {"architecture": None}, TypeError, "architecture is missing; allowed: the path of an architecture.json"),
        (lambda path: path.write_text("{"), RuntimeError, "architecture.json: not an architecture: Expecting property name"),
        (lambda path: path.write_text("[]"), RuntimeError, "architecture.json: not an architecture: 'format' is not 'nni-proxyless architecture 1'"),
        (lambda path: edit(path, network=None), RuntimeError, "architecture.json: network: the space 'mobilenetv2' gives no timm block definition"),
        (lambda path: edit_network(path, stem_stride=None), RuntimeError, "architecture.json: network: without 'stem_stride'; a search writes all of them"),
        (lambda path: edit_network(path, blocks=[["ir_q7"]]), RuntimeError, "architecture.json: network.blocks: timm does not understand them: "),
        (lambda path: edit(path, input_shape=[16, 16]), RuntimeError, "architecture.json: input_shape is (16, 16); allowed: (channels, height, width)"),
        (lambda path: edit(path, data={"mean": [0.5, "a"]}), RuntimeError, "architecture.json: data.mean is [0.5, 'a']; allowed: a list with a number per channel"),
        (lambda path: path.with_name("weights.safetensors").rename(path.with_name("weight.safetensors")), FileNotFoundError,
         "weights.safetensors: no such file, so no weights; allowed: give another file by weights='…', or pretrained=False. Did you mean 'weight.safetensors'?"),
        (lambda path: os.truncate(path.with_name("weights.safetensors"), 100), RuntimeError, "proxyless_derived: no readable weights in "),
        (lambda path: weights_of_another(path, kernels=(3, 5, 7), widths=(8, 24)), RuntimeError,
         "other/weights.safetensors: the weights of another network: 'blocks.2.0.conv_pwl.weight' is 24x24x1x1, the network has 16x24x1x1, and 5 more"),
        (lambda path: weights_of_another(path, widths=(8, 16, 16), depths=(2, 2, 1), strides=(2, 2, 2)), RuntimeError,
         "other/weights.safetensors: the weights of another network: 'blocks.3.0.bn1.bias' is too many, and 17 more"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_what_is_wrong(spoil, error, message, tmp_path):
    path = leave(tmp_path)
    changed = spoil(path)
    arguments = {"architecture": path, **(changed if isinstance(changed, dict) else {})}
    with pytest.raises(error, match=re.escape(message)):
        timm.create_model("proxyless_derived", pretrained=True, **arguments)


def test_a_script_that_is_not_there_is_refused(command):
    """``python -m nni_proxyless.timm_script``, which runs timm's scripts with our models; tests/models/test_timm_train.py uses it."""
    done = command(sys.executable, "-m", "nni_proxyless.timm_script", "validat.py", "--model", "proxyless_gpu")
    assert (done.returncode, done.stderr) == (
        2, "timm_script: validat.py: no such file; allowed: a script of timm's, with its arguments\n",
    )  # fmt: skip


@torch.no_grad()
def test_the_page_s_examples_run(path, pytestconfig, monkeypatch):
    """docs/how-to/timm.md: through this package, and with torch, timm and safetensors only, the same net."""
    page = (pytestconfig.rootpath / "docs" / "how-to" / "timm.md").read_text(encoding="utf-8")
    monkeypatch.chdir(path.parent)
    models = []
    for example in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        names: dict = {}
        exec(example, names)
        models.append(names["model"].eval())
    with_package, without = models
    assert torch.equal(with_package(images()), without(images()))
    assert "nni_proxyless" not in page[page.index("## Without this package") :]
