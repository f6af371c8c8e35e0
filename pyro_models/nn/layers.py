"""Layers of torch that recipes build with, so that a recipe needs this package alone."""

from torch.nn import GELU, BatchNorm1d, Dropout, Identity, Linear, Module, ReLU, Sequential, Sigmoid, Tanh

__all__ = ["GELU", "BatchNorm1d", "Dropout", "Identity", "Linear", "Module", "ReLU", "Sequential", "Sigmoid", "Tanh"]
