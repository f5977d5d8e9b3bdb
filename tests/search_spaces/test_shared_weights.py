"""Candidates that train the same weights: what a step of one does to the others, and what must not part them."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning
from nni_proxyless.search_spaces import MobileNetV2Space
from nni_proxyless.strategies import DSNAS, ProxylessNAS
from nni_proxyless.strategies.proxyless import ProxylessModule
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from nni_proxyless.core.atomic_files import write_weights
from nni_proxyless.latency import DeviceEstimator
from nni_proxyless.models.timm_model import load_weights
from nni_proxyless.search.evaluator import TaskTraining
from nni_proxyless.tasks import Classification

from ..strategies.searches import quiet_trainer

LAYOUT = {
    "preset": "small", "num_classes": 4, "in_channels": 1, "stem_width": 8, "first_width": 8, "widths": (8, 16), "depths": (2, 2),
    "strides": (1, 2), "feature_mix": 16, "kernels": (5, 3, 7), "expansions": (3, 6),
}  # fmt: skip
INVERTED = ("k5e3", "k5e6", "k3e3", "k3e6", "k7e3", "k7e6")
PARAMETERS = (
    *(f"conv_{part}.weight" for part in ("pw", "dw", "pwl")),
    *(f"bn{i}.{name}" for i in (1, 2, 3) for name in ("weight", "bias")),
)


def space_of(shared: bool = True, **more: object) -> MobileNetV2Space:
    torch.manual_seed(0)
    return MobileNetV2Space(**LAYOUT, shared_weights=shared, **more)  # type: ignore[arg-type]


def overlap(choice: nn.Module, parameter: str, a: str, b: str) -> tuple[Tensor, Tensor]:
    """What two candidates have in common of a parameter, as each of them has it."""
    both = [choice[name].get_parameter(parameter) for name in (a, b)]  # type: ignore[index]
    if parameter == "conv_dw.weight":
        k = min(p.shape[-1] for p in both)
        middles = [slice((p.shape[-1] - k) // 2, (p.shape[-1] + k) // 2) for p in both]
        both = [p[..., middle, middle] for p, middle in zip(both, middles, strict=True)]
    n = [min(sizes) for sizes in zip(*(p.shape for p in both), strict=True)]
    first, second = (p.detach()[tuple(slice(0, size) for size in n)] for p in both)
    return first, second


def agree(space: nn.Module) -> bool:
    """Whether all candidates of all choices have the same numbers where they overlap."""
    return all(
        torch.equal(*overlap(choice, parameter, a, b))
        for choice in choices_in(space)
        for parameter in PARAMETERS
        for a, b in itertools.combinations(INVERTED, 2)
    )


def choices_in(space: nn.Module) -> list[nn.Module]:
    return [module for module in space.modules() if hasattr(module, "names")]


def disturb(space: nn.Module) -> None:
    """A step as optimizers make it, of the smallest candidates alone."""
    with torch.no_grad():
        for choice in choices_in(space):
            for parameter in choice["k3e3"].parameters():  # type: ignore[index]
                parameter.add_(torch.randn_like(parameter))


def test_a_step_of_one_candidate_is_a_step_of_all_as_far_as_they_overlap():
    space = space_of()
    choice = choices_in(space)[1]
    before = copy.deepcopy({name: choice[name].state_dict() for name in INVERTED})
    optimizer = torch.optim.SGD(space.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        choice["k3e3"](torch.randn(4, 8, 6, 6)).square().sum().backward()
        optimizer.step()
    assert agree(space)
    for name, parameter in itertools.product(INVERTED, PARAMETERS):
        assert not torch.equal(choice[name].get_parameter(parameter), before[name][parameter]), (name, parameter)
    # What the sampled one has no part in is bitwise what it was: no weight decay, no momentum.
    large, old = choice["k7e6"], before["k7e6"]
    m = choice["k3e3"].conv_pw.out_channels
    ring = torch.ones(7, 7, dtype=torch.bool)
    ring[2:5, 2:5] = False
    assert torch.equal(large.conv_pw.weight[m:], old["conv_pw.weight"][m:])
    assert torch.equal(large.conv_dw.weight[m:], old["conv_dw.weight"][m:])
    assert torch.equal(large.conv_dw.weight[..., ring], old["conv_dw.weight"][..., ring])
    assert torch.equal(large.conv_pwl.weight[:, m:], old["conv_pwl.weight"][:, m:])
    assert torch.equal(large.bn1.weight[m:], old["bn1.weight"][m:])
    # And only the one that ran has a gradient.
    assert {n for n in INVERTED if choice[n].conv_pw.weight.grad is not None} == {"k3e3"}


def test_without_it_a_step_of_one_candidate_leaves_the_others_alone():
    space = space_of(shared=False)
    before = copy.deepcopy(space.state_dict())
    disturb(space)
    after = space.state_dict()
    assert {name.split(".")[3] for name in before if not torch.equal(before[name], after[name])} == {"k3e3"}


@pytest.mark.parametrize(
    "part",
    [
        lambda space: space,
        lambda space: space.to(memory_format=torch.channels_last),
        lambda space: space.double(),
        lambda space: nn.Sequential(space).to(memory_format=torch.channels_last)[0],
        copy.deepcopy,
        lambda space: copy.deepcopy(nn.Sequential(space))[0],
        lambda space: (space.load_state_dict(copy.deepcopy(space.state_dict())), space)[1],
    ],
    ids=["as it is", "channels-last", "double", "inside another module", "a copy", "a copy inside another", "loaded"],
)
def test_nothing_parts_them(part):
    space = part(space_of())
    disturb(space)
    assert agree(space)


def test_a_copy_shares_nothing_with_what_it_is_a_copy_of():
    space = space_of()
    before = copy.deepcopy(space.state_dict())
    disturb(copy.deepcopy(space))
    assert all(torch.equal(tensor, before[name]) for name, tensor in space.state_dict().items())


def test_the_order_of_candidates_does_not_matter_and_all_start_as_the_same_function():
    """Each is the middle of the largest kernel and the first of its channels; what lies around is 0 at the start."""
    choice = choices_in(space_of().eval())[1]
    x = torch.randn(2, 8, 6, 6)
    for e in ("e3", "e6"):
        for k in ("k5", "k7"):
            torch.testing.assert_close(choice[k + e](x), choice["k3" + e](x), rtol=1e-4, atol=1e-5)


def test_what_is_timed_has_memory_of_its_own():
    """A small kernel that is cut out of a large one takes longer than it does in a derived net."""
    space = space_of()
    assert not choices_in(space)[1]["k3e3"].conv_dw.weight.is_contiguous()  # type: ignore[index]
    with DeviceEstimator(runtime="torch").prepared([space, space]) as copies:
        for parameter in itertools.chain(*(c.parameters() for c in copies)):
            assert parameter.is_contiguous()
            assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()
        assert copies[0] is copies[1]
    assert agree(space)


def trained(strategy, space: MobileNetV2Space, epochs: int = 3):
    torch.manual_seed(1)
    space.to(memory_format=torch.channels_last)
    data = TensorDataset(torch.randn(64, 1, 8, 8), torch.randint(4, (64,)))
    evaluator = Lightning(
        TaskTraining(task=Classification(), optimizer="sgd", learning_rate=0.05, momentum=0.9, weight_decay=4e-5, label_smoothing=0.0),
        quiet_trainer(max_epochs=epochs),
        train_dataloaders=DataLoader(data, 16, shuffle=True), val_dataloaders=DataLoader(data, 16, shuffle=True),
    )  # fmt: skip
    supernet = strategy.mutate_model(space)
    evaluator = strategy.mutate_evaluator(evaluator)
    evaluator.evaluate(supernet)
    return evaluator.module


@pytest.mark.parametrize("update", ["two-path", "full", "reinforce"])
def test_a_search_trains_them_together(update):
    space = space_of()
    before = copy.deepcopy(space.state_dict())
    trained(ProxylessNAS(update=update, warmup_epochs=1, arc_update_every=2, reinforce_samples=2), space)
    assert agree(space)
    assert not torch.equal(choices_in(space)[0]["k7e6"].conv_dw.weight, before["blocks.1.0.k7e6.conv_dw.weight"])


def test_the_child_of_dsnas_trains_on_with_what_all_have_learned():
    """The others leave, the largest among them perhaps, whose memory the chosen one looks at."""
    space = space_of()
    strategy = DSNAS(warmup_epochs=1, search_epochs=1, fix_gap=1.0)
    module = trained(strategy, space, epochs=3)
    chosen = module.export()
    network = space.freeze(chosen)
    own = {id(p) for p in network.parameters()}
    assert {id(p) for group in module.trainer.optimizers[0].param_groups for p in group["params"]} == own
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    before = copy.deepcopy(network.state_dict())
    network.train()(torch.randn(4, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_a_supernet_on_disk_comes_back_as_it_was(tmp_path):
    space = space_of()
    disturb(space)
    write_weights(tmp_path / "supernet.safetensors", space.state_dict())
    again = space_of(aligned_init=False)
    again.load_state_dict(load_weights(tmp_path / "supernet.safetensors"))
    assert agree(again)
    assert all(torch.equal(tensor, space.state_dict()[name]) for name, tensor in again.state_dict().items())


class Stopped(Exception):
    """In the place of a kill, at a certain batch."""


def test_a_search_that_was_stopped_ends_with_the_same_weights(tmp_path, monkeypatch):
    def search(folder: str):
        arguments = {"warmup_epochs": 1, "arc_update_every": 2, "checkpoint_every": 2}
        return trained(ProxylessNAS(checkpoint_dir=str(tmp_path / folder), **arguments), space_of())

    expected = search("whole").model.state_dict()
    step, done = ProxylessModule.search_step, 0

    def until(self: ProxylessModule, batch: object, batch_idx: int):
        nonlocal done
        done += 1
        if done == 8:
            raise Stopped
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(ProxylessModule, "search_step", until)
        with pytest.raises(Stopped):
            search("stopped")
    module = search("stopped")
    assert agree(module.model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in module.model.state_dict().items())
