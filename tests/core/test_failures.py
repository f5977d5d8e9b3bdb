"""What the machine did not have is said in a line; everything else keeps its traceback."""

from __future__ import annotations

from pathlib import Path

import torch

from nni_proxyless.cli.main import main
from nni_proxyless.core.resource_errors import explain

from ..runs import TINY


def error_of(action) -> Exception:
    try:
        action()
    except Exception as error:
        return error
    raise AssertionError("no error")


def test_a_full_disk():
    """/dev/full is always full; nothing here may rename a file to it."""

    def write_text() -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    expected = "no space left on the disk: [Errno 28] No space left on device. Free some: search and train go on with --resume FOLDER"
    assert explain(error_of(write_text)) == expected

    said = explain(error_of(lambda: torch.save(torch.zeros(100_000), "/dev/full")))  # torch says no error number
    assert str(said).startswith("no space left on the disk: ")


def test_no_memory(tmp_path, capsys):
    """Torch's error, and the command that ran into it: the digits enlarged until they take terabytes."""
    assert str(explain(error_of(lambda: torch.empty(2**50)))).startswith("out of memory: ")
    assert explain(error_of(lambda: bytearray(2**60))).startswith("out of memory: Python could not get more. Use")

    (tmp_path / "search.yml").write_text(TINY)
    assert main(["search", str(tmp_path / "search.yml"), f"output={tmp_path / 'out'}", "data.image_size=1000000"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("nni-proxyless: out of memory: ")
    assert "tried to allocate" in last


def test_other_errors_are_not_explained_away():
    assert explain(error_of(lambda: {}["x"])) is None
    assert explain(error_of(Path("/nowhere").read_text)) is None
    assert explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
