"""Who uses a part of this package loads no more than that: counted in modules, since seconds are the machine's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

OF_NNI = {"nni", "pytorch_lightning", "torchmetrics", "scipy"}
OF_OTHERS = {"sklearn", "onnx", "onnxruntime", "onnxscript"}
HEAVY = {*OF_NNI, *OF_OTHERS, "torch", "torchvision", "timm", "matplotlib", "numpy", "pandas", "requests", "tensorboard", "jinja2"}  # fmt: skip


def printed(code: str, *words: str | Path, given: str = "") -> list[str]:
    """What a fresh process prints by this code; commands in it may print as well. ``given``: its standard input."""
    started = [sys.executable, "-W", "ignore", "-c", code, *map(str, words)]
    done = subprocess.run(started, input=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_latency_comes_alone():
    """Who only wants a table of his device loads no strategy, no search space and no command with it; and the look at this
    finds them, by their full names, once they were imported."""
    above = ("strategies", "search_spaces", "search", "cli", "derive", "training", "config", "models", "data", "report")
    first, second = printed(
        "import sys\n"
        f"above = tuple('nni_proxyless.' + name for name in {above!r})\n"
        "def look():\n"
        "    print(*sorted(n for n in sys.modules if n in above or n.startswith(tuple(a + '.' for a in above))))\n"
        "from nni_proxyless.latency import *\n"  # a name is imported when it is asked for
        "look()\n"
        "import nni_proxyless.strategies.estimators, nni_proxyless.search_spaces, nni_proxyless.cli.main\n"
        "look()"
    )
    assert first == ""
    for module in ("strategies", "strategies.estimators", "search_spaces", "cli.main"):
        assert f"nni_proxyless.{module}" in second.split()


def test_timm_s_models_come_without_nni():
    """Who only deploys a net, or trains it with timm's train.py, needs torch, timm and safetensors; and a module that does
    need NNI does not import there."""
    said = printed(
        "import sys\n"
        "blocked = ('nni', 'pytorch_lightning', 'sklearn', 'scipy', 'pydantic', 'matplotlib')\n"
        "sys.modules.update(dict.fromkeys(blocked))\n"
        "import nni_proxyless.timm_models\n"
        "print('imported')\n"
        "try:\n"
        "    import nni_proxyless.search.evaluator\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error.name)"
    )
    assert said == ["imported", "nni.nas"]


def test_commands_that_compute_do_not_wait_for_what_they_do_not_use(tmp_path):
    """``draw``, ``train`` and ``report`` on nets of timm, and what ``export`` imports, not for NNI, which takes as long as torch;
    ``search`` neither for scikit-learn, where the images are others, nor for ONNX."""
    content = json.loads((ROOT / "experiments" / "digits_architecture.json").read_text(encoding="utf-8"))
    shape = {"n_images": 16, "channels": 1, "image_size": content["input_shape"][1]}
    content["data"] = {"name": "synthetic", "arguments": shape}  # the digits are scikit-learn's
    net = tmp_path / "run" / "architecture.json"
    net.parent.mkdir()
    net.write_text(json.dumps(content), encoding="utf-8")
    steps = (
        "assert cli.main(['train', net, 'weights=scratch', 'epochs=1', 'device=cpu']) == 0",
        "assert cli.main(['draw', net]) == 0",
        "assert cli.main(['report', folder]) == 0",
        "import nni_proxyless.models.export.export",
        "import nni_proxyless.search.run",
    )
    look = f"print('LOADED', *{HEAVY!r} & sys.modules.keys())"
    code = "import sys\nfrom nni_proxyless.cli import main as cli\nnet, folder = sys.argv[1:]\n"
    lines = printed(code + "".join(f"{step}\n{look}\n" for step in steps), net, net.parent)
    *found, search = ({*line.split()[1:]} for line in lines if line.startswith("LOADED"))
    assert len(found) == 4
    assert "matplotlib" not in found[0]
    for loaded in found:
        assert {"torch", "timm"} <= loaded
        assert not loaded & (OF_NNI | OF_OTHERS)
    assert search >= OF_NNI, "else the look finds nothing"
    assert not search & OF_OTHERS


SEARCH, TRAIN, EXPERIMENT, PEERS = (
    str(ROOT / "experiments" / name) for name in ("search.yml", "train.yml", "proxyless.yml", "peers.yml")
)

# One after the other in one process: what an earlier one has loaded, a later one has too.
QUICK = [
    (0, "--version"),
    (0, "search --help"),
    (2, "watch nothing"),
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
    (2, "space none.yml"),
    (2, "space space.nonsense=1"),
    (2, "latency build --space mobilenetv2 presett=small --output table.yaml"),
    (2, "latency export --space mobilenetv4 --output folder"),
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
        said = [line.split() for line in printed(CHILD % (sorted(HEAVY),), given="\n".join(lines))]
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
