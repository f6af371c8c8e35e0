"""What is optimised: ELBO estimators as values in one table, and the handlers that reweigh their parts."""

from pyro_models.objectives.estimators import (
    ESTIMATORS,
    Objective,
    Terms,
    iwae,
    log_weights,
    mean_field,
    renyi,
    tempered,
    trace,
)
from pyro_models.objectives.handlers import AtMean, Record, ScaleSites, Site, recorded

__all__ = [
    "ESTIMATORS",
    "AtMean",
    "Objective",
    "Record",
    "ScaleSites",
    "Site",
    "Terms",
    "iwae",
    "log_weights",
    "mean_field",
    "recorded",
    "renyi",
    "tempered",
    "trace",
]
