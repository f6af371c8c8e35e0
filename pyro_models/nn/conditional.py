"""Networks of two inputs, one of which may have more dimensions on the left than the other."""

from torch import Tensor, nn


class Conditional(nn.Module):
    """head(body(x) + given(y)): what costs most is computed once for all y.

    Args:
        body: from x [batch, *shape] to features [batch, features].
        given: from y [..., kinds] to [..., features].
        head: from features to the output.
    """

    def __init__(self, body: nn.Module, given: nn.Module, head: nn.Module):
        super().__init__()
        self.body = body
        self.given = given
        self.head = head

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map [batch, *shape] and [..., batch, kinds], or what broadcasts to it, to [..., batch, outputs]."""
        return self.head(self.body(x) + self.given(y))
