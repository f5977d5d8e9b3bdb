"""Tasks: what their losses, metrics and divisions are, against other implementations and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from nni_proxyless.core.merit import ACCURACY, Merit
from nni_proxyless.data.accuracy import evaluate, evaluate_merit
from nni_proxyless.tasks import Classification, MultiLabel, Regression, Segmentation, Task
from nni_proxyless.tasks.make import make_task
from nni_proxyless.tasks.task import together

CLASSES, SHAPE = 4, (1, 8, 6)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(n: int, seed: int = 1) -> Tensor:
    """Of several frequencies."""
    return torch.multinomial(
        torch.tensor([0.5, 0.3, 0.15, 0.05]), n, replacement=True, generator=torch.Generator().manual_seed(seed)
    )


def begun(task: Task, n: int, targets: Any) -> Any:
    task.begin(n, SHAPE, targets)
    return task


def worth(task: Task, outputs: Tensor, targets: Tensor) -> float:
    """The metric after batches of several sizes."""
    metric = task.metric()
    for some, wanted in zip(
        outputs.split([7, 1, len(outputs) - 8]), targets.split([7, 1, len(outputs) - 8]), strict=True
    ):
        metric.update(some, wanted)
    return float(metric.compute())


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1"])
def test_figures_of_merit_of_classes_are_those_of_scikit_learn(name):
    outputs, targets = normal(60, CLASSES), classes(60)
    task = begun(Classification(metric=name), CLASSES, targets)
    answers = outputs.argmax(dim=1)
    expected = {
        "accuracy": metrics.accuracy_score(targets, answers),
        "balanced_accuracy": metrics.balanced_accuracy_score(targets, answers),
        "f1": metrics.f1_score(targets, answers, average="macro"),
    }
    assert worth(task, outputs, targets) == pytest.approx(expected[name], abs=1e-6)
    assert len(set(expected.values())) == 3, "they tell nothing apart"
    assert task.merit.name == name


def test_an_accuracy_is_exact():
    outputs, targets = one_hot(torch.arange(3), 3).float(), torch.tensor([0, 2, 1])
    assert worth(begun(Classification(), 3, targets), outputs.repeat(7, 1), targets.repeat(7)) == 1 / 3


def test_balanced_classes_count_alike_and_an_image_counts_the_same_in_any_batch():
    outputs, targets = normal(200, CLASSES).double(), classes(200)
    task = begun(Classification(class_weights="balanced"), CLASSES, targets.tolist())
    counts = torch.bincount(targets)
    assert torch.allclose(task.weights * counts, torch.full((CLASSES,), 200 / CLASSES))
    assert float(task.weights[targets].mean()) == pytest.approx(1)
    of_images = cross_entropy(outputs, targets, reduction="none") * task.weights[targets].double()
    assert torch.allclose(task.loss(outputs, targets), of_images.mean())
    assert torch.allclose(task.loss(outputs[:5], targets[:5]), of_images[:5].mean())
    assert torch.allclose(task.summed_loss(outputs, targets), of_images.sum())

    given = begun(Classification(class_weights=[1, 2, 3, 4]), CLASSES, targets.tolist())
    assert torch.allclose(given.weights / given.weights[0], torch.tensor([1.0, 2, 3, 4]))
    plain = begun(Classification(), CLASSES, targets.tolist())
    assert torch.equal(plain.loss(outputs, targets, 0.1), cross_entropy(outputs, targets, label_smoothing=0.1))
    assert plain.mixes
    assert not given.mixes, "a mixed target has no weight"


def test_labels_have_the_loss_of_torch_and_the_precision_of_scikit_learn():
    outputs = 3 * normal(80, 3)
    targets = (normal(80, 3, seed=3) + torch.tensor([-1.0, 0, 1.5]) > 0).float()
    task = begun(MultiLabel(), 3, list(targets))
    assert torch.equal(task.loss(outputs, targets), binary_cross_entropy_with_logits(outputs, targets))
    smoothed = binary_cross_entropy_with_logits(outputs, 0.8 * targets + 0.1)
    assert torch.allclose(task.loss(outputs, targets, 0.2), smoothed)
    expected = metrics.average_precision_score(targets, outputs, average="macro")
    assert worth(task, outputs, targets) == pytest.approx(expected, abs=1e-5)
    small = outputs / 100  # all between 0 and 1 or close to: they are logits, whatever they look like
    of_answers = {
        "f1": metrics.f1_score(targets, outputs > 0, average="macro"),
        "label_accuracy": ((outputs > 0) == targets.bool()).float().mean().item(),
    }
    for name, value in of_answers.items():
        task = begun(MultiLabel(metric=name), 3, list(targets))
        assert worth(task, outputs, targets) == pytest.approx(value, abs=1e-5)
        assert worth(task, small, targets) == pytest.approx(value, abs=1e-5)


def test_with_balanced_labels_those_that_have_one_count_as_much_as_those_that_have_it_not():
    targets = (normal(80, 3, seed=3) + torch.tensor([-1.0, 0, 1.5]) > 0).float()
    task = begun(MultiLabel(balanced=True), 3, list(targets))
    undecided = torch.zeros(80, 3, requires_grad=True)
    task.loss(undecided, targets).backward()
    present, absent = ((undecided.grad * of).sum(dim=0) for of in (targets, 1 - targets))
    assert torch.allclose(present, -absent, atol=1e-6)
    assert torch.allclose(absent, torch.full((3,), 1 / 3 / 4), atol=1e-6), "a quarter of a label's, as when half had it"


@pytest.mark.parametrize("name", ["mae", "rmse", "r2"])
def test_figures_of_merit_of_values_are_those_of_scikit_learn(name):
    targets = normal(60, 2) * torch.tensor([1.0, 30.0])
    outputs = targets + normal(60, 2, seed=4) * torch.tensor([0.3, 20.0])
    task = begun(Regression(metric=name), 2, list(targets))
    expected = {
        "mae": metrics.mean_absolute_error(targets, outputs),
        "rmse": metrics.mean_squared_error(targets, outputs) ** 0.5,
        "r2": metrics.r2_score(targets, outputs),
    }
    assert worth(task, outputs, targets) == pytest.approx(expected[name], rel=1e-4)
    assert task.merit.higher_is_better == (name == "r2")
    assert begun(Regression(), 2, list(targets)).merit.name == "r2", "errors in several units have no mean"
    assert begun(Regression(), 1, list(targets[:, :1])).merit.name == "mae"
    one = begun(Regression(metric=name), 1, list(targets[:, :1]))
    assert np.isfinite(worth(one, outputs[:, :1], targets[:, :1]))


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_the_loss_of_values_knows_no_units(loss):
    targets, outputs, units = normal(60, 2), normal(60, 2, seed=4), torch.tensor([1e-3, 50.0])
    one = begun(Regression(loss=loss), 2, list(targets))
    other = begun(Regression(loss=loss), 2, list(targets * units))
    assert torch.allclose(one.loss(outputs, targets), other.loss(outputs * units, targets * units))
    mean = targets.mean(dim=0).expand_as(targets)
    if loss == "mse":
        assert float(one.loss(mean, targets)) == pytest.approx(1), "one deviation squared"


def test_the_loss_and_the_metric_of_pixels_leave_out_those_that_do_not_count():
    outputs, targets = normal(3, 2, *SHAPE[1:]), (normal(3, *SHAPE[1:], seed=5) > 0).long()
    task = begun(Segmentation(), 2, [None] * 3)
    assert torch.allclose(task.loss(outputs, targets), cross_entropy(outputs, targets))
    some = targets.clone()
    some[:, :3] = 255
    assert torch.allclose(task.loss(outputs, some), cross_entropy(outputs[:, :, 3:], targets[:, 3:]))
    assert float(task.loss(outputs, torch.full_like(targets, 255))) == 0
    answers, wanted = outputs.argmax(dim=1)[:, 3:].flatten(), targets[:, 3:].flatten()
    expected = metrics.jaccard_score(wanted, answers, average="macro")
    metric = task.metric()
    for one in range(3):
        metric.update(outputs[one : one + 1], some[one : one + 1])
    assert float(metric.compute()) == pytest.approx(expected, abs=1e-6)
    weighted = begun(Segmentation(class_weights=[1.0, 3.0]), 2, [None] * 3)
    of_pixels = cross_entropy(outputs, targets, reduction="none") * torch.tensor([1.0, 3.0])[targets]
    assert torch.allclose(weighted.loss(outputs, targets), of_pixels.mean())


TASKS = {
    "classes": (Classification(class_weights="balanced"), CLASSES, classes(300)),
    "labels": (MultiLabel(), 3, (normal(300, 3, seed=3) + torch.tensor([-1.9, 0, 1.5]) > 0).float()),
    "values": (Regression(), 2, normal(300, 2)),
}


@pytest.mark.parametrize("name", TASKS)
def test_every_image_is_of_one_kind_and_no_kind_is_too_small_to_be_divided(name):
    task, n, targets = TASKS[name]
    given = list(targets) if targets.ndim > 1 else targets.tolist()
    kinds = begun(task, n, given).kinds(given)
    assert np.array_equal(sum(of.astype(int) for of in kinds.values()), np.ones(300))
    assert len(kinds) > 2
    if name != "classes":
        assert min(of.sum() for of in kinds.values()) >= 20


def test_parts_of_the_values_are_in_order_of_size():
    values = normal(300, 1)
    task = begun(Regression(), 1, list(values))
    means = [float(values[torch.from_numpy(of)].mean()) for of in task.kinds(list(values)).values()]
    assert means == sorted(means)
    assert len(means) == 10
    assert len(begun(Regression(), 1, list(values[:30])).kinds(list(values[:30]))) == 1


def test_kinds_of_few_images_are_taken_together():
    def sizes(*given: int) -> dict[str, int]:
        of = np.repeat(np.arange(len(given)), given)
        return {name: int(one.sum()) for name, one in together({f"k{i}": of == i for i in range(len(given))}).items()}

    assert sizes(30, 25) == {"k0": 30, "k1": 25}
    assert sizes(30, 15, 10) == {"k0": 30, "other images": 25}
    assert sizes(25, 30, 5) == {"k0": 25, "k1": 35}
    assert sizes(5, 4) == {"other images": 9}


@pytest.mark.parametrize("name", TASKS)
def test_a_reward_is_a_share(name):
    task, n, targets = TASKS[name]
    begun(task, n, list(targets) if targets.ndim > 1 else targets.tolist())
    for factor in (0.1, 10):
        assert 0 <= float(task.reward(factor * normal(300, n, seed=6), targets)) <= 1


@pytest.mark.parametrize("name", TASKS)
def test_a_network_is_evaluated_as_if_all_images_were_one_batch(name):
    task, n, targets = TASKS[name]
    begun(task, n, list(targets) if targets.ndim > 1 else targets.tolist())
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, n))
    images = normal(300, *SHAPE)
    batches = list(zip(images.split(64), targets.split(64), strict=True))
    loss, value = evaluate(network, batches, task)
    outputs = network(images).detach()
    assert loss == pytest.approx(float(task.loss(outputs, targets)), rel=1e-5)
    assert value == pytest.approx(worth(task, outputs, targets), rel=1e-5)
    assert value == evaluate_merit(network, batches, task)


def test_what_is_better_has_the_higher_score():
    mae = Merit("mae", higher_is_better=False, is_share=False)
    assert mae.score(1.0) > mae.score(2.0)
    assert ACCURACY.score(0.9) > ACCURACY.score(0.8)
    for merit in (ACCURACY, mae):
        assert Merit.of({"anything": 1, **merit.described()}) == merit
    assert "metric" not in ACCURACY.described(), "older files say nothing of it"
    assert (ACCURACY.in_words(0.91234), mae.in_words(12.3456), mae.in_words(None)) == ("0.9123", "12.35", "-")


def test_a_task_is_what_it_is_asked_for():
    task: Any = make_task({"name": "regression", "arguments": {"metric": "r2"}})
    assert isinstance(task, Regression)
    assert task.merit.name == "r2"
    assert isinstance(make_task({"name": "nni_proxyless.tasks:MultiLabel", "arguments": {}}), MultiLabel)
