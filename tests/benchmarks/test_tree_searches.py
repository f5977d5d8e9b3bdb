"""Searches among trees under NNI against random trees of the same cost: the comparison, and the command in its smallest form."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml

from experiments.benchmarks.tree_searches import report, run, searches
from experiments.benchmarks.tree_searches.setting import AIMS, FREE, FULL, RANDOM, SHORT, TARGET
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.report.nni_database import Experiment, Trial


def network(aim: str, method: str, seed: int, accuracy: float, **more: str) -> dict:
    return {"aim": aim, "method": method, "seed": seed, "test_accuracy": accuracy, **more}


def test_networks_are_compared_with_trees_of_their_own_cost():
    networks = []
    for seed, noise in ((0, 0.0), (1, 0.01), (2, 0.05)):
        for method, better in (("two-path", 0.04), ("dsnas", -0.02)):
            networks.append(network(TARGET, method, seed, 0.5 + noise + better))
            networks.append(network(FREE, method, seed, 0.6 + noise + better))
            networks.append(network(FREE, RANDOM, seed, 0.6 + 0.01 * (method == "dsnas"), of=method))
        networks += [network(TARGET, RANDOM, seed, 0.5 + noise + by, of=str(i)) for i, by in enumerate((-0.01, 0.03))]
    found = report.compared(networks, ["two-path", "dsnas"])
    with_target = {method: d["difference"] for method, d in found[TARGET].items()}
    assert with_target == pytest.approx({"two-path": 0.03, "dsnas": -0.03, "all": 0.0})
    without = {method: d["difference"] for method, d in found[FREE].items()}
    assert without == pytest.approx({"two-path": 0.06, "dsnas": -0.01, "all": 0.025})
    assert found[FREE]["dsnas"]["pairs"] == 3
    assert found[FREE]["dsnas"]["standard_error"] == pytest.approx(0.015275, rel=1e-3)  # of 0, 1 and 5 points


def test_every_trial_is_told_apart_by_the_settings_that_it_had(tmp_path):
    file, around = searches.files_of(FULL, tmp_path / "table.yaml", 1.5, 10, tmp_path, processes=2)
    experiment, search = (yaml.safe_load(path.read_text()) for path in (around, file))
    grid = experiment["searchSpace"]
    seen = set()
    for strategy in grid["strategy"]["_value"]:
        for target_ms in grid["latency.target_ms"]["_value"]:
            section = search["latency"] | {"target_ms": target_ms}
            resolved = SearchConfig.model_validate(search | {"strategy": strategy, "latency": section}).model_dump()
            seen.add(searches.cell_of(FULL, resolved))
    assert seen == {(method, aim) for method in FULL.strategies for aim in AIMS}
    assert experiment["maxTrialNumber"] == len(seen)
    assert experiment["trialConcurrency"] == 2


def test_the_shell_says_what_its_commands_took():
    assert searches.cpu_seconds("0m0.010s 0m0.020s\n1m2.500s 0m3.250s\n") == 65.8


def test_a_failed_search_says_what_it_said_last(tmp_path):
    trial = Trial(id="aBcDe", number=0, state="FAILED", url="", folder=tmp_path, parameters={})
    experiment = Experiment("xyz", tmp_path, {}, 0.0, running=False, trials=[trial])
    with pytest.raises(searches.SearchFailed, match="xyz: trial aBcDe: FAILED: nothing on stderr"):
        searches.keep(FULL, experiment, 10, tmp_path)
    (tmp_path / "trial.stderr").write_text("07:43:58 CPU threads: 1\nnni-proxyless: no such file\n\n")
    with pytest.raises(searches.SearchFailed, match="FAILED: nni-proxyless: no such file"):
        searches.keep(FULL, experiment, 10, tmp_path)


def test_the_short_form(tmp_path, capsys):
    output, made = tmp_path / "found.json", tmp_path / "made"
    words = ["--short", "--folder", str(made), "--output", str(output), "--picture", str(tmp_path / "found.svg")]
    assert run.main(words) == 0
    found = json.loads(output.read_text())
    assert report.markdown(found)[-1] in capsys.readouterr().out
    networks = found["networks"]
    assert len(networks) == len(SHORT.strategies) * (len(AIMS) + 1) + SHORT.n_random
    ms = {(n["aim"], n["method"], n.get("of")): n["table_ms"] for n in networks}
    for method in SHORT.strategies:
        assert ms[TARGET, method, None] <= found["target_ms"]
        assert ms[FREE, RANDOM, method] == pytest.approx(ms[FREE, method, None], rel=SHORT.within)
    mean = sum(ms[TARGET, method, None] for method in SHORT.strategies) / len(SHORT.strategies)
    assert ms[TARGET, RANDOM, "0"] == pytest.approx(mean, rel=SHORT.within)
    assert all(n["search_seconds"] > 1 for n in networks if n["method"] != RANDOM)
    assert all(n["selection"]["by"] == "supernet" for n in networks if n["method"] != RANDOM)
    assert found["setting"]["share"] == dataclasses.asdict(SHORT)["share"]

    trials = list((made / "nni").glob("*/trials/*"))
    assert run.main(words) == 0  # all is there: no experiment more, no training
    assert json.loads(output.read_text())["networks"] == networks
    assert list((made / "nni").glob("*/trials/*")) == trials
