"""What is wrong with a task, its arguments, or the images it is given is said in one line, before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.utils.data import TensorDataset
from torchmetrics import MeanAbsoluteError

from nni_proxyless.cli.main import main
from nni_proxyless.data import ImageData, digits
from nni_proxyless.tasks import Merit, Regression, Task

from ..runs import TINY
from . import made

HERE, MADE = __name__, made.__name__


def section(**task: Any) -> Any:
    return {"task": task}


def of(data: str, **task: Any) -> Any:
    return {"data": {"name": f"{MADE}:{data}", "batch_size": 32}, "task": task}


def on(data: str, **task: Any) -> Any:
    return {"data": {"name": f"{HERE}:{data}", "batch_size": 32}, "task": task}


# Settings -> what the line says.
FILES = [
    (section(name="regresion"), "'regresion' is unknown; allowed: classification, detection, multi-label, regression, segmentation, or package.module:Class. Did you mean 'regression'?"),
    (section(name=3), "task.name: 3 is not allowed here; allowed: text"),
    ({"task": "regresion"}, "Did you mean 'regression'?"),
    ({"task": ["regression"]}, "task: ['regression'] is not allowed here; allowed: a section with keys"),
    ({"task": 7}, "task: 7 is not allowed here; allowed: a section with keys"),
    ({"taks": {"name": "regression"}}, "unknown key 'taks'"),
    (section(name="regression", los="mse"), "unknown key 'los'; allowed: name, loss, metric. Did you mean 'loss'?"),
    (section(name="regression", loss="mxe"), "task.loss: 'mxe' is not allowed here; allowed: 'mse', 'mae' or 'huber'"),
    (section(name="regression", loss=1), "task.loss: 1 is not allowed here"),
    (section(name="regression", metric="accuracy"), "task.metric: 'accuracy' is not allowed here; allowed: 'mae', 'rmse' or 'r2'"),
    (section(name="regression", class_weights="balanced"), "unknown key 'class_weights'"),
    (section(metric="precision"), "task.metric: 'precision' is not allowed here"),
    (section(class_weights="even"), "task.class_weights: 'even' is not allowed here"),
    (section(class_weights=[1, "a"]), "task.class_weights: 'a' is not allowed here"),
    (section(class_weights=[1.0, -2.0]), "allowed: balanced, or a number above 0 per class"),
    (section(class_weights=[1.0, 0.0]), "allowed: balanced, or a number above 0 per class"),
    (section(class_weights=True), "task.class_weights: True is not allowed here"),
    (section(name="multi-label", balanced="yes"), "task.balanced: 'yes' is not allowed here; allowed: true or false"),
    (section(name="multi-label", metric="accuracy"), "task.metric: 'accuracy' is not allowed here"),
    (section(name="segmentation", decoder_width=0), "decoder_width is 0; allowed: 1 or more"),
    (section(name="segmentation", levels=-1), "levels is -1; allowed: 1 or more"),
    (section(name="segmentation", levels=1.5), "task.levels: 1.5 is not allowed here; allowed: a whole number"),
    (section(name="segmentation", class_weights="balanced"), "task.class_weights: 'balanced' is not allowed here"),
    (section(name="segmentation", class_weights=[1.0, -1.0]), "allowed: a number above 0 per class"),
    (section(name="detection", metric="iou"), "task.metric: 'iou' is not allowed here; allowed: 'map' or 'map_50'"),
    (section(name="detection", decoder_width=0), "decoder_width is 0; allowed: 1 or more"),
    (section(name="detection", levels=0), "levels is 0; allowed: 1 to 8"),
    (section(name="detection", levels=9), "levels is 9; allowed: 1 to 8"),
    (section(name="detection", stride=6), "stride is 6; allowed: a power of 2"),
    (section(name="detection", stride=0), "stride is 0; allowed: a power of 2"),
    (section(name="detection", stride="small"), "task.stride: 'small' is not allowed here; allowed: a whole number"),
    (section(name="detection", scales=[0.1, 0.5]), "scales is [0.1, 0.5]; allowed with 4 levels: 5 rising numbers above 0, up to 1"),
    (section(name="detection", levels=2, scales=[0.5, 0.1, 1.0]), "allowed with 2 levels: 3 rising numbers"),
    (section(name="detection", levels=1, scales=[0.5, 1.5]), "allowed with 1 levels: 2 rising numbers"),
    (section(name="detection", aspect_ratios=[0.5]), "aspect_ratios is [0.5]; allowed: numbers above 1"),
    (section(name="detection", aspect_ratios=2), "task.aspect_ratios: 2 is not allowed here; allowed: a list"),
    (section(name="detection", match_iou=1.0), "match_iou is 1.0; allowed: more than 0, less than 1"),
    (section(name="detection", nms_iou=0), "nms_iou is 0"),
    (section(name="detection", score_threshold=-0.1), "score_threshold is -0.1; allowed: more than 0"),
    (section(name="detection", detections_per_image=300), "detections_per_image is 300; allowed: 1 to 100"),
    (section(name="detection", class_weights=[1.0]), "unknown key 'class_weights'"),
    (section(name="nowhere.at.all:Task"), "'nowhere.at.all:Task' does not import"),
    (section(name=f"{HERE}:Nothing"), "has no 'Nothing'"),
    (section(name=f"{HERE}:Refusing"), "not on a Monday"),
    (section(name=f"{HERE}:Needing"), "needs what"),
]  # fmt: skip
IMAGES = [
    (section(name="regression"), "an int as values; allowed: a tensor of torch.float32 of shape (10,)"),
    (section(name="multi-label"), "an int as labels"),
    (section(name="segmentation"), "an int as mask"),
    (section(name="detection"), "an int as boxes; allowed: a tensor of torch.float32 of shape (rows, 5)"),
    (of("masks", name="detection"), "a torch.int64 tensor as boxes"),
    (of("values", name="detection"), "boxes of shape (2,); allowed: (rows, 5), class, x1, y1, x2 and y2 of each"),
    (of("boxes", name="classification"), "targets that are no classes"),
    (of("boxes", name="segmentation"), "a torch.float32 tensor as mask"),
    (of("boxes", name="regression"), "values of shape (2, 5); allowed with num_classes 2: (2,)"),
    (of("boxes", name="detection", stride=32), "stride is 32; allowed for images of shape (3, 16, 16): up to 16"),
    (of("boxes", name="detection") | {"space": {"name": "nasbench201"}}, "no stem and stages whose maps a pyramid could see"),
    (of("boxes", name="detection") | {"space": {**yaml.safe_load(TINY)["space"], "resolution": [8, 16]}}, "a pyramid takes maps of one shape"),
    (of("boxes", name="detection") | {"training": {"epochs": 3}, "space": {"name": "timm", "model": "mobilenetv3_small_050"}, "task": {"name": "detection", "stride": 1}}, "stride is 1, and no map of the space 'timm' has 1 pixels per place"),
    (on("boxes_of_class_2", name="detection"), "a box with class 2; allowed with num_classes 2: 0 to 1, and -1 for a row that is left over in targets, image 3"),
    (on("boxes_of_half_a_class", name="detection"), "a box with class 0.5"),
    (on("boxes_of_no_number", name="detection"), "a box (1.0, nan, 4.0, 4.0); allowed with shape (1, 16, 16): x1, y1, x2, y2 with 0 <= x1 < x2 <= 16 and"),
    (on("boxes_of_four_corners", name="detection"), "boxes of shape (1, 4)"),
    (on("boxes_inside_out", name="detection"), "a box (5.0, 1.0, 4.0, 4.0)"),
    (on("boxes_beyond", name="detection"), "a box (1.0, 1.0, 17.0, 4.0)"),
    (on("boxes_of_two_lengths", name="detection"), "boxes of shape (2, 5); allowed: (1, 5), as others have; rows left over have class -1 in targets, image 3"),
    (on("no_boxes", name="detection"), "no training image has a box; allowed: one or more"),
    (section(class_weights=[1.0, 2.0]), "class_weights has 2 numbers; allowed for these images: 10, one per class"),
    (of("values", name="classification"), "targets that are no classes"),
    (of("values", name="multi-label"), "labels that are neither 0 nor 1"),
    (of("values", name="segmentation"), "a torch.float32 tensor as mask"),
    (of("labels", name="classification"), "targets that are no classes"),
    (of("labels", name="segmentation"), "a torch.float32 tensor as mask"),
    (of("masks", name="classification"), "targets that are no classes"),
    (of("masks", name="regression"), "a torch.int64 tensor as values"),
    (of("masks", name="segmentation", class_weights=[1.0, 2.0]), "class_weights has 2 numbers; allowed for these images: 3"),
    (on("constant", name="regression"), "value 1 of 2 is the same for all training images"),
    (on("of_no_number", name="regression"), "values that are no numbers; allowed: finite ones in targets, image 7"),
    (on("of_two_lengths", name="regression"), "values of shape (3,); allowed with num_classes 2: (2,) in targets, image 5"),
    (on("fewer_targets", name="regression"), "targets with 63 entries"),
    (on("all_labeled", name="multi-label", balanced=True), "a label that all training images have, or none"),
    (on("small_masks", name="segmentation"), "a mask of shape (8, 8); allowed with shape (1, 16, 16): (16, 16)"),
    (on("masks_of_class_9", name="segmentation"), "a mask with class 9; allowed with num_classes 3: 0 to 2, and 255"),
    (on("float_masks", name="segmentation"), "a torch.float32 tensor as mask"),
    (on("one_class", name="segmentation"), "num_classes of the images is 1; allowed: 2 or more"),
    (of("masks", name="segmentation") | {"space": {"name": "nasbench201"}}, "no stem and stages whose maps a decoder could see"),
    (of("masks", name="segmentation") | {"space": {**yaml.safe_load(TINY)["space"], "resolution": [8, 16]}}, "a decoder takes maps of one shape"),
    (of("values", name=f"{HERE}:NoTask"), "gives a NoTask; allowed: a nni_proxyless.tasks.Task"),
    (of("values", name=f"{HERE}:WithoutMerit"), "it has no attribute merit"),
    (of("values", name=f"{HERE}:WithoutLoss"), "it has no method loss; a task has to have problem_of_target, loss, metric"),
    (of("values", name=f"{HERE}:WithoutMetric"), "it has no method metric"),
    (of("values", name=f"{HERE}:LossOfImages"), "loss gives a tensor of shape (3,); allowed: a tensor of one number"),
    (of("values", name=f"{HERE}:LossOfNothing"), "loss gives a float; allowed: a tensor of one number"),
    (of("values", name=f"{HERE}:LossThatFails"), "loss fails on 3 images: where am I"),
    (of("values", name=f"{HERE}:LossWithoutGradient"), "loss gives a number that does not depend on the outputs"),
    (of("values", name=f"{HERE}:LossOfInfinity"), "loss gives inf; allowed: a finite number"),
    (of("values", name=f"{HERE}:MetricOfNothing"), "metric gives a NoneType; allowed: a Metric of torchmetrics"),
    (of("values", name=f"{HERE}:MetricOfSeveral"), "metric comes to a tensor of shape (2,); allowed: one number"),
    (of("values", name=f"{HERE}:KindsOfNone"), "kinds has an image in none of them, or in several; allowed: each in one"),
    (of("values", name=f"{HERE}:KindsOfFew"), "kinds gives masks of another length than 320"),
    (of("values", name=f"{HERE}:KindsThatFail"), "kinds fails: integer division"),
    (of("values", name=f"{HERE}:TargetsThatFail"), "on which problem_of_target fails: so what"),
    (of("values", name=f"{HERE}:WiderOutput"), "gives outputs of shape (batch, 2), where the images have 2 outputs; allowed: (batch, 3)"),
    (of("values", name=f"{HERE}:SpaceOfNowhere"), "'nowhere' is unknown"),
]  # fmt: skip


def said(settings: Any, tmp_path: Any, capsys: Any, command: str) -> str:
    file = tmp_path / "search.yml"
    latency = {"latency": {"estimator": {"name": "macs"}}}
    file.write_text(yaml.safe_dump(yaml.safe_load(TINY) | latency | {"output": str(tmp_path / "out")} | settings))
    assert main([command, str(file)]) == 2
    text = capsys.readouterr().err
    assert "Traceback" not in text
    (line,) = [one for one in text.splitlines() if one.startswith("nni-proxyless: ")]
    assert not (tmp_path / "out" / "history.jsonl").exists()
    return line


@pytest.mark.parametrize(("settings", "expected"), FILES, ids=lambda value: str(value)[:60])
def test_what_a_file_says_wrong_is_said_by_check(settings, expected, tmp_path, capsys):
    assert expected in said(settings, tmp_path, capsys, "check")


@pytest.mark.parametrize(("settings", "expected"), IMAGES, ids=lambda value: str(value)[:60])
def test_what_does_not_fit_the_images_is_said_before_a_search(settings, expected, tmp_path, capsys):
    assert expected in said(settings, tmp_path, capsys, "search")


# -- wrong data ------------------------------------------------------------------------------------------------------------


def changed(targets: Tensor | list[Any], n: int = 2, shape: tuple[int, ...] = (1, 16, 16)) -> ImageData:
    images = torch.zeros(64, *shape)
    pairs: Any = [(image, target) for image, target in zip(images, targets, strict=False)]
    return ImageData(pairs, pairs, pairs, list(targets), n, shape)


def constant() -> ImageData:
    return changed(torch.ones(64, 2))


def of_no_number() -> ImageData:
    values = torch.randn(64, 2)
    values[7, 1] = torch.nan
    return changed(values)


def of_two_lengths() -> ImageData:
    values: list[Any] = list(torch.randn(64, 2))
    values[5] = torch.randn(3)
    return changed(values)


def fewer_targets() -> ImageData:
    data = changed(torch.randn(64, 2))
    return ImageData(data.train, data.train_plain, data.test, data.targets[:63], 2, data.shape)


def all_labeled() -> ImageData:
    return changed(torch.ones(64, 2))


def of_masks(masks: Tensor, n: int = 3) -> ImageData:
    images = TensorDataset(torch.zeros(64, 1, 16, 16), masks)
    return ImageData(images, images, images, [None] * 64, n, (1, 16, 16))


def small_masks() -> ImageData:
    return of_masks(torch.zeros(64, 8, 8, dtype=torch.int64))


def masks_of_class_9() -> ImageData:
    return of_masks(torch.full((64, 16, 16), 9))


def float_masks() -> ImageData:
    return of_masks(torch.zeros(64, 16, 16))


def one_class() -> ImageData:
    return of_masks(torch.zeros(64, 16, 16, dtype=torch.int64), n=1)


def of_boxes(*changed_rows: float, rows: int = 1) -> ImageData:
    """Of one box each; the fourth image has another one."""
    targets: list[Any] = [torch.tensor([[1.0, 1, 1, 4, 4]]) for _ in range(64)]
    targets[3] = torch.tensor([changed_rows], dtype=torch.float32).repeat(rows, 1)
    return changed(targets)


def boxes_of_class_2() -> ImageData:
    return of_boxes(2, 1, 1, 4, 4)


def boxes_of_half_a_class() -> ImageData:
    return of_boxes(0.5, 1, 1, 4, 4)


def boxes_of_no_number() -> ImageData:
    return of_boxes(1, 1, torch.nan, 4, 4)


def boxes_of_four_corners() -> ImageData:
    return of_boxes(1, 1, 4, 4)


def boxes_inside_out() -> ImageData:
    return of_boxes(1, 5, 1, 4, 4)


def boxes_beyond() -> ImageData:
    return of_boxes(1, 1, 1, 17, 4)


def boxes_of_two_lengths() -> ImageData:
    return of_boxes(1, 1, 1, 4, 4, rows=2)


def no_boxes() -> ImageData:
    return changed(torch.tensor([[-1.0, 0, 0, 0, 0]]).repeat(64, 1, 1))


# -- wrong tasks -----------------------------------------------------------------------------------------------------------


class NoTask:
    pass


class Refusing(Regression):
    def __init__(self) -> None:
        raise ValueError("not on a Monday")


class Needing(Regression):
    def __init__(self, what: int):
        super().__init__()


class Bare(Task):
    merit = Merit("mae", higher_is_better=False, is_share=False)

    def problem_of_target(self, target: Any) -> str | None:
        return None

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return (outputs - targets).abs().mean()

    def metric(self) -> Any:
        return MeanAbsoluteError()


class WithoutMerit(Task):
    problem_of_target, loss, metric = Bare.problem_of_target, Bare.loss, Bare.metric


class WithoutLoss(Task):
    merit, problem_of_target, metric = Bare.merit, Bare.problem_of_target, Bare.metric


class WithoutMetric(Task):
    merit, problem_of_target, loss = Bare.merit, Bare.problem_of_target, Bare.loss


class LossOfImages(Bare):
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return (outputs - targets).abs().mean(dim=1)


class LossOfNothing(Bare):
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Any:
        return 0.0


class LossThatFails(Bare):
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        raise KeyboardError("where am I")


class KeyboardError(Exception):
    pass


class LossWithoutGradient(Bare):
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return targets.mean()


class LossOfInfinity(Bare):
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return outputs.mean() + torch.inf


class MetricOfNothing(Bare):
    def metric(self) -> Any:
        return None


class MetricOfSeveral(Bare):
    def metric(self) -> Any:
        return MeanAbsoluteError(num_outputs=2)


class KindsOfNone(Bare):
    def kinds(self, targets: Any) -> Any:
        return {"odd": torch.arange(len(targets)) % 2 == 1}


class KindsOfFew(Bare):
    def kinds(self, targets: Any) -> Any:
        return {"all": [True]}


class KindsThatFail(Bare):
    def kinds(self, targets: Any) -> Any:
        return 1 // 0


class TargetsThatFail(Bare):
    def problem_of_target(self, target: Any) -> str | None:
        raise RuntimeError("so what")


class WiderOutput(Bare):
    def output_shape(self) -> tuple[int, ...]:
        return (3,)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return outputs.mean()

    def metric(self) -> Any:
        class Mean(MeanAbsoluteError):
            def update(self, outputs: Tensor, targets: Tensor) -> None:
                super().update(outputs[:, :2].contiguous(), targets)

        return Mean()


class SpaceOfNowhere(Bare):
    def space_of(self, name: str, arguments: Any) -> tuple[str, dict[str, Any]]:
        return "nowhere", {}


def test_these_are_what_they_are_on_sound_images():
    assert digits().num_classes == 10
    assert len(FILES) + len(IMAGES) >= 103
