"""Run an experiment: ``nnictl create``, and ``nnictl stop`` at the end in any case; their output is shown on errors only.

NNI's manager outlives the process that started it. So ``nnictl`` runs in a session of its own: an interrupt from the
terminal would otherwise stop it halfway and leave an orphaned manager.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.streams import say
from .nni_database import error_of, read_experiment, running_experiments

__all__ = ["NnictlError", "created", "require_free"]

_NNICTL = "from nni_proxyless.core.nni_compat import main_of_nnictl; main_of_nnictl()"
_ATTEMPTS = 3
_PATIENCE = 15.0  # seconds; the tuner has ten


class NnictlError(Exception):
    """``nnictl`` has failed; the text is its output."""


@contextmanager
def created(file: Path, port: int) -> Iterator[str]:
    """Create the experiment of a file, give its id, and stop it at the end: of an error, an interrupt or SIGTERM as well.

    Raises
    ------
    UserError
        There is no such file, or the port is in use.
    NnictlError
        NNI has not started it.
    """
    if not file.is_file():
        raise UserError(f"--create {file}: no such file")
    require_free(port)
    print(f"starting NNI: nnictl create --config {file} --port {port}", flush=True)
    before = set(running_experiments())
    with _ended_by_signals():
        experiment = None
        try:
            try:
                _create(file, port, before)
            finally:
                experiment = _started_on(port, before)
            if experiment is None:
                raise NnictlError(f"nnictl create has started no experiment on port {port}")
            yield experiment
        finally:
            if experiment is not None:
                say(
                    f"ending the experiment {experiment} and its web UI"
                )  # on stderr: whoever reads the results may have gone
                _nnictl("stop", experiment)


def require_free(port: int) -> None:
    """Require that nothing listens on a port of this machine.

    Raises
    ------
    UserError
        Somebody does; with the experiment whose web UI it is, if it is one of this user's, and the way out.
    """
    if not 0 < port < 65536:
        raise UserError(f"--port {port}: not allowed here; allowed: 1 to 65535")
    with socket.socket() as probe:
        probe.settimeout(5)
        if probe.connect_ex(("127.0.0.1", port)) != 0:
            return
    user = next((name for name, noted in running_experiments().items() if noted.get("port") == port), None)
    whose = "another program" if user is None else f"the experiment {user}"
    end = "" if user is None else f", or end that experiment: nnictl stop {user}"
    raise UserError(
        f"--port {port}: {whose} uses it. Choose another: --port {port + 10}, make search PORT={port + 10}{end}"
    )


def _create(file: Path, port: int, before: set[str]) -> None:
    """Create it; again where its tuner was too late, which has ten seconds to answer and on a busy machine may need more."""
    for attempt in range(1, _ATTEMPTS + 1):
        _nnictl("create", "--config", str(file), "--port", str(port))
        experiment = _started_on(port, before)
        if experiment is None or attempt == _ATTEMPTS or not _tuner_is_late(experiment):
            return
        print("NNI's tuner has not answered in time; once more", flush=True)
        _nnictl("stop", experiment)


def _tuner_is_late(name: str) -> bool:
    """Whether NNI gives an experiment up for its tuner; known as soon as there is a trial, or an error."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        experiment = read_experiment(name)
        if experiment.trials or not experiment.running:
            return False
        if experiment.status == "ERROR":
            return "Tuner did not connect" in error_of(experiment)
        time.sleep(0.2)
    return False


def _started_on(port: int, before: set[str]) -> str | None:
    """The experiment that was started."""
    return next(
        (n for n, noted in running_experiments().items() if noted.get("port") == port and n not in before), None
    )


def _nnictl(*words: str) -> None:
    folder = str(Path(sys.executable).parent)  # trials are started with this PATH, and find nni-proxyless there
    environment = {
        **os.environ, "PATH": os.pathsep.join([folder, *filter(None, [os.environ.get("PATH")])]),
        # Python's own words on how nnictl is written.
        "PYTHONWARNINGS": ",".join(["ignore:pkg_resources is deprecated", *filter(None, [os.environ.get("PYTHONWARNINGS")])]),
    }  # fmt: skip
    with tempfile.TemporaryFile() as said:  # not a pipe, whose reading cannot be taken up again after a signal
        process = subprocess.Popen(
            [sys.executable, "-c", _NNICTL, *words], env=environment, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            code = process.wait()
        except BaseException:
            process.wait()  # seconds; half an experiment cannot be stopped
            raise
        if code != 0:
            said.seek(0)
            words_of_nnictl = said.read().decode(errors="replace").rstrip()
            raise NnictlError(f"nnictl {' '.join(words)}: exit code {code}\n{words_of_nnictl}")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end this process as an exit does, so clean-up runs."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # What was started with SIGHUP ignored, by nohup, is to live on.
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
