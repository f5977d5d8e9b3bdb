"""A machine that is as fast as a test wants: a program that counts the bytes of a model, times a speed in a file, for milliseconds."""

from __future__ import annotations

from pathlib import Path

from ..runs import TINY


def machine_in(folder: Path) -> Path:
    """The folder, with the program ``bench.sh``; the file ``speed`` says how many ten-thousandths of a millisecond a byte takes."""
    program = folder / "bench.sh"
    program.write_text(
        f'#!/bin/sh\nawk -v b="$(wc -c < "$1")" -v s="$(cat {folder}/speed)" \'BEGIN {{ print b * s / 1e4 }}\'\n'
    )
    program.chmod(0o755)
    (folder / "speed").write_text("1")
    return folder


def settings(machine: Path) -> str:
    """A small search by the milliseconds of that program, as a file."""
    estimator = f"runtime: command, options: {{command: [{machine}/bench.sh, '{{file}}']}}, repeats: 3"
    return (
        TINY.replace("depths: [2, 2]", "depths: [1, 1], kernels: [3]")
        .replace("runtime: torch, warmup: 1, repeats: 15", estimator)
        .replace("epochs: 3", "epochs: 1")
        .replace("warmup_epochs: 1", "warmup_epochs: 0")
    )
