"""Networks: maps between tensors, with no likelihood in them."""

from pyro_models.nn.mlp import TransposedLinear, decoder, encoder, mlp, residual_mlp, size

__all__ = ["TransposedLinear", "decoder", "encoder", "mlp", "residual_mlp", "size"]
