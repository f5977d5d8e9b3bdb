"""Paths and losses of weight steps: what is kept, what comes through a checkpoint, and what a search hands on."""

from __future__ import annotations

import pytest
import torch
from nni_proxyless.strategies.oneshot import path_losses
from nni_proxyless.strategies.oneshot.path_losses import PathLosses
from nni_proxyless.strategies.supernet.gate import Gate


def gates(n: int = 3) -> list[Gate]:
    generator = torch.Generator().manual_seed(0)
    choices = ["skip", "k3", "k5", *map(str, range(3, n))]
    return [Gate(label, choices, torch.zeros(n), generator) for label in ("a", "b")]


def filled(n: int) -> PathLosses:
    of = PathLosses(gates())
    for i in range(n):
        of.add({of.gates[0]: i % 3, of.gates[1]: 2}, torch.tensor(float(i), requires_grad=True))
    return of


def test_the_later_half_of_all_steps_counts():
    paths, losses = filled(7).later_half()
    assert losses == [4.0, 5.0, 6.0]
    assert paths == [{"a": "k3", "b": "k5"}, {"a": "k5", "b": "k5"}, {"a": "skip", "b": "k5"}]
    assert PathLosses(gates()).later_half() == ([], [])
    assert filled(1).later_half() == ([], [])


def test_no_more_is_kept_than_memory_allows(monkeypatch):
    monkeypatch.setattr(path_losses, "KEPT", 4)
    of = filled(20)
    assert of.later_half()[1] == [16.0, 17.0, 18.0, 19.0]
    assert of.steps == 20


def test_a_checkpoint_holds_them():
    of, other = filled(7), PathLosses(gates())
    other.load_state(of.state())
    for one in (of, other):
        one.add(dict.fromkeys(one.gates, 0), torch.tensor(7.0))
    assert other.later_half() == of.later_half()
    earlier = {**of.state(), "paths": of.state()["paths"].to(torch.int16)}  # as versions before this one wrote it
    other.load_state(earlier)
    assert other.later_half() == of.later_half()
    assert torch.equal(other.state()["paths"], of.state()["paths"])
    empty = PathLosses(gates())
    empty.load_state(PathLosses(gates()).state())
    assert empty.later_half() == ([], [])


@pytest.mark.parametrize(("n", "size"), [(256, 1), (257, 2)])
def test_a_path_takes_a_byte_for_each_choice_where_that_is_enough(n, size):
    of = PathLosses(gates(n))
    for _ in range(2):
        of.add(dict.fromkeys(of.gates, n - 1), torch.tensor(0.0))
    state = of.state()
    assert state["paths"].element_size() == size
    other = PathLosses(gates(n))
    other.load_state(state)
    assert other.later_half() == of.later_half() == ([{"a": str(n - 1), "b": str(n - 1)}], [0.0])
