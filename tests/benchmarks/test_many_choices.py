"""A space of many choices: what is recorded and said; no time is held to anything here."""

from __future__ import annotations

import json

from experiments.benchmarks.many_choices import report, run


def test_actions_and_steps_are_recorded_with_their_floors(tmp_path, capsys):
    file = tmp_path / "result.json"
    run.main(["--short", "--repeats", "1", "--output", str(file)])
    result = json.loads(file.read_text(encoding="utf-8"))
    assert capsys.readouterr().out == "\n".join(report.markdown(result)) + "\n", (
        "the record alone says all that was said"
    )
    assert (result["choices"], result["settings"]["preset"]) == (72, "small")
    assert {report.COPY, *report.SECONDS} < {a["action"] for a in result["actions"]}
    assert [b["bar"] for b in result["bars"]] == [
        *(f"CPU seconds to {name}" for name in report.SECONDS),
        *(f"{name}, time" for name in report.RATIOS),
    ]
    assert {e["name"] for e in result["narrow"]} == {*run.NARROW_STEPS}
    assert {e["name"] for e in result["entries"]} == {*run.STEPS}
    assert all(e["seconds"] > 0 and e["floor_seconds"] > 0 for e in [*result["narrow"], *result["entries"]])
