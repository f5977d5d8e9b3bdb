"""Curves of a search: what the loggers are told is what Lightning's own ``log`` would tell them, from a fraction of its calls."""

from __future__ import annotations

import warnings

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, Trainer
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from nni_proxyless.strategies.dsnas import DSNASModule
from nni_proxyless.strategies.oneshot import step_log
from nni_proxyless.strategies.oneshot.module import SampledOneShotModule
from nni_proxyless.strategies.proxyless import ProxylessModule
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger

from nni_proxyless.latency import LatencyPenalty

from .searches import QUIET, Cost, Noisy, Space, Task


class Heard(Logger):
    """What a logger is told: step -> name -> value."""

    def __init__(self):
        super().__init__()
        self.told: dict[int, dict[str, float]] = {}

    name, version = "heard", 0

    def log_hyperparams(self, *args, **kwargs):
        pass

    def log_metrics(self, metrics, step=None):
        at = self.told.setdefault(step, {})
        at.update({name: float(torch.tensor(value)) for name, value in metrics.items()})


class Seen(Callback):
    """What callbacks find when an epoch ends."""

    def __init__(self):
        self.metrics: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer, module):
        self.metrics.append({n: float(v) for n, v in trainer.callback_metrics.items() if not n.startswith("prob/")})


def search(strategy, every):
    torch.manual_seed(3)
    space = Space()
    strategy = strategy(arc_learning_rate=0.05, penalty=LatencyPenalty(Cost(space), 4.0, "auto"), warmup_epochs=1, log_prob_every_n_step=3)  # fmt: skip
    space = strategy.mutate_model(space)
    heard, seen = Heard(), Seen()
    trainer = Trainer(**{**QUIET, "logger": heard}, max_epochs=4, callbacks=[seen], log_every_n_steps=every)
    data = [DataLoader(Noisy(32 * 7, seed), batch_size=32) for seed in (0, 1)]
    evaluator = strategy.mutate_evaluator(
        Lightning(Task(), trainer, train_dataloaders=data[0], val_dataloaders=data[1])
    )
    calls = 0
    log = SampledOneShotModule.log

    def counted(self, *args, **kwargs):
        nonlocal calls
        calls += 1
        return log(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(SampledOneShotModule, "log", counted)
        evaluator.evaluate(space)
    return heard.told, seen.metrics, calls


def by_lightning(self, batch, batch_idx):
    """A training step that has Lightning log all."""
    result = self.search_step(batch, batch_idx)
    if batch_idx % self.options.log_prob_every_n_step == 0:
        self.log_probs(self.export_probs())
    return result


@pytest.mark.parametrize(("strategy", "every"), [(ProxylessNAS, 1), (DSNAS, 4)])
def test_loggers_are_told_what_lightning_would_tell_them(strategy, every, monkeypatch):
    told, seen, calls = search(strategy, every)
    for cls in (SampledOneShotModule, ProxylessModule, DSNASModule):  # another test may have given one its own
        monkeypatch.setattr(cls, "training_step", by_lightning)
    monkeypatch.setattr(
        SampledOneShotModule, "note", lambda self, figures: self.log_dict({n: torch.as_tensor(v).detach() for n, v in figures.items()})
    )  # fmt: skip
    expected, seen_before, calls_before = search(strategy, every)
    assert {step: curves for step, curves in told.items() if curves} == expected
    assert any(name.startswith("prob/") for curves in told.values() for name in curves)
    assert any(name.startswith("penalty/") for curves in told.values() for name in curves)
    assert seen == seen_before
    assert calls < calls_before / 2


def test_of_many_choices_loggers_are_told_the_means(monkeypatch):
    """Of a candidate over the choices that have it; all else is as before."""
    each, seen, _ = search(ProxylessNAS, 1)
    monkeypatch.setattr(step_log, "MOST_SHOWN", 1)
    means, seen_then, _ = search(ProxylessNAS, 1)
    assert seen == seen_then
    for step, curves in each.items():
        of: dict[str, list[float]] = {}
        for name, value in curves.items():
            if name.startswith("prob/"):
                of.setdefault(f"prob/mean/{name.rpartition('/')[2]}", []).append(value)
        expected = {name: value for name, value in curves.items() if not name.startswith("prob/")}
        expected |= {name: sum(values) / len(values) for name, values in of.items()}
        assert means[step] == pytest.approx(expected)
    assert any(name.startswith("prob/mean/") for curves in means.values() for name in curves)
