"""Export a space to a target that has torch only: its operations and some whole networks as TorchScript.

operations.json         what there is, each with its file; the space, for the head of the table
operations/000.pt …     every operation once
networks/000.pt …       random whole networks, by which the table is calibrated
measure.py …            times them all on the target and writes the table; with the files of this package that it needs
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from ...core.freezing import freeze
from ..calls import Call, Flat, Shape, TensorSpec, shape_text, tensors_in
from ..estimators.timing import noise_like
from ..operation import Operation, floating_type, trace_operations
from .timed_networks import random_samples
from .yaml_format import FORMAT

__all__ = ["EXPORT_FORMAT", "export_space"]

EXPORT_FORMAT = "nni-proxyless operations 1"
_HERE = Path(__file__).parent
COPIED = {
    "measure.py": _HERE / "measure_on_target.py",
    "checksum.py": _HERE / "checksum.py",
    "digits.py": _HERE.parent / "digits.py",
    "drift.py": _HERE / "drift.py",
    "timing.py": _HERE.parent / "estimators" / "timing.py",
}
"""Name on the target -> file of this package."""


def export_space(
    space: ModelSpace,
    input_shape: Shape,
    folder: str | Path,
    *,
    description: Mapping[str, Any],
    n_networks: int = 60,
    seed: int = 1,
    onnx: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write all that a target needs to time a space; the folder is created atomically.

    Parameters
    ----------
    space
        Any NNI ``ModelSpace`` of ``LayerChoice``, ``Repeat`` and ``InputChoice``. Not changed.
    input_shape
        Of one sample, (channels, height, width).
    folder
        Must be absent or empty.
    description
        ``{'name': …, 'arguments': {…}}`` of the space, for the head of the table.
    n_networks, seed
        How many random networks go with the operations, and which; fewer if the space has no more.
    onnx
        Write ``.onnx`` files beside the TorchScript, for runtimes of the user's own. Their batch is free, but for operations of
        several inputs.
    progress
        Called after every file with the number of files done and in all.

    Returns
    -------
    dict
        What is in ``operations.json``.

    Raises
    ------
    ValueError
        An argument outside its range; the space does not run on that shape; a module cannot be traced, or its trace computes
        something else; ``onnx`` is not installed; the folder is not empty. Nothing has been written then.
    """
    folder = Path(folder)
    if n_networks < 0:
        raise ValueError(f"networks is {n_networks}; allowed: 0 or more")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed is {seed}; allowed: 0 to 4294967295")
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder}: is there already; allowed: a new folder, or an empty one")
    if onnx and importlib.util.find_spec("onnx") is None:
        raise ValueError(
            "ONNX files need the package 'onnx', which is not installed: pip install onnx, or export without"
        )
    head = {"name": description["name"], "arguments": dict(description["arguments"]), "input_shape": list(input_shape)}
    _require_json(head["arguments"], "space: arguments")
    found = trace_operations(space, input_shape)
    operations = list({op.key: op for op in found if op.computes}.values())
    samples = random_samples(space, n_networks, seed) if n_networks else []
    for sample in samples:
        _require_json(sample, "an architecture")
    total = len(operations) + len(samples)

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        os.chmod(temporary, 0o755)  # mkdtemp keeps it for its owner
        (temporary / "operations").mkdir()
        (temporary / "networks").mkdir()
        content: dict[str, Any] = {
            "format": EXPORT_FORMAT,
            "table_format": FORMAT,
            "torch": torch.__version__,
            "resolution": shape_text(input_shape[1:] or input_shape),
            "space": head,
            "operations": [],
            "networks": [],
        }
        for i, op in enumerate(operations):
            file = f"operations/{i:03d}.pt"
            _write_module(op, temporary / file, f"'{op.key}'", onnx)
            entry = {"key": op.key, "file": file, "input_shape": list(op.input_shape)}
            if op.call is not None:
                entry["inputs"] = [_plain(spec) for spec in op.call.tensors]
            content["operations"].append(entry)
            if progress is not None:
                progress(i + 1, total)
        for i, sample in enumerate(samples):
            file = f"networks/{i:03d}.pt"
            network = Operation("", freeze(space, sample), tuple(input_shape))
            _write_module(network, temporary / file, f"the network {sample}", onnx)
            content["networks"].append({"file": file, "architecture": sample})
            if progress is not None:
                progress(len(operations) + i + 1, total)
        for name, source in COPIED.items():
            shutil.copyfile(source, temporary / name)
        (temporary / "operations.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary)
        raise
    return content


def _require_json(content: Mapping[str, Any], what: str) -> None:
    """Refuse values that a JSON file would change or cannot hold."""
    for name, value in content.items():
        try:
            same = json.loads(json.dumps(value, allow_nan=False)) == value
        except (TypeError, ValueError):
            same = False
        if not same:
            raise ValueError(f"{what}: {name!r} is {value!r}; allowed: texts, numbers, true, false, and lists of them")


def _plain(spec: TensorSpec) -> dict[str, Any]:
    """How measure.py makes a tensor like this one."""
    plain: dict[str, Any] = {"shape": list(spec.shape), "dtype": str(spec.dtype).removeprefix("torch.")}
    if spec.value is not None:
        plain["value"] = spec.value.tolist()
    dims = spec.batch_dims
    if dims is None and spec.shape[:1] == (1,):
        dims = (0,)
    return plain if dims is None else {**plain, "batch_dims": list(dims)}


def _inputs(operation: Operation, batch: int) -> tuple[Tensor, ...]:
    """Noise for all tensors that the operation is given, in float32 on the CPU."""
    call = operation.call or Call((TensorSpec((1, *operation.input_shape), torch.float32),))
    made = call.example(batch, lambda sizes, dtype: noise_like(sizes, torch.device("cpu"), "float32"))
    return tuple(tensors_in(made))


def _write_module(operation: Operation, path: Path, what: str, onnx: bool) -> None:
    """One module as TorchScript; what the file computes is compared with what the module does, on two images of noise.

    In float32, whatever the type of the space: the target casts to the precision that it is asked for.
    """
    module = copy.deepcopy(operation.module).eval()
    if floating_type(module)[1] != torch.float32:
        module = module.float()
    if operation.call is not None:
        module = Flat(module, operation.call)
    with torch.no_grad(), warnings.catch_warnings():
        # Deprecated since torch 2.15 in favor of torch.export, which wants a torch at least as new on the target, and whose
        # programs have overheads of their own; TorchScript is what phones and boards have.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated", category=FutureWarning)
        try:
            one = tuple(x if x.dtype != torch.float32 else torch.zeros_like(x) for x in _inputs(operation, 1))
            torch.jit.save(torch.jit.trace(module, one, check_trace=False), str(path))
            try:
                two = _inputs(operation, 2)
            except ValueError:
                two = _inputs(
                    operation, 1
                )  # it is not known what two look like; the target is not asked for them either
            torch.testing.assert_close(torch.jit.load(str(path))(*two), module(*two), equal_nan=True)
        except (RuntimeError, AssertionError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{what} has no TorchScript: {reason}") from error
    if onnx:
        _write_onnx(module, one, path.with_suffix(".onnx"), what)


def _write_onnx(module: nn.Module, inputs: tuple[Tensor, ...], path: Path, what: str) -> None:
    from onnx import checker

    names = ["input"] if len(inputs) == 1 else [f"input{i}" for i in range(len(inputs))]
    free = {name: {0: "batch"} for name in names if len(inputs) == 1}
    if free:
        free["output"] = {0: "batch"}
    with warnings.catch_warnings():
        # Both are about the older exporter; the newer one, through dynamo, wants onnxscript as well.
        for message in ("You are using the legacy TorchScript-based ONNX export", "The feature will be removed"):
            warnings.filterwarnings("ignore", message=message, category=DeprecationWarning)
        try:
            torch.onnx.export(
                module, inputs, str(path), dynamo=False, input_names=names, output_names=["output"] if free else None,
                dynamic_axes=free or None,
            )  # fmt: skip
            checker.check_model(str(path))
        except (RuntimeError, checker.ValidationError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{what} has no ONNX: {reason}") from error
