"""The checkpoint file: what goes in comes out, damage is noticed, and no kill loses the search."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, OrderedDict, namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nni_proxyless.strategies.oneshot.checkpoint import CheckpointError, CheckpointFolder
from torch import nn
from torch.optim import lr_scheduler

from nni_proxyless.core.settings_diff import differences

HEADER = b"nni-proxyless checkpoint 4\n"


def state(n: int) -> dict[str, Any]:
    return {"step": n, "weights": torch.full((64,), float(n))}


def step_of(folder: Path | CheckpointFolder) -> int | None:
    """Which checkpoint a fresh object finds; None: none at all."""
    found = CheckpointFolder(getattr(folder, "folder", folder)).read()
    if found is None:
        return None
    assert torch.equal(found["weights"], torch.full((64,), float(found["step"])))
    return found["step"]


def same(one: Any, other: Any) -> bool:
    """Equal to the bit and of the same types, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def there_and_back(folder: Path, written: dict[str, Any]) -> dict[str, Any]:
    assert CheckpointFolder(folder).write(written) == folder / "search.ckpt"
    read = CheckpointFolder(folder).read()
    assert read is not None
    return read


# -- what goes in comes out --------------------------------------------------------------------------------------------


def test_every_allowed_type_comes_back_as_it_was(tmp_path):
    written = {
        "none": None, "bools": [True, False], "ints": (0, -1, 2**70), "text": "Gewicht α \ud800\n", "empty": [{}, [], (), ""],
        "floats": [0.1, -0.0, 1e-310, float("inf"), float("nan")], "nested": {"a": [({"b": (1, [2])},)]},
        "keys": {1: "int", "1": "str", 2.5: "float", None: "none", False: "bool"},
        "tensors": [
            torch.tensor(3), torch.zeros(0, 2), torch.tensor([True]), torch.arange(5, dtype=torch.uint8),
            torch.randn(3).to(torch.bfloat16), torch.tensor([0.1, float("inf")], dtype=torch.float64),
            torch.tensor([1 + 2j]), torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        ],
    }  # fmt: skip
    assert same(there_and_back(tmp_path, written), written)
    assert not same(written, {**written, "bools": [True, 0]})  # the comparison can fail


def test_tensors_are_stored_as_plain_values(tmp_path):
    """A parameter without its gradient, a view without the storage behind it, tied weights once."""

    class Mine(torch.Tensor):
        pass

    parameter = nn.Parameter(torch.randn(3))
    (parameter**2).sum().backward()
    big = torch.randn(1_000_000)
    tied = torch.randn(1000)
    written = {
        "parameter": parameter, "graph": parameter * 2, "mine": torch.ones(2).as_subclass(Mine), "view": big[5:7],
        "ordered": OrderedDict(b=1, a=2), "one": tied, "two": tied,
    }  # fmt: skip
    read = there_and_back(tmp_path, written)
    for name in ("parameter", "graph", "mine", "view"):
        assert type(read[name]) is torch.Tensor
        assert not read[name].requires_grad
        assert torch.equal(read[name], written[name].detach().as_subclass(torch.Tensor))
    assert type(read["ordered"]) is dict
    assert list(read["ordered"]) == ["b", "a"]
    assert (tmp_path / "search.ckpt").stat().st_size < 12_000
    assert torch.equal(written["view"], big[5:7])


OPTIMIZERS_AND_SCHEDULES = {
    "adam": (lambda p: torch.optim.Adam(p, betas=(0.0, 0.999)), lambda o: lr_scheduler.CosineAnnealingLR(o, 9)),
    "amsgrad": (lambda p: torch.optim.AdamW(p, amsgrad=True), lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, total_iters=2), lr_scheduler.CosineAnnealingLR(o, 7)], [2])),
    "sgd": (lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True), lambda o: lr_scheduler.LambdaLR(o, lambda i: 0.9**i)),
    "rmsprop": (lambda p: torch.optim.RMSprop(p, momentum=0.9, centered=True),
                lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=20, cycle_momentum=False)),
}  # fmt: skip


@pytest.mark.parametrize("kind", OPTIMIZERS_AND_SCHEDULES)
def test_states_of_optimizers_and_schedules_come_back(tmp_path, kind):
    """As they are after three steps; torch's have int keys, and numbers of several types."""
    make_optimizer, make_schedule = OPTIMIZERS_AND_SCHEDULES[kind]
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = make_optimizer(model.parameters())
    schedule = make_schedule(optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 3)).square().mean().backward()
        optimizer.step()
        schedule.step()
    written = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    assert same(there_and_back(tmp_path, written), written)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Path(), f"optimizer.state.3.foo is a {type(Path()).__name__}"),
        ([1, {"x": ({2},)}], "optimizer.state.3.foo.1.x.0 is a set"),
        (np.float64(0.5), "optimizer.state.3.foo is a float64"),
        (np.int64(1), "optimizer.state.3.foo is a int64"),
        (np.zeros(2), "optimizer.state.3.foo is a ndarray"),
        (Counter(a=1), "optimizer.state.3.foo is a Counter"),
        (namedtuple("Pair", "a b")(1, 2), "optimizer.state.3.foo is a Pair"),
        (torch.Size([1]), "optimizer.state.3.foo is a Size"),
        (torch.float32, "optimizer.state.3.foo is a dtype"),
        ({1, 2}, "optimizer.state.3.foo is a set"),
        (b"x", "optimizer.state.3.foo is a bytes"),
        (len, "optimizer.state.3.foo is a builtin_function_or_method"),
    ],
)
def test_anything_else_is_refused_with_its_place(tmp_path, value, message):
    """Before a file is touched; subclasses too, which would come back as something else."""
    folder = CheckpointFolder(tmp_path)
    folder.write(state(1))
    with pytest.raises(TypeError) as caught:
        folder.write({"optimizer": {"state": {3: {"foo": value}}}})
    assert str(caught.value) == message + "; allowed: dict, list, tuple, str, int, float, bool, None, torch.Tensor"
    assert step_of(tmp_path) == 1
    assert os.listdir(tmp_path) == ["search.ckpt"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {(1, 2): 3}}, r"a has a key \(1, 2\), a tuple; allowed: str, int, float, bool, None$"),
        ({np.int64(1): 3}, "the checkpoint has a key .*1.*, a int64; allowed"),
        ({"a": {"b": torch.eye(2).to_sparse()}}, r"a\.b is a Tensor of layout torch.sparse_coo on cpu; allowed: dense tensors"),
        ({"a": torch.ones(1, device="meta")}, "a is a Tensor of layout torch.strided on meta; allowed"),
        ([1], "the checkpoint is a list; allowed: dict$"),
    ],
)  # fmt: skip
def test_keys_tensors_and_states_that_are_refused(tmp_path, state, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        CheckpointFolder(tmp_path / "none").write(state)
    assert not (tmp_path / "none").exists()


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tmp_path) -> CheckpointFolder:
    """A folder with checkpoints 1 (the one before) and 2."""
    folder = CheckpointFolder(tmp_path / "two")
    folder.write(state(1))
    folder.write(state(2))
    return CheckpointFolder(folder.folder)


def test_a_folder_without_files_holds_nothing(tmp_path):
    assert CheckpointFolder(tmp_path / "nowhere").read() is None
    assert CheckpointFolder(str(tmp_path)).read() is None
    CheckpointFolder(tmp_path / "nowhere").clear()
    assert not (tmp_path / "nowhere").exists()


def test_a_file_that_ends_anywhere_is_noticed(two, caplog):
    """With the one before it that one is used and a warning says so; alone, whatever its length, it is an error."""
    content = two.current.read_bytes()
    assert len(content) > 1000
    for length in [0, 1, 26, 27, 91, 92, *range(100, len(content), 251), len(content) - 1]:
        two.current.write_bytes(content[:length])
        assert step_of(two) == 1
        (record,) = caplog.records
        caplog.clear()
        assert record.levelno == logging.WARNING
        assert record.name == "nni_proxyless.core.checkpoint_file"
        reason = (
            "the file is empty" if length == 0
            else "truncated within the first line" if length < len(HEADER)
            else "truncated within the second line" if length < len(HEADER) + 65
            else "truncated or changed: the content does not have the digest that was written with it"
        )  # fmt: skip
        assert record.getMessage() == f"{two.current}: {reason}; going on from the checkpoint before it, {two.previous}"
    two.previous.unlink()
    for length in [*range(0, 100, 3), *range(100, len(content), 53)]:
        two.current.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"search.ckpt: .*; no other checkpoint to go on from$"):
            two.read()


def test_a_flipped_bit_anywhere_is_noticed(two):
    """In magic, version, digest and payload; in the first line it makes the file a foreign one."""
    content = two.current.read_bytes()
    draw = random.Random(0)

    def flip(offset: int) -> None:
        changed = bytearray(content)
        changed[offset] ^= 1 << draw.randrange(8)
        two.current.write_bytes(changed)

    for offset in range(len(HEADER), len(content), 211):
        flip(offset)
        assert step_of(two) == 1
    two.previous.unlink()
    for offset in [*range(150), *range(150, len(content), 53)]:
        flip(offset)
        with pytest.raises(CheckpointError) as caught:
            two.read()
        assert ("no other checkpoint to go on from" in str(caught.value)) == (offset >= len(HEADER))
    two.current.write_bytes(content)
    assert step_of(two) == 2


def test_both_files_damaged_is_an_error_with_both_reasons(two):
    two.current.write_bytes(two.current.read_bytes()[:-1])
    two.previous.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"search.ckpt: truncated .*previous.ckpt: the file is empty; no other"):
        two.read()
    two.write(state(3))  # whoever wants to begin anew may
    assert step_of(two) == 3


def sealed(payload: bytes) -> bytes:
    return HEADER + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def test_a_whole_file_that_torch_cannot_load_is_damaged(two, tmp_path):
    """Also for the next write, to which the digest alone would say that it is good."""
    two.current.write_bytes(sealed(b"not torch's"))
    assert two.read()["step"] == 1
    two.write(state(3))
    assert step_of(two) == 3
    two.current.unlink()
    assert step_of(two) == 1
    assert two.damaged.read_bytes() == sealed(b"not torch's")

    torch.save([1, 2], tmp_path / "list")
    two.current.write_bytes(sealed((tmp_path / "list").read_bytes()))
    two.previous.unlink()
    with pytest.raises(CheckpointError, match=r"search.ckpt: holds a list in the place of a dict"):
        two.read()


def test_code_in_a_file_does_not_run(two, tmp_path):
    """A digest is no signature: whoever can write the file can seal it."""

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"step": Evil()}, tmp_path / "evil")
    two.current.write_bytes(sealed((tmp_path / "evil").read_bytes()))
    assert two.read()["step"] == 1
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "evil", weights_only=False)
    assert (tmp_path / "ran").exists()  # the test can fail


@pytest.mark.parametrize("place", ["current", "previous"])
@pytest.mark.parametrize("kind", ["torch", "text", "future", "past", "no line"])
def test_a_foreign_file_is_left_alone(tmp_path, kind, place):
    """Neither read nor overwritten nor removed, whichever of the two places it is in."""
    folder = CheckpointFolder(tmp_path / "folder")
    folder.write(state(1))
    path = getattr(folder, place)
    if kind == "torch":
        torch.save(state(5), path)
    else:
        path.write_bytes(
            {
                "text": b"my notes\n",
                "future": HEADER.replace(b"4", b"12") + b"?",
                "past": HEADER.replace(b"4", b"1") + b"?",
                "no line": b"n" * 300,
            }[kind]
        )
    content = path.read_bytes()
    files = sorted(os.listdir(folder.folder))
    what = {
        "future": "a checkpoint of format 12, written by a newer version of this program; this one reads format 4. Go on with that version, or choose another folder",
        "past": "a checkpoint of format 1, written by an older version of this program; this one reads format 4. Go on with that version, or choose another folder",
    }.get(kind, "not a checkpoint of this program; move it away, or choose another folder")
    fresh = CheckpointFolder(folder.folder)
    actions = [lambda: fresh.write(state(2))]
    if place == "current":
        actions += [fresh.read, lambda: fresh.write(state(2))]
    for action in actions:
        with pytest.raises(CheckpointError) as caught:
            action()
        assert str(caught.value) == f"{path}: {what}"
        assert sorted(os.listdir(folder.folder)) == files
        assert path.read_bytes() == content
    fresh.clear()
    assert os.listdir(folder.folder) == [path.name]
    assert path.read_bytes() == content


@pytest.mark.parametrize("read_first", [False, True])
def test_a_damaged_file_never_replaces_a_good_one(two, read_first, caplog):
    before, damaged = two.previous.read_bytes(), two.current.read_bytes()[:-7]
    two.current.write_bytes(damaged)
    if read_first:
        assert two.read()["step"] == 1
    two.write(state(3))
    assert two.damaged.read_bytes() == damaged
    assert step_of(two) == 3
    assert two.previous.read_bytes() == before
    two.write(state(4))
    assert two.damaged.read_bytes() == damaged
    two.current.unlink()
    assert step_of(two) == 3
    assert len(caplog.records) == 1  # said once, by whichever noticed it
    assert str(two.current) in caplog.text


# -- kills -------------------------------------------------------------------------------------------------------------


def folders_during(write: Any, source: Path, copies: Path, monkeypatch: Any) -> list[tuple[str, Path]]:
    """Copies of the folder as it was before and after every step of ``write`` that reaches the file system."""
    seen: list[tuple[str, Path]] = []

    def watch(name: str, function: Any) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            for moment in ("before", "after"):
                if moment == "after":
                    result = function(*args, **kwargs)
                copy = copies / f"{len(seen):02d}"
                shutil.copytree(source, copy)
                places = [Path(a).name for a in args if isinstance(a, str | Path)]
                seen.append((f"{moment} {name} {' '.join(places)}".strip(), copy))
            return result

        return watched

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync", "open", "unlink"):
            patch.setattr(os, name, watch(name, getattr(os, name)))
        write()
    return seen


@pytest.mark.parametrize("case", ["first", "second", "third", "fresh object", "damaged", "killed between renames"])
def test_a_kill_at_any_step_leaves_a_checkpoint(tmp_path, monkeypatch, case):
    """What a kill leaves is the folder as it is at that moment; from each one a search can read, go on and write."""
    source = tmp_path / "source"
    folder = CheckpointFolder(source)
    source.mkdir()
    before = {"first": 0, "second": 1}.get(case, 2)
    for n in range(1, before + 1):
        folder.write(state(n))
    if case == "fresh object":
        folder = CheckpointFolder(source)
    if case == "damaged":
        folder.current.write_bytes(b"")
        before, folder = 1, CheckpointFolder(source)
    if case == "killed between renames":
        os.replace(folder.current, folder.previous)
        (source / ".search.ckpt.123.tmp").write_bytes(b"half")
        folder = CheckpointFolder(source)
    new = before + 1
    moments = folders_during(lambda: folder.write(state(new)), source, tmp_path, monkeypatch)
    steps = [moment for moment, _ in moments]
    assert steps.count("before fsync") == 2
    assert steps.index("after fsync") < min(i for i, step in enumerate(steps) if "replace" in step)
    assert steps[-1] == "after fsync"
    published = False
    for moment, copy in moments:
        published = published or (moment.startswith("after replace") and moment.endswith(".tmp search.ckpt"))
        assert step_of(copy) == (new if published else before or None), moment
        for read_first in (True, False):
            again = tmp_path / "again"
            shutil.copytree(copy, again)
            other = CheckpointFolder(again)
            if read_first:
                other.read()
            other.write(state(new + 1))
            assert step_of(again) == new + 1
            assert not list(again.glob(".*"))
            other.current.unlink()
            assert step_of(again) == (new if published else before or None)
            shutil.rmtree(again)
    assert published
    assert step_of(source) == new


@pytest.mark.parametrize("function", ["replace", "fsync"])
@pytest.mark.parametrize("k", [0, 1])
def test_an_error_at_any_step_loses_nothing(tmp_path, monkeypatch, function, k):
    """A full disk, say: the error comes out, nothing is left behind, and the same object can go on."""
    folder = CheckpointFolder(tmp_path)
    folder.write(state(1))
    folder.write(state(2))
    calls = []
    real = getattr(os, function)

    def fail(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == k + 1:
            raise OSError(28, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(OSError, match="No space left"):
            folder.write(state(3))
    assert step_of(folder) == (3 if (function, k) == ("fsync", 1) else 2)
    assert not list(tmp_path.glob(".*"))
    folder.write(state(4))
    assert step_of(folder) == 4


def test_only_our_own_temporary_files_are_removed(tmp_path):
    for name in (".search.ckpt.1.tmp", ".search.ckpt.99999.tmp", ".search.ckpt.mine.tmp", "search.ckpt.1.tmp", "x.tmp"):
        (tmp_path / name).touch()
    CheckpointFolder(tmp_path).write(state(1))
    assert sorted(os.listdir(tmp_path)) == [".search.ckpt.mine.tmp", "search.ckpt", "search.ckpt.1.tmp", "x.tmp"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="pathlib of Python 3.10 keeps functions of os of its own")
def test_clear_removes_our_files_only(two, tmp_path, monkeypatch):
    """And a kill in between never makes an older checkpoint the newest one."""
    two.damaged.touch()
    (two.folder / ".search.ckpt.5.tmp").touch()
    (two.folder / "notes").touch()
    two.read()
    moments = folders_during(two.clear, two.folder, tmp_path, monkeypatch)
    assert {step_of(copy) for _, copy in moments} == {2, None}
    assert os.listdir(two.folder) == ["notes"]
    assert two.read() is None
    two.write(state(1))
    assert step_of(two) == 1


WRITER = """
import importlib.util, os, sys, time
import torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("checkpoint", sys.argv[1])
checkpoint = importlib.util.module_from_spec(spec)
spec.loader.exec_module(checkpoint)
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        folder = checkpoint.CheckpointFolder(sys.argv[2])
        found = folder.read()
        n = 0 if found is None else found["step"]
        while True:
            n += 1
            folder.write({"step": n, "weights": torch.full((64,), float(n)), "ballast": torch.zeros(50_000)})
            with open(sys.argv[2] + ".returned", "a") as file:
                file.write(f"{n}\\n")
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("dead", flush=True)
"""


def test_real_kills(tmp_path):
    """SIGKILL at four random moments: what read() finds is whole, and not older than the last write that returned."""
    import nni_proxyless.strategies.oneshot.checkpoint as module

    folder, returned = tmp_path / "folder", tmp_path / "folder.returned"
    draw = random.Random(0)
    newest = 0
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WRITER, module.__file__, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    with server:
        for _ in range(4):
            server.stdin.write("go\n")
            server.stdin.flush()
            pid = int(server.stdout.readline())
            written = returned.stat().st_size if returned.exists() else 0
            deadline = time.monotonic() + 60
            while (returned.stat().st_size if returned.exists() else 0) == written and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.05))
            os.kill(pid, signal.SIGKILL)
            assert server.stdout.readline() == "dead\n"
            found = step_of(folder)
            assert found is not None
            assert found >= int(returned.read_text().split("\n")[-2]) > newest
            newest = found
        server.stdin.close()


# -- another search ----------------------------------------------------------------------------------------------------


def test_differences_are_named_one_by_one():
    here = {
        "strategy": {"update": "full", "seed": 1, "rate": float("nan"), "penalty": None, "new": 2, "unset": None, "empty": {}},
        "choices": {"stage1.0": ["skip", "conv"], "stage1.1": ["skip", "conv"]}, 3: (1, 2),
    }  # fmt: skip
    assert differences(here, here) == []
    assert differences({"x": float("nan"), "y": [float("nan")]}, {"x": float("nan"), "y": [float("nan")]}) == []
    there = {
        "strategy": {"update": "two-path", "seed": 1, "rate": float("nan"), "penalty": {"weight": 0.1}, "old": 7},
        "choices": {"stage1.1": ["conv", "skip"], "stage1.2": []}, 3: (1, 2),
    }  # fmt: skip
    assert differences(here, there, "in the checkpoint") == [
        "strategy.update is 'full' here, 'two-path' in the checkpoint",
        "strategy.penalty is None here, {'weight': 0.1} in the checkpoint",
        "strategy.new is only here",
        "strategy.old is only in the checkpoint",
        "choices.stage1.0 is only here",
        "choices.stage1.1 is ['skip', 'conv'] here, ['conv', 'skip'] in the checkpoint",
        "choices.stage1.2 is only in the checkpoint",
    ]


def test_a_checkpoint_of_format_2_is_read(tmp_path):
    """Which had every tensor by itself."""
    folder = CheckpointFolder(tmp_path)
    folder.write(state(1))
    payload = io.BytesIO()
    torch.save(state(4), payload)
    digest = hashlib.sha256(payload.getvalue()).hexdigest().encode()
    folder.current.write_bytes(HEADER.replace(b"4", b"2") + digest + b"\n" + payload.getvalue())
    assert step_of(tmp_path) == 4
