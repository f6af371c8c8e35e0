"""Criticism: what a trained pair is worth, in figures, pictures and a page."""

from pyro_models.criticism.calibration import calibrate
from pyro_models.criticism.checks import check
from pyro_models.criticism.gap import gap
from pyro_models.criticism.inference_data import as_arviz
from pyro_models.criticism.likelihood import evidence, log_likelihood
from pyro_models.criticism.metrics import codes, decode, evaluate, reconstruct
from pyro_models.criticism.replicates import replicate
from pyro_models.criticism.story import Story, story, story_of

__all__ = [
    "Story",
    "as_arviz",
    "calibrate",
    "check",
    "codes",
    "decode",
    "evaluate",
    "evidence",
    "gap",
    "log_likelihood",
    "reconstruct",
    "replicate",
    "story",
    "story_of",
]
