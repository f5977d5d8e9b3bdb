"""When ProxylessNAS steps, at which rates, on which batches: real fits of Lightning in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import pytorch_lightning
import torch
from nni.nas.evaluator.pytorch import DataLoader
from nni_proxyless.strategies import ProxylessNAS
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from .spaces import CLASSES, WIDTH, OneChoice
from .watched import BATCH, Sgd, Task, Watched, batches, fit

SCHEDULES = [
    {"n": 12, "every": 5},  # floor(12 / 5) per epoch
    {"n": 10, "every": 5, "warmup": 1},
    {"n": 6, "every": 2, "start": 1},
    {"n": 6, "every": 2, "warmup": 1, "start": 1},
    {"n": 6, "every": 3, "steps": 4},
    {"n": 9, "every": 2, "accumulate": 2},  # 5 weight steps, the last one on a single batch
    {"n": 8, "every": 1, "accumulate": 3, "steps": 2, "warmup": 1},
]


@pytest.mark.parametrize("options", SCHEDULES, ids=lambda options: ",".join(f"{k}={v}" for k, v in options.items()))
@pytest.mark.parametrize("update", ["two-path", "full", "reinforce"])
def test_schedule(options, update):
    """Property 18: floor(weight steps / arc_update_every) updates per epoch, each of arc_update_steps steps and right after
    its weight step, counted anew in every epoch; none in the first warmup_epochs + arc_start_epoch epochs. A weight step is
    accumulate_grad_batches batches, the last one of an epoch maybe fewer."""
    n, every = options["n"], options["every"]
    accumulate, steps = options.get("accumulate", 1), options.get("steps", 1)
    silent = options.get("warmup", 0) + options.get("start", 0)
    strategy = Watched(
        update=update, arc_update_every=every, arc_update_steps=steps, arc_start_epoch=options.get("start", 0),
        warmup_epochs=options.get("warmup", 0), accumulate_grad_batches=accumulate, reinforce_samples=1,
    )  # fmt: skip
    module = fit(strategy, OneChoice, n=n, epochs=3)
    stepped = [i for i in range(n) if (i + 1) % accumulate == 0 or i == n - 1]
    in_an_epoch = [i for k, i in enumerate(stepped) if (k + 1) % every == 0]
    assert len(in_an_epoch) == math.ceil(n / accumulate) // every
    expected = [(epoch, i) for epoch in range(silent, 3) for i in in_an_epoch for _ in range(steps)]
    assert [step.when for step in module.steps] == expected
    assert len(module.weight_optimizer.notes) == 3 * math.ceil(n / accumulate)


@pytest.mark.parametrize(("accumulate", "several"), [(1, ""), (3, ", 3 to a weight step")])
def test_an_interval_longer_than_the_epoch_is_refused(accumulate, several):
    """9 batches are 9 weight steps, or 3 of 3: the architecture would stay at its random initial values without a word."""
    message = (
        f"arc_update_every is 10, but an epoch has only 9 batches{several}: the architecture would never be updated. "
        "Use a smaller arc_update_every or a smaller batch."
    )
    with pytest.raises(MisconfigurationException, match=message):
        fit(ProxylessNAS(arc_update_every=10, accumulate_grad_batches=accumulate), OneChoice, n=9)


def groups_of(rest: list, last: list) -> Sgd:
    return Sgd([{"params": rest, "lr": 0.08}, {"params": last, "lr": 0.008}], lr=1.0)


class Groups(Task):
    """Two groups of weights, the second one at a tenth of the learning rate, and a schedule per batch."""

    def __init__(self, schedule: Callable | None = None):
        super().__init__()
        self.make_schedule = schedule

    def configure_optimizers(self):
        rest = [p for name, p in self.model.named_parameters() if not name.startswith("last.")]
        optimizer = groups_of(rest, list(self.model.last.parameters()))
        if self.make_schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.make_schedule(optimizer), "interval": "step"}}  # fmt: skip


def cosine_to_zero(optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)


def ramp(optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """From 0 in a straight line, as many recipes begin."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 4))


def rates_of(schedule: Callable | None, n: int) -> list[list[float]]:
    """What the evaluator's own schedule gives the optimizer at each of n steps."""
    optimizer = groups_of([nn.Parameter(torch.zeros(1))], [nn.Parameter(torch.zeros(1))])
    scheduler = schedule(optimizer) if schedule else None
    for _ in range(n):
        optimizer.step()
        if scheduler:
            scheduler.step()
    return [note["lr"] for note in optimizer.notes]


@pytest.mark.parametrize("schedule", [None, cosine_to_zero, ramp])
def test_warm_up_has_a_schedule_of_its_own(schedule):
    """Property 18: at batch t of the T = 12 of a warm-up the optimizer sees 0.4 * 0.5 (1 + cos(pi t / T)), the second group a
    tenth of it; then the search begins with the evaluator's own learning rate and schedule, at their beginning."""
    strategy = Watched(warmup_epochs=2, warmup_learning_rate=0.4, arc_update_every=2)
    module = fit(strategy, OneChoice, task=Groups(schedule), n=6, epochs=4)
    seen = [note["lr"] for note in module.weight_optimizer.notes]
    factors = [0.4 * 0.5 * (1 + math.cos(math.pi * t / 12)) for t in range(12)]
    assert factors[0] == 0.4 > factors[-1] > 0
    for got, factor in zip(seen[:12], factors, strict=True):
        assert got == pytest.approx([factor, factor / 10], rel=1e-12)
    for got, expected in zip(seen[12:], rates_of(schedule, 12), strict=True):
        assert got == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_without_a_warm_up_rate_the_evaluators_schedule_runs_from_the_start():
    """warmup_learning_rate None: the same rates as without warm-up."""
    module = fit(Watched(warmup_epochs=2, arc_update_every=2), OneChoice, task=Groups(cosine_to_zero), n=6, epochs=3)
    for note, expected in zip(module.weight_optimizer.notes, rates_of(cosine_to_zero, 18), strict=True):
        assert note["lr"] == pytest.approx(expected, rel=1e-12)


class Endless:
    """Data of unknown length."""

    def __iter__(self):
        yield from batches(4)


def test_a_warm_up_rate_needs_to_know_how_long_the_warm_up_is():
    """T is unknown for data without a length: a refusal, or finite weights; never a learning rate that is no number."""
    strategy = Watched(warmup_epochs=1, warmup_learning_rate=0.4, arc_update_every=2)
    try:
        module = fit(strategy, OneChoice, train=Endless(), epochs=2)
    except (MisconfigurationException, ValueError) as error:
        assert "warmup_learning_rate" in str(error)  # noqa: PT017  (both outcomes are right)
        return
    assert all(math.isfinite(rate) for note in module.weight_optimizer.notes for rate in note["lr"])


# -- clipping and accumulation -----------------------------------------------------------------------------------------


def first_gradients(**arguments) -> Tensor:
    """What the optimizer is given at the first weight step, as one vector."""
    module = fit(Watched(arc_update_every=1, **arguments), OneChoice, task=Task(loss=lambda y: 50 * (y**2).sum()), n=3)
    return torch.cat([grad.reshape(-1) for grad in module.weight_optimizer.notes[0]["grads"]])


def test_clipping():
    """By norm, g <- g * c / |g| where |g| > c, over all weights together; by value, g_i <- min(max(g_i, -c), c)."""
    free = first_gradients()
    assert free.norm() > 10
    torch.testing.assert_close(first_gradients(gradient_clip_val=0.5), free * 0.5 / free.norm(), rtol=1e-5, atol=0)
    assert torch.equal(first_gradients(gradient_clip_val=1e9), free)
    c = free.abs().median().item()
    by_value = first_gradients(gradient_clip_val=c, gradient_clip_algorithm="value")
    assert torch.equal(by_value, free.clamp(-c, c))


@pytest.mark.parametrize("schedule", [None, cosine_to_zero])
def test_n_batches_are_one_batch_n_times_as_large(schedule):
    """Mean loss over n batches of B = mean loss over one of nB: accumulating 3 batches of 8 gives the weights, the paths and
    the learning rates that batches of 24 give. Batches that are left over at the end of an epoch step as well."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(16 * BATCH, WIDTH, dtype=torch.float64, generator=generator)
    data = TensorDataset(x, torch.randint(CLASSES, (len(x),), generator=generator))

    def search(size: int, accumulate: int, n: int):
        part = torch.utils.data.Subset(data, range(n))
        return fit(
            Watched(arc_update_every=1, arc_learning_rate=0.05, accumulate_grad_batches=accumulate), OneChoice,
            task=Groups(schedule), train=DataLoader(part, batch_size=size), epochs=2,
        )  # fmt: skip

    few, many = search(24, 1, 5 * 24), search(8, 3, 5 * 24)
    assert len(few.weight_optimizer.notes) == len(many.weight_optimizer.notes) == 10
    assert [note["lr"] for note in few.weight_optimizer.notes] == [note["lr"] for note in many.weight_optimizer.notes]
    for a, b in zip(few.model.parameters(), many.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)
    for a, b in zip(few.steps, many.steps, strict=True):
        torch.testing.assert_close(a.after["choice"], b.after["choice"], rtol=1e-10, atol=1e-13)

    # 16 batches of 8: the sixteenth is a step of its own, a third of what it would be alone (as in Lightning).
    left = search(8, 3, 16 * 8)
    assert len(left.weight_optimizer.notes) == 2 * 6


class Paths(pytorch_lightning.Callback):
    """The path of every batch, as the model runs it."""

    def __init__(self):
        self.paths: list[int] = []

    def on_train_start(self, trainer, module) -> None:
        gate = module.gates[0]
        module.model.register_forward_pre_hook(lambda *_: None if gate.probing else self.paths.append(gate.current))


def test_the_path_stays_while_gradients_accumulate():
    """Batches of one weight step share one path and the next step draws anew, also when the epoch ends early."""
    watch = Paths()
    strategy = ProxylessNAS(arc_update_every=2, accumulate_grad_batches=4)
    module = fit(strategy, OneChoice, n=10, epochs=6, callbacks=[watch], task=Task(0.05))
    assert len(watch.paths) == 60
    steps = [watch.paths[10 * e + i : 10 * e + min(i + 4, 10)] for e in range(6) for i in (0, 4, 8)]
    assert all(len(set(step)) == 1 for step in steps)
    assert {len(step) for step in steps} == {4, 2}
    assert len({step[0] for step in steps}) > 2
    assert len(module.weight_optimizer.notes) == 18
    for step, note in zip(steps, module.weight_optimizer.notes, strict=True):
        assert len(note["grads"]) == 6, f"one candidate of {step}, the first layer and the last"


# -- held-out data -----------------------------------------------------------------------------------------------------


class Counted(Dataset):
    """Notes what is loaded."""

    def __init__(self, n: int):
        self.data, self.loaded = batches(n, seed=1).dataset, []

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int):
        self.loaded.append(index)
        return self.data[index]


@pytest.mark.parametrize("update", ["two-path", "full", "reinforce"])
def test_held_out_batches_are_loaded_for_the_steps_that_use_them_and_no_other(update):
    """6 batches an epoch, an update of 2 steps after every 4th, none in the first epoch: 4 batches of the held-out data, in
    their order and beginning again after the third; NNI's own strategies load one for every training batch."""
    held_out = Counted(3)
    strategy = Watched(update=update, arc_update_every=4, arc_update_steps=2, warmup_epochs=1, reinforce_samples=3)
    module = fit(strategy, n=6, epochs=3, held_out=DataLoader(held_out, batch_size=BATCH))
    assert len(module.steps) == 4
    assert held_out.loaded == [*range(3 * BATCH), *range(BATCH)]
    for step, batch in zip(module.steps, [0, 1, 2, 0], strict=True):
        expected = torch.stack([held_out.data[batch * BATCH + i][0] for i in range(BATCH)])
        assert torch.equal(step.batch[0], expected)
