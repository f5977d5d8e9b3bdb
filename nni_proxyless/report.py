"""What searches have found, as a table: of an NNI experiment, running or stopped, or of result folders."""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .config import TrainConfig
from .config_file import read_config
from .derive import Architecture, build_network
from .errors import UserError, did_you_mean
from .latency import DeviceEstimator
from .pictures.front import write_front
from .pictures.nets import require_picture
from .training.loop import train

__all__ = ["Found", "figures", "find_experiment", "find_folders", "report"]

NNI_HOME = Path("~/nni-experiments")
FAILED_STATES = ("FAILED", "SYS_CANCELED", "USER_CANCELED", "UNKNOWN")


@dataclass(frozen=True)
class Found:
    """One search, or one final training: a trial of an experiment, or a folder.

    Attributes
    ----------
    name
        Trial id, or name of the folder.
    state
        NNI's state of the trial; SUCCEEDED for a folder with results.
    folder
        Where its files are.
    """

    name: str
    state: str
    folder: Path

    @functools.cached_property
    def architecture(self) -> Architecture | None:
        path = self.folder / "architecture.json"
        return Architecture.read(path) if self.state == "SUCCEEDED" and path.exists() else None

    @property
    def final_accuracy(self) -> float | None:
        for path in (self.folder / "final" / "result.json", self.folder / "result.json"):  # of a search, of a training
            if path.exists():
                return float(json.loads(path.read_text(encoding="utf-8"))["accuracy"])
        return None

    @property
    def reason(self) -> str:
        """The last thing that a failed trial said."""
        path = self.folder / "trial.stderr"
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() if path.exists() else []
        return lines[-1] if lines else "it left no message"


def report(
    source: str | None, *, train_best: bool = False, train_config: Path | None = None, front: Path | None = None,
    reference: Path | None = None,
) -> tuple[str, bool]:  # fmt: skip
    """The table, and whether all trials have succeeded.

    Parameters
    ----------
    source
        An experiment's id, or a folder with results in it or below it; None for the experiment that was started last.
    train_best
        Whether to train the network of the best search accuracy first.
    train_config
        How, a ``train.yml``.
    front
        Where to draw accuracy against latency.
    reference
        A folder with further nets for table and picture, such as ``reference`` writes.

    Raises
    ------
    UserError
        There is no such experiment or folder, or nothing in it.
    """
    if front is not None:
        require_picture(front, "--front")
    found = find_folders(Path(source)) if source and Path(source).is_dir() else find_experiment(source)
    if reference is not None:
        there = {f.folder.resolve() for f in found}
        found += [f for f in find_folders(reference) if f.folder.resolve() not in there]
    failed = [
        f"trial {f.name}: {f.state}: {f.reason}; its files: {f.folder}" for f in found if f.state in FAILED_STATES
    ]
    if train_best and not failed:
        done = [(f.architecture.search["accuracy"], f) for f in found
                if f.architecture is not None and "accuracy" in f.architecture.search]  # fmt: skip
        if not done:
            raise UserError("report: no search has finished yet: nothing to train")
        best = max(done, key=lambda item: item[0])[1]
        train(read_config(TrainConfig, train_config), best.folder / "architecture.json", best.folder / "final")
    measured = measure_side_by_side([f.architecture for f in found])
    if front is not None:
        write_front(found, measured, front)
    return "\n".join([table(found, measured), *failed]), not failed


def figures(architecture: Architecture) -> str:
    """The figures of one derived network, a line each."""
    latency = architecture.latency

    unit = latency.get("unit", "ms")

    def ms(name: str) -> str:
        return "-" if latency.get(name) is None else f"{latency[name]:.3f} {unit}"

    predicted, calibrated = (
        text if text == "-" else f"{text} {unit}" for text in _predicted_and_calibrated(architecture)
    )

    return "\n".join(
        [
            f"choices:       {' '.join(f'{label}={choice}' for label, choice in architecture.choices.items())}",
            f"latency:       target {ms('target_ms')}, expected {ms('expected_ms')}; the net: predicted {predicted}, calibrated {calibrated}, measured {ms('measured_ms')}",
            f"multiply-adds: {architecture.macs / 1e6:.3f} M",
            f"parameters:    {architecture.n_params / 1e6:.3f} M",
            f"accuracy:      {architecture.search.get('accuracy', float('nan')):.4f} on the validation part, {_weights_of(architecture)}",
        ]
    )


def _predicted_and_calibrated(architecture: Architecture) -> tuple[str, str]:
    """Milliseconds: the sum of the rows, and what the table's calibration, if it has one, makes of it."""
    table = _number(architecture.latency.get("table_ms"), ".3f")
    if not architecture.latency.get("calibrated"):
        return table, "-"
    return _number(architecture.latency.get("predicted_ms"), ".3f"), table


def _weights_of(architecture: Architecture) -> str:
    if architecture.search.get("weights") == "fresh":
        return "fresh weights: train it from scratch"
    if "test_accuracy" not in architecture.search:
        return "weights of the supernet"
    return f"{architecture.search['test_accuracy']:.4f} on the test images, trained by the search itself"


def table(found: Sequence[Found], measured: Sequence[float | None]) -> str:
    """One row per search, with the milliseconds of :func:`measure_side_by_side`."""
    header = (
        "search",
        "state",
        "target ms",
        "predicted ms",
        "calibrated ms",
        "measured ms",
        "MACs",
        "params",
        "search acc",
        "final acc",
    )
    rows: list[tuple[str, ...]] = [header]
    for f, ms in zip(found, measured, strict=True):
        a = f.architecture
        if a is None:
            rows.append((f.name, f.state, *["-"] * 8))
            continue
        rows.append((
            f.name, f.state, _number(a.latency.get("target_ms"), ".3f"), *_predicted_and_calibrated(a), _number(ms, ".3f"),
            f"{a.macs / 1e6:.2f} M", f"{a.n_params / 1e3:.1f} k", _number(a.search.get("accuracy"), ".4f"), _number(f.final_accuracy, ".4f"),
        ))  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = ["  ".join(cell.rjust(width) if i > 1 else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
             for row in rows]  # fmt: skip
    return "\n".join([*lines, "", *(f"{f.name}: {f.folder}" for f in found)])


def measure_side_by_side(architectures: Sequence[Architecture | None]) -> list[float | None]:
    """Milliseconds of every network, timed in turns in one run, so that a drift of the machine hits all alike.

    A network that was measured on another machine or runtime keeps the figure of its own search.
    """
    result = [None if a is None else a.latency.get("measured_ms") for a in architectures]
    conditions = [None if a is None else a.latency.get("measured_conditions") for a in architectures]
    for wanted in {json.dumps(c, sort_keys=True): c for c in conditions if c is not None}.values():
        here = [i for i, c in enumerate(conditions) if c == wanted]
        try:
            estimator = DeviceEstimator(**{name: wanted[name] for name in ("threads", "batch", "precision")},
                                        device=wanted.get("torch_device", "cpu"))  # fmt: skip
        except (KeyError, ValueError):
            continue
        if dict(estimator.conditions) != wanted:
            continue
        networks = [(build_network(a), a.input_shape) for i in here if (a := architectures[i]) is not None]
        for i, measurement in zip(here, estimator.measure(networks), strict=True):
            result[i] = measurement.median_ms
    return result


def find_folders(root: Path) -> list[Found]:
    """All results at or below a folder."""
    found = [Found(str(path.parent.relative_to(root)) if path.parent != root else root.name, "SUCCEEDED", path.parent)
             for path in sorted(root.rglob("architecture.json"))]  # fmt: skip
    if not found:
        raise UserError(f"report: no architecture.json in or below '{root}'")
    return found


def find_experiment(experiment: str | None) -> list[Found]:
    """The trials of an NNI experiment on this machine, in the order in which they were started."""
    home = NNI_HOME.expanduser()
    try:
        known = json.loads((home / ".experiment").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"report: no NNI experiment on this machine ({home / '.experiment'}: {error})") from error
    if experiment is None:
        experiment = max(known, key=lambda name: known[name]["startTime"])
    elif experiment not in known:
        raise UserError(
            f"report: '{experiment}' is neither a folder nor an experiment of this machine.{did_you_mean(experiment, known)}"
        )
    database = Path(known[experiment]["logDir"]) / experiment / "db" / "nni.sqlite"
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            events = connection.execute(
                "SELECT trialJobId, event, logPath FROM TrialJobEvent ORDER BY timestamp, rowid"
            ).fetchall()
    except sqlite3.Error as error:
        raise UserError(f"report: experiment {experiment}: {database}: {error}") from error
    trials: dict[str, Found] = {}
    for name, event, log_path in events:
        folder = Path(log_path) if log_path else trials[name].folder
        if event not in ("ADD_CUSTOMIZED", "ADD_HYPERPARAMETER", "IMPORT_DATA"):
            trials[name] = Found(name, event, folder)
    if not trials:
        raise UserError(f"report: experiment {experiment} has no trial yet")
    return list(trials.values())


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)
