"""Judging after every epoch: nothing is counted twice."""

from __future__ import annotations

from torch import nn

from nni_proxyless.search import monitor


def test_a_network_is_counted_when_it_has_become_another_one(monkeypatch):
    counted, count = [], monitor.count_macs
    monkeypatch.setattr(monitor, "count_macs", lambda *given: counted.append(given) or count(*given))
    judge = monitor.DerivedNetworkMonitor(
        profiler=None, input_shape=(3,), calibration=None, validation=None, report=lambda *of: None
    )
    found = []
    for width in (4, 4, 5, 4):
        judge.sample = {"width": width}
        found.append(judge._sizes(nn.Linear(3, width)))
    assert found == [{"macs": 3.0 * w, "n_params": 4.0 * w} for w in (4, 4, 5, 4)]
    assert len(counted) == 3
