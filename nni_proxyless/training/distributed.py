"""The processes of one training: those that torchrun started, or this one alone."""

from __future__ import annotations

import gc
import inspect
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..core.errors import UserError
from .rank import count, rank

__all__ = ["Processes", "joined", "rank"]


@dataclass(frozen=True)
class Processes:
    """What one process knows of the others.

    Attributes
    ----------
    rank, count
        Which one this is, from 0 on, and how many there are.
    device
        Where this one computes.
    group
        Those meant, if not all that torchrun started.
    """

    rank: int
    count: int
    device: torch.device
    group: Any = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def first(self) -> int:
        """The rank that the first one has among all that torchrun started."""
        return 0 if self.group is None else torch.distributed.get_global_rank(self.group, 0)

    def on_mesh(self, n_stages: int) -> tuple[Processes, Processes]:
        """Lay the processes out on a device mesh of replicas and stages; those of a replica have ranks in a row.

        Parameters
        ----------
        n_stages
            Divides their number.

        Returns
        -------
        tuple of Processes
            Those that hold this one's stage, one of each replica; those that hold the stages of this one's replica.
        """
        if self.count == n_stages:  # one replica needs no groups beside that of all
            return Processes(0, 1, self.device), self
        shape = (self.count // n_stages, n_stages)
        mesh = torch.distributed.init_device_mesh(self.device.type, shape, mesh_dim_names=("replicas", "stages"))
        replicas, stages = (
            Processes(mesh.get_local_rank(dim), size, self.device, mesh.get_group(dim))
            for dim, size in enumerate(shape)
        )
        return replicas, stages

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes; every one gets it."""
        if self.count == 1:
            return tensor
        tensor = tensor.to(self.device, copy=True)
        torch.distributed.all_reduce(tensor, group=self.group)
        return tensor

    def average(self, tensors: Iterable[Tensor]) -> None:
        """Put the mean over all processes in the place of each tensor."""
        for tensor in tensors:
            tensor.copy_(self.total(tensor) / self.count)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """This tensor of every process, by rank, on the CPU; of one shape everywhere."""
        if self.count == 1:
            return [tensor.cpu()]
        found = [torch.empty_like(tensor) for _ in range(self.count)]
        torch.distributed.all_gather(found, tensor, group=self.group)
        return [t.cpu() for t in found]

    def collect(self, state: dict[str, Any]) -> list[dict[str, Any]]:
        """The states of all processes, by rank, on the CPU, in the first one; in the others none.

        Parameters
        ----------
        state
            Nested dicts, lists and tuples of plain values and tensors.
        """
        file = io.BytesIO()
        torch.save(state, file)
        found: list[Any] = [None] * self.count if self.is_first else []
        torch.distributed.gather_object(file.getvalue(), found or None, dst=self.first, group=self.group)
        return [torch.load(io.BytesIO(one), map_location="cpu", weights_only=True) for one in found]

    def wait(self) -> None:
        """Wait for all processes."""
        self.total(torch.zeros(1, device=self.device))

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process does it, then the others do: what is fetched or unpacked is fetched once."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def wrapped(self, network: nn.Module) -> nn.Module:
        """The network whose backward pass averages gradients over the processes.

        The statistics of batch norm stay each process's own until the end of an epoch.
        """
        if self.count == 1:
            return network
        return DistributedDataParallel(network, process_group=self.group, **self.of_wrapper)

    @property
    def of_wrapper(self) -> dict[str, Any]:
        """Arguments of ``DistributedDataParallel``."""
        # torch 2.15 has renamed it, and warns of the old name.
        new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
        return {
            "device_ids": [self.device] if self.device.type == "cuda" else None,
            "forward_sync_buffers" if new else "broadcast_buffers": False,
        }


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun has started, and leave them at the end.

    Parameters
    ----------
    device
        As in the configuration; ``auto``: CUDA if it is there.

    Raises
    ------
    UserError
        There is no such device.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    chosen = torch.device(name)
    if chosen.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"device: {device}: torch finds no CUDA device here; allowed: auto, cpu")
        if count() > 1 and chosen.index is None:
            chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if (chosen.index or 0) >= torch.cuda.device_count():
            raise UserError(f"device: {chosen}: there are only {torch.cuda.device_count()} CUDA devices here")
    if count() == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(torch.distributed.get_rank(), torch.distributed.get_world_size(), chosen)
    finally:
        # First what DDP has made: torch 2.7 ends its threads from there without letting go of the GIL, for which one of them may wait, forever.
        gc.collect()
        torch.distributed.destroy_process_group()
