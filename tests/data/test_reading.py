"""Images in memory are read a batch at a time, and are the same to the bit as read one by one."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from nni_proxyless import data
from nni_proxyless.data.accuracy import evaluate_accuracy, joined
from nni_proxyless.training.batches import EpochBatches, training_loader
from nni_proxyless.training.distributed import Processes


def one_by_one(images, targets, transform, indices):
    taken = [(images[i] if transform is None else transform(images[i]), int(targets[i])) for i in indices]
    return torch.stack([image for image, _ in taken]), torch.tensor([target for _, target in taken])


@pytest.mark.parametrize("size", [8, 16, 19])
def test_augmented_digits_are_torchvisions_to_the_bit(size):
    """The random numbers too: what is drawn next does not know which of the two it was."""
    train = data.digits(image_size=size).train
    transform = v2.RandomAffine(
        degrees=10, translate=(1 / 8, 1 / 8), scale=(0.9, 1.1), fill=float(train.images.min()),
        interpolation=v2.InterpolationMode.BILINEAR,
    )  # fmt: skip
    indices = torch.randperm(len(train), generator=torch.Generator().manual_seed(1))[:300].tolist()
    torch.manual_seed(3)
    found = [sample for part in (indices[:200], indices[200:]) for sample in train.__getitems__(part)]
    after = torch.rand(3)
    torch.manual_seed(3)
    images, targets = one_by_one(train.images, train.targets, transform, indices)
    assert torch.equal(torch.stack([image for image, _ in found]), images)
    assert [target for _, target in found] == targets.tolist()
    assert torch.equal(after, torch.rand(3))
    assert torch.equal(train[7][0], train[7][0]) is False, "one alone is augmented too"


@pytest.mark.parametrize("transform", [None, lambda image: image + torch.randn_like(image)])
def test_a_batch_is_what_its_images_are(transform):
    images, targets = torch.randn(20, 3, 4, 4), torch.arange(20)
    read = data.TensorImages(images, targets, transform)
    indices = [7, 3, 3, 19, 0]
    torch.manual_seed(0)
    found = read.__getitems__(indices)
    torch.manual_seed(0)
    expected = one_by_one(images, targets, transform, indices)
    assert torch.equal(torch.stack([image for image, _ in found]), expected[0])
    assert [target for _, target in found] == expected[1].tolist()
    assert all(type(target) is int for _, target in found)


class Batches(data.TensorImages):
    def __getitem__(self, index):
        raise AssertionError("one image was read alone")


def test_loaders_read_no_single_image():
    """Neither those of training nor those that judge, through all their parts of parts."""
    digits = data.digits()
    images = Batches(digits.train.images, digits.train.targets, digits.train.transform)
    part = torch.utils.data.Subset(torch.utils.data.Subset(images, range(0, 400, 2)), range(100))
    assert [len(targets) for _, targets in data.loader(part, 32)] == [32, 32, 32, 4]


def test_a_final_training_reads_no_single_image_of_the_digits_and_each_has_its_own_chances():
    """Those that its seed gives it when it is read alone."""
    train = data.digits(image_size=8).train
    batches = EpochBatches(200, 64, 5, Processes(0, 1, torch.device("cpu")))
    loader = training_loader(torch.utils.data.Subset(train, range(0, 400, 2)), batches, workers=0)
    alone = [[loader.dataset[key] for key in batch] for batch in batches]
    train.__class__ = Batches
    for (images, targets), expected in zip(loader, alone, strict=True):
        assert torch.equal(images, torch.stack([image for image, _ in expected]))
        assert targets.tolist() == [target for _, target in expected]


def test_small_batches_are_joined_and_judge_the_same():
    images, targets = torch.randn(70, 3, 8, 8), torch.arange(70) % 5
    batches = list(zip(images.split(16), targets.split(16), strict=True))
    found = list(joined(batches, least=2 * 16 * 3 * 64))
    assert [len(of) for _, of in found] == [32, 32, 6]
    assert torch.equal(torch.cat([of for of, _ in found]), images)
    assert torch.equal(torch.cat([of for _, of in found]), targets)
    assert [len(of) for _, of in joined(batches, least=1)] == [16, 16, 16, 16, 6], "large images stay as they are"
    network, sizes = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 8), torch.nn.Flatten()), []
    network.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    right = sum(int((network(part).argmax(1) == of).sum()) for part, of in batches)
    sizes.clear()
    assert evaluate_accuracy(network, batches) == right / 70
    assert sizes == [70]
