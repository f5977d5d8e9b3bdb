"""Watch a running experiment: new lines, and the progress of its trials."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from .nni_database import Experiment, error_of
from .runs import Found, trials_of
from .trial_progress import Plan, TrialProgress, ended_line, plan_of, progress_of

__all__ = ["Watcher", "first_line", "last_line"]

_GOING = ("RUNNING", "WAITING")


@dataclass
class Watcher:
    """What has been printed of an experiment so far, so that nothing is printed twice.

    Attributes
    ----------
    running
        The trials that have not ended, in the order in which they were submitted.
    failed
        The trials that have ended without a result.
    """

    running: list[TrialProgress] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _ended: set[str] = field(default_factory=set)
    _printed: dict[str, tuple[int, str]] = field(default_factory=dict)
    _plans: dict[str, Plan] = field(default_factory=dict)

    def update(self, experiment: Experiment, now: float) -> tuple[list[str], list[str]]:
        """Look at the experiment as it was just read.

        Parameters
        ----------
        now
            Seconds since 1970.

        Returns
        -------
        tuple
            A line for each trial that has ended since the last look; and for who sees no bars, a line for each epoch and stage
            of the others. Of epochs that lay behind a trial when it was seen first, the last one alone.
        """
        ended, steps = [], []
        self.running = []
        for f in trials_of(experiment):
            if f.name in self._ended:
                continue
            plan = self._plan(f)
            if f.state in _GOING:
                progress = progress_of(f, plan, now)
                self.running.append(progress)
                steps += self._steps(f, progress, plan)
            else:
                steps += self._steps(f, progress_of(f, plan, now), plan, stages=False)
                ended.append(ended_line(f, plan))
                self._ended.add(f.name)
                if f.failed:
                    self.failed.append(f.name)
        return ended, steps

    def _plan(self, f: Found) -> Plan:
        known = self._plans.get(f.name)
        if known is None or known.unit is None:
            known = self._plans[f.name] = plan_of(f)
        return known

    def _steps(self, f: Found, progress: TrialProgress, plan: Plan, stages: bool = True) -> list[str]:
        """Of one trial, what is new."""
        is_new = f.name not in self._printed
        epoch, stage = self._printed.get(f.name, (0, ""))
        self._printed[f.name] = (progress.epoch, progress.stage)
        if is_new and not stages:  # it ended before anybody looked
            return []
        first = max(epoch, progress.epoch - 1) if is_new else epoch
        lines = [progress_after(f, plan, n).words for n in range(first + 1, progress.epoch + 1)]
        if stages and progress.stage and progress.stage != stage:
            lines.append(progress.stage)
        return [f"{progress.name}: {line}" for line in lines]


def progress_after(f: Found, plan: Plan, epoch: int) -> TrialProgress:
    """How far a trial was when it had reported this epoch."""
    assert f.trial is not None
    trial = dataclasses.replace(
        f.trial, reported=f.trial.reported[:epoch], reported_at=f.trial.reported_at[:epoch], state="RUNNING"
    )
    then = dataclasses.replace(f, state="RUNNING", trial=trial)
    return dataclasses.replace(progress_of(then, plan, trial.reported_at[-1]), stage="")


def first_line(experiment: Experiment) -> str:
    """Which experiment it is, how many trials it will have, and where its web UI is."""
    config = experiment.config
    most, at_once = config.get("maxTrialNumber"), config.get("trialConcurrency")
    # A tuner may end before that: GridSearch does, with all combinations.
    trials = "trials until it is stopped" if most is None else f"at most {most} trial{'s' * (most != 1)}"
    name = f" ({config['experimentName']})" if config.get("experimentName") else ""
    ui = f"; web UI: {experiment.web_ui}" if experiment.web_ui and experiment.running else ""
    return f"experiment {experiment.id}{name}: {trials}, {at_once} at a time{ui}"


def last_line(experiment: Experiment) -> str:
    """How an experiment has ended."""
    states = [f.state for f in trials_of(experiment)]
    came = f"{states.count('SUCCEEDED')} of {len(states)} trials succeeded" if states else "it has had no trial"
    if experiment.status == "ERROR":
        log = experiment.folder / "log" / "nnimanager.log"
        return f"experiment {experiment.id}: NNI has ended it with an error, {came}: {error_of(experiment)}; its log: {log}"
    return f"experiment {experiment.id}: {came}"
