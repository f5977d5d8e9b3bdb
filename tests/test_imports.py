"""Arrows point one way: latency knows nothing of the strategies, the spaces or the command. And no command waits for packages
that it does not use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from .conftest import ROOT

ABOVE = (
    "strategies",
    "search_spaces",
    "search",
    "cli",
    "trial",
    "derive",
    "evaluator",
    "training",
    "registry",
    "__main__",
)


def printed(code: str, *words: str | Path, given: str = "") -> list[str]:
    """What a fresh process prints by this code; commands in it may print as well. ``given``: its standard input."""
    started = [sys.executable, "-W", "ignore", "-c", code, *map(str, words)]
    done = subprocess.run(started, input=given, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_latency_comes_alone():
    """Who only wants a table of his device loads no strategy, no search space and no command with it; and the look at this
    finds them, by their full names, once they were imported."""
    first, second = printed(
        "import sys\n"
        f"above = tuple('nni_proxyless.' + name for name in {ABOVE!r})\n"
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
    blocked = ("nni", "pytorch_lightning", "sklearn", "scipy", "pydantic", "matplotlib")
    said = printed(
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}))\n"
        "import nni_proxyless.timm_models\n"
        "print('imported')\n"
        "try:\n"
        "    import nni_proxyless.search.evaluator\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error.name)"
    )
    assert said == ["imported", "nni.nas"]


# -- what a command waits for ------------------------------------------------------------------------------------------

OF_NNI = ("nni", "pytorch_lightning", "torchmetrics", "scipy")
OTHERS = ("torch", "timm", "sklearn", "matplotlib", "onnx", "onnxruntime", "onnxscript", "tensorboard")
LOOK = f"print('LOADED', *[name for name in {OF_NNI + OTHERS!r} if name in sys.modules])\n"


def loaded(code: str, *words: str | Path) -> list[set[str]]:
    """Which of these packages were there at each ``LOOK`` of a fresh process."""
    lines = printed("import sys\nfrom nni_proxyless.cli import main as cli\n" + code, *words)
    return [set(line.split()[1:]) for line in lines if line.startswith("LOADED")]


def test_commands_do_not_wait_for_what_they_do_not_use(tmp_path):
    """``--help`` and a file that is not there for none of them; ``draw``, ``train`` and ``report`` on nets of timm, and what ``export`` imports, not for NNI,
    which takes as long as torch; ``search`` neither for scikit-learn, where the images are others, nor for ONNX."""
    content = json.loads((ROOT / "experiments" / "digits_architecture.json").read_text(encoding="utf-8"))
    shape = {"n_images": 16, "channels": 1, "image_size": content["input_shape"][1]}
    content["data"] = {"name": "synthetic", "arguments": shape}  # the digits are scikit-learn's
    path = tmp_path / "run" / "architecture.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content), encoding="utf-8")
    parser, mistake, train, draw, report, export, search = loaded(
        "net, folder = sys.argv[1:]\n"
        "cli._parser()\n"
        + LOOK
        + "assert cli.main(['search', 'none.yml']) == 2\n"
        + LOOK
        + "assert cli.main(['train', net, 'weights=scratch', 'epochs=1', 'device=cpu']) == 0\n"
        + LOOK
        + "assert cli.main(['draw', net]) == 0\n"
        + LOOK
        + "assert cli.main(['report', folder]) == 0\n"
        + LOOK
        + "import nni_proxyless.models.export.export\n"
        + LOOK
        + "import nni_proxyless.search.run\n"
        + LOOK,
        path,
        path.parent,
    )
    assert parser == mistake == set()
    assert "matplotlib" not in train
    for found in (train, draw, report, export):
        assert {"torch", "timm"} <= found
        assert not found & {*OF_NNI, "sklearn", "onnx", "onnxruntime", "onnxscript"}
    assert set(OF_NNI) <= search, "else the look finds nothing"
    assert not search & {"sklearn", "onnx", "onnxruntime", "onnxscript"}
