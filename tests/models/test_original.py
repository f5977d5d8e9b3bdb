"""The statistics of images that a model's weights know, and images of others."""

from __future__ import annotations

import pytest
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from nni_proxyless.models.original import Original
from nni_proxyless.models.renormalizing import Renormalizing, renormalizing

HALF = ((0.5,) * 3, (0.5,) * 3)
IMAGENET = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def test_a_network_sees_the_images_as_it_knows_them():
    network = nn.Conv2d(3, 4, 3, bias=False).double()
    pixels = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    as_given, as_wanted = ((pixels - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1) for mean, std in (IMAGENET, HALF))  # fmt: skip
    made = renormalizing(network, IMAGENET, HALF)
    torch.testing.assert_close(made(as_given), network(as_wanted))
    assert isinstance(made, Renormalizing)
    assert renormalizing(network, IMAGENET, [list(values) for values in IMAGENET]) is network


def test_which_images_weights_know():
    assert Original("tf_mobilenetv3_small_100", "pretrained").statistics == HALF
    assert Original("mobilenetv3_small_100", "pretrained").statistics == IMAGENET
    assert Original("tf_mobilenetv3_small_100", "weights.pth").statistics is None, "of a file nobody knows"


@pytest.mark.parametrize(
    ("model", "weights", "given", "said"),
    [
        ("tf_mobilenetv3_small_100", "pretrained", IMAGENET, "timm's weights of tf_mobilenetv3_small_100 know images of mean and deviation 0.5, 0.5, 0.5 and 0.5, 0.5, 0.5, these are normalized by 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225"),
        ("tf_mobilenetv3_small_100", "pretrained", HALF, None),
        ("mobilenetv3_small_100", "pretrained", ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)), "timm's weights of mobilenetv3_small_100 know images of mean"),
        ("mobilenetv3_small_100", "pretrained", ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), None),
        ("mobilenetv3_small_100", "pretrained", ((0.5,), (0.5,)), None),
        ("mobilenetv3_small_100", "pretrained", None, None),
        ("tf_mobilenetv3_small_100", "weights.pth", IMAGENET, None),
    ],
)  # fmt: skip
def test_what_is_said_of_images_of_others(model, weights, given, said):
    found = Original(model, weights).problem_of_statistics(given)
    assert found is None if said is None else found.startswith(said)
