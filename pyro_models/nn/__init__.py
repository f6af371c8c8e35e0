"""Networks: maps between tensors, with no likelihood in them."""

from pyro_models.nn.conditional import Conditional
from pyro_models.nn.conv import ConvEncoder, conv_classifier, conv_component, conv_decoder
from pyro_models.nn.mlp import TransposedLinear, decoder, encoder, mlp, residual_mlp, shrunk, size

__all__ = [
    "Conditional",
    "ConvEncoder",
    "TransposedLinear",
    "conv_classifier",
    "conv_component",
    "conv_decoder",
    "decoder",
    "encoder",
    "mlp",
    "residual_mlp",
    "shrunk",
    "size",
]
