"""Arrows point one way: latency knows nothing of the strategies, the spaces or the command."""

from __future__ import annotations

import subprocess
import sys

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


def modules_above(imported: str) -> list[str]:
    """Our modules above ``latency`` that a fresh process has loaded after ``import imported``."""
    code = (
        f"import sys, {imported}; "
        f"above = tuple('nni_proxyless.' + name for name in {ABOVE!r}); "
        "print('LOADED', *sorted(n for n in sys.modules if n in above or n.startswith(tuple(a + '.' for a in above))))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    return line.split()[1:]


def test_latency_comes_alone():
    """Who only wants a table of his device loads no strategy, no search space and no command with it."""
    assert modules_above("nni_proxyless.latency") == []


def test_the_check_above_can_fail():
    """The same look at a process that did import a strategy and a space finds them, by their full names."""
    found = modules_above("nni_proxyless.strategies, nni_proxyless.search_spaces")
    assert "nni_proxyless.strategies.proxyless" in found
    assert "nni_proxyless.strategies.dsnas" in found
    assert "nni_proxyless.search_spaces.mobilenetv2" in found


def import_without(imported: str, *blocked: str) -> subprocess.CompletedProcess[str]:
    """Import in a fresh process, in which the packages ``blocked`` are not to be had."""
    code = f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); import {imported}; print('DONE')"
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)


NOT_FOR_DEPLOYMENT = ("nni", "pytorch_lightning", "sklearn", "scipy", "pydantic", "matplotlib")


def test_timm_s_models_come_without_nni():
    """Who only deploys a net, or trains it with timm's train.py, needs torch, timm and safetensors."""
    done = import_without("nni_proxyless.timm_models", *NOT_FOR_DEPLOYMENT)
    assert (done.returncode, done.stdout) == (0, "DONE\n"), done.stderr


def test_that_check_can_fail():
    """The same look at a module that does need NNI."""
    done = import_without("nni_proxyless.derive", *NOT_FOR_DEPLOYMENT)
    assert done.returncode == 1
    assert "No module named 'nni.nas'" in done.stderr
