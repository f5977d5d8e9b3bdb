"""Networks of trees, published and derived, as models of timm, as files, and as pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from nni_proxyless.search_spaces import PyramidTreeSpace
from nni_proxyless.search_spaces.tree_layout import EDGES, labels_of_edges
from nni_proxyless.search_spaces.tree_network import PyramidTreeNet
from timm.data import resolve_model_data_config
from torch import Tensor, nn

import nni_proxyless.timm_models  # noqa: F401  (registers the models)
from nni_proxyless.cli.main import main
from nni_proxyless.core.atomic_files import write_weights
from nni_proxyless.derive import Architecture, build_network, count_macs, count_parameters
from nni_proxyless.models.block_diagram import diagram_of_architecture, diagram_of_published
from nni_proxyless.models.draw import draw_networks
from nni_proxyless.models.published import NETWORKS

from ..search_spaces import tree_reference
from ..search_spaces.test_pyramid_tree import drawn, trained_a_little

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "proxylessnas_cifar10_network.json"
TINY: dict[str, Any] = {"preset": "small", "depths": [1, 1], "stem_width": 4, "final_width": 6, "in_channels": 1}


@pytest.fixture(scope="module")
def published() -> PyramidTreeNet:
    torch.manual_seed(0)
    return with_statistics(timm.create_model("proxyless_cifar").double())


@torch.no_grad()
def with_statistics(network: Any) -> Any:
    """Affine parameters that are not their initial values, and statistics of images: without them, 54 blocks would overflow."""
    trained_a_little(network)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(images(32).flip(0) + 0.1)
    for norm in norms:
        norm.momentum = 0.1
    return network


def images(side: int = 32) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def leave(folder: Path, **arguments: Any) -> Path:
    """What a search on the digits leaves in ``folder``: an architecture and its weights; the path of the first."""
    torch.manual_seed(0)
    arguments = {**TINY, **arguments}
    space = PyramidTreeSpace(**arguments)
    trained_a_little(space)
    sample = drawn(space)
    Architecture(
        space={"name": "pyramid-tree", "arguments": arguments}, choices=sample, input_shape=(1, 16, 16),
        network=space.timm_definition(sample), data={"name": "digits", "arguments": {"image_size": 16}},
    ).write(folder / "architecture.json")  # fmt: skip
    write_weights(folder / "weights.safetensors", space.freeze(sample).state_dict())
    return folder / "architecture.json"


# -- the published network -------------------------------------------------------------------------------------------------


def test_the_published_network_has_the_published_counts(published):
    """To the last parameter and multiply-add, by the authors' count: convolutions and the classifier."""
    assert count_parameters(published) == 5_731_530
    assert count_macs(published, (3, 32, 32)) == 1_213_155_872
    trees, depths = NETWORKS["proxyless_cifar"]["trees"], NETWORKS["proxyless_cifar"]["depths"]
    assert tree_reference.n_parameters(trees, depths, 16, 100, 3, 10) == 5_731_530


def test_the_published_operations_are_those_of_the_shared_file():
    if not SHARED.exists():
        pytest.skip(f"the published network is not here: {SHARED}")
    assert NETWORKS["proxyless_cifar"]["trees"] == json.loads(SHARED.read_text())["blocks"]


@torch.no_grad()
@pytest.mark.parametrize("source", ["registry", "space"])
def test_the_published_network_computes_what_the_description_says(source, published):
    """Of timm's registry, and frozen out of the paper's space: against a construction of its own in float64, in both modes."""
    network, trees = published, NETWORKS["proxyless_cifar"]["trees"]
    if source == "space":
        torch.manual_seed(0)
        space = PyramidTreeSpace()
        sample = dict(zip(labels_of_edges((18, 18, 18)), " ".join(trees).split(), strict=True))
        assert space.timm_definition(sample) == NETWORKS["proxyless_cifar"]
        network = with_statistics(space.freeze(sample).double())
        assert count_parameters(network) == 5_731_530
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    for train in (False, True):
        expected = tree_reference.logits(images(), weights, trees, (18, 18, 18), train=train)
        torch.testing.assert_close(network.train(train)(images()), expected, rtol=0, atol=1e-10)
        assert expected.std() > 1e-3, "logits that are all alike would agree for any network"
    network.load_state_dict(weights)


def test_the_published_network_is_a_model_of_timm(published):
    assert timm.is_model("proxyless_cifar")
    config = resolve_model_data_config(published)
    assert config["input_size"] == (3, 32, 32)
    assert config["mean"] == pytest.approx([125.3 / 255, 123.0 / 255, 113.9 / 255])
    assert config["std"] == pytest.approx([63.0 / 255, 62.1 / 255, 66.7 / 255])
    maps = published.eval().forward_features(images())
    assert maps.shape == (2, published.num_features, *published.pretrained_cfg["pool_size"])
    assert torch.equal(published.forward_head(maps), published(images()))
    pooled = published.forward_head(maps, pre_logits=True)
    torch.testing.assert_close(pooled, maps.mean((2, 3)))
    assert torch.equal(published.get_classifier()(pooled), published(images()))
    with pytest.raises(RuntimeError, match="No pretrained weights exist for proxyless_cifar"):
        timm.create_model("proxyless_cifar", pretrained=True)


# -- derived networks --------------------------------------------------------------------------------------------------------


def test_timm_s_arguments_reach_a_derived_network(tmp_path):
    path = str(leave(tmp_path))
    model = timm.create_model("proxyless_derived", architecture=path, pretrained=True).eval()
    assert type(model) is PyramidTreeNet
    one = torch.randn(2, 1, 16, 16)
    expected = build_network(Architecture.read(path), model.state_dict()).eval()(one)
    assert torch.equal(model(one), expected)
    known = {"input_size": (1, 16, 16), "num_classes": 10, "pool_size": (8, 8), "mean": (0.3053,)}
    assert {key: model.pretrained_cfg[key] for key in known} == known

    few = timm.create_model(
        "proxyless_derived", architecture=path, pretrained=True, num_classes=3, drop_rate=0.3
    ).eval()
    assert few(one).shape == (2, 3)
    assert few.drop_rate == 0.3
    assert torch.equal(few.forward_features(one), model.forward_features(one))
    model.reset_classifier(7, "max")
    assert model(one).shape == (2, 7)
    assert model.global_pool.pool_type == "max"
    model.reset_classifier(0)
    assert model(one).shape == (2, 24)
    wide = timm.create_model("proxyless_derived", architecture=path, in_chans=3, path_drop_rate=0.1, cell_drop_rate=0.2)
    assert wide(torch.randn(2, 3, 16, 16)).shape == (2, 10)
    assert [stage[0].cell_drop_rate for stage in wide.blocks] == pytest.approx([2 * 0.2 / 3, 4 * 0.2 / 3])


def test_feature_maps_have_the_reductions_they_say(tmp_path):
    path = str(leave(tmp_path))
    one = torch.randn(2, 1, 16, 16)
    maps = timm.create_model("proxyless_derived", architecture=path, pretrained=True, features_only=True).eval()
    found = maps(one)
    assert maps.feature_info.reduction() == [1, 2]
    assert maps.feature_info.channels() == [m.shape[1] for m in found] == [16, 24]
    assert [m.shape[-1] for m in found] == [16, 8]
    model = timm.create_model("proxyless_derived", architecture=path, pretrained=True).eval()
    torch.testing.assert_close(model.bn2(found[-1]), model.forward_features(one))
    (last,) = timm.create_model("proxyless_derived", architecture=path, features_only=True, out_indices=(1,))(one)
    assert last.shape == found[-1].shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trees": None}, "network: without 'trees'; a search writes all of them"),
        ({"trees": ["dw3"]}, "network.trees has 1 operations; allowed with depths of 1, 1: 24"),
        (
            {"trees": ["dw3 " * 12, "sep3 " * 12]},
            "network.trees holds 'sep3'; allowed: id, and avg, max, dw, dil with an odd",
        ),
    ],
)
def test_a_damaged_definition_is_refused(change, message, tmp_path):
    path = leave(tmp_path)
    content = json.loads(path.read_text())
    content["network"] |= change
    content["network"] = {key: value for key, value in content["network"].items() if value is not None}
    path.write_text(json.dumps(content))
    with pytest.raises(RuntimeError, match=message):
        timm.create_model("proxyless_derived", architecture=str(path))


def test_a_derived_network_is_exported_in_every_format(tmp_path, capsys):
    """Each file is compared with the network by the command itself."""
    path = leave(tmp_path)
    assert (
        main(
            [
                "export",
                str(path),
                "--images",
                "4",
                "--test-images",
                "20",
                "--calibration-images",
                "20",
                "--repeats",
                "2",
            ]
        )
        == 0
    )
    content = json.loads((tmp_path / "export.json").read_text())
    assert set(content["files"]) == {"onnx", "torchscript", "torch-export", "int8"}
    assert all((tmp_path / one["file"]).is_file() for one in content["files"].values())


# -- pictures ------------------------------------------------------------------------------------------------------------------


def test_a_picture_shows_every_operation_in_its_place(tmp_path):
    """Halves one above the other, branches side by side, the edge of a branch below the two behind it."""
    path = leave(tmp_path)
    diagram = diagram_of_architecture(path)
    trees = [row.split() for row in json.loads(path.read_text())["network"]["trees"]]
    assert [list(block.operations) for block in diagram.blocks if block.operations] == trees
    assert [block.channels for block in diagram.blocks] == [4, 16, 24, 10]
    assert [stage.notes for stage in diagram.stages] == [("16×16", "4 ch"), ("16×16", "16 ch"), ("8×8", "24 ch"), ("10", "classes")]  # fmt: skip
    (axes,) = draw_networks([diagram]).axes
    for b, names in enumerate(trees, 1):
        cells = [patch for n, name in enumerate(names) for patch in axes.patches if patch.get_gid() == f"net0-tree{b}-{n}-{name}"]  # fmt: skip
        assert len(cells) == 12
        wide = cells[0].get_width() * 2
        left, bottom, tall = cells[0].get_x(), cells[0].get_y(), cells[0].get_height()
        places = [(round((c.get_x() - left) / wide * 4), round((c.get_y() - bottom) / tall), round(c.get_width() / wide * 4)) for c in cells]  # fmt: skip
        half = [(0, 0, 2), (0, 1, 1), (1, 1, 1), (2, 0, 2), (2, 1, 1), (3, 1, 1)]
        assert places == [*half, *((x, y + 2, w) for x, y, w in half)]
        looks = {name: (cell.get_facecolor(), cell.get_hatch()) for name, cell in zip(names, cells, strict=True)}
        assert len(set(looks.values())) == len(set(names)), "operations are told apart"
    words = {text.get_text() for text in axes.texts}
    assert {"id", "dw3", "dil3"} <= words
    assert {f"half{edge}" for edge in EDGES} <= words, "the enlarged block says which cell is which"
    assert main(["draw", str(path), "--output", str(tmp_path / "net.svg")]) == 0
    assert "net0-tree1-0-" in (tmp_path / "net.svg").read_text()


def test_the_published_network_is_drawn():
    diagram = diagram_of_published("proxyless_cifar")
    assert diagram.figures == "1213.2 M multiply-adds, 5.73 M parameters"
    assert sum(len(block.operations) for block in diagram.blocks) == 648
    (axes,) = draw_networks([diagram]).axes
    blocks = {patch.get_gid(): patch for patch in axes.patches if (patch.get_gid() or "").startswith("net0-block")}
    assert len(blocks) == 56
    rows = [blocks[f"net0-block{n}"].get_y() for n in range(1, 55)]
    assert [rows.count(y) for y in sorted(set(rows), reverse=True)] == [18, 18, 18], "a row for each stage"
    assert len({blocks[f"net0-block{n}"].get_width() for n in range(1, 55)}) == 1
    wide, tall = axes.get_xlim()[1], axes.get_ylim()[1]
    for patch in axes.patches:
        assert 0 < patch.get_x() < patch.get_x() + patch.get_width() < wide
        assert 0 < patch.get_y() < patch.get_y() + patch.get_height() < tall
    words = [text.get_text() for text in axes.texts]
    assert {"stage1\n32×32", "stage2\n16×16", "stage3\n8×8", "3×32×32"} <= set(words)
    assert words.count("17") == 3


def test_networks_of_trees_and_of_blocks_stand_one_below_the_other():
    trees, blocks = diagram_of_published("proxyless_cifar"), diagram_of_published("proxyless_mobile")
    alone = draw_networks([blocks]).get_size_inches()
    for both in ([trees, blocks], [blocks, trees]):
        figure = draw_networks(both)
        (axes,) = figure.axes
        lowest = {r: min(p.get_y() for p in axes.patches if (p.get_gid() or "").startswith(f"net{r}-")) for r in (0, 1)}
        assert lowest[0] > lowest[1] > 0
        assert figure.get_size_inches()[1] > 2 * alone[1]
