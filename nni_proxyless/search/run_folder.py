"""The folder of a search: lock it, begin or resume a search there, and record its epochs.

A search that was stopped or killed leaves ``search.yml``, ``data_fingerprint.json``, ``latencies.yaml``, ``history.jsonl`` and
``checkpoint/``, and goes on when it is started again with the same settings; one that has finished has ``architecture.json`` and
no ``checkpoint/``.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import yaml

from ..config.search_config import SearchConfig, as_it_was_meant
from ..config.strict_yaml import YAML_OF_NNI, read_yaml
from ..core import settings_diff
from ..core.atomic_files import write_text
from ..core.errors import UserError
from ..core.file_lock import HeldError, hold
from .nni_trial import made_by_this_process
from .supernet_files import JUDGED, PROBABILITIES, SUPERNET, TRAINING, is_finished

__all__ = ["as_file_in", "begin_or_resume", "differences", "history", "is_finished", "locked", "recorder"]


@contextmanager
def locked(folder: Path, *, wait: bool, doing: str = "searches") -> Iterator[None]:
    """Lock the folder: two processes would overwrite each other's files.

    The folder is made if need be, and is gone again if nothing has come into it.

    Parameters
    ----------
    wait
        Until the other one has ended.

    Raises
    ------
    UserError
        There is another one, and ``wait`` is False.
    """
    is_new = not folder.exists() or made_by_this_process(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output: '{folder}' cannot be made: {error.strerror}; allowed: a folder, or a name that is free"
        ) from error
    with ExitStack() as held:
        if is_new:
            held.callback(_remove_if_empty, folder)  # after the lock file is
        try:
            held.enter_context(hold(folder / ".lock", f"{doing} in {folder}", wait=wait))
        except HeldError as error:
            raise UserError(f"{error}: wait for it, end it, or choose another output") from error
        yield


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def as_file_in(folder: Path, config: SearchConfig, base: Path) -> str:
    """The text of ``folder/search.yml``: the configuration, its tables relative to this file and no more to ``base``."""
    content = config.model_dump(mode="json")
    for section in (content["latency"], *content["costs"]):
        if section["table"] is not None and not os.path.isabs(section["table"]):
            section["table"] = os.path.relpath(os.path.realpath(base / section["table"]), os.path.realpath(folder))
    return yaml.safe_dump(content, sort_keys=False)


def begin_or_resume(folder: Path, resolved: str) -> None:
    """Remove the files of an earlier search, unless it is this one, unfinished.

    An unfinished search with other settings is not overwritten.
    """
    different = differences(folder, resolved)
    unfinished = (folder / "checkpoint").exists()
    if unfinished and different:
        raise UserError(
            f"{folder} holds an unfinished search with other settings: {'; '.join(different)}. Choose another output, or go "
            f"on with that one: nni-proxyless search --resume {shlex.quote(str(folder))}"
        )
    if not unfinished and (different or (folder / "architecture.json").exists()):
        for path in (
            *folder.glob("latencies*.yaml"),
            folder / "history.jsonl",
            folder / PROBABILITIES,
            folder / TRAINING,
            folder / SUPERNET,
            folder / JUDGED,
        ):
            path.unlink(missing_ok=True)


def differences(folder: Path, resolved: str) -> list[str]:
    """Describe in which settings the search in this folder differs.

    Raises
    ------
    UserError
        Its ``search.yml`` is no YAML.
    """
    path = folder / "search.yml"
    # PyYAML's numbers, as on the other side
    there = as_it_was_meant(read_yaml(path, loader=YAML_OF_NNI)) if path.exists() else {}
    here = yaml.safe_load(resolved)
    return settings_diff.differences({**here, "output": None}, {**there, "output": None})


def history(folder: Path) -> list[dict[str, float]]:
    """What was reported of each epoch so far."""
    return [json.loads(line) for line in _lines(folder / "history.jsonl")]


def recorder(folder: Path, report: Callable[[dict[str, float]], None]) -> Callable[[int, dict[str, float]], None]:
    """Keeps one line per epoch, and reports it; of a search that goes on, first the epochs that lie behind it.

    NNI numbers what a process reports from 0 on, and its web UI shows the last that came under a number. A resumed search
    reports all its epochs again, so they keep their numbers, and one that NNI has missed gets there. An epoch that it repeats is reported once.
    """
    path = folder / "history.jsonl"
    recorded = history(folder)
    for metrics in recorded:
        report(metrics)

    def record(epoch: int, metrics: dict[str, float]) -> None:
        if epoch < len(recorded):  # gone through again, of which its means know only the batches after the checkpoint
            return
        write_text(path, "".join(f"{line}\n" for line in [*_lines(path)[:epoch], json.dumps(metrics)]))
        report(metrics)

    return record


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
