"""Fetch results of trials that ran on other machines (NNI's remote training service).

<host>:~/nni-experiments/<id>/environments/<worker>/trials/<trial>/  --ssh, tar-->  <experiment>/trials/<trial>/

NNI itself brings back three logs of a trial, when its web UI is asked for them, and puts them in the same folder. There its
Netron button looks for ``model.onnx``, and its TensorBoard button in ``output/tensorboard``.

The system's ssh does it, with the user, port and key of the experiment: it knows the user's agent, jump hosts and known
hosts, and nothing has to be installed. What it cannot take is a password from a file.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..core.errors import UserError
from .nni_database import Experiment, Trial

__all__ = ["FetchError", "Fetched", "Machine", "NotFetched", "fetch", "machines_of", "remote_trials", "unpack"]

NO_FOLDER = 44  # what the other machine's shell ends with; 1 and 2 are tar's, 255 is ssh's
SSH_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10")


class FetchError(Exception):
    """The results of a trial could not be fetched; the message says why."""


class _NoFolderError(FetchError):
    """The machine answers, and has no such folder."""


@dataclass(frozen=True)
class Machine:
    """One entry of ``machineList``."""

    host: str
    user: str
    port: int = 22
    key: str | None = None
    password: bool = False
    passphrase: bool = False

    @property
    def name(self) -> str:
        return f"{self.user}@{self.host}" + (f":{self.port}" if self.port != 22 else "")

    def login(self, ssh: Sequence[str]) -> list[str]:
        """The command that logs in there; a command for the machine is its last word."""
        key = ["-i", self.key, "-o", "IdentitiesOnly=yes"] if self.key else []
        return [*ssh, "-p", str(self.port), *key, f"{self.user}@{self.host}"]

    def advice(self, said: str, ssh: Sequence[str]) -> str:
        """What to do about what ssh has said."""
        if "Host key verification failed" in said:
            return f"ssh does not know this machine yet; log in once: {shlex.join(self.login(ssh))}"
        if "Permission denied" in said and self.password:
            return "machineList gives a password, which ssh does not take from a file; put a key there: ssh-copy-id"
        if "Permission denied" in said and self.passphrase:
            return f"ssh does not take sshPassphrase; give the key to its agent: ssh-add {self.key}"
        return f"try: {shlex.join(self.login(ssh))}"


@dataclass(frozen=True)
class Fetched:
    """A trial whose results lie in ``trial.folder``; ``n_files`` of ``n_bytes`` in all came over."""

    trial: Trial
    machine: Machine
    n_files: int
    n_bytes: int


@dataclass(frozen=True)
class NotFetched:
    """A trial whose results are where they were, and why."""

    trial: Trial
    reason: str


def fetch(experiment: Experiment, ssh: Sequence[str] = ("ssh",)) -> Iterator[Fetched | NotFetched]:
    """Fetch the current results of the trials on other machines, one trial after the other.

    It can be done again at any time: what has come before is replaced, file by file, once a trial has come over whole. Files
    that are only here stay. Not brought: ``checkpoint/``, which is large and of use where the trial runs only, half-written
    files, and links.

    Parameters
    ----------
    experiment
        Running or stopped.
    ssh
        The command that logs in, such as ``ssh -F my_config``.

    Raises
    ------
    UserError
        The experiment has no trial on another machine, or there is no such ssh.
    """
    trials = remote_trials(experiment)
    machines = machines_of(experiment.config)
    if shutil.which(ssh[0]) is None:
        raise UserError(f"fetch: '{ssh[0]}' not found; needed is OpenSSH's client, or another one: --ssh COMMAND")
    closed: dict[Machine, str] = {}  # why they do not let us in; no trial waits a second time to hear it
    for trial in trials:
        try:
            yield _fetch_trial(trial, machines, ssh, closed)
        except FetchError as error:
            yield NotFetched(trial, str(error))
        except OSError as error:
            yield NotFetched(trial, f"cannot be written to {trial.folder}: {error}")


def machines_of(config: Mapping[str, Any]) -> list[Machine]:
    """The machines of a resolved experiment, in NNI's order."""
    return [
        Machine(
            entry["host"], entry["user"], entry.get("port") or 22, entry.get("sshKeyFile"),
            password=bool(entry.get("password")), passphrase=bool(entry.get("sshPassphrase")),
        )
        for entry in config["trainingService"]["machineList"]
    ]  # fmt: skip


def remote_trials(experiment: Experiment) -> list[Trial]:
    """The trials of an experiment that have begun on other machines.

    Raises
    ------
    UserError
        There are none, or NNI's reuse mode has put them elsewhere.
    """
    where, service = f"fetch: experiment {experiment.id}", experiment.config.get("trainingService")
    if not isinstance(service, dict) or service.get("reuseMode"):
        raise UserError(f"{where} uses NNI's reuse mode, whose trials lie elsewhere; allowed: reuseMode: false")
    if service.get("platform") != "remote":
        raise UserError(
            f"{where} has trainingService.platform {service.get('platform')}; allowed: remote. What runs on this machine "
            f"is here already: {experiment.folder}"
        )
    trials = [trial for trial in experiment.trials if trial.host is not None]
    if not trials:
        raise UserError(f"{where} has no trial on another machine yet")
    return trials


def _fetch_trial(
    trial: Trial, machines: Sequence[Machine], ssh: Sequence[str], closed: dict[Machine, str]
) -> Fetched:  # fmt: skip
    path = trial.url.rpartition(":")[2]
    if not re.fullmatch(r"~/nni-experiments/\w+/environments/[\w-]+/trials/\w+", path):
        raise FetchError(f"NNI says that it is at '{trial.url}', which is none of its folders")
    # NNI notes the host only, and several machines of its list may be one host with several ports or users.
    there = [machine for machine in machines if machine.host == trial.host]
    reasons = [] if there else [f"its machine, {trial.host}, is not in the experiment's machineList"]
    for machine in there:
        try:
            if machine in closed:
                raise FetchError(closed[machine])
            return _fetch_from(machine, trial, path, ssh, closed)
        except _NoFolderError as error:
            reasons.append(str(error))
        except FetchError as error:
            reasons.insert(0, str(error))
            if machine not in closed:
                break
    raise FetchError(reasons[0])


def _fetch_from(
    machine: Machine, trial: Trial, path: str, ssh: Sequence[str], closed: dict[Machine, str]
) -> Fetched:  # fmt: skip
    trial.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=trial.folder.parent, prefix=f".{trial.id}.") as fresh:
        try:
            n_files, n_bytes = _copy(machine, path, Path(fresh), ssh)
        except ConnectionError as error:
            said = str(error).removeprefix(f"{machine.user}@{machine.host}: ")
            closed[machine] = f"{machine.name}: {said}; {machine.advice(said, ssh)}"
            raise FetchError(closed[machine]) from error
        _put_in_place(Path(fresh), trial.folder)
    return Fetched(trial, machine, n_files, n_bytes)


def _copy(machine: Machine, path: str, folder: Path, ssh: Sequence[str]) -> tuple[int, int]:
    """A folder of another machine, as an archive on ssh's output; its errors are told apart by how the command ends."""
    script = f"cd {path} 2>/dev/null || exit {NO_FOLDER}; exec tar -c -f - --exclude=./checkpoint ."
    command = [*machine.login([*ssh, *SSH_OPTIONS]), f"sh -c {shlex.quote(script)}"]
    broken = ""
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdout is not None
        try:
            counts = unpack(process.stdout, folder)
        except tarfile.ReadError as error:
            counts, broken = (0, 0), str(error)
        while process.stdout.read(1 << 16):  # tar fills up its last block
            pass
        code = process.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
    if code == NO_FOLDER:
        raise _NoFolderError(f"{machine.name} has no {path}; a trial that has not begun has none")
    if code == 255:
        raise ConnectionError(said[-1])
    if code not in (0, 1) or broken:  # 1: a file grew while it was read, as those of a running trial do
        raise FetchError(f"{machine.name}: tar ended with code {code}: {said[-1]}; {broken or 'the archive is whole'}")
    return counts


def unpack(archive: IO[bytes], folder: Path) -> tuple[int, int]:
    """Write the files of an archive below a folder; how many, and their bytes.

    The archive is of another machine and is not trusted: files and folders only, inside of the folder, with ordinary rights.

    Raises
    ------
    FetchError
        It names something outside of the folder.
    tarfile.ReadError
        It is cut short, or none.
    """
    if not hasattr(tarfile, "data_filter"):
        raise UserError("fetch: this Python cannot unpack safely; needed: 3.10.12, 3.11.4 or newer")
    n_files = n_bytes = 0
    with tarfile.open(fileobj=archive, mode="r|") as members:
        for member in members:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise FetchError(f"its archive names '{member.name}', outside of the trial's folder; nothing was taken")
            unfinished = any(part.startswith(".") for part in path.parts)  # as atomic_files.py writes
            if unfinished or not path.parts or not (member.isreg() or member.isdir()):
                continue
            try:
                members.extract(member, folder, filter="data")
            except tarfile.FilterError as error:
                raise FetchError(f"its archive holds what is not allowed; nothing was taken: {error}") from error
            if member.isreg():
                n_files, n_bytes = n_files + 1, n_bytes + member.size
    return n_files, n_bytes


def _put_in_place(fresh: Path, folder: Path) -> None:
    """Replace file by file; ``architecture.json``, by which others see that a search is finished, comes last."""
    files = [path for path in fresh.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: (path.name == "architecture.json", path)):
        target = folder / path.relative_to(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    button = folder / "output" / "tensorboard"
    if not (folder / "tensorboard").is_dir() or button.is_symlink():
        return
    if button.is_dir():
        if any(button.iterdir()):
            return
        button.rmdir()  # what the button has made when it was pressed too early
    button.parent.mkdir(parents=True, exist_ok=True)
    button.symlink_to(Path("..", "tensorboard"))
