"""Time an exported space on a target: ``python measure.py``, beside the files that ``nni-proxyless latency export`` has written.

It needs Python 3.10 and torch, nothing else, and is copied to the target together with the four files that it imports.
Operations, one by one, and whole networks are timed in turns, round after round; the drift of the machine is divided out.
The table that it writes is read by nni-proxyless, which finds a calibration in it: ``nni-proxyless latency check``.

If it is stopped or killed, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import statistics
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if sys.version_info < (3, 10):  # noqa: UP036  # pip has not looked at the Python of the target
    print(f"measure.py: this is Python {sys.version.split()[0]}; allowed: 3.10 or later", file=sys.stderr)
    sys.exit(2)

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # python -I leaves it out

from checksum import checksum  # noqa: E402  # after the path that leads there
from digits import significant  # noqa: E402  # the same
from drift import without_drift  # noqa: E402  # the same
from timing import (  # noqa: E402  # the same
    conditions_of,
    median_and_p95,
    noise,
    noise_like,
    problems_of,
    spread,
    time_ms,
    timing_settings,
    wait_policy_of,
)  # fmt: skip

EXPORT = "operations.json"
EXPORT_FORMAT = "nni-proxyless operations 1"
DRIFT_CHECKS = 10  # runs of the first entry, at the beginning and at the end
TABLE_DRIFT = 0.05


class Problem(Exception):
    """A user's mistake: the message is printed without a traceback, and the exit code is 2."""


def main() -> int:
    """Measure, write the table, and return the exit code."""
    arguments = _parser().parse_args()
    try:
        _measure(arguments)
    except Problem as problem:
        print(f"measure.py: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("measure.py: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Time the operations and networks in this folder, and write their lookup table. If it is "
                                     "stopped or killed, the same command goes on where it was.")  # fmt: skip
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="images at once (default: %(default)s)")
    parser.add_argument("--precision", default="float32", help="float32, float16, bfloat16 (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=50, help="rounds; each times everything once (default: %(default)s)"
    )
    parser.add_argument("--warmup", type=int, default=10, help="untimed runs before (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("table.yaml"), help="(default: %(default)s)")
    return parser


def _measure(a: argparse.Namespace) -> None:
    problems = problems_of(a.device, a.threads, a.batch, a.precision, a.warmup, a.repeats)
    if a.output.exists():
        problems.append(f"--output {a.output}: is there already. Name another file, or delete it to measure anew")
    elif not a.output.resolve().parent.is_dir():
        problems.append(f"--output {a.output}: there is no folder {a.output.resolve().parent}")
    if problems:
        raise Problem("; ".join(problems))
    export = _read_export()
    device = torch.device(a.device)
    runtime = f"torchscript, torch {torch.__version__}"
    conditions = conditions_of(device, runtime, a.threads, a.batch, a.precision) | {"resolution": export["resolution"]}
    settings = {"method": "isolated", "repeats": a.repeats, "warmup": a.warmup}
    entries = [*export["operations"], *export["networks"]]
    modules = [_load(entry["file"], device, a.precision, export["torch"]) for entry in entries]
    shapes = [entry.get("input_shape", export["space"]["input_shape"]) for entry in entries]
    inputs = [
        _inputs(entry, a.batch, device, a.precision)
        if "inputs" in entry
        else noise(shape, a.batch, device, a.precision)
        for entry, shape in zip(entries, shapes, strict=True)
    ]

    def run(i: int) -> float:
        try:
            return time_ms(modules[i], inputs[i], device)
        except RuntimeError as error:
            reason = (str(error).strip().splitlines() or ["RuntimeError"])[-1]
            raise Problem(f"{entries[i]['file']}: does not run on {device} in {a.precision}: {reason}") from error

    partial = a.output.with_name(f"{a.output.name}.partial")
    kept = _Kept(partial, {"conditions": conditions, **settings, "export": export}, len(entries))
    if kept.lines:
        print(f"going on with {partial}: {len(kept.lines) - 1} of {a.repeats} rounds are there", file=sys.stderr)
    with timing_settings(device, a.threads):
        for i in range(len(entries)):
            for _ in range(a.warmup):
                run(i)
        if not kept.lines:
            kept.add([run(0) for _ in range(DRIFT_CHECKS)])
        for done in range(len(kept.lines) - 1, a.repeats):
            kept.add([run(i) for i in range(len(entries))])
            _say_progress(done + 1, a.repeats)
        at_end = [run(0) for _ in range(DRIFT_CHECKS)]

    at_start, *rounds = kept.lines
    times, drifts = without_drift([list(enumerate(ms)) for ms in rounds])
    drift = statistics.median(at_end) / statistics.median(at_start)
    if abs(drift - 1) > TABLE_DRIFT:
        print(f"the machine drifted: what came first took {drift:.2f} times as long at the end. All were timed in turns, so they compare",
              file=sys.stderr)  # fmt: skip
    timed = [_row(times[i]) for i in range(len(entries))]
    n = len(export["operations"])
    table: dict[str, Any] = {
        "format": export["table_format"],
        "checksum": "",
        "unit": "ms",
        "conditions": conditions,
        "measured": {
            "date": datetime.date.today().isoformat(),
            **settings,
            **wait_policy_of(device, a.threads),
            "drift": round(drift, 3),
            "unrest": round(spread(drifts), 3),
        },
        "space": export["space"],
        "rows": dict(sorted((entry["key"], row) for entry, row in zip(entries[:n], timed[:n], strict=True))),
    }
    if len(entries) > n:
        table["networks"] = [
            {"architecture": entry["architecture"], **row} for entry, row in zip(entries[n:], timed[n:], strict=True)
        ]
    table["checksum"] = checksum(table)
    _write(a.output, table)
    partial.unlink()
    print(f"table: {a.output}  ({n} rows, {len(entries) - n} networks; {conditions['device']})")


def _read_export() -> dict[str, Any]:
    """Read what is to be timed, and require every file of it."""
    path = HERE / EXPORT
    try:
        export = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Problem(
            f"{path}: {error.strerror}. This file belongs beside what 'nni-proxyless latency export' has written"
        ) from error
    except ValueError as error:
        raise Problem(f"{path}: not a whole JSON file: {error}") from error
    said = export.get("format") if isinstance(export, dict) else None
    if said != EXPORT_FORMAT:
        raise Problem(f"{path}: format is {said!r}; allowed: {EXPORT_FORMAT!r}")
    missing = [e["file"] for e in (*export["operations"], *export["networks"]) if not (HERE / e["file"]).exists()]
    if missing:
        raise Problem(
            f"{HERE}: {len(missing)} files are not there, the first is {missing[0]}. Copy the folder once more"
        )
    return export


def _load(file: str, device: torch.device, precision: str, exported_by: str) -> Any:
    with warnings.catch_warnings():
        # Deprecated since torch 2.15, and the one form that older torch reads without the code of the module.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated", category=FutureWarning)
        try:
            module = torch.jit.load(str(HERE / file), map_location=device)
        except RuntimeError as error:
            raise Problem(
                f"{file}: cannot be read: {str(error).strip().splitlines()[0]} "
                f"(torch is {torch.__version__} here, {exported_by} where it was exported)"
            ) from error
    return module.to(getattr(torch, precision)).eval()


def _inputs(entry: Mapping[str, Any], batch: int, device: torch.device, precision: str) -> tuple[torch.Tensor, ...]:
    """A batch for an operation of several inputs: noise, and of integers and truth values those that the export has seen."""
    found = []
    for spec in entry["inputs"]:
        dims = spec.get("batch_dims", [] if batch == 1 else None)
        if dims is None:
            raise Problem(f"{entry['key']}: it is not known what a batch of its input looks like; allowed: --batch 1")
        sizes = [n * batch if i in dims else n for i, n in enumerate(spec["shape"])]
        if "value" in spec:
            seen = torch.tensor(spec["value"], dtype=getattr(torch, spec["dtype"])).reshape(spec["shape"])
            found.append(seen.repeat([batch if i in dims else 1 for i in range(len(sizes))]).to(device))
        else:
            found.append(noise_like(sizes, device, precision))
    return tuple(found)


def _row(times_ms: Sequence[float]) -> dict[str, Any]:
    median, p95 = median_and_p95(times_ms)
    return {"median": significant(median), "p95": significant(p95), "count": len(times_ms)}


def _say_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\rround {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done % max(1, total // 10) == 0:
        print(f"round {done} of {total}", file=sys.stderr, flush=True)


def _write(path: Path, table: Mapping[str, Any]) -> None:
    """All of it or nothing; YAML that is nearly JSON, a row a line."""
    lines = []
    for name, part in table.items():
        if name == "rows":
            lines += ["rows:", *(f"  {_flow(key)}: {_flow(row)}" for key, row in part.items())]
        elif name == "networks":
            lines += ["networks:", *(f"- {_flow(network)}" for network in part)]
        else:
            lines.append(f"{name}: {_flow(part)}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _flow(value: Any) -> str:
    """JSON, in which however every float has a point: to YAML 1.1, 1e-05 is a text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name, ensure_ascii=False)}: {_flow(v)}" for name, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float) and "." not in repr(value):
        return repr(value).replace("e", ".0e")
    return json.dumps(value, ensure_ascii=False)


class _Kept:
    """The raw milliseconds so far, in a file: a line that says of what, the first entry's, then a line a round."""

    def __init__(self, path: Path, of: Mapping[str, Any], n_entries: int):
        self.path = path
        self.lines: list[list[float]] = []
        head = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest() + "\n"
        length = 0
        if path.exists():
            first, *rest = path.read_text(encoding="ascii", errors="replace").splitlines(keepends=True) or [""]
            if first == head:
                length = len(first)
                for line in rest:
                    if not line.endswith("\n"):
                        break  # cut off by the kill
                    self.lines.append(self._parse(line, n_entries if self.lines else DRIFT_CHECKS))
                    length += len(line)
        if length:
            os.truncate(path, length)
        else:
            path.write_text(head, encoding="ascii")

    def _parse(self, line: str, expected: int) -> list[float]:
        try:
            times = [float(ms) for ms in json.loads(line)]
        except (ValueError, TypeError):
            times = []
        if len(times) != expected or not all(0 < ms < float("inf") for ms in times):
            raise Problem(
                f"{self.path}: line {len(self.lines) + 2} is not as it was written; delete the file to begin anew"
            )
        return times

    def add(self, times_ms: Sequence[float]) -> None:
        """Keep what was timed, as precise as it is written: going on later must not change a digit."""
        self.lines.append([significant(ms) for ms in times_ms])
        with self.path.open("a", encoding="ascii") as file:
            file.write(json.dumps(self.lines[-1]) + "\n")


if __name__ == "__main__":
    sys.exit(main())
