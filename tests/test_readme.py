"""The README is short; the Python of the reference pages runs as it stands there."""

from __future__ import annotations

import re

from nni_proxyless.cli.main import main

from .forked import fork


def test_the_python_examples_run(pytestconfig, tmp_path, monkeypatch):
    pages = [pytestconfig.rootpath / "docs" / "reference" / name for name in ("python_api.md", "result_files.md")]
    (search,), (load,) = (re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL) for page in pages)
    names: dict = {"__name__": "__main__"}
    assert "DeviceEstimator())" in search
    search = search.replace("DeviceEstimator())", "DeviceEstimator(warmup=1, repeats=5), networks=12)")
    done = fork(exec, search, names, cwd=tmp_path, said=tmp_path / "said", HOME=str(tmp_path))
    done.join()
    assert done.exitcode == 0, (tmp_path / "said").read_text()
    assert "'stage1.0': 'k" in (tmp_path / "said").read_text()

    # A command without a file: the embedded digits.
    monkeypatch.chdir(tmp_path)
    quick = [
        "training.epochs=1",
        "strategy.warmup_epochs=0",
        "latency.estimator={name: macs}",  # two timings on a busy machine may give a table without sense, which is refused
    ]
    assert main(["search", "output=.", *quick]) == 0
    names = {}
    exec(load, names)
    assert type(names["model"]).__name__ == "EfficientNet"


def test_the_readme_is_short(pytestconfig):
    assert len((pytestconfig.rootpath / "README.md").read_text("utf-8").splitlines()) <= 70


def test_from_the_readme_to_equation_4_in_two_clicks(pytestconfig):
    root = pytestconfig.rootpath
    assert "](docs/methods/proxyless.md)" in (root / "README.md").read_text("utf-8")
    page = (root / "docs" / "methods" / "proxyless.md").read_text("utf-8")
    _, name, link = re.search(r"^## Equation 4$(.*?)\[`(\w+)`\]\((\S+?)\)", page, re.DOTALL | re.MULTILINE).groups()
    assert f"def {name}(" in (root / "docs" / "methods" / link).resolve().read_text("utf-8")
