"""What does a pair say? A program read as factors, and written as text, LaTeX and graphs; imported when first used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
