"""``nni-proxyless export``: write a derived network as ONNX, TorchScript, ``torch.export`` and in 8 bits."""

from __future__ import annotations

import argparse
from typing import Any

from ..core.merit import Merit
from ..core.text_table import in_columns
from ..core.user_path import path_argument
from ..latency.digits import in_words

__all__ = ["add_export_command", "summary"]

FORMATS = ("onnx", "torchscript", "torch-export", "int8")


def add_export_command(commands: Any) -> None:
    """Add ``export`` to the commands of the parser."""
    export = commands.add_parser(
        "export", help="write a derived network as ONNX, TorchScript, torch.export and in 8 bits",
        description="Write files that run without this package. Each is read back and compared with the network before it "
        "takes its place, and timed beside it.",
    )  # fmt: skip
    export.add_argument("architecture", type=path_argument, metavar="architecture.json")
    export.add_argument("--weights", type=path_argument, metavar="FILE",
                        help="default: final/weights.safetensors beside the architecture, else weights.safetensors")  # fmt: skip
    export.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS, metavar="FORMAT",
                        help=f"some of {', '.join(FORMATS)}; default: all")  # fmt: skip
    export.add_argument("--output", type=path_argument, metavar="DIR", help="default: the folder of the architecture")
    export.add_argument("--opset", type=int, metavar="N", help="of the ONNX files; default: 17, as they are timed; 18 where that cannot be written")  # fmt: skip
    export.add_argument("--input-size", type=int, nargs=2, metavar=("H", "W"), help="default: that of the search")
    batch = export.add_mutually_exclusive_group()
    batch.add_argument("--batch", type=int, metavar="N", help="images per run; default: 1")
    batch.add_argument("--dynamic-batch", action="store_true", help="any number of images per run")
    export.add_argument("--images", type=int, metavar="N", help="how many images logits are compared on; default: 100")
    export.add_argument("--tolerance", type=float, metavar="X",
                        help="by how much a logit may differ from torch's, absolute, or as a share of the largest if that is above 1; default: 1e-4")  # fmt: skip
    export.add_argument("--test-images", type=int, metavar="N",
                        help="how many test images tell the accuracy, at most; default: 1000")  # fmt: skip
    export.add_argument("--calibration-images", type=int, metavar="N",
                        help="how many training images int8 is calibrated with, at most; default: 256")  # fmt: skip
    export.add_argument("--threads", type=int, metavar="N", help="CPU threads while timing; default: 1")
    export.add_argument("--repeats", type=int, metavar="N", help="timed rounds; default: 50")
    export.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from ..models.architecture import Architecture

    Architecture.read(arguments.architecture)  # before the imports, which take seconds
    from ..models.export.export import ExportOptions, export

    names = ("formats", "weights", "output", "opset", "input_size", "batch", "images", "tolerance", "test_images",
             "calibration_images", "threads", "repeats")  # fmt: skip
    given: dict[str, Any] = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    for name in {"formats", "input_size"} & given.keys():
        given[name] = tuple(given[name])
    if arguments.dynamic_batch:
        given["batch"] = None
    content = export(arguments.architecture, ExportOptions(**given))
    print(summary(content))
    print(f"export: {(arguments.output or arguments.architecture.parent) / 'export.json'}")
    return 0


def summary(content: dict[str, Any]) -> str:
    """Summary of an export: a line per runtime, and the figure of merit."""
    conditions, files, merit = content["latency_conditions"], content["files"], Merit.of(content)
    worth = content[merit.name]
    shape = "x".join(map(str, content["input"]["shape"]))
    opset = f", opset {content['opset']}" if content["opset"] else ""
    lines = [
        f"weights:  {content['weights']}, {content['weights_are']}",
        f"input:    {shape}{opset}",
        f"latency:  median of {next(iter(content['latency'].values()))['count']} rounds in turn, {conditions['device']}, "
        f"threads {conditions['threads']}, batch {conditions['batch']}",
    ]
    rows = [("", "ms", "largest difference of an output", "bytes")]
    for name, measured in content["latency"].items():
        of = files.get(name)
        rows.append((
            of["file"] if of else "torch", in_words(measured["median_ms"]),
            f"{of['largest_difference']:.1e}" if of else "-", str(of["bytes"]) if of else "-",
        ))  # fmt: skip
    lines += in_columns(rows, n_left=1)
    some = next(iter(files.values()))
    lines.append(
        f"compared: {some['images']} {content['images']}, in batches of {', '.join(map(str, some['batches']))}"
    )
    if worth is None:
        lines.append(f"{merit.name}: not known, without the data set")
    else:
        text = f"{merit.name}: {merit.in_words(worth['torch'])} on {worth['images']} {content['images']}"
        if "int8" in worth:
            text += f"; int8 {merit.in_words(worth['int8'])}"
        if "int8 agreement" in worth:
            text += f", the same answer on {100 * worth['int8 agreement']:.1f} %"
        lines.append(text)
    return "\n".join(lines)
