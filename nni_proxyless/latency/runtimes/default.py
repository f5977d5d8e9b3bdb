"""Which runtime is meant where none is named. Standard library only: a configuration is read without torch."""

from __future__ import annotations

__all__ = ["TORCH", "default_runtime"]

TORCH = "torch"  # eager mode


def default_runtime(device: str) -> str:
    """ONNX Runtime on a CPU, which runs small networks several times faster than eager mode does, and ranks them otherwise; elsewhere torch.

    Parameters
    ----------
    device
        As torch names it: ``'cpu'``, ``'cuda:1'``.
    """
    return "onnxruntime" if device.partition(":")[0] == "cpu" else TORCH
