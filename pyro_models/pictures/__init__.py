"""Pictures for recipes to list: each draws figures of a run, by the names of their files; imported when first used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
