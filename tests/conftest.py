"""Settings of every test run."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, run
from sys import executable
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# Several files run at a time, and nobody needs their milliseconds to be true.
os.environ["NNI_PROXYLESS_QUIET_SECONDS"] = "0"

# Real experiments run one after the other, before all other tests where they need a core: NNI's start times out on a machine that
# starts two, or that is busy. While they wait, the others run.
EXPERIMENTS = (
    "test_web_ui", "test_life_cycle", "test_remote", "test_custom_space", "test_experiment", "test_nni_tutorials",
)  # fmt: skip
# What takes longest begins first, or one process would be alone with it in the end.
LONG = (
    "test_search", "test_export", "test_derive_command", "test_exporting", "test_training", "test_torchrun", "test_pipeline_training", "test_pipeline", "test_pipeline_replicas", "test_budget", "test_resume",
    "test_nni_spaces", "test_readme", "test_start_up", "test_processes", "test_dsnas_planted", "test_latency_command", "test_proxyless_search",
    "test_report", "test_penalty", "test_pictures", "test_reference", "test_hub", "test_step_cost", "test_step_cost_spaces", "test_busy",
    "test_units", "test_package", "test_search_of_values", "test_several_costs", "test_search_overhead", "test_calls", "test_cpu_threads", "test_divergence",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which files are given to processes."""
    order = [*EXPERIMENTS, *LONG]
    items.sort(key=lambda item: order.index(item.path.stem) if item.path.stem in order else len(order))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give out whole files, since their tests share searches, and all experiments to one process.

    ``--dist loadgroup``, made for this, does not group at all: what it adds to a test's id, pytest 9 does not look at.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "experiments" if Path(file).stem in EXPERIMENTS else file

    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A process of pytest-xdist that runs other tests than experiments gives way to those, with all that it starts."""
    if "PYTEST_XDIST_WORKER" in os.environ and item.path.stem not in EXPERIMENTS:
        _give_way()


@functools.cache
def _give_way() -> None:
    os.nice(5)


@pytest.fixture(autouse=True)
def _log_is_caught() -> None:
    """``caplog`` listens at the root, and a command that ran in this process has kept this package's log from it."""
    logging.getLogger("nni_proxyless").propagate = True


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """The same arithmetic, and the same load, on every machine; several files run at a time."""
    torch.set_num_threads(1)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home in which NNI keeps this test's experiments, and its list of them.

    For the list, NNI asks for HOME when it is imported. In the user's own, each test would leave entries, and all tests would
    read and write them: seconds for a list that has grown.
    """
    from nni.tools.nnictl.config_utils import Experiments

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Experiments.__init__, "__defaults__", (str(tmp_path / "nni-experiments"),))
    return tmp_path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with code 2, in this process; what it says on stderr."""

    def run_command(*words: object) -> str:
        from nni_proxyless.cli.main import main

        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as error:  # argparse's own
            code = error.code  # type: ignore[assignment]
        said = capsys.readouterr().err
        assert code == 2, said
        return said

    return run_command


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., CompletedProcess[str]]:
    """Runs a command as a user types it, in an empty folder, with this environment's programs on PATH."""

    def type_in(
        *words: str | Path, timeout: float = 300, cwd: Path = tmp_path, **environment: str
    ) -> CompletedProcess[str]:
        path = f"{Path(executable).parent}{os.pathsep}{os.environ['PATH']}"
        # A session of its own, as under a terminal. In init's, where CI runs, whatever a test has stopped gets SIGHUP as soon as
        # another process of its group ends, if their parents have gone to init (setpgid(2), orphaned process groups).
        return run(
            [str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=timeout,
            env={**os.environ, "PATH": path, "PYTHONWARNINGS": "", "OMP_NUM_THREADS": "1", **environment}, stdin=None, check=False,
            start_new_session=True,
        )  # fmt: skip

    return type_in
