"""Terminals that know ASCII only, readers that have gone, and streams that are closed: no command ends with a traceback for them."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from nni_proxyless.cli.main import main

COMMANDS = (
    "search", "init", "check", "train", "latency", "derive", "draw", "reference", "export", "report", "fetch", "watch",
)  # fmt: skip
LOGS = """
import logging, os, sys
from nni_proxyless.core.progress import LogAboveBars
from nni_proxyless.core.streams import prepare_streams, say
prepare_streams()
log = logging.getLogger("one")
log.addHandler(LogAboveBars())
for i in range(3):
    log.warning("nobody reads this: %d", i)
say("nor this")
open("done", "w").write(str(os.open("done", os.O_RDONLY) > 2))
"""


# Unbuffered, it is argparse that meets an error of its stream, and passes over it.
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def run(shell: str, cwd, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", shell, sys.executable, *words], cwd=cwd, env=BUFFERED, capture_output=True, text=True, timeout=120, check=False
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_help_on_an_ascii_terminal(command, monkeypatch):
    text = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", text)
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert text.buffer.getvalue().startswith(b"usage: nni-proxyless")


def test_results_and_errors_on_an_ascii_terminal(tmp_path, monkeypatch):
    """What the terminal cannot show is written by its number; files are UTF-8."""
    folder = tmp_path / "Größe–1"
    folder.mkdir()
    (folder / "train.yml").write_text("epochs: 1\noutput: Größe\n", encoding="utf-8")
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding="ascii") for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    assert main(["check", str(folder / "train.yml")]) == 0
    assert rb"output: Gr\xf6\xdfe" in streams["stdout"].buffer.getvalue()
    assert main(["check", str(folder / "none.yml")]) == 2
    assert rb"Gr\xf6\xdfe\u20131/none.yml: No such file" in streams["stderr"].buffer.getvalue()


def test_a_reader_that_has_gone(tmp_path):
    """As SIGPIPE would end it, and nothing is said; other errors of the stream are."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as file:
        command = [sys.executable, "-m", "nni_proxyless", "draw", "--help"]
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, timeout=120, env=BUFFERED)
    assert (done.returncode, done.stderr) == (141, "")


def test_streams_that_are_closed(tmp_path):
    done = run('"$0" -m nni_proxyless check train.yml >&- 2>&-', tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    for place in ("2>&-", ">&- 2>&- <&-", "2>/dev/full"):
        assert run(f'"$0" -c "$1" {place}', tmp_path, LOGS).returncode == 0, place
        assert (tmp_path / "done").read_text() == "True", "a file has got the number of a stream"
        (tmp_path / "done").unlink()
    done = run('"$0" -m nni_proxyless draw --help >/dev/full', tmp_path)
    assert (done.returncode, done.stderr) == (1, "nni-proxyless: standard output: No space left on device\n")
