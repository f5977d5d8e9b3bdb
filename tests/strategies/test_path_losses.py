"""Paths and losses of weight steps: what is kept, what comes through a checkpoint, and what a search hands on."""

from __future__ import annotations

import torch
from nni_proxyless.strategies.oneshot import path_losses
from nni_proxyless.strategies.oneshot.path_losses import PathLosses
from nni_proxyless.strategies.supernet.gate import Gate


def gates() -> list[Gate]:
    generator = torch.Generator().manual_seed(0)
    return [Gate(label, ["skip", "k3", "k5"], torch.zeros(3), generator) for label in ("a", "b")]


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
    empty = PathLosses(gates())
    empty.load_state(PathLosses(gates()).state())
    assert empty.later_half() == ([], [])
