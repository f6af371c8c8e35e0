"""The names of data sets and pixel modes, and limits, for the command line, which does not import torch."""

import ast
import os
import pkgutil
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from pyro_models.base.errors import UserError, first_line, nearest

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
COLUMN_TYPES = {
    "reals": ("normal", "student-t"),
    "counts": ("negative-binomial", "poisson"),
    "binary": ("bernoulli",),
    "categories": ("categorical",),
    "ordinals": ("ordinal",),
    "shares": ("continuous-bernoulli", "beta"),
}
"""The types of a table's columns, and the likelihoods that each may have, its usual one first."""
FEWEST_REPLICATES = 39
"""With fewer, even a statistic beyond all replicates has a p-value above 0.05."""
HUB = "hub:"
"""What stands before the name of a run on the Hugging Face Hub, as in hub:USER/NAME."""
MEGABYTES = 6.0
"""The largest size of a run's page."""
NAME = re.compile(r"([^\W\d]\w*(\.[^\W\d]\w*)*:)?[^\W\d]\w*")
"""NAME, or MODULE:NAME."""


def program() -> str:
    """Return what the user calls this program: `pyro-stories`, `python -m pyro_models`, or `python train.py`."""
    path = Path(sys.argv[0])
    if path.parent.name == "pyro_models":
        return "python -m pyro_models"
    return "python train.py" if path.name == "train.py" else "pyro-stories"


def command(verb: str) -> str:
    """Return the words that start a verb, as the user calls this program."""
    name = program()
    if name == "python train.py":
        return name if verb == "train" else f"python -m pyro_models {verb}"
    return f"{name} {verb}"


def parse_call(spec: str) -> tuple[str, dict[str, Any]]:
    """Read NAME, or NAME(option=value, ...) whose values are Python literals; NAME may be MODULE:NAME.

    >>> parse_call("AdamW(weight_decay=0.01)"), parse_call("constant"), parse_call("my.module:Own()")
    (('AdamW', {'weight_decay': 0.01}), ('constant', {}), ('my.module:Own', {}))

    Raises:
        UserError: it is neither.
    """
    name, bracket, options = spec.partition("(")
    name = name.strip()
    try:
        call = ast.parse(f"_({options if bracket else ')'}", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and NAME.fullmatch(name)):
            raise ValueError
        if call.args or None in [word.arg for word in call.keywords]:
            raise ValueError
        return name, {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError):
        raise UserError(
            f"{spec!r}: give NAME, NAME(option=value) or MODULE:NAME, as AdamW(weight_decay=0.01)"
        ) from None


def imported(spec: str, option: str = "", kind: str = "NAME") -> Any:
    """Return what MODULE:NAME names; modules are looked for in the working folder first.

    Args:
        spec: the name.
        option: the option that it was given by, for the error.
        kind: what is expected, for the error.

    Raises:
        UserError: there is none, or its module fails.

    >>> imported("math:sqrt")(4)
    2.0
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return pkgutil.resolve_name(spec)
    except Exception as error:  # of a module that runs when it is imported
        given = f"`{option}={spec}`" if option else spec
        raise UserError(f"{given}: {first_line(error)}; give MODULE:{kind}") from error


def sites_of(likelihoods: Collection[str]) -> dict[str, str]:
    """Return the site of each likelihood: `x` alone, or named after the type of its columns, in a fixed order.

    >>> sites_of(["poisson", "normal", "student-t", "normal"])
    {'normal': 'x_reals_normal', 'student-t': 'x_reals_student_t', 'poisson': 'x_counts'}
    """
    used = {name: [each for each in choices if each in likelihoods] for name, choices in COLUMN_TYPES.items()}
    sites = {
        likelihood: f"x_{name}" + (f"_{likelihood.replace('-', '_')}" if len(group) > 1 else "")
        for name, group in used.items()
        for likelihood in group
    }
    return dict.fromkeys(sites, "x") if len(sites) == 1 else sites


X_SITES = [
    "x",
    *(f"x_{name}" for name in COLUMN_TYPES),
    *sites_of([each for choices in COLUMN_TYPES.values() for each in choices]).values(),
]
"""All that the sites of an image or a row may be called."""


def column_likelihoods(spec: str) -> dict[str, str]:
    """Return the likelihoods that `NAME=LIKELIHOOD,...` gives to columns or to types of columns, by NAME.

    >>> column_likelihoods("counts=poisson,grade=ordinal:low/high"), column_likelihoods("columns")
    ({'counts': 'poisson', 'grade': 'ordinal:low/high'}, {})

    Raises:
        UserError: it is neither that nor `columns`, or names an unknown likelihood.
    """
    if spec == "columns":
        return {}
    words = dict(word.strip().rpartition("=")[::2] for word in spec.split(","))
    known = [each for choices in COLUMN_TYPES.values() for each in choices]
    for name, likelihood in words.items():
        if not name:
            names = ("bernoulli", "continuous-bernoulli", "normal", "columns")
            advice = "or NAME=LIKELIHOOD,... of columns"
            raise UserError(f"`likelihood`: unknown value {likelihood!r}: {nearest(likelihood, names)}, {advice}")
        plain = likelihood.partition(":")[0]
        if plain not in known or (plain != likelihood and plain != "ordinal"):
            raise UserError(f"`likelihood` of {name}: unknown value {likelihood!r}: {nearest(plain, known)}")
        if name in COLUMN_TYPES and plain not in (*COLUMN_TYPES[name], "normal", "student-t"):
            raise UserError(f"`likelihood={name}={likelihood}`: {name} are {' or '.join(COLUMN_TYPES[name])}")
    return words


def check_name(name: str) -> str:
    """Return `name` if it is that of a data set, or can be the path of a file or a folder.

    Raises:
        UserError: it is neither; the message suggests the nearest name.
    """
    if name in DATASETS or Path(name).suffix.lower() in FILES or "/" in name or Path(name).exists():
        return name
    advice = f"or give a {', '.join(FILES)} file, or a folder of images"
    raise UserError(f"unknown data set {name!r}: {nearest(name, DATASETS)}, {advice}")


def check_exists(name: str) -> None:
    """Refuse the path of a file or a folder that does not exist.

    Raises:
        UserError: there is none.
    """
    if check_name(name) not in DATASETS and not Path(name).exists():
        raise UserError(f"no such file: {name}")


def data_dir(option: Path | None) -> Path:
    """Return the folder of the data sets: the option, else the environment variable, else `datasets`."""
    return option or Path(os.environ.get(DATA_DIR_VARIABLE) or "datasets")
