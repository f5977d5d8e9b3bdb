"""Boxes: anchors, matching, loss and answers against torchvision's own SSD, and the metric on answers whose worth is known."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import SSDMatcher
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from nni_proxyless.core.errors import UserError
from nni_proxyless.data import ImageData
from nni_proxyless.data.accuracy import evaluate_merit
from nni_proxyless.data.validate import make_images
from nni_proxyless.tasks import Detection
from nni_proxyless.tasks.boxes import CODER, boxes_of, matched, ssd_loss

from ..forked import fork
from ..search.test_experiment import free_port
from . import made

CLASSES, SHAPE, ROWS = 3, (3, 64, 64), 6
PADDING = (-1.0, 0, 0, 0, 0)


def targets_of(n: int, most: int = ROWS - 1, seed: int = 0, rows: int = ROWS) -> Tensor:
    """Random boxes, 0 to ``most`` of an image; rows of padding anywhere between them."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.tensor(PADDING).repeat(n, rows, 1)
    for target in targets:
        places = torch.randperm(rows, generator=generator)[: int(torch.randint(most + 1, (), generator=generator))]
        for place in places:
            corner = torch.rand(2, generator=generator) * 40
            side = 3 + torch.rand(2, generator=generator) * 20
            kind = torch.randint(CLASSES, (1,), generator=generator)
            target[place] = torch.cat([kind, corner, corner + side])
    return targets


def begun(targets: Tensor, **options: Any) -> Detection:
    task = Detection(**options)
    task.begin(CLASSES, SHAPE, list(targets))
    return task


def ssd(task: Detection) -> SSD:
    """torchvision's, with our anchors, of which the loss and what is read from outputs are used."""
    generator = DefaultBoxGenerator([task.aspect_ratios] * task.levels, scales=task.scales)
    return SSD(nn.Identity(), generator, SHAPE[1:], CLASSES + 1, head=nn.Identity(), score_thresh=0.01, nms_thresh=0.45, detections_per_img=100)  # fmt: skip


def outputs_of(task: Detection, n: int, seed: int = 1) -> Tensor:
    return 2 * torch.randn(n, *task.output_shape(), generator=torch.Generator().manual_seed(seed))


def telling(task: Detection, targets: Tensor, sure: float = 12.0) -> Tensor:
    """What a network that knows everything answers: the best anchors of each box say it, and all others the background."""
    anchors = task.anchors(SHAPE)
    outputs = torch.zeros(len(targets), *task.output_shape())
    rows = matched(anchors, targets)
    for output, target, row in zip(outputs, targets, rows, strict=True):
        there = row >= 0
        wanted = target[row[there]]
        output[there, :4] = CODER.encode_single(wanted[:, 1:], anchors[there])
        output[torch.arange(len(row)), 4 + torch.where(there, target[row.clamp(min=0), 0].long() + 1, 0)] = sure
    return outputs


def test_anchors_cover_the_image_in_the_order_of_the_outputs():
    task = begun(targets_of(2))
    anchors = task.anchors(SHAPE)
    assert anchors.shape == (4 * (8 * 8 + 4 * 4 + 2 * 2 + 1), 4) == (task.output_shape()[0], 4)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert torch.equal(centers[:8], torch.tensor([[4.0, 4]] * 4 + [[12.0, 4]] * 4)), "by column, then by row"
    sides = anchors[:4, 2:] - anchors[:4, :2]
    expected = torch.tensor([[6.4, 6.4], [6.4 * 2**0.5] * 2, [6.4 * 2**0.5, 6.4 / 2**0.5], [6.4 / 2**0.5, 6.4 * 2**0.5]])  # fmt: skip
    assert torch.allclose(sides, expected, atol=1e-5)
    assert torch.allclose(anchors[-4], torch.tensor([6.4, 6.4, 57.6, 57.6]))
    odd = begun(targets_of(2), levels=3).anchors((3, 60, 50))  # of strides 4, 8 and 16, rounded up
    assert len(odd) == 4 * (15 * 13 + 8 * 7 + 4 * 4)


@pytest.mark.parametrize(("side", "stride"), [(4, 1), (8, 1), (16, 2), (32, 4), (63, 4), (64, 8), (224, 8)])
def test_the_first_level_has_eight_places_or_more(side, stride):
    assert Detection().stride_of((3, side, 2 * side)) == stride
    assert Detection(stride=16).stride_of((3, side, side)) == 16


def test_anchors_are_matched_as_by_torchvision():
    task, targets = begun(targets_of(20)), targets_of(20)
    anchors = task.anchors(SHAPE)
    found = matched(anchors, targets)
    for target, row in zip(targets, found, strict=True):
        there = (target[:, 0] >= 0).nonzero()[:, 0]
        if not len(there):
            assert (row == -1).all()
            continue
        expected = SSDMatcher(0.5)(box_iou(target[there, 1:], anchors))
        assert torch.equal(row, torch.where(expected >= 0, there[expected.clamp(min=0)], -1))
    assert len(found.unique()) == ROWS + 1


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_that_of_torchvision(seed):
    targets = targets_of(12, seed=seed)
    task = begun(targets)
    theirs, anchors = ssd(task), task.anchors(SHAPE)
    outputs = outputs_of(task, 12, seed).requires_grad_()
    boxes = [target[target[:, 0] >= 0] for target in targets]
    given = [{"boxes": rows[:, 1:], "labels": rows[:, 0].long() + 1} for rows in boxes]
    rows = [
        SSDMatcher(0.5)(box_iou(one["boxes"], anchors))
        if len(one["boxes"])
        else torch.full((len(anchors),), -1)
        for one in given
    ]  # fmt: skip
    head = {"bbox_regression": outputs[..., :4], "cls_logits": outputs[..., 4:].contiguous()}
    expected = sum(theirs.compute_loss(given, head, [anchors] * 12, rows).values())
    loss = task.loss(outputs, targets, 0.1)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-6, rel=1e-6)
    (ours,), (gradient,) = torch.autograd.grad(loss, outputs), torch.autograd.grad(expected, outputs)
    assert torch.allclose(ours, gradient, atol=1e-7)
    assert float(loss.detach()) > 1


def test_rows_of_padding_make_no_difference_and_images_without_boxes_cost_nothing():
    targets = targets_of(5)
    task = begun(targets)
    outputs = outputs_of(task, 5).requires_grad_()
    more = torch.cat([torch.tensor([-1.0, 5, 5, 50, 50]).expand(5, 3, 5), targets], dim=1)
    assert torch.equal(task.loss(outputs, targets), task.loss(outputs, more))
    nothing = task.loss(outputs, torch.tensor(PADDING).expand(5, ROWS, 5))
    assert float(nothing.detach()) == 0
    (gradient,) = torch.autograd.grad(nothing, outputs)
    assert not gradient.any()


def test_an_anchor_counts_once_where_most_are_matched():
    """torchvision then takes matched ones for background too, where no other ones are left."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10], [0, 1, 10, 10], [40, 40, 50, 50]])
    targets = torch.tensor([[[1.0, 0, 0, 10, 10]]])
    outputs = torch.zeros(1, 4, 5 + CLASSES)
    outputs[0, :3, :4] = CODER.encode_single(targets[0, :, 1:].expand(3, 4), anchors[:3])
    assert float(ssd_loss(outputs, targets, anchors)) == pytest.approx(4 * torch.tensor(4.0).log() / 3)


def test_answers_are_read_as_by_torchvision():
    targets = targets_of(6)
    task = begun(targets)
    outputs, anchors = outputs_of(task, 6), task.anchors(SHAPE)
    head = {"bbox_regression": outputs[..., :4], "cls_logits": outputs[..., 4:]}
    expected = ssd(task).postprocess_detections(head, [anchors] * 6, [SHAPE[1:]] * 6)
    found = task.boxes(outputs)
    assert len(found) == 6
    for (boxes, scores, classes), theirs in zip(found, expected, strict=True):
        assert len(boxes) == 100
        assert torch.allclose(scores, theirs["scores"])
        assert torch.allclose(boxes, theirs["boxes"], atol=1e-4)
        assert torch.equal(classes, theirs["labels"] - 1)


def test_of_boxes_that_overlap_the_surest_of_a_class_is_kept():
    anchors = torch.tensor([[0.0, 0, 20, 20], [1, 1, 21, 21], [40, 40, 60, 60], [50, 50, 90, 90]])
    outputs = torch.zeros(1, 4, 5 + CLASSES)
    outputs[0, :, 4:] = torch.tensor([[0.0, 5, -9, -9], [0, 4, -9, -9], [0, -9, 6, -9], [9, -9, -9, -9]])

    def read(**options: Any) -> Any:
        (found,) = boxes_of(outputs, anchors, (64, 64), **{"score_threshold": 0.05, "nms_iou": 0.45, "most": 100, **options})  # fmt: skip
        return found

    found = read()
    assert found.boxes.tolist() == [[40, 40, 60, 60], [0, 0, 20, 20]]
    assert found.classes.tolist() == [1, 0]
    assert found.scores[0] > found.scores[1] > 0.99
    assert len(read(nms_iou=0.9).boxes) == 3, "these two overlap by 0.82"
    assert len(read(most=1).boxes) == 1
    assert len(read(score_threshold=0.995).boxes) == 1
    outputs[0, 1, 4:] = torch.tensor([0.0, -9, 4, -9])
    assert read().classes.tolist() == [1, 0, 1], "one of another class"
    outputs[0, 3, 4:] = torch.tensor([0.0, -9, -9, 6])
    assert [50, 50, 64, 64] in read().boxes.tolist(), "cut at the edge of the image"
    outputs[0, :, 4:] = torch.nan
    assert len(read().boxes) == 0


def test_answers_of_exported_files_need_the_size_of_their_images_alone():
    targets = targets_of(4)
    task = begun(targets)
    outputs = telling(task, targets)
    fresh = Detection()
    for one, other in zip(task.boxes(outputs), fresh.boxes(torch.from_numpy(outputs.numpy()), SHAPE), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    with pytest.raises(ValueError, match=r"outputs of shape \(4, 340, 8\); allowed for images of shape \(3, 32, 32\): \(n, 340, 5 \+ classes\)|allowed for images of shape \(3, 32, 24\)"):  # fmt: skip
        fresh.boxes(outputs, (3, 32, 24))
    with pytest.raises(ValueError, match=r"outputs of shape \(4, 340, 5\)"):
        fresh.boxes(outputs[..., :5], SHAPE)


@pytest.mark.parametrize("metric", ["map", "map_50"])
def test_who_knows_everything_has_all_of_it(metric):
    targets = targets_of(30)
    task = begun(targets, metric=metric)
    outputs = telling(task, targets)
    worth = task.metric()
    for some, wanted in zip(outputs.split(11), targets.split(11), strict=True):
        worth.update(some, wanted)
    assert float(worth.compute()) == pytest.approx(1, abs=1e-6)
    assert task.merit.name == metric
    assert float(task.loss(outputs, targets)) < 1e-3
    assert 0.99 < float(task.reward(outputs, targets)) <= 1


def test_the_metric_sees_classes_places_and_what_is_missing():
    targets = targets_of(40)
    exact, half = begun(targets), begun(targets, metric="map_50")

    def worth(task: Detection, outputs: Tensor) -> float:
        metric = task.metric()
        metric.update(outputs, targets)
        return float(metric.compute())

    outputs = telling(exact, targets)
    shifted = outputs.clone()
    shifted[..., 0] += 1.5  # by 0.15 of an anchor's width
    assert worth(half, shifted) > 0.9 > 0.6 > worth(exact, shifted)
    swapped = torch.cat([outputs[..., :5], outputs[..., 5:].roll(1, dims=2)], dim=2)
    assert worth(half, swapped) < 0.1
    missing = outputs.clone()
    missing[::2] = telling(exact, torch.tensor(PADDING).expand(20, ROWS, 5))
    assert 0.3 < worth(half, missing) < 0.8
    none = half.metric()
    none.update(outputs[:2], torch.tensor(PADDING).expand(2, ROWS, 5))
    assert float(none.compute()) == 0
    coarse = outputs.bfloat16()
    assert worth(half, coarse) > 0.9, "in 16 bits"
    assert exact.loss(coarse.requires_grad_(), targets).dtype == torch.float32


def of_a_part(rank: int, port: int) -> None:
    """Judge 3 images of 5 in one process, 2 in the other, and none in a third."""
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=3)
    targets = targets_of(5)
    task = begun(targets)
    metric = task.metric()
    if rank < 2:
        metric.update(telling(task, targets)[rank::2], targets[rank::2])
    print(f"rank {rank}: {float(metric.compute()):.6f}", flush=True)
    torch.distributed.destroy_process_group()


def test_processes_may_have_different_numbers_of_images(tmp_path):
    port, said = free_port(), tmp_path / "said"
    processes = [fork(of_a_part, rank, port, cwd=tmp_path, said=said) for rank in range(3)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0], said.read_text()
    said_by = sorted(line for line in said.read_text().splitlines() if line.startswith("rank"))
    assert said_by == [f"rank {rank}: 1.000000" for rank in range(3)]


def test_a_metric_that_begins_anew_has_seen_nothing():
    targets = targets_of(8)
    task = begun(targets)
    metric = task.metric()
    metric.update(telling(task, targets.roll(1, dims=0)), targets)
    before = float(metric.compute())
    metric.reset()
    metric.update(telling(task, targets), targets)
    assert float(metric.compute()) == pytest.approx(1, abs=1e-6)
    assert before < 0.9


def test_images_are_divided_by_the_rarest_class_that_they_have():
    targets = torch.tensor(PADDING).repeat(100, 2, 1)
    targets[:60, 0] = torch.tensor([0.0, 1, 1, 9, 9])
    targets[60:90, 0] = torch.tensor([1.0, 1, 1, 9, 9])
    targets[:25, 1] = torch.tensor([2.0, 1, 1, 9, 9])
    kinds = begun(targets).kinds(list(targets))
    assert {name: int(of.sum()) for name, of in kinds.items()} == {"class 0": 35 + 10, "class 1": 30, "class 2": 25}


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    said = (
        "^task: map needs the package faster-coco-eval, which is missing; pip install 'nni-proxyless\\[detection\\]'$"
    )
    with pytest.raises(UserError, match=said):
        make_images(f"{made.__name__}:boxes", {}, {"name": "nni_proxyless.tasks:Detection", "arguments": {}})
    assert len(Detection().boxes(torch.zeros(1, 340, 8), SHAPE)) == 1, "who has a file need not judge it"


def test_a_network_is_judged_in_batches_of_any_size():
    data: ImageData = make_images(f"{made.__name__}:boxes", {"n": 40}, {"name": "nni_proxyless.tasks:Detection", "arguments": {"metric": "map_50"}})  # fmt: skip
    torch.manual_seed(0)
    n = data.task.output_shape()
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, n[0] * n[1]), nn.Unflatten(1, n))
    images, targets = (torch.stack(parts) for parts in zip(*data.test, strict=True))
    whole = evaluate_merit(network, [(images, targets)], data.task)
    assert whole == pytest.approx(evaluate_merit(network, zip(images.split(3), targets.split(3), strict=True), data.task), abs=1e-6)  # fmt: skip
    assert whole > 0
