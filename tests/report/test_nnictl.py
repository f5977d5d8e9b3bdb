"""The end of an experiment by a signal, at the worst of moments."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from nni_proxyless.report import nnictl

LEAVES = """
import os, signal, time
os.close(1), os.close(2)
time.sleep(0.5)
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(1)
open("left", "w").close()
"""


def test_a_signal_while_nnictl_is_on_its_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output is closed, itself still there: the signal waits for its end, and is what comes of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nnictl, "_NNICTL", LEAVES)
    with pytest.raises(SystemExit) as ended, nnictl._ended_by_signals():
        nnictl._nnictl("create")
    assert ended.value.code == 128 + signal.SIGTERM
    assert os.path.exists("left")


def test_what_nnictl_says_is_shown_where_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnictl, "_NNICTL", "import os, sys; os.write(2, b'caf\\xe9\\n'); sys.exit(3)")
    with pytest.raises(nnictl.NnictlError, match=r"^nnictl stop X: exit code 3\ncaf\ufffd$"):
        nnictl._nnictl("stop", "X")
