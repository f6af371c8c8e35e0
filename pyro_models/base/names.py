"""The names of data sets and pixel modes, and limits, for the command line, which must not wait for torch."""

import os
from pathlib import Path
from typing import Literal

from pyro_models.base.errors import UserError, nearest

PixelMode = Literal["grey", "dynamic", "static", "threshold"]
"""What a pixel is, and so which likelihood is meant; values of different modes do not compare.

grey: intensities in [0, 1] as they are. dynamic: drawn anew as Bernoulli(intensity) whenever a batch is cut
(Salakhutdinov and Murray, 2008). static: drawn so once and for all, by our own seed: not the
files of Larochelle and Murray (2011). threshold: 1 above one half.
"""

SplitName = Literal["official", "article", "iid", "compositional"]
"""Which training, validation and test data: see `split` of `pyro_models.data.load`."""

IMAGES = ("digits", "mnist", "fashion-mnist", "kmnist")
SOURCES = ("digits", "mnist")
COMPOSED = {"attributes": "digits", "mnist-a": "mnist"}
"""The sets of images with several attributes, and which of the sources they are made from if none is named."""
TABLES = ("blobs", "moons", "pinwheel", "wine", "iris")
DATASETS = (*IMAGES, *COMPOSED, *TABLES)
FILES = (".npy", ".npz", ".csv", ".parquet")
DATA_DIR_VARIABLE = "PYRO_MODELS_DATA"
WEIGHTED = ("iwae", "renyi", "rws", "dreg")
"""The estimators that weigh several particles against each other."""
FEWEST_REPLICATES = 39
"""Of fewer, not even a statistic beyond all of them is one in twenty."""
MEGABYTES = 6.0
"""What a run's page may take."""


def check_name(name: str) -> str:
    """Return `name` where it is a data set's or that of an existing file of a known kind.

    Raises:
        UserError: it is neither; the message holds the nearest name.
    """
    if name in DATASETS:
        return name
    if Path(name).suffix in FILES:
        if not Path(name).is_file():
            raise UserError(f"no such file: {name}")
        return name
    raise UserError(f"unknown data set {name!r}: {nearest(name, DATASETS)}, or name a {', '.join(FILES)} file")


def data_dir(option: Path | None) -> Path:
    """Return the folder of the data sets: the option, else the variable, else `datasets` here."""
    return option or Path(os.environ.get(DATA_DIR_VARIABLE) or "datasets")
