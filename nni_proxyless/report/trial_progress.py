"""Progress of a trial in words: its epoch, its figures and the remaining time.

A trial reports epochs and figures to NNI, so those of other machines are known as well. How many epochs there will be,
NNI does not know: that stands in the trial's folder or, where there is none yet, in the experiment's own files.
"""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.shipped import shipped
from ..config.strict_yaml import parse_value
from ..core.errors import UserError
from ..core.merit import ACCURACY
from ..latency.digits import in_words
from ..models.deviation import deviation_of
from .merits import merit_reported
from .runs import Found, settings_in

__all__ = ["TrialProgress", "ended_line", "plan_of", "progress_of", "time_words", "trial_name"]

_RECENT = 5  # epochs whose median is taken for those to come: warm-up epochs are quicker than those that follow


@dataclass(frozen=True)
class Plan:
    """What does not change while a trial runs: its epochs, and the unit of its latencies; None for not known."""

    epochs: int | None = None
    unit: str | None = None


@dataclass(frozen=True)
class TrialProgress:
    """A trial that has not ended, at one moment.

    Attributes
    ----------
    id, name
        NNI's id; and that with those parameters in which the trials of the experiment differ.
    epoch, epochs
        How many are done, and how many there will be; None for not known.
    figures
        Of the last epoch: figure of merit, latency of the network that would be derived now, expected latency; empty before the first.
    stage
        What it does before the first epoch and after the last; empty between them.
    seconds_left
        None for not known. Until its last epoch: what comes after that is short.
    """

    id: str
    name: str
    epoch: int
    epochs: int | None
    figures: str
    stage: str
    seconds_left: float | None

    @property
    def words(self) -> str:
        """All of it, the time left first: a narrow terminal cuts off the end."""
        epoch = f"epoch {self.epoch}/{self.epochs}" if self.epochs else f"epoch {self.epoch}" if self.epoch else ""
        left = "" if self.seconds_left is None or self.stage else f"about {time_words(self.seconds_left)} left"
        return ", ".join(part for part in (epoch if self.epoch else "", self.stage, left, self.figures) if part)


def progress_of(f: Found, plan: Plan, now: float) -> TrialProgress:
    """A trial that has not ended, as its experiment was just read.

    Parameters
    ----------
    now
        Seconds since 1970.
    """
    assert f.trial is not None
    epoch, left = len(f.trial.reported), None
    per_epoch = _seconds_per_epoch(f)
    if epoch and plan.epochs is not None and epoch < plan.epochs and per_epoch is not None:
        left = max(0.0, (plan.epochs - epoch) * per_epoch - (now - f.trial.reported_at[-1]))
    figures = _figures(f.trial.reported[-1], plan.unit, _is_ours(f)) if epoch else ""
    return TrialProgress(f.trial.id, trial_name(f), epoch, plan.epochs, figures, _stage(f, plan), left)


def plan_of(f: Found) -> Plan:
    """By what the trial has written into its folder; else by its parameters, its command and the file that this names."""
    unit = settings_in(f.folder / "latencies.yaml").get("unit")
    epochs = f.epochs
    if epochs is None:
        epochs = _planned_epochs(f)
    return Plan(epochs if isinstance(epochs, int) else None, unit if isinstance(unit, str) else None)


def trial_name(f: Found) -> str:
    """Such as ``trial a1B2c (target_ms 50%)``."""
    assert f.trial is not None
    space = {} if f.experiment is None else f.experiment.config.get("searchSpace") or {}
    # What has one value for all trials is there for the web UI to show, and tells none from another.
    differing = {path: value for path, value in f.trial.parameters.items() if not _is_constant(space.get(path))}
    short = {path: path.removesuffix(".name").rpartition(".")[2] for path in differing}
    if len(set(short.values())) < len(short):
        short = {path: path for path in differing}
    texts = [f"{short[path]} {value}" for path, value in differing.items()]
    return f"trial {f.trial.id} ({', '.join(texts)})" if texts else f"trial {f.trial.id}"


def ended_line(f: Found, plan: Plan) -> str:
    """The result of a trial in one line: its figures, or why it has none and where its log is."""
    took = "" if f.seconds is None else f" after {time_words(f.seconds)}"
    if f.failed:
        log = f"; its log: {f.folder / 'trial.stderr'}" if (f.folder / "trial.stderr").exists() else ""
        return f"{trial_name(f)}: {f.state}{took}: {f.reason}{log}"
    final = (f.trial.final or (f.trial.reported or [{}])[-1]) if f.trial is not None else {}
    figures = _figures(final, plan.unit, _is_ours(f))
    if isinstance(measured := final.get("measured_ms"), (int, float)):
        latency = (final if f.architecture is None else f.architecture.latency) if _is_ours(f) else {}
        deviation = deviation_of(latency)
        figures += f", measured {in_words(measured)} ms" + (f", {deviation.brief}" if deviation is not None else "")
    merit = merit_reported(final) or ACCURACY
    on_test = final.get(f"test_{merit.name}")
    if isinstance(on_test, (int, float)) and merit.score(on_test) != final.get("default"):
        figures += f", {merit.name} {merit.in_words(on_test)} on the test images"
    return f"{trial_name(f)}: {f.state}{took}" + (f": {figures}" if figures else "")


def time_words(seconds: float) -> str:
    """``40 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _figures(metrics: Mapping[str, Any], unit: str | None, ours: bool) -> str:
    parts = []
    merit = merit_reported(metrics)
    if merit is not None and ours:
        parts.append(f"{merit.name} {merit.in_words(merit.score(metrics['default']))}")
    elif merit is not None:
        parts.append(f"default {metrics['default']:.4f}")
    derived, expected = metrics.get("table_ms"), metrics.get("expected_ms")
    if isinstance(derived, (int, float)) and isinstance(expected, (int, float)):
        # A number without its unit, rather than with one that may be wrong: called ms, it may be multiply-adds.
        parts.append(f"network {in_words(derived)}{f' {unit}' if unit else ''} (expected {in_words(expected)})")
    return ", ".join(parts)


def _seconds_per_epoch(f: Found) -> float | None:
    """Of the last epochs, the median. A trial that was resumed tells of its earlier epochs all at once, so what an epoch says
    that it took counts where that is more than what lies between two of them."""
    assert f.trial is not None
    took, before = [], None
    for metrics, at in zip(f.trial.reported, f.trial.reported_at, strict=True):
        own = metrics.get("seconds")
        took.append(max(0.0 if before is None else at - before, own if isinstance(own, (int, float)) else 0.0))
        before = at
    return statistics.median(known) if (known := [s for s in took if s > 0][-_RECENT:]) else None


def _stage(f: Found, plan: Plan) -> str:
    assert f.trial is not None
    epoch = len(f.trial.reported)
    if f.state == "WAITING":
        return "waits for its turn"
    if epoch and (plan.epochs is None or epoch < plan.epochs):
        return ""
    if not _is_ours(f):
        return "" if epoch else "no result yet"
    if f.trial.host is not None:
        where = f"on {f.trial.host}"
        return f"finishing {where}" if epoch else f"setting up {where}"
    if epoch:
        stage = "measuring its network" if (f.folder / "latencies.yaml").exists() else "finishing"
    elif (f.folder / "latencies.yaml").exists():
        stage = "in its first epoch"
    elif (f.folder / "search.yml").exists():
        stage = "measuring latencies"
    else:
        stage = "starting"
    return f"{stage}: {waits}" if (waits := _wait_reason(f.folder)) else stage


def _wait_reason(folder: Path) -> str:
    """The last line of a trial's log, if that says that it waits for something."""
    try:
        with (folder / "trial.stderr").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - 2000))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    said = re.fullmatch(r"\d\d:\d\d:\d\d ((?:waiting: |measuring waits ).*)", lines[-1] if lines else "")
    return said[1].partition(";")[0] if said else ""


def _is_constant(spec: Any) -> bool:
    return isinstance(spec, Mapping) and spec.get("_type") == "choice" and len(spec.get("_value") or ()) == 1


def _is_ours(f: Found) -> bool:
    return f.experiment is not None and "nni-proxyless" in str(f.experiment.config.get("trialCommand"))


def _planned_epochs(f: Found) -> Any:
    """As the experiment's own files have it; None where the trials run something else, or nothing says so."""
    assert f.trial is not None
    assert f.experiment is not None
    command = str(f.experiment.config.get("trialCommand"))
    called = re.search(r"nni-proxyless\s+(search|train)\b([^;&|<>]*)", command)
    if called is None:
        return None
    key = "training.epochs" if called[1] == "search" else "epochs"
    if key in f.trial.parameters:
        return f.trial.parameters[key]
    try:
        words = shlex.split(called[2])
    except ValueError:
        return None
    given: dict[str, str] = dict(word.partition("=")[::2] for word in words if "=" in word)
    if "--epochs" in words[:-1]:
        given["epochs"] = words[words.index("--epochs") + 1]
    if key in given:
        try:
            return parse_value(given[key], key)
        except UserError:
            return None
    folder = Path(str(f.experiment.config.get("trialCodeDirectory") or "."))
    for word in words:
        # A recipe of the final training goes by its bare name.
        path = folder / word if Path(word).suffix else shipped(f"recipes/{word}.yml")
        if word.endswith(".json") or not path.is_file():
            continue
        content: Any = settings_in(path)
        for part in key.split("."):
            content = content.get(part) if isinstance(content, Mapping) else None
        return content
    return None
