"""What a supernet says of its networks: on copies, and the same as by hand."""

from __future__ import annotations

import copy
import hashlib
import math

import pytest
import torch
from nni_proxyless.search_spaces import MobileNetV2Space
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from nni_proxyless.core.nni_compat import keep_modules_when_frozen
from nni_proxyless.latency import LatencyProfiler, MacsEstimator
from nni_proxyless.search.judging import CPU, judge_networks
from nni_proxyless.search.monitor import judge
from nni_proxyless.search.uniform_draws import draw_networks

from .test_reference import TINY


def batches(n: int, seed: int) -> DataLoader:
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 1, 8, 8, generator=draw)
    return DataLoader(TensorDataset(images, torch.randint(10, (n,), generator=draw)), batch_size=16)


@pytest.fixture(scope="module")
def supernet() -> MobileNetV2Space:
    torch.manual_seed(0)
    space = MobileNetV2Space(**TINY)
    keep_modules_when_frozen(space)
    return space


def test_networks_are_judged_on_copies(supernet):
    """Not a byte of the supernet is another one afterwards, and no mode; two networks that share all weights get the same verdict twice."""
    profiler = LatencyProfiler(supernet, MacsEstimator(), (1, 8, 8))
    samples = draw_networks(supernet, profiler, 6, math.inf, seed=0)

    def digest() -> str:
        state = {name: tensor.contiguous().numpy().tobytes() for name, tensor in supernet.state_dict().items()}
        assert len(state) > 50
        modes = bytes(module.training for module in supernet.modules())
        return hashlib.sha256(b"".join(state[name] for name in sorted(state)) + modes).hexdigest()

    before, done = digest(), []
    calibration, validation = batches(48, 1), batches(40, 2)
    verdicts = judge_networks(
        supernet, samples, calibration, validation, profiler=profiler, on_done=lambda: done.append(1)
    )
    assert digest() == before
    assert len(done) == 6
    assert judge_networks(supernet, samples[::-1], calibration, validation, profiler=profiler) == verdicts[::-1]
    assert len({verdict.log_loss for verdict in verdicts}) > 1

    for sample, verdict in zip(samples, verdicts, strict=True):
        network = copy.deepcopy(supernet.freeze(sample))
        assert judge(network, calibration, validation, CPU) == verdict.merit
        with torch.no_grad():
            images, targets = validation.dataset.tensors
            loss = cross_entropy(network.eval()(images), targets)
        assert verdict.log_loss == pytest.approx(float(loss), rel=1e-5)
        assert (verdict.choices, verdict.cost) == (sample, profiler.profile(sample))
    # The digest can tell: a frozen network shares its storage with the supernet.
    judge(supernet.freeze(samples[0]), calibration, validation, CPU)
    assert digest() != before


def test_a_network_that_answers_no_number_is_the_worst(supernet):
    space = copy.deepcopy(supernet)
    for parameter in space.parameters():
        parameter.data.fill_(math.nan)
    sample = {str(label): mutable.values[0] for label, mutable in space.simplify().items()}
    (verdict,) = judge_networks(space, [sample], batches(32, 1), batches(16, 2))
    assert verdict.log_loss == math.inf
    assert math.isnan(verdict.cost)
