"""Write a network as an ONNX file, and run such a file.

The packages that it needs are the extra ``export``; they are imported when they are used. No NNI.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...core.atomic_files import replacing
from ...core.errors import UserError
from ...core.silenced import first_line
from ...latency.runtimes.onnx_file import QUICK_OPSET, export_onnx
from ...latency.runtimes.onnx_runtime import Session
from ...latency.runtimes.quantize import quantize

__all__ = [
    "OPSETS",
    "OnnxNetwork",
    "opset_of",
    "require_packages",
    "write_int8",
    "write_onnx",
    "write_onnx_for_netron",
]

_logger = logging.getLogger(__name__)

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INSTALL = "pip install 'nni-proxyless[export]'"
OPSETS = range(13, 24)  # 13: the first with a scale per channel, for 8 bits. 23: what torch 2.15 knows


def require_packages() -> None:
    """Refuse, with what to install, where a package is missing.

    Raises
    ------
    UserError
        One is; the message names it.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX files need {', '.join(PACKAGES)}; not installed: {', '.join(missing)}. {INSTALL}")


def write_onnx(
    network: nn.Module, shape: Sequence[int], path: Path, *, opset: int | None = None, batch: int | None = 1
) -> None:
    """Write the network, in evaluation mode, as one ONNX file with an input ``input`` and an output ``logits``.

    With one image per run, and no opset asked for, it is the graph that ONNX Runtime and others are timed with
    (:func:`...latency.runtimes.onnx_file.export_onnx`).

    Parameters
    ----------
    network
        Not changed.
    shape
        Of one image, (channels, height, width).
    opset
        One of :data:`OPSETS`; None: 17, or what a network needs that cannot be written so.
    batch
        Images per run; None: free, a dimension called ``batch``.

    Raises
    ------
    ValueError
        It cannot be written.
    RuntimeError
        The file is not what was asked for.
    """
    import onnx

    network = copy.deepcopy(network).cpu().eval()
    images = torch.zeros(batch or 2, *shape)
    export_onnx(network, (images,), path, ["input"], ["logits"], opset=opset, free_batch=batch is None)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    if opset is not None and (found := opset_of(path)) != opset:
        raise RuntimeError(f"{path.name}: the exporter wrote opset {found} where {opset} was asked for")


def opset_of(path: Path) -> int:
    """The opset of an ONNX file."""
    import onnx

    return next(int(entry.version) for entry in onnx.load(path).opset_import if entry.domain == "")


def write_int8(float_file: Path, path: Path, images: Tensor, *, batch: int | None = 1) -> None:
    """Write what :func:`write_onnx` has written with weights and activations of 8 bits.

    Parameters
    ----------
    images
        To calibrate by, (n, channels, height, width), as the network sees them: of the training images.
    batch
        Of the file; None where it is free. An incomplete last batch is left out.
    """
    import onnx

    parts = images.split(batch or 32)
    quantize(float_file, path, ({"input": part} for part in parts if batch is None or len(part) == batch))
    onnx.checker.check_model(onnx.load(path), full_check=True)


class OnnxNetwork:
    """An ONNX file in onnxruntime, on the CPU: images -> logits.

    Parameters
    ----------
    path
        The file.
    threads
        CPU threads of a run.
    """

    def __init__(self, path: Path, threads: int = 1):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # its warnings are about devices that are not asked for
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        (self.input,) = (given.name for given in self.session.get_inputs())

    def __call__(self, images: Tensor) -> Tensor:
        (logits,) = self.session.run(None, {self.input: images.numpy()})
        return torch.from_numpy(logits)

    def timed_on(self, images: Tensor) -> Callable[[], float]:
        """What runs it on these images and returns the milliseconds, as tables are measured."""
        return Session(self.session, {self.input: images}, "cpu", 0).run_ms


def write_onnx_for_netron(network: nn.Module, shape: Sequence[int], path: Path) -> None:
    """Write ``model.onnx`` for Netron; if that fails, log one line.

    Its batch size is free. An older file, of another network, is removed in any case.
    """
    path.unlink(missing_ok=True)
    try:
        require_packages()
        with replacing(path) as temporary:
            write_onnx(network, shape, temporary, opset=QUICK_OPSET, batch=None)
    except UserError:
        _logger.info("no %s, which NNI's Netron button shows: %s", path.name, INSTALL)
    except Exception as error:  # somebody's module that cannot be exported; the search has done its work
        _logger.warning("no %s: %s", path.name, first_line(error))
