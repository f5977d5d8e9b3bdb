"""No command waits for packages that it does not use: counted in modules, since seconds are the machine's."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import ROOT
from .test_imports import printed

HEAVY = (
    "torch", "torchvision", "torchmetrics", "pytorch_lightning", "timm", "nni", "scipy", "sklearn", "matplotlib", "numpy", "pandas",
    "requests", "onnx", "tensorboard", "jinja2",
)  # fmt: skip
SEARCH, TRAIN, EXPERIMENT, PEERS = (
    str(ROOT / "experiments" / name) for name in ("search.yml", "train.yml", "proxyless.yml", "peers.yml")
)

# One after the other in one process: what an earlier one has loaded, a later one has too.
QUICK = [
    (0, "--version"),
    (0, "search --help"),
    (0, "init new"),
    (0, "init dsnas --strategy dsnas --data cifar10 --target 3 60%"),
    (2, "init new"),
    (2, "init other --data digit"),
    (0, f"check {SEARCH} {TRAIN} new/search.yml dsnas/search.yml"),
    (0, f"check {Path(PEERS).with_name('search_peers.yml')}"),
    (2, f"check {SEARCH} strategy.name=nni-gumbel-darts strategy.temperature=[1,2]"),
    (2, f"check {SEARCH} data.imagesize=3"),
    (2, "search none.yml"),
    (2, f"search {SEARCH} nonsense=1"),
    (2, f"search {SEARCH} strategy.nonsense=1 strategy.update=thre space.widths=16 latency.estimator.threds=1"),
    (2, f"search {SEARCH} strategy.warmup_epochs=-1 space.kernels=[4]"),
    (2, "search --resume empty"),
    (2, "train empty/architecture.json nonsense=1"),
    (2, "train empty/architecture.json"),
    (2, "train --resume empty"),
    (2, "derive empty --budget-ms 2"),
    (2, "derive empty --front 3"),
    (2, "derive empty --budget-ms 2 --judge 3"),
    (2, "report empty"),
    (2, "report empty --front x.pdf"),
    (2, "draw empty"),
    (2, "export empty/architecture.json"),
    (2, "reference empty"),
    (2, "latency build --space mobilenetv2 presett=small --output table.yaml"),
    (2, "latency export --space mobilenetv3 --output folder"),
    (2, "latency check none.yaml"),
    (2, "latency predict none.yaml --output new.yaml"),
    (2, "fetch nothing"),
]  # fmt: skip
CHILD = """
import contextlib, io, sys
from nni_proxyless.cli import main as cli
before = set()
for words in sys.stdin.read().splitlines():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            code = cli.main(words.split())
        except SystemExit as end:
            code = end.code or 0
    heavy = {name for name in %r if name in sys.modules}
    print(code, *sorted(heavy - before))
    before = heavy
"""


@pytest.fixture
def after(tmp_path, monkeypatch):
    """Exit codes of commands, and what each has loaded that those before it had not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()

    def run(*lines: str) -> list[tuple[int, set[str]]]:
        said = [line.split() for line in printed(CHILD % (HEAVY,), given="\n".join(lines))]
        return [(int(code), set(loaded)) for code, *loaded in said]

    return run


def test_what_writes_two_files_or_refuses_imports_none_of_them(after):
    found = after(*(words for _, words in QUICK))
    said = [(words, *one) for (_, words), one in zip(QUICK, found, strict=True)]
    assert said == [(words, code, set()) for code, words in QUICK]


def test_an_experiment_is_checked_with_nni_and_without_torch(after):
    (code, loaded), (of_peers, more) = after(f"check {EXPERIMENT}", f"check {PEERS}")
    assert (code, of_peers, more) == (0, 0, set())
    assert "nni" in loaded, "else the look finds nothing"
    assert not loaded & {
        "torch",
        "torchvision",
        "torchmetrics",
        "pytorch_lightning",
        "timm",
        "sklearn",
        "matplotlib",
        "onnx",
    }
