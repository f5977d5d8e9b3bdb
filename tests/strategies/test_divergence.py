"""A training whose numbers are none any more ends with a word, and takes no good checkpoint with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from nni_proxyless.strategies.oneshot.checkpoint import CheckpointFolder
from torch import Tensor, nn

from nni_proxyless.cli.main import main
from nni_proxyless.core.divergence import DivergedError, is_finite

from .searches import Task, searched

BATCHES = 4  # of an epoch, of two


class Diverging(Task):
    """From a certain batch on the loss is no number; or it is one, and only its gradient is not."""

    def __init__(self, at: int, silently: bool = False):
        super().__init__()
        self.at, self.silently, self.done = at, silently, 0

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.done += 1
        if self.done <= self.at:
            return loss
        if not self.silently:
            return loss * math.nan
        loss = loss * 1.0
        loss.register_hook(lambda grad: grad * math.nan)
        return loss

    def architecture_loss(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def search(strategy: Any, at: int, silently: bool) -> None:
    torch.manual_seed(0)
    searched(strategy, Diverging(at, silently), images=4 * BATCHES)


METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    **{update: (ProxylessNAS, {"update": update, "arc_update_every": 1}) for update in ("two-path", "full", "reinforce")},
    "warm-up": (ProxylessNAS, {"warmup_epochs": 1, "arc_update_every": 1}),
    "size bias": (ProxylessNAS, {"size_bias": 1.0, "arc_update_every": 1}),
    **{reward: (DSNAS, {"reward": reward, "fix_gap": 1.0}) for reward in ("loss", "gradient")},
}  # fmt: skip


@pytest.mark.parametrize("silently", [False, True])
@pytest.mark.parametrize("at", [2, 2 * BATCHES - 1])
@pytest.mark.parametrize("method", METHODS)
def test_a_search_that_diverges_says_so_and_leaves_its_last_good_checkpoint(method, at, silently, tmp_path):
    """In the middle of the first epoch, and in the very last step of all, in every update and stage."""
    strategy, options = METHODS[method]
    with pytest.raises(DivergedError, match=f"in epoch {at // BATCHES + 1}: the training diverged"):
        search(strategy(checkpoint_dir=str(tmp_path), checkpoint_every=1, **options), at, silently)
    state = CheckpointFolder(tmp_path).read()
    assert state is not None
    assert (state["epoch"], state["batch"]) == divmod(at, BATCHES)
    assert all(bool(tensor.isfinite().all()) for tensor in [*state["module"].values(), *state["alphas"].values()])


@pytest.mark.parametrize("method", ["two-path", "loss"])
def test_it_says_so_without_checkpoints_too(method):
    strategy, options = METHODS[method]
    with pytest.raises(
        DivergedError, match=r"no numbers.*: the training diverged. Use a smaller training.learning_rate"
    ):
        search(strategy(**options), 2, False)


def test_what_counts_as_no_number():
    """Weights and running statistics; not what is neither, such as a mask, and not what is merely large."""
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    net[0].weight.data.fill_(3e38)
    assert is_finite(net)
    for tensor in (net[0].bias.data, net[1].running_var):
        before = tensor.clone()
        tensor[0] = math.inf
        assert not is_finite(net)
        tensor.copy_(before)
    assert is_finite(net)


@pytest.mark.parametrize("strategy", ["{name: proxyless, arc_update_every: 1}", "{name: dsnas}", "{name: nni-gumbel-darts}"])  # fmt: skip
def test_the_command_ends_with_code_2_before_the_first_epoch_does(strategy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("search.yml").write_text(
        "data: {name: synthetic, n_images: 490, num_classes: 10, channels: 1, image_size: 8, batch_size: 16}\n"
        f'space: {{name: "tests.search.test_choice_values:Space"}}\nstrategy: {strategy}\nlatency: {{estimator: {{name: macs}}}}\n'
        "training: {epochs: 2, learning_rate: 1.0e+30}\ntrainer: {threads: 1, accelerator: cpu}\n"
    )
    assert main(["search", "search.yml", "output=run"]) == 2
    said = capsys.readouterr().err
    assert "the training diverged. Use a smaller training.learning_rate." in said
    assert "Traceback" not in said
    assert not Path("run/architecture.json").exists()
