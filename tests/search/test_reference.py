"""Reference nets: MobileNetV2 as published, and its block in the skeleton of other spaces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from nni_proxyless.search_spaces import MobileNetV2Space

from nni_proxyless.cli.main import main
from nni_proxyless.derive import to_timm
from nni_proxyless.latency import DeviceEstimator
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.search.mobilenetv2_baseline import (
    MOBILENETV2,
    measure_baselines,
    reference_layout,
    reference_networks,
    scaled,
)

TINY = {"preset": "small", "widths": [8, 16], "depths": [2, 1], "strides": [2, 2], "stem_width": 8, "feature_mix": 32,
        "num_classes": 10, "in_channels": 1}  # fmt: skip


def leave(folder: Path, arguments: dict[str, Any] = TINY, shape: tuple[int, ...] = (1, 8, 8), **known) -> Path:
    """What a search leaves, as far as its reference needs it."""
    choices = dict.fromkeys(MobileNetV2Space(**arguments).simplify(), "k5e3")
    path = folder / "architecture.json"
    Architecture(
        space={"name": "mobilenetv2", "arguments": arguments}, choices=choices, input_shape=shape,
        network=MobileNetV2Space(**arguments).timm_definition(choices),
        data={"name": "digits", "arguments": {"image_size": 8}}, **known,
    ).write(path)  # fmt: skip
    return path


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> dict[float, Architecture]:
    path = leave(tmp_path_factory.mktemp("imagenet"), {}, (3, 224, 224))
    nets = reference_networks(Architecture.read(path), [0.5, 1.0, 1.4])
    return {net.search["width"]: net for net in nets}


def test_mobilenetv2_has_its_published_counts(imagenet):
    """Sandler et al. 2018, table 4: 3.4 M parameters and 300 M multiply-adds; timm's and torchvision's have 3,504,872."""
    net = imagenet[1.0]
    assert net.n_params == 3_504_872
    assert net.macs == 300_774_272
    assert net.search == {"strategy": "reference", "weights": "fresh", "width": 1.0, "structure": "MobileNetV2"}


@pytest.mark.parametrize(
    ("width", "name"), [(0.5, "mobilenetv2_050"), (1.0, "mobilenetv2_100"), (1.4, "mobilenetv2_140")]
)
def test_mobilenetv2_is_timm_s(imagenet, width, name):
    """The same tensors in the same order, and the same strides: another definition of the same net."""
    with torch.device("meta"):
        theirs = timm.create_model(name)
        ours = to_timm(imagenet[width])
    assert [t.shape for t in ours.state_dict().values()] == [t.shape for t in theirs.state_dict().values()]
    assert sum(p.numel() for p in ours.parameters()) == imagenet[width].n_params
    strides = [[m.stride for m in net.modules() if isinstance(m, torch.nn.Conv2d)] for net in (ours, theirs)]
    assert strides[0] == strides[1]


@pytest.mark.parametrize("width", [0.1, 0.35, 0.75, 1.3])
def test_other_widths_round_as_timm_does(width):
    """A width that timm has no name for, made by timm's own generator."""
    from timm.models.efficientnet import _gen_mobilenet_v2

    with torch.device("meta"):
        theirs = _gen_mobilenet_v2("mobilenetv2_100", width)
    layout = scaled(MOBILENETV2, width)
    assert layout["stem_width"] == theirs.conv_stem.out_channels
    assert [layout["first_width"], *layout["widths"]] == [stage[-1].bn3.num_features if i else stage[-1].bn2.num_features
                                                          for i, stage in enumerate(theirs.blocks)]  # fmt: skip
    assert layout["feature_mix"] == theirs.num_features


def test_a_space_of_small_images_keeps_its_skeleton(tmp_path):
    assert reference_layout(MobileNetV2Space("imagenet").layout)[1] == "MobileNetV2"  # images halved five times
    searched = Architecture.read(leave(tmp_path))
    nets = reference_networks(searched, [0.5, 1.0, 2.0])
    assert [net.network["blocks"] for net in nets] == [
        [["ds_r1_k3_s1_c8"], ["ir_r1_k3_s2_e6_c8", "ir_r1_k3_s1_e6_c8"], ["ir_r1_k3_s2_e6_c8"]],
        [["ds_r1_k3_s1_c8"], ["ir_r1_k3_s2_e6_c8", "ir_r1_k3_s1_e6_c8"], ["ir_r1_k3_s2_e6_c16"]],
        [["ds_r1_k3_s1_c16"], ["ir_r1_k3_s2_e6_c16", "ir_r1_k3_s1_e6_c16"], ["ir_r1_k3_s2_e6_c32"]],
    ]
    assert [net.network["num_features"] for net in nets] == [32, 32, 64]
    for net in nets:
        assert net.search["structure"] == "MobileNetV2's block in the skeleton of the space"
        assert (net.input_shape, net.data, net.network["num_classes"]) == (searched.input_shape, searched.data, 10)
        # It is a net of the space that the file names.
        space = MobileNetV2Space(**net.space["arguments"])
        assert space.timm_definition(net.choices) == net.network
        space.validate(net.choices)
        assert net.n_params == sum(p.numel() for p in space.freeze(net.choices).parameters())


def test_the_command_as_typed_and_its_nets_through_train(tmp_path, command):
    """On this machine they are timed beside the searched net; then they train like any other."""
    conditions = dict(DeviceEstimator(runtime="torch").conditions)
    leave(tmp_path / "run", latency={"measured_ms": 123.0, "measured_conditions": conditions}, macs=1, n_params=1)
    done = command("nni-proxyless", "reference", "run", "--widths", "1.0", "0.5", "--output", "refs")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["network", "width-0.5", "width-1.0"]
    assert lines[4:] == [
        "structure: MobileNetV2's block in the skeleton of the space",
        "architecture: refs/width-0.5/architecture.json", "architecture: refs/width-1.0/architecture.json",
    ]  # fmt: skip
    for width in ("0.5", "1.0"):
        latency = Architecture.read(tmp_path / "refs" / f"width-{width}" / "architecture.json").latency
        assert 0 < latency["measured_ms"] < 50
        assert 0 < latency["searched_net_ms"] < 50, "timed again, not copied"
        assert latency["measured_conditions"] == conditions
        assert latency["table_ms"] is None
    assert main(["train", str(tmp_path / "refs/width-0.5/architecture.json"), "weights=scratch", "epochs=1"]) == 0
    result = json.loads((tmp_path / "refs" / "width-0.5" / "final" / "result.json").read_text())
    assert 0 <= result["accuracy"] <= 1


def test_of_another_machine_milliseconds_stay_unknown(tmp_path):
    elsewhere = {**DeviceEstimator(runtime="torch").conditions, "device": "a phone"}
    path = leave(tmp_path, latency={"measured_ms": 3.0, "measured_conditions": elsewhere})
    searched = Architecture.read(path)
    nets = reference_networks(searched, [1.0])
    assert measure_baselines(searched, nets) is None
    assert nets[0].latency["measured_ms"] is None
    assert nets[0].latency["measured_conditions"] is None


def test_twice_is_the_same_and_another_net_is_not_overwritten(tmp_path, refused, capsys):
    path, there = leave(tmp_path / "a"), tmp_path / "a" / "reference"
    words = ["reference", str(path), "--widths", "0.3", "0.5"]
    assert main(words) == 0
    assert "the same network as" in capsys.readouterr().err
    first = (there / "width-0.5" / "architecture.json").read_bytes()
    assert main(words) == 0
    assert (there / "width-0.5" / "architecture.json").read_bytes() == first
    other = leave(tmp_path / "b", {**TINY, "num_classes": 3})
    said = refused("reference", other, "--widths", "0.5", "--output", there)
    taken = f"{there / 'width-0.5' / 'architecture.json'} is there and holds another network; name another folder"
    assert said == f"nni-proxyless: --output {there}: {taken}\n"


def test_wrong_words_are_refused(tmp_path, refused):
    path = leave(tmp_path)
    said = refused("reference", path, "--widths", "0.5", "0")
    assert said == "nni-proxyless: --widths: 0.0 is not allowed here; allowed: more than 0, up to 10\n"
    nothing = tmp_path / "nothing"
    assert refused("reference", nothing) == f"nni-proxyless: {nothing}: No such file or directory\n"
    space = {"name": "torch.nn:Identity", "arguments": {}}
    Architecture(space=space, choices={}, input_shape=(3, 8, 8), network=None).write(path)
    assert refused("reference", path) == (
        "nni-proxyless: reference: the space 'torch.nn:Identity' has no layout of stages whose widths could be scaled; "
        "allowed: mobilenetv2, spaces made of it, and timm. Of any space: --random N --widths\n"
    )
