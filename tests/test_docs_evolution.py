"""``docs/how-to/evolution.md`` as it stands there: its script, with fewer networks."""

from __future__ import annotations

import json
import re

from .strategies.searches import OF_EXPERIMENTS

pytestmark = OF_EXPERIMENTS


def test_the_script_of_the_page(pytestconfig, home, monkeypatch, capsys):
    page = (pytestconfig.rootpath / "docs" / "how-to" / "evolution.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    fewer = code
    for many, few in (
        ("population_size=10, n_generations=5", "population_size=2, n_generations=1"),
        ("range(2)", "range(1)"),
    ):
        assert many in code
        fewer = fewer.replace(many, few)
    monkeypatch.chdir(home)
    exec(compile(fewer, "evolve.py", "exec"), {"__name__": "__main__"})

    state = json.loads((home / "evolution.json").read_text())
    assert len(state["trials"]) == 2
    assert all(trial["costs"]["macs"] <= 1.6 and trial["costs"]["parameters"] <= 0.06 for trial in state["trials"])
    *front, last = [line for line in capsys.readouterr().out.splitlines() if re.match(r"[\d.]+ (\{|of)", line)]
    assert front[0].startswith(f"{max(trial['metric'] for trial in state['trials']):.3f} {{'macs'")
    assert re.fullmatch(r"\d+ of \d+ random networks were not trained", last)
