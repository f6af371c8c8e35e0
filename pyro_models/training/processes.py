"""Distributed training by several processes, as torchrun starts them, or by a single one."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pyro_models.base.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        rank: of this process.
        count: of all processes.
        device: that this process computes on.
    """

    rank: int
    count: int
    device: torch.device

    def first_alone(self, work: Callable[[], T]) -> T:
        """Run `work` in every process, in the first one before the others (a download, for example)."""
        if self.count == 1:
            return work()
        if self.rank > 0:
            dist.barrier()
        result = work()
        if self.rank == 0:
            dist.barrier()
        return result

    def from_first(self, work: Callable[[], T]) -> T:
        """Run `work` in the first process alone and return its result in all of them."""
        result = [work() if self.rank == 0 else None]
        if self.count > 1:
            dist.broadcast_object_list(result)
        return result[0]  # type: ignore[return-value]


@contextmanager
def distributed_session(choice: str) -> Iterator[Processes]:
    """Join the process group, if torchrun started this process, and leave it at the end.

    Args:
        choice: `cpu`, `cuda`, `mps`, or `auto`: a GPU if there is one for each process of this machine.

    Yields:
        the processes; a single one without torchrun.

    Raises:
        UserError: `cuda` with too few GPUs, or `mps` with none.
    """
    local, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if choice == "cuda" and gpus < local:
        raise UserError(f"`device=cuda` needs a GPU for each of {local} processes, not {gpus}: use `device=cpu`")
    if choice == "mps" and not torch.backends.mps.is_available():
        raise UserError("`device=mps`: torch finds no GPU of Apple here; use `device=cpu`")
    device = torch.device("mps" if choice == "mps" else "cpu")
    if choice in ("auto", "cuda") and gpus >= local:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield Processes(0, 1, device)
        return
    # Optimisers import this module on their first use. If that happens within a process group, a default argument keeps
    # the group and its threads alive, which occasionally abort the interpreter at exit.
    import torch.distributed.nn as _  # noqa: F401

    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def average_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Average the gradients over the processes in one all-reduce; without a process group, do nothing."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    flat = average(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def average(value: Tensor) -> Tensor:
    """Average a tensor over the processes, in place; without a process group, return it unchanged."""
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value
