"""A file that is written keeps its old content until the new one is whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nni_proxyless.core.atomic_files import replacing, write_csv, write_text, write_weights


def test_an_error_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / "new folder" / "file"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize(
    "write", [lambda path: write_text(path, "new"), lambda path: write_weights(path, {"w": torch.ones(2)})]
)
def test_a_file_is_replaced_in_one_step_and_others_may_read_it(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    path.write_text("old")
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append((Path(a).parent, path.read_text())), replace(a, b)))
    write(path)
    assert seen == [(tmp_path, "old")]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"new" or torch.equal(load_file(path)["w"], torch.ones(2))


def test_a_table_reads_back_and_none_is_an_empty_cell(tmp_path):
    write_csv(tmp_path / "new folder" / "table.csv", ("name", "cost"), iter([("a, b", 1.5), ("c", None)]))
    assert (tmp_path / "new folder" / "table.csv").read_text() == 'name,cost\n"a, b",1.5\nc,\n'
