"""The space of segmentation networks: a backbone's choices, its maps, and a decoder."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from nni_proxyless.search_spaces import MobileNetV2Space, SegmentationSpace
from nni_proxyless.search_spaces.backbone_maps import maps_of
from nni_proxyless.search_spaces.segmentation import Decoder

from nni_proxyless.latency import LatencyProfiler, MacsEstimator
from nni_proxyless.latency.estimators.macs import count_macs

SMALL = {"preset": "small", "widths": [8, 16], "depths": [2, 2], "strides": [2, 2], "stem_width": 8, "feature_mix": 32, "in_channels": 1}  # fmt: skip
BACKBONES: dict[str, dict[str, Any]] = {
    "mobilenetv2": {"name": "mobilenetv2", "arguments": SMALL},
    "timm": {"name": "timm", "arguments": {"model": "mobilenetv3_small_050", "in_channels": 1, "stem_stride": 1}},
}


def made(name: str, **options: Any) -> SegmentationSpace:
    torch.manual_seed(0)
    return SegmentationSpace(BACKBONES[name], **{"num_classes": 3, "decoder_width": 8, **options})


def images(side: int = 32) -> torch.Tensor:
    return torch.randn(2, 1, side, side, generator=torch.Generator().manual_seed(1))


def sample_of(space: Any, which: int) -> dict[str, Any]:
    return {label: mutable.values[which % len(mutable.values)] for label, mutable in space.simplify().items()}


@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_answers_for_every_pixel(name):
    space = made(name).eval()
    for which in range(3):
        network = space.freeze(sample_of(space, which)).eval()
        assert network(images()).shape == (2, 3, 32, 32)
        assert network(torch.randn(1, 1, 24, 40)).shape == (1, 3, 24, 40)


@pytest.mark.parametrize("name", BACKBONES)
def test_choices_are_the_backbones_and_nothing_of_its_head_is_left(name):
    space = made(name)
    own: Any = {"mobilenetv2": MobileNetV2Space(**SMALL)}.get(name)
    if own is not None:
        assert set(space.simplify()) == set(own.simplify())
    frozen = space.freeze(sample_of(space, 0))
    assert not [key for key in frozen.state_dict() if key.startswith(("backbone.conv_head", "backbone.bn2", "backbone.classifier"))]  # fmt: skip


def test_maps_are_those_that_timm_takes():
    model = timm.create_model("mobilenetv3_small_050").eval()
    features = timm.create_model("mobilenetv3_small_050", features_only=True).eval()
    missing, _ = features.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = maps_of(model, x), features(x)
    assert [one.shape for one in ours] == [one.shape for one in theirs]
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_the_decoder_adds_maps_from_the_smallest_up():
    torch.manual_seed(0)
    decoder = Decoder([4, 6, 8], 5, 2).eval()
    maps = [torch.randn(1, n, side, side) for n, side in ((4, 8), (6, 4), (8, 2))]
    own = [lateral(one) for lateral, one in zip(decoder.lateral, maps, strict=True)]
    up = torch.nn.functional.interpolate
    half = own[1] + up(own[2], scale_factor=2, mode="bilinear", align_corners=False)
    expected = own[0] + up(half, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(decoder(maps), decoder.classifier(decoder.mix(expected)), atol=1e-6)
    fewer = Decoder([6, 8], 5, 2).eval()
    assert fewer(maps).shape == (1, 2, 4, 4), "of more maps than it has channels for, the smallest"


@pytest.mark.parametrize("name", BACKBONES)
def test_costs_of_candidates_add_up_to_those_of_the_network_head_included(name):
    space = made(name)
    profiler = LatencyProfiler(space, MacsEstimator(), (1, 32, 32))
    for which in range(3):
        sample = sample_of(space, which)
        counted = count_macs(space.freeze(sample), (1, 32, 32))
        assert profiler.profile(sample) == pytest.approx(counted / 1e6, rel=1e-9)


def test_frozen_networks_share_the_weights_of_the_space():
    space = made("mobilenetv2")
    one, other = (space.freeze(sample_of(space, which)) for which in (0, 1))
    assert one.decoder is other.decoder is space.decoder
    assert one.backbone.conv_stem is space.backbone.conv_stem


@pytest.mark.parametrize(
    ("backbone", "options", "said"),
    [
        ({"name": "nowhere", "arguments": {}}, {}, "unknown"),
        ({"name": "mobilenetv2"}, {}, "allowed: {name: a space, arguments"),
        ("mobilenetv2", {}, "allowed: {name: a space, arguments"),
        ({"name": "nasbench201", "arguments": {}}, {}, "no stem and stages"),
        ({"name": "mobilenetv2", "arguments": {**SMALL, "widths": [8, [16, 24]]}}, {}, "maps of one shape"),
        ({"name": "mobilenetv2", "arguments": {**SMALL, "resolution": 16}}, {}, "maps of one shape"),
        (BACKBONES["mobilenetv2"], {"decoder_width": 0}, "decoder_width is 0"),
        (BACKBONES["mobilenetv2"], {"levels": 0}, "levels is 0"),
        (BACKBONES["mobilenetv2"], {"num_classes": 0}, "num_classes is 0"),
        (BACKBONES["mobilenetv2"], {"num_classes": 2.5}, "num_classes is 2.5"),
    ],
)  # fmt: skip
def test_what_is_no_backbone_is_refused_in_words(backbone, options, said):
    with pytest.raises(ValueError, match=said):
        SegmentationSpace(backbone, **options)
