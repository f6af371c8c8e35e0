"""Data sets as tensors of bytes, their splits, and the pixel modes that make likelihoods comparable."""

from pyro_models.data.batches import Batches, cut
from pyro_models.data.datasets import Dataset, Split, load
from pyro_models.data.labels import labelled

__all__ = ["Batches", "Dataset", "Split", "cut", "labelled", "load"]
