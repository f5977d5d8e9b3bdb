"""``docs/tutorial/first_search.md``: its commands, in its order, shortened where they compute."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import yaml

from nni_proxyless.cli.main import main

from .test_docs_commands import commands

SHORTER = [
    "training.epochs=2", "strategy.warmup_epochs=1", "data.image_size=8", "training.calibration_images=32", "trainer.threads=1",
    "latency.estimator={name: macs}", "latency.table=null", "space.depths=[1,1,1]",
]  # fmt: skip


def test_the_page(pytestconfig, tmp_path, monkeypatch, capsys):
    """From init to the trained network. What nnictl does with such files: test_experiment.py."""
    monkeypatch.chdir(tmp_path)
    page = list(commands((pytestconfig.rootpath / "docs" / "tutorial" / "first_search.md").read_text(encoding="utf-8")))
    ran = []
    for line in page:
        words = shlex.split(line, comments=True)
        if words[0] == "nnictl":
            assert words[1] in ("create", "stop")
            assert main(["check", *(re.findall(r"\S+\.yml", line) or ["first/search.yml"])]) == 0
            continue
        if words[1] == "watch":  # of that experiment
            continue
        if words[1] == "report":
            words.append("first")
        if words[1] == "search" and "--resume" not in words:
            words += SHORTER
        if words[1] == "train":
            words[-1] = "1"
        ran.append(words[1])
        if "--data-root" in words:  # a folder that only the reader has
            words[words.index("--data-root") + 1] = str(tmp_path)
        assert main(words[1:]) == 0, line
    assert ran == ["init", "init", "init", "check", "check", "search", "search", "report", "train"]

    said = capsys.readouterr().out
    assert "# first/proxyless.yml is valid: 2 trials at most, 1 at a time" in said
    assert "finished already: first/one/architecture.json" in said
    assert yaml.safe_load(Path("second/search.yml").read_text())["data"]["name"] == "fashion-mnist"
    assert (Path("second/dsnas.yml").exists(), Path("third/proxyless.yml").exists()) == (True, True)
    assert 0 <= json.loads(Path("first/one/final/result.json").read_text())["accuracy"] <= 1
