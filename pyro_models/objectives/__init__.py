"""What is optimised: ELBO estimators as values in one table, and the handlers that reweigh their parts."""

from pyro_models.objectives.estimators import (
    ESTIMATORS,
    Objective,
    Terms,
    iwae,
    log_weights,
    mean_field,
    renyi,
    trace,
)
from pyro_models.objectives.handlers import AtMean, ScaleSites, tempered

__all__ = [
    "ESTIMATORS",
    "AtMean",
    "Objective",
    "ScaleSites",
    "Terms",
    "iwae",
    "log_weights",
    "mean_field",
    "renyi",
    "tempered",
    "trace",
]
