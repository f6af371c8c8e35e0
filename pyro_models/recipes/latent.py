"""Recipes with a latent z: its size, the estimator of the bound, the likelihood; its pictures and its comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, get_args, get_type_hints

from pyro_models import data as datasets
from pyro_models import distributions, objectives
from pyro_models.base.errors import DataError, UserError
from pyro_models.base.names import WEIGHTED, column_likelihoods, sites_of
from pyro_models.recipes.base import Recipe, Teacher
from pyro_models.recipes.options import option

OF_IMAGES = ("bernoulli", "continuous-bernoulli", "normal")


@dataclass(frozen=True)
class LatentRecipe(Recipe):
    """The options of the recipes with a latent z."""

    latent_dim: int = option(2, "dimensions of the latent z; 2 can be drawn as a map", 1, 4096)
    likelihood: str = option(
        "bernoulli",
        "distribution of x given z: bernoulli (cross-entropy where pixels are grey), continuous-bernoulli "
        "(Loaiza-Ganem and Cunningham, 2019), normal; of a table columns: each by its type, reals normal, counts "
        "negative-binomial, binary bernoulli, categories categorical (types: text is a category, 0 and 1 are binary, "
        "whole numbers from 0 up are counts, others reals); or that but for NAME=LIKELIHOOD,... of columns or types, "
        "as counts=poisson,income=student-t,grade=ordinal:low/mid/high,rate=beta",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.likelihood not in OF_IMAGES:
            column_likelihoods(self.likelihood)
        if self.likelihood != "bernoulli" and self.pixels != "grey":
            raise UserError(f"`likelihood={self.likelihood}` is a density of grey pixels, not of {self.pixels} ones")

    @property
    def likelihood_of_columns(self) -> str:
        """The likelihood of a table's columns: those of images alone leave it at the normal."""
        return "normal" if self.likelihood in OF_IMAGES else self.likelihood

    @property
    def scale_of_normal(self) -> float | None:
        """The standard deviation of the normal likelihood, None where it is learned."""
        return 1.0

    def check_data(self, dataset: datasets.Dataset) -> None:
        """Refuse a table under a likelihood of pixels, and images under one of columns."""
        if dataset.is_table and self.likelihood in OF_IMAGES and self.likelihood != "normal":
            preset = "`preset=table`, or " if "table" in self.presets else ""
            raise DataError(f"`data={self.data}` is a table: use {preset}`likelihood=columns`")
        if not dataset.is_table and self.likelihood not in OF_IMAGES:
            raise DataError(f"`likelihood={self.likelihood}` is of a table's columns, and {self.data} holds images")

    def likelihood_of(self, dataset: datasets.Dataset) -> distributions.Likelihood:
        """Build the distribution of x given the decoder's output."""
        if dataset.preprocessing is not None and dataset.is_table and self.likelihood != "normal":
            return distributions.table_likelihood(dataset.preprocessing.columns, self.scale_of_normal)
        if self.likelihood == "continuous-bernoulli":
            return distributions.continuous_bernoulli
        if self.likelihood != "bernoulli":
            return distributions.NormalLikelihood(self.scale_of_normal, len(dataset.shape))
        return distributions.grey_bernoulli if self.pixels == "grey" else distributions.bernoulli

    def unit(self, dataset: datasets.Dataset) -> str:
        """Return the unit of likelihoods: the Bernoulli goes without saying, a density does not."""
        likelihoods = [self.likelihood]
        if dataset.preprocessing is not None and dataset.is_table:
            likelihoods = list(sites_of({column.likelihood for column in dataset.preprocessing.columns}))
        unit = super().unit(dataset)
        if likelihoods == ["bernoulli"]:
            return unit
        return f"{unit}, {', '.join(likelihoods)} likelihood{'s' * (len(likelihoods) > 1)}"

    @classmethod
    def headline(cls, result: Mapping[str, Any]) -> dict[str, str]:
        """Return the likelihood, the bound, the squared error and log p(x), where it was estimated."""
        return {
            "likelihood": result["units"]["elbo"].removeprefix("nats per image, "),
            "elbo": f"{result['test']['elbo']:.2f}",
            "mse": f"{result['test']['mse']:.5f}",
            f"log {cls.density} (samples)": log_likelihood_cell(result),
        }


def log_likelihood_cell(result: Mapping[str, Any]) -> str:
    """Return the estimate of log p(x) in a results.json, and its samples; nothing where it was not made."""
    estimate = result.get("log_likelihood")
    return f"{estimate['mean']:.2f} ({estimate['samples']})" if estimate else ""


@dataclass(frozen=True)
class VariationalRecipe(LatentRecipe):
    """The options of the recipes with a bound to estimate and a likelihood to choose."""

    latent_sites: ClassVar[tuple[str, ...]] = ("z",)  # those whose KL beta scales

    elbo: Literal["trace", "mean-field", "iwae", "renyi", "rws", "dreg"] = option(
        "mean-field",
        "estimator of the bound: trace (one draw; Kingma and Welling, 2014), mean-field (closed-form KL, less noise), "
        "iwae (Burda et al., 2016), renyi (Li and Turner, 2016), rws (reweighted wake-sleep; Bornschein and Bengio, "
        "2015), dreg (Tucker et al., 2019)",
    )
    particles: int = option(
        1,
        "draws of the guide for each datum; more than 1 for iwae, renyi, rws and dreg, whose bound they tighten",
        1,
        10**5,
    )
    alpha: float = option(0.5, "order of the renyi bound: 0 is iwae, 1 would be the ELBO", 0.0, 100.0)
    beta: float = option(
        1.0, "weight of KL(q(z | x) || p(z)) in the loss; above 1 for a beta-VAE (Higgins et al., 2017)", 0.0, 1e6
    )
    warm_up: float = option(
        0.0,
        "share of the run over which the weight of the KL of z rises from 0 to `beta`, so that z comes into use "
        "(Sønderby et al., 2016; Bowman et al., 2016)",
        0.0,
        1.0,
    )
    free_bits: float = option(
        0.0,
        "nats of the KL of each latent site that cost nothing, so that z stays in use: below, its mean over a batch is "
        "taken for constant (Kingma et al., 2016, arXiv:1606.04934)",
        0.0,
        1e6,
    )
    scale_head: Literal["log-scale", "log-variance", "softplus"] = option(
        "log-scale",
        "what networks give for the scale of a Normal z: its logarithm; log-variance, twice that, with which Adam "
        "moves the scale half as fast (articles on the VAE and on clustering); or softplus, whose softplus it is",
    )
    encoder_dropout: float = option(
        0.2, "share of pixels hidden from the encoder in training, against overfitting of q(z | x)", 0.0, 0.99
    )
    scale: float | None = option(
        None, "standard deviation of the normal likelihood; none: learned (sigma-VAE; Rybkin et al., 2021)", 1e-3, 1e3
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.elbo in WEIGHTED:
            if self.beta != 1.0:
                raise UserError(f"`beta={self.beta:g}` with `elbo={self.elbo}` bounds nothing: use trace or mean-field")
            for name in ("warm_up", "free_bits"):
                if getattr(self, name):
                    raise UserError(f"`{name}` with `elbo={self.elbo}` bounds nothing: give `{name}=0`")
            if self.particles == 1:
                raise UserError(f"`elbo={self.elbo}` with `particles=1` is the plain ELBO: give 2 or more")
        if self.elbo == "renyi" and self.alpha == 1.0:
            raise UserError("`alpha=1` is the plain ELBO: use `elbo=trace`")
        if self.elbo != "renyi" and self.alpha != VariationalRecipe.alpha:
            raise UserError(f"`alpha` goes with `elbo=renyi`, not with {self.elbo}")
        if self.scale is not None and self.likelihood in ("bernoulli", "continuous-bernoulli"):
            raise UserError(f"`scale` goes with `likelihood=normal`, not with {self.likelihood}")

    @property
    def scale_of_normal(self) -> float | None:
        """The standard deviation of the normal likelihood, None where it is learned."""
        return self.scale

    def bound(self) -> objectives.Objective:
        """Build the estimator of the bound, with the latent sites scaled by beta in the loss."""
        options: dict[str, Any] = {"particles": self.particles}
        if self.elbo == "renyi":
            options["alpha"] = self.alpha
        return objectives.scaled(
            partial(objectives.ESTIMATORS[self.elbo], **options), dict.fromkeys(self.latent_sites, self.beta)
        )

    def eased(self, bound: objectives.Objective, progress: float) -> objectives.Objective:
        """Return the bound whose KL of z has its weight after a fraction of the run, and its free bits, in the loss."""
        weight = min(1.0, progress / self.warm_up) if self.warm_up else 1.0
        bound = objectives.free_bits(bound, dict.fromkeys(self.latent_sites, self.free_bits))
        return objectives.scaled(bound, dict.fromkeys(self.latent_sites, weight))

    def objective_at(
        self, progress: float, guide: Any, train: datasets.Split, teacher: Teacher | None = None
    ) -> objectives.Objective:
        """Build the bound with the weight of the KL of z after a fraction of the run, and its free bits."""
        return self.eased(self.bound(), progress)

    @property
    def is_scheduled(self) -> bool:
        """Whether the weight of the KL of z rises."""
        return self.warm_up > 0

    @property
    def note(self) -> str | None:
        """What the formula of the loss leaves out: free bits."""
        freely = f"KL of {', '.join(self.latent_sites)} counts as {self.free_bits:g} nats where it is below"
        return "; ".join(filter(None, [super().note, freely if self.free_bits else None])) or None

    @property
    def evaluation_size(self) -> int:
        """How many data are evaluated at a time, as the particles allow."""
        return max(1, 1000 // self.particles)

    def estimators(self, names: Sequence[str], particles: int) -> dict[str, tuple[objectives.Objective, str | None]]:
        """Return estimators of the bound at beta 1, each with what it is a bound of where that is not the story."""
        taken = get_args(get_type_hints(type(self))["elbo"])
        estimators = {}
        for name in names or [name for name in ("trace", "mean-field", "graph", "enum") if name in taken]:
            changes: dict[str, Any] = {"elbo": name, "beta": 1.0, "particles": particles if name in WEIGHTED else 1}
            alone = replace(self, **changes, alpha=self.alpha if name == "renyi" else VariationalRecipe.alpha)
            estimators[name] = (alone.bound(), alone.bound_of)
        return estimators
