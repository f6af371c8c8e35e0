"""Criticism: what a trained pair is worth, in figures, pictures and a page."""

from pyro_models.criticism.likelihood import log_likelihood
from pyro_models.criticism.metrics import codes, decode, evaluate, reconstruct
from pyro_models.criticism.story import Story, story, story_of

__all__ = ["Story", "codes", "decode", "evaluate", "log_likelihood", "reconstruct", "story", "story_of"]
