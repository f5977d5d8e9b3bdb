"""A search as a trial of an NNI experiment, and the same without NNI.

Under ``nnictl`` the trial gets its parameters from NNI, as dotted paths into the configuration, leaves its results in
``NNI_OUTPUT_DIR`` and reports one dict per epoch. Without NNI it does the same in a folder of its own.
"""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from .nni_web_ui import connect_tensorboard, in_order, show_netron

__all__ = [
    "final",
    "inside_nni",
    "intermediate",
    "is_helper",
    "made_by_this_process",
    "output_folder",
    "parameters",
    "share_with_helpers",
    "shared_folder",
]  # fmt: skip

_SHARED_FOLDER = "NNI_PROXYLESS_FOLDER"
_made: set[Path] = set()


def inside_nni() -> bool:
    """Whether NNI started this process."""
    return os.environ.get("NNI_PLATFORM") is not None


def is_helper() -> bool:
    """Whether this process only helps another one to train (DDP); that one alone talks to NNI and writes files."""
    return shared_folder() is not None and os.environ.get("LOCAL_RANK", "0") != "0"


def shared_folder() -> Path | None:
    """The folder in which the main process keeps its resolved configuration and its latencies."""
    folder = os.environ.get(_SHARED_FOLDER)
    return Path(folder) if folder else None


def share_with_helpers(folder: Path) -> None:
    """Tell the processes started from here the folder of this search."""
    os.environ[_SHARED_FOLDER] = str(folder.resolve())


def parameters() -> list[tuple[str, str, Any]]:
    """NNI's parameters as overrides of the configuration: (source, dotted path, value); with this a trial begins.

    Raises
    ------
    UserError
        The experiment's ``searchSpace`` gives something other than a flat mapping.
    """
    if not inside_nni():
        return []
    from .nni_manager import own_parameters  # with NNI, which takes a second and which nobody else needs here

    connect_tensorboard()
    given = own_parameters()
    if not isinstance(given, Mapping):
        raise UserError(f"NNI's parameters: expected a mapping from dotted paths to values, got {type(given).__name__}")
    return [("NNI's parameters", str(path), value) for path, value in given.items()]


def output_folder(configured: str | None, what: str) -> Path:
    """``NNI_OUTPUT_DIR`` in a trial; else the configured folder; else a new one under ``runs/``, which no other process gets."""
    if inside_nni():
        return Path(os.environ["NNI_OUTPUT_DIR"])
    if configured is not None:
        return Path(configured)
    began = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for n in itertools.count(1):
        folder = Path("runs") / (f"{what}-{began}" if n == 1 else f"{what}-{began}-{n}")
        folder.parent.mkdir(exist_ok=True)
        try:
            folder.mkdir()  # of two processes one makes it; to look first whether it is there would be too early
        except FileExistsError:
            continue
        _made.add(folder.resolve())
        break
    return folder


def made_by_this_process(folder: Path) -> bool:
    """Whether :func:`output_folder` has made it, so that nobody minds if it goes."""
    return folder.resolve() in _made


def intermediate(metrics: Mapping[str, float]) -> None:
    """Report one epoch; plain floats, since NNI stores anything else as a pickle without a word."""
    if inside_nni():
        import nni

        from .nni_manager import reporting

        with reporting():
            nni.report_intermediate_result({name: float(value) for name, value in metrics.items()})


def final(metrics: Mapping[str, float]) -> None:
    """Report the final result."""
    if inside_nni():
        import nni

        from .nni_manager import reporting

        show_netron()
        with reporting():
            nni.report_final_result({name: float(value) for name, value in in_order(metrics).items()})
