"""Scores and terms over the epochs."""

from itertools import chain
from typing import Any

from pyro_models import plots
from pyro_models.metrics import Trained


def learning_curves(run: Trained) -> dict[str, Any]:
    """Draw the terms of the bound and the scores over the epochs, of training and validation data.

    Test data are left out: their curve would invite to choose by it.
    """
    train, validation = (_columns(run, split) for split in ("train", "validation"))
    names = {
        "learning-curves": [name for name in train if name in validation and name != "mse"],
        "learning-curves-terms": sorted(name for name in train if name not in validation and name != "loss"),
        "learning-curves-scores": [name for name in validation if name not in train],
    }
    return {title: _curves(run, each) for title, each in names.items() if each}


def error_curves(run: Trained) -> dict[str, Any]:
    """Draw the squared error of reconstructions over the epochs, of training and validation data."""
    return {"learning-curves": _curves(run, ["mse"])}


def _curves(run: Trained, names: list[str]) -> Any:
    splits = [each for each in ("train", "validation") if names[0] in _columns(run, each)]
    return plots.learning_curves(run.metrics, {name: run.recipe.unit_of(name, run.dataset) for name in names}, splits)


def _columns(run: Trained, split: str) -> list[str]:
    names = dict.fromkeys(chain.from_iterable(run.metrics))
    return [name.removeprefix(f"{split}_") for name in names if name.startswith(f"{split}_")]
