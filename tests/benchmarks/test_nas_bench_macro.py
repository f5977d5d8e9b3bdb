"""The space of NAS-Bench-Macro against its table, the arithmetic of the table, supernets and their verdicts, and the commands in their smallest forms."""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics

import numpy as np
import pytest
import torch

from experiments.benchmarks.nas_bench_macro import cell as cells
from experiments.benchmarks.nas_bench_macro import run as macro
from experiments.benchmarks.nas_bench_macro.space import (
    SHAPE,
    MacroSpace,
    every_network,
    macs_of,
    macs_profiler,
    name_of,
    parameters_of,
    sample_of,
    weights_of,
)
from experiments.benchmarks.nas_bench_macro.supernet import RECIPES, Paths, Recipe, train
from experiments.benchmarks.nas_bench_macro.table import VARIABLE, Table, Window
from experiments.benchmarks.nas_bench_macro.worth import agreement, means, worth
from nni_proxyless.core.errors import UserError
from nni_proxyless.data import TensorImages
from nni_proxyless.derive import count_macs

WIDTH = 0.125


@pytest.fixture(scope="module")
def table() -> Table:
    return Table.made_up(width=WIDTH)


# -- the space -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} does not name the table")
def test_every_network_has_the_costs_of_the_published_table():
    published = Table.read()
    assert (macs_of(published.digits) == published.macs).all()
    assert (parameters_of(published.digits) == published.n_params).all()
    assert published.accuracy[published.index("22222222")] == pytest.approx(92.953, abs=1e-3)
    same = [published.trainings[published.index(name)] for name in ("00010000", "00001000")]  # one network
    assert (same[0] == same[1]).all()


@pytest.mark.parametrize("name", ["00000000", "02012100", "21200122"])
def test_costs_are_those_of_the_network_itself(name):
    digits = np.array([[int(digit) for digit in name]])
    network = MacroSpace().freeze(sample_of(name))
    assert (
        macs_of(digits)[0] == count_macs(network, SHAPE) == round(1e6 * float(macs_profiler().profile(sample_of(name))))
    )
    assert parameters_of(digits)[0] == sum(p.numel() for p in network.parameters())


def test_costs_of_the_published_table_of_three_networks():
    """Without the file: the smallest and the largest network, and one with a block behind an entry (xiusu/NAS-Bench-Macro)."""
    digits = np.array([[0] * 8, [2] * 8, [0, 1, 0, 0, 0, 0, 0, 0]])
    assert macs_of(digits).tolist() == [7_713_280, 105_660_928, 14_447_104]
    assert parameters_of(digits).tolist() == [387_882, 2_932_586, 415_082]


def test_names_are_choices():
    names = ["".join(map(str, one)) for one in every_network()]
    assert names[:2] + names[-1:] == ["00000000", "00000001", "22222222"]
    assert names == sorted(set(names))
    assert len(names) == 3**8
    assert name_of(sample_of("02012100")) == "02012100"
    assert sample_of("02012100")["stage1.1"] == "k5e6"


@pytest.mark.parametrize("shared", [False, True])
def test_a_step_of_one_path_trains_its_weights_alone(shared):
    torch.manual_seed(0)
    space = MacroSpace(width=WIDTH, shared_weights=shared)
    space.freeze(sample_of("10000002"))(torch.randn(2, 3, 16, 16)).sum().backward()
    of_block = space.stages[2][2]
    assert of_block["k5e6"].conv_pw.weight.grad is not None
    assert of_block["k3e3"].conv_pw.weight.grad is None
    with torch.no_grad():
        of_block["k5e6"].conv_pw.weight.add_(1)
    small, large = (of_block[name].conv_pw.weight for name in ("k3e3", "k5e6"))
    assert torch.equal(small, large[: len(small)]) == shared


# -- the table -------------------------------------------------------------------------------------------------------------


def test_the_best_of_some_random_networks_is_the_mean_over_all_sets():
    accuracy = np.random.default_rng(0).normal(90, 2, 9)
    window = Window(0, 1, np.arange(9), accuracy)
    for k in (1, 2, 3, 9):
        of_sets = statistics.mean(max(some) for some in itertools.combinations(accuracy.tolist(), k))
        assert window.best_of(k) == pytest.approx(of_sets, abs=1e-9)
    assert window.chance()["best_of_3"] == window.best_of(3)
    with pytest.raises(ValueError, match="k is 10; allowed: 1 to 9"):
        window.best_of(10)


def test_what_a_network_is_worth(table):
    window = table.window(0.5)
    assert (table.macs[window.indices] <= 0.5 * table.macs.max()).all()
    assert (table.macs[window.indices] >= 0.475 * table.macs.max()).all()
    assert not np.delete((window.low <= table.macs) & (table.macs <= window.high), window.indices).any()
    best = int(window.indices[window.accuracy.argmax()])
    standing = table.standing(sample_of(table.names([best])[0]), window)
    assert (standing["rank"], standing["regret"], standing["of"]) == (1, 0, len(window.indices))
    worst = table.standing(table.names([int(window.indices[window.accuracy.argmin()])])[0], window)
    assert worst["rank"] == len(window.indices)
    assert worst["regret"] == pytest.approx(float(np.ptp(window.accuracy)))
    assert table.noise(window) == pytest.approx(0.2, rel=0.1)  # as it was made up
    assert [table.index(name) for name in ("00000000", "00000010", "22222222")] == [0, 3, 3**8 - 1]
    with pytest.raises(ValueError, match="no network has 0 to 1 multiply-adds; allowed: a part of"):
        table.between(0, 1)


def test_a_table_is_read_whole_or_refused(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UserError, match=f"{VARIABLE} is not set; allowed: the path of the table, from https"):
        Table.read()
    rows = {
        "".join(map(str, one)): {"test_acc": [80, 81, 82 + int(one[7])], "flops": i, "params": 2 * i}
        for i, one in enumerate(every_network())
    }
    file = tmp_path / "table.json"
    file.write_text(json.dumps(rows))
    read = Table.read(file)
    assert read.accuracy[:3] == pytest.approx([81, 81 + 1 / 3, 81 + 2 / 3])
    assert (read.macs[5], read.n_params[5]) == (5, 10)
    del rows["00000002"]
    file.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"holds no table of all 6561 networks \('00000002'\)"):
        Table.read(file)
    file.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        Table.read(file)


# -- supernets -------------------------------------------------------------------------------------------------------------


def test_paths_are_drawn_as_the_recipe_says():
    macs = dict(
        zip(("".join(map(str, one)) for one in every_network()), macs_of(every_network(), WIDTH).tolist(), strict=True)
    )
    largest = macs["2" * 8]
    band = Paths(Recipe(band=(0.9, 1.0), warm_up=0.5), 0.5, WIDTH, seed=0)
    assert all(0.45 * largest <= macs[band.of_step(0.5)[0]] <= 0.5 * largest for _ in range(50))
    before = [macs[band.of_step(0.49)[0]] for _ in range(50)]
    assert min(before) < 0.45 * largest < 0.5 * largest < max(before)
    assert Paths(RECIPES["sandwich"], None, WIDTH, 0).of_step(0)[:2] == ["22222222", "00000000"]
    # In proportion to its size: that of the second candidate of the last place, whose skip counts as it does.
    of_last = np.maximum(weights_of(WIDTH)[1][-1], weights_of(WIDTH)[1][-1][1])
    biased = Paths(Recipe(size_bias=1.0), None, WIDTH, 0)
    for digit in range(3):
        assert biased.anywhere[biased.digits[:, -1] == digit].sum() == pytest.approx(of_last[digit] / of_last.sum())
    with pytest.raises(ValueError, match="of no budget"):
        Paths(Recipe(band=(0.9, 1)), None, WIDTH, 0)
    with pytest.raises(ValueError, match="allowed: a band with networks in it"):
        Paths(Recipe(band=(0.9, 1)), 0.01, WIDTH, 0)


@pytest.mark.parametrize("recipe", ["uniform", "sandwich"])
def test_a_supernet_learns(recipe):
    """Two classes of noise, one brighter."""
    torch.manual_seed(0)
    y = torch.arange(64) % 2
    images = TensorImages(torch.randn(64, 3, 8, 8) + 4 * y.view(-1, 1, 1, 1), y)
    space = MacroSpace(width=WIDTH, num_classes=2, shared_weights=RECIPES[recipe].shared_weights)
    made = Recipe(steps=200, batch_size=32, shared_weights=space.shared_weights, sandwich=RECIPES[recipe].sandwich)
    assert train(space, images, Paths(made, None, WIDTH, 0), seed=0) < 0.8 * math.log(2)


def test_agreement_and_means():
    assert agreement([1, 2, 3], [10, 30, 20]) == pytest.approx({"r": 0.5, "tau": 1 / 3})
    assert agreement([1, 1, 1], [10, 30, 20]) == {"r": 0, "tau": 0}
    found = means([{"accuracy": a, "regret": 1.0, "rank": r, "of": 9} for a, r in ((90.0, 1), (92.0, 4))])
    assert (found["accuracy"], found["standard_error"], found["rank"]) == (91, pytest.approx(1), 2.5)


# -- the commands ----------------------------------------------------------------------------------------------------------


def test_the_command_judges_by_the_table_and_goes_on(tmp_path, monkeypatch, table):
    """One supernet and one search, on noise; a second call makes nothing again."""
    words = [
        "--short",
        "--only",
        "uniform",
        "two-path",
        "--folder",
        str(tmp_path),
        "--output",
        str(tmp_path / "result.json"),
    ]
    assert macro.main([*words, "--picture", str(tmp_path / "drawn.svg")]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    setting, chance = macro.SETTINGS["short"], result["chance"]["0.5"]
    by_probabilities, by_supernet = result["found"]
    for row in (by_probabilities, by_supernet):
        assert row["accuracy"] == pytest.approx(chance["maximum"] - row["regret"])
    kinds = {"probabilities", "log_loss", "accuracy", "smoothed", "cross_validated"}  # so few steps tell nothing
    assert set(by_supernet["worth"]) == kinds
    search = tmp_path / "cells" / "search-two-path-0"
    selected = json.loads((search / "net-0.5" / "architecture.json").read_text())
    assert table.accuracy[table.index(selected["choices"])] == pytest.approx(by_supernet["accuracy"])
    assert setting.n_judged <= selected["search"]["selection"]["judged"] <= setting.n_judged + 1  # and the solver's
    assert selected["macs"] == table.macs[table.index(selected["choices"])] <= 0.5 * table.macs.max()
    (recipe,) = result["recipes"]
    assert set(recipe["selected"]) == set(cells.METHODS_OF_SELECTION)
    assert recipe["selected"]["raw"]["judged"] == setting.n_judged
    (supernet,) = [one for one in result["cells"] if one["kind"] == "supernet"]
    judged = supernet["budgets"]["0.5"]["verdicts"]
    assert len(set(judged["names"])) == setting.n_verdicts

    monkeypatch.setattr(cells, "command", None)  # a search would call it
    monkeypatch.setattr(cells, "train", None)
    monkeypatch.setattr(cells, "FinishedSearch", None)
    for done in tmp_path.glob("cells/*/cell.json"):
        done.unlink()
    assert macro.main(words) == 0
    assert json.loads((tmp_path / "result.json").read_text())["cells"] == result["cells"]


def test_all_that_is_known_of_networks_is_held_against_the_table(table):
    """As a selection by a mixture has them: each varies alike. A source that says the same of all is none."""
    window = table.window(0.5)
    draw = np.random.default_rng(0)
    names, truth = table.names(window.indices[:40]), window.accuracy[:40]
    said = {key: -truth + draw.normal(0, 2, 40) for key in ("log_loss", "training_loss")}
    verdicts = {"names": names, "accuracy": truth, "log_probability": [0.1] * 40, **said}
    found = worth(verdicts, table, window)
    assert "probabilities" not in found
    assert found["training"]["r"] == pytest.approx(np.corrcoef(-said["training_loss"], truth)[0, 1])
    assert found["mixture"]["r"] > max(found["training"]["r"], found["log_loss"]["r"])
    assert "mixture" not in worth({"names": names, "log_loss": said["log_loss"], "accuracy": truth}, table, window)
