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
FILES = (".npy", ".npz", ".csv", ".tsv", ".parquet")
DATA_DIR_VARIABLE = "PYRO_MODELS_DATA"
WEIGHTED = ("iwae", "renyi", "rws", "dreg")
"""The estimators whose bound weighs several particles by importance."""
FEWEST_REPLICATES = 39
"""With fewer, even a statistic beyond all replicates has a p-value above 0.05."""
MEGABYTES = 6.0
"""The largest size of a run's page."""


def check_name(name: str) -> str:
    """Return `name` if it is that of a data set, or can be the path of a file or a folder.

    Raises:
        UserError: it is neither; the message suggests the nearest name.
    """
    if name in DATASETS or Path(name).suffix.lower() in FILES or "/" in name or Path(name).exists():
        return name
    advice = f"or give a {', '.join(FILES)} file, or a folder of images"
    raise UserError(f"unknown data set {name!r}: {nearest(name, DATASETS)}, {advice}", exit_code=2)


def check_exists(name: str) -> None:
    """Refuse the path of a file or a folder that does not exist.

    Raises:
        UserError: there is none.
    """
    if check_name(name) not in DATASETS and not Path(name).exists():
        raise UserError(f"no such file: {name}", exit_code=2)


def data_dir(option: Path | None) -> Path:
    """Return the folder of the data sets: the option, else the environment variable, else `datasets`."""
    return option or Path(os.environ.get(DATA_DIR_VARIABLE) or "datasets")
