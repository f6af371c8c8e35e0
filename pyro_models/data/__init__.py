"""Data sets as tensors of bytes, their splits, and the pixel modes that make likelihoods comparable."""

from pyro_models.data.batches import Batches, cut
from pyro_models.data.datasets import Dataset, Split, load
from pyro_models.data.labels import check_labels, draw_labels

__all__ = ["Batches", "Dataset", "Split", "check_labels", "cut", "draw_labels", "load"]
