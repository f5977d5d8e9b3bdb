"""Every class of every part is looked at: at once where it lies in memory, else as its image is read."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset
from torchvision.transforms import v2

from nni_proxyless import data
from nni_proxyless.config import registry
from nni_proxyless.core.errors import UserError
from nni_proxyless.data.accuracy import evaluate_accuracy
from nni_proxyless.data.labels import CheckedLabels
from nni_proxyless.data.validate import make_images

N = 40


def tensors(labels: Any = None, *, images: torch.Tensor | None = None) -> TensorDataset:
    labels = torch.arange(N) % 2 if labels is None else torch.as_tensor(labels)
    return TensorDataset(torch.zeros(len(labels), 1, 4, 4) if images is None else images, labels)


class Reading(Dataset):
    """Somebody's data set, whose classes are known only once an image is read."""

    def __init__(self, labels: Any, of: type = int):
        self.of, self.truth = of, list(labels)

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, index: int) -> Any:
        return torch.zeros(1, 4, 4), self.of(self.truth[index])


class Shifted(Reading):
    """One whose ``targets`` are not what it gives."""

    def __init__(self, labels: Any):
        super().__init__(labels)
        self.targets = [label + 1 for label in labels]


def images(**fields: Any) -> data.ImageData:
    given: dict[str, Any] = {
        "train": tensors(), "train_plain": tensors(), "test": tensors(), "targets": [i % 2 for i in range(N)],
        "num_classes": 2, "shape": (1, 4, 4), **fields,
    }  # fmt: skip
    return data.ImageData(**given)


def wrong(index: int, label: int) -> list[int]:
    labels = [i % 2 for i in range(N)]
    labels[index] = label
    return labels


SAID = "class 2 of image 7; allowed with num_classes 2: 0 to 1"
OTHER = "class 0 of image 7 which has class 1 in targets; allowed: the same images in the same order"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"test": tensors(wrong(7, 2))}, f"{SAID} in test"),
        ({"test": tensors([i % 2 + 1 for i in range(N)])}, "class 2; allowed with num_classes 2: 0 to 1 in test, image 39"),
        ({"test": tensors(wrong(7, -1))}, "class -1 of image 7; allowed"),
        ({"test": Subset(tensors([0, *wrong(7, 2)]), range(1, N + 1))}, f"{SAID} in test"),
        ({"test": ConcatDataset([tensors([0, 1, 1]), tensors(wrong(4, 2))])}, f"{SAID} in test"),
        ({"test": [(torch.zeros(1, 4, 4), label) for label in wrong(7, 2)]}, f"{SAID} in test"),
        ({"test": data.TensorImages(torch.zeros(N, 1, 4, 4), torch.tensor(wrong(7, 2)))}, f"{SAID} in test"),
        ({"train": tensors(wrong(7, 0))}, f"{OTHER} in train"),
        ({"train": tensors([1 - i % 2 for i in range(N)])}, "class 1 of image 0, the first of 40 such, which has class 0 in targets; allowed"),
        ({"train_plain": tensors(wrong(7, 0))}, f"{OTHER} in train_plain"),
        ({"train_plain": tensors(wrong(39, 2))}, "class 2; allowed with num_classes 2: 0 to 1 in train_plain, image 39"),
        ({"test": tensors(torch.arange(N) % 2 * 1.0)}, "a Tensor of torch.float32 and shape () as class; allowed: an int, or a tensor of one int64 in test"),
        ({"test": tensors((torch.arange(N) % 2).int())}, "a Tensor of torch.int32 and shape () as class"),
        ({"test": tensors((torch.arange(N) % 2)[:, None])}, "a Tensor of torch.int64 and shape (1,) as class"),
        ({"test": Reading([0, 1], np.int32)}, "a int32 of int32 and shape () as class"),
        ({"test": Reading([0, 1], bool)}, "a bool as class"),
        ({"test": Reading([0, 1], float)}, "a float as class"),
        ({"test": Reading([0, 1, 2])}, "class 2; allowed with num_classes 2: 0 to 1 in test, image 2"),
        ({"test": tensors(images=torch.zeros(N, 1, 4, 4, dtype=torch.float64))}, "gives torch.float64 tensors as images; allowed: tensors of torch.float32 in test"),
        ({"test": tensors(images=torch.full((N, 1, 4, 4), torch.nan))}, "gives images with pixels that are no numbers; allowed: finite ones in test"),
        ({"test": [(torch.zeros(1, 4, 4), 0), (torch.zeros(1, 4, 5), 0)]}, "gives images of shape (1, 4, 5); allowed with shape (1, 4, 4): that in test, image 1"),
        ({"test": [torch.zeros(1, 4, 4)]}, "gives a Tensor; allowed: an image and its class in test"),
        ({"test": []}, "gives no image in test; allowed: one or more"),
        ({"train": tensors([0, 1, 0])}, "gives train with 3, train_plain with 40, targets with 40 entries; allowed: the same images in the same order in all three"),
        ({"num_classes": 3}, "gives targets with 2 classes from 0 to 1; allowed with num_classes 3: 0 to 2, each at least once"),
        ({"shape": (1, 16)}, "gives shape (1, 16); allowed: (channels, height, width)"),
        ({"targets": torch.arange(N)[:, None] % 2}, "gives targets that are no classes; allowed: one int per training image"),
        ({"targets": [0.5] * N}, "gives targets that are no classes"),
        ({"test": iter([])}, "without a length as test"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_begins(fields, said):
    with pytest.raises(UserError) as error:
        make_images(f"{__name__}:images", fields)
    assert said in str(error.value)
    assert str(error.value).count("\n") == 0


@pytest.mark.parametrize("label", [int, np.int64, lambda n: torch.tensor(n), lambda n: np.array(n)])
def test_labels_that_torchs_losses_take_pass(label):
    found = make_images(f"{__name__}:images", {"test": Reading([0, 1] * 5, label)})
    ((pixels, targets),) = data.loader(found.test, 10)
    assert torch.nn.functional.cross_entropy(pixels.flatten(1)[:, :2], targets).isfinite()


def test_what_is_no_data_set_or_of_another_shape_is_refused():
    with pytest.raises(
        UserError, match=r"gives images of shape \(1, 4, 4\); allowed with shape \(3, 4, 4\): that in train_plain"
    ):
        make_images(f"{__name__}:images", {"shape": (3, 4, 4)})
    with pytest.raises(UserError, match=r"data: builtins:dict gives a dict; allowed: nni_proxyless\.data\.ImageData"):
        make_images("builtins:dict", {})


def test_integral_targets_may_be_floating_point_numbers():
    assert len(make_images(f"{__name__}:images", {"targets": [float(i % 2) for i in range(N)]}).targets) == N


@pytest.mark.parametrize("workers", [0, 1])
def test_a_class_that_is_known_once_read_never_counts_as_a_wrong_answer(workers):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    found = make_images(f"{__name__}:images", {"test": Reading(wrong(7, 2))})
    with pytest.raises(UserError) as error:
        evaluate_accuracy(network, data.loader(found.test, 8, workers=workers))
    assert str(error.value) == f"data: {__name__}:images gives {SAID} in test"
    found = make_images(f"{__name__}:images", {"train": Reading(wrong(7, 0))})
    parts = data.split(found, alphas=0.2, validation=0.2)
    with pytest.raises(UserError, match=f"gives {OTHER} in train$"):
        [item for part in (parts.all_but_validation, found.train) for item in part]


def test_targets_that_are_not_what_a_data_set_gives_are_not_believed():
    """It is right, and ``targets`` of its own kind are no reason to refuse it."""
    labels = [i % 2 for i in range(N)]
    found = make_images(f"{__name__}:images", {part: Shifted(labels) for part in ("train", "train_plain", "test")})
    assert [label for _, label in found.test] == [label for _, label in found.train] == labels
    with pytest.raises(UserError, match=SAID):
        list(make_images(f"{__name__}:images", {"test": Shifted(wrong(7, 2))}).test)


def test_what_lies_in_memory_is_read_as_it_was(monkeypatch):
    """Nothing stands between a loader and images whose classes are known; and no random number is drawn."""
    before = torch.get_rng_state()
    for name, arguments in (("digits", {"image_size": 8}), ("synthetic", {"n_images": 64, "image_size": 4})):
        plain = registry.load("nni_proxyless.datasets", name)(**arguments)
        found = make_images(name, arguments)
        assert type(found.train) is type(plain.train) is data.TensorImages
        assert type(found.test) is data.TensorImages
    assert torch.equal(before, torch.get_rng_state())


def test_the_same_images_through_other_transforms_are_looked_at_too():
    def through(augment: Any, plain: Any) -> data.ImageData:
        return images(test=Reading(wrong(7, 2)))

    found = make_images(f"{__name__}:images", {"through": through})
    assert found.through is not None
    again = found.through(v2.Identity(), v2.Identity())
    assert isinstance(again.test, CheckedLabels)
    assert dataclasses.is_dataclass(again)
