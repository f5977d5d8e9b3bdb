"""What tuner and trials of an evolution read: bounds that are the targets of a search.yml, and networks of its space."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nni_proxyless.core.errors import UserError
from nni_proxyless.latency.objectives.extremes import slowest
from nni_proxyless.models.build import build_network, count_parameters
from nni_proxyless.models.record import cost_figures
from nni_proxyless.search.evolution_tuner import _metric
from nni_proxyless.search.evolved_space import EvolvedSpace

from .test_evolution_trials import SEARCH


def read(folder: Path, text: str = SEARCH) -> EvolvedSpace:
    (folder / "search.yml").write_text(text)
    return EvolvedSpace.read(folder / "search.yml")


def test_a_target_is_a_bound_and_a_latency_without_one_has_none(tmp_path):
    evolved = read(tmp_path)
    (macs, most_macs), (parameters, most_parameters) = evolved.limits.values()
    assert most_macs == pytest.approx(0.6 * slowest(macs)[1])
    assert most_parameters == pytest.approx(0.7 * slowest(parameters)[1])
    unbounded = read(tmp_path, SEARCH.replace("target_ms: 60%, ", ""))
    assert [bound for _, bound in unbounded.limits.values()] == [math.inf, most_parameters]


def test_the_network_of_a_trial_is_the_one_of_its_parameters(tmp_path):
    evolved = read(tmp_path)
    choices = {label: mutable.values[-1] for label, mutable in evolved.space.simplify().items()}
    found = evolved.record(choices)
    assert found.choices == choices
    assert found.search["weights"] == "fresh"
    figures = cost_figures(found)
    assert figures["n_params"] == count_parameters(build_network(found))
    assert figures["macs"] / 1e6 == pytest.approx(figures["table_ms"])
    assert figures["derived_parameters"] == evolved.limits["parameters"][0].profile(choices)


def test_parameters_of_another_space_are_refused(tmp_path):
    evolved = read(tmp_path)
    with pytest.raises(UserError, match=r"NNI's parameters are no network of the space mobilenetv2: .*stage"):
        evolved.record({"layer": "wide"})


def test_latencies_that_would_have_to_be_measured_are_refused(tmp_path):
    device = SEARCH.replace("estimator: {name: macs}", "table: tables/none.yaml")
    with pytest.raises(
        UserError, match=r"search.yml: latency.table: tables/none.yaml: not there, and an evolution measures nothing"
    ):
        read(tmp_path, device)
    cost = SEARCH.replace("name: parameters}", "name: device}")
    with pytest.raises(UserError, match=r"search.yml: costs.0.table: none is named: not there"):
        read(tmp_path, cost)


def test_a_cost_of_the_name_of_the_latency_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"costs.0.name: 'latency' is the name of the latency; allowed: another"):
        read(tmp_path, SEARCH.replace("target: 70%", "target: 70%, name: latency"))


def test_a_search_file_is_trained_in_trials_alone(tmp_path, refused):
    (tmp_path / "search.yml").write_text(SEARCH)
    said = refused("train", tmp_path / "search.yml", "weights=scratch", "validation=0.2")
    assert "search.yml is no network; allowed: an architecture.json; a search.yml in trials of an evolution" in said


@pytest.mark.parametrize(
    ("reported", "metric"),
    [("0.5", 0.5), (0.5, 0.5), ('{"default": 0.25, "macs": 3.0}', 0.25), ('{"macs": 3.0}', None), ('"high"', None)],
)
def test_a_final_result_is_a_number_or_has_one_as_its_default(reported, metric):
    assert _metric(reported) == metric
