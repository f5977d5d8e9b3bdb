"""Locks between processes: who waits for whom, and what a killed process leaves."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nni_proxyless.core.file_lock import HeldError, hold

HOLDER = """
import sys, time
from pathlib import Path
from nni_proxyless.core.file_lock import hold
with hold(Path(sys.argv[1]), "sleeps"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path, seconds: float, code: str = HOLDER) -> subprocess.Popen:
    """Another process that holds the lock already."""
    process = subprocess.Popen([sys.executable, "-c", code, str(path), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_waits_or_says_who_has_it(tmp_path, caplog):
    path = tmp_path / "lock"
    with holder(path, 3) as other:
        with pytest.raises(HeldError, match=f"^process {other.pid} sleeps$"), hold(path, "tries", wait=False):
            pass
        with caplog.at_level("INFO", "nni_proxyless"), hold(path, "waits"):
            assert other.wait(5) == 0, "it was let go before the other one had ended"
    assert [record.message for record in caplog.records] == [f"waiting: process {other.pid} sleeps"]
    assert not path.exists()


def test_what_a_killed_process_held_is_free(tmp_path):
    """At once, though a process that it has forked lives on for a while, as those that load images do."""
    path = tmp_path / "lock"
    forks = HOLDER.replace("    print(", "    import os\n    if os.fork() == 0: time.sleep(3); os._exit(0)\n    print(")
    with holder(path, 600, forks) as other:
        other.kill()
    assert path.exists(), "it could not remove its file"
    with hold(path, "goes on", wait=False):
        assert "goes on" in path.read_text()


def test_the_same_process_may_hold_it_twice(tmp_path):
    path = tmp_path / "lock"
    with hold(path, "measures"):
        with hold(tmp_path / "." / "lock", "measures one of them", wait=False):
            pass
        assert path.exists(), "the inner one must not let go what the outer one holds"
        code = f"from pathlib import Path; from nni_proxyless.core.file_lock import hold; hold(Path({str(path)!r}), '', wait=False).__enter__()"
        done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, timeout=60)
        assert f"HeldError: process {os.getpid()} measures" in done.stderr


def test_many_that_come_and_go_are_never_inside_together(tmp_path):
    """The lock file is removed each time, so that somebody always waits for a file that is no longer the one."""
    code = """
import os, sys
from pathlib import Path
from nni_proxyless.core.file_lock import hold
folder = Path(sys.argv[1])
for _ in range(150):
    with hold(folder / "lock", "counts"):
        inside = os.open(folder / "inside", os.O_CREAT | os.O_EXCL)
        os.close(inside)
        (folder / "inside").unlink()
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0, 0, 0, 0]
