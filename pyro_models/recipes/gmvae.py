"""The recipe of the Gaussian-mixture variational auto-encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyro_models
from pyro_models import data as datasets
from pyro_models import guides, metrics, nn, objectives, pictures
from pyro_models.base.errors import DataError, UserError
from pyro_models.recipes.base import Picture, Splits, Teacher, columns_of
from pyro_models.recipes.discrete import DiscreteRecipe
from pyro_models.recipes.latent import VariationalRecipe
from pyro_models.recipes.networks import OwnNetworks
from pyro_models.recipes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_models.metrics import Trained

START = 0.3  # of a run, in which the imitation weakens
IMITATION, KEPT = 200.0, 0.3  # its weight at first, and the share that stays: small clusters are lost without it
LEAST = 1e-9  # weight of a term that stays in
FADED = ("vat", "marginal_kl", "entropy")


@dataclass(frozen=True)
class GMVAERecipe(DiscreteRecipe, VariationalRecipe, OwnNetworks):
    """Gaussian-mixture VAE: y ~ Categorical, z ~ Normal(loc(y), scale(y)), x ~ likelihood(decoder(z)), q(y, z | x)."""

    name: ClassVar[str] = "gmvae"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "clustering-article": {
            "network": "conv",
            "scale_head": "log-variance",
            "latent_dim": 2,
            "beta": 8.0,
            "encoder_dropout": 0.0,
            "vat": 0.0,
            "consistency": 0.0,
            "marginal_kl": 0.0,
            "entropy": 0.0,
            "epochs": 100,
            "least_steps": 1,
            "batch_size": 100,
            "schedule": "constant",
            "evaluate_on": 1000,
        },
        "dense": {"network": "mlp", "vat": 0.0, "epochs": 20, "least_steps": 1},
        "table": {
            "data": "blobs",
            "network": "mlp",
            "vat": 0.0,
            "least_steps": 1,
            "clusters": 3,
            "latent_dim": 2,
            "likelihood": "columns",
            "scale": 0.2,
            "weights": "learned",
            "start": "mixture",
            "encoder_dropout": 0.0,
            "jitter": 0.1,  # of standardised columns
            "batch_size": 64,
            "epochs": 100,
            "learning_rate": 0.003,
        },
    }
    sources: ClassVar[Mapping[str, str]] = {
        "clustering-article": "an introductory article on clustering with a VAE, after Kingma et al., 2014 "
        "(arXiv:1406.5298) and Jang et al., 2017 (arXiv:1611.01144): its convolutions, z of 2, 8 x KL(z), a relaxed "
        "draw of y at 0.5, no terms of q(y | x), Adam at a constant 0.001, 100 passes; with labels its sums over "
        "a batch weigh as our means do where a batch has as many data as there are labels, 100",
        "dense": "dense layers and no adversarial term, in twenty epochs: quicker a step, but the clusters depend "
        "on the seed",
        "table": "rows in the plane in three groups, blobs unless `data` says otherwise, as in the article of "
        "clustering-article: K = 3 and a Normal decoder of fixed scale",
    }

    clusters: int = option(10, "number of values of y: clusters, or classes where labels are seen", 2, 1000)
    weights: Literal["equal", "learned"] = option(
        "equal",
        "weights of the clusters in p(y): equal, or learned, for clusters of unequal size; `marginal_kl` measures "
        "against them",
    )
    start: str = option(
        "random",
        "start of q(y | x) without labels: random weights; mixture: clusters by scikit-learn's GaussianMixture of a "
        "table's rows, of more components than clusters, merged, where groups are bent; or a finished run of vae or "
        "autoencoder on the same images, a folder or hub:USER/NAME: spectral clusters of its latents. They are "
        "imitated, less and less for the first 30 % of a run, while `vat`, `marginal_kl` and `entropy` fade in",
    )
    latent_dim: int = option(10, "dimensions of the latent z; 2 can be drawn as a map", 1, 4096)
    elbo: Literal["trace", "mean-field", "graph", "enum", "iwae", "renyi", "rws", "dreg"] = option(  # type: ignore[assignment]
        "mean-field",
        "estimator of the bound, of z as for vae; of the discrete y: enum sums over it, graph and rws draw it (score "
        "function; reweighted wake-sleep), all others draw a relaxed y (Gumbel-softmax) and bound the relaxed story",
    )
    network: Literal["mlp", "strided", "conv"] = option(
        "strided",
        "networks: MLPs; strided convolutions in q(y | x), else MLPs; conv: those of the preset "
        "clustering-article (28 x 28 pixels)",
    )
    temperature: float = option(
        0.5,
        "temperature of the relaxed y, for all estimators but graph, enum and rws; 0.5 in clustering-article",
        1e-3,
        100.0,
    )
    final_temperature: float | None = option(
        None, "temperature that the relaxed y falls to over the run; none: constant", 1e-3, 100.0
    )
    vat: float = option(
        100.0,
        "weight of virtual adversarial training, KL(q(y | x) || q(y | x + r)), r the worst step (Miyato et al., 2018); "
        "chosen on validation data",
        0.0,
        1e6,
    )
    consistency: float = option(
        200.0, "weight of KL(q(y | x) || q(y | x augmented)) (Sajjadi et al., 2016; IMSAT, Hu et al., 2017)", 0.0, 1e6
    )
    marginal_kl: float = option(
        200.0, "weight of KL(mean q(y | x) || p(y)), which keeps all clusters in use (Krause et al., 2010)", 0.0, 1e6
    )
    entropy: float = option(
        20.0, "weight of the entropy of q(y | x), which asks for confident clusters (Krause et al., 2010)", 0.0, 1e6
    )
    label_weight: float = option(
        1000.0, "weight of the cross-entropy of q(y | x) on the labelled data; 1000 in the clustering article", 0.0, 1e6
    )
    batch_size: int = option(256, "data in an optimiser step, over all processes; batch norm wants many", 2)
    epochs: int = option(7, "number of epochs, each one pass over the training data or `least_steps`", 1, 100_000)
    least_steps: int = option(
        50, "optimiser steps that an epoch has at least, cycling through data that are too few for them", 1, 10**6
    )

    def categories(self, dataset: datasets.Dataset) -> int:
        """Return the number of clusters."""
        return self.clusters

    @property
    def is_scheduled(self) -> bool:
        """Whether the temperature falls, the weight of the KL of z rises, or the start fades out."""
        return super().is_scheduled or self.final_temperature is not None or self.imitates

    def rows(self, guide: Any, split: datasets.Split) -> Tensor:
        """Return rows in standard deviations, as a Gaussian mixture takes them; NaN where missing."""
        columns = columns_of(guide)
        return split.x if columns is None or columns.is_identity else metrics.standardised(split.x, columns)

    @property
    def imitates(self) -> bool:
        """Whether q(y | x) starts from the clusters of a simpler model; labels say more where there are any."""
        return self.start != "random" and not self.labels

    @property
    def starts_from(self) -> str | None:
        """The finished run whose latents' clusters q(y | x) starts from."""
        return self.start if self.imitates and self.start != "mixture" else None

    def teacher_of(self, latents: Tensor) -> Teacher:
        """Return the log-probabilities of latents' spectral clusters."""
        return metrics.spectral_posterior(latents, self.clusters, self.seed)

    def check_data(self, dataset: datasets.Dataset) -> None:
        """Refuse data that the recipe cannot learn from."""
        VariationalRecipe.check_data(self, dataset)
        if self.network == "conv" and dataset.shape[1:] != (28, 28):
            raise DataError(f"`network=conv` takes images of 28 x 28, not {list(dataset.shape)}")
        if self.start == "mixture" and not dataset.is_table:
            raise DataError(f"`start=mixture` takes a table, and {self.data} holds images")
        if self.labels and self.start not in ("random", "mixture"):
            raise UserError(f"`start={self.start}` goes without `labels`, which say more than another run's latents")
        if self.starts_from and dataset.is_table:
            raise DataError(
                f"`start={self.start}` takes images, and {self.data} is a table: `start=mixture` is for those"
            )
        if self.network == "strided" and dataset.is_table:
            raise DataError(f"`network=strided` takes images, and {self.data} is a table: `preset=table` is for those")
        if self.network == "conv" and (self.encoder is not None or self.decoder is not None):
            raise UserError("`encoder` and `decoder` go with `network=mlp` or `network=strided`, not with conv")
        super().check_data(dataset)

    @property
    def relaxes(self) -> bool:
        """Whether the estimator relaxes y."""
        return self.elbo not in ("graph", "enum", "rws")

    def temperature_at(self, progress: float) -> float:
        """Return the temperature after a fraction of the run: it falls geometrically, if it falls."""
        end = self.temperature if self.final_temperature is None else self.final_temperature
        return self.temperature ** (1 - progress) * end**progress

    @property
    def bound_of(self) -> str | None:
        """What the estimator's bound is a bound of, at the last temperature, where y is relaxed."""
        if not self.relaxes:
            return None
        temperature = self.temperature_at(1.0)
        relaxed = f"y relaxed at temperature {temperature:g}"
        if temperature != self.temperature:
            relaxed += f" (falling from {self.temperature:g} in training)"
        return f"neither story: {relaxed}, discrete kl" if self.elbo == "mean-field" else f"the story with {relaxed}"

    @property
    def note(self) -> str | None:
        """What the bound is a bound of, and that training adds the imitation of a mixture."""
        weight = f"in training {IMITATION * KEPT:g} imitation, at first {IMITATION:g}, of Gaussian mixtures is added"
        if self.starts_from:
            weight = f"at the start {IMITATION:g} imitation, falling to 0, of clusters of other latents is added"
        added = weight if self.imitates else None
        return "; ".join(filter(None, [super().note, added])) or None

    def pair(self, dataset: datasets.Dataset) -> tuple[nn.Module, nn.Module]:
        """Build the GMVAE and its guide."""
        shape, clusters, latent = dataset.shape, self.clusters, self.latent_dim
        learned = self.weights == "learned"
        likelihood, GMVAE, GMVAEGuide = self.likelihood_of(dataset), pyro_models.GMVAE, guides.GMVAEGuide
        scaled = partial(nn.scale_head, given=self.scale_head)
        if self.network == "conv":
            component: nn.Module = scaled(nn.conv_component(clusters, latent))
            story = GMVAE(component, nn.conv_decoder(shape[0], latent), likelihood, clusters, learned)
            conv_classifier = nn.conv_classifier(shape[0], clusters)
            return story, GMVAEGuide(conv_classifier, scaled(nn.ConvEncoder(shape[0], clusters, latent)))
        size, width, columns = nn.size(shape), 64 if dataset.is_table else 512, self.columns(dataset)
        inputs = size if columns is None else columns.width
        component = scaled(nn.mlp(clusters, width, 2 * latent))  # p(z | y) moves faster than a table of numbers would
        decoder: nn.Module = nn.decoder(nn.residual_mlp(latent, size, width=width, depth=1), shape)
        if self.network == "strided":
            classifier: nn.Module = nn.scale_weights(nn.strided_classifier(shape, clusters), 0.3)
        else:
            small = nn.scale_weights(nn.mlp(inputs, width, width, clusters, norm=nn.BatchNorm1d), 0.3)
            classifier = nn.encoder(small, shape, columns=columns)
        body: nn.Module = nn.encoder(
            nn.mlp(inputs, width, width, activation=nn.GELU), shape, self.encoder_dropout, columns
        )
        own_body = self.own_encoder(shape, latent, width, ": features, which meet those of y", columns)
        own_decoder = self.own_decoder(shape, latent)
        body, decoder = own_body or body, own_decoder or decoder
        given, head = nn.Linear(clusters, width), nn.Sequential(nn.GELU(), nn.Linear(width, 2 * latent))
        encoder = nn.Conditional(body, given, scaled(head))
        return GMVAE(component, decoder, likelihood, clusters, learned), GMVAEGuide(classifier, encoder)

    def bound(self, progress: float = 1.0) -> objectives.Objective:
        """Build the estimator, relaxed where it has to be, as it is after a fraction of the run."""
        bound = super().bound()
        return objectives.relaxed(bound, self.temperature_at(progress)) if self.relaxes else bound

    def objective_at(
        self, progress: float, guide: nn.Module, train: datasets.Split, teacher: Teacher | None = None
    ) -> objectives.Objective:
        """Build the bound with its terms of q(y | x), and of the labels where some are seen."""
        classify: Any = guide.classify
        bound = self.eased(self.bound(progress), progress)
        terms = self.terms(guide)
        if progress < 1 and self.imitates:
            if self.starts_from and teacher is None:
                raise UserError(f"`start={self.start}` needs a `teacher`: train with pyro_models.train")
            terms = self._starting(terms, progress, teacher or self._mixture(guide, train))
        objective = objectives.regularised(bound, terms, classify)
        if not self.labels:
            return objective
        share = self.labels / len(train)
        bound = objectives.of_chosen_labels(bound)
        return objectives.with_labels(objective, bound, classify, weight=self.label_weight, share=share)

    def _mixture(self, guide: Any, train: datasets.Split) -> Teacher:
        """Return the log-probabilities of the clusters of Gaussian mixtures of a table's rows."""
        columns, rows = columns_of(guide), self.rows(guide, train)
        posterior = metrics.mixture_posterior(rows, self.clusters, self.seed)
        return posterior if columns is None else lambda x: posterior(columns.standardised(x))

    def _starting(self, terms: dict[str, Any], progress: float, teacher: Teacher) -> dict[str, Any]:
        """Return the terms after a fraction of the run: the imitation weakens, the terms of clusters fade in.

        None of them is left out before the end, so that every epoch reports the same terms.
        """
        share = min(1.0, max(progress / START, LEAST))
        faded = {name: (weight * share, term) for name, (weight, term) in terms.items() if name in FADED}
        imitation, kept = partial(objectives.imitation, teacher=teacher), LEAST if self.starts_from else KEPT
        return terms | faded | {"imitation": (IMITATION * max(1 - share, kept), imitation)}

    def training_splits(self, train: datasets.Split) -> Splits:
        """Return all training data, and those whose labels are seen, if any."""
        return train, self.draw_labels(train, self.clusters)[0] if self.labels else None

    def scores(self, run: Trained, split: datasets.Split) -> dict[str, float]:
        """Return the terms of the bound, the squared error, and the clusters' scores against the labels."""
        inferred = self.infer(run, split)
        return self.evaluate(run, split) | metrics.score(
            inferred, split.labels, self.clusters, supervised=self.labels > 0
        )

    def final_scores(self, run: Trained) -> dict[str, dict[str, float]]:
        """Return the bound with an exact sum over y."""
        enum, scores = objectives.ESTIMATORS["enum"], {}
        for name in ("test", "validation"):
            batches = self.evaluation_batches(run, run.dataset.parts[name], 200)
            scores[name] = {"elbo_exact": metrics.evaluate(run.model, run.guide, enum, batches)["elbo"]}
        return scores

    def details(self, run: Trained) -> dict[str, Any]:
        """Return the scores of each class where labels are seen, and of a table those of a Gaussian mixture."""
        details, test = super().details(run), run.dataset.test
        if run.dataset.is_table:
            train, rows = (self.rows(run.guide, split) for split in (run.dataset.train, test))
            details["gaussian_mixture"] = metrics.gaussian_mixture(
                train, rows, test.labels, self.clusters, seed=self.seed
            )
        return details

    def remarks(self, run: Trained) -> list[str]:
        """Report collapsed clusters, and of a table whether a Gaussian mixture is the better model of its rows."""
        remarks, validation = super().remarks(run), run.dataset.validation
        preprocessing: Any = run.dataset.preprocessing
        if not run.dataset.is_table or not all(column.is_standardised for column in preprocessing.columns):
            return remarks  # densities of counts, say, are not those of their logarithms
        log_p = metrics.gaussian_mixture(run.dataset.train.x, validation.x, None, self.clusters, seed=self.seed)
        log_p = log_p["log_likelihood"]
        batches = self.evaluation_batches(run, validation, 200)
        bound = metrics.evaluate(run.model, run.guide, objectives.ESTIMATORS["enum"], batches)["elbo"]
        if log_p > bound:
            better = f"log p(x) {log_p:.2f} against a bound of {bound:.2f} nats per validation row"
            remarks.append(f"scikit-learn's GaussianMixture of as many components is the better model: {better}")
        return remarks

    def sample(self, run: Trained, conditions: Sequence[str], count: int, seed: int) -> tuple[Tensor, str]:
        """Draw data from the story, or from a cluster or class given as y=NAME."""
        names = [*self.category_names(run.dataset)]
        y = metrics.parse_conditions((datasets.Attribute("y", tuple(names)),), conditions) if conditions else None
        given = {} if y is None else {"y": datasets.one_hot(y[0], len(names)).expand(count, -1).to(run.dataset.device)}
        mean = not run.dataset.is_table and self.pixels == "grey"
        drawn = metrics.generate(run.model, ["x"], count, mean=mean, seed=seed, **given)["x"]
        return drawn, "" if y is None else f"y={names[int(y[0, 0])]}"

    def unit_of(self, score: str, dataset: datasets.Dataset) -> str:
        """Return the unit of a score or a term by its name."""
        if score == "elbo_exact":
            return f"{self.unit(dataset)}, sum over y"
        return f"{self.unit(dataset)}, y observed" if score.startswith("labelled_") else super().unit_of(score, dataset)

    @classmethod
    def headline(cls, result: Mapping[str, Any]) -> dict[str, str]:
        """Return accuracy beside that of a Gaussian mixture where one was fitted, and the other scores of clusters."""
        test, mixture = result["test"], result.get("gaussian_mixture", {})
        columns = {
            "accuracy": (test, "accuracy", 100, 1),
            "GaussianMixture": (mixture, "accuracy", 100, 1),
            "purity": (test, "purity", 100, 1),
            "nmi": (test, "nmi", 1, 3),
            "ari": (test, "ari", 1, 3),
            "exact elbo": (test, "elbo_exact", 1, 2),
            "clusters used": (test, "clusters_used", 1, 0),
        }
        return {
            title: f"{factor * scores[key]:.{digits}f}" if key in scores else ""
            for title, (scores, key, factor, digits) in columns.items()
        }

    def pictures(self) -> Sequence[Picture]:
        """Return the pictures of clusters, latents, reconstructions and learning curves."""
        return (
            pictures.samples_of_clusters,
            pictures.reconstructions,
            pictures.points,
            pictures.latent_map_by_cluster,
            pictures.prior_of_clusters,
            *super().pictures(),
            pictures.learning_curves,
        )
