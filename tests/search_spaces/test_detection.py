"""The space of detection networks: a backbone's choices, a pyramid on its maps, and numbers for each anchor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni_proxyless.search_spaces import DetectionSpace, MobileNetV2Space
from nni_proxyless.search_spaces.backbone_maps import maps_of, network_in
from nni_proxyless.search_spaces.detection import BoxHead
from torch import nn

from nni_proxyless.core.joined_batches import can_join
from nni_proxyless.latency import LatencyProfiler, MacsEstimator
from nni_proxyless.latency.estimators.macs import count_macs
from nni_proxyless.models.build import build_network
from nni_proxyless.models.record import describe
from nni_proxyless.tasks import Detection

from .test_segmentation import BACKBONES, SMALL, images, sample_of


def made(name: str, **options: Any) -> DetectionSpace:
    torch.manual_seed(0)
    return DetectionSpace(BACKBONES[name], **{"num_classes": 3, "decoder_width": 8, "stride": 4, "levels": 3, **options})  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("options", [{}, {"stride": 2, "levels": 5}, {"stride": 8, "levels": 1}, {"stride": 32, "levels": 2, "anchors": 6}], ids=str)  # fmt: skip
def test_every_network_answers_for_every_anchor_of_the_task(name, options):
    space = made(name, **options).eval()
    stride, levels = options.get("stride", 4), options.get("levels", 3)
    ratios = [2.0, 3.0] if "anchors" in options else [2.0]
    task = Detection(stride=stride, levels=levels, aspect_ratios=ratios)
    for which in range(2):
        network = space.freeze(sample_of(space, which)).eval()
        for shape in ((1, 32, 32), (1, 40, 56), (1, 33, 50)):
            n = len(task.anchors(shape))
            assert network(torch.randn(2, *shape)).shape == (2, n, 8)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_frozen_network_is_that_path_of_the_supernet(name):
    space = made(name).eval()
    sample = sample_of(space, 1)
    network = space.freeze(sample).eval()
    maps = maps_of(network.backbone, images())
    assert torch.equal(network(images()), space.boxes(maps))
    other = space.freeze(sample_of(space, 0)).eval()
    assert other.boxes is network.boxes is space.boxes
    assert not torch.equal(other(images()), network(images()))
    assert not [key for key in network.state_dict() if key.startswith(("backbone.conv_head", "backbone.bn2", "backbone.classifier"))]  # fmt: skip


def test_choices_are_those_of_the_backbone():
    assert set(made("mobilenetv2").simplify()) == set(MobileNetV2Space(**SMALL).simplify())


def test_codes_and_logits_of_each_level_stand_beside_each_other():
    """By place, then by anchor; the larger map first: as anchors are."""
    torch.manual_seed(0)
    head = BoxHead([(4, 2), (6, 4)], 5, [4, 8], 2, 3).eval()
    maps = [torch.randn(2, n, side, side) for n, side in ((4, 8), (6, 4))]
    with torch.no_grad():
        outputs = head(maps)
        levels = [head.sums(maps)[1]]
        levels.append(head.extra[0](levels[0]))
        assert outputs.shape == (2, 2 * (4 * 4 + 2 * 2), 8)
        for level, begin in ((0, 0), (1, 32)):
            side = levels[level].shape[-1]
            codes = head.head.regression_head.module_list[level](levels[level])
            logits = head.head.classification_head.module_list[level](levels[level])
            for row, column, anchor in ((0, 0, 0), (0, 1, 1), (side - 1, 0, 1)):
                found = outputs[1, begin + 2 * (row * side + column) + anchor]
                assert torch.equal(found[:4], codes[1, 4 * anchor : 4 * anchor + 4, row, column])
                assert torch.equal(found[4:], logits[1, 4 * anchor : 4 * anchor + 4, row, column])


def test_every_block_of_the_backbone_counts_though_no_level_is_that_small():
    space = made("mobilenetv2", stride=2, levels=1)
    network = space.freeze(sample_of(space, 0))
    network(images()).square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None]
    assert not idle
    assert len(maps_of(network_in(space.backbone), images())) == 3, "the last two of stride 2 and 4"


def test_batches_of_such_a_network_can_be_computed_together():
    network = made("mobilenetv2").freeze(sample_of(made("mobilenetv2"), 0)).eval()
    assert can_join(network, [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)])


@pytest.mark.parametrize("name", BACKBONES)
def test_costs_of_candidates_add_up_to_those_of_the_network_head_included(name):
    space = made(name)
    profiler = LatencyProfiler(space, MacsEstimator(), (1, 32, 32))
    for which in range(2):
        sample = sample_of(space, which)
        counted = count_macs(space.freeze(sample), (1, 32, 32))
        assert profiler.profile(sample) == pytest.approx(counted / 1e6, rel=1e-9)


def test_a_network_is_built_from_its_definition():
    task = Detection(levels=2, aspect_ratios=[2.0, 3.0])
    target = torch.tensor([[1.0, 2, 2, 9, 9]])
    task.begin(3, (1, 32, 32), [target])
    name, arguments = task.space_of("mobilenetv2", SMALL)
    assert name == "detection"
    space = DetectionSpace(**arguments)
    sample = sample_of(space, 1)
    network = space.freeze(sample)
    described = describe(space, sample, name=name, arguments=arguments, data={}, input_shape=(1, 32, 32))
    built = build_network(described, network.state_dict()).eval()
    assert torch.equal(built(images()), network.eval()(images()))
    assert built(images()).shape[1:] == task.output_shape()


def test_images_that_are_too_small_for_its_maps_are_refused_in_words():
    space = made("timm")
    space.eval()(images())
    with pytest.raises(ValueError, match="so small that the last maps have one place each; allowed: larger ones"):
        space(images()[..., :4, :4])


@pytest.mark.parametrize(
    ("backbone", "options", "said"),
    [
        ({"name": "nowhere", "arguments": {}}, {}, "unknown"),
        ({"name": "mobilenetv2"}, {}, "allowed: {name: a space, arguments"),
        ({"name": "nasbench201", "arguments": {}}, {}, "no stem and stages whose maps a pyramid could see"),
        ({"name": "mobilenetv2", "arguments": {**SMALL, "widths": [8, [16, 24]]}}, {}, "a pyramid takes maps of one shape"),
        ({"name": "mobilenetv2", "arguments": {**SMALL, "resolution": 16}}, {}, "a pyramid takes maps of one shape"),
        (BACKBONES["mobilenetv2"], {"decoder_width": 0}, "decoder_width is 0"),
        (BACKBONES["mobilenetv2"], {"levels": 0}, "levels is 0"),
        (BACKBONES["mobilenetv2"], {"anchors": -1}, "anchors is -1"),
        (BACKBONES["mobilenetv2"], {"num_classes": True}, "num_classes is True"),
        (BACKBONES["mobilenetv2"], {"stride": 3}, "stride is 3, and no map of the space 'mobilenetv2' has 3 pixels per place; allowed: 1, 2, 4, or a power of 2 times 4"),
        ({"name": "timm", "arguments": {"model": "mobilenetv3_small_050"}}, {"stride": 1}, "stride is 1, and no map of the space 'timm' has 1 pixels per place; allowed: 2, 4, 8, 16, 32, or"),
    ],
)  # fmt: skip
def test_what_is_no_backbone_is_refused_in_words(backbone, options, said):
    with pytest.raises(ValueError, match=said):
        DetectionSpace(backbone, **options)
