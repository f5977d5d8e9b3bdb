"""Evolution by the verdicts of a supernet: the command in its smallest form."""

from __future__ import annotations

import json

from experiments.benchmarks.evolution_supernet import run as study


def test_the_short_form(tmp_path, capsys, monkeypatch):
    """Every method has the same number of verdicts, of networks within the bound; a second time nothing is judged again."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "result.json"
    words = ["--short", "--folder", str(tmp_path / "made"), "--output", str(file)]
    assert study.main([*words, "--picture", str(tmp_path / "drawn.svg")]) == 0
    first = json.loads(file.read_text())
    assert (tmp_path / "drawn.svg").exists()
    (one,) = first["supernets"]
    assert set(one["methods"]) == set(study.BOUNDED)
    for of in one["methods"].values():
        for figure in ("hypervolume", "true_hypervolume"):
            assert all(0 <= share <= 1 for share in of[figure])
            assert figure == "true_hypervolume" or of[figure] == sorted(of[figure])
    assert 24 < one["judged"] <= 24 * len(study.BOUNDED)
    assert one["seconds_a_verdict"] > 0
    said = capsys.readouterr().out
    assert "Share of the hypervolume of all networks judged" in said

    assert study.main(words) == 0
    again = json.loads(file.read_text())["supernets"][0]
    assert again["seconds_a_verdict"] is None
    assert again["methods"] == one["methods"]
