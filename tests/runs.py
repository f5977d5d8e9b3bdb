"""Small searches on the digits, and what runs leave."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file

from nni_proxyless.cli.main import main

TINY = """
seed: 3
space: {preset: small, widths: [8, 16], depths: [2, 2], strides: [2, 2], stem_width: 8, feature_mix: 32}
data: {name: digits, image_size: 8, batch_size: 64}
strategy: {warmup_epochs: 1, arc_update_every: 2, arc_learning_rate: 0.05}
latency: {target_ms: 90%, table: table.yaml, estimator: {runtime: torch, warmup: 1, repeats: 15}}
training: {epochs: 3}
search: {select: probabilities}
trainer: {accelerator: cpu, threads: 1}
"""
MACS = ("latency.estimator={name: macs}", "latency.table=null")  # the same on every machine, and nothing to measure


def search(folder: Path, *words: str, text: str = TINY) -> Path:
    """Search as ``folder/search.yml`` says, which is written; the folder of the run, ``folder/out``."""
    (folder / "search.yml").write_text(text)
    before = torch.get_num_threads()
    assert main(["search", str(folder / "search.yml"), f"output={folder / 'out'}", *words]) == 0
    torch.set_num_threads(before)
    return folder / "out"


def history(folder: Path) -> list[dict[str, Any]]:
    """What a search or a training has noted of its epochs."""
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def same_weights(one: Path, other: Path, name: str = "weights.safetensors") -> bool:
    """Whether two folders hold the same weights, to the last bit."""
    ours, theirs = load_file(one / name), load_file(other / name)
    return ours.keys() == theirs.keys() and all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def process_in(folder: Path) -> psutil.Process:
    """The process that searches there, as its lock file says."""
    found = re.match(r"process (\d+) searches in ", (folder / ".lock").read_text())
    assert found
    return psutil.Process(int(found[1]))


def choices_of(folder: Path) -> dict[str, Any]:
    """Of the network that a search has left."""
    return json.loads((folder / "architecture.json").read_text())["choices"]
