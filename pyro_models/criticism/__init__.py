"""Criticism: what a trained pair is worth, in figures, pictures and a page."""

from pyro_models.criticism.likelihood import log_likelihood
from pyro_models.criticism.metrics import codes, decode, evaluate, reconstruct

__all__ = ["codes", "decode", "evaluate", "log_likelihood", "reconstruct"]
