"""The house: which room may import which, and the one file that knows what NNI does not promise."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nni_proxyless.core import nni_compat

from .conftest import ROOT

ROOMS = ("nni_proxyless", "strategies", "search_spaces")
COMPAT = ROOT / "nni_proxyless" / "core" / "nni_compat.py"
# Private attributes of NNI and Lightning that this package once read or wrote.
PRIVATE = re.compile(r"\._(dry_run\w*|batches_that_stepped|check_rest_server)\b|\bnni\.trial\._")


def sources() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """The package as it is installed: all rooms in one folder."""
    only = shutil.ignore_patterns("__pycache__", "*.html", "*.css")
    shutil.copytree(ROOT / "nni_proxyless", tmp_path / "nni_proxyless", ignore=only)
    for room in ROOMS[1:]:
        shutil.copytree(ROOT / room, tmp_path / "nni_proxyless" / room, ignore=only)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(house: Path) -> subprocess.CompletedProcess[str]:
    """``lint-imports`` in that folder; -S and PYTHONPATH: of two packages of one name, the one in this folder."""
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    words = [sys.executable, "-c", code, "--no-cache"]
    return subprocess.run(words, cwd=house, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(house)})


def test_no_import_goes_up(house):
    done = lint(house)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("core/errors.py", "from ..latency import digits", "core is not allowed to import nni_proxyless.latency"),
        ("training/loop.py", "from ..search import costs", "training is not allowed to import nni_proxyless.search"),
        ("strategies/dsnas.py", "from ..config import registry", "strategies is not allowed to import nni_proxyless.config"),
        ("strategies/supernet/gate.py", "from ..oneshot import data", "supernet is not allowed to import"),
    ],
)  # fmt: skip
def test_an_import_that_goes_up_is_found(house, file, line, broken):
    with (house / "nni_proxyless" / file).open("a") as source:
        source.write(f"\n{line}\n")
    done = lint(house)
    assert done.returncode == 1, done.stdout + done.stderr
    assert broken in done.stdout


def imports_of_nni(path: Path) -> Iterator[str]:
    """Modules of NNI that a file imports, or imports from."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


def test_what_nni_does_not_promise_is_known_to_one_file():
    for path in sources():
        if path == COMPAT:
            continue
        found = [name for name in imports_of_nni(path) if name.split(".")[0] == "nni"]
        assert [name for name in found if name not in nni_compat.PUBLIC] == [], path
        assert PRIVATE.findall(path.read_text(encoding="utf-8")) == [], path


def test_private_names_of_lightning_are_known_to_one_file():
    private = re.compile(
        r"(?:pytorch_lightning|lightning_fabric)(?:\.\w+)*\._\w+|from (?:pytorch_)?lightning\S* import _"
    )
    for path in sources():
        if path != COMPAT:
            assert private.findall(path.read_text(encoding="utf-8")) == [], path


def test_names_for_type_checkers_are_those_that_are_imported():
    """Both lists of nni_compat.py say the same, and every name is there in NNI."""
    tree = ast.parse(COMPAT.read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        (node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert typed == {(module, name) for module, names in nni_compat._HOMES.items() for name in names}
    for module, name in typed:
        if module != "nni.nas.profiler.pytorch.nn_meter":  # needs nn-Meter, which most do without
            getattr(nni_compat, name)
    with pytest.raises(AttributeError, match="has no attribute 'NoSuchName'"):
        nni_compat.NoSuchName  # noqa: B018
