"""The README's Python runs as it stands there."""

from __future__ import annotations

import re

from nni_proxyless.cli.main import main

from .forked import fork


def test_the_python_example_runs(pytestconfig, tmp_path, monkeypatch):
    readme = (pytestconfig.rootpath / "README.md").read_text(encoding="utf-8")
    search, load, _ = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)  # the third: test_without_package.py
    names: dict = {"__name__": "__main__"}
    done = fork(exec, search, names, cwd=tmp_path, said=tmp_path / "said", HOME=str(tmp_path))
    done.join()
    assert done.exitcode == 0, (tmp_path / "said").read_text()
    assert "'stage1.0': 'k" in (tmp_path / "said").read_text()

    # A command without a file: the embedded digits.
    monkeypatch.chdir(tmp_path)
    quick = ["training.epochs=1", "latency.estimator.repeats=2", "latency.estimator.warmup=1"]
    assert main(["search", "output=.", *quick]) == 0
    names = {}
    exec(load, names)
    assert type(names["model"]).__name__ == "EfficientNet"


def test_every_file_that_the_readme_links_is_there(pytestconfig):
    readme = (pytestconfig.rootpath / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)]+)\)", readme) if not link.startswith("http")]
    assert links
    for link in links:
        assert (pytestconfig.rootpath / link).exists(), link
