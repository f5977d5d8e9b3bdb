"""Spaces of NNI's hub by name."""

from __future__ import annotations

from pathlib import Path

import nni.nas.hub.pytorch
import pytest
import torch

from nni_proxyless.cli.main import main
from nni_proxyless.config import registry
from nni_proxyless.derive import Architecture, build_network, load_weights
from nni_proxyless.latency import trace_operations
from nni_proxyless.search.finished_search import FinishedSearch

GROUP = "nni_proxyless.search_spaces"
SMALL = {
    "shufflenet": {},
    "proxylessnas": {"base_widths": [8] * 9},
    "nasbench201": {"stem_out_channels": 4, "num_modules_per_stack": 1},
}
OF_VALUES = {
    "mobilenetv3": {
        "base_widths": [8, 8, 8, 16, 16], "width_multipliers": [0.5, 2.0], "expand_ratios": [1.0, 1.5], "depth_range": [1, 2],
        "squeeze_excite": ["none", "optional"], "stride": [2, 1, 2, 1, 1], "activation": ["relu"] * 5,
    },
    "autoformer": {
        "img_size": 16, "patch_size": 8, "search_embed_dim": [8, 16], "search_num_heads": [1, 2], "search_depth": [1, 2],
        "search_mlp_ratio": [1.0, 2.0],
    },
}  # fmt: skip
SEARCH = """
data: {name: synthetic, n_images: 64, num_classes: 3, channels: 2, image_size: 16, batch_size: 4}
latency: {target_ms: 90%, estimator: {name: macs}}
training: {epochs: 2, optimizer: adamw, learning_rate: 0.01}
search: {select: probabilities}
trainer: {accelerator: cpu, threads: 1}
"""


@pytest.mark.parametrize(
    ("name", "strategy"),
    [("nasbench201", "proxyless"), ("proxylessnas", "dsnas"), ("mobilenetv3", "dsnas"), ("autoformer", "reinforce")],
)
def test_a_search_by_name_leaves_a_network(tmp_path, name, strategy):
    """Classes and channels are those of the images, and the weights are those of the net that its file describes."""
    (tmp_path / "search.yml").write_text(SEARCH)
    given = {**SMALL, **OF_VALUES}[name]
    space = {"name": name, **given}
    own = {"dsnas": "dsnas, search_epochs: 1", "proxyless": "proxyless, arc_update_every: 1"}
    own["reinforce"] = own["proxyless"] + ", update: reinforce, reinforce_samples: 2"
    words = [f"space={space}", f"strategy={{name: {own[strategy]}}}", f"output={tmp_path / 'out'}"]
    assert main(["search", str(tmp_path / "search.yml"), *words]) == 0
    architecture = Architecture.read(tmp_path / "out" / "architecture.json")
    assert architecture.space == {"name": name, "arguments": {"num_labels": 3, "in_channels": 2, **given}}
    weights = load_weights(tmp_path / "out" / "weights.safetensors")
    network = build_network(architecture, weights).eval()
    assert network(torch.randn(2, 2, 16, 16)).shape == (2, 3)
    if strategy != "dsnas":
        assert_derives(tmp_path / "out", architecture, weights)


def assert_derives(run: Path, architecture: Architecture, weights: dict[str, torch.Tensor]) -> None:
    """Further networks have the supernet's weights: the one of the search its own, but for statistics, which are estimated anew."""
    search = FinishedSearch.read(run)
    assert search.inherits
    kept = search.supernet.freeze(architecture.choices).state_dict()
    assert kept.keys() == weights.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in weights.items() if name.endswith(("weight", "bias")))


@pytest.mark.parametrize("name", SMALL)
def test_other_channels_change_the_first_convolution_alone(name):
    """Of three channels it is NNI's space, of others the same with another first layer."""
    theirs = {"shufflenet": "ShuffleNetSpace", "proxylessnas": "ProxylessNAS", "nasbench201": "NasBench201"}[name]
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in SMALL[name].items()}
    expected = getattr(nni.nas.hub.pytorch, theirs)(num_labels=3, **arguments)
    shapes = {key: tensor.shape for key, tensor in expected.state_dict().items()}
    ours = registry.load(GROUP, name)(num_labels=3, **SMALL[name])
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes
    grey = registry.load(GROUP, name)(num_labels=3, in_channels=1, **SMALL[name])
    other = {key for key, tensor in grey.state_dict().items() if tensor.shape != shapes[key]}
    assert len(other) == 1
    assert next(iter(shapes)) in other
    assert grey.simplify().keys() == expected.simplify().keys()


def test_refused_by_name_is_what_has_no_operations_that_could_be_timed():
    assert_refused("nasbench101", "NasBench101")
    space = nni.nas.hub.pytorch.NasBench101(num_stacks=1, num_modules_per_stack=1)
    with pytest.raises(ValueError, match=r"has no latency here|should never be called directly"):
        trace_operations(space, (3, 16, 16))


def test_channels_of_shufflenet_are_choices():
    """The same layers as without, and a number of channels for each block; of other images another first layer alone."""
    ours = registry.load(GROUP, "shufflenet")(num_labels=3, in_channels=1, channel_search=True)
    assert sum(str(label).startswith("channel_") for label in ours.simplify()) == 20
    assert ours.first_conv[0].in_channels == 1


def test_the_first_layer_of_mobilenetv3_keeps_its_choices():
    ours = registry.load(GROUP, "mobilenetv3")(num_labels=3, in_channels=1, **OF_VALUES["mobilenetv3"])
    assert set(ours.stem[0].mutables[0].simplify()) | set(ours.stem[0].mutables[1].simplify()) == {
        "s0_width_mult",
        "stem_ks",
    }
    sample = {label: mutable.default() for label, mutable in ours.simplify().items()}
    assert ours.freeze({**sample, "stem_ks": 5}).stem[0].weight.shape[1:] == (1, 5, 5)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ("{name: mobilenetv3, base_widths: [8, 8]}", "space: base_widths has 2 entries; allowed: 5 or more"),
        ("{name: mobilenetv3, stride: [2]}", "space: stride has 1 entries; allowed with these base_widths: 9"),
        ("{name: autoformer, img_size: 30, patch_size: 4}", "space: patch_size 4 does not divide img_size 30"),
    ],
)
def test_sizes_that_do_not_fit_are_said(space, said, capsys):
    assert main(["search", f"space={space}"]) == 2
    assert said in capsys.readouterr().err


def assert_refused(name: str, theirs: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is refused: {theirs} ") as error:
        registry.load(GROUP, name)
    assert "mobilenetv2" in str(error.value) or "nasbench201" in str(error.value)
    assert name not in registry.names(GROUP)


def test_a_refused_name_ends_the_command_with_code_2(capsys):
    assert main(["search", "space={name: nasbench101}"]) == 2
    assert "space.name: 'nasbench101' is refused: NasBench101 draws the edges of its cell" in capsys.readouterr().err


def test_as_many_widths_as_stages(capsys):
    assert main(["search", "space={name: proxylessnas, base_widths: [8, 8]}"]) == 2
    assert "space: base_widths has 2 entries; allowed: 9" in capsys.readouterr().err
