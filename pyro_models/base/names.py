"""The names of data sets and pixel modes, and limits, for the command line, which does not import torch."""

import os
from pathlib import Path
from typing import Literal

from pyro_models.base.errors import UserError, nearest

PixelMode = Literal["grey", "dynamic", "static", "threshold"]
"""What a pixel is, and so which likelihood is meant; values of different modes do not compare.

grey: intensities in [0, 1] as they are. dynamic: drawn anew as Bernoulli(intensity) for every batch
(Salakhutdinov and Murray, 2008). static: drawn once, with a fixed seed: not the
files of Larochelle and Murray (2011). threshold: 1 above one half.
"""

SplitName = Literal["official", "article", "iid", "compositional"]
"""How training, validation and test data are chosen: see `split` of `pyro_models.data.load`."""

IMAGES = ("digits", "mnist", "fashion-mnist", "kmnist")
SOURCES = ("digits", "mnist")
COMPOSED = {"attributes": "digits", "mnist-a": "mnist"}
"""The data sets of images with several attributes, and the source that they are made from by default."""
TABLES = ("blobs", "moons", "pinwheel", "wine", "iris")
DATASETS = (*IMAGES, *COMPOSED, *TABLES)
FILES = (".npy", ".npz", ".csv", ".parquet")
DATA_DIR_VARIABLE = "PYRO_MODELS_DATA"
WEIGHTED = ("iwae", "renyi", "rws", "dreg")
"""The estimators whose bound weighs several particles by importance."""
FEWEST_REPLICATES = 39
"""With fewer, even a statistic beyond all replicates has a p-value above 0.05."""
MEGABYTES = 6.0
"""The largest size of a run's page."""


def check_name(name: str) -> str:
    """Return `name` if it is that of a data set, or of an existing file with a known suffix.

    Raises:
        UserError: it is neither; the message suggests the nearest name.
    """
    if name in DATASETS:
        return name
    if Path(name).suffix in FILES:
        if not Path(name).is_file():
            raise UserError(f"no such file: {name}")
        return name
    raise UserError(f"unknown data set {name!r}: {nearest(name, DATASETS)}, or give a {', '.join(FILES)} file")


def data_dir(option: Path | None) -> Path:
    """Return the folder of the data sets: the option, else the environment variable, else `datasets`."""
    return option or Path(os.environ.get(DATA_DIR_VARIABLE) or "datasets")
