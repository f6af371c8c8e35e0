"""Data sets as tensors of bytes, their splits and attributes, and the pixel modes that make likelihoods comparable."""

from pyro_models.data.attributes import Attribute, encoded
from pyro_models.data.batches import Batches, batch_of, to_float
from pyro_models.data.datasets import Dataset, Split, load
from pyro_models.data.labels import check_labels, draw_labels

__all__ = [
    "Attribute",
    "Batches",
    "Dataset",
    "Split",
    "batch_of",
    "check_labels",
    "draw_labels",
    "encoded",
    "load",
    "to_float",
]
