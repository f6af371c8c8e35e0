"""Networks of the user's own: by instance, class or name, checked once, with any number of batch dimensions."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_models.base.errors import UserError, first_line
from pyro_models.base.names import imported


class Folded(nn.Module):
    """A module that takes one batch dimension, given any number of these: they are folded into one, and back.

    >>> folded = Folded(nn.Sequential(nn.Unflatten(1, (2, 1, 1)), nn.ConvTranspose2d(2, 1, 4)))
    >>> folded(torch.zeros(5, 7, 2)).shape
    torch.Size([5, 7, 1, 4, 4])

    Args:
        module: from [batch, *inputs] to [batch, *outputs].
        event_dim: the number of dimensions of `inputs`.
    """

    def __init__(self, module: nn.Module, event_dim: int = 1):
        super().__init__()
        self.module = module
        self.event_dim = event_dim

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., *inputs] to [..., *outputs]."""
        left = x.shape[: x.ndim - self.event_dim]
        out = self.module(x.reshape(-1, *x.shape[x.ndim - self.event_dim :]))
        return out.reshape(*left, *out.shape[1:])


def own_network(
    option: str,
    network: Any,
    inputs: Sequence[int],
    outputs: Sequence[int],
    *,
    arguments: Mapping[str, Any] | None = None,
    meaning: str = "",
) -> Folded:
    """Return a network of the user's own, after a trial on two data of zeros.

    Args:
        option: the option that names it, for messages.
        network: a module, of which a copy is taken; or a class or function that makes one, or its MODULE:NAME. These
            are called with those of `arguments` that they have parameters for.
        inputs, outputs: the shapes that it maps between.
        arguments: of what makes the network.
        meaning: of the outputs, for messages.

    Raises:
        UserError: there is no such name, it makes no module, it fails on the trial, or its outputs have another shape.
    """
    module = copy.deepcopy(network) if isinstance(network, nn.Module) else _made(option, network, arguments or {})
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            shape = list(module(torch.zeros(2, *inputs)).shape)
    except Exception as error:  # whatever the user's code raises
        raise UserError(f"`{option}` fails on zeros of shape {[2, *inputs]}: {first_line(error)}") from None
    module.train(was_training)
    if shape != [2, *outputs]:
        raise UserError(f"`{option}` maps {[2, *inputs]} to {shape}, and {[2, *outputs]} is needed{meaning}")
    return Folded(module, len(inputs))


def spelling(network: Any) -> Any:
    """Return the MODULE:NAME of a class or function, and of a module in memory its class's in brackets."""
    if network is None or isinstance(network, str):
        return network
    kind = type(network) if isinstance(network, nn.Module) else network
    name = f"{kind.__module__}:{kind.__qualname__}"
    return f"[{name}]" if isinstance(network, nn.Module) else name


def _made(option: str, network: Any, arguments: Mapping[str, Any]) -> nn.Module:
    if isinstance(network, str):
        network = _imported(option, network)
    if not callable(network):
        raise UserError(f"`{option}={network}` is no network: give a module, a class or MODULE:CLASS")
    if isinstance(network, nn.Module):
        return copy.deepcopy(network)
    names = inspect.signature(network).parameters
    made = network(**{name: value for name, value in arguments.items() if name in names})
    if not isinstance(made, nn.Module):
        raise UserError(f"`{option}={spelling(network)}` makes a {type(made).__name__}, not a module")
    return made


def _imported(option: str, name: str) -> Any:
    if name.startswith("["):
        raise UserError(f"the network {name} was in memory and is not stored: give it again, as `{option}`")
    return imported(name, option, "CLASS")
