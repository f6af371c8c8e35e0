"""The recipe of the classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyro_models
from pyro_models import data as datasets
from pyro_models import guides, metrics, nn, objectives, pictures
from pyro_models.base.errors import DataError, UserError
from pyro_models.recipes.base import Picture, Question, Splits, Teacher
from pyro_models.recipes.discrete import DiscreteRecipe
from pyro_models.recipes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_models.metrics import Trained


@dataclass(frozen=True)
class ClassifierRecipe(DiscreteRecipe):
    """Classifier: y ~ Categorical(network(x)), a few labels seen; virtual adversarial training on the other data."""

    name: ClassVar[str] = "classifier"
    target: ClassVar[str] = "y"
    unanswered: ClassVar[Mapping[Question, str]] = {  # as the story is of y alone
        "replicates": "the classifier cannot generate x: there are no replicates to check",
        "log-likelihood": "the classifier is no density of x: it has no log p(x) to estimate",
        "explorer": "the classifier has no latent z to move",
    }
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "vat-article": {
            "network": "article",
            "split": "article",
            "finite_difference": 1e-6,
            "consistency": 0.0,
            "marginal_kl": 0.0,
            "entropy": 0.0,
            "batch_size": 512,
            "steps": 100,
            "epochs": 30,
            "learning_rate": 0.001,
            "schedule": "constant",
        },
        "miyato": {
            "network": "paper",
            "radius": 5.0,
            "finite_difference": 1e-6,
            "consistency": 0.0,
            "marginal_kl": 0.0,
            "entropy": 0.0,
            "batch_size": 256,
            "steps": 500,
            "epochs": 100,
        },
        "table": {"data": "blobs", "network": "mlp", "radius": 0.3, "jitter": 0.1, "batch_size": 64},
    }
    sources: ClassVar[Mapping[str, str]] = {
        "vat-article": "an introductory article on virtual adversarial training: its net, split and xi, VAT alone, "
        "3,000 steps of 100 labelled and 512 unlabelled images, Adam at a constant 0.001",
        "miyato": "Miyato, Maeda, Koyama and Ishii, Virtual Adversarial Training, 2018 (arXiv:1704.03976), on MNIST: "
        "their MLP with noise, 50,000 steps",
        "table": "rows of a table, blobs unless `data` says otherwise: lengths in standard deviations of its columns",
    }

    classes: int | None = option(None, "number of classes; none: as many as the labels have", 2, 1000)
    labels: int = option(100, "number of training labels that are seen; the articles and papers use 100", 1)
    unlabelled: int | None = option(None, "number of other training data that are seen without labels; none: all", 0)
    network: Literal["conv", "article", "paper", "mlp"] = option(
        "conv",
        "classifier: strided convolutions; the article's pooled ones (28 x 28 pixels); the MLP of Miyato et al. "
        "(2018); or a small MLP",
    )
    vat: float = option(
        1.0,
        "weight of virtual adversarial training, KL(q(y | x) || q(y | x + r)), r the worst step (Miyato et al., 2018)",
        0.0,
        1e6,
    )
    consistency: float = option(
        2.0, "weight of KL(q(y | x) || q(y | x augmented)) (Sajjadi et al., 2016; IMSAT, Hu et al., 2017)", 0.0, 1e6
    )
    marginal_kl: float = option(
        1.0,
        "weight of KL(mean q(y | x) || uniform), which keeps all classes in use, and asks that they are of equal size "
        "(Krause et al., 2010)",
        0.0,
        1e6,
    )
    entropy: float = option(
        0.2, "weight of the entropy of q(y | x), which asks for confident classes (Krause et al., 2010)", 0.0, 1e6
    )
    batch_size: int = option(256, "unlabelled data in an optimiser step, over all processes; batch norm wants many", 2)
    epochs: int = option(7, "number of epochs: passes over the training data, unless `steps` says otherwise", 1, 10**5)
    learning_rate: float = option(
        2e-3, "step size of Adam, at its peak; twice the usual 0.001, for few epochs", 0.0, 10.0
    )

    def categories(self, dataset: datasets.Dataset) -> int:
        """Return the number of classes: that of the labels."""
        return self.classes or dataset.class_count

    def check_data(self, dataset: datasets.Dataset) -> None:
        """Refuse data that the recipe cannot learn from."""
        if self.network == "article" and dataset.shape[1:] != (28, 28):
            raise DataError(f"`network=article` takes images of 28 x 28, not {list(dataset.shape)}")
        if self.network == "conv" and dataset.is_table:
            raise DataError(f"`data={self.data}` is a table: use `preset=table`, or `network=mlp`")
        count = dataset.class_count
        if self.classes and self.classes > count > 0:
            raise DataError(f"`classes={self.classes}`: the labels have {count} classes: leave `classes` out")
        super().check_data(dataset)
        if count < 2:
            raise DataError(f"{self.name} needs labels of two or more classes, and {dataset.name} has {count}")

    def batch(self, dataset: datasets.Dataset, split: datasets.Split) -> dict[str, Tensor]:
        """Return `x`, and the labels as one-hot `y`."""
        return self.labelled_batch(dataset, split)

    def training_batch(self, dataset: datasets.Dataset, split: datasets.Split) -> dict[str, Tensor]:
        """Return `x`, whose labels are not looked at."""
        return datasets.batch_of(split, self.pixels)

    def story_arguments(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the labelled data of a training batch: of the others the story says nothing."""
        return {name: batch[f"labelled_{name}"] for name in ("x", "y")}

    def unit(self, dataset: datasets.Dataset) -> str:
        """Return the unit of log p(y | x)."""
        return "nats per label"

    def pair(self, dataset: datasets.Dataset) -> tuple[nn.Module, nn.Module]:
        """Build the classifier and its empty guide, which share the network."""
        shape, classes, columns = dataset.shape, self.categories(dataset), self.columns(dataset)
        inputs = nn.size(shape) if columns is None else columns.width
        if self.network == "conv":
            network: nn.Module = nn.strided_classifier(shape, classes)
        elif self.network == "article":
            network = nn.normal_init(nn.conv_classifier(shape[0], classes, (32, 64), 100, 0.5), 0.02)
        elif self.network == "paper":
            sizes = (inputs, 1200, 600, 300, 150, classes)
            noisy_relu = lambda: nn.Sequential(nn.ReLU(), nn.GaussianNoise(0.5))  # noqa: E731
            network = nn.encoder(nn.mlp(*sizes, norm=nn.BatchNorm1d, activation=noisy_relu), shape, columns=columns)
        else:
            network = nn.encoder(nn.mlp(inputs, 64, 64, classes, norm=nn.BatchNorm1d), shape, columns=columns)
        return pyro_models.Classifier(network), guides.ClassifierGuide(network)

    def objective_at(
        self, progress: float, guide: nn.Module, train: datasets.Split, teacher: Teacher | None = None
    ) -> objectives.Objective:
        """Build the log-likelihood of the labels, and the terms of the other data."""
        classify: Any = guide.classify
        terms = self.terms(guide)
        unlabelled = objectives.regularised(objectives.discriminative(classify), terms, classify)
        weighted = any(weight for weight, _ in terms.values())
        return objectives.with_labels(unlabelled if weighted else None, self.bound(), classify)

    def training_splits(self, train: datasets.Split) -> Splits:
        """Return the data without labels, or the labelled ones where there are no others, and the labelled."""
        labelled, others = self.draw_labels(train)
        if self.unlabelled is not None:
            if self.unlabelled > len(others):
                raise UserError(f"`unlabelled` {self.unlabelled} is more than the {len(others)} training data left")
            others = others[: self.unlabelled]
        return others if len(others) else labelled, labelled

    def evaluate(self, run: Trained, split: datasets.Split) -> dict[str, float]:
        """Average log p(y | x) over the labelled data of a split, nats per label."""
        return metrics.evaluate(run.model, run.guide, self.bound(), self.evaluation_batches(run, split.labelled()))

    def scores(self, run: Trained, split: datasets.Split) -> dict[str, float]:
        """Return log p(y | x), accuracy and F1."""
        split = split.labelled()
        labels: Any = split.labels  # which `check_data` requires
        return self.evaluate(run, split) | metrics.agreement(self.infer(run, split), labels)

    def training_scores(self, run: Trained) -> dict[str, float]:
        """Return none: the labels of most training data count as unknown."""
        return {}

    def examples(self, dataset: datasets.Dataset) -> list[int]:
        """Return none: nothing is reconstructed."""
        return []

    @classmethod
    def headline(cls, result: Mapping[str, Any]) -> dict[str, str]:
        """Return accuracy and F1 on test and validation data; these are the article's held-out ones in its split."""
        test = result["test"]
        return {
            "accuracy": f"{100 * test['accuracy']:.2f}",
            "f1": f"{test['f1']:.4f}",
            "f1 (validation)": f"{result['validation']['f1']:.4f}",
        }

    def pictures(self) -> Sequence[Picture]:
        """Return the pictures of classes, adversarial steps and learning curves."""
        return *super().pictures(), pictures.learning_curves
