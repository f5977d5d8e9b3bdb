"""``search.yml``: what is taken, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from nni_proxyless.search_spaces import MobileNetV2Space
from nni_proxyless.strategies import ProxylessNAS

from nni_proxyless.config.read import parse_value, read_config
from nni_proxyless.config.registry import accepted_arguments
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.config.strict_yaml import read_yaml
from nni_proxyless.config.train_config import TrainConfig
from nni_proxyless.core.errors import UserError
from nni_proxyless.search.run_folder import as_file_in, differences


def problems(tmp_path: Path, text: str, *overrides: tuple) -> list[str]:
    """What is said about a file, line by line, without the path of the folder."""
    (tmp_path / "search.yml").write_text(text)
    with pytest.raises(UserError) as refused:
        read_config(SearchConfig, tmp_path / "search.yml", overrides)
    return str(refused.value).replace(f"{tmp_path}/", "").splitlines()


def test_shipped_files_are_valid(pytestconfig):
    experiments = pytestconfig.rootpath / "experiments"
    config = read_config(SearchConfig, experiments / "search.yml", [("NNI's parameters", "latency.target_ms", "50%")])
    assert config.latency.target_ms == "50%"
    assert config.strategy.arguments == {
        "update": "two-path", "entropy_weight": 1.0, "warmup_epochs": 12, "size_bias": 1.0, "arc_update_every": 2,
        "arc_learning_rate": 0.1,
    }  # fmt: skip
    assert read_config(SearchConfig, None).space.name == "mobilenetv2"
    for path in experiments.rglob("search*.yml"):
        estimator = read_yaml(path)["latency"]["estimator"]
        assert estimator["name"] == "macs" or estimator["runtime"] == "onnxruntime", "files that are shipped say it"
    assert read_config(TrainConfig, experiments / "train.yml").weights == "inherited"
    config = read_config(SearchConfig, experiments / "search_dsnas.yml")
    assert config.strategy.name == "dsnas"
    stages = config.strategy.arguments
    assert stages["warmup_epochs"] + stages["search_epochs"] < config.training.epochs


def test_all_problems_are_said_at_once(tmp_path):
    """Unknown keys, wrong types and impossible values, of every section, in one go."""
    said = problems(
        tmp_path,
        """
        sed: 1
        space: {name: mobilenetv2, preset: smal}
        data: {batch_size: 0, alphas: two}
        strategy: {warmup_epoch: 3, arc_learning_rate: fast}
        latency: {target_ms: -2, estimator: {name: device, threds: 1}}
        training: {epochs: 2.5}
        """,
    )
    for line in (
        "search.yml: unknown key 'sed'; allowed: seed, output, space, data, task, strategy, strategies, latency, costs, training, search, trainer. Did you mean 'seed'?",
        "search.yml: space.preset: 'smal' is not allowed here; allowed: 'imagenet', 'cifar', 'small', 'open' or 'open-imagenet'. Did you mean 'small'?",
        "search.yml: data.batch_size: 0 is not allowed here; allowed: at least 2",
        "search.yml: data.alphas: 'two' is not allowed here; allowed: a number",
        "search.yml: strategy.arc_learning_rate: 'fast' is not allowed here; allowed: a number",
        "search.yml: training.epochs: 2.5 is not allowed here; allowed: a whole number",
    ):
        assert line in said
    for begin, end in (
        ("search.yml: strategy: unknown key 'warmup_epoch'; allowed: name, ", "Did you mean 'warmup_epochs'?"),
        ("search.yml: latency.target_ms: -2 is not allowed here", ""),
        ("search.yml: latency.estimator: unknown key 'threds'", "Did you mean 'threads'?"),
    ):
        assert any(line.startswith(begin) and line.endswith(end) for line in said), begin
    assert len(said) == 9


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strategy: {arc_update_every: 0}", "search.yml: strategy: arc_update_every is 0; allowed: 1 or more"),
        ("strategy: {name: proxyles}", "search.yml: strategy.name: 'proxyles' is unknown; allowed: dsnas, nni-darts, nni-gumbel-darts, nni-proxyless, nni-random, proxyless, or package.module:Class. Did you mean 'proxyless'?"),
        ("space: {name: 'no.such.module:Space'}", "search.yml: space.name: 'no.such.module:Space' does not import: No module named 'no'"),
        ("space: {kernels: [4]}", "search.yml: space: kernels holds 4; allowed: odd numbers"),
        ("data: {alphas: 0.5, validation: 0.5}", "search.yml: data: alphas 0.5 and validation 0.5 leave nothing for the weights; allowed: a sum below 1"),
        ("data: {name: folder}", "search.yml: data: folder needs root"),
        ("latency: {target_ms: 120%}", "search.yml: latency.target_ms: '120%' is not allowed here; allowed: milliseconds, greater than 0, or a share"),
        ("latency: {estimator: {name: device, threads: 0}}", "search.yml: latency.estimator: threads is 0; allowed: 1 or more"),
        ("trainer: {accelerator: gpus}", "search.yml: trainer.accelerator: 'gpus' is not allowed here; allowed: 'auto', 'cpu', 'gpu', 'cuda' or 'mps'. Did you mean 'gpu'?"),
        ("space: mobilenetv2", "search.yml: space: 'mobilenetv2' is not allowed here; allowed: a section with keys"),
        ("- a list", "search.yml: expected keys such as 'space:' and 'strategy:', got list"),
        ("seed: 1\nseed: 2", "search.yml: line 2: key 'seed' stands there twice"),
        ("seed: {1", "search.yml: line 1"),
        ("strategy: {warmup_epochs: 3}\ntraining: {epochs: 3}", "search.yml: strategy: warmup_epochs is 3, of 3 epochs; allowed: at least one epoch of search after them"),
        ("strategy: {warmup_epochs: 1, arc_start_epoch: 2}\ntraining: {epochs: 3}", "search.yml: strategy: warmup_epochs is 1 and arc_start_epoch 2, of 3 epochs"),
        ("strategy: {name: nni-darts, warmup_epochs: 4}\ntraining: {epochs: 3}", "search.yml: strategy: warmup_epochs is 4, of 3 epochs"),
        ("strategy: {name: dsnas}\ntraining: {epochs: 1}", "search.yml: strategy: warmup_epochs is 0 and search_epochs half of the rest, of 1 epochs; allowed: at least one epoch of search and, after it,"),
        ("strategy: {name: dsnas, warmup_epochs: 2, search_epochs: 2}\ntraining: {epochs: 4}", "search.yml: strategy: warmup_epochs is 2 and search_epochs 2, of 4 epochs"),
    ],
)  # fmt: skip
def test_each_problem_says_where_what_and_what_is_allowed(tmp_path, text, said):
    assert any(line.startswith(said) for line in problems(tmp_path, text)), problems(tmp_path, text)


def test_an_override_is_blamed_where_it_came_from(tmp_path):
    said = problems(
        tmp_path, "seed: 1", ("NNI's parameters", "latency.target_ms", 0), ("command line", "strategy.sed", 1)
    )
    assert any(line.startswith("NNI's parameters: latency.target_ms: 0 is not allowed here") for line in said)
    assert any(line.startswith("command line: strategy: unknown key 'sed'") for line in said)
    text = "strategy: {warmup_epochs: 12}\ntraining: {epochs: 30}\ndata: {alphas: 0.5}"
    for key, value, what in (
        ("strategy.arc_update_every", 0, "strategy: arc_update_every is 0"),
        ("strategy.warmup_epochs", 30, "strategy: warmup_epochs is 30, of 30 epochs"),
        ("training.epochs", 12, "strategy: warmup_epochs is 12, of 12 epochs"),
        ("data.validation", 0.5, "data: alphas 0.5 and validation 0.5 leave nothing"),
    ):
        (said,) = problems(tmp_path, text, ("command line", key, value))
        assert said.startswith(f"command line: {what}")


def test_an_override_below_a_value_is_refused(tmp_path):
    said = problems(tmp_path, "seed: 1", ("command line", "seed.x", 1))
    assert said == ["command line: 'seed.x': 'seed' is not a section"]


STRATEGIES = """
strategy: {name: proxyless, entropy_weight: 0.5, warmup_epochs: 3}
strategies:
  proxyless: {arc_update_every: 2, warmup_epochs: 1}
  dsnas: {search_epochs: 4, entropy_weight: 0.1}
"""


def test_an_experiment_chooses_among_strategies_with_their_own_arguments(tmp_path):
    """What stands in `strategy` wins; the resolved configuration knows one strategy, and reads back as the same."""
    (tmp_path / "search.yml").write_text(STRATEGIES)
    config = read_config(SearchConfig, tmp_path / "search.yml")
    assert config.strategy.arguments == {"arc_update_every": 2, "warmup_epochs": 3, "entropy_weight": 0.5}
    chosen = [("NNI's parameters", "strategy.name", "dsnas"), ("NNI's parameters", "strategies.dsnas.search_epochs", 5)]
    config = read_config(SearchConfig, tmp_path / "search.yml", chosen)
    assert config.strategy.arguments == {"search_epochs": 5, "warmup_epochs": 3, "entropy_weight": 0.5}
    resolved = config.model_dump(mode="json")
    assert "strategies" not in resolved
    (tmp_path / "resolved.yml").write_text(yaml.safe_dump(resolved))
    assert read_config(SearchConfig, tmp_path / "resolved.yml").model_dump() == config.model_dump()


def test_what_is_wrong_with_a_strategy_that_is_not_chosen_is_said_as_well(tmp_path):
    said = problems(
        tmp_path,
        "strategies: {proxyless: {fix_gap: 0.3}, dsnas: {warmup_epochs: -1}, dsans: {}, 1: {}}\nstrategy: {name: dsnas}",
    )
    assert said[0].startswith("search.yml: strategies.proxyless: unknown key 'fix_gap'; allowed: arc_learning_rate, ")
    assert said[1] == "search.yml: strategies.dsnas: warmup_epochs is -1; allowed: 0 or more"
    assert said[2].startswith("search.yml: strategies.dsans: 'dsans' is unknown")
    assert said[2].endswith("Did you mean 'dsnas'?")
    assert said[3:] == ["search.yml: strategies.1.[key]: 1 is not allowed here; allowed: text"]


def test_later_overrides_win_and_reach_nested_sections():
    overrides = [
        ("command line", "latency.estimator.name", "device"), ("command line", "latency.estimator.threads", 2),
        ("command line", "seed", 1), ("NNI's parameters", "seed", 7),
    ]  # fmt: skip
    config = read_config(SearchConfig, None, overrides)
    assert (config.seed, config.latency.estimator.arguments) == (7, {"threads": 2, "runtime": "onnxruntime"})


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("2", 2), ("50%", "50%"), ("[1, 2]", [1, 2]), ("true", True), ("1.5E+2", 150.0), ("x", "x")],
)
def test_values_of_the_command_line_are_yaml(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize("text", ["Pixel 8 #2", "5 # of them", "[1, 2] # two", "# nothing"])
def test_a_comment_on_the_command_line_is_refused(text):
    """All behind it would be lost: of two boards, Pixel 8 #1 and #2, there would be one."""
    with pytest.raises(
        UserError, match=r"command line: .* is not a value: to YAML all behind '#' is a comment; allowed: quotes"
    ):
        parse_value(text)


@pytest.mark.parametrize("text", ['"Pixel 8 #2"', "'a #b'", '{a: "b #c"}', "a#b", "C#"])
def test_a_number_sign_inside_of_quotes_or_words_is_none(text):
    assert "#" in str(parse_value(text))


def test_arguments_are_found_behind_wrapping_and_inheritance():
    """NNI wraps ``ModelSpace.__init__``, and strategies hand arguments on to their base class."""
    assert "widths" in accepted_arguments(MobileNetV2Space)
    assert {"arc_update_every", "mutation_hooks"} <= set(accepted_arguments(ProxylessNAS))


def test_a_file_that_names_no_runtime_gets_the_default_and_a_run_that_of_its_time(tmp_path):
    """Searches from before ONNX Runtime was the default on a CPU were steered by eager torch, and go on so."""
    (tmp_path / "search.yml").write_text(
        "latency: {estimator: {name: device, runtime: null}}\n"
        "costs: [{estimator: {device: cpu}, target: 1, name: a}, {estimator: {name: macs}, target: 1}]\n"
    )
    for of_run, runtime in ((False, "onnxruntime"), (True, "torch")):
        config = read_config(SearchConfig, tmp_path / "search.yml", of_run=of_run)
        sections = [config.latency.estimator, *(cost.estimator for cost in config.costs)]
        assert [section.arguments.get("runtime") for section in sections] == [runtime, runtime, None]
    begun = as_file_in(tmp_path, read_config(SearchConfig, tmp_path / "search.yml"), tmp_path)
    assert "latency.estimator.runtime is 'onnxruntime' here, 'torch' there" in differences(tmp_path, begun)


def test_a_run_from_before_the_supernet_selected_goes_on_with_probabilities(tmp_path):
    (tmp_path / "search.yml").write_text("seed: 1\n")
    for of_run, select in ((False, "supernet"), (True, "probabilities")):
        assert read_config(SearchConfig, tmp_path / "search.yml", of_run=of_run).search.select == select
    begun = as_file_in(tmp_path, read_config(SearchConfig, tmp_path / "search.yml"), tmp_path)
    assert "search.select is 'supernet' here, 'probabilities' there" in differences(tmp_path, begun)
