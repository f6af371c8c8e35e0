"""The inference of each story, under the story's file name: class `X` has the guide `XGuide`; imported when first used."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Return the guide of a name from the file of its story: `VAEGuide` is in vae.py."""
    if not name.endswith("Guide"):
        raise AttributeError(f"module 'guides' has no attribute {name!r}")
    try:
        return getattr(import_module(f"guides.{name.removesuffix('Guide').lower()}"), name)
    except ModuleNotFoundError as error:
        raise AttributeError(f"module 'guides' has no attribute {name!r}: {error}") from None
