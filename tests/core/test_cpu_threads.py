"""How OpenMP's threads wait, and how many there are: found before torch is loaded, and what the user has set stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from nni_proxyless.core import cpu_threads
from nni_proxyless.core.cpu_threads import (
    cgroup_quota,
    environment,
    say_if_other_threads,
    trials_at_a_time,
    usable_cores,
    use,
)
from nni_proxyless.latency.estimators import idle_machine

OMP = (
    "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NNI_PROXYLESS_OMP_NUM_THREADS", "LOCAL_WORLD_SIZE",
    "TORCHELASTIC_RUN_ID", "NNI_PLATFORM", "NNI_TRIAL_COMMAND_CHANNEL",
)  # fmt: skip


@pytest.fixture
def fresh(monkeypatch) -> None:
    """As at the start of a command on a machine of four cores: nothing set, torch not loaded."""
    for name in OMP:
        monkeypatch.setenv(name, "")  # so that it is put back, whatever is set meanwhile
        monkeypatch.delenv(name)
    monkeypatch.setattr(cpu_threads, "_is_too_late", lambda: False)
    monkeypatch.setattr(cpu_threads, "_cores", lambda root=None: 4)
    monkeypatch.setattr(cpu_threads, "cgroup_quota", lambda root=None: None)


def without(*also: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in (*OMP, *also)}


# -- cores ---------------------------------------------------------------------------------------------------------

V1 = "35 25 0:30 {root} /sys/fs/cgroup/{at} rw,nosuid shared:14 - cgroup cgroup rw,{names}\n"
V2 = "31 23 0:28 {root} /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
CPUSET = V1.format(root="/", at="cpuset", names="cpuset")


@pytest.mark.parametrize(
    ("group", "mounts", "files", "quota"),
    [
        ("0::/", V2.format(root="/"), {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/", V2.format(root="/"), {"cpu.max": "max 100000\n"}, None),
        ("0::/", V2.format(root="/"), {}, None),
        # The least of its own and those above it.
        ("0::/a/b", V2.format(root="/"), {"a/b/cpu.max": "400000 100000", "a/cpu.max": "300000 100000"}, 3.0),
        ("0::/a/b", V2.format(root="/"), {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 0.5),
        # A container whose part of the tree is mounted, and one whose part is all that it sees.
        ("0::/docker/4f", V2.format(root="/docker/4f"), {"cpu.max": "200000 100000"}, 2.0),
        ("0::/docker/4f", V2.format(root="/"), {"cpu.max": "200000 100000"}, 2.0),
        ("0::/../../4f", V2.format(root="/../.."), {"cpu.max": "200000 100000"}, 2.0),
        # Version 1, in a hierarchy of its own or with others; the second sets of files are of other controllers.
        ("4:cpu:/", CPUSET + V1.format(root="/", at="cpu", names="cpu"),
         {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
        ("4:cpu,cpuacct:/a\n0::/", V1.format(root="/", at="cpu,cpuacct", names="cpu,cpuacct"),
         {"cpu,cpuacct/a/cpu.cfs_quota_us": "-1", "cpu,cpuacct/a/cpu.cfs_period_us": "100000",
          "cpu,cpuacct/cpu.cfs_quota_us": "100000", "cpu,cpuacct/cpu.cfs_period_us": "50000"}, 2.0),
        ("4:cpuset:/a", CPUSET, {"cpuset/a/cpu.cfs_quota_us": "100000", "cpuset/a/cpu.cfs_period_us": "100000"}, None),
        # What cannot be read limits nothing.
        ("0::/", V2.format(root="/"), {"cpu.max": "nonsense"}, None),
        ("0::/", V2.format(root="/"), {"cpu.max": "100000 0"}, None),
        ("", "a mount without a dash\n", {"cpu.max": "100000 100000"}, None),
    ],
)  # fmt: skip
def test_the_quota_is_the_least_that_control_groups_pay_for(group, mounts, files, quota, tmp_path):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{group}\n")
    (tmp_path / "proc/self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n" + mounts)
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cgroup_quota(tmp_path) == quota
    processors = {0, 1, 2, 3, 4, 5}
    siblings = ["0,3", "1,4", "2,5", "0,3", "1,4", "2,5"]  # three cores of two hardware threads
    for processor in processors:
        path = tmp_path / f"sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
        path.parent.mkdir(parents=True)
        path.write_text(f"{siblings[processor]}\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "sched_getaffinity", lambda pid: processors, raising=False)
        assert usable_cores(tmp_path) == (3 if quota is None else max(1, min(3, int(quota))))
        processors = {0, 3}
        assert usable_cores(tmp_path) == 1


# -- what is set ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "quota", "trials", "expected"),
    [
        ({}, None, 1, {"OMP_WAIT_POLICY": "PASSIVE"}),  # the number is torch's
        ({}, 2.9, 1, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}),
        ({}, 0.5, 1, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}),
        ({}, 64.0, 1, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({}, None, 2, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}),
        ({}, None, 3, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}),
        ({}, None, 9, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}),
        ({"LOCAL_WORLD_SIZE": "2"}, None, 1, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}),
        ({"LOCAL_WORLD_SIZE": "2"}, None, 2, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None, 1, {}),
        ({"OMP_NUM_THREADS": "7"}, 1.0, 2, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_NUM_THREADS": "1"}, 2.0, 1, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"MKL_NUM_THREADS": "3"}, 1.0, 1, {"OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_NUM_THREADS": "", "OMP_WAIT_POLICY": ""}, 2.0, 1, {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}),
        # A trial that was started by a command which may use all cores.
        ({"OMP_NUM_THREADS": "3", "NNI_PROXYLESS_OMP_NUM_THREADS": "3"}, 3.0, 2,
         {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}),
    ],
)  # fmt: skip
def test_threads_wait_passively_and_have_a_core_each_unless_the_user_says_otherwise(
    given, quota, trials, expected, fresh, monkeypatch
):
    monkeypatch.setattr(cpu_threads, "cgroup_quota", lambda root=None: quota)
    monkeypatch.setattr(cpu_threads, "trials_at_a_time", lambda: trials)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = environment()
    assert found.pop("NNI_PROXYLESS_OMP_NUM_THREADS", None) == found.get("OMP_NUM_THREADS")
    assert found == expected
    monkeypatch.undo()
    assert environment() == {}, "torch is loaded: this is somebody else's program"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_one_thread_of_torchrun_is_not_the_users():
    """torchrun sets OMP_NUM_THREADS to 1 for its processes where the user has not set it, and says in nothing that it was itself."""
    printing = "from nni_proxyless.core.cpu_threads import environment; print(environment().get('OMP_NUM_THREADS'), flush=True)"
    like_torchrun = (
        "import os, subprocess, sys\n"
        "os.environ.setdefault('OMP_NUM_THREADS', '1')\n"
        "os.environ.update(LOCAL_WORLD_SIZE='2', TORCHELASTIC_RUN_ID='none')\n"
        f"subprocess.run([sys.executable, '-c', {printing!r}])"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", like_torchrun], env=without() | given, capture_output=True, text=True, timeout=60
        ).stdout.strip()
        for given in ({}, {"OMP_NUM_THREADS": "1"})
    ]
    assert said == [str(max(1, usable_cores() // 2)), "None"]


# What a worker of a loader reports is its environment, and what a process of DDP would.
COMMAND = """
import os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("at torch:", os.environ.get("OMP_WAIT_POLICY"), "torch.nn" in sys.modules)
sys.meta_path.insert(0, Watch())
import nni_proxyless.cli.main
import torch
class Environment(torch.utils.data.Dataset):
    def __len__(self):
        return 1
    def __getitem__(self, index):
        return os.environ["OMP_WAIT_POLICY"]
print("threads:", torch.get_num_threads())
print("worker:", *next(iter(torch.utils.data.DataLoader(Environment(), num_workers=1))))
"""


def test_the_command_line_has_set_them_when_torch_is_loaded():
    """OpenMP itself says with what it was loaded; the loader's worker has it too."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMMAND], capture_output=True, text=True, timeout=300,
        env=without() | {"LOCAL_WORLD_SIZE": "2", "OMP_DISPLAY_ENV": "VERBOSE"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "at torch: PASSIVE False"
    assert said[-2:] == [f"threads: {max(1, usable_cores() // 2)}", "worker: PASSIVE"]
    if "GOMP_SPINCOUNT" in done.stderr:  # GNU's OpenMP: how often a thread looks before it sleeps
        assert done.stderr.count("GOMP_SPINCOUNT = '0'") == done.stderr.count("GOMP_SPINCOUNT") > 0


# -- several processes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("threads", "given", "expected"), [(None, None, 2), (None, "4", 4), (3, None, 3), (3, "4", 3), (None, "", 2)]
)
def test_processes_of_ddp_share_the_threads_and_lightning_leaves_them(threads, given, expected, fresh, monkeypatch):
    """Lightning gives each its part of the machine's cores, unless there is a number in the environment."""
    from lightning_fabric.utilities.distributed import _set_num_threads_if_needed

    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    torch.set_num_threads(4)
    assert use(threads, processes=2) == expected
    _set_num_threads_if_needed(2)
    assert torch.get_num_threads() == expected
    assert os.environ["OMP_NUM_THREADS"] == str(expected), "for the processes that are started"
    assert use(threads, processes=2) == expected, "as those find it"


def test_one_process_keeps_what_torch_has(fresh, monkeypatch):
    torch.set_num_threads(3)
    assert use(None) == 3
    assert use(2) == 2 == torch.get_num_threads()
    assert "OMP_NUM_THREADS" not in os.environ


# -- trials --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "trials"),
    [
        ({"trialConcurrency": 3}, 3), ({"trialConcurrency": 8, "maxTrialNumber": 2}, 2), ({"trialConcurrency": 0}, 1),
        ({"trialConcurrency": 2, "maxTrialNumber": None}, 2), ({}, 1), (None, 1),
    ],
)  # fmt: skip
def test_as_many_trials_as_may_run_at_a_time(params, trials):
    assert cpu_threads._concurrency({"params": params}) == trials
    assert cpu_threads._concurrency({}) == cpu_threads._concurrency([]) == 1


def test_where_nobody_says_a_trial_has_the_machine(fresh, monkeypatch):
    nobody_answers = "http://127.0.0.1:9/env/local-env/x"
    for platform, channel in (
        ("local", nobody_answers), ("local", "import://somewhere"), ("local", ""), ("remote", nobody_answers), ("", ""),
    ):  # fmt: skip
        monkeypatch.setenv("NNI_PLATFORM", platform)
        monkeypatch.setenv("NNI_TRIAL_COMMAND_CHANNEL", channel)
        assert trials_at_a_time() == 1


# -- what follows from it --------------------------------------------------------------------------------------------


def test_a_measurement_waits_for_no_more_cores_than_its_quota_pays_for(monkeypatch):
    """Two cores, one of them busy, quota of one: the other one is all that two threads would get."""
    monkeypatch.setenv(idle_machine.PATIENCE, "0.001")
    monkeypatch.setattr(idle_machine, "_look", lambda: ({0: 1.0, 1: 0.0}, {0: "0", 1: "1"}))
    for cores, taken in ((2, 0.5), (1, 0.0)):
        monkeypatch.setattr(idle_machine, "_waited", 0.0)
        monkeypatch.setattr(idle_machine, "usable_cores", lambda cores=cores: cores)
        assert idle_machine.wait_until_quiet(2) == taken


def test_going_on_with_another_number_of_threads_is_said(caplog):
    torch.set_num_threads(2)
    for began_with in (None, 2):
        say_if_other_threads(began_with)
    assert caplog.messages == []
    say_if_other_threads(1)
    assert "goes on with 2 CPU threads and began with 1" in caplog.messages[0]
