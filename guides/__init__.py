"""The guides: the inference of each story, in the file of the story's name; class `X` has the guide `XGuide`.

They are imported as `pyro_models.guides`: in a checkout this folder lies beside the package, installed inside it.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any


def __getattr__(name: str) -> Any:
    """Return the guide of a name from the file of its story: `VAEGuide` is in vae.py."""
    module = f"{__name__}.{name.removesuffix('Guide').lower()}"
    if not name.endswith("Guide") or find_spec(module) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module), name)
