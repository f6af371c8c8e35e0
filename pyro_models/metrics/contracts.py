"""What is asked of a story, of a guide, and of a pair in training or after it."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from pyro.distributions import OneHotCategorical, TorchDistribution
from torch import Tensor, nn

from pyro_models.data import Dataset


@runtime_checkable
class Story(Protocol):
    """A model p(x, z) as the pictures and scores take it; checks, likelihoods and objectives take any program.

    Called with data it observes them; called with `batch=n` it generates n data.
    """

    def __call__(self, *, batch: int = 1, **data: Tensor | None) -> Any:
        """Run the model: its sites are those of the docstring's factorisation."""

    def likelihood_of(self, z: Tensor) -> TorchDistribution:
        """Return p(x | z): batch shape [..., batch] and event shape of a datum, for z [..., batch, latent]."""


@runtime_checkable
class MixtureStory(Story, Protocol):
    """A story with a category y above z."""

    def prior(self, y: Tensor) -> TorchDistribution:
        """Return p(z | y), event shape [latent]."""


@runtime_checkable
class AttributeStory(Story, Protocol):
    """A story with attributes y1, y2, ... beside x."""

    heads: Mapping[str, nn.Module]
    """For each attribute's site, the network from z [..., latent] to logits [..., size]."""


@runtime_checkable
class Guide(Protocol):
    """A guide q(z | x) that can be asked for the distribution it draws from."""

    def posterior(self, *args: Any, **data: Tensor | None) -> TorchDistribution:
        """Return q(z | data), batch shape [batch] and event shape [latent]."""


@runtime_checkable
class SemiSupervisedGuide(Protocol):
    """A guide that infers a category y as well."""

    def classify(self, x: Tensor) -> OneHotCategorical:
        """Return q(y | x), batch shape [batch] and event shape [categories]."""


class Trained(Protocol):
    """A pair in training or after it, as its recipe's scores and pictures take it; a run is one.

    Attributes:
        recipe: the recipe.
        dataset: its data, on the device of the pair.
        model, guide: the pair.
        metrics: a row for each epoch so far, from `SPLIT_TERM` to numbers.
        frames: reconstructions kept for the animation: `examples`, which test data; `epochs`, when; `images`, bytes
            [n, *image] for each of these epochs.
    """

    @property
    def recipe(self) -> Any: ...  # noqa: D102
    @property
    def dataset(self) -> Dataset: ...  # noqa: D102
    @property
    def model(self) -> nn.Module: ...  # noqa: D102
    @property
    def guide(self) -> nn.Module: ...  # noqa: D102
    @property
    def metrics(self) -> list[dict[str, float]]: ...  # noqa: D102
    @property
    def frames(self) -> dict[str, Any]: ...  # noqa: D102
