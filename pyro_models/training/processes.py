"""Several processes that train one model, as torchrun starts them; a single process is the plain case."""

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
    """Which process this is, of how many, and the device that it computes on."""

    rank: int
    count: int
    device: torch.device

    def first_alone(self, work: Callable[[], T]) -> T:
        """Do the same work in every process, in the first one before the others (a download, say)."""
        if self.count == 1:
            return work()
        if self.rank > 0:
            dist.barrier()
        result = work()
        if self.rank == 0:
            dist.barrier()
        return result

    def from_first(self, work: Callable[[], T]) -> T:
        """Do work in the first process alone and give its result to all of them."""
        result = [work() if self.rank == 0 else None]
        if self.count > 1:
            dist.broadcast_object_list(result)
        return result[0]  # type: ignore[return-value]


@contextmanager
def distributed_session(choice: str) -> Iterator[Processes]:
    """Join the other processes where there are some.

    Args:
        choice: `cpu`, `cuda`, or `auto` for a GPU where there is one for each process of this machine.

    Raises:
        UserError: `cuda`, and there are too few GPUs.
    """
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
    if choice == "cuda" and gpus < here:
        raise UserError(f"--device cuda: torch sees {gpus} GPUs here for {here} processes; use --device cpu")
    kind = "cuda" if choice != "cpu" and gpus >= here else "cpu"
    device = torch.device(kind, int(os.environ.get("LOCAL_RANK", 0))) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    if "RANK" not in os.environ:
        yield Processes(0, 1, device)
        return
    # Optimisers load this module on their first use. Loaded while there is a group, it holds that group (as a default
    # argument) and so its threads for good, which then abort the interpreter's exit now and then.
    import torch.distributed.nn as _  # noqa: F401

    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def average_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Average the gradients over the processes, in one exchange; nothing where there is one process."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    flat = average(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def average(value: Tensor) -> Tensor:
    """Average a tensor over the processes, in place; as it is where there is one process."""
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value
