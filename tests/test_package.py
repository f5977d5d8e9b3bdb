"""What is installed, and what a wheel holds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from nni_proxyless.config import registry

from .conftest import ROOT


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def source(tmp_path_factory, pytestconfig):
    """A copy: a build leaves files beside the source."""
    source = tmp_path_factory.mktemp("source") / "project"
    keep = shutil.ignore_patterns(
        ".git", ".venv*", "runs", "build", "dist", "*.egg-info", ".gpu", "__pycache__", ".*_cache"
    )
    shutil.copytree(pytestconfig.rootpath, source, ignore=keep)
    return source


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, source):
    out = tmp_path_factory.mktemp("wheel")
    options = ["--wheel", "--no-isolation", "--skip-dependency-check", "--outdir", str(out)]
    run([sys.executable, "-m", "build", *options, str(source)], source)
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_one_package(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"nni_proxyless"}
    inside = ("py.typed", "cli/main.py", "latency/estimators/device.py", "strategies/proxyless.py", "report/page.html")
    assert {f"nni_proxyless/{name}" for name in (*inside, "search_spaces/mobilenetv2.py")} <= set(names)
    there = {name for name in names if name.startswith("nni_proxyless/experiments/")}
    files = [
        path for pattern in ("*.*", "imagenet/*.*", "recipes/*.*") for path in (ROOT / "experiments").glob(pattern)
    ]
    assert there == {f"nni_proxyless/{path.relative_to(ROOT)}" for path in files}


def test_an_editable_install_shows_no_warning(source, tmp_path):
    """What ``make`` does, as far as setuptools is concerned."""
    code = "from setuptools import build_meta; import sys; build_meta.build_editable(sys.argv[1])"
    built = run([sys.executable, "-c", code, str(tmp_path)], source)
    assert "Warning" not in built.stdout + built.stderr


def test_the_wheel_works_where_the_source_is_not(wheel, tmp_path):
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import warnings; warnings.simplefilter('ignore');"
        "import nni_proxyless.strategies as s, nni_proxyless.search_spaces as p; print(s.__file__, p.MobileNetV2Space('small').num_classes);"
        "import nni.nas.strategy; print(nni.nas.strategy.DARTS.__module__)"
    )
    path, n, module = run([sys.executable, "-c", code, str(target)], tmp_path).stdout.split()
    assert (path, n) == (str(target / "nni_proxyless" / "strategies" / "__init__.py"), "1000")
    # NNI's modules import each other in a circle; entered at the wrong one, ``nni.nas.strategy.DARTS`` is a dummy.
    assert module == "nni.nas.oneshot.pytorch.strategy"


@pytest.mark.parametrize(
    "group", ["strategies", "multi_trial_strategies", "search_spaces", "estimators", "runtimes", "datasets"]
)
def test_every_entry_point_loads(group):
    found = list(entry_points(group=f"nni_proxyless.{group}"))
    assert found
    for entry in found:
        assert callable(registry.load(f"nni_proxyless.{group}", entry.name))


def test_the_command_is_installed_and_is_also_a_module(command):
    assert command("nni-proxyless", "--version").stdout.startswith("nni-proxyless ")
    assert command(sys.executable, "-m", "nni_proxyless", "--version").stdout.startswith("nni-proxyless ")
