"""Deep generative models as readable probabilistic programs.

Each module of this package is one story, `p(x, z)`: class `VAE` is in vae.py. `pyro_models.guides` holds its inference,
`q(z | x)`, under the same file name. The sub-packages hold the machinery. Names are imported when first used, so that
importing this package does not import torch.
"""

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

__version__ = "0.1.0"

if not os.path.isdir(os.path.join(__path__[0], "guides")):  # a checkout, where they lie beside this package
    __path__.append(os.path.dirname(__path__[0]))

_PUBLIC = {
    "check": "checking.predictive",
    "compare": "likelihood.comparison",
    "fit": "training.loop",
    "load": "data.datasets",
    "log_likelihood": "likelihood.importance",
    "open_run": "runs.folder",
    "story": "reading.printer",
}


def __getattr__(name: str) -> Any:
    """Return a public function, or the story of a name from the file of that name."""
    module = f"pyro_models.{_PUBLIC.get(name, name.lower() if name[:1].isupper() else None)}"
    if find_spec(module) is None:
        raise AttributeError(f"module 'pyro_models' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
