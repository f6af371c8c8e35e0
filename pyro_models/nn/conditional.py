"""Networks of two inputs, one of which may have more dimensions on the left than the other."""

from torch import Tensor, nn


class Conditional(nn.Module):
    """head(body(x) + given(y)): what costs most is computed once for all y.

    Args:
        body: from x [batch, *shape] to features [batch, features].
        given: from y [..., size] to [..., features].
        head: from features to the output.
    """

    def __init__(self, body: nn.Module, given: nn.Module, head: nn.Module):
        super().__init__()
        self.body = body
        self.given = given
        self.head = head

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map [batch, *shape] and [..., batch, size], or what broadcasts to it, to [..., batch, outputs]."""
        return self.combine(self.body(x), y)

    def combine(self, features: Tensor, y: Tensor) -> Tensor:
        """Map what `body` made of x and a y to what `forward` returns: one pass over x, one dropout, for several y."""
        return self.head(features + self.given(y))
