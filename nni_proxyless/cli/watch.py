"""``nni-proxyless watch``: show a running NNI experiment in the terminal."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError, did_you_mean
from ..core.streams import say
from ..core.user_path import path_argument, text_argument

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..report.trial_progress import TrialProgress

__all__ = ["add_watch_command"]

PORT = 8080  # NNI's own
INTERVAL = 1.0  # seconds between two looks


def add_watch_command(commands: Any) -> None:
    """Add ``watch`` to the commands of the parser."""
    watch = commands.add_parser(
        "watch", help="an NNI experiment while it runs: a bar per trial",
        description="Show how far the trials of an NNI experiment of this machine are: a bar for each that runs, with its epoch, "
        "the time left, accuracy and latency, and a line for each that has ended; without a terminal a line per epoch. "
        "Ctrl-C ends the watching, not the experiment. Fails if a trial has failed.",
    )  # fmt: skip
    watch.add_argument(
        "experiment", nargs="?", type=text_argument, metavar="EXPERIMENT_ID", help="default: the one that runs"
    )
    watch.add_argument("--create", type=path_argument, metavar="experiment.yml",
                       help="start this experiment (nnictl create), watch it, and stop it at the end or when interrupted")  # fmt: skip
    watch.add_argument("--port", type=int, metavar="N", help=f"with --create: of the web UI; default: {PORT}")
    watch.add_argument("--train-best", type=path_argument, metavar="train.yml",
                       help="then do what nni-proxyless report EXPERIMENT_ID --train-best does")  # fmt: skip
    watch.set_defaults(run=_watch)


def _watch(arguments: argparse.Namespace) -> int:
    if arguments.train_best is not None:
        _check_settings(arguments.train_best)
    if arguments.create is not None:
        if arguments.experiment is not None:
            raise UserError(f"watch: --create starts an experiment; not allowed beside it: {arguments.experiment}")
        name, code = _create_and_follow(arguments.create, PORT if arguments.port is None else arguments.port)
    else:
        if arguments.port is not None:
            raise UserError("watch: --port is of an experiment that --create starts; another one has its port")
        name = _chosen(arguments.experiment)
        try:
            code = _follow(name)
        except KeyboardInterrupt:
            say(f"the experiment goes on; to watch it again: nni-proxyless watch {name}; to end it: nnictl stop {name}")
            raise
    if code or arguments.train_best is None:
        return code
    from .report import report

    return report([name], train_best=arguments.train_best)


def _check_settings(path: Path) -> None:
    """The settings of a training that comes after hours are to be refused now."""
    from ..config.read import read_config
    from ..config.train_config import TrainConfig

    read_config(TrainConfig, path)


def _create_and_follow(file: Path, port: int) -> tuple[str, int]:
    from ..report.nnictl import NnictlError, created

    name = ""
    try:
        with created(file, port) as name:
            code = _follow(name)
    except NnictlError as error:
        say(f"nni-proxyless: {error}")
        code = 1
    return name, code


def _chosen(name: str | None) -> str:
    """The experiment that is meant."""
    from ..report.nni_database import known_experiments, running_experiments

    if name is not None:
        known = known_experiments()
        if name not in known:
            raise UserError(f"watch: '{name}' is no NNI experiment of this machine.{did_you_mean(name, known)}")
        return name
    living = running_experiments()
    found = {n: noted for n, noted in living.items() if noted.get("status") not in ("DONE", "ERROR")} or living
    if not found:
        raise UserError(
            "watch: no NNI experiment runs on this machine; start one: nnictl create --config experiment.yml, or name one that has ended"
        )
    if len(found) > 1:
        which = ", ".join(f"{n} ({noted.get('experimentName')})" for n, noted in found.items())
        raise UserError(f"watch: several experiments run; name one of them: {which}")
    return next(iter(found))


def _follow(name: str) -> int:
    """Show an experiment until all of its trials have ended; returns 1 if one has failed."""
    from ..report.nni_database import read_experiment
    from ..report.watch import Watcher, first_line, last_line

    watcher = Watcher()
    with _Bars() as bars:
        experiment = read_experiment(name)
        bars.write(first_line(experiment))
        waits = False
        while True:
            began = time.process_time()
            experiment = read_experiment(name)
            ended, steps = watcher.update(experiment, time.time())
            for line in ended if bars.on_terminal else [*steps, *ended]:
                bars.write(line)
            waited, waits = waits, experiment.waits_for_tuner  # some tuners say so between two generations of trials
            if experiment.is_over or (waited and waits):
                break
            bars.show(watcher.running)
            # A hundred trials are much to read, and the trials need the cores: looking takes 2 % of one at most.
            time.sleep(max(INTERVAL, 50 * (time.process_time() - began)))
        bars.write(last_line(experiment))
    return 1 if watcher.failed or experiment.status == "ERROR" else 0


class _Bars:
    """A bar for each trial that runs, on stderr, and lines above them, on stdout; no bars where stderr is no terminal, or one
    that does not say how large it is: of 0 lines, tqdm shows none."""

    def __init__(self) -> None:
        try:
            self.on_terminal = os.get_terminal_size(sys.stderr.fileno()).lines > 0
        except (OSError, ValueError):  # no terminal; no file
            self.on_terminal = False
        self._bars: dict[str, tqdm] = {}

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *args: object) -> None:
        self.show([])

    def write(self, line: str) -> None:
        from tqdm import tqdm

        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()

    def show(self, running: Sequence[TrialProgress]) -> None:
        """These trials, and no others."""
        from tqdm import tqdm

        if not self.on_terminal:
            return
        for gone in self._bars.keys() - {progress.id for progress in running}:
            self._bars.pop(gone).close()
        for progress in running:
            if progress.id not in self._bars:
                self._bars[progress.id] = tqdm(file=sys.stderr, leave=False, dynamic_ncols=True, bar_format=" ")
            bar = self._bars[progress.id]
            # tqdm's own time left counts from the first look on; and what is said is said in whole.
            name, words = (text.replace("{", "{{").replace("}", "}}") for text in (progress.name, progress.words))
            bar.bar_format = f"{name} |{{bar:10}}| {words}"
            bar.total, bar.n = progress.epochs or max(1, progress.epoch), progress.epoch
            bar.refresh()
