"""Errors, files, names and seeds: plain Python that does not import torch, used everywhere."""
