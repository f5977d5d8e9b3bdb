"""Answers of several layers in one tensor: each keeps its own steps in 8 bits, and is held against its own size where files are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from nni_proxyless.search_spaces.detection import BoxHead
from torch import Tensor, nn

from nni_proxyless.models.export.compare import largest_difference, scale_of
from nni_proxyless.models.export.onnx_format import OnnxNetwork, write_int8, write_onnx


class OnMaps(nn.Module):
    """A head of boxes on two maps, whose codes are a thousandth of its logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.next = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.boxes = BoxHead([(8, 2), (8, 4)], 16, [2, 4], 2, 3)
        for heads, size in ((self.boxes.head.regression_head, 1.0), (self.boxes.head.classification_head, 1000.0)):
            for block in heads.module_list:
                nn.init.normal_(block[1].weight, std=size)

    def forward(self, x: Tensor) -> Tensor:
        first = self.stem(x).relu()
        return self.boxes([first, self.next(first).relu()])


def in_8_bits(network: nn.Module, folder: Path, batch: int | None) -> OnnxNetwork:
    write_onnx(network, (3, 16, 16), folder / "model.onnx", batch=batch)
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    write_int8(folder / "model.onnx", folder / "int8.onnx", images, batch=batch)
    return OnnxNetwork(folder / "int8.onnx")


@pytest.mark.parametrize("batch", [1, None])
def test_small_codes_beside_large_logits_keep_their_steps(batch, tmp_path):
    network = OnMaps().eval()
    run = in_8_bits(network, tmp_path, batch)
    images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found, expected = run(images)[0], network(images)[0]
    assert float(expected[:, 4:].abs().max()) > 300 * float(expected[:, :4].abs().max())
    step_for_all = float(expected.abs().max()) / 127
    error = (found - expected).abs()
    for part in (slice(0, 4), slice(4, None)):
        assert float(error[:, part].max()) < 0.1 * float(expected[:, part].abs().max())
    assert float(error[:, :4].max()) < step_for_all / 10


def test_a_joined_map_stays_in_8_bits(tmp_path):
    """As a block of ShuffleNet gives it: what is timed is what a whole network does."""

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.one(x), self.other(x)], dim=1)

    in_8_bits(Joined(), tmp_path, 1)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    assert made_by[graph.output[0].name] == "DequantizeLinear"
    (joining,) = [node for node in graph.node if node.op_type == "Concat"]
    assert {made_by[name] for name in joining.input} == {"DequantizeLinear"}


def test_a_difference_is_held_against_its_own_column():
    network: Any = OnMaps().eval()
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        outputs = network(images)

    def worse(x: Tensor) -> Tensor:
        found = network(x).clone()
        found[..., 1] *= 1.01
        return found

    shares = []
    for apart in (False, True):
        scale = scale_of([outputs], apart=apart)
        with torch.no_grad():
            shares.append(largest_difference(worse, images, {3: outputs}, scale)[1])
    assert scale.shape == (8,)
    assert shares[0] < 1e-4 < shares[1] == pytest.approx(0.01, rel=1e-3)
    vectors = torch.tensor([[1.0, -30], [2, 10]])
    assert scale_of([vectors, vectors / 2], apart=True).tolist() == [2, 30]
    assert scale_of([vectors], apart=False) == 30
    assert scale_of([vectors / 100], apart=False) == 1
