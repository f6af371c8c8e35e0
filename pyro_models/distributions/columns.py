"""Columns of a table under a likelihood each: cells that are missing (NaN) do not count, and each group is a site."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_models.base.names import COLUMN_TYPES, sites_of
from pyro_models.distributions.pixels import ContinuousBernoulli

SINGLE = torch.Size()
SPEED = 20.0  # by which a column's own parameters move faster than weights: a small table has few steps
LEAST = 0.01  # of the scale of standardised numbers, whose rounding would leave their density unbounded
EXTRA: dict[str, dict[str, float]] = {
    "normal": {"scale": 0.0},
    "student-t": {"scale": 0.0, "df": 1.0},
    "negative-binomial": {"total": 0.0},
    "beta": {"concentration": 2.0},
}
"""The positive parameters of a column beside the decoder's output, and the logarithms that they start from."""


class Incomplete(dist.MaskedDistribution):
    """Independent numbers of which some are missing, NaN: those have a log-density of 0, and no gradient.

    With values that are missing at random this is the likelihood of the others (Rubin, 1976; for VAEs Nazabal et al.,
    HI-VAE, 2020, equation 3; Mattei and Frellsen, MIWAE, 2019). Draws are complete.

    >>> Incomplete(dist.Normal(0.0, 1.0)).log_prob(torch.tensor([0.0, torch.nan]))
    tensor([-0.9189,  0.0000])
    """

    base_dist: TorchDistribution

    def __init__(self, base_dist: TorchDistribution):
        super().__init__(base_dist, True)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Incomplete":
        """Return the same with its batch shape expanded."""
        return super().expand(batch_shape, self._get_checked_instance(Incomplete, _instance))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density, nats, 0 where a value is NaN."""
        known = ~value.isnan()
        support: Any = self.base_dist.support
        inside = 0.0 if support.is_discrete else 0.5  # of every support here
        return self.base_dist.log_prob(value.where(known, inside)).where(known, 0.0)


class Ordinal(dist.Categorical):
    """Levels 0, 1, ... in an order: level k where a predictor plus logistic noise lies between cutpoints k and k + 1.

    p(level <= k) = sigmoid(cutpoint_k - predictor) (McCullagh, Regression models for ordinal data, 1980). Pyro's
    `OrderedLogistic` is the same with probabilities that are rounded to 1e-7.

    >>> Ordinal(torch.tensor(0.0), torch.tensor([-1.0, 1.0])).probs.round(decimals=4)
    tensor([0.2689, 0.4621, 0.2689])

    Args:
        predictor: [*batch].
        cutpoints: ascending, [*batch, levels - 1]; infinite ones at the end leave no probability to levels behind.
    """

    def __init__(self, predictor: Tensor, cutpoints: Tensor, validate_args: bool | None = None):
        least = torch.finfo(predictor.dtype).min
        ends = [F.pad(cutpoints, sides, value=end) for sides, end in (((0, 1), math.inf), ((1, 0), -math.inf))]
        above, below = ends
        void = below == math.inf
        above, below = (end.where(end.isfinite(), sign * 1e4) for end, sign in ((above, 1), (below, -1)))
        width = (above - below).where(~void, 1.0)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), whose logarithm does not cancel
        logits = F.logsigmoid(above - predictor[..., None]) + F.logsigmoid(predictor[..., None] - below)
        logits = (logits + (-(-width).expm1()).log()).where(~void, least)
        super().__init__(logits=logits, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Ordinal":
        """Return the same with its batch shape expanded."""
        return super().expand(torch.Size(batch_shape), self._get_checked_instance(Ordinal, _instance))

    @property
    def mean(self) -> Tensor:
        """The expected level, [*batch]."""
        return self.probs @ torch.arange(self.logits.shape[-1]).to(self.probs)


class OneHotColumns(TorchDistribution):
    """Several independent categories, one-hot, side by side; a column of NaN is missing, and does not count.

    >>> OneHotColumns(torch.zeros(5), (2, 3)).log_prob(torch.tensor([0.0, 1, torch.nan, torch.nan, torch.nan]))
    tensor(-0.6931)

    Args:
        logits: [*batch, sum of sizes].
        sizes: how many values each category has.
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}
    support = constraints.real_vector  # NaN, where missing, is of no support

    def __init__(self, logits: Tensor, sizes: Sequence[int], validate_args: bool | None = None):
        self.sizes = tuple(sizes)
        self.logits = torch.cat([part.log_softmax(-1) for part in logits.split(self.sizes, -1)], -1)
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Self | None = None) -> Self:
        """Return the same with its batch shape expanded."""
        new = self._get_checked_instance(OneHotColumns, _instance)
        new.sizes, new.logits = self.sizes, self.logits.expand(*batch_shape, -1)
        super(OneHotColumns, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def sample(self, sample_shape: Any = SINGLE) -> Tensor:
        """Draw [*sample_shape, *batch, sum of sizes]."""
        parts = [dist.OneHotCategorical(logits=part) for part in self.logits.split(self.sizes, -1)]
        return torch.cat([part.sample(torch.Size(sample_shape)) for part in parts], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability, nats."""
        return (value.nan_to_num(0.0) * self.logits).sum(-1)

    @property
    def mean(self) -> Tensor:
        """The probabilities, [*batch, sum of sizes]."""
        return self.logits.exp()


class Columns(TorchDistribution):
    """Rows of a table whose groups of columns have a distribution each, independent given what these depend on.

    Args:
        parts: by site, the distribution of the columns of a group.
        index: by site, the numbers of these columns in a row.
    """

    arg_constraints: ClassVar = {}
    support = constraints.real_vector

    def __init__(self, parts: Mapping[str, TorchDistribution], index: Mapping[str, Tensor]):
        self.parts, self.index = dict(parts), dict(index)
        size = sum(len(each) for each in index.values())
        super().__init__(next(iter(parts.values())).batch_shape, torch.Size([size]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Self | None = None) -> Self:
        """Return the same with its batch shape expanded."""
        new = self._get_checked_instance(Columns, _instance)
        new.parts, new.index = {site: part.expand(batch_shape) for site, part in self.parts.items()}, self.index
        super(Columns, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        return new

    def concatenated(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the values of all groups, [..., columns of a group] by site, as rows [..., columns]."""
        order = torch.cat([self.index[site] for site in values]).argsort()
        return torch.cat([value.to(torch.get_default_dtype()) for value in values.values()], -1)[..., order]

    def sample(self, sample_shape: Any = SINGLE) -> Tensor:
        """Draw rows."""
        return self.concatenated({site: part.sample(torch.Size(sample_shape)) for site, part in self.parts.items()})

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density of rows, nats."""
        return sum((part.log_prob(value[..., self.index[site]]) for site, part in self.parts.items()), torch.zeros(()))

    @property
    def mean(self) -> Tensor:
        """The mean of each column: of a category the probabilities, of ordered levels the expected one."""
        return self.concatenated({site: part.mean for site, part in self.parts.items()})


def observe(site: str, fn: TorchDistribution, obs: Tensor | None) -> Tensor:
    """Do as `pyro.sample` does, and of `Columns` sample the site of each group of them; observed, where `obs` is given.

    >>> from pyro import poutine
    >>> reals, counts = dist.Normal(torch.zeros(2), 1.0).to_event(1), dist.Poisson(torch.ones(1)).to_event(1)
    >>> index = {"x_reals": torch.tensor([0, 2]), "x_counts": torch.tensor([1])}
    >>> rows = Columns({"x_reals": reals, "x_counts": counts}, index)
    >>> list(poutine.trace(observe).get_trace("x", rows, torch.zeros(3)).observation_nodes)
    ['x_reals', 'x_counts']

    Returns:
        all values together, [..., *shape].
    """
    if not isinstance(fn, Columns):
        return pyro.sample(site, fn, obs=obs)
    given = {name: None if obs is None else obs[..., index] for name, index in fn.index.items()}
    return fn.concatenated({name: pyro.sample(name, part, obs=given[name]) for name, part in fn.parts.items()})


class ColumnLikelihood(nn.Module):
    """From a decoder's output to the distribution of rows of a table; parameters beside it are learned, one a column.

    Of numbers the output is the location; of bits and categories logits, one for each of their features; of counts the
    logarithm of the rate and of shares the logit of the mean; of ordered levels what cutpoints are set against. Where
    all columns have one likelihood, the site is `x`; else each has its own.

    >>> likelihood = ColumnLikelihood([("normal", 1), ("categorical", 3), ("negative-binomial", 1)])
    >>> {site: list(part.event_shape) for site, part in likelihood(torch.zeros(7, 5)).parts.items()}
    {'x_reals': [1], 'x_counts': [1], 'x_categories': [3]}

    Args:
        columns: the likelihood of each column, and its number of features; of ordered levels, which have one feature,
            the number of levels.
        scale: the standard deviation of the normal columns; None learns one for each.
        loc, spread: of the output, by which the decoder's is shifted and scaled, [features]; None: 0 and 1.
    """

    cuts: Tensor
    loc: Tensor
    spread: Tensor

    def __init__(
        self,
        columns: Sequence[tuple[str, int]],
        scale: float | None = None,
        loc: Tensor | None = None,
        spread: Tensor | None = None,
    ):
        super().__init__()
        self.sites, self.scale = sites_of([likelihood for likelihood, _ in columns]), scale
        self.sizes: dict[str, list[int]] = {likelihood: [] for likelihood in self.sites}
        index: dict[str, list[int]] = {likelihood: [] for likelihood in self.sites}
        first = 0
        for likelihood, size in columns:
            last = first + (1 if likelihood == "ordinal" else size)
            index[likelihood] += range(first, last)
            self.sizes[likelihood].append(size)
            first = last
        buffers = {f"index {likelihood}": torch.tensor(members) for likelihood, members in index.items()}
        buffers["loc"] = torch.zeros(first) if loc is None else loc
        buffers["spread"] = torch.ones(first) if spread is None else spread
        self.extra = nn.ParameterDict()
        for likelihood in self.sites:
            for name in EXTRA.get(likelihood, ()):
                if likelihood != "normal" or scale is None:
                    self.extra[f"{likelihood} {name}"] = nn.Parameter(torch.zeros(len(index[likelihood])))
        if "ordinal" in self.sites:
            buffers["first cuts"] = _equal_cuts(self.sizes["ordinal"])
            self.cuts = nn.Parameter(torch.zeros_like(buffers["first cuts"]))
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    @property
    def index(self) -> dict[str, Tensor]:
        """By site, the numbers of its features in a row."""
        return {site: self.get_buffer(f"index {likelihood}") for likelihood, site in self.sites.items()}

    def forward(self, output: Tensor) -> TorchDistribution:
        """Return the distribution of rows, event shape [features]."""
        output, index, parts = self.loc + self.spread * output, self.index, {}
        for likelihood, site in self.sites.items():
            fn = self._of(likelihood, output[..., index[site]] if len(index) > 1 else output)
            parts[site] = fn if isinstance(fn, OneHotColumns) else Incomplete(fn).to_event(1)
        return Columns(parts, index) if len(parts) > 1 else next(iter(parts.values()))

    def _of(self, likelihood: str, output: Tensor) -> TorchDistribution:
        """Return the distribution of the columns of a likelihood: batch shape [..., columns], but of categories."""
        of = {
            name: (start + SPEED * self.extra[f"{likelihood} {name}"]).exp()
            for name, start in EXTRA.get(likelihood, {}).items()
            if f"{likelihood} {name}" in self.extra
        }
        match likelihood:
            case "normal":
                return dist.Normal(output, of["scale"].clamp(min=LEAST) if self.scale is None else self.scale)
            case "student-t":
                return dist.StudentT(2 + of["df"], output, of["scale"].clamp(min=LEAST))
            case "poisson":
                return dist.Poisson(output.exp())
            case "negative-binomial":
                return dist.NegativeBinomial(of["total"], logits=output - of["total"].log())
            case "bernoulli":
                return dist.Bernoulli(logits=output)
            case "categorical":
                return OneHotColumns(output, self.sizes[likelihood])
            case "ordinal":
                return Ordinal(output, self._cutpoints())
            case "beta":
                mean = output.sigmoid().clamp(1e-4, 1 - 1e-4)
                return dist.Beta(of["concentration"] * mean, of["concentration"] * (1 - mean))
            case _:
                return ContinuousBernoulli(logits=output)

    def _cutpoints(self) -> Tensor:
        """Return ascending cutpoints, [columns, most levels - 1], infinite behind a column's own."""
        cuts: Tensor = self.get_buffer("first cuts") + SPEED * self.cuts
        cuts = torch.cat([cuts[:, :1], cuts[:, :1] + cuts[:, 1:].exp().cumsum(-1)], -1)
        own = torch.tensor(self.sizes["ordinal"], device=cuts.device)[:, None] - 1
        return cuts.masked_fill(torch.arange(cuts.shape[1], device=cuts.device) >= own, math.inf)


def table_likelihood(columns: Sequence[Any], scale: float | None) -> nn.Module:
    """Return the likelihood of a table's rows; where all columns are normal under one scale, of x as a whole.

    Args:
        columns: as of `pyro_models.data.Preprocessing`.
        scale: the standard deviation of the normal columns; None learns one for each.
    """
    each = [column for column in columns for _ in column.names]
    log = [column.likelihood in COLUMN_TYPES["counts"] for column in each]
    loc = torch.tensor([column.loc if count else 0.0 for column, count in zip(each, log, strict=True)])
    spread = torch.tensor([column.scale if count else 1.0 for column, count in zip(each, log, strict=True)])
    sizes = [len(column.categories) if column.likelihood == "ordinal" else len(column.names) for column in columns]
    likelihoods = [column.likelihood for column in columns]
    return ColumnLikelihood(list(zip(likelihoods, sizes, strict=True)), scale, loc, spread)


def _equal_cuts(levels: Sequence[int]) -> Tensor:
    """Return where levels are equally likely at 0: the first cutpoint, and the logarithms of the gaps after it."""
    most = max(levels, default=2)
    shares = torch.stack([(torch.arange(1, most) / count).clamp(max=1 - 0.5 / count) for count in levels or [2]])
    cuts = shares.logit()
    return torch.cat([cuts[:, :1], cuts.diff().clamp(min=1e-2).log()], -1)
