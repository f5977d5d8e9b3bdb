"""``nni-proxyless init``: the pair it writes is the shipped one with other values, valid, and never over another."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nni_proxyless.cli.main import main
from nni_proxyless.config.edit_yaml import remove, set_value
from nni_proxyless.config.shipped import shipped


def made(capsys, *words: str) -> tuple[dict, dict, str]:
    """The experiment and the search that were written to ``new``, and what was printed."""
    assert main(["init", "new", *words]) == 0
    experiment, search = sorted(Path("new").glob("*.yml"), key=lambda path: path.name == "search.yml")
    return yaml.safe_load(experiment.read_text()), yaml.safe_load(search.read_text()), capsys.readouterr().out


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_by_default_the_shipped_pair(capsys):
    experiment, search, said = made(capsys)
    assert search == yaml.safe_load(shipped("search.yml").read_text()) | {"latency": search["latency"]}
    assert search["latency"]["target_ms"] == "50%"
    theirs = yaml.safe_load(shipped("proxyless.yml").read_text())
    assert experiment == theirs | {"experimentName": "proxyless on digits for 2 latency targets"}
    comments = [line.partition("#")[2] for line in shipped("search.yml").read_text().splitlines() if " #" in line]
    assert all(comment in Path("new/search.yml").read_text() for comment in comments)
    assert "nnictl create --config new/proxyless.yml" in said
    assert main(["check", "new/proxyless.yml", "new/search.yml"]) == 0


def test_another_data_set_space_strategy_and_target(capsys):
    """A folder of images of one's own: its space, its table, and what is said of large data sets."""
    words = ["--data", "folder", "--data-root", "/my images/x", "--strategy", "dsnas", "--target", "3.5", "40%", "70%"]
    experiment, search, said = made(capsys, *words)
    assert experiment["searchSpace"] == {
        "latency.target_ms": {"_type": "choice", "_value": [3.5, "40%", "70%"]},
        "strategy.name": {"_type": "choice", "_value": ["dsnas"]},
        "seed": {"_type": "choice", "_value": [0]},
    }
    assert experiment["maxTrialNumber"] == 3
    assert (search["data"]["name"], search["data"]["root"]) == ("folder", "/my images/x")
    assert search["space"] == {"name": "mobilenetv2", "preset": "imagenet", "shared_weights": False}
    assert search["latency"]["table"] == "tables/folder.yaml"
    assert (search["strategy"]["name"], search["strategy"]["arc_learning_rate"]) == ("dsnas", 0.001)
    assert search["trainer"] == {"accelerator": "auto"}
    assert "nnictl create --config new/dsnas.yml" in said


@pytest.mark.parametrize(
    ("words", "bias"),
    [((), 1.0), (("--data", "cifar10"), None), (("--space", "nni.nas.hub.pytorch:ShuffleNetSpace"), None)],
)
def test_large_candidates_train_more_often_where_weights_are_shared(capsys, words, bias):
    _, search, _ = made(capsys, *words)
    assert search["strategy"].get("size_bias") == bias
    assert bool(search["space"].get("shared_weights")) == (bias is not None)


@pytest.mark.parametrize(("data", "preset"), [("digits", "small"), ("cifar10", "paper")])
def test_a_preset_is_one_of_the_space(capsys, data, preset):
    """And the comment behind it names all of them."""
    _, search, _ = made(capsys, "--space", "pyramid-tree", "--data", data)
    assert search["space"] == {"name": "pyramid-tree", "preset": preset}
    (line,) = [line for line in Path("new/search.yml").read_text().splitlines() if line.startswith("  preset:")]
    assert line.partition("#")[2] == " paper, small"


def test_classes_of_which_nothing_is_known(capsys):
    """A strategy with an optimizer of a large data set, and a space that knows nothing of the shipped one's arguments."""
    strategy, space = "nni.nas.strategy:DARTS", "nni.nas.hub.pytorch:ShuffleNetSpace"
    _, search, _ = made(capsys, "--strategy", strategy, "--space", space, "--data", "cifar10")
    assert (search["strategy"], search["space"]) == ({"name": strategy}, {"name": space})
    assert search["training"]["optimizer"] == "sgd"
    assert Path("new/experiment.yml").exists()


def test_reinforce(capsys):
    _, search, _ = made(capsys, "--strategy", "proxyless-reinforce")
    assert search["strategy"]["update"] == "reinforce"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "digts"], "--data: data.name: 'digts' is unknown; allowed: |Did you mean 'digits'?"),
        (["--data", "folder"], "--data folder needs --data-root PATH"),
        (["--data-root", "x"], "--data-root: data: unknown key 'root'"),
        (["--space", "mobilnetv2"], "--space: 'mobilnetv2' is unknown; allowed: |Did you mean 'mobilenetv2'?"),
        (["--strategy", "dsna"], "--strategy: 'dsna' is unknown; allowed: proxyless, proxyless-reinforce, dsnas, |Did you mean 'dsnas'?"),
        (["--target", "120%"], "--target: latency.target_ms: '120%' is not allowed here; allowed: milliseconds"),
        (["--target", "{1"], "--target: '{1' is not a value"),
    ],
)  # fmt: skip
def test_a_wrong_word_writes_nothing(words, said, refused):
    begin, _, end = said.partition("|")
    error = refused("init", "new", *words)
    assert error.startswith(f"nni-proxyless: {begin}")
    assert end in error
    assert not Path("new").exists()


def test_nothing_is_overwritten(refused):
    Path("search.yml").write_text("mine")
    assert "search.yml: there already, and left as it is; allowed: another folder" in refused("init")
    assert [path.name for path in Path().iterdir()] == ["search.yml"]
    refused("init", "search.yml")
    assert Path("search.yml").read_text() == "mine"


TEXT = """\
# head
name: a  # top
part:
  name: b      # in part
  more: {x: 1}
other:
  name: c
"""


def test_values_change_and_comments_stay():
    assert set_value(TEXT, "name", "z") == TEXT.replace("name: a  #", "name: z  #")
    assert set_value(TEXT, "part.name", "longer than before") == TEXT.replace(
        "  name: b      #", "  name: longer than before  #"
    )
    assert set_value(TEXT, "part.name", "50%") == TEXT.replace("name: b      #", "name: 50%    #")
    assert set_value(TEXT, "part.more", [1, "2"]) == TEXT.replace("{x: 1}", "[1, '2']")
    assert set_value(TEXT, "part.new", True) == TEXT.replace("{x: 1}\n", "{x: 1}\n  new: true\n")
    assert remove(TEXT, "part.name") == TEXT.replace("  name: b      # in part\n", "")
    assert remove(TEXT, "part.none") == TEXT
    with pytest.raises(KeyError):
        set_value(TEXT, "none.x", 1)
