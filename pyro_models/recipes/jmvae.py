"""The recipe of the joint multimodal variational auto-encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyro_models
from pyro_models import data as datasets
from pyro_models import guides, metrics, nn, objectives, pictures
from pyro_models.base.errors import DataError, UserError
from pyro_models.base.names import WEIGHTED, X_SITES
from pyro_models.recipes.base import Picture, Teacher
from pyro_models.recipes.latent import VariationalRecipe, log_likelihood_cell
from pyro_models.recipes.networks import OwnNetworks
from pyro_models.recipes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_models.metrics import Trained

ARTICLE: dict[str, Any] = {
    "source": "mnist",
    "attribute_weight": 1.0,
    "subsets": False,
    "encoder_dropout": 0.0,
    "batch_size": 128,
    "steps": None,
    "epochs": 10,
    "schedule": "constant",
}
MNIST_A: dict[str, Any] = {
    "data": "mnist-a",
    "pixels": "static",  # the images are black and white
    "network": "spatial",
    "latent_dim": 16,
    "encoder_dropout": 0.0,
    "attribute_weight": 10.0,
    "batch_size": 128,
    "learning_rate": 0.0015,
    "epochs": 5,  # of `steps` each; both chosen for what two cores train in an hour
}


@dataclass(frozen=True)
class JMVAERecipe(VariationalRecipe, OwnNetworks):
    """Joint multimodal VAE: z ~ Normal(0, I), attributes y ~ head(z), x ~ likelihood(decoder(z)), q(z | x, y)."""

    name: ClassVar[str] = "jmvae"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "pixyz-article": ARTICLE | {"unimodal_weight": 1.0},
        "pixyz-article-telbo": ARTICLE | {"objective": "telbo"},
        "labels": {
            "data": "mnist",
            "pixels": "dynamic",
            "network": "residual",
            "latent_dim": 64,
            "unimodal_weight": 0.1,
            "attribute_weight": 1.0,
            "batch_size": 128,
            "steps": 4290,  # ten passes
            "epochs": 15,
        },
        "mnist-a": MNIST_A | {"steps": 5000, "beta": 0.2, "unimodal_weight": 0.8, "subsets": False},
        "mnist-a-telbo": MNIST_A
        | {"steps": 4000, "objective": "telbo", "variant": "stop-gradient", "private_weight": 3.0},
        "telbo": {"objective": "telbo", "variant": "stop-gradient", "private_weight": 5.0},
        "table": {"data": "wine", "likelihood": "columns", "encoder_dropout": 0.0},
    }
    sources: ClassVar[Mapping[str, str]] = {
        "pixyz-article": "an introductory article on the JMVAE, written with the library pixyz: digits 1 and 2 of "
        "MNIST to the left or right, all terms of weight 1, Adam at a constant 0.001, 10 passes; the networks are ours",
        "pixyz-article-telbo": "the same article's TELBO",
        "labels": "Suzuki, Nakayama and Matsuo, Joint Multimodal Learning, 2016 (arXiv:1611.01891): MNIST images and "
        "their labels, z of 64, alpha 0.1, 150 passes; the networks are ours",
        "mnist-a": "MNIST-A of Vedantam, Fischer, Huang and Murphy, 2018 (arXiv:1705.10762), by the JMVAE; the weights "
        "were chosen on validation data",
        "mnist-a-telbo": "MNIST-A by their TELBO; the weights were chosen on validation data",
        "telbo": "TELBO of Vedantam et al., 2018, on digits 1 and 2; the weight was chosen on validation data",
        "table": "rows of a table and their labels, wine unless `data` says otherwise: a likelihood for each type",
    }

    data: Any = option(
        "attributes",
        "data set to learn: attributes (digits 1 and 2 left or right), mnist-a, labelled images, or the path of a .npz "
        "file with attributes",
    )
    source: Literal["auto", "digits", "mnist"] = option(
        "auto", "digits to compose images from; auto: digits for attributes, mnist for mnist-a"
    )
    split: Literal["iid", "compositional"] = option(
        "iid",
        "split of mnist-a; compositional: validation and test have combinations of attributes that training lacks",
    )
    objective: Literal["jmvae", "telbo", "mvae"] = option(
        "jmvae",
        "objective: jmvae (Suzuki et al., 2016, equation 4), telbo (Vedantam et al., 2018, equation 4), mvae "
        "(a product of experts trained on subsets; Wu and Goodman, 2018)",
    )
    unimodal_weight: float = option(
        5.0,
        "weight of jmvae's KL(q(z | x, y) || q(z | x)) and KL(q(z | x, y) || q(z | y)), alpha in the paper",
        0.0,
        1e6,
    )
    variant: Literal["joint", "stop-gradient", "two-stage"] = option(
        "joint",
        "of telbo: whether elbo(x) and elbo(y) train the story too (joint), never, or only the guide afterwards",
    )
    private_weight: float = option(
        1.0, "weight of log p(y | z) in telbo's elbo(y), on top of `attribute_weight`", 0.0, 1e6
    )
    image_weight: float = option(1.0, "weight of log p(x | z) in the loss; other than 1 bounds nothing", 0.0, 1e6)
    attribute_weight: float = option(
        30.0, "weight of each log p(y | z) in the loss, as a bit counts little beside 784 pixels", 0.0, 1e6
    )
    subsets: bool = option(True, "condition q(z | y) on a random subset of the attributes for each datum and step")
    batch_size: int = option(64, "data in an optimiser step, over all processes; small, as the default set is", 1)
    steps: int | None = option(
        50, "optimiser steps in an epoch, cycling through the training data; none: one pass over them", 1, 10**6
    )
    epochs: int = option(40, "number of epochs: passes over the training data, unless `steps` says otherwise", 1, 10**5)
    network: Literal["mlp", "residual", "spatial"] = option(
        "mlp",
        "networks: MLPs; residual: the VAE's residual MLPs (labels); spatial: MLPs on a patch of the canvas that a "
        "spatial transformer finds (mnist-a)",
    )
    width: int = option(512, "hidden units of a layer; 512 as in the preset pixyz-article", 1, 10**5)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.objective != "telbo" and (self.variant != "joint" or self.private_weight != 1.0):
            raise UserError(f"`variant` and `private_weight` go with `objective=telbo`, not with {self.objective}")
        if self.objective != "jmvae" and self.unimodal_weight != JMVAERecipe.unimodal_weight:
            raise UserError(f"`unimodal_weight` goes with `objective=jmvae`, not with {self.objective}")
        if self.objective == "mvae" and not self.subsets:
            raise UserError("`objective=mvae` trains on subsets: leave `subsets=False` out")
        if self.elbo in WEIGHTED:
            for name in ("image_weight", "attribute_weight", "private_weight"):
                if getattr(self, name) != 1.0:
                    value = f"{getattr(self, name):g}"
                    raise UserError(f"`{name}={value}` with `elbo={self.elbo}` bounds nothing: give `{name}=1`")

    @property
    def is_scheduled(self) -> bool:
        """Whether the weight of the KL warms up, or a second stage follows."""
        return super().is_scheduled or self.variant == "two-stage"

    @property
    def split_options(self) -> dict[str, Any]:
        """The source that images are composed of, and the split."""
        source = None if self.source == "auto" else self.source
        return {"source": source, "split": "official" if self.split == "iid" else self.split}

    def check_data(self, dataset: datasets.Dataset) -> None:
        """Refuse data that the recipe cannot learn from."""
        super().check_data(dataset)
        if dataset.is_table and self.network == "spatial":
            raise DataError(f"`network=spatial` takes images, and {self.data} is a table")
        if not dataset.attributes:
            raise DataError(f"`data={self.data}` has no attributes: give labels, or an array named attributes")

    def batch(self, dataset: datasets.Dataset, split: datasets.Split) -> dict[str, Tensor]:
        """Return `x`, and `y1`, `y2`, ... of the attributes: bits or one-hot, NaN where missing."""
        return datasets.batch_of(split, self.pixels, dataset.attributes)

    def pair(self, dataset: datasets.Dataset) -> tuple[nn.Module, nn.Module]:
        """Build the JMVAE and its guide."""
        shape, latent, width = dataset.shape, self.latent_dim, self.width
        pixels, columns = nn.size(shape), self.columns(dataset)
        inputs = pixels if columns is None else columns.width
        sizes = {f"y{i}": attribute.size for i, attribute in enumerate(dataset.attributes, 1)}
        last: nn.Module | None = None
        if self.network == "spatial":
            dark = 0.0 if self.likelihood == "normal" else -4.0  # a logit
            decoder: nn.Module = nn.SpatialDecoder(latent, shape, width=width, background=dark)
            body: nn.Module = nn.Sequential(
                nn.Dropout(self.encoder_dropout), nn.spatial_encoder(shape, width, width=width)
            )
        elif self.network == "residual":
            decoder = nn.decoder(nn.residual_mlp(latent, pixels, width=width, depth=3), shape)
            encode = nn.residual_mlp(inputs, 2 * latent, width=width, depth=3)
            body, last = nn.encoder(encode[:3], shape, self.encoder_dropout, columns), encode[3:]
        else:
            decoder = nn.decoder(nn.residual_mlp(latent, pixels, width=width, depth=2), shape)
            body = nn.encoder(
                nn.residual_mlp(inputs, width, width=width, depth=1), shape, self.encoder_dropout, columns
            )
        own_body = self.own_encoder(shape, latent, width, f": features, of `width={width}`", columns)
        body, decoder = own_body or body, self.own_decoder(shape, latent) or decoder
        heads = {site: nn.mlp(latent, 128, size) for site, size in sizes.items()}
        scaled = partial(nn.scale_head, given=self.scale_head)
        head = scaled(
            last or nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2 * latent))
        )
        product = self.objective == "mvae"
        if product:
            encoder: nn.Module = nn.Sequential(body, head)
        else:
            encoder = nn.Conditional(body, nn.Linear(sum(sizes.values()), width), head)
        experts = {site: scaled(nn.mlp(size, 128, 2 * latent)) for site, size in sizes.items()}
        story = pyro_models.JMVAE(decoder, self.likelihood_of(dataset), heads, latent)
        return story, guides.JMVAEGuide(encoder, experts, sizes, product=product)

    def bound(self) -> objectives.Objective:
        """Build the estimator of the bound of x and of the attributes that are known."""
        return objectives.masked(super().bound())

    def objective_at(
        self, progress: float, guide: Any, train: datasets.Split, teacher: Teacher | None = None
    ) -> objectives.Objective:
        """Build the bound with its divergences, or the sum of bounds."""
        weights = dict.fromkeys(guide.sizes, self.attribute_weight) | dict.fromkeys(X_SITES, self.image_weight)
        bound = objectives.scaled(
            self.eased(super().bound(), progress), weights
        )  # the objectives leave out what is missing themselves
        choose = objectives.some_of if self.subsets else objectives.all_of
        if self.objective == "jmvae":
            return objectives.jmvae(bound, guide.posterior, weight=self.unimodal_weight, choose=choose)
        if self.objective == "mvae":
            return objectives.mvae(bound, choose=choose)
        bound_y = objectives.scaled(bound, dict.fromkeys(guide.sizes, self.private_weight))
        if self.variant == "two-stage" and progress < 0.5:
            return objectives.telbo(bound, bound_y=bound_y, weight_x=0.0, weight_y=0.0, choose=choose)
        frozen = {"joint": (), "stop-gradient": ("elbo_x", "elbo_y"), "two-stage": ("elbo", "elbo_x", "elbo_y")}
        return objectives.telbo(bound, bound_y=bound_y, frozen=frozen[self.variant], choose=choose)

    def generate(self, run: Trained, values: Tensor, *, seed: int = 0) -> Tensor:
        """Return images given attributes, indices [n, attributes]: draws, or means where the pixels are grey."""
        mean = self.pixels == "grey"
        return metrics.generate_given(run.model, run.guide, run.dataset.attributes, values, mean=mean, seed=seed)

    def final_scores(self, run: Trained) -> dict[str, dict[str, float]]:
        """Return correctness and coverage of images generated from attributes, as a classifier judges them."""
        if run.dataset.is_table:  # the judge is a classifier of images
            return {}
        return metrics.three_cs(run.dataset, self.pixels, partial(self.generate, run))

    def legend(self, dataset: datasets.Dataset) -> dict[str, str]:
        """Return the attribute at each site, and its values."""
        return {f"y{i}": f"{each.name} ({', '.join(each.values)})" for i, each in enumerate(dataset.attributes, 1)}

    def details(self, run: Trained) -> dict[str, Any]:
        """Return the attributes."""
        return {"attributes": self.legend(run.dataset)}

    def unit_of(self, score: str, dataset: datasets.Dataset) -> str:
        """Return the unit of a score or a term by its name."""
        if score == "log_likelihood":
            return f"{self.unit(dataset)}, attributes left out"
        if score in ("kl_given_x", "kl_given_y"):
            return "nats"
        if score == "classifier_accuracy":
            return "share of the attributes of test images"
        if score.startswith("correctness"):
            return "share of the attributes given"
        if score.startswith("coverage"):
            return "1 - Jensen-Shannon divergence, in bits, of the attributes not given"
        unit = super().unit_of(score, dataset)
        return f"{unit}, attributes included" if score in ("elbo", "reconstruction") else unit

    @classmethod
    def headline(cls, result: Mapping[str, Any]) -> dict[str, str]:
        """Return correctness and coverage, in per cent, and log p(x), where it was estimated."""

        def percent(score: str) -> str:
            return f"{100 * result['test'][score]:.1f}" if score in result["test"] else ""

        return {
            "correctness, all given": percent("correctness"),
            "coverage, one given": percent("coverage_1"),
            "classifier": percent("classifier_accuracy"),
            "log p(x) (samples)": log_likelihood_cell(result),
        }

    def pictures(self) -> Sequence[Picture]:
        """Return the pictures of images given attributes, latents and learning curves."""
        return (
            pictures.generated_images,
            pictures.reconstructions,
            pictures.latents_given_attributes,
            pictures.latents_of_images,
            pictures.attribute_regions,
            pictures.decoded_unit_plane,
            pictures.latent_map_by_attribute,
            pictures.learning_curves,
        )

    def site_names(self, dataset: datasets.Dataset) -> dict[str, Sequence[str]]:
        """Return the names of the values at each attribute's site."""
        values = {
            f"y{i}": [f"{each.name}={value}" for value in each.values[-each.size :]]
            for i, each in enumerate(dataset.attributes, 1)
        }
        return super().site_names(dataset) | values

    def sample(self, run: Trained, conditions: Sequence[str], count: int, seed: int) -> tuple[Tensor, str]:
        """Draw images given attributes, if any, and describe these."""
        if not conditions:
            return super().sample(run, conditions, count, seed)
        attributes = run.dataset.attributes
        values = metrics.parse_conditions(attributes, conditions)
        return self.generate(run, values.expand(count, -1), seed=seed), metrics.describe(attributes, values[0])

    def landmarks(self, run: Trained) -> tuple[list[dict[str, Any]], Tensor | None, str]:
        """Return the attributes to choose from, and the mean of q(z | those given) for each choice."""
        choices, latents = metrics.posterior_means(run.guide, run.dataset.attributes)
        return choices, latents, "q(z | given)"

    def heads(self, dataset: datasets.Dataset) -> list[dict[str, Any]]:
        """Return the attributes' sites."""
        attributes = enumerate(dataset.attributes, 1)
        return [{"site": f"y{i}", "name": each.name, "values": each.values} for i, each in attributes]
