"""Networks of two inputs, one of which may have more dimensions on the left than the other."""

from collections.abc import Iterator
from contextlib import contextmanager

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
        self.seen: dict[int, tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map [batch, *shape] and [..., batch, kinds], or what broadcasts to it, to [..., batch, outputs]."""
        return self.head(self.features(x) + self.given(y))

    def features(self, x: Tensor) -> Tensor:
        """Map [batch, *shape] to [batch, features]: within `once`, by one pass for each tensor."""
        if self.seen is None:
            return self.body(x)
        if id(x) not in self.seen:
            self.seen[id(x)] = (x, self.body(x))
        return self.seen[id(x)][1]

    @contextmanager
    def once(self) -> Iterator[None]:
        """Look at each tensor x once meanwhile: at the price of one pass, and with the same dropout, whatever y is."""
        self.seen = {}
        try:
            yield
        finally:
            self.seen = None
