"""Figures of arrays, drawn by matplotlib; each function returns a figure, and nothing is imported before it is used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
