"""Values of a choice: whatever NNI allows and a key can be comes through a search and back from its files."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nni.mutable import Categorical, CategoricalMultiple
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, Repeat
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.supernet.layers import choices_of
from torch import Tensor, nn

from nni_proxyless.cli.main import main
from nni_proxyless.core.errors import UserError
from nni_proxyless.core.plain_values import as_plain
from nni_proxyless.derive import build_network
from nni_proxyless.latency import LatencyProfiler, MacsEstimator
from nni_proxyless.latency.choices import InputSet, check_values, read_back, read_probs_back
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.models.space import make_searchable_space
from nni_proxyless.search.supernet_files import read_probabilities


class Color(enum.Enum):
    RED = 1
    BLUE = 2


VALUES: list[Any] = [
    (1, 8), (3, 16), ((1, 2), (3, (4,))), (), 1, 2.5, True and "True", None, "1", "(1, 8)", Color.RED, Color.BLUE, frozenset({"b", "a"}), b"x",
    torch.float32, 0.1, nn.ReLU,
]  # fmt: skip


def test_every_value_is_found_again_in_a_file():
    """Written as JSON and read: the value of that very type, of two that look alike the right one."""
    mutable = Categorical(VALUES, label="d")
    check_values("d", mutable)
    for value in VALUES:
        found = read_back(json.loads(json.dumps(as_plain(value))), mutable)
        assert found == value
        assert type(found) is type(value)
    assert read_back(7, Categorical(np.array([7, 8]), label="n")) == 7
    inputs = CategoricalMultiple([0, 1, 2], n_chosen=2, label="in")
    stored = {"d": {(1, 8): 0.5, ((1, 2), (3, (4,))): 0.5}, "in": {(0, 1): 0.25, (1, 2): 0.75}}
    back = read_probs_back(stored, {"d": mutable, "in": inputs})
    assert back == stored
    assert [type(key) for label in ("d", "in") for key in back[label]] == [tuple, tuple, InputSet, InputSet]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, [2]], r"choice 'd' has the value \[2\], a list; allowed: values that are hashable, such as texts, num"),
        ([(1, [2])], r"choice 'd' has the value \(1, \[2\]\), a tuple; allowed"),
        ([(1, 2), frozenset({1, 2})], r"choice 'd' has two values that are both written as \[1, 2\]; allowed"),
    ],
)
def test_values_that_no_file_can_tell_apart_are_refused_by_name(values, message):
    with pytest.raises(TypeError, match=message):
        choices_of("d", Categorical(values, label="d"))


class Space(ModelSpace):
    """A depth among whose values are tuples, beside a choice of inputs, whose sets are lists in NNI's samples."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        depth = Categorical([(1, 8), (3, 16)], label="d")
        self.blocks = Repeat(lambda i: nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()), depth[0])
        self.inputs = InputChoice(3, 2, label="inputs")
        self.stem, self.other = LayerChoice([nn.Conv2d(1, 8, 1), nn.Conv2d(1, 8, 3, padding=1)], label="stem"), nn.Conv2d(1, 8, 3, padding=1)  # fmt: skip
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        return self.head(self.inputs([y, self.other(x), self.blocks(y)]).mean((2, 3)))


class Unhashable(ModelSpace):
    def __init__(self):
        super().__init__()
        self.blocks = Repeat(lambda i: nn.Identity(), Categorical([[1, 8], [3, 16]], label="d")[0])


def test_a_list_among_the_values_is_refused_before_anything_is_searched():
    with pytest.raises(
        UserError, match=r"^space: tests.search.test_choice_values:Unhashable: choice 'd' has the value \[1, 8\]"
    ):
        make_searchable_space("tests.search.test_choice_values:Unhashable", {})


def test_a_depth_of_tuples_is_searched_derived_and_built_again(tmp_path, monkeypatch, capsys):
    """From a search to its end, with a target, to networks that derive takes out of it, to networks built from their files."""
    monkeypatch.chdir(tmp_path)
    Path("search.yml").write_text(
        "data: {name: synthetic, n_images: 490, num_classes: 10, channels: 1, image_size: 8, batch_size: 16}\n"
        'space: {name: "tests.search.test_choice_values:Space"}\n'
        "strategy: {arc_update_every: 2, arc_learning_rate: 0.01}\n"
        "latency: {estimator: {name: macs}, target_ms: 0.02}\n"
        "training: {epochs: 1}\nsearch: {judged: 4}\ntrainer: {threads: 1, accelerator: cpu}\n"
    )
    assert main(["search", "search.yml", "output=run"]) == 0, capsys.readouterr().err
    assert set(read_probabilities(Path("run"))["d"]) == {(1, 8), (3, 16)}
    assert (
        main(["derive", "run", "--budget-ms", "1000", "--at-least-ms", "0", "--judge", "6", "--output", "judged"]) == 0
    )
    assert main(["report", "run"]) == 0
    for folder in ("run", "judged"):
        architecture = Architecture.read(Path(folder) / "architecture.json")
        assert architecture.choices["d"] in ([1, 8], [3, 16])
        assert len(architecture.choices["inputs"]) == 2
        assert len(build_network(architecture).blocks) == architecture.choices["d"][0]
    rows = Path("judged/judged.csv").read_text().splitlines()[1:]
    assert {part for row in rows for part in ("(1, 8)", "(3, 16)") if part in row} == {"(1, 8)", "(3, 16)"}
    assert len({part for row in rows for part in ("[0, 1]", "[0, 2]", "[1, 2]") if part in row}) > 1


def test_a_supernet_exports_the_value_itself():
    space = Space()
    profiler = LatencyProfiler(space, MacsEstimator(), (1, 8, 8))
    strategy = ProxylessNAS()
    strategy.mutate_model(space)
    gates = strategy._gates
    assert [gates["d"].value(i) for i in range(2)] == [(1, 8), (3, 16)]
    assert gates["inputs"].value(0) == [0, 1]
    sample = {label: gate.value(0) for label, gate in gates.items()}
    assert profiler.profile(sample) > 0
    assert len(space.freeze(sample).blocks) == 1
