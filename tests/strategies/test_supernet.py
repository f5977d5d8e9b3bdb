"""The sampled supernet: what its gates draw and keep, what runs, and what is refused by name."""

from __future__ import annotations

import copy

import pytest
import torch
from nni.mutable import CategoricalMultiple
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, Repeat
from nni_proxyless.strategies import ProxylessNAS
from nni_proxyless.strategies.supernet.frozen import gradients_off
from nni_proxyless.strategies.supernet.gate import Gate, probs_of, sample_paths
from nni_proxyless.strategies.supernet.layers import choices_of, remove_unused_candidates
from torch import Tensor, nn

from nni_proxyless.core.batch_norm import batch_norm_statistics_kept

from .kinds import Nested, SharedLabel
from .spaces import WIDTH, OneChoice, features, supernet


def test_a_gate_without_a_sampled_path_runs_the_most_probable_candidate():
    """Between steps the supernet is its own argmax, the first one among equals."""
    net, gates = supernet(OneChoice(4))
    gate, x = gates["choice"], features()

    def plain(k: int) -> Tensor:
        return net.last(net.choice[k](net.before(x)))

    gate.alpha.data = torch.tensor([0.0, 2.0, 2.0, 1.0], dtype=torch.float64)
    assert torch.equal(net(x), plain(1))
    gate.open(3)
    assert torch.equal(net(x), plain(3))
    gate.reset()
    assert torch.equal(net(x), plain(1))


def test_a_removed_candidate_says_which_choice_was_fixed_to_what():
    net, gates = supernet(OneChoice(4))
    gates["choice"].fix(2)
    remove_unused_candidates(net)
    assert torch.equal(net(features()), net.last(net.choice[2](net.before(features()))))
    with pytest.raises(RuntimeError, match=r"candidate was removed: choice 'choice' is fixed to '?2'?"):
        net.choice[1](features())


def test_a_supernet_can_be_copied():
    """A deep copy has gates and weights of its own, keeps layers of one label on one gate, and gives the same output."""
    net, gates = supernet(SharedLabel())
    copied = copy.deepcopy(net)
    assert copied.first.gate is copied.second.gate is not gates["both"]
    assert torch.equal(copied(features()), net(features()))
    copied.first.gate.alpha.data = -copied.first.gate.alpha.data
    assert copied.first.gate.most_probable() != gates["both"].most_probable()
    assert not torch.equal(copied(features()), net(features()))


def test_a_supernet_keeps_the_names_of_the_space():
    """``state_dict`` of the supernet is that of the space: no gate, no wrapper in a name."""
    assert list(supernet(OneChoice(3))[0].state_dict()) == list(OneChoice(3).state_dict())
    assert not any("alpha" in name for name, _ in supernet(OneChoice(3))[0].named_parameters())


@pytest.mark.parametrize(
    ("size_bias", "expected"), [(0.0, [1, 2, 7]), (1.0, [1 * 2, 2 * 2, 7 * 6]), (0.5, [2**0.5, 2 * 2**0.5, 7 * 6**0.5])]
)
def test_a_path_is_drawn_from_the_probabilities_and_sizes(size_bias, expected):
    """In proportion to p_j s_j^size_bias, within 5 standard errors each (3 * 6e-7 if the seed were not fixed); a skip, the first
    here, counts as the smallest that has weights."""
    gate = Gate("g", ["skip", "b", "c"], torch.tensor([0.1, 0.2, 0.7]).log(), torch.Generator().manual_seed(0))
    gate.add_layer({0}, [0, 2, 6])
    q = torch.tensor(expected) / sum(expected)
    n = 5000
    counts = torch.bincount(torch.tensor([gate.sample_path(size_bias) for _ in range(n)]), minlength=3)
    assert ((counts / n - q).abs() < 5 * (q * (1 - q) / n).sqrt()).all()


def test_a_gate_without_sizes_and_one_with_a_choice_made_draw_as_they_are():
    same = [Gate("g", [1, 2, 3], torch.zeros(3), torch.Generator().manual_seed(0)) for _ in range(2)]
    assert [same[0].sample_path(1.0) for _ in range(50)] == [same[1].sample_path() for _ in range(50)]
    same[0].add_layer(set(), [1, 1, 1000])
    same[0].fix(0)
    assert {same[0].sample_path(1.0) for _ in range(50)} == {0}


@pytest.mark.parametrize("size_bias", [0.0, 1.0])
def test_paths_that_are_drawn_together_are_those_drawn_one_by_one(size_bias):
    """Also of gates with other numbers of choices, and with a choice made."""

    def gates() -> list[Gate]:
        generator, found = torch.Generator().manual_seed(0), []
        for i, n in enumerate((7, 2, 7, 3, 7)):
            found.append(Gate(f"g{i}", range(n), torch.randn(n, generator=generator), generator))
            found[-1].add_layer({0}, [0, *range(1, n)])
        found[2].fix(4)
        return found

    together, alone = gates(), gates()
    for _ in range(50):
        path = [gate.sample_path(size_bias) for gate in alone]
        assert list(sample_paths(together, size_bias).items()) == list(zip(together, path, strict=True))
        assert [gate.active for gate in together] == path
    assert list(probs_of(together)) == together, "pairs are drawn in this order"


def test_sizes_are_numbers_of_weights():
    """Of all layers of a label, of all blocks of a depth, with everything that lies inside; what has no weights has size 0."""
    one = WIDTH * WIDTH + WIDTH  # a linear layer
    norm = 2 * WIDTH
    assert supernet(OneChoice(3, skip=True))[1]["choice"].sizes == [one, one, 0]
    assert supernet(SharedLabel())[1]["both"].sizes == [2 * one, 2 * (one + norm)]
    outer = supernet(Nested())[1]["outer"]
    assert outer.sizes == [one + norm, 2 * one + norm, 3 * one + norm]
    assert copy.deepcopy(outer).sizes == outer.sizes

    class Depth(ModelSpace):
        def __init__(self):
            super().__init__()
            self.repeat = Repeat(lambda i: nn.Linear(WIDTH, WIDTH, bias=i > 0), (0, 2), label="depth")
            self.inputs = InputChoice(2, 1, label="inputs")

        def forward(self, x: Tensor) -> Tensor:
            return self.inputs([x, self.repeat(x)])

    gates = supernet(Depth())[1]
    assert gates["depth"].sizes == [0, WIDTH**2, WIDTH**2 + one]
    assert gates["inputs"].sizes == [0, 0]


# -- what an architecture step leaves alone ----------------------------------------------------------------------------


def test_gradients_are_off_inside_and_as_before_afterwards():
    """Parameters that had been frozen stay frozen, and an error inside restores all the same."""
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(False)
    with pytest.raises(ZeroDivisionError), gradients_off(list(layer.parameters())):  # noqa: PT012  (looks, then fails)
        assert not layer.weight.requires_grad
        raise ZeroDivisionError
    assert layer.weight.requires_grad
    assert not layer.bias.requires_grad


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_normalises_by_the_batch_and_forgets_it(momentum):
    """Output as in training mode; running mean, variance and count bitwise as before, also of a cumulative average."""
    norm = nn.BatchNorm1d(WIDTH, momentum=momentum).double()
    norm(features(4))
    before = copy.deepcopy(norm.state_dict())
    with batch_norm_statistics_kept([nn.ReLU(), norm]):
        y = norm(features(7) * 3 + 1)
    torch.testing.assert_close(y.mean(dim=0), torch.zeros(WIDTH, dtype=torch.float64), rtol=0, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    norm(features(7))
    assert not torch.equal(norm.running_mean, before["running_mean"]), "tracking is on again"


# -- refused by name ---------------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """Returns no tensor, one, or two."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> str | list[Tensor]:
        return [x * i for i in range(1, self.n + 1)] if self.n else "nothing"


class Returning(ModelSpace):
    """Two candidates that return so many tensors."""

    def __init__(self, first: int, second: int):
        super().__init__()
        self.choice = LayerChoice([Odd(first), Odd(second)], label="odd")

    def forward(self, x: Tensor) -> Tensor:
        y = self.choice(x)
        return x if y == "nothing" else sum(y)


def test_candidates_that_return_no_tensor_are_refused_in_an_architecture_step_only():
    """Such candidates train as usual; where a gate needs a gradient, the message names choice, candidate and output."""
    net, gates = supernet(Returning(0, 0))
    assert torch.equal(net(features()), features())
    gates["odd"].open(1, (0, 1), gates["odd"].probs())
    with pytest.raises(TypeError, match="choice 'odd': candidate 1 returns no tensor: 'nothing'"):
        net(features())


def test_candidates_that_return_different_numbers_of_tensors_are_refused():
    """dL/dy has one tensor per output of the active candidate, so the others must have as many."""
    net, gates = supernet(Returning(1, 2))
    gates["odd"].open(0, (0, 1), gates["odd"].probs())
    y = net(features())
    with pytest.raises(RuntimeError, match="candidates return 2 tensors and 1 tensors; they must agree"):
        y.sum().backward()


def test_the_largest_number_of_input_sets_is_accepted():
    """2^8 - 1 = 255 sets of eight inputs, and C(10, 5) = 252, are below the limit of 256."""
    assert len(choices_of("i", CategoricalMultiple(range(8), label="i"))) == 255
    assert len(choices_of("i", CategoricalMultiple(range(10), n_chosen=5, label="i"))) == 252


def test_a_space_without_choices_is_refused():
    class Fixed(ModelSpace):
        pass

    with pytest.raises(ValueError, match="Fixed has no choice: nothing to search"):
        ProxylessNAS().mutate_model(Fixed())


def test_logits_must_fit_the_choices():
    with pytest.raises(ValueError, match=r"gate 'g': 2 choices need alpha of shape \(2,\), not \(3,\)"):
        Gate("g", ["a", "b"], torch.zeros(3), torch.Generator())
