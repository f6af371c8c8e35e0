"""The first layer of networks that read rows of a table."""

import torch
from torch import Tensor, nn


class ColumnInputs(nn.Module):
    """Rows of a table as networks take them: counts by their logarithm, all columns standardised, what is missing at 0.

    Missing cells, NaN, become the mean of their column and, where training data have any, are shown as missing beside:
    zero imputation alone leaves a network to guess which zeros are values (Nazabal et al., HI-VAE, 2020, section 4.1,
    and Mattei and Frellsen, MIWAE, 2019, feed zeros; Collier, Nazabal and Williams, VAEs in the presence of missing
    data, 2020, add the mask, and gain by it).

    >>> inputs = ColumnInputs(torch.tensor([True, False]), torch.tensor([1.0, 0.0]), torch.ones(2), masked=True)
    >>> inputs(torch.tensor([[0.0, torch.nan]]))
    tensor([[-1.,  0.,  1.,  0.]])

    Args:
        counts: whether a column is one of counts, [columns].
        loc, scale: of columns, of counts those of log(1 + count), [columns].
        masked: whether to add an input for each column, 1 where its value is known.
    """

    counts: Tensor
    loc: Tensor
    scale: Tensor

    def __init__(self, counts: Tensor, loc: Tensor, scale: Tensor, *, masked: bool):
        super().__init__()
        for name, value in (("counts", counts), ("loc", loc), ("scale", scale)):
            self.register_buffer(name, value, persistent=False)
        self.masked = masked

    @property
    def width(self) -> int:
        """The number of inputs that a row becomes."""
        return len(self.counts) * (2 if self.masked else 1)

    @property
    def is_identity(self) -> bool:
        """Whether rows are standardised already."""
        return not self.counts.any() and not self.loc.any() and bool((self.scale == 1).all())

    def standardised(self, x: Tensor) -> Tensor:
        """Return rows [..., columns] in standard deviations, NaN where missing."""
        x = torch.where(self.counts, x.clamp(min=0).log1p(), x)
        return (x - self.loc) / self.scale

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., columns] to [..., width]."""
        known = ~x.isnan()
        values = self.standardised(x.where(known, 0.0)).where(known, 0.0)
        return torch.cat([values, known.to(values)], -1) if self.masked else values

    def jittered(self, x: Tensor, amount: float) -> Tensor:
        """Return rows [..., columns] with noise of `amount` standard deviations; what is missing stays so."""
        noise = amount * self.scale * torch.randn_like(x)
        return torch.where(self.counts, ((x.log1p() + noise).expm1()).clamp(min=0), x + noise)
