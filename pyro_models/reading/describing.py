"""Distributions, transforms and kernels in words: with the numbers, names and layers that they were made with."""

from collections.abc import Callable, Sequence
from itertools import chain, groupby
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions import transforms as t
from torch.distributions.constraints import Constraint

from pyro_models.reading.tracking import Source, Tags, Tracking

WRAPPERS = (torch.distributions.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)
BY_NAME = {"logits", "precision_matrix", "scale_tril"}
LARGEST = 4
"""How many numbers a constant may have to be shown."""
ARGUMENTS = "\ue002"
"""What stands for the arguments of a function, until their names are known."""


def layers(fn: Any) -> list[Any]:
    """Return a distribution and what is under its layers of batch, event and mask: the last one has the parameters."""
    return [fn, *layers(fn.base_dist)] if isinstance(fn, WRAPPERS) else [fn]


def parameter_names(fn: Any) -> list[str]:
    """Name the parameters that a distribution was made with, where it or the category in it holds them."""
    base = layers(fn)[-1]
    known, held = list(getattr(base, "arg_constraints", {})), vars(base) | vars(getattr(base, "_categorical", base))
    names = [name for name in known if name in held] or known
    given = held.get("_param")  # of the two that a category may be made with, the other is computed when needed
    return [name for name in names if name not in ("probs", "logits") or given is None or held[name] is given] or names


def described(fn: Any, names: Sequence[str], write: Callable[[str, Any], str] = lambda name, _: name) -> str:
    """Write a distribution.

    Args:
        fn: the distribution.
        names: of the parameters that it was made with.
        write: how to write a parameter, from its name and value; by default, its name.

    Example:
        >>> described(dist.Normal(torch.zeros(2), 1.0).to_event(1), ["loc", "scale"], Numbers(Tracking()).write)
        'Normal(0, 1)'
    """
    base = layers(fn)[-1]

    def part(fn: Any) -> str:
        return described(fn, parameter_names(fn), write)

    if type(base).__name__ == "TransformedDistribution":
        return f"{part(base.base_dist)} → {', '.join(_layers(base.transforms))}"
    if isinstance(base, torch.distributions.MixtureSameFamily):
        number = base.mixture_distribution.param_shape[-1]
        return f"mixture of {number} {part(base.component_distribution)} by {part(base.mixture_distribution)}"
    if isinstance(base, dist.MaskedMixture):
        return f"mixture of {part(base.component0)} and {part(base.component1)}"
    parts = {name: write(name, getattr(base, name, None)) for name in names}
    if isinstance(base, dist.Delta) and parts.get("log_density") == "0":
        del parts["log_density"]
    return f"{type(base).__name__}({', '.join(parts.values())})"


class Numbers:
    """Write parameters: constants as numbers, copies of a value as its name, all else as functions.

    Attributes:
        tracking: knows what a parameter is computed from.
        copied: what is named.
        functions: what each function is of, in the order in which `ARGUMENTS` stand in what was written.
    """

    def __init__(self, tracking: Tracking):
        self.tracking = tracking
        self.copied: frozenset[Source] = frozenset()
        self.functions: list[frozenset[Source]] = []

    def write(self, name: str, value: Any) -> str:
        """Write a parameter."""
        if not isinstance(value, Tensor | int | float):
            return name
        tags = self.tracking.of(value)
        prefix = f"{name}=" if name in BY_NAME else ""
        if tags.copied and tags.origin:
            self.copied |= tags.sources
            return prefix + _referred(tags)
        if tags.sources:
            self.functions.append(tags.sources)
            return name + ARGUMENTS
        return prefix + number if (number := _number(value)) else name


def _number(value: Any) -> str:
    """Write a constant, where it is not too large."""
    numbers = torch.as_tensor(value).detach()
    flat = numbers.flatten()
    if len(flat) and bool((flat == flat[0]).all()):
        return f"{flat[0].item():g}"
    if numbers.ndim > 1 and bool((numbers == torch.eye(*numbers.shape[-2:]).to(numbers)).all()):
        return "I"
    if numbers.ndim and len(flat) == numbers.shape[-1] <= LARGEST:
        return f"[{', '.join(f'{number:g}' for number in flat.tolist())}]"
    return ""


def _referred(tags: Tags) -> str:
    """Name the value that a copy is of, as `locs[k]` where other values say which of its elements."""
    assert tags.origin
    index = sorted(
        name.removeprefix("input ") for kind, name in tags.sources - {tags.origin} if kind in ("site", "input")
    )
    return tags.origin[1].removeprefix("input ") + (f"[{', '.join(index)}]" if index else "")


def _layers(transforms: Sequence[Any]) -> list[str]:
    """Name transforms in order; those that repeat, or repeat in turn, by their number."""
    names = list(chain.from_iterable(map(_names, transforms)))
    for period in range(1, len(names) // 2 + 1):
        if names == names[:period] * (len(names) // period) and len(names) % period == 0:
            body = names[0] if period == 1 else f"({', '.join(names[:period])})"
            return [f"{len(names) // period} × {body}"]
    groups = [(name, len(list(group))) for name, group in groupby(names)]
    return [name if number == 1 else f"{number} × {name}" for name, number in groups]


def _names(transform: Any) -> list[str]:
    """Name what a transform does, one after the other; nothing where it is the identity."""
    if isinstance(transform, t.ComposeTransform):
        return list(chain.from_iterable(map(_names, transform.parts)))
    if isinstance(transform, t.IndependentTransform):
        return _names(transform.base_transform)
    if type(transform).__name__ == "_InverseTransform":
        return [f"{name}⁻¹" for name in reversed(_names(transform.inv))]
    return [type(transform).__name__.removesuffix("Transform")]


def to_support(constraint: Constraint | None) -> str:
    """Name what takes real numbers to a support; empty where nothing is needed, or where it is discrete.

    Example:
        >>> to_support(dist.HalfCauchy(1.0).support)
        'exp'
    """
    try:
        names = _layers([biject_to(constraint)])
    except NotImplementedError:
        return ""
    names = [name.lower() for name in names if name != "Affine"]
    return ", ".join(names)


def kernel(module: Any) -> str:
    """Write a kernel of `pyro.contrib.gp`, sums and products by their signs.

    Example:
        >>> import pyro.contrib.gp.kernels as kernels
        >>> kernel(kernels.Sum(kernels.RBF(1), kernels.Product(kernels.Linear(1), 2.0)))
        'RBF + Linear · 2'
    """
    sign = {"Sum": "+", "Product": "·"}.get(type(module).__name__)
    if sign:
        parts = [kernel(part) if callable(part) else f"{float(part):g}" for part in (module.kern0, module.kern1)]
        return f" {sign} ".join(f"({part})" if sign == "·" and " + " in part else part for part in parts)
    inner = getattr(module, "kern", None)
    return type(module).__name__ + (f"({kernel(inner)})" if inner is not None else "")
