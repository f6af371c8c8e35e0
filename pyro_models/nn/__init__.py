"""Networks: maps between tensors, with no likelihood in them."""

from pyro_models.nn.conditional import Conditional
from pyro_models.nn.conv import ConvEncoder, conv_classifier, conv_component, conv_decoder, strided_classifier
from pyro_models.nn.mlp import (
    GaussianNoise,
    TransposedLinear,
    decoder,
    encoder,
    glorot,
    mlp,
    redrawn,
    residual_mlp,
    shrunk,
    size,
)
from pyro_models.nn.spatial import SpatialDecoder, spatial_classifier, spatial_encoder

__all__ = [
    "Conditional",
    "ConvEncoder",
    "GaussianNoise",
    "SpatialDecoder",
    "TransposedLinear",
    "conv_classifier",
    "conv_component",
    "conv_decoder",
    "decoder",
    "encoder",
    "glorot",
    "mlp",
    "redrawn",
    "residual_mlp",
    "shrunk",
    "size",
    "spatial_classifier",
    "spatial_encoder",
    "strided_classifier",
]
