"""The ten lines of ``docs/how-to/timm.md``, with torch, timm and safetensors only."""

from __future__ import annotations

import re
import sys

import torch
from safetensors.torch import load_file

from nni_proxyless.core.atomic_files import write_weights

from .derived_nets import digits, logits, three_nets

BLOCKER = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked!r} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
ABSENT = ("nni", "nni_proxyless", "pytorch_lightning", "lightning", "torchmetrics", "sklearn", "scipy", "pydantic", "matplotlib",
          "tensorboard", "onnx", "onnxscript", "onnxruntime")  # fmt: skip
EACH = """
import os, sys, torch
from safetensors.torch import load_file, save_file
for folder in sys.argv[1:]:
    os.chdir(folder)
    names = {{}}
    exec({block!r}, names)
    with torch.no_grad():
        save_file({{"logits": names["model"].eval()(load_file("images.safetensors")["images"])}}, "logits.safetensors")
"""


def ten_lines(pytestconfig) -> str:
    page = (pytestconfig.rootpath / "docs" / "how-to" / "timm.md").read_text(encoding="utf-8")
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "decode_arch_def" in text]
    return block


def test_ten_lines_load_a_net_with_torch_timm_and_safetensors(pytestconfig, command, tmp_path):
    block = ten_lines(pytestconfig)
    assert len([line for line in block.splitlines() if line.strip()]) == 10
    images = digits(100)
    nets = three_nets(tmp_path)
    for path in nets.values():
        write_weights(path.with_name("images.safetensors"), {"images": images})
    code = BLOCKER.format(blocked=ABSENT) + EACH.format(block=block)
    done = command(sys.executable, "-c", code, *(path.parent for path in nets.values()))
    assert done.returncode == 0, done.stderr
    for path in nets.values():
        assert torch.equal(load_file(path.with_name("logits.safetensors"))["logits"], logits(path, images))


def test_the_page_on_export_shows_the_same_ten_lines(pytestconfig):
    assert ten_lines(pytestconfig) in (pytestconfig.rootpath / "docs" / "how-to" / "export.md").read_text(
        encoding="utf-8"
    )


def test_that_check_can_fail(command):
    done = command(sys.executable, "-c", BLOCKER.format(blocked=ABSENT) + "import nni_proxyless.timm_models")
    assert done.returncode == 1
    assert "No module named 'nni_proxyless'" in done.stderr
