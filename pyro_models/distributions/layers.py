"""What a distribution of Pyro is made of."""

from typing import Any

WRAPPERS = ("Independent", "ExpandedDistribution", "MaskedDistribution")


def layers(fn: Any) -> list[Any]:
    """Return a distribution and what is under its layers of batch, event and mask: the last one has the parameters."""
    return [fn, *layers(fn.base_dist)] if type(fn).__name__ in WRAPPERS else [fn]


def parameter_names(fn: Any) -> list[str]:
    """Name the parameters that a distribution was made with, where it or the category in it holds them."""
    base = layers(fn)[-1]
    known, held = list(getattr(base, "arg_constraints", {})), vars(base) | vars(getattr(base, "_categorical", base))
    return [name for name in known if name in held] or known
