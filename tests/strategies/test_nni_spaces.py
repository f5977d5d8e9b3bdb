"""The table of ``docs/reference/nni_spaces.md``: each of its fields, and that the page is what the code says."""

from __future__ import annotations

import functools
import re

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader
from nni_proxyless.strategies import DSNAS
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from nni_proxyless.latency import LatencyProfiler, MacsEstimator
from nni_proxyless.latency.estimators.macs import count_macs

from .nni_spaces import PAGE, ROWS, UPDATES, Row, page
from .searches import OF_EXPERIMENTS, Task, searched

pytestmark = OF_EXPERIMENTS
CLASSES = 3


def data(shape: tuple[int, ...], seed: int) -> DataLoader:
    """Batches of 4: of images two, of features four."""
    n, generator = 8 if len(shape) > 1 else 16, torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, *shape, generator=generator), torch.randint(CLASSES, (n,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=4)


class Judged(Task):
    """With a reward that no two networks share."""

    def architecture_accuracy(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> float:
        return -float(self.training_step(batch, batch_idx))


@functools.cache
def macs(row: Row) -> LatencyProfiler:
    return LatencyProfiler(row.make(), MacsEstimator(), row.shape)


def objects(space: nn.Module) -> list[tuple[str, int]]:
    return [(name, id(part)) for name, part in (*space.named_modules(), *space.named_parameters())]


def named(value: Row | str) -> str:
    return value if isinstance(value, str) else value.name


FIELDS = [(row, update) for row in ROWS for update in UPDATES]


@pytest.mark.parametrize(
    ("row", "update"), [(row, update) for row, update in FIELDS if update not in row.refused], ids=named
)
def test_what_is_searched(row, update):
    assert_searched(row, update)


def assert_searched(row: Row, update: str) -> None:
    """Logits and weights have moved, the network derived computes what the supernet does, and costs what it costs counted as a whole."""
    strategy, fresh = row.strategy(update), row.strategy(update)
    torch.manual_seed(0)
    before = fresh.mutate_model(row.make()).state_dict()
    torch.manual_seed(0)
    batches = {f"{part}_dataloaders": data(row.shape, seed) for seed, part in ((1, "train"), (2, "val"))}
    searched(strategy, Judged(), row.make(), epochs=2 if isinstance(strategy, DSNAS) else 1, **batches)

    open_gates = {label: gate for label, gate in strategy._gates.items() if len(gate.choices) > 1}
    stayed = [label for label, gate in open_gates.items() if torch.equal(gate.alpha, fresh._gates[label].alpha)]
    assert len(stayed) < len(open_gates)
    assert not [label for label in stayed if not re.search(row.unreached, label)]
    after = strategy.supernet.state_dict()
    assert sum(not torch.equal(after[name], value) for name, value in before.items() if name in after) >= 2

    (found,) = strategy.list_models()
    assert found.sample == {label: gate.value(gate.most_probable()) for label, gate in strategy._gates.items()}
    assert row.make().contains(found.sample)
    network, x = found.executable_model().eval(), torch.randn(4, *row.shape)
    expected = strategy.supernet.eval()(x)
    assert expected.isfinite().all()
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-6)
    assert macs(row).profile(found.sample) * 1e6 == pytest.approx(count_macs(network, row.shape), rel=1e-9)


@pytest.mark.parametrize(
    ("row", "update"), [(row, update) for row, update in FIELDS if update in row.refused], ids=named
)
def test_what_is_refused(row, update):
    """By the words of the page, before anything is trained; the space is left as it was."""
    space = row.make()
    before = objects(space)
    with pytest.raises(TypeError, match=re.escape(row.refused[update].said)):
        row.strategy(update).mutate_model(space)
    assert objects(space) == before


@pytest.mark.parametrize("row", [r for r in ROWS if len(r.refused) == len(UPDATES) and not r.no_latency], ids=named)
def test_what_is_refused_and_has_a_latency(row):
    sample = {label: mutable.default() for label, mutable in row.make().simplify().items()}
    assert macs(row).profile(sample) * 1e6 == pytest.approx(count_macs(row.make().freeze(sample), row.shape), rel=1e-9)


@pytest.mark.parametrize("row", [row for row in ROWS if row.no_latency], ids=named)
def test_what_has_no_latency(row):
    with pytest.raises(ValueError, match=re.escape(row.no_latency.said)):
        macs(row)


def test_the_page_is_up_to_date():
    assert PAGE.read_text("utf-8") == page(), "run: python -m tests.strategies.nni_spaces"
