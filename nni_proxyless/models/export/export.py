"""Export a derived network to files that run without this package; each is checked before it replaces an older one.

architecture.json, weights.safetensors -> network -> files in a folder of their own -> compared with the network on images,
timed beside it -> moved to where they belong, with export.json
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ...core.atomic_files import write_text
from ...core.errors import UserError
from ...core.merit import ACCURACY
from ...core.progress import bar
from ...core.silenced import first_line
from ...latency import DeviceEstimator
from ...latency.estimators.timing import problems_of
from ...latency.runtimes.default import TORCH
from ..architecture import Architecture
from ..build import installed_versions
from .check_images import CheckImages
from .compare import Run, largest_difference, logits_of, merits, scale_of, time_side_by_side
from .load import check_size, find_weights, load_network
from .onnx_format import OPSETS, PACKAGES, OnnxNetwork, opset_of, require_packages, write_int8, write_onnx
from .torch_format import read_program, read_torchscript, write_program, write_torchscript

if TYPE_CHECKING:  # it needs NNI
    from ...latency.operation import Shape

__all__ = ["FILES", "ExportOptions", "export"]

_logger = logging.getLogger(__name__)

FORMAT = "nni-proxyless export 1"
FILES = {
    "onnx": "model.onnx",
    "torchscript": "model.torchscript.pt",
    "torch-export": "model.pt2",
    "int8": "model.int8.onnx",
}
OF_ONNX = {"onnx", "int8"}
FREE_BATCHES = (32, 3, 1)  # what a file with a free batch is tried with
WORTH_SAYING = 0.9  # of the images that float and int8 should answer alike


@dataclass(frozen=True)
class ExportOptions:
    """What to write, and how to check it.

    Attributes
    ----------
    formats
        Of :data:`FILES`.
    weights
        A file; None for the trained ones where there are any, else those that the search left.
    output
        A folder; None for the architecture's.
    opset
        Of the ONNX files; None: 17, as they are timed, or what a network needs that cannot be written so.
    input_size
        Height and width of the images; None for those of the search.
    batch
        Images per run; None: any number.
    images
        Number of images whose logits are compared.
    tolerance
        By how much an output may differ from the network's: absolute, or, where the largest is above 1, as a share of that; of values of a
        regression as a share of the largest of each.
    test_images, calibration_images
        Number of images for the accuracy, and for the ranges of int8.
    threads, repeats
        Of the timing.
    """

    formats: tuple[str, ...] = tuple(FILES)
    weights: Path | None = None
    output: Path | None = None
    opset: int | None = None
    input_size: tuple[int, int] | None = None
    batch: int | None = 1
    images: int = 100
    tolerance: float = 1e-4
    test_images: int = 1000
    calibration_images: int = 256
    threads: int = 1
    repeats: int = 50

    def problems(self) -> list[str]:
        """The problems of these options, each with what is allowed."""
        counts = {"images": self.images, "test-images": self.test_images, "calibration-images": self.calibration_images}
        found = [f"--{name} is {n}; allowed: 1 or more" for name, n in counts.items() if n < 1]
        batch = 1 if self.batch is None else self.batch
        found += [f"--{text}" for text in problems_of("cpu", self.threads, batch, "float32", 0, self.repeats)]
        if self.opset is not None and self.opset not in OPSETS:
            found.append(f"--opset is {self.opset}; allowed: {OPSETS[0]} to {OPSETS[-1]}")
        if batch > self.calibration_images >= 1 and "int8" in self.formats:
            found.append(
                f"--calibration-images is {self.calibration_images}; allowed: {batch} or more, a whole --batch"
            )
        if not self.tolerance > 0:
            found.append(f"--tolerance is {self.tolerance}; allowed: more than 0")
        return found


def export(path: Path, options: ExportOptions) -> dict[str, Any]:
    """Write the files of a derived network; returns what ``export.json`` holds.

    Raises
    ------
    UserError
        A file is missing, damaged or does not fit; an option is outside its range; a package is missing; or a file
        computes something else than the network. Nothing has been written then.
    """
    if problems := options.problems():
        raise UserError("\n".join(problems))
    architecture = Architecture.read(path)
    weights, origin = find_weights(path, options.weights)
    if OF_ONNX & set(options.formats):
        require_packages()
    network = load_network(path, architecture, weights)
    _logger.info("weights: %s, %s", weights, origin)
    shape = (*architecture.input_shape[:1], *(options.input_size or architecture.input_shape[1:]))
    check_size(architecture, network, shape, options.batch or 1)
    images = CheckImages.of(architecture, shape, network)
    if images.data is None and "int8" in options.formats:
        raise UserError(
            f"--formats int8: it is calibrated with training images, which cannot be had here: {images.why_not}; without "
            f"it: --formats {' '.join(name for name in FILES if name != 'int8')}"
        )

    folder = options.output or path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: {error.strerror}") from error
    estimator = DeviceEstimator(
        threads=options.threads, batch=options.batch or 1, repeats=options.repeats, runtime=TORCH
    )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export.") as temporary:
        files, runs = _write_checked(network, shape, images, Path(temporary), options)
        _logger.info("timing %d rounds", options.repeats)
        latency = time_side_by_side(network, runs, shape, estimator)
        merit, worth = ACCURACY, None
        if images.data is not None:
            compared: dict[str, Run] = {"torch": network, **{name: runs[name] for name in ("int8",) if name in runs}}
            batch = options.batch or FREE_BATCHES[0]
            task = images.data.task
            worth = merits(compared, images.labeled(options.test_images, batch), batch, task)
            merit = task.merit
        opsets = {opset_of(Path(temporary) / FILES[name]) for name in OF_ONNX & files.keys()}
        for name in files:
            os.replace(Path(temporary) / FILES[name], folder / FILES[name])
    if worth is not None and worth.get("int8 agreement", 1) < WORTH_SAYING:
        _logger.warning("int8 answers like float on %.1f %% of the images only", 100 * worth["int8 agreement"])
    for name in FILES.keys() - files.keys():
        if (folder / FILES[name]).exists():
            _logger.warning("%s is there from before: it is not of this export", folder / FILES[name])

    content = {
        "format": FORMAT,
        "architecture": os.path.relpath(path, folder),
        "weights": os.path.relpath(weights, folder),
        "weights_are": origin,
        "input": {"name": "input", "type": "float32", "shape": [options.batch or "batch", *shape]},
        "opset": max(opsets, default=None),
        "files": files,
        "images": images.source,
        "tolerance": options.tolerance,
        merit.name: worth,
        **merit.described(),
        "latency": {name: dataclasses.asdict(measured) for name, measured in latency.items()},
        "latency_conditions": dict(estimator.conditions),
        "versions": installed_versions(*PACKAGES),
    }
    write_text(folder / "export.json", json.dumps(content, indent=2) + "\n")
    return content


def _write_checked(
    network: nn.Module, shape: Shape, images: CheckImages, folder: Path, options: ExportOptions
) -> tuple[dict[str, dict[str, Any]], dict[str, Run]]:
    """The files of all formats in ``folder``: what is known of each, and each as something that runs."""
    batch = options.batch
    batches = FREE_BATCHES if batch is None else (batch,)
    writers: dict[str, Callable[[Path], None]] = {
        "onnx": lambda path: write_onnx(network, shape, path, opset=options.opset, batch=batch),
        "torchscript": lambda path: write_torchscript(network, shape, path, batch=batch),
        "torch-export": lambda path: write_program(network, shape, path, batch=batch),
        "int8": lambda path: write_int8(
            folder / FILES["onnx"], path, images.calibration(options.calibration_images), batch=batch
        ),
    }
    readers: dict[str, Callable[[Path], Run]] = {
        "onnx": lambda path: OnnxNetwork(path, options.threads),
        "torchscript": read_torchscript,
        "torch-export": read_program,
        "int8": lambda path: OnnxNetwork(path, options.threads),
    }
    wanted = [name for name in FILES if name in options.formats or (name == "onnx" and "int8" in options.formats)]
    compared = images.some(options.images)
    expected = {n: logits_of(network, compared, n) for n in batches}
    apart = images.data is not None and images.data.task.apart
    scale = scale_of(expected.values(), apart=apart)
    files: dict[str, dict[str, Any]] = {}
    runs: dict[str, Run] = {}
    with bar(len(wanted), "export", "file") as progress:
        for name in wanted:
            path = folder / FILES[name]
            try:
                writers[name](path)
                run = readers[name](path)
                difference, share = largest_difference(run, compared, expected, scale)
            except Exception as error:  # exporters and runtimes raise what they like, and the network may be anybody's
                raise UserError(f"{path.name}: cannot be written: {first_line(error)}") from error
            if name != "int8" and not share <= options.tolerance:  # NaN is no agreement
                of_largest = (
                    f" of the largest, {float(scale.max()):.3g}" if not apart and float(scale.max()) > 1 else ""
                )
                by = f"{share:.3g} of the largest of an output" if apart else f"{difference:.3g}"
                raise UserError(
                    f"{path.name}: its outputs differ from torch's by {by} on {len(compared)} {images.source}; allowed: "
                    f"{options.tolerance:g} (--tolerance){of_largest}. Nothing has been written"
                )
            files[name] = {
                "file": path.name, "bytes": path.stat().st_size, "largest_difference": difference,
                "images": len(compared), "batches": list(batches),
            }  # fmt: skip
            runs[name] = run
            _logger.info(
                "%s: largest difference of an output %.2g on %d %s", path.name, difference, len(compared), images.source
            )
            progress.update()
    for name in set(runs) - set(options.formats):
        del files[name], runs[name]
    return files, runs
