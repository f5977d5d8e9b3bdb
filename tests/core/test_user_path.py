"""``~`` and ``$NAME`` in paths: in both files, behind ``key=``, and in what follows a command."""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from nni_proxyless.cli.main import _parser, main
from nni_proxyless.config.read import file_and_overrides, read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.config.train_config import TrainConfig
from nni_proxyless.core.errors import UserError
from nni_proxyless.core.user_path import expand_path, of_another_machine, user_path
from nni_proxyless.search.nni_trial import output_folder
from nni_proxyless.search.run_folder import locked

from ..runs import MACS, TINY


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home with a space in its name, and a current folder beside it."""
    (tmp_path / "my home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "my home"))
    monkeypatch.setenv("SCRATCH", str(tmp_path / "my home" / "scratch"))
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "my home"


def test_what_it_means_to_a_shell(home):
    assert expand_path("~/run") == expand_path("$HOME/run") == expand_path("${HOME}/run") == f"{home}/run"
    assert expand_path("~") == str(home)
    for plain in ("run", "a b/c", "/x/~/y", "x~", "5$", "runs/lr=0.1"):
        assert expand_path(plain) == plain
    for wrong, why in (
        ("$NOT_SET/run", "the environment variable NOT_SET is not set"),
        ("${NOT_SET}/run", "the environment variable NOT_SET is not set"),
        ("~nobody-of-that-name/run", "~nobody-of-that-name is no home folder that is known here"),
    ):
        with pytest.raises(UserError, match=r"^here: .* is not allowed here; allowed: a path; ") as refused:
            user_path(wrong, "here")
        assert str(refused.value).endswith(why)
    with of_another_machine():
        assert expand_path("$NOT_SET/~") == "$NOT_SET/~"
    Path("$NOT_SET").mkdir()
    assert expand_path("$NOT_SET/..") == "$NOT_SET/..", "a file of that name is there"


def test_every_path_of_a_configuration(home):
    Path("search.yml").write_text(
        "output: ~/run\nlatency: {table: $HOME/t.yaml}\ncosts: [{estimator: {name: macs}, target: 1, table: '~/c.yaml'}]\n"
    )
    config = read_config(SearchConfig, "search.yml")
    assert (config.output, config.latency.table) == (f"{home}/run", f"{home}/t.yaml")
    assert config.costs[0].table == f"{home}/c.yaml"
    name, overrides = file_and_overrides(["~/s.yml", "output=~/other", "latency.table=${SCRATCH}/t.yaml"])
    assert name == f"{home}/s.yml"
    config = read_config(SearchConfig, None, overrides)
    assert (config.output, config.latency.table) == (f"{home}/other", f"{home}/scratch/t.yaml")

    distillation = {"teacher": "~/a.json", "weights": "~/t.safetensors"}
    given = {"output": "~/final", "weights": "$HOME/w.safetensors", "distillation": distillation}
    trained = read_config(TrainConfig, None, [("here", key, value) for key, value in given.items()])
    assert (trained.output, trained.weights) == (f"{home}/final", f"{home}/w.safetensors")
    assert trained.distillation is not None
    assert (trained.distillation.teacher, trained.distillation.weights) == (f"{home}/a.json", f"{home}/t.safetensors")
    of_timm = read_config(TrainConfig, None, [("here", "distillation.teacher", "resnet18")])
    assert of_timm.distillation.teacher == "resnet18"

    with pytest.raises(UserError) as refused:
        read_config(SearchConfig, None, [("trial", "output", "$NOT_SET/run"), ("trial", "latency.table", "~x.y/t")])
    assert str(refused.value).splitlines() == [
        "trial: output: '$NOT_SET/run' is not allowed here; allowed: a path; the environment variable NOT_SET is not set",
        "trial: latency.table: '~x.y/t' is not allowed here; allowed: a path; ~x.y is no home folder that is known here",
    ]


def actions(parser: argparse.ArgumentParser):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from actions(inner)
        else:
            yield action


def test_every_path_of_a_command_line(home, refused, capsys):
    """None goes by another way than that of :mod:`nni_proxyless.core.user_path`."""
    words = ("DIR", "FILE", "PAGE", "PICTURE", "RUN", ".json", ".yaml", "train.yml")
    paths = [a for a in actions(_parser()) if any(word in str(a.metavar) for word in words) and a.dest != "items"]
    assert len(paths) > 20
    assert [a.dest for a in paths if a.type is None or a.type.__module__ != "nni_proxyless.core.user_path"] == []
    nobody = refused("derive", "~nobody-of-that-name/run", "--front", "3")
    assert "~nobody-of-that-name is no home folder that is known here" in nobody
    assert f"{home}/run: no search.yml there" in refused("derive", "~/run", "--front", "3")
    (home / "lr=0.1").mkdir()
    (home / "lr=0.1" / "train.yml").write_text("epochs: 3\noutput: ~/final\n")
    assert main(["check", f"{home}/lr=0.1/train.yml", "seed=5"]) == 0, "a file whose path has a ="
    resolved = capsys.readouterr().out.partition("\n")[2]  # where a long path is folded
    assert yaml.safe_load(resolved)["output"] == f"{home}/final"


def test_a_search_goes_to_one_place(home, refused):
    Path("search.yml").write_text(TINY)
    short = ("training.epochs=1", "strategy.warmup_epochs=0", "trainer.threads=1")
    assert main(["search", "search.yml", "output=~/run", *MACS, *short]) == 0
    assert sorted(os.listdir()) == ["search.yml"]
    left = {path.name.partition(".tfevents")[0] for path in (home / "run").rglob("*")}
    assert {"architecture.json", "search.yml", "tensorboard", "events.out"} <= left
    assert {name for name in os.listdir(home) if not name.startswith(".")} == {"run"}  # and what matplotlib keeps there
    # What is said to be typed can be typed.
    (home / "run" / "checkpoint").mkdir()
    assert f"nni-proxyless search --resume '{home}/run'" in refused("derive", "~/run", "--front", "3")


def test_searches_that_begin_in_one_second_have_folders_of_their_own(home):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: output_folder(None, "search"), range(24)))
    assert len(set(folders)) == 24
    assert all(folder.is_dir() for folder in folders)


def test_a_folder_that_nothing_has_come_into_is_gone_again(home):
    """One that was made for a search, and none of the user's."""
    Path("mine").mkdir()
    for folder, is_left in ((output_folder(None, "search"), False), (Path("mine"), True)):
        with pytest.raises(UserError), locked(folder, wait=False):
            raise UserError("refused")
        assert folder.exists() == is_left
