"""``nni-proxyless watch``: what it says of an experiment, by what NNI noted of a real one (``nni_experiment.json``: three trials of
8 epochs, two at a time, the second one refused). Against a manager that runs: ``test_experiment.py``."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import nni_node
import pytest

from nni_proxyless.cli.main import _parser, main
from nni_proxyless.cli.watch import _Bars
from nni_proxyless.report.nni_database import read_experiment
from nni_proxyless.report.runs import trials_of
from nni_proxyless.report.trial_progress import TrialProgress, plan_of, trial_name
from nni_proxyless.report.watch import Watcher, first_line, last_line

RECORDED = Path(__file__).with_name("nni_experiment.json")
REFUSED = "nni-proxyless: NNI's parameters: latency.target_ms: -1 is not allowed here"
BEGAN = 1795905756.2  # two trials have been started


ONE = "yo96r8fj"


class Recorded:
    """The experiment as it was at any moment, in a home of its own; NNI's manager is said to be this process."""

    def __init__(self, home: Path):
        self.home, self.code = home, home / "code"
        text = RECORDED.read_text().replace("HOME", str(home)).replace("CODE", str(self.code))
        self.content = json.loads(text)
        self.folder = home / "nni-experiments" / ONE
        self.noted = self.content["listed"][ONE] | {"pid": os.getpid()}
        self.code.mkdir()
        (self.code / "search.yml").write_text("training: {epochs: 8}\nlatency: {estimator: {name: device}}\n")
        (self.folder / "db").mkdir(parents=True)
        self.is_as_of(2e9)

    def is_as_of(self, moment: float, **noted: object) -> None:
        self.noted |= {"status": "DONE" if moment > 1795905853.2 else "RUNNING"} | noted
        (self.home / "nni-experiments" / ".experiment").write_text(json.dumps({ONE: self.noted}))
        source = (Path(nni_node.__file__).parent / "core" / "sqlDatabase.js").read_text()
        path = self.folder / "db" / "nni.sqlite"
        path.unlink(missing_ok=True)
        connection = sqlite3.connect(path)
        connection.executescript(source.split("createTables = `")[1].split("`")[0])
        params, started = self.content["ExperimentProfile"]
        profile = (params, ONE, 0, started, None, "", 0, 0)
        connection.execute("INSERT INTO ExperimentProfile VALUES (?,?,?,?,?,?,?,?)", profile)
        for table in ("TrialJobEvent", "MetricData"):
            rows = [row for row in self.content[table] if row[0] / 1e3 <= moment]
            connection.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(self.content[table][0]))})", rows)
        connection.commit()
        connection.close()

    def trial(self, name: str, **files: str) -> None:
        """What a trial has written into its folder: file, without its suffix, and text."""
        folder = self.folder / "environments" / "local-env" / "trials" / name
        folder.mkdir(parents=True, exist_ok=True)
        suffixes = {"search": ".yml", "latencies": ".yaml", "trial": ".stderr"}
        for file, text in files.items():
            (folder / f"{file}{suffixes[file]}").write_text(text)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return Recorded(tmp_path)


def seen(watcher: Watcher, recorded: Recorded, moment: float) -> tuple[list[str], list[str], list[str]]:
    """Ended, steps, and the text of each bar."""
    recorded.is_as_of(moment)
    ended, steps = watcher.update(read_experiment(ONE), moment)
    return ended, steps, [f"{progress.name} | {progress.words}" for progress in watcher.running]


def test_each_moment_of_an_experiment(recorded):
    watcher = Watcher()
    ended, steps, bars = seen(watcher, recorded, BEGAN)
    assert ended == []
    assert steps == ["trial jnakq (target_ms 90%): starting", "trial C2Ytp (target_ms -1): starting"]
    assert bars == [line.replace(": ", " | ") for line in steps]

    recorded.trial("jnakq", search="training: {epochs: 8}")
    recorded.trial("C2Ytp", trial="22:42:44 NNI has given out\n" + REFUSED + "; allowed: milliseconds\n")
    ended, steps, bars = seen(watcher, recorded, 1795905789.5)
    assert [line.partition("; its log: ")[0] for line in ended] == [
        f"trial C2Ytp (target_ms -1): FAILED after 33 s: {REFUSED}; allowed: milliseconds"
    ]
    assert Path(ended[0].partition("; its log: ")[2]).read_text().startswith("22:42:44")
    assert steps == ["trial jnakq (target_ms 90%): measuring latencies"]
    assert watcher.failed == ["C2Ytp"]

    recorded.trial("jnakq", latencies="unit: ms")
    recorded.trial(
        "iXZY5",
        search="training: {epochs: 8}",
        trial="22:43:22 waiting: process 8522 builds table.yaml\n",
    )
    ended, steps, bars = seen(watcher, recorded, 1795905800.0)
    assert (ended, bars[1]) == (
        [], "trial iXZY5 (target_ms 80%) | measuring latencies: waiting: process 8522 builds table.yaml"
    )  # fmt: skip
    assert bars[0].endswith("| in its first epoch")
    recorded.trial("iXZY5", latencies="unit: ms", trial="22:43:45 latencies: read from table.yaml\n")

    # Epochs 2 to 5 of jnakq lie 2.514, 2.701, 1.922 and 2.041 s apart, and the first one took 2.567 s: by the median, 2.514 s each.
    ended, steps, bars = seen(watcher, recorded, 1795905838.1)
    assert [re.match(r"trial (\w+).*: epoch (\d)/8, about", line).groups() for line in steps] == [
        (name, str(n)) for name in ("jnakq", "iXZY5") for n in (1, 2, 3, 4, 5)
    ]
    assert bars[0] == (
        "trial jnakq (target_ms 90%) | epoch 5/8, about 8 s left, accuracy 0.2787, network 2.771 ms (expected 3.149)"
    )
    assert seen(watcher, recorded, 1795905838.1)[:2] == ([], []), "nothing is said twice"
    assert "about 6 s left" in seen(watcher, recorded, 1795905840.02)[2][0], "time goes by between epochs"

    ended, steps, bars = seen(watcher, recorded, 1795905847.0)
    assert bars[0] == (
        "trial jnakq (target_ms 90%) | epoch 8/8, measuring its network, accuracy 0.3484, network 2.765 ms (expected 3.145)"
    )
    ended, steps, bars = seen(watcher, recorded, 2e9)
    assert ended == [
        "trial jnakq (target_ms 90%): SUCCEEDED after 1 min 37 s: accuracy 0.3484, network 2.765 ms (expected 3.145), measured 1.898 ms, 31 % below the table",
        "trial iXZY5 (target_ms 80%): SUCCEEDED after 1 min 02 s: accuracy 0.3136, network 2.711 ms (expected 2.837), measured 1.435 ms, 47 % below the table",
    ]
    assert (steps, bars) == ([], [])


def test_an_error_goes_by_its_name(recorded):
    """The score that NNI maximizes is less than zero, and nobody reads it."""
    for row in recorded.content["MetricData"]:
        metrics = json.loads(json.loads(row[5]))
        metrics |= {"default": -3.0123, "mae": 3.0123} | ({"test_mae": 4.25} if row[3] == "FINAL" else {})
        row[5] = json.dumps(json.dumps(metrics))
    watcher = Watcher()
    _, _, bars = seen(watcher, recorded, 1795905838.1)
    assert "mae 3.012, network 2.771" in bars[0]
    ended, _, _ = seen(watcher, recorded, 2e9)
    assert ": mae 3.012, network 2.765 (expected 3.145), measured 1.898 ms" in ended[0]
    assert ended[0].endswith(", mae 4.25 on the test images")
    assert "accuracy" not in "".join(ended)


def test_who_comes_late_hears_of_the_last_epoch_alone(recorded):
    recorded.trial("jnakq", search="training: {epochs: 8}", latencies="unit: MiB")
    _, steps, bars = seen(Watcher(), recorded, 1795905838.1)
    assert len(steps) == len(bars) == 2
    assert "epoch 5/8" in steps[0]
    assert "network 2.771 MiB" in steps[0], "latency is in the unit of its table"
    assert "network 2.714 (expected 3.004)" in steps[1], "no unit rather than a wrong one"


def test_a_trial_on_another_machine(recorded):
    """Nothing of its folder is here: epochs and figures are NNI's, the number of epochs is that of the experiment's files."""
    for row in recorded.content["TrialJobEvent"]:
        row[4] = f"far.example:~/nni-experiments/yo96r8fj/environments/e/trials/{row[1]}"
    watcher = Watcher()
    _, steps, _ = seen(watcher, recorded, BEGAN)
    assert steps[0] == "trial jnakq (target_ms 90%): setting up on far.example"
    _, steps, _ = seen(watcher, recorded, 1795905831.5)
    said = "trial jnakq (target_ms 90%): epoch 2/8, about 15 s left, accuracy 0.1812, network 2.769 (expected 3.148)"
    assert said in steps


def test_a_trial_that_goes_on_tells_its_epochs_at_once(recorded):
    """NNI has the last time of each: those of a resumed trial lie moments apart. What they say that they took counts then."""
    for row in recorded.content["MetricData"]:
        row[0] = 1795905838_000 + row[4]
    _, _, bars = seen(Watcher(), recorded, 1795905838.0045)
    assert "epoch 5/8, about 6 s left" in bars[0]


@pytest.mark.parametrize(
    ("command", "parameters", "epochs"),
    [
        ("nni-proxyless search search.yml", {}, 8),
        ("sleep 1; nni-proxyless search search.yml training.epochs=60 && true", {}, 60),
        ("nni-proxyless search training.epochs=60", {"training.epochs": 5}, 5),
        ("nni-proxyless train architecture.json small", {}, 60),
        ("nni-proxyless train architecture.json train.yml --epochs 7", {}, 7),
        ("nni-proxyless train architecture.json epochs=9", {}, 9),
        ("nni-proxyless search none.yml", {}, None),
        ("nni-proxyless search 'half a quote", {}, None),
        ("python own.py", {"epochs": 3}, None),
    ],
)  # fmt: skip
def test_how_many_epochs_there_will_be(recorded, command, parameters, epochs):
    params = json.loads(recorded.content["ExperimentProfile"][0])
    recorded.content["ExperimentProfile"][0] = json.dumps(params | {"trialCommand": command})
    recorded.content["TrialJobEvent"][0][3] = json.dumps({"parameters": parameters})
    recorded.is_as_of(BEGAN)
    assert plan_of(trials_of(read_experiment(ONE))[0]).epochs == epochs


def test_trials_that_are_no_searches(recorded):
    """Whatever they run: how often they have told NNI something, and what."""
    params = json.loads(recorded.content["ExperimentProfile"][0])
    recorded.content["ExperimentProfile"][0] = json.dumps(
        params | {"trialCommand": "python own.py", "maxTrialNumber": None}
    )
    for row in recorded.content["MetricData"]:
        row[5] = json.dumps("0.25")
    _, _, bars = seen(Watcher(), recorded, 1795905831.5)
    assert bars == [
        "trial jnakq (target_ms 90%) | epoch 2, default 0.2500",
        "trial iXZY5 (target_ms 80%) | epoch 2, default 0.2500",
    ]
    assert "trials until it is stopped, 2 at a time" in first_line(read_experiment(ONE))


def test_an_experiment_that_is_over(recorded, capsys):
    assert main(["watch", ONE]) == 1, "a trial has failed"
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "experiment yo96r8fj (test): at most 3 trials, 2 at a time; web UI: http://127.0.0.1:8177"
    assert [line.split()[1] for line in lines[1:4]] == ["jnakq", "C2Ytp", "iXZY5"]
    assert lines[4:] == ["experiment yo96r8fj: 2 of 3 trials succeeded"]
    assert main(["watch"]) == 1, "the only one whose manager lives"

    recorded.content["TrialJobEvent"] = [row for row in recorded.content["TrialJobEvent"] if row[1] != "C2Ytp"]
    recorded.is_as_of(2e9)
    assert main(["watch"]) == 0


def test_it_waits_for_no_package_that_it_does_not_use(recorded):
    """The trials need the cores."""
    code = (
        "import sys; from nni_proxyless.cli.main import main; print('CODE', main(['watch']));"
        "print(*{'torch', 'nni', 'numpy', 'timm', 'pydantic', 'yaml', 'tqdm'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    *_, ended, loaded = done.stdout.splitlines()
    assert (ended, {*loaded.split()}) == ("CODE 1", {"yaml", "tqdm"})


def test_an_experiment_whose_manager_has_ended(recorded, capsys):
    recorded.is_as_of(BEGAN, pid=2**22 + 1)
    assert main(["watch", ONE]) == 1
    said = capsys.readouterr().out
    assert "STOPPED: NNI's manager ended while it was running; nnictl resume yo96r8fj goes on" in said
    assert "web UI" not in said


def test_an_experiment_whose_tuner_has_no_more_trials(recorded, capsys):
    """NNI leaves it so, if there are fewer than ``maxTrialNumber``."""
    recorded.is_as_of(2e9, status="TUNER_NO_MORE_TRIAL")
    assert main(["watch", ONE]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == f"experiment {ONE}: 2 of 3 trials succeeded"
    recorded.is_as_of(BEGAN, status="TUNER_NO_MORE_TRIAL")
    assert not read_experiment(ONE).waits_for_tuner, "trials run"


def test_an_experiment_that_nni_has_ended(recorded):
    recorded.is_as_of(BEGAN, status="ERROR")
    (recorded.folder / "log").mkdir()
    log = recorded.folder / "log" / "nnimanager.log"
    log.write_text(
        "[2026-11-28 22:42:29] INFO (x) y\n[2026-11-28 22:43:09] ERROR (NNIManager) Error: tuner is dead\n    at z\n"
    )
    assert last_line(read_experiment(ONE)) == (
        "experiment yo96r8fj: NNI has ended it with an error, 0 of 2 trials succeeded: Error: tuner is dead; "
        f"its log: {log}"
    )
    with log.open("a") as file:
        file.write(
            "[x] ERROR (NNIManager) Dispatcher error: BudgetError: none\n[x] ERROR (NNIManager) Error: Dispatcher stream error\n"
        )
    assert "succeeded: BudgetError: none; its log: " in last_line(read_experiment(ONE))


@pytest.mark.parametrize(
    ("listed", "words", "message"),
    [
        ({}, [], "watch: no NNI experiment runs on this machine; start one"),
        ({"one": "RUNNING", "two": "RUNNING"}, [], "watch: several experiments run; name one of them: one (A), two (A)"),
        ({"one": "RUNNING", "two": "RUNNING"}, ["tow"], "watch: 'tow' is no NNI experiment of this machine. Did you mean 'two'?"),
        ({}, ["--create", "none.yml"], "--create none.yml: no such file"),
        ({}, ["one", "--create", "none.yml"], "watch: --create starts an experiment; not allowed beside it: one"),
        ({}, ["--port", "8090"], "watch: --port is of an experiment that --create starts"),
        ({}, ["--create", __file__, "--train-best", "none.yml"], "none.yml: "),
        ({}, ["--create", __file__, "--port", "0"], "--port 0: not allowed here; allowed: 1 to 65535"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused(listed, words, message, tmp_path, monkeypatch, refused):
    monkeypatch.setenv("HOME", str(tmp_path))
    if listed:
        (tmp_path / "nni-experiments").mkdir()
        noted = {name: {"status": s, "pid": os.getpid(), "experimentName": "A"} for name, s in listed.items()}
        (tmp_path / "nni-experiments" / ".experiment").write_text(json.dumps(noted))
    assert message in refused("watch", *words)


def test_a_port_that_is_in_use(recorded, refused):
    """By an experiment of this user's, or by another program: with the way out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ["watch", "--create", recorded.code / "search.yml", "--port", port]
        other = refused(*words)
        recorded.is_as_of(BEGAN, port=port)
        own = refused(*words)
    out = f"Choose another: --port {port + 10}, make search PORT={port + 10}"
    assert other == f"nni-proxyless: --port {port}: another program uses it. {out}\n"
    uses = f"the experiment {ONE} uses it. {out}, or end that experiment: nnictl stop {ONE}\n"
    assert own == f"nni-proxyless: --port {port}: {uses}"


def test_nni_s_list_is_read_when_it_is_whole(recorded, tmp_path):
    """NNI empties the file before it writes it."""
    path = tmp_path / "nni-experiments" / ".experiment"
    whole = path.read_text()
    path.write_text("")
    writing = threading.Timer(0.3, path.write_text, [whole])
    writing.start()
    assert read_experiment(ONE).status == "DONE"
    writing.join()


def test_ctrl_c_ends_the_watching_and_not_the_experiment(recorded, capsys, monkeypatch):
    recorded.is_as_of(BEGAN)
    monkeypatch.setattr(time, "sleep", lambda seconds: signal.raise_signal(signal.SIGINT))  # where it mostly is
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    arguments = _parser().parse_args(["watch"])
    try:
        with pytest.raises(KeyboardInterrupt):
            arguments.run(arguments)
    finally:
        signal.signal(signal.SIGINT, before)
    assert f"to watch it again: nni-proxyless watch {ONE}; to end it: nnictl stop {ONE}" in capsys.readouterr().err


@pytest.mark.parametrize("lines", [40, 0])
def test_bars_on_a_terminal(lines, monkeypatch, capsys):
    """One for each trial that runs; the line of one that has ended stands alone. None where the terminal has no size."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, 120, 0, 0))
    with open(slave, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal)
        with _Bars() as bars:
            assert bars.on_terminal == (lines > 0)
            one, two = (TrialProgress(n, f"trial {n}", 3, 6, "accuracy {1}", "", 125.0) for n in ("one", "two"))
            bars.show([one, two])
            bars.write("trial one: SUCCEEDED")
            bars.show([two])
        print("end", file=terminal)
    given = b""
    while b"end" not in given:  # a terminal hands over what has come so far
        given += os.read(master, 100_000)
    os.close(master)
    shown = given.decode()
    assert ("trial one |█████     | epoch 3/6, about 2 min 05 s left, accuracy {1}" in shown) == (lines > 0)
    assert ("trial two |█████     | epoch 3/6" in shown) == (lines > 0)
    assert capsys.readouterr().out == "trial one: SUCCEEDED\n"


def test_a_trial_is_called_by_what_sets_it_apart(recorded):
    params = json.loads(recorded.content["ExperimentProfile"][0])
    params["searchSpace"] = {
        "strategy.name": {"_type": "choice", "_value": ["dsnas", "proxyless"]}, "seed": {"_type": "choice", "_value": [3]},
        "latency.target_ms": {"_type": "uniform", "_value": [1, 2]},
    }  # fmt: skip
    recorded.content["ExperimentProfile"][0] = json.dumps(params)
    for given, name in (
        ({"strategy.name": "dsnas", "seed": 3, "latency.target_ms": 1.5}, " (strategy dsnas, target_ms 1.5)"),
        ({"a.rate": 1, "b.rate": 2}, " (a.rate 1, b.rate 2)"),
        ({"seed": 3}, ""),
    ):
        recorded.content["TrialJobEvent"][0][3] = json.dumps({"parameters": given})
        recorded.is_as_of(BEGAN)
        assert trial_name(trials_of(read_experiment(ONE))[0]) == f"trial jnakq{name}"
