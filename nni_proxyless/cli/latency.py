"""``nni-proxyless latency build | export | check | predict``: a lookup table for a device, and whether its numbers are true."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError, shown

if TYPE_CHECKING:  # the parser is there at once, torch and NNI take seconds
    from nni.nas.nn.pytorch import ModelSpace

    from ..latency import DeviceEstimator, LookupTable
    from ..latency.operation import Shape
from ..core.user_path import path_argument
from ..latency.digits import in_words, significant

__all__ = ["add_latency_command"]

OF_PROGRAMS = 5  # repeats: a program times a network several times over by itself, and takes a second to start or more


def add_latency_command(commands: Any) -> None:
    """Add ``latency`` to the commands of the parser."""
    latency = commands.add_parser("latency", help="lookup tables: measure one, check it, fill it up",
                                  description="Lookup tables of latencies, measured on the target.")  # fmt: skip
    actions = latency.add_subparsers(required=True, metavar="ACTION")

    build = actions.add_parser("build", help="measure the operations of a space on this machine",
                               description="Measure the operations of a space on this machine, in the runtime that is to run its networks. If it is stopped or killed, the same "
                               "command goes on where it was.")  # fmt: skip
    _space_arguments(build, needed=True)
    build.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    build.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    build.add_argument("--batch", type=int, default=1, help="images at once (default: %(default)s)")
    build.add_argument("--precision", default="float32", help="float32, float16, bfloat16, int8; what a runtime has of these is in docs/how-to/runtimes.md "
                       "(default: %(default)s)")  # fmt: skip
    _runtime_arguments(build, default="onnxruntime on a CPU, torch on other devices")
    build.add_argument("--method", choices=("networks", "isolated", "fit", "profile"),
                       help="operations timed inside whole networks, or one by one, or fitted to whole networks, or fitted with the help of "
                       "what the runtime says of its nodes (default: networks with eager torch, fit with other runtimes and where choices change shapes)")  # fmt: skip
    build.add_argument("--networks", type=int, metavar="N",
                       help="to fit to (default: two per row, or as many as four minutes allow)")  # fmt: skip
    build.add_argument("--repeats", type=int, metavar="N",
                       help="timings of each candidate (default: 150), or with methods fit and profile of each network (default: 30; with runtime command: 5)")  # fmt: skip
    build.add_argument("--warmup", type=int, default=10, help="untimed runs before (default: %(default)s)")
    build.add_argument("--output", type=path_argument, required=True, metavar="table.yaml")
    build.set_defaults(run=_build)

    export = actions.add_parser("export", help="write all that another target needs to measure a space",
                                description="Write the operations of a space and some whole networks as TorchScript, and measure.py, "
                                "which times them on a phone, board or server that has torch only, and writes the table there.")  # fmt: skip
    _space_arguments(export, needed=True)
    export.add_argument(
        "--networks", type=int, default=60, help="random ones, to calibrate the table on (default: %(default)s)"
    )
    export.add_argument("--seed", type=int, default=1, help="of the networks (default: %(default)s)")
    export.add_argument("--onnx", action="store_true", help="ONNX files as well, for other runtimes")
    export.add_argument("--output", type=path_argument, required=True, metavar="DIR")
    export.set_defaults(run=_export)

    check = actions.add_parser("check", help="time random whole networks, and calibrate the table on them",
                               description="Time random whole networks of the table's space, print how far the table is off, draw it, and "
                               "store a calibration (a fixed cost and a slope) in the table. A table of another machine that holds networks "
                               "timed there is checked by these: half of them judge.")  # fmt: skip
    check.add_argument("table", type=path_argument, metavar="table.yaml")
    _space_arguments(check, needed=False)
    check.add_argument("--networks", type=int, default=30, help="that judge (default: %(default)s)")
    check.add_argument("--calibration", type=int, default=30, help="others, to calibrate on (default: %(default)s)")
    check.add_argument(
        "--repeats", type=int, metavar="N", help="timings of each network (default: 100; with runtime command: 5)"
    )
    check.add_argument("--warmup", type=int, default=2, help="untimed runs before (default: %(default)s)")
    _runtime_arguments(check, default="that of the table")
    check.add_argument("--seed", type=int, default=1, help="of the networks (default: %(default)s)")
    check.add_argument("--dry-run", action="store_true", help="leave the table as it is")
    check.add_argument("--json", type=path_argument, metavar="check.json", help="write all figures, network by network")
    check.set_defaults(run=_check)

    predict = actions.add_parser("predict", help="fill up a table: rows that it lacks, from a fit on those it has",
                                 description="Predict the rows that a table lacks for a space, and say how good that is.")  # fmt: skip
    predict.add_argument("table", type=path_argument, metavar="table.yaml")
    _space_arguments(predict, needed=False)
    predict.add_argument("--output", type=path_argument, required=True, metavar="new.yaml")
    predict.set_defaults(run=_predict)


def _runtime_arguments(parser: argparse.ArgumentParser, *, default: str) -> None:
    parser.add_argument("--runtime", metavar="NAME",
                        help="what runs the networks: onnxruntime, torch (eager mode), torch-compile, openvino, ncnn, mnn, litert, command, or "
                        f"package.module:Class (default: {default})")  # fmt: skip
    parser.add_argument("--runtime-option", nargs="+", action="extend", default=[], metavar="key=value",
                        help="of the runtime, such as 'command=./bench.sh {file}'")  # fmt: skip


def _space_arguments(parser: argparse.ArgumentParser, *, needed: bool) -> None:
    parser.add_argument("--space", nargs="+", default=["mobilenetv2"] if needed else None, metavar=("NAME", "key=value"),
                        help="as in search.yml, a name or package.module:Class, and its arguments, such as preset=small "
                        f"(default: {'mobilenetv2' if needed else 'the one in the head of the table'})")  # fmt: skip
    parser.add_argument("--resolution", default="224" if needed else None, metavar="H[xW]",
                        help="of the images (default: 224, or what the table says)")  # fmt: skip
    parser.add_argument("--channels", type=int, default=3, help="of the images (default: %(default)s)")


def _build(arguments: argparse.Namespace) -> int:
    path: Path = arguments.output
    _not_there(path)
    space, shape, description = _space_of(arguments)
    from ..latency import DeviceEstimator
    from ..latency.tables.build import FITTED, method_for, require_method
    from ..search.latency_table import build_table, building, partial_of, said_of_fit

    options = _key_values(arguments.runtime_option, "--runtime-option")
    try:
        estimator = DeviceEstimator(device=arguments.device, threads=arguments.threads, batch=arguments.batch,
                                    precision=arguments.precision, warmup=arguments.warmup, repeats=150 if arguments.repeats is None else arguments.repeats,
                                    runtime=arguments.runtime, options=options)  # fmt: skip
        method = arguments.method or method_for(estimator, space)
        require_method(estimator, space, method, arguments.networks)
        if method in FITTED and arguments.repeats is None:
            # Preparing a network takes longer, and more networks are worth more than more timings.
            estimator.repeats = OF_PROGRAMS if estimator.runs_programs else 30
        partial = partial_of(path)
        with building(path):
            _not_there(path)  # nor has another process built it, for which this one has waited
            table = build_table(
                space,
                shape,
                estimator,
                partial=partial,
                method=method,
                networks=arguments.networks,
                description=description,
            )
            table.write(path)
            partial.unlink(missing_ok=True)
    except ValueError as error:
        raise UserError(f"latency build: {error}") from error
    for key, row in table.rows.items():
        print(
            f"{in_words(row.median_ms, digits=4):>10} ms  p95 {in_words(row.p95_ms, digits=4):>10}  {row.count:6d} x  {key}"
        )
    if method in FITTED:
        print(said_of_fit(table))
    print(f"table: {path}  ({len(table.rows)} rows; {table.conditions['device']}, {table.conditions['runtime']})")
    return 0


def _not_there(path: Path) -> None:
    if path.exists():
        raise UserError(f"--output {path}: is there already. Name another file, or delete it to measure anew")


def _export(arguments: argparse.Namespace) -> int:
    space, shape, description = _space_of(arguments)
    from ..core.progress import steps
    from ..latency.tables.export import export_space

    try:
        with steps("exporting", "file") as progress:
            content = export_space(space, shape, arguments.output, description=description, n_networks=arguments.networks,
                                   seed=arguments.seed, onnx=arguments.onnx, progress=progress)  # fmt: skip
    except ValueError as error:
        raise UserError(f"latency export: {error}") from error
    size = sum(file.stat().st_size for file in arguments.output.rglob("*") if file.is_file())
    print(
        f"{arguments.output}: {len(content['operations'])} operations, {len(content['networks'])} networks, {size / 1e6:.1f} MB"
    )
    print("copy it to the target, and there: python measure.py --output table.yaml")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    table = _read(arguments.table)
    from ..core.atomic_files import write_text
    from ..core.progress import steps
    from ..latency import LatencyProfiler, check_table
    from ..latency.tables.check import as_plain, check_recorded, draw, report
    from ..search.latency_table import measuring_alone

    space, shape, _ = _space_of(arguments, table)
    picture = arguments.table.with_suffix(".png")
    _can_be_written(
        [picture, *([arguments.json] if arguments.json else []), *([] if arguments.dry_run else [arguments.table])]
    )
    try:
        if table.networks and not _is_of_here(table, arguments):
            check = check_recorded(table, space, shape)
        else:
            estimator = _estimator_of(table, arguments)
            with measuring_alone(estimator), steps("timing networks", "round") as progress:
                check = check_table(table, space, shape, estimator, n_networks=arguments.networks,
                                    n_calibration=arguments.calibration, seed=arguments.seed, progress=progress)  # fmt: skip
    except KeyError as error:
        raise UserError(f"latency check: {error.args[0]}") from error
    except ValueError as error:
        raise UserError(f"latency check: {error}") from error
    print(report(check))
    refused = None
    if not arguments.dry_run:
        calibrated = table.replace(calibration=check.calibration)
        try:
            LatencyProfiler(space, calibrated, shape)
            calibrated.write(arguments.table)
            print(f"stored in {arguments.table}")
        except ValueError as error:
            refused = f"latency check: nothing is stored in {arguments.table}: {error}, while nothing else runs"
    draw(check, picture, title=str(table.conditions.get("device", "")))
    print(f"picture: {picture}")
    if arguments.json:
        figures = {"conditions": dict(table.conditions), "measured": table.measured, **as_plain(check)}
        write_text(arguments.json, json.dumps(figures, indent=1) + "\n")
    if refused:
        raise UserError(refused)
    return 0


def _can_be_written(paths: Sequence[Path]) -> None:
    """Refuse files that could not be written at the end, before minutes of measuring."""
    for path in paths:
        if path.is_dir():
            raise UserError(f"latency check: {path} is a folder; allowed: a file that can be written")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            why = "no permission" if folder.is_dir() else "is no folder"
            raise UserError(f"latency check: {path} cannot be written: {folder}: {why}")


def _estimator_of(table: LookupTable, arguments: argparse.Namespace) -> DeviceEstimator:
    """The target of the table, if that is this machine."""
    from ..latency import DeviceEstimator, TableError
    from ..latency.estimators.device import runs_foreign_code, runtime_of

    name = runtime_of(table.conditions)
    if arguments.runtime is None and runs_foreign_code(name):
        raise TableError(
            f"{table.source}: its milliseconds are those of a program, which its head names: runtime {name}, options "
            f"{shown(table.conditions.get('options', ''))}. If you trust it, say --runtime {name}"
        )
    said = {**table.conditions, **({} if arguments.runtime is None else {"runtime": arguments.runtime})}
    options = _key_values(arguments.runtime_option, "--runtime-option")
    try:
        estimator = DeviceEstimator.of_conditions(
            said,
            warmup=arguments.warmup,
            repeats=100 if arguments.repeats is None else arguments.repeats,
            options=options,
        )
    except ValueError as error:
        raise TableError(f"{table.source}: {error}") from error
    if arguments.repeats is None and estimator.runs_programs:
        estimator.repeats = OF_PROGRAMS
    table.require(estimator.conditions, of_runtime=True)
    return estimator


def _is_of_here(table: LookupTable, arguments: argparse.Namespace) -> bool:
    try:
        _estimator_of(table, arguments)
    except ValueError:
        return False
    return True


def _predict(arguments: argparse.Namespace) -> int:
    table = _read(arguments.table)
    from ..latency import trace_operations
    from ..latency.calls import shape_text
    from ..latency.tables.predict import predict_missing

    space, shape, description = _space_of(arguments, table)
    if arguments.output.exists():
        raise UserError(f"--output {arguments.output}: is there already; name another file")
    try:
        operations = trace_operations(space, shape)
        if lacking := table.in_constant - {op.key for op in operations if not op.conditions}:
            raise ValueError(
                f"{table.source}: was fitted to networks that all run '{min(lacking)}', which is in its constant; networks of this space "
                "do not. Allowed: a space with the same fixed part"
            )
        operations = [op for op in operations if not table.holds(op)]
        known = {op.key: row for op in operations if (row := table.row(op)) is not None}
        if all(op.key in known or op.in_constant for op in operations):
            print(f"{arguments.table} has a row for every operation: nothing to predict")
            return 0
        predicted, error = predict_missing(known, operations)
    except KeyError as problem:
        raise UserError(f"latency predict: {problem.args[0]}") from problem
    except ValueError as problem:
        raise UserError(f"latency predict: {problem}") from problem
    for key, row in predicted.items():
        print(f"{in_words(row.median_ms, digits=4):>10} {table.unit}  {key}")
    print(f"{len(predicted)} rows predicted from {len(known)}; {error}")
    measured = {**table.measured, "predicted_rows": len(predicted), "predicted_error": significant(error.mean, 4)}
    head = {**description, "input_shape": list(shape)}
    changes: dict[str, Any] = {}
    if head != table.space:  # its networks are another space's, and so is a calibration that was fitted to them
        changes = {"networks": [], "references": []}
        if table.space is not None:
            changes["calibration"] = None
        if "resolution" in table.conditions:
            changes["conditions"] = {**table.conditions, "resolution": shape_text(shape[1:])}
    table.replace(rows={**table.rows, **predicted}, measured=measured, space=head, **changes).write(arguments.output)
    print(f"table: {arguments.output}")
    return 0


def _read(path: Path) -> LookupTable:
    try:
        path.open("rb").close()  # before the imports, which take seconds
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    from ..latency import LookupTable, TableError

    try:
        return LookupTable.read(path)
    except TableError as error:
        raise UserError(str(error)) from error


def _space_of(
    arguments: argparse.Namespace, table: LookupTable | None = None
) -> tuple[ModelSpace, Shape, dict[str, Any]]:
    """The space that is named on the command line or in the head of the table, the shape of its input, its description."""
    from ..config.options import options_of
    from ..config.read import read_config
    from ..config.search_config import SearchConfig
    from ..models.space import make_space

    head = None if table is None else table.space
    if head is not None and arguments.space is None and arguments.resolution is None:
        name, given, shape = head["name"], head["arguments"], tuple(head["input_shape"])
    else:
        if arguments.space is None or arguments.resolution is None:
            why = "its head names no space" if head is None else "another space or resolution than its head's"
            raise UserError(f"{arguments.table}: {why}; say --space and --resolution")
        name, given = arguments.space[0], _key_values(arguments.space[1:], "--space")
        shape = (arguments.channels, *_resolution(arguments.resolution))
        try:
            accepted = options_of("nni_proxyless.search_spaces", name).parameters
        except ValueError as error:
            raise UserError(f"--space: {error}") from error
        given = {n: arguments.channels for n in ("in_channels", "in_chans") if n in accepted} | given
    overrides = [("command line", "space.name", name)]
    config = read_config(
        SearchConfig, None, [*overrides, *(("command line", f"space.{k}", v) for k, v in given.items())]
    )
    space = make_space(name, config.space.arguments)
    return space, shape, {"name": name, "arguments": config.space.arguments}


def _key_values(items: Sequence[str], flag: str) -> dict[str, Any]:
    from ..config.read import parse_value

    wrong = [item for item in items if "=" not in item]
    if wrong:
        where = "what follows the name" if flag == "--space" else "an option"
        raise UserError(f"{flag}: {' '.join(wrong)}: {where} has the form key=value")
    return {key: parse_value(value) for key, _, value in (item.partition("=") for item in items)}


def _resolution(text: str) -> tuple[int, int]:
    sides = text.split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise UserError(
            f"--resolution is {text!r}; allowed: a number of pixels such as 224, or height and width such as 224x160"
        )
    return int(sides[0]), int(sides[-1])
