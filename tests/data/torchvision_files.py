"""Small files in the layouts of torchvision's data sets."""

from __future__ import annotations

import bz2
import itertools
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

__all__ = ["WRITERS", "N", "idx", "mnist"]

N = 20  # training images of a set in memory; half as many to test


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 256, shape, dtype=np.uint8)


def idx(path: Path, numbers: np.ndarray, kind: int = 8) -> None:
    """LeCun's format: two zeros, the type, the number of axes, their lengths, the numbers."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">HBB{numbers.ndim}I", 0, kind, numbers.ndim, *numbers.shape)
    path.write_bytes(head + numbers.tobytes())


def picture(path: Path, red: int = 100, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (red, 60, 30)).save(path)


def mnist(name: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        for part, n in (("train", N), ("t10k", N // 2)):
            idx(root / name / "raw" / f"{part}-images-idx3-ubyte", pixels(n, 28, 28))
            idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", (np.arange(n) * 3 % 10).astype(np.uint8))

    return write


def qmnist(root: Path) -> None:
    for part, n in (("train", N), ("test", N // 2)):
        idx(root / "QMNIST" / "raw" / f"qmnist-{part}-images-idx3-ubyte", pixels(n, 28, 28))
        labels = np.full((n, 8), 77, dtype=">i4")
        labels[:, 0] = np.arange(n) * 3 % 10
        idx(root / "QMNIST" / "raw" / f"qmnist-{part}-labels-idx2-int", labels, kind=12)


def usps(root: Path) -> None:
    root.mkdir(exist_ok=True)
    for name, n in (("usps.bz2", N), ("usps.t.bz2", N // 2)):
        numbers = np.random.default_rng(0).uniform(-1, 1, (n, 256))
        lines = [
            f"{i * 3 % 10 + 1} " + " ".join(f"{j + 1}:{v:.3f}" for j, v in enumerate(numbers[i])) for i in range(n)
        ]
        (root / name).write_bytes(bz2.compress("\n".join(lines).encode()))


def svhn(root: Path) -> None:
    root.mkdir(exist_ok=True)
    for part, n in (("train", N), ("test", N // 2)):
        savemat(
            root / f"{part}_32x32.mat",
            {"X": pixels(32, 32, 3, n), "y": (np.arange(n)[:, None] % 10 + 1).astype(np.uint8)},
        )


def stl10(root: Path) -> None:
    (root / "stl10_binary").mkdir(parents=True)
    for part, n in (("train", N), ("test", N // 2)):
        (root / "stl10_binary" / f"{part}_X.bin").write_bytes(pixels(n, 3, 96, 96).tobytes())
        (root / "stl10_binary" / f"{part}_y.bin").write_bytes(bytes(i % 10 + 1 for i in range(n)))


def flowers(root: Path) -> None:
    base = root / "flowers-102"
    for i in range(1, 13):
        picture(base / "jpg" / f"image_{i:05}.jpg", red=10 * i)
    savemat(base / "imagelabels.mat", {"labels": np.arange(12)[None] % 102 + 1})
    savemat(base / "setid.mat", {"trnid": [[3, 1, 5, 2]], "valid": [[12, 11]], "tstid": [[4, 6, 7]]})


def dtd(root: Path) -> None:
    base = root / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    for part, names in (("train", ("a/1", "b/2", "a/3")), ("val", ("b/4", "a/5")), ("test", ("b/6", "a/7"))):
        (base / "labels" / f"{part}1.txt").write_text("".join(f"{name}.jpg\n" for name in names))
        for name in names:
            picture(base / "images" / f"{name}.jpg", red=20 * int(name[-1]))


def gtsrb(root: Path) -> None:
    base = root / "gtsrb"
    for label in range(3):
        for i in range(2):
            picture(base / "GTSRB" / "Training" / f"{label:05}" / f"{i}.ppm", size=(30 + i, 30))
    for i in range(3):
        picture(base / "GTSRB" / "Final_Test" / "Images" / f"{i}.ppm")
    (base / "GT-final_test.csv").write_text(
        "Filename;Width;ClassId\n" + "".join(f"{i}.ppm;40;{2 - i}\n" for i in range(3))
    )


def food(root: Path) -> None:
    for part, names in (
        ("train", {"pie": ["pie/1", "pie/2"], "ale": ["ale/3"]}),
        ("test", {"ale": ["ale/4"], "pie": ["pie/5"]}),
    ):
        (root / "food-101" / "meta").mkdir(parents=True, exist_ok=True)
        (root / "food-101" / "meta" / f"{part}.json").write_text(json.dumps(names))
        for name in itertools.chain.from_iterable(names.values()):
            picture(root / "food-101" / "images" / f"{name}.jpg")


def aircraft(root: Path) -> None:
    base = root / "fgvc-aircraft-2013b" / "data"
    for i in range(5):
        picture(base / "images" / f"{i}.jpg")
    (base / "variants.txt").write_text("707-320\n727-200 B\n")
    (base / "images_variant_trainval.txt").write_text("0 707-320\n1 727-200 B\n2 707-320\n")
    (base / "images_variant_test.txt").write_text("3 727-200 B\n4 707-320\n")


def pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for i in range(5):
        picture(base / "images" / f"pug_{i}.jpg")
    (base / "annotations" / "trainval.txt").write_text("pug_0 1 1 1\npug_1 37 2 1\npug_2 5 2 1\n")
    (base / "annotations" / "test.txt").write_text("pug_3 37 1 1\npug_4 1 2 1\n")


def countries(root: Path) -> None:
    for part in ("train", "valid", "test"):
        for label in ("AD", "ZW"):
            picture(root / "country211" / part / label / "1.jpg")


def sentences(root: Path) -> None:
    for part in ("train", "valid", "test"):
        for label in ("negative", "positive"):
            picture(root / "rendered-sst2" / part / label / "1.png")


def imagenette(root: Path) -> None:
    for part in ("train", "val"):
        for label in ("n01440764", "n03888257"):
            picture(root / "imagenette2" / part / label / "1.JPEG")


def cars(root: Path) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    kind = [("fname", object), ("class", object)]
    for part, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        savemat(
            base / path, {"annotations": np.array([(f"{i}.jpg", np.uint8(i * 97 + 1)) for i in range(3)], dtype=kind)}
        )
        for i in range(3):
            picture(base / f"cars_{part}" / f"{i}.jpg")
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["a", "b"], dtype=object)})


WRITERS: dict[str, Callable[[Path], None]] = {
    **{name: mnist(name) for name in ("MNIST", "KMNIST", "FashionMNIST")},
    "QMNIST": qmnist, "USPS": usps, "SVHN": svhn, "STL10": stl10, "Flowers102": flowers, "DTD": dtd, "GTSRB": gtsrb, "Food101": food,
    "FGVCAircraft": aircraft, "OxfordIIITPet": pets, "Country211": countries, "RenderedSST2": sentences, "Imagenette": imagenette,
    "StanfordCars": cars,
}  # fmt: skip
