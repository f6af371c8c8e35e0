"""Options of recipes with a latent variable: the estimator of the bound, and the likelihood."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pyro_models.base.errors import UserError
from pyro_models.base.names import WEIGHTED
from pyro_models.recipes.base import Recipe
from pyro_models.recipes.options import option

if TYPE_CHECKING:
    from pyro_models.data import Dataset
    from pyro_models.distributions import Likelihood
    from pyro_models.objectives import Objective


@dataclass(frozen=True)
class LatentRecipe(Recipe):
    """The options of the recipes with a latent code, and so a bound to estimate."""

    latent_dim: int = option(2, "size of the code z", 1, 4096)
    elbo: Literal["trace", "mean-field", "graph", "enum", "iwae", "renyi", "rws", "dreg"] = option(
        "mean-field", "estimator of the bound"
    )
    particles: int = option(1, "draws for each datum; iwae, renyi, rws and dreg want more than 1", 1, 10**5)
    alpha: float = option(0.5, "order of the renyi bound; 0 is iwae", 0.0, 100.0)
    beta: float = option(1.0, "weight of the kl of z in the loss", 0.0, 1e6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.elbo in ("graph", "enum") and not self.kinds:
            raise UserError(f"--elbo {self.elbo} is for discrete sites, of which {self.name} has none: use mean-field")
        if self.elbo in WEIGHTED:
            if self.beta != 1.0:
                raise UserError(f"--beta {self.beta:g} with --elbo {self.elbo} bounds nothing: use trace or mean-field")
            if self.particles == 1:
                raise UserError(f"--elbo {self.elbo} with --particles 1 is the plain ELBO: ask for 2 or more")
        if self.elbo == "renyi" and self.alpha == 1.0:
            raise UserError("--alpha 1 is the plain ELBO: use --elbo trace")
        if self.elbo != "renyi" and self.alpha != LatentRecipe.alpha:
            raise UserError(f"--alpha goes with --elbo renyi, not with {self.elbo}")

    def bound(self) -> "Objective":
        """Build the estimator of the bound, which is also what test data are evaluated with."""
        from functools import partial

        from pyro_models.objectives import ESTIMATORS, scaled

        options: dict[str, Any] = {"particles": self.particles}
        if self.elbo == "renyi":
            options["alpha"] = self.alpha
        return scaled(partial(ESTIMATORS[self.elbo], **options), {"z": self.beta})


@dataclass(frozen=True)
class VariationalRecipe(LatentRecipe):
    """The options of the recipes that have a likelihood to choose."""

    likelihood: Literal["bernoulli", "continuous-bernoulli", "normal"] = option("bernoulli", "of x given z")
    encoder_dropout: float = option(0.2, "share of pixels hidden from the encoder while it trains", 0.0, 0.99)
    scale: float | None = option(None, "of the normal likelihood; none learns it", 1e-3, 1e3)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale is not None and self.likelihood != "normal":
            raise UserError(f"--scale goes with --likelihood normal, not with {self.likelihood}")
        if self.likelihood != "bernoulli" and self.pixels != "grey":
            raise UserError(f"--likelihood {self.likelihood} is a density of grey pixels, not of {self.pixels} ones")

    def unit(self, dataset: "Dataset") -> str:
        """Return the unit of likelihoods: the Bernoulli goes without saying, a density does not."""
        return super().unit(dataset) + ("" if self.likelihood == "bernoulli" else f", {self.likelihood} likelihood")

    def _likelihood(self, shape: tuple[int, ...]) -> "Likelihood":
        from pyro_models import distributions

        if self.likelihood == "normal":
            return distributions.NormalLikelihood(self.scale, len(shape))
        if self.likelihood == "continuous-bernoulli":
            return distributions.continuous_bernoulli
        return distributions.grey_bernoulli if self.pixels == "grey" else distributions.bernoulli
