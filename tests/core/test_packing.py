"""Files of checkpoints: many small tensors lie in them as one per type."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict

import torch

from nni_proxyless.core import checkpoint_file
from nni_proxyless.core.packing import LARGEST

LINE = b"nni-proxyless test 1\n"


def written(path, state):
    checkpoint_file.write_with_digest(path, LINE, state)
    with open(path, "rb") as file:
        assert file.readline() == LINE
        return checkpoint_file.read_payload(file)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and (a.dtype, a.stride()) == (b.dtype, b.stride())
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_a_state_comes_back_to_the_bit_with_shapes_and_strides(tmp_path):
    weight = torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    state = {
        "module": OrderedDict(weight=weight, tied=weight, step=torch.tensor(7.0), none=None),
        3: [torch.arange(5), (torch.zeros(0, 3), torch.tensor([True, False])), "text", 1.5],
        "half": torch.ones(3, dtype=torch.bfloat16),
        "transposed": torch.randn(3, 5).t(),
        "nan": torch.tensor([float("inf"), -0.0]),
        "gaps": torch.randn(4, 6)[:, ::2],
        "large": torch.randn(LARGEST + 1),
        "like a place": {"tensor at": 1, "other": 2},
    }
    back = checkpoint_file.state_of(written(tmp_path / "file", state))
    assert same(state, back)
    assert back["module"]["tied"] is back["module"]["weight"], "the same memory once"
    assert back["module"]["step"].untyped_storage().nbytes() == 4, "a tensor of its own, not a view of all"


def test_the_file_holds_one_tensor_per_type(tmp_path):
    """torch takes a tenth of a millisecond for each, however small."""
    state = {str(n): {"moment": torch.randn(n + 1), "step": torch.tensor(n)} for n in range(200)}
    payload = written(tmp_path / "file", state)
    with zipfile.ZipFile(io.BytesIO(payload)) as file:
        assert sum("/data/" in name for name in file.namelist()) == 2
    assert same(state, checkpoint_file.state_of(payload))


def test_a_file_of_an_earlier_version_is_read():
    payload = io.BytesIO()
    torch.save({"weights": torch.arange(3)}, payload)
    assert same(checkpoint_file.state_of(payload.getvalue()), {"weights": torch.arange(3)})
