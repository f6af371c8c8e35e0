"""Figures of arrays, drawn by matplotlib.

Each function returns a `matplotlib.figure.Figure` in the style `plots.STYLE`, which notebooks show and `plots.save`
writes as PNG, SVG or PDF: `plots.save(plots.latent_map({"z": z}, labels), Path("map.pdf"))`. Nothing is imported before
it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
