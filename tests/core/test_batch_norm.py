"""Statistics of norms: those that a search trains are estimated afresh, those that were given stay."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni_proxyless.search_spaces import MobileNetV2Space
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from nni_proxyless.cli.main import main
from nni_proxyless.core import joined_batches
from nni_proxyless.core.batch_norm import batch_norm_statistics_kept, estimate_statistics, moving_norms
from nni_proxyless.core.joined_batches import can_join
from nni_proxyless.data.accuracy import evaluate_accuracy

MEAN, VARIANCE = 3.0, 25.0
CPU = torch.device("cpu")


def given(norm: nn.Module) -> nn.Module:
    """With statistics and weights that nothing shall change."""
    norm.running_mean.fill_(MEAN)
    norm.running_var.fill_(VARIANCE)
    return norm.requires_grad_(False).eval()


class Frozen(nn.BatchNorm2d):
    """As many write it: no call of ``train`` changes its mode."""

    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


class Space(ModelSpace):
    """Given norms, kept in evaluation mode in two ways, alone and in a candidate, beside norms that a search trains."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.overridden, self.plain = given(Frozen(1)), given(nn.BatchNorm2d(1))
        self.instance = nn.InstanceNorm2d(8, track_running_stats=True)
        self.choice = LayerChoice(
            [nn.Sequential(given(nn.BatchNorm2d(1)), nn.Conv2d(1, 8, 1)), nn.Sequential(given(Frozen(1)), nn.Conv2d(1, 8, 3, padding=1))],
            label="choice",
        )  # fmt: skip
        self.pooled, self.head = nn.BatchNorm1d(8), nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.instance(self.choice(self.plain(self.overridden(x))))
        return self.head(self.pooled(y.mean((2, 3))))


# Of 490 images 290 train the weights: with batches of 17 one is left over, with which self.pooled could do nothing.
SEARCH = """
data: {name: synthetic, n_images: 490, num_classes: 10, channels: 1, image_size: 8, batch_size: 17}
space: {name: "tests.core.test_batch_norm:Space"}
latency: {estimator: {name: macs}}
training: {epochs: 2}
search: {judged: 4}
trainer: {threads: 1, accelerator: cpu}
"""


def statistics(path: Path) -> dict[str, tuple[float, float]]:
    """Name of a norm -> its mean and variance, of the first channel."""
    weights = load_file(path)
    norms = [name.removesuffix(".running_mean") for name in weights if name.endswith("running_mean")]
    return {
        norm: (float(weights[f"{norm}.running_mean"][0]), float(weights[f"{norm}.running_var"][0])) for norm in norms
    }


@pytest.mark.parametrize("strategy", ["{name: proxyless, arc_update_every: 1}", "{name: dsnas}"])
def test_given_statistics_come_through_a_search_and_a_derivation(strategy, tmp_path, monkeypatch, capsys):
    """Three given norms on the path keep what they were given to the last bit, in every network that is left; the other two are
    estimated. A last batch of one image ends nothing."""
    monkeypatch.chdir(tmp_path)
    Path("search.yml").write_text(f"{SEARCH}strategy: {strategy}\n")
    assert main(["search", "search.yml", "output=run"]) == 0, capsys.readouterr().err
    left = [Path("run/weights.safetensors")]
    if "proxyless" in strategy:
        assert main(["derive", "run", "--budget-ms", "1000", "--judge", "2", "--output", "judged"]) == 0
        assert main(["train", "run/architecture.json", "epochs=1", "batch_size=17", "output=trained"]) == 0
        left += [Path("judged/weights.safetensors"), Path("trained/weights.safetensors")]
    for path in left:
        found = statistics(path)
        assert len(found) == 5, path
        of_given = [values for name, values in found.items() if name not in ("instance", "pooled")]
        assert of_given == [(MEAN, VARIANCE)] * 3, path
        for name in ("instance", "pooled"):
            assert found[name] not in ((MEAN, VARIANCE), (0.0, 1.0)), (path, name)


def test_statistics_are_those_of_torch_where_all_train():
    """To the last bit ``torch.optim.swa_utils.update_bn``, whatever momentum and mode of tracking; momenta come back."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.0), nn.BatchNorm2d(4, momentum=None), nn.BatchNorm2d(4, track_running_stats=False),
    )  # fmt: skip
    batches = [torch.randn(n, 2, 6, 6) for n in (5, 5, 3)]
    network(batches[0])
    expected = copy.deepcopy(network)
    update_bn(batches, expected)
    estimate_statistics(network, batches, CPU)
    for name, value in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    assert [network[i].momentum for i in (1, 3, 4)] == [0.1, None, 0.1]


def test_an_instance_norm_has_the_mean_over_all_batches():
    """Running mean of a tracking InstanceNorm: the mean over batches of the batch's mean per channel."""
    norm = nn.InstanceNorm2d(3, track_running_stats=True)
    batches = [torch.randn(4, 3, 5, 5) + n for n in range(3)]
    norm(batches[2])
    estimate_statistics(norm, batches, CPU)
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean((0, 2, 3)) for x in batches]).mean(0))
    assert norm.momentum == 0.1
    before = norm.running_mean.clone()
    with batch_norm_statistics_kept([norm]):
        norm(batches[0])
    assert torch.equal(norm.running_mean, before)  # an architecture step leaves it alone
    norm(batches[0])
    assert not torch.equal(norm.running_mean, before)


def test_judging_gives_every_module_its_own_mode_back():
    """Also a part that is in evaluation mode while the rest trains."""
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4).eval(), nn.Dropout(0.5), nn.Linear(4, 2))
    evaluate_accuracy(network, [(torch.randn(3, 1, 2, 2), torch.tensor([0, 1, 1]))])
    assert [module.training for module in network] == [True, False, True, True]


class Mixed(nn.Module):
    """Looks at all images of its batch."""

    def forward(self, x):
        return x - x.mean(0)


def test_statistics_of_batches_that_are_computed_together_are_the_same(monkeypatch):
    """To the bit those of one batch after the other, in fewer convolutions; alone go batches of a network of which less is known."""
    torch.manual_seed(0)
    batches = [torch.randn(n, 1, 8, 8) for n in (8, 8, 8, 8, 5)]
    called: list[int] = []

    def after(network: nn.Module, most: int) -> dict[str, torch.Tensor]:
        monkeypatch.setattr(joined_batches, "MOST", most)
        with monkeypatch.context() as patched:
            convolution = nn.Conv2d.forward
            patched.setattr(nn.Conv2d, "forward", lambda self, x: called.append(len(x)) or convolution(self, x))
            estimate_statistics(network, batches, CPU)  # here it is asked which convolutions give the same
            called.clear()
            estimate_statistics(network, batches, CPU)
        return {name: value.clone() for name, value in network.state_dict().items()}

    space = MobileNetV2Space(preset="small", num_classes=3, in_channels=1, widths=[8], depths=[2], strides=[1])
    network = space.freeze({"stage1.0": "k5e3", "stage1.1": "k3e6"}).to(memory_format=torch.channels_last)
    apart = after(network, 1)
    assert set(called) == {8, 5}
    together = after(network, 24 * 64)
    assert {24, 13} <= set(called)
    assert [name for name, value in apart.items() if not torch.equal(value, together[name])] == []
    assert all("forward" not in vars(m) for m in network.modules())

    known = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    unknown = [Mixed(), nn.Dropout(0.5), nn.BatchNorm2d(4, track_running_stats=False), nn.InstanceNorm2d(4, track_running_stats=True)]  # fmt: skip
    assert can_join(known, moving_norms(known.modules()))
    for module in unknown:
        network = nn.Sequential(*known, module)
        assert not can_join(network, moving_norms(network.modules())), module
    known[2].register_forward_hook(lambda module, inputs, output: None)
    assert not can_join(known, moving_norms(known.modules()))
