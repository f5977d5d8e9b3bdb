"""Configure the log of a command."""

from __future__ import annotations

import logging
import os
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..core.streams import say

__all__ = ["log_to_stderr", "resume_hint", "silence_libraries"]


def log_to_stderr() -> None:
    logger = logging.getLogger("nni_proxyless")
    if not logger.handlers:
        from ..core.progress import LogAboveBars

        handler = LogAboveBars()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # NNI's own handler, at the root, writes what its web UI shows as a trial's log.
    logger.propagate = "NNI_PLATFORM" in os.environ


@contextmanager
def resume_hint(command: str, folder: Path, file: str) -> Iterator[None]:
    """If the command is interrupted or terminated, say how to go on, provided its folder holds this file by then."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if (folder / file).exists():
            say(f"to go on: nni-proxyless {command} --resume {shlex.quote(str(folder))}")
        raise


def silence_libraries() -> None:
    """Silence messages of Lightning and NNI about things that are right here; call it after their import."""
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # "Validation dataloaders are missing": a one-shot strategy uses them up itself.
    logging.getLogger("nni.nas.evaluator.pytorch.lightning").setLevel(logging.ERROR)
    for message in (
        r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 on torch 2.15
        r"Found \d+ module\(s\) in eval mode",  # a space that keeps given norms so means it: their statistics stay
        r"The number of training batches \(\d+\) is smaller than the logging interval",  # steps are counted on from epoch to epoch
    ):
        warnings.filterwarnings("ignore", message=message)
