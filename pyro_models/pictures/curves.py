"""Scores and terms over the epochs."""

from collections.abc import Mapping
from typing import Any

from pyro_models import plots
from pyro_models.metrics import Trained


def learning_curves(run: Trained) -> dict[str, Any]:
    """Draw the terms of the bound, training and test together and each alone; terms and scores that only one has."""
    train, test = (_columns(run.metrics[0], split) for split in ("train", "test"))
    common = [name for name in train if name in test and name != "mse"]
    training_only = sorted(name for name in train if name not in test and name != "loss")
    return _bound_curves(run, common) | {
        f"learning-curves-{title}": plots.learning_curves(run.metrics, _units(run, names), splits)
        for title, names, splits in (
            ("terms", training_only, ["train"]),
            ("scores", [name for name in test if name not in train], ["validation", "test"]),
        )
        if names
    }


def error_curves(run: Trained) -> dict[str, Any]:
    """Draw the squared error of reconstructions: training and test together, and each alone."""
    return _bound_curves(run, ["mse"])


def _bound_curves(run: Trained, names: list[str]) -> dict[str, Any]:
    units = _units(run, names)
    return {
        "learning-curves": plots.learning_curves(run.metrics, units),
        "learning-curves-train": plots.learning_curves(run.metrics, units, ["train"]),
        "learning-curves-test": plots.learning_curves(run.metrics, units, ["test"]),
    }


def _columns(row: Mapping[str, float], split: str) -> list[str]:
    return [name.removeprefix(f"{split}_") for name in row if name.startswith(f"{split}_")]


def _units(run: Trained, names: list[str]) -> dict[str, str]:
    return {name: run.recipe.unit_of(name, run.dataset) for name in names}
