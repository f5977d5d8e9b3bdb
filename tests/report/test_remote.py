"""Trials on other machines: experiments/remote.yml on two sshd instances of this one, and their results brought back.

Each sshd has its own loopback address, host key, home and folder for temporary files, so that trials on one know nothing of
the other.
"""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from nni_proxyless.cli.main import main
from nni_proxyless.core.errors import UserError
from nni_proxyless.report.nni_database import Experiment
from nni_proxyless.report.remote_results import FetchError, Machine, machines_of, remote_trials, unpack

from ..runs import TINY
from ..search.test_experiment import ask, free_port

SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}{os.pathsep}/usr/local/sbin{os.pathsep}/usr/sbin")
BIN = Path(sys.executable).parent
ENVIRONMENT = {
    **os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONWARNINGS": "", "OMP_NUM_THREADS": "1",
}  # fmt: skip
# NNI installs itself on the machine; without an index it finds that it is there, and leaves the environment as it is.
SESSION = (
    "OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE PYTHONWARNINGS= PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1 "
    "NNI_PROXYLESS_QUIET_SECONDS=0"  # as conftest.py says
)
needs_sshd = pytest.mark.skipif(SSHD is None, reason="no sshd: apt-get install openssh-server")


@dataclass
class Host:
    """An sshd with a home of its own."""

    folder: Path
    address: str
    port: int = field(default_factory=free_port)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def prepare(self, public_key: Path) -> None:
        (self.home / "tmp").mkdir(parents=True)
        make_key(self.folder / "host_key")
        shutil.copy(public_key, self.folder / "authorized_keys")
        (self.folder / "sshd_config").write_text(
            f"ListenAddress {self.address}\nPort {self.port}\nHostKey {self.folder}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            f"PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\nSetEnv HOME={self.home} TMPDIR={self.home}/tmp {SESSION}\n"
        )

    @property
    def known(self) -> str:
        """Its line of known_hosts."""
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        return f"[{self.address}]:{self.port} {kind} {key}\n"

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes new logins; those that have been let in stay when it ends."""
        assert SSHD is not None
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([SSHD, "-D", "-e", "-f", self.folder / "sshd_config"], stderr=log)
        try:
            deadline = time.monotonic() + 20
            while True:
                assert process.poll() is None, (self.folder / "log").read_text()
                with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), 1):
                    break
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            process.wait(20)


@dataclass
class Ran:
    """A finished experiment whose manager still runs, and what fetch said before it was finished."""

    id: str
    port: int
    home: Path
    hosts: list[Host]
    trials: list[Any]
    ssh: str
    key: Path
    early: tuple[int, str]  # fetch while trials ran: its code and what it printed

    def there(self, trial: Any) -> Path:
        """The folder of a trial, on its host."""
        (host,) = [h for h in self.hosts if h.address == trial["logPath"].partition(":")[0]]
        return host.home / trial["logPath"].partition(":~/")[2]

    def here(self, trial: Any) -> Path:
        return self.home / "nni-experiments" / self.id / "trials" / trial["trialJobId"]


def make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True, stdin=subprocess.DEVNULL)


@contextlib.contextmanager
def folder_of_sshd() -> Iterator[None]:
    """Where sshd of root locks up what it does before a login; systemd makes it where systemd runs."""
    path = Path("/run/sshd")
    if os.geteuid() != 0 or path.exists():
        yield
        return
    path.mkdir(mode=0o755)
    try:
        yield
    finally:
        path.rmdir()


def left_behind(homes: list[Path]) -> list[psutil.Process]:
    """Processes that have one of these folders as their home."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("HOME") in [str(home) for home in homes]:
                found.append(process)
    return found


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Ran]:
    """experiments/remote.yml with what a user changes, to its end."""
    folder = tmp_path_factory.mktemp("remote")
    home, code, key = folder / "home", folder / "code", folder / "id_ed25519"
    home.mkdir()
    code.mkdir()
    make_key(key)
    hosts = [Host(folder / "first", "127.0.0.1"), Host(folder / "second", "127.0.0.2")]
    for host in hosts:
        host.prepare(key.with_suffix(".pub"))
    known_hosts = folder / "known_hosts"
    known_hosts.write_text("".join(host.known for host in hosts))

    content = yaml.safe_load((pytestconfig.rootpath / "experiments" / "remote.yml").read_text())
    content["nniManagerIp"] = "127.0.0.1"
    for machine, host in zip(content["trainingService"]["machineList"], hosts, strict=True):
        machine |= {
            "host": host.address, "port": host.port, "user": getpass.getuser(), "sshKeyFile": str(key),
            "pythonPath": str(BIN),
        }  # fmt: skip
    content["searchSpace"]["latency.target_ms"]["_value"] = ["80%", "95%"]  # the nets of TINY are all alike
    (code / "remote.yml").write_text(yaml.safe_dump(content))
    (code / "search.yml").write_text(TINY.replace("epochs: 3", "epochs: 9"))  # long enough to be looked at meanwhile

    port = free_port()
    environment = {**ENVIRONMENT, "HOME": str(home)}

    def nnictl(*words: str) -> None:
        done = subprocess.run(
            ["nnictl", *words], cwd=code, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stdout + done.stderr

    ssh = f"ssh -F none -o UserKnownHostsFile={known_hosts}"
    early = None
    with folder_of_sshd(), hosts[0].listening(), hosts[1].listening():
        try:
            nnictl("create", "--config", "remote.yml", "--port", str(port))
            deadline = time.monotonic() + 280
            while (status := json.loads(ask(port, "/api/v1/nni/check-status"))["status"]) not in ("DONE", "ERROR"):
                assert time.monotonic() < deadline, status
                metrics = json.loads(ask(port, "/api/v1/nni/metric-data"))
                if early is None and len({metric["trialJobId"] for metric in metrics}) == 2:
                    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as said:
                        patch.setenv("HOME", str(home))
                        early = main(["fetch", "--ssh", ssh]), said.getvalue()
                time.sleep(0.5)
            assert status == "DONE"
            identity = json.loads(ask(port, "/api/v1/nni/experiment"))["id"]
            trials = json.loads(ask(port, "/api/v1/nni/trial-jobs"))
            assert early is not None
            yield Ran(identity, port, home, hosts, trials, ssh, key, early)
        finally:
            homes = [home, *(host.home for host in hosts)]
            with contextlib.suppress(OSError, ValueError):
                for identity in json.loads((home / "nni-experiments" / ".experiment").read_text()):
                    nnictl("stop", identity)
            _, alive = psutil.wait_procs(left_behind(homes), timeout=20)
            for process in alive:
                process.kill()
    assert not alive, alive


@pytest.fixture
def at_home(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> Ran:
    """The same, and this process is at home where its manager is."""
    monkeypatch.setenv("HOME", str(ran.home))
    return ran


@needs_sshd
def test_each_machine_ran_one_search(ran):
    assert [trial["status"] for trial in ran.trials] == ["SUCCEEDED", "SUCCEEDED"]
    assert {trial["logPath"].partition(":")[0] for trial in ran.trials} == {"127.0.0.1", "127.0.0.2"}
    for host in ran.hosts:
        (table,) = (host.home / "latencies").iterdir()  # its own, by its own home and name
        assert table.name == f"digits-{socket.gethostname()}.yaml"
        assert len(list(host.home.glob(f"nni-experiments/{ran.id}/environments/*/trials/*/architecture.json"))) == 1
    assert not (ran.home / "latencies").exists()
    targets = [
        yaml.safe_load((ran.there(trial) / "search.yml").read_text())["latency"]["target_ms"] for trial in ran.trials
    ]
    assert sorted(targets) == ["80%", "95%"]


@needs_sshd
def test_watch_knows_what_they_have_told_nni(at_home, capsys):
    assert main(["watch", at_home.id]) == 0
    lines = capsys.readouterr().out.splitlines()
    ended = [line.split()[1] for line in lines if ": SUCCEEDED after " in line]
    assert ended == [trial["trialJobId"] for trial in at_home.trials]
    assert all("accuracy " in line and "measured " in line for line in lines[1:-1])


@needs_sshd
def test_what_a_user_tries_before_the_experiment(ran):
    """The page's check of the file, and of each machine: key, known host and installation in one."""
    assert main(["check", str(ran.home.parent / "code" / "remote.yml")]) == 0
    for host in ran.hosts:
        login = [*shlex.split(ran.ssh), "-p", str(host.port), "-i", ran.key, f"{getpass.getuser()}@{host.address}"]
        words = [*login, f"{BIN}/nni-proxyless", "--version"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("nni-proxyless ")


@needs_sshd
def test_results_come_while_trials_run(ran):
    code, said = ran.early
    assert code == 0
    lines = said.splitlines()
    assert "RUNNING" in [line.split()[1] for line in lines[:-1]]
    assert lines[-1] == f"2 of 2 trials are here: nni-proxyless report {ran.id}"
    assert any((ran.here(trial) / "tensorboard").exists() for trial in ran.trials)
    assert not any((ran.here(trial) / "architecture.json").exists() for trial in ran.trials)


@needs_sshd
def test_one_machine_is_down_then_the_results_come_back(at_home, command, capsys):
    ran = at_home
    first, second = sorted(ran.trials, key=lambda trial: trial["logPath"])

    assert main(["report", ran.id]) == 0
    said = capsys.readouterr()
    assert f"what 2 trials have left is on other machines: nni-proxyless fetch {ran.id}" in said.err

    button = ran.here(first) / "output" / "tensorboard"
    button.unlink(missing_ok=True)
    button.mkdir(parents=True, exist_ok=True)  # as NNI does when it is pressed before there is anything
    authorized = ran.hosts[1].folder / "authorized_keys"
    keys = authorized.read_text()
    authorized.write_text("")
    assert main(["fetch", ran.id, "--ssh", ran.ssh]) == 1
    authorized.write_text(keys)
    said = capsys.readouterr()
    assert said.out.splitlines()[0].startswith(f"{first['trialJobId']}  SUCCEEDED  ")
    assert said.out.splitlines()[-1] == f"1 of 2 trials are here: nni-proxyless report {ran.id}"
    login = f"-p {ran.hosts[1].port} -i {ran.key} -o IdentitiesOnly=yes {getpass.getuser()}@127.0.0.2"
    where = f"trial {second['trialJobId']}: not fetched: {getpass.getuser()}@127.0.0.2:{ran.hosts[1].port}"
    assert f"{where}: Permission denied (publickey).; try: {ran.ssh} {login}" in said.err

    stranger = "ssh -F none -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=yes"
    assert main(["fetch", ran.id, "--ssh", stranger]) == 1
    said = capsys.readouterr()
    assert said.err.count(f"ssh does not know this machine yet; log in once: {stranger} -p ") == 2

    # A search goes on there, a training was made here.
    with (ran.there(first) / "history.jsonl").open("a") as history:
        history.write('{"default": 1.0}\n')
    (ran.there(first) / ".half.written").write_text("x")
    (ran.there(first) / "checkpoint").mkdir()
    (ran.there(first) / "checkpoint" / "state").write_text("x")
    (ran.here(first) / "final").mkdir()
    (ran.here(first) / "final" / "result.json").write_text('{"accuracy": 0.5}')
    done = command("nni-proxyless", "fetch", "--ssh", ran.ssh, HOME=str(ran.home))  # the experiment started last
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"2 of 2 trials are here: nni-proxyless report {ran.id}"
    for trial in ran.trials:
        there, here = ran.there(trial), ran.here(trial)
        left = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
        assert {"architecture.json", "weights.safetensors", "model.onnx", "history.jsonl", "trial.stderr"} <= left
        for name in left - {".half.written", "checkpoint/state"}:
            assert (here / name).read_bytes() == (there / name).read_bytes(), name
        ours = {"final/result.json"} if trial is first else set()
        came = {
            str(path.relative_to(here)) for path in here.rglob("*") if path.is_file() and "output" not in path.parts
        }
        assert came == left - {".half.written", "checkpoint/state"} | ours
        assert list((here / "output" / "tensorboard").rglob("events.out.*"))
    assert not [path for path in ran.here(first).parent.iterdir() if path.name.startswith(".")]

    assert main(["report", ran.id]) == 0
    said = capsys.readouterr()
    for trial in ran.trials:
        (row,) = [line for line in said.out.splitlines() if line.startswith(f"{trial['trialJobId']}  ")]
        assert row.split()[1] == "SUCCEEDED"
        assert float(row.split()[3]) > 0  # predicted ms
    assert "other machines" not in said.err


@needs_sshd
def test_the_buttons_of_the_web_ui_find_what_was_fetched(at_home):
    ran = at_home
    assert main(["fetch", ran.id, "--ssh", ran.ssh]) == 0
    api = f"http://127.0.0.1:{ran.port}/api/v1/nni"
    for trial in ran.trials:
        with urllib.request.urlopen(
            f"{api}/trial-file/{trial['trialJobId']}/model.onnx", timeout=20
        ) as answer:  # Netron
            assert answer.read() == (ran.there(trial) / "model.onnx").read_bytes()
    both = json.dumps({"trials": ",".join(trial["trialJobId"] for trial in ran.trials)}).encode()
    request = urllib.request.Request(f"{api}/tensorboard", both, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        task = json.load(answer)
    try:
        assert len(task["trialLogDirectoryList"]) == 2
        for folder in task["trialLogDirectoryList"]:
            assert list(Path(folder).rglob("events.out.*")), folder
    finally:
        request = urllib.request.Request(f"{api}/tensorboard/{task['id']}", method="DELETE")
        urllib.request.urlopen(request, timeout=20).close()


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    stream.seek(0)
    return stream


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize("name", ["../out", "./a/../../out", "/out", "a/.."])
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    with pytest.raises(FetchError, match=r"its archive names '.*', outside of the trial's folder; nothing was taken"):
        unpack(archive((member(name), b"x")), inside)
    assert list(tmp_path.iterdir()) == [inside]
    assert not list(inside.iterdir())


def test_links_and_devices_of_an_archive_are_left_out(tmp_path):
    """A link could name any file of this machine, and the next member write through it."""
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    shared = archive(
        (member("link", tarfile.SYMTYPE, str(outside)), b""),
        (member("link/file"), b"x"),
        (member("hard", tarfile.LNKTYPE, "/etc/hostname"), b""),
        (member("pipe", tarfile.FIFOTYPE), b""),
    )
    assert unpack(shared, inside) == (1, 1)
    assert [path.name for path in sorted(inside.rglob("*"))] == ["link", "file"]
    assert not (inside / "link").is_symlink()
    assert not list(outside.iterdir())


def test_an_archive_that_is_cut_short_is_an_error(tmp_path):
    whole = archive((member("a"), b"x" * 5000)).getvalue()
    for end in (0, 700, 5000):
        with pytest.raises(tarfile.ReadError):
            unpack(io.BytesIO(whole[:end]), tmp_path)


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ({"platform": "local"}, "AbC has trainingService.platform local; allowed: remote. What runs on this machine is here"),
        ({"platform": "remote", "reuseMode": True}, "AbC uses NNI's reuse mode, whose trials lie elsewhere; allowed: reuseMode:"),
        ([{"platform": "local"}, {"platform": "remote"}], "AbC uses NNI's reuse mode"),
        ({"platform": "remote", "reuseMode": False}, "AbC has no trial on another machine yet"),
    ],
)  # fmt: skip
def test_an_experiment_with_nothing_to_fetch_is_refused(service, message):
    with pytest.raises(UserError) as error:
        remote_trials(Experiment("AbC", Path("x"), {"trainingService": service}, 0.0, False, []))
    assert f"fetch: experiment {message}" in str(error.value)


def test_machines_are_those_of_the_configuration():
    machines = machines_of(
        {"trainingService": {"machineList": [
            {"host": "a", "user": "u", "port": 22, "sshKeyFile": "/k"},
            {"host": "b", "user": "u", "port": 2222, "password": "secret", "sshKeyFile": None},
        ]}}
    )  # fmt: skip
    assert machines == [Machine("a", "u", 22, "/k"), Machine("b", "u", 2222, None, password=True)]
    assert [machine.name for machine in machines] == ["u@a", "u@b:2222"]
    assert "secret" not in repr(machines)
    assert machines[0].login(["ssh"]) == ["ssh", "-p", "22", "-i", "/k", "-o", "IdentitiesOnly=yes", "u@a"]
    denied = "u@b: Permission denied (publickey,password)."
    advice = machines[1].advice(denied, ["ssh"])
    assert advice.startswith("machineList gives a password, which ssh does not take from a file")
    locked = Machine("a", "u", 22, "/k", passphrase=True)
    assert locked.advice(denied, ["ssh"]) == "ssh does not take sshPassphrase; give the key to its agent: ssh-add /k"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ssh", ""], "--ssh: a command is needed"),
        (["--ssh", "'"], '--ssh: "\'": No closing quotation'),
        (["AbD"], "fetch: 'AbD' is no NNI experiment of this machine. Did you mean 'AbC'?"),
    ],
)
def test_wrong_words_are_refused(words, message, refused, monkeypatch, tmp_path):
    (tmp_path / "nni-experiments").mkdir()
    (tmp_path / "nni-experiments" / ".experiment").write_text('{"AbC": {}}')  # NNI's list
    monkeypatch.setenv("HOME", str(tmp_path))
    assert message in refused("fetch", *words)
