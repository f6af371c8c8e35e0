"""What is optimised: ELBO estimators as values in one table, and the handlers that reweigh their parts."""

from pyro_models.objectives.estimators import (
    ESTIMATORS,
    Objective,
    Terms,
    dreg,
    enum,
    graph,
    iwae,
    log_weights,
    mean_field,
    relaxed,
    renyi,
    rws,
    tempered,
    trace,
)
from pyro_models.objectives.handlers import AtMean, Detach, Enumerate, Record, Relax, ScaleSites, Site, recorded

__all__ = [
    "ESTIMATORS",
    "AtMean",
    "Detach",
    "Enumerate",
    "Objective",
    "Record",
    "Relax",
    "ScaleSites",
    "Site",
    "Terms",
    "dreg",
    "enum",
    "graph",
    "iwae",
    "log_weights",
    "mean_field",
    "recorded",
    "relaxed",
    "renyi",
    "rws",
    "tempered",
    "trace",
]
