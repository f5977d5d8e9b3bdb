"""Every file in ``experiments/``, and ``nni-proxyless check``, which says what is wrong with such files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from nni import NoMoreTrialError
from nni.algorithms.hpo.gridsearch_tuner import GridSearchTuner
from nni.experiment.config import ExperimentConfig

from nni_proxyless.cli.main import main
from nni_proxyless.config.nni_experiment import check_experiment
from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.config.shipped import shipped
from nni_proxyless.config.train_config import TrainConfig

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
FILES = sorted(path for path in EXPERIMENTS.rglob("*.yml"))
OURS = {
    "cifar-tree",
    "cifar-tree-small",
    "dsnas",
    "evolution",
    "imagenet/dsnas",
    "imagenet/proxyless",
    "pareto",
    "proxyless",
    "proxyless-reinforce",
    "retrain",
}

EXPERIMENT = """
trialCommand: nni-proxyless search search.yml
searchSpace:
  latency.target_ms: {_type: choice, _value: [50%, 3.0]}
maxTrialNumber: 2
trialConcurrency: 1
tuner: {name: GridSearch}
trainingService: {platform: local}
"""
SEARCH = "space: {preset: small}\nlatency: {target_ms: 60%}\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXPERIMENTS)))
def test_shipped_files_are_valid(path, tmp_path, monkeypatch, capsys):
    """Experiments are taken by NNI and give each of their trials what it can use; the rest is taken by our readers."""
    content = yaml.safe_load(path.read_text())
    monkeypatch.chdir(path.parent)  # where a module of a user's own lies
    for machine in (content.get("trainingService") or {}).get("machineList", ()):
        monkeypatch.setenv("HOME", str(tmp_path))  # NNI looks for the key
        key = Path(machine.get("sshKeyFile", "~/.ssh/id_rsa")).expanduser()
        key.parent.mkdir(parents=True, exist_ok=True)
        key.touch()
    assert main(["check", str(path)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"# {path} is valid")
    if "trialCommand" in content:
        ExperimentConfig.load(path).validate()
        assert content["trialCommand"].startswith("nni-proxyless ")
    else:
        cls = SearchConfig if path.name.startswith("search") else TrainConfig
        assert yaml.safe_load(said) == read_config(cls, path).model_dump(mode="json")


def test_every_experiment_is_there_and_comes_with_the_package():
    assert {str(p.relative_to(EXPERIMENTS).with_suffix("")) for p in FILES if "trialCommand" in p.read_text()} >= OURS
    assert all(shipped(f"{name}.yml").read_bytes() == (EXPERIMENTS / f"{name}.yml").read_bytes() for name in OURS)


def test_what_pareto_searches():
    """Both strategies, with their own arguments, for each target and seed; NNI's form shows all three."""
    found = check_experiment(EXPERIMENTS / "pareto.yml")
    assert found.n_trials == 18
    assert found.space == {"seed": "0, 1, 2", "latency.target_ms": "50%, 65%, 80%", "strategy.name": "proxyless, dsnas"}
    tuner = GridSearchTuner()
    tuner.update_search_space(yaml.safe_load((EXPERIMENTS / "pareto.yml").read_text())["searchSpace"])
    trials = [tuner.generate_parameters(i) for i in range(18)]
    assert trials[:2] == [
        {"seed": 0, "latency.target_ms": "50%", "strategy.name": "proxyless"},
        {"seed": 0, "latency.target_ms": "50%", "strategy.name": "dsnas"},
    ]
    assert [trial["seed"] for trial in trials] == [0] * 6 + [1] * 6 + [2] * 6
    with pytest.raises(NoMoreTrialError):
        tuner.generate_parameters(18)

    search = EXPERIMENTS / "search_pareto.yml"
    one = read_config(SearchConfig, search, [("searchSpace", "strategy.name", "dsnas")])
    assert (one.strategy.name, one.strategy.arguments["search_epochs"]) == ("dsnas", 12)
    assert "search_epochs" not in read_config(SearchConfig, search).strategy.arguments


def said_of(folder: Path, experiment: str, refused, search: str = SEARCH) -> list[str]:
    """What check says against the pair, without the path of the folder."""
    (folder / "e.yml").write_text(experiment)
    (folder / "search.yml").write_text(search)
    said = refused("check", folder / "e.yml")
    assert said.startswith("nni-proxyless: ")
    return said.removeprefix("nni-proxyless: ").replace(f"{folder}/", "").splitlines()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("trialConcurrency: 1", "trialConcurency: 1", "e.yml: unknown key 'trialConcurency'; allowed: experimentName, |Did you mean 'trialConcurrency'?"),
        ("trialConcurrency: 1", "trialConcurrency: 0", "e.yml: trialConcurrency: 0 is not allowed here; allowed: at least 1"),
        ("trialConcurrency: 1", "trialConcurrency: 1\ntrial_concurrency: 2", "e.yml: key trialConcurrency stands there twice; NNI reads 'trial_concurrency' as the same"),
        ("trialConcurrency: 1", "maxTrialDuration: 5 parsecs", "e.yml: maxTrialDuration: '5 parsecs' is not allowed here; allowed: a number with a unit, s, m, h or d, such as 90m"),
        ("{name: GridSearch}", "GridSearch", "e.yml: tuner: 'GridSearch' is not allowed here; allowed: a section with keys"),
        ("{name: GridSearch}", "{name: GridSerch}", "e.yml: tuner.name: 'GridSerch' is unknown; allowed: |Did you mean 'GridSearch'?"),
        ("{name: GridSearch}", "{name: TPE, classArgs: {mode: maximize}}", "e.yml: tuner.classArgs: unknown key 'mode'; allowed: optimize_mode, seed, tpe_args."),
        ("{name: GridSearch}", "{name: Random, classArgs: {seed: x}}", "e.yml: tuner.classArgs: |seed"),
        ("tuner: {name: GridSearch}\n", "", "e.yml: tuner: is missing"),
        ("platform: local", "platform: lokal", "e.yml: trainingService.platform: 'lokal' is not allowed here; allowed: |Did you mean 'local'?"),
        ("platform: local", "platform: local, reuse: true", "e.yml: trainingService: unknown key 'reuse'; allowed: |Did you mean 'reuseMode'?"),
        ("platform: local", "platform: local, trialGpuNumber: 1", "e.yml: NNI refuses it: ValueError: LocalConfig: please set use_active_gpu"),
        ("latency.target_ms", "latency.target", "e.yml: searchSpace: latency: unknown key 'target'; allowed: target_ms, |Did you mean 'target_ms'?"),
        ("[50%, 3.0]", "[50%, 0]", "e.yml: searchSpace: latency.target_ms: 0 is not allowed here; allowed: milliseconds, greater than 0"),
        ("[50%, 3.0]", "50%", "e.yml: searchSpace.latency.target_ms: _value: '50%' is not allowed here; allowed: a list of at least one value"),
        ("_type: choice", "_type: choise", "e.yml: searchSpace.latency.target_ms: _type: 'choise' is not allowed here; allowed: choice, |Did you mean 'choice'?"),
        ("_type: choice, _value: [50%, 3.0]", "_type: uniform, _value: [3, 1]", "e.yml: searchSpace.latency.target_ms: [3, 1]: must have high > low"),
        ("_type: choice, _value: [50%, 3.0]", "_type: uniform, _value: [-1, 3]", "e.yml: searchSpace: latency.target_ms: -1.0 is not allowed here"),
        ("latency.target_ms: {_type: choice, _value: [50%, 3.0]}", "training.learning_rate: {_type: choice, _value: [1e-3]}", "e.yml: searchSpace: training.learning_rate: '1e-3' is not allowed here; allowed: a number"),
        ("latency.target_ms: {_type: choice, _value: [50%, 3.0]}", "training.epochs: {_type: quniform, _value: [1, 3, 1]}", "e.yml: searchSpace: training.epochs: 1.0 is not allowed here; allowed: a whole number"),
        ("latency.target_ms: {_type: choice, _value: [50%, 3.0]}", "{}", "e.yml: searchSpace: is empty; allowed with the tuner GridSearch: at least one parameter"),
        ("search search.yml", "search serch.yml", "e.yml: trialCommand: no file 'serch.yml' in "),
        ("search search.yml", "serch search.yml", "e.yml: trialCommand: 'serch' is not allowed here; allowed: search, train. Did you mean 'search'?"),
        ("search search.yml", "search 'search.yml", "e.yml: trialCommand: No closing quotation"),
        ("search search.yml", "search search.yml training.epochs=0", "e.yml: trialCommand: training.epochs: 0 is not allowed here; allowed: at least 1"),
        ("search search.yml", "train", "e.yml: trialCommand: train: which network?"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_experiment(old, new, said, tmp_path, refused):
    assert old in EXPERIMENT
    lines = said_of(tmp_path, EXPERIMENT.replace(old, new).replace("\n  {}", " {}"), refused)
    begin, _, end = said.partition("|")
    assert any(line.startswith(begin) and end in line for line in lines), lines
    assert len(lines) <= 2


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("evolution", "search: search_evolution.yml", "search: serch.yml", "evolution.yml: tuner.classArgs: search: 'serch.yml' is not allowed here; allowed: a search.yml in |, the trialCodeDirectory"),
        ("evolution", "    search: search_evolution.yml\n", "", "evolution.yml: tuner.classArgs: search: is missing; allowed: a search.yml in "),
        ("evolution", "population_size: 10", "population_sise: 10", "evolution.yml: tuner.classArgs: unknown key 'population_sise'; allowed: |Did you mean 'population_size'?"),
        ("evolution", "population_size: 10", "population_size: 1", "evolution.yml: tuner.classArgs: population_size is 1; allowed: 2 or more"),
        ("evolution", "population_size: 10", "limits: {}", "evolution.yml: tuner.classArgs: unknown key 'limits'"),
        ("evolution_train", "validation: 0.2", "validation: 0.0", "evolution_train.yml: validation: 0 is not allowed in an evolution, which would select by the test images; allowed: greater than 0"),
        ("evolution_train", "weights: scratch", "weights: inherited", "evolution_train.yml: weights: 'inherited' is not allowed in an evolution, whose networks are new; allowed: scratch"),
        ("search_evolution", "target: 50%", "target: 0", "evolution.yml: tuner.classArgs: search_evolution.yml: costs.0.target: 0 is not allowed here"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_evolution(file, old, new, said, tmp_path, refused):
    for name in ("evolution", "search_evolution", "evolution_train"):
        text = (EXPERIMENTS / f"{name}.yml").read_text()
        assert name != file or old in text
        (tmp_path / f"{name}.yml").write_text(text.replace(old, new) if name == file else text)
    found = refused("check", tmp_path / "evolution.yml").removeprefix("nni-proxyless: ").replace(f"{tmp_path}/", "")
    begin, _, end = said.partition("|")
    assert any(line.startswith(begin) and end in line for line in found.splitlines()), found
    assert len(found.splitlines()) == 1


def test_the_search_of_an_experiment_is_checked_with_it(tmp_path, refused):
    """Each problem once, and each where it stands, although every trial would meet it."""
    search = "trainig: {}\nlatency: {target_ms: 60%, weight: -1}\n"
    said = said_of(tmp_path, EXPERIMENT.replace("3.0", "0"), refused, search)
    experiment, *search = sorted(said)
    assert experiment.startswith("e.yml: searchSpace: latency.target_ms: 0 is not allowed here")
    assert search[0] == "search.yml: latency.weight: -1 is not allowed here; allowed: a number of 0 or more, or auto"
    assert search[1].startswith("search.yml: unknown key 'trainig'; allowed: seed, ")
    assert len(search) == 2


def test_combinations_are_checked_as_such(tmp_path, refused):
    """A key of one strategy is refused for the other, not for itself."""
    name, gap = ("{_type: choice, _value: [dsnas, proxyless]}", "{_type: choice, _value: [0.3]}")
    space = f"strategy.name: {name}\n  strategy.fix_gap: {gap}"
    experiment = EXPERIMENT.replace("latency.target_ms: {_type: choice, _value: [50%, 3.0]}", space)
    (line,) = said_of(tmp_path, experiment, refused)
    assert line.startswith("e.yml: searchSpace: strategy: unknown key 'fix_gap'; allowed: name, arc_learning_rate, ")


def test_several_files_and_overrides(tmp_path, monkeypatch, refused, capsys):
    monkeypatch.chdir(tmp_path)
    Path("e.yml").write_text(EXPERIMENT)
    Path("search.yml").write_text(SEARCH)
    Path("other.yml").write_text(EXPERIMENT.replace("nni-proxyless search search.yml", "python mine.py"))
    assert main(["check", "e.yml", "other.yml", "search.yml"]) == 0
    said = capsys.readouterr().out
    first = "# e.yml is valid: 2 trials at most, 1 at a time, of\n#   nni-proxyless search search.yml\n"
    assert f"{first}# latency.target_ms: 50%, 3.0\n" in said
    assert "#   python mine.py\n" in said
    assert "which is no command of nni-proxyless" in said
    assert main(["check", "search.yml", "training.epochs=7"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["training"]["epochs"] == 7
    for words, said in (
        (["seed=1"], "check: which file?"),
        (["e.yml", "seed=1"], "e.yml: overrides of an experiment's trials stand in its trialCommand and searchSpace"),
        (["search.yml", "e.yml", "seed=1"], "check: overrides are of one file"),
        (["none.yml"], "none.yml: No such file or directory"),
        (["search.yml", "seed=-1"], "command line: seed: -1 is not allowed here; allowed: at least 0"),
    ):
        assert refused("check", *words).startswith(f"nni-proxyless: {said}")
