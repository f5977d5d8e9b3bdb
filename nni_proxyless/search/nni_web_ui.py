"""A trial in NNI's web UI: the order of its figures, and the buttons TensorBoard and Netron.

TensorBoard  NNI 3.0 opens ``EXPERIMENT/trials/TRIAL/output/tensorboard``, and a trial on this machine writes to
             ``EXPERIMENT/environments/ENVIRONMENT/trials/TRIAL``. A link leads from the one to the other.
Netron       opens ``model.onnx`` of a trial, but is shown only for experiments with a tag that ``nnictl create`` does not give.
             It needs the internet: NNI's manager fetches netron.app, and dies with an error where it cannot. So a trial
             gives the tag only where that address answers.

A search is worth more than a button: whatever goes wrong here is a line in the log. Trials on other machines are left as they
are, since nothing that they do there reaches NNI's manager.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path

__all__ = ["answers", "connect_tensorboard", "in_order", "show_netron", "tag_for_netron"]

_logger = logging.getLogger(__name__)

TAG = "retiarii"  # NNI's old name for its own architecture search; nothing in NNI 3.0 but this button reads it
NETRON = ("netron.app", 443)
# But accuracy, which is ``default``.
MERITS = ("balanced_accuracy", "f1", "average_precision", "label_accuracy", "mae", "rmse", "r2", "iou")
FIRST = (
    "default", *MERITS, "test_accuracy", *(f"test_{name}" for name in MERITS), "measured_ms", "table_ms", "expected_ms", "macs", "n_params",
)  # fmt: skip


def in_order(metrics: Mapping[str, float]) -> dict[str, float]:
    """Sort the figures, results first: the columns and axes of the web UI follow this order."""
    return {
        name: metrics[name] for name in (*(n for n in FIRST if n in metrics), *(n for n in metrics if n not in FIRST))
    }


def connect_tensorboard() -> None:
    """Let the TensorBoard button find what this trial will write; call it as early as possible."""
    try:
        if os.environ.get("NNI_PLATFORM") == "local":
            _link(Path(os.environ["NNI_OUTPUT_DIR"]), os.environ["NNI_TRIAL_JOB_ID"])
    except Exception as error:
        _logger.warning("NNI's TensorBoard button will show nothing of this trial: %s", error)


def show_netron() -> None:
    """Let the Netron button appear, if this trial has left a ``model.onnx`` for it and a click would do no harm."""
    try:
        if os.environ.get("NNI_PLATFORM") != "local" or not Path(os.environ["NNI_OUTPUT_DIR"], "model.onnx").exists():
            return
        if answers(*NETRON):
            tag_for_netron(os.environ["NNI_EXP_ID"])
        else:
            _logger.info("%s does not answer, so NNI's web UI gets no Netron button for model.onnx", NETRON[0])
    except Exception as error:
        _logger.warning("NNI's Netron button will not be shown: %s", error)


def answers(host: str, port: int, seconds: float = 3.0) -> bool:
    """Whether somebody takes a connection there; none is made through a proxy, as NNI's manager makes none."""
    try:
        socket.create_connection((host, port), timeout=seconds).close()
    except OSError:
        return False
    return True


def tag_for_netron(experiment: str) -> None:
    """Give an experiment of this machine the tag that the Netron button asks for."""
    from ..core.nni_compat import Experiments

    experiments = Experiments()
    tags = experiments.get_all_experiments()[experiment]["tag"]
    if TAG not in tags:
        experiments.update_experiment(experiment, "tag", [*tags, TAG])


def _link(output: Path, trial: str) -> None:
    written = output / "tensorboard"
    opened = output.parents[3] / "trials" / trial / "output" / "tensorboard"
    written.mkdir(parents=True, exist_ok=True)  # the button fails on a link that leads nowhere
    opened.parent.mkdir(parents=True, exist_ok=True)
    # Relative, so that the experiment's folder can be moved.
    target = os.path.relpath(written, opened.parent)
    if opened.is_symlink():
        if os.readlink(opened) == target:
            return  # this trial has been here before
        opened.unlink()
    elif opened.exists():
        opened.rmdir()  # whoever was quicker than this trial has left an empty folder; one with something in it stays
    opened.symlink_to(target, target_is_directory=True)
