"""``nni-proxyless fetch``: results of trials on other machines, brought here."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from typing import TYPE_CHECKING, Any

from ..core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from ..report.nni_database import Experiment

__all__ = ["add_fetch_command"]

logger = logging.getLogger(__name__)


def add_fetch_command(commands: Any) -> None:
    """Add ``fetch`` to the commands of the parser."""
    fetch = commands.add_parser(
        "fetch", help="bring the results of trials on other machines here",
        description="Copy the results of an experiment's trials on other machines (trainingService.platform: remote) into the "
        "experiment's folder here, over ssh, with the user, port and key of its configuration. Then report finds them, and "
        "so do the buttons for TensorBoard and Netron. It may be given again: while trials run it brings what there is. "
        "Fails if a trial could not be fetched.",
    )  # fmt: skip
    fetch.add_argument("experiment", nargs="?", metavar="EXPERIMENT_ID", help="default: the experiment started last")
    fetch.add_argument("--ssh", default="ssh", metavar="COMMAND",
                       help="the ssh to use, with its options, such as 'ssh -F my_config'; it must ask for nothing")  # fmt: skip
    fetch.set_defaults(run=_fetch)


def _fetch(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..core.progress import bar
    from ..report.nni_database import known_experiments, read_experiment
    from ..report.remote_results import Fetched, fetch, remote_trials

    ssh, name = _words(arguments.ssh), arguments.experiment
    if name is not None and name not in (known := known_experiments()):
        raise UserError(f"fetch: '{name}' is no NNI experiment of this machine.{did_you_mean(name, known)}")
    experiment = read_experiment(name)
    total = len(remote_trials(experiment))
    n_fetched = 0
    with bar(total, "fetch", "trial") as shown:
        for result in fetch(experiment, ssh):
            trial = result.trial
            if isinstance(result, Fetched):
                n_fetched += 1
                size = f"{result.n_files} files, {result.n_bytes / 2**20:.1f} MiB"
                tqdm.write(f"{trial.id}  {trial.state}  {result.machine.name}  {size}  {trial.folder}", sys.stdout)
            else:
                logger.error("trial %s: not fetched: %s", trial.id, result.reason)
            shown.update()
    if n_fetched:
        _show_netron(experiment)
    print(f"{n_fetched} of {total} trials are here: nni-proxyless report {experiment.id}")
    return 0 if n_fetched == total else 1


def _show_netron(experiment: Experiment) -> None:
    """Trials on this machine see to this button themselves; those on others cannot."""
    from ..search.nni_web_ui import NETRON, answers, tag_for_netron

    try:
        if any((trial.folder / "model.onnx").exists() for trial in experiment.trials) and answers(*NETRON):
            tag_for_netron(experiment.id)
    except Exception as error:  # the results are here, which is worth more than a button
        logger.warning("NNI's Netron button will not be shown: %s", error)


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"--ssh: {command!r}: {error}") from error
    if not words:
        raise UserError("--ssh: a command is needed, such as ssh")
    return words
