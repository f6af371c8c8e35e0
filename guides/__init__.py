"""The guides: the inference of each story, in the file of the story's name; class `X` has the guide `XGuide`."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any


def __getattr__(name: str) -> Any:
    """Return the guide of a name from the file of its story: `VAEGuide` is in vae.py."""
    module = f"guides.{name.removesuffix('Guide').lower()}"
    if not name.endswith("Guide") or find_spec(module) is None:
        raise AttributeError(f"module 'guides' has no attribute {name!r}")
    return getattr(import_module(module), name)
