"""A trained pair put to use on new data: latents, reconstructions, clusters or classes, log p(x), samples, imputation.

What is computed for a datum depends on the datum, the seed and the number of samples alone. New data go through the
preprocessing of the run; networks are evaluated in double precision and their results rounded to single, so that what
stands in the same batch does not show in the last digit; and random numbers are common to all data (`CommonNoise`).
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from pyro_models.base.errors import UserError, nearest
from pyro_models.base.seeds import seed_noise
from pyro_models.data import Dataset, Preprocessing, Split, cells, sources, to_float
from pyro_models.data.preprocessing import binarised
from pyro_models.distributions import Columns
from pyro_models.likelihood.importance import DRAWS, Evidence, batch_size, shares
from pyro_models.metrics import distribution_of_x, eval_mode, reconstruct
from pyro_models.metrics import encode as encode_batches
from pyro_models.objectives import AtMean, CommonNoise, Record, log_weights
from pyro_models.objectives.draws import draw
from pyro_models.objectives.handlers import base_of, takes_missing
from pyro_models.recipes import Recipe
from pyro_models.training.capture import same, state_of

AT_ONCE = 1000
REPEATS = 10  # draws of x for each draw of the latents, for intervals
ROUNDS = 5  # of filling what is missing by its reconstruction, before it is averaged over draws


@dataclass(frozen=True)
class Prediction:
    """The cluster, the class or the value of an attribute of each datum.

    Attributes:
        values: the likeliest one's name, [n].
        probabilities: of all of them, [n, categories].
        categories: their names.
        site: what they are values of: `y`, or the attribute's name.
    """

    values: np.ndarray
    probabilities: np.ndarray
    categories: tuple[str, ...]
    site: str = "y"


@dataclass(frozen=True)
class Scores:
    """A score of each datum, in nats: higher is likelier.

    Attributes:
        values: [n].
        errors: standard deviations of the values over other draws, [n]; 0 where nothing is drawn.
        meaning: what they are.
        unit: nats, and of what.
    """

    values: np.ndarray
    errors: np.ndarray
    meaning: str
    unit: str

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.values.astype(dtype or self.values.dtype)


class Inference:
    """What can be asked of a trained pair about data that it has not seen; a `Run` answers all of it.

    Everywhere `x` are data as `pyro_models.load` takes them, a file's path, an array, a data frame, ..., or a `Split`
    of `run.dataset` or of `run.preprocessing.apply`, whose `ids` name the rows of the answers.
    """

    recipe: Recipe
    dataset: Dataset
    model: nn.Module
    guide: nn.Module

    def prepared(self, x: Any) -> Split:
        """Return data as the pair takes them, on its device.

        Raises:
            UserError: a column is missing or unknown, or images are of another size, as `Preprocessing.apply`.
        """
        split = x if isinstance(x, Split) else _preprocessing(self.dataset).apply(x)
        if self.recipe.pixels == "dynamic":  # drawn by the content of each datum, so that it does not change
            split = binarised(split, "static", None)
        return split.to(self.dataset.device)

    def encode(self, x: Any) -> np.ndarray:
        """Return the mean of q(z | x), of a discrete y at its likeliest value: [n, latent].

        Raises:
            UserError: the model has no latent z; or as `prepared`.
        """
        self._check_latent()
        split = self.prepared(x)
        with in_double(self) as (_, guide):
            batches = (self.recipe.inputs_of(batch) for batch in self._batches(split))
            return _rounded(encode_batches(guide, batches, site=self.recipe.latent_site))

    def reconstruct(self, x: Any) -> np.ndarray:
        """Return the mean of p(x | z) at the mean of q(z | x): images [n, channel, height, width] of 0 to 1, or rows.

        Rows, [n, features], are in the units of the table; a category's features are its probability, or 0 to 1.

        Raises:
            UserError: the model generates no x; or as `prepared`.
        """
        self._check_latent()
        split = self.prepared(x)
        with in_double(self) as (model, guide):
            parts = [reconstruct(model, guide, self.recipe.inputs_of(batch)) for batch in self._batches(split)]
        return self._in_units(torch.cat(parts))

    def decode(self, z: Any) -> np.ndarray:
        """Return the mean of p(x | z) at latents [n, latent], as `reconstruct` does.

        Raises:
            UserError: the model generates no x from z alone, or latents are of another size.
        """
        self._check_latent()
        latents = torch.tensor(np.asarray(z), dtype=torch.float64, device=self.dataset.device)
        if self.recipe.beside_z:
            raise UserError(f"what z decodes to depends on {self.recipe.beside_z}, which differs from datum to datum")
        with in_double(self) as (model, _):
            with AtMean(), Record() as p:
                model(batch=1)
            size = list(p.sites[self.recipe.latent_site].value.shape[1:])
            if list(latents.shape[1:]) != size:
                raise UserError(f"latents must be [n, {size[0]}], not {list(latents.shape)}")
            values = {self.recipe.latent_site: replace(p.sites[self.recipe.latent_site], value=latents)}
            with AtMean(), Record(values) as p:
                model(batch=len(latents))
        return self._in_units(distribution_of_x(model, p.sites).mean)

    def predict(self, x: Any, *, attribute: str | None = None, samples: int = 100, seed: int = 0) -> Prediction:
        """Return the cluster or the class of each datum under q(y | x), or the value of an attribute.

        Args:
            x: the data.
            attribute: its name, where the model has several; p(y | x) is its mean over draws of q(z | x).
            samples: these draws.
            seed: of them.

        Raises:
            UserError: the model infers neither, or has several attributes and none is named; or as `prepared`.
        """
        if hasattr(self.model, "heads"):
            return self._predict_attribute(x, attribute, samples, seed)
        if not hasattr(self.guide, "classify"):
            raise UserError(f"the {self.recipe.name} infers no clusters and no classes: gmvae and classifier do")
        split, names = self.prepared(x), tuple(self.recipe.category_names(self.dataset))
        with in_double(self) as (_, guide):
            images = (to_float(x, self.recipe.pixels) for x in split.x.split(AT_ONCE))
            parts = [guide.classify(x).probs for x in images]  # type: ignore[operator]
        return _prediction(torch.cat(parts), names, "y")

    def score(self, x: Any, *, samples: int = 100, seed: int = 0, batch: int | None = None) -> Scores:
        """Return log p(x) of each datum, estimated by importance sampling; discrete latents are summed over.

        Attributes are left out. The mean over draws is a lower bound of log p(x), tighter with more samples (Burda,
        Grosse and Salakhutdinov, 2016). Of a model without a density of x that reconstructs it the score is
        log p(x | z) at z = encoder(x), which ranks data by their reconstruction error.

        Args:
            x: the data.
            samples: draws of the guide for each datum.
            seed: of these, which are from the same standard noise for all data.
            batch: data at a time; no score depends on it.

        Raises:
            UserError: the model has no x to score; or as `prepared`.
        """
        if samples < 1:
            raise UserError(f"`samples` must be at least 1, not {samples}")
        recipe, split = self.recipe, self.prepared(x)
        if "log-likelihood" in recipe.unanswered:
            return self._reconstruction_scores(split)
        parts = []
        with in_double(self) as (model, guide):
            for full in self._batches(split, batch or batch_size(samples, DRAWS)):
                given: dict[str, Any] = recipe.inputs_of(full)
                noise = CommonNoise(samples, seed)
                weights = []
                with noise:
                    for particles in shares(samples, max(1, DRAWS // len(full["x"]))):
                        hidden = full.keys() - given.keys()
                        weights.append(log_weights(model, guide, particles=particles, hidden=hidden, **given))
                parts.append(_evidence(torch.cat(weights)))
        values, errors = (torch.cat(each) for each in zip(*parts, strict=True))
        meaning = f"log {recipe.density} by {samples} importance samples, which bound it from below in expectation"
        return Scores(_rounded(values), _rounded(errors), meaning, recipe.unit(self.dataset))

    def sample(self, n: int = 1, *, given: Mapping[str, Any] | Sequence[str] = (), seed: int = 0) -> np.ndarray:
        """Draw new data from the story: rows, or images, whose means are returned where the pixels are grey.

        Args:
            n: how many.
            given: conditions, by name, or as NAME=VALUE words: an attribute's value, or the cluster or class `y`.
            seed: of the draws.

        Raises:
            UserError: the model cannot generate x, or there is no such condition or value.
        """
        if n < 1:
            raise UserError(f"`n` must be at least 1, not {n}")
        words = [f"{name}={value}" for name, value in given.items()] if isinstance(given, Mapping) else given
        x, _ = self.recipe.sample(self, words, n, seed)  # type: ignore[arg-type]
        return self._in_units(x)

    def impute(self, x: Any, *, samples: int = 100, seed: int = 0, interval: float | None = None) -> Any:
        """Return data with what is missing filled by its mean given what is not, E[x_missing | x_observed].

        That mean is over draws of the guide, weighted by importance with the observed part of x alone (Mattei and
        Frellsen, MIWAE, 2019). A guide that learned from incomplete data sees what is missing as missing, any other
        its own reconstruction. Counts are rounded; a category is the likeliest one.

        Args:
            x: a table with missing cells, or images whose missing pixels are NaN.
            samples: draws for each datum.
            seed: of these, which are from the same standard noise for all data.
            interval: a probability, as 0.9: return the bounds of central intervals of p(x_missing | x_observed) too.

        Returns:
            an array or a data frame as `x` is one, else the columns by name; images are [n, channel, height, width] of
            0 to 1. What was not missing is as it was. With `interval` three of them: filled, lower and upper bounds,
            which for categories without an order are the likeliest one.

        Raises:
            UserError: all of a datum is missing, or images are resized on their way; or as `prepared`.
        """
        self._check_latent()
        if interval is not None and not 0 < interval < 1:
            raise UserError(f"`interval` must be between 0 and 1, not {interval:g}")
        preprocessing = _preprocessing(self.dataset)
        raw, missing = _filled(x, preprocessing)
        split = self.prepared(preprocessing.transform(raw))
        if preprocessing.is_table:
            missing = split.x.isnan().cpu()
        hole = missing.to(split.x.device)
        if (empty := hole.flatten(1).all(1)).any():
            raise UserError(f"datum {int(empty.nonzero()[0])} is missing altogether: leave it out")
        size = batch_size(samples, DRAWS) if interval is None else 1  # draws of x are then those of a datum alone
        parts = []
        with in_double(self) as (model, guide):
            first = 0
            for full in self._batches(split, size):
                holes = hole[first : first + len(full["x"])]
                first += len(full["x"])
                parts.append(self._impute(model, guide, full, holes, CommonNoise(samples, seed), interval))
        results = [self._in_units(torch.cat(part)) for part in zip(*parts, strict=True)]
        filled = [_put_back(x, raw, missing, values, results[0], preprocessing) for values in results]
        return filled[0] if interval is None else tuple(filled)

    # Parts of these

    def _batches(self, split: Split, size: int = AT_ONCE) -> Iterator[dict[str, Tensor]]:
        """Yield the data as the pair takes them; attributes that are not known are missing ones."""
        if self.dataset.attributes and split.attributes is None:
            unknown = torch.full((len(split), len(self.dataset.attributes)), -1, device=split.x.device)
            split = replace(split, attributes=unknown)
        for first in range(0, len(split), size):
            yield self.recipe.batch(self.dataset, split[first : first + size])

    def _check_latent(self) -> None:
        if not hasattr(self.guide, "posterior"):
            raise UserError(f"the {self.recipe.name} has no latent z: it predicts classes, and that alone")

    def _in_units(self, x: Tensor) -> np.ndarray:
        """Return rows in the units of their table, and images as they are."""
        preprocessing = _preprocessing(self.dataset)
        if not preprocessing.is_table:
            return _rounded(x)
        loc, scale = preprocessing.units.T.numpy()
        return x.detach().cpu().double().numpy() * scale + loc

    def _reconstruction_scores(self, split: Split) -> Scores:
        if not hasattr(self.model, "likelihood_of"):
            raise UserError(self.recipe.unanswered["log-likelihood"])
        parts = []
        with in_double(self) as (model, guide):
            for batch in self._batches(split):
                given = self.recipe.inputs_of(batch)
                with AtMean(), Record() as q:
                    guide(**given)
                with Record(q.sites) as p:
                    model(**given)
                parts.append(distribution_of_x(model, p.sites).log_prob(given["x"]))
        meaning = "log p(x | z) at z = encoder(x), which is no log p(x)"
        values = _rounded(torch.cat(parts))
        return Scores(values, np.zeros_like(values), meaning, self.recipe.unit(self.dataset))

    def _predict_attribute(self, x: Any, attribute: str | None, samples: int, seed: int) -> Prediction:
        names = [each.name for each in self.dataset.attributes]
        if attribute is None and len(names) > 1:
            raise UserError(f"give `attribute`, one of {', '.join(names)}")
        chosen = names[0] if attribute is None else attribute
        if chosen not in names:
            raise UserError(f"`attribute={chosen}` is unknown: {nearest(chosen, names)}")
        number = names.index(chosen)
        parts = []
        with in_double(self) as (model, guide):
            for batch in self._batches(self.prepared(x), AT_ONCE):
                q = base_of(guide.posterior(**self.recipe.inputs_of(batch)))  # type: ignore[operator]
                noise = CommonNoise(samples, seed).of("z", q.loc.shape[-1:]).to(q.loc.device)
                head: Any = model.heads[f"y{number + 1}"]  # type: ignore[index]
                logits = head(q.loc + q.scale * noise[:, None])
                if logits.shape[-1] == 1:  # a bit, whose logit is of the second value
                    logits = torch.cat([torch.zeros_like(logits), logits], -1)
                parts.append(logits.softmax(-1).mean(0))
        return _prediction(torch.cat(parts), self.dataset.attributes[number].values, chosen)

    def _impute(
        self,
        model: nn.Module,
        guide: nn.Module,
        batch: Mapping[str, Tensor],
        holes: Tensor,
        noise: CommonNoise,
        interval: float | None,
    ) -> tuple[Tensor, ...]:
        """Return one batch with its holes filled, [n, *shape], and the bounds of the interval, if any."""
        given = self.recipe.inputs_of(batch)
        if given.keys() != {"x"}:
            raise UserError(f"the {self.recipe.name} conditions on a part of x: it imputes by `reconstruct` alone")
        hidden = batch.keys() - given.keys()
        known, x = given["x"].masked_fill(holes, math.nan), given["x"]
        columns = self.recipe.columns(self.dataset)
        if columns is None or not columns.masked:
            x = x.where(~holes, 0.0)
            for _ in range(ROUNDS):
                x = x.where(~holes, reconstruct(model, guide, {**given, "x": x}))
        weights, means, draws = [], [], []
        seed_noise(noise.seed, "imputed")
        with noise:
            for particles in shares(noise.samples, max(1, DRAWS // len(x))):
                for each in draw(model, guide, (), {**given, "x": x}, particles=particles, hidden=hidden):
                    fn = distribution_of_x(model, each.p)
                    latent = [each.p[name].log_prob() - site.log_prob() for name, site in each.q.items()]
                    weights.append((_observed(fn, known, holes) + sum(latent)).reshape(each.rows, len(x)))
                    means.append(fn.mean.reshape(each.rows, *x.shape))
                    if interval is not None:
                        draws.append(fn.sample((REPEATS,)).reshape(REPEATS, each.rows, *x.shape))
        shares_of_draws = torch.cat(weights).softmax(0)
        filled = [torch.einsum("kn,kn...->n...", shares_of_draws, torch.cat(means))]
        if interval is not None:
            values = torch.cat(draws, 1)
            each_share = (shares_of_draws / REPEATS).expand(REPEATS, -1, -1)
            ends = (0.5 - interval / 2, 0.5 + interval / 2)
            filled += [_quantile(values.flatten(0, 1), each_share.flatten(0, 1), end) for end in ends]
        return tuple(given["x"].where(~holes, values) for values in filled)


def _observed(fn: Any, x: Tensor, holes: Tensor) -> Tensor:
    """Return log p(observed part of x | z), [..., n]; what is missing in x is NaN."""
    if isinstance(fn, Columns) or takes_missing(fn):
        return fn.log_prob(x)
    return (base_of(fn).log_prob(x.where(~holes, 0.0)) * ~holes).flatten(-holes.ndim + 1).sum(-1)


def _quantile(values: Tensor, shares: Tensor, end: float) -> Tensor:
    """Return the quantile of weighted values, [draws, n, *shape], whose weights are [draws, n]: [n, *shape]."""
    ordered, order = values.sort(0)
    weights = shares.reshape(*shares.shape, *[1] * (values.ndim - 2)).expand_as(values).gather(0, order)
    number = (weights.cumsum(0) < end).sum(0, keepdim=True).clamp(max=len(values) - 1)
    return ordered.gather(0, number)[0]


_DOUBLES: WeakKeyDictionary[nn.Module, tuple[list[Any], nn.ModuleDict]] = WeakKeyDictionary()


@contextmanager
def in_double(run: Inference) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Give a copy of the pair in double precision and in evaluation mode, without gradients.

    The copy is kept with what is known of it, how it runs with particles for one, until the pair holds something else;
    its weights are copied anew each time.
    """
    ours = nn.ModuleDict({"model": run.model, "guide": run.guide})
    state, before = state_of(run.model, run.guide), torch.get_default_dtype()
    known, pair = _DOUBLES.get(run.model, (None, ours))
    if known is None or not same(state, known):
        pair = copy.deepcopy(ours).double()
        _DOUBLES[run.model] = state, pair
    with torch.no_grad():
        for value, weight in zip(_tensors(pair), _tensors(ours), strict=True):
            value.copy_(weight)
    torch.set_default_dtype(torch.float64)
    try:
        with eval_mode(pair["model"], pair["guide"]):
            yield pair["model"], pair["guide"]
    finally:
        torch.set_default_dtype(before)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _preprocessing(dataset: Dataset) -> Preprocessing:
    preprocessing: Any = dataset.preprocessing
    return preprocessing


def _rounded(values: Tensor) -> np.ndarray:
    return values.detach().cpu().float().numpy()


def _prediction(probabilities: Tensor, names: Sequence[str], site: str) -> Prediction:
    likeliest = probabilities.argmax(-1).cpu().numpy()
    return Prediction(np.array(names)[likeliest], _rounded(probabilities), tuple(names), site)


def _evidence(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return log mean_k w_k and its standard deviation by the delta method, from logarithms [samples, n]."""
    total = weights.logsumexp(0)
    effective = (2 * total - (2 * weights).logsumexp(0)).exp()
    evidence = Evidence(total - math.log(len(weights)), effective, len(weights))
    return evidence.log_p, evidence.error


def _filled(x: Any, preprocessing: Preprocessing) -> tuple[sources.Raw, Tensor]:
    """Return a source with something valid in the holes of images, and where these are, [n, *shape]."""
    raw = sources.read(x, replace(preprocessing.options, optional=True))
    if not preprocessing.is_table:
        if preprocessing.options.size is not None:
            raise UserError("images that are resized have no missing pixels to impute: give them at their `size`")
        pixels = np.asarray(raw.images)
        if pixels.dtype.kind != "f":
            return raw, torch.zeros(len(raw), *preprocessing.shape, dtype=torch.bool)
        holes = np.isnan(pixels)
        raw = replace(raw, images=np.where(holes, 0.0, pixels).astype(pixels.dtype))
        marks = replace(raw, images=(holes * 255).astype(np.uint8), labels=None, attributes=None)
        return raw, preprocessing.transform(marks).x > 0
    return raw, torch.empty(0)


def _put_back(
    x: Any, raw: sources.Raw, missing: Tensor, values: np.ndarray, means: np.ndarray, preprocessing: Preprocessing
) -> Any:
    """Return `x` with its holes filled by values, of categories without an order by the likeliest, in its own form."""
    holes = missing.numpy()
    if not preprocessing.is_table:
        return values
    table = sources.check_columns(raw, [column.name for column in preprocessing.columns])
    filled, first = {}, 0
    for column in preprocessing.columns:
        has_order = not column.categories or column.likelihood == "ordinal"
        features = (values if has_order else means)[:, first : first + len(column.names)]
        hole, first = holes[:, first], first + len(column.names)
        old = np.array(table[column.name])
        old = old if column.categories else cells.of_column(old, column.name)
        filled[column.name] = np.where(hole, column.values(features), old)
    if hasattr(x, "columns") and hasattr(x, "assign"):
        return x.assign(**filled)
    if isinstance(x, np.ndarray) or (isinstance(x, Tensor) and x.ndim == 2):
        return np.stack(list(filled.values()), 1)
    return filled
