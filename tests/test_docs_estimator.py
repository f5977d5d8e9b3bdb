"""``docs/how-to/estimator.md`` as it stands there: its files are written, run, tested and read."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig

from .forked import fork


@pytest.fixture
def page(pytestconfig, tmp_path, monkeypatch) -> dict[str, str]:
    """Language or file name -> code; files are written where the commands run."""
    text = (pytestconfig.rootpath / "docs" / "how-to" / "estimator.md").read_text(encoding="utf-8")
    blocks: dict[str, str] = {}
    for language, code in re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL):
        named = re.match(r"# (\w+\.py)\n", code)
        if named:
            (tmp_path / named[1]).write_text(code)
        name = named[1] if named else language
        assert name not in blocks
        blocks[name] = code
    monkeypatch.syspath_prepend(tmp_path)
    yield blocks
    sys.modules.pop("my_board", None)


def test_the_estimator_of_the_page_works_and_passes_the_contract(page, tmp_path, capsys):
    exec(page["python"], {})
    low, high = map(float, re.fullmatch(r"([\d.]+) to ([\d.]+) ms\n", capsys.readouterr().out).groups())
    assert 0 < low < 1.5 < high, "the target of the page can be met"

    words = ["-q", "-W", "ignore", "-p", "no:cacheprovider", "test_my_board.py"]
    done = fork(pytest.main, words, cwd=tmp_path, said=tmp_path / "said")
    done.join()
    said = (tmp_path / "said").read_text()
    assert done.exitcode == 0, said
    assert re.search(r"1\d passed", said), said


def test_the_configuration_of_the_page_is_valid(page, tmp_path: Path):
    (tmp_path / "search.yml").write_text(page["yaml"])
    config = read_config(SearchConfig, tmp_path / "search.yml")
    assert config.latency.estimator.arguments == {"gbytes_per_s": 2.0}
    assert [cost.label for cost in config.costs] == ["activations", "parameters"]
    assert yaml.safe_load(page["yaml"])["costs"][1]["target"] == 0.3


def test_the_entry_point_of_the_page_names_what_is_there(page):
    group, named = re.fullmatch(r'\[project\.entry-points\."(.+)"\]\n[\w-]+ = "(.+)"\n', page["toml"]).groups()
    assert group == "nni_proxyless.estimators"
    module, _, name = named.partition(":")
    assert hasattr(__import__(module), name)
