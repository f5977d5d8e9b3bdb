"""Tests that a mutation hook of your own inherits. Needs pytest, which the package itself does not.

from nni_proxyless.testing import MutationHookContract

class TestMine(MutationHookContract):
    hooks = [MySuperKernel.mutate]

    def make_space(self):
        return MySpace()
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor

from nni_proxyless.strategies import DSNAS
from nni_proxyless.strategies.oneshot.parts import SupernetParts
from nni_proxyless.strategies.supernet.gate import Gate
from nni_proxyless.strategies.supernet.slices import SlicesOfPath

__all__ = ["MutationHookContract"]

PATHS = 10


class MutationHookContract:
    """What the module does that a hook puts in the place of a module with choices.

    Inherit in a class whose name begins with ``Test``, with the hooks and a space that needs them.

    Attributes
    ----------
    hooks
        As for ``mutation_hooks`` of a strategy.
    example_shape
        Of one sample that the space is given.
    """

    hooks: ClassVar[list[Any]] = []
    example_shape: ClassVar[tuple[int, ...]] = (6,)

    def make_space(self) -> ModelSpace:
        """A new space, with a module that the hooks are for."""
        raise NotImplementedError(f"{type(self).__name__} needs a method make_space()")

    def _supernet(self) -> tuple[ModelSpace, dict[str, Gate]]:
        torch.manual_seed(0)
        strategy = DSNAS(mutation_hooks=list(self.hooks))
        supernet = strategy.mutate_model(self.make_space())
        return supernet, strategy._gates

    def _paths(self, gates: dict[str, Gate]) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """Opens random paths; gives each, label -> choice, and samples for it."""
        for _ in range(PATHS):
            for gate in gates.values():
                gate.sample_path()
            yield (
                {label: gate.value(gate.current) for label, gate in gates.items()},
                torch.randn(4, *self.example_shape),
            )

    def test_every_choice_is_asked_for_when_it_runs(self) -> None:
        """Else a strategy would not know that the loss says something about it."""
        supernet, gates = self._supernet()
        asked = set()
        for _, x in self._paths(gates):
            supernet(x)
            asked |= {label for label, gate in gates.items() if gate.ran}
        assert asked == set(gates), f"no module asks for the choice of {sorted(set(gates) - asked)}: Gate.take()"

    def test_a_derived_network_computes_what_its_path_of_the_supernet_does(self) -> None:
        """In evaluation mode, with statistics that have moved; no logits and no super-kernel are in it."""
        supernet, gates = self._supernet()
        for sample, x in self._paths(gates):
            supernet.train()(x)
            network, expected = supernet.eval().freeze(dict(sample)), supernet(x)
            off = float((network.eval()(x) - expected).detach().abs().max())
            assert off <= 1e-6, f"network {sample}: its output is off by {off}; allowed: 1e-6"
            left = [name for name, module in network.named_modules() if hasattr(module, "gates")]
            assert not left, f"network {sample}: {', '.join(left)} still have gates"

    def test_a_step_moves_no_more_than_the_weights_of_the_network(self) -> None:
        """Under momentum and decay, which move what has a gradient of 0."""
        supernet, gates = self._supernet()
        optimizer = torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        kernels = SupernetParts.of(supernet).super_kernels
        for sample, x in self._paths(gates):
            network = supernet.freeze(dict(sample))
            before = [p.detach().clone() for p in supernet.parameters()]
            optimizer.zero_grad()
            slices = SlicesOfPath(kernels, {gate: gate.current for gate in gates.values()}, optimizer)
            with slices.running():
                supernet(x).square().mean().backward()
            with slices.stepping(optimizer):
                optimizer.step()
            moved = sum(int((p != old).sum()) for p, old in zip(supernet.parameters(), before, strict=True))
            held = sum(p.numel() for p in network.parameters())
            assert moved > 0, f"network {sample}: no weight moves"
            assert moved <= held, f"network {sample}: {moved} weights move; allowed: those of the network, {held}"
