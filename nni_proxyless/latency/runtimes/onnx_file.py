"""Write a module as an ONNX file, for all runtimes that read one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.silenced import descriptors_silenced, exporters_silenced, first_line
from ..calls import tensors_in
from .quantize import quantize
from .runtime import Program

__all__ = ["QUICK_OPSET", "OnnxFile", "export_onnx", "module_of", "origins", "write_onnx"]

QUICK_OPSET = 17  # the last one that the exporter through TorchScript was written for
NEWER_OPSET = 18  # what the newer one is written for; it converts upwards from there, and not downwards


@dataclass(frozen=True)
class OnnxFile:
    """A file, with the names of its inputs and outputs. An input that makes no difference is not in the file."""

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def write_onnx(program: Program, path: Path, precision: str = "float32") -> OnnxFile:
    """Write a module with weights, for exactly the inputs it has, batch included; in float32, or in int8 as :func:`.quantize` makes it.

    What is in int8 is calibrated by the program's own inputs, which are noise: right for milliseconds, of no use for accuracy.

    Raises
    ------
    ValueError
        Neither can write it; the message has what the newer one stumbled over. Or nothing in it can be quantized.
    OSError
        The file cannot be written.
    """
    n_inputs = len(program.inputs)
    inputs = ("input",) if n_inputs == 1 else tuple(f"input{i}" for i in range(n_inputs))
    with exporters_silenced(), torch.no_grad():
        n_outputs = len(tensors_in(program.module(*program.inputs)))
        outputs = ("output",) if n_outputs == 1 else tuple(f"output{i}" for i in range(n_outputs))
    export_onnx(program.module, program.inputs, path, inputs, outputs)
    if precision == "int8":
        quantize(path, path, [dict(zip(inputs, program.inputs, strict=True))])
    return OnnxFile(path, inputs, outputs)


def export_onnx(
    module: nn.Module, inputs: tuple[Tensor, ...], path: Path, input_names: Sequence[str], output_names: Sequence[str], *,
    opset: int | None = None, free_batch: bool = False,
) -> None:  # fmt: skip
    """Write a module in evaluation mode, on the CPU; what is timed and what is exported are written here alone.

    By torch's older exporter, through TorchScript: a table needs hundreds of networks, and it takes 0.4 s for one of ``MobileNetV2Space``
    with preset small and 1.7 s for one at ImageNet's size where the newer one takes 10 and 15. ONNX Runtime runs both files
    alike. What the older one cannot write, or a torch that has it no more, is left to the newer one.

    Parameters
    ----------
    inputs
        Examples; with ``free_batch`` of two or more samples, since the newer exporter takes 1 for a constant.
    opset
        None: 17 or, by the newer exporter, 18. From 18 on the newer one writes it, else the older one, and no other.
    free_batch
        The first dimension of all inputs and outputs is called ``batch`` and may be any.

    Raises
    ------
    ValueError
        Without ``opset``: neither can write it; the message has what the newer one stumbled over.
    OSError
        The file cannot be written.
    """
    names: dict[str, Any] = {"input_names": list(input_names), "output_names": list(output_names)}
    free = {0: "batch"}

    def older(opset: int) -> None:
        axes = dict.fromkeys([*input_names, *output_names], free) if free_batch else None
        with descriptors_silenced():  # of what it cannot write it prints all operations, from C
            torch.onnx.export(module, inputs, str(path), dynamo=False, opset_version=opset, dynamic_axes=axes, **names)

    def newer(opset: int) -> None:
        shapes = tuple(free for _ in inputs) if free_batch else None
        torch.onnx.export(
            module, inputs, str(path), dynamo=True, opset_version=opset, dynamic_shapes=shapes, external_data=False, verbose=False, **names
        )  # fmt: skip

    with exporters_silenced(), torch.no_grad():
        if opset is not None:
            return (older if opset < NEWER_OPSET else newer)(opset)
        try:
            older(QUICK_OPSET)
        except OSError:  # a full disk: the newer one would say the same, much later
            raise
        except Exception:  # of many kinds
            try:
                newer(NEWER_OPSET)
            except OSError:
                raise
            except Exception as error:
                raise ValueError(f"torch cannot write it as ONNX: {first_line(_cause(error))}") from error


def origins(path: Path) -> Callable[[str, str], str]:
    """What finds the node of a file that one of a runtime was made of, from the name and the kind that the runtime says.

    A convolution that is merged with what comes after it bears the name of the last of them, or of what that gives.
    """
    import onnx

    nodes = onnx.load(str(path)).graph.node
    made_by = {name: node for node in nodes for name in node.output}
    called = {node.name: node for node in nodes} | made_by

    def origin(name: str, kind: str) -> str:
        node = first = called.get(name.removesuffix("_nchwc"))
        while node is not None and node.op_type not in kind:
            node = made_by.get(node.input[0]) if node.input else None
        return name if first is None else (node or first).name

    return origin


def module_of(node: str) -> str:
    """The dotted name of the module that a node is of, or of something inside it, if it is of a file of the older exporter.

    It puts ``/blocks/blocks.0/blocks.0.1/conv/Conv`` for what ``blocks.0.1.conv`` does; runtimes put something behind it.
    """
    parts: list[str] = []
    before = ""
    for part in node.strip("/").split("/")[:-1]:
        if before and part.startswith(f"{before}."):  # in sequences it repeats what came before
            parts[-1] = part
        else:
            parts.append(part)
        before = part
    return ".".join(parts)


def _cause(error: BaseException) -> BaseException:
    """The first of those that led to it: torch's exporter puts advice on how to ask for help before it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
