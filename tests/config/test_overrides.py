"""Single values in the place of a file's; what the file says for a name goes when the name is changed."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from nni_proxyless.cli.main import main
from nni_proxyless.config.nni_experiment import check_experiment
from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.config.shipped import shipped
from nni_proxyless.core.errors import UserError

FILE = """
space: {preset: small}
data: {name: fashion-mnist, root: somewhere, n_train: 100, batch_size: 16, validation: 0.1}
strategy: {name: proxyless, warmup_epochs: 3, update: full}
latency:
  target_ms: 50%
  table: t.yaml
  estimator: &timed {device: cpu, threads: 2}
costs:
- {estimator: *timed, target: 1, name: other, table: u.yaml}
"""


def read(path: Path, *pairs: tuple[str, object]) -> SearchConfig:
    path.write_text(FILE)
    return read_config(SearchConfig, path, [("command line", *pair) for pair in pairs])


def test_the_shipped_file_by_multiply_adds(capsys):
    """The command of the documents; the file's table is of milliseconds."""
    assert main(["check", str(shipped("search.yml")), "latency.estimator.name=macs"]) == 0
    printed = capsys.readouterr().out
    assert "table: null\n  estimator:\n    name: macs\ncosts: []\n" in printed
    latency = read_config(SearchConfig, shipped("search.yml"), [("x", "latency.estimator.name", "table")]).latency
    assert latency.table == "tables/digits.yaml", "which is all that this estimator has"
    assert latency.estimator.arguments == {}


def test_a_changed_name_lets_go_of_the_arguments_of_the_old_one(tmp_path):
    path = tmp_path / "search.yml"
    pairs = [("space.name", "nasbench201"), ("data.name", "digits"), ("strategy.name", "dsnas")]
    config = read(path, *pairs, ("costs.0.estimator.name", "macs"))
    assert (config.space.name, config.space.arguments) == ("nasbench201", {})
    assert (config.data.name, config.data.arguments) == ("digits", {})
    assert (config.data.batch_size, config.data.validation) == (16, 0.1), "keys of the section, whatever it names"
    assert (config.strategy.name, config.strategy.arguments) == ("dsnas", {}), "though dsnas knows warmup_epochs too"
    assert (config.costs[0].estimator.arguments, config.costs[0].table, config.costs[0].target) == ({}, None, 1)
    assert config.latency.estimator.arguments == {"device": "cpu", "threads": 2, "runtime": "onnxruntime"}, (
        "an alias is no second name of a place"
    )
    assert config.latency.table == "t.yaml"


def test_what_overrides_give_stays(tmp_path):
    """Before the name or after it, and a table too; as does everything where the name is the file's own."""
    path = tmp_path / "search.yml"
    config = read(
        path, ("strategy.warmup_epochs", 5), ("strategy.name", "dsnas"), ("latency.estimator.name", "table"),
        ("latency.estimator.threads", 4), ("costs.0.estimator.name", "macs"), ("costs.0.table", "new.yaml"),
    )  # fmt: skip
    assert config.strategy.arguments == {"warmup_epochs": 5}
    assert config.latency.estimator.arguments == {"threads": 4}
    assert config.costs[0].table == "new.yaml"
    same = read(
        path, ("strategy.name", "proxyless"), ("latency.estimator.name", "device"), ("space.name", "mobilenetv2")
    )
    assert same == read(path)
    with pytest.raises(UserError) as refused:
        read(path, ("latency.estimator.name", "mcas"))
    assert len(str(refused.value).splitlines()) == 1
    assert "latency.estimator.name: 'mcas' is unknown" in str(refused.value)


def test_what_is_left_out_is_said_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="nni_proxyless")
    for _ in range(2):
        read(tmp_path / "search.yml", ("latency.estimator.name", "activations"))
    assert [record.getMessage() for record in caplog.records] == [
        "command line: latency.estimator is activations: left out device, threads, latency.table, which the file has for device"
    ]


def test_a_changed_runtime_lets_go_of_the_options_and_the_table_of_the_old_one(tmp_path, caplog):
    """So that eager mode is one word away; a runtime that the file has already changes nothing."""
    caplog.set_level(logging.INFO, logger="nni_proxyless")
    path = tmp_path / "search.yml"
    latency = read(path, ("latency.estimator.runtime", "torch")).latency
    assert (latency.table, latency.estimator.arguments) == (None, {"device": "cpu", "threads": 2, "runtime": "torch"})
    assert [record.getMessage() for record in caplog.records] == [
        "command line: latency.estimator.runtime is torch: left out latency.table, which the file has for onnxruntime"
    ]
    assert read(path, ("latency.estimator.runtime", "onnxruntime")) == read(path)
    assert read(path, ("latency.estimator.runtime", "torch"), ("latency.table", "v.yaml")).latency.table == "v.yaml"


def test_check_sees_what_trials_do(tmp_path):
    """Of an experiment that chooses the estimator, every combination."""
    (tmp_path / "search.yml").write_text(FILE.replace("fashion-mnist, root: somewhere, n_train: 100", "digits"))
    (tmp_path / "e.yml").write_text(
        "trialCommand: nni-proxyless search search.yml strategy.name=dsnas\ntrialConcurrency: 1\ntuner: {name: GridSearch}\n"
        "searchSpace: {latency.estimator.name: {_type: choice, _value: [parameters, device]}}\n"
        "trainingService: {platform: local}\n"
    )
    first = check_experiment(tmp_path / "e.yml").first
    for name, arguments in (("parameters", {}), ("device", {"device": "cpu", "threads": 2, "runtime": "onnxruntime"})):
        parameters = [("command line", "strategy.name", "dsnas"), ("NNI's parameters", "latency.estimator.name", name)]
        trial = read_config(SearchConfig, tmp_path / "search.yml", parameters)
        assert (trial.strategy.arguments, trial.latency.estimator.arguments) == ({}, arguments)
        if name == "parameters":
            assert trial == first
