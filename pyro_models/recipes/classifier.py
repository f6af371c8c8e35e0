"""The recipe of the classifier."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pyro_models.base.errors import UserError
from pyro_models.recipes.categorical import KindsRecipe
from pyro_models.recipes.options import option

if TYPE_CHECKING:
    from torch import nn

    from pyro_models.data import Attribute, Dataset, Split
    from pyro_models.objectives import Objective


@dataclass(frozen=True)
class ClassifierRecipe(KindsRecipe):
    """Classifier: y ~ Categorical(network(x)), a few labels seen; virtual adversarial training on the other data."""

    name: ClassVar[str] = "classifier"
    explains: ClassVar[Literal["x", "y"]] = "y"
    generative: ClassVar[bool] = False
    presets: ClassVar[dict[str, str]] = {
        "article": "--network article --split article --finite-difference 1e-06 --consistency 0 --balance 0 "
        "--decision 0 --batch-size 512 --steps 100 --epochs 30 --learning-rate 0.001 "
        "--schedule constant",
        "paper": "--network paper --radius 5 --finite-difference 1e-06 --consistency 0 --balance 0 "
        "--decision 0 --batch-size 256 --steps 500 --epochs 100",
        "table": "--kinds 3 --network mlp --radius 0.3 --jitter 0.1 --batch-size 64",
    }
    figures: ClassVar[tuple[str, ...]] = (
        "confusion",
        "scores_of_classes",
        "adversaries",
        "labelled",
        "learning_curves",
    )

    labels: int = option(100, "how many training labels are seen", 1)
    unlabelled: int | None = option(None, "how many of the other training data are seen; none: all", 0)
    network: Literal["conv", "article", "paper", "mlp"] = option(
        "conv", "strided convolutions; the article's pooled ones (28 x 28 pixels); the paper's MLP; a small MLP"
    )
    vat: float = option(1.0, "weight of KL(q(y | x) || q(y | x + r)), r the worst step", 0.0, 1e6)
    consistency: float = option(2.0, "weight of KL(q(y | x) || q(y | x moved a little))", 0.0, 1e6)
    balance: float = option(1.0, "weight of KL(mean q(y | x) || uniform)", 0.0, 1e6)
    decision: float = option(0.2, "weight of the entropy of q(y | x)", 0.0, 1e6)
    batch_size: int = option(256, "data in a step beside the labelled, over all processes", 2)
    epochs: int = option(7, "how many, each a pass over the training data or as many steps as --steps says", 1, 10**5)
    learning_rate: float = option(2e-3, "step size of Adam, at its peak", 0.0, 10.0)

    def check_data(self, dataset: "Dataset") -> None:
        """Refuse data that the recipe cannot learn from."""
        if self.network == "article" and dataset.shape[1:] != (28, 28):
            raise UserError(f"--network article wants images of 28 x 28, not {list(dataset.shape)}")
        if self.network == "conv" and dataset.is_table:
            raise UserError(f"--data {self.data} is a table: use --preset table, or --network mlp")
        super().check_data(dataset)

    def unit(self, dataset: "Dataset") -> str:
        """Return the unit of log p(y | x)."""
        return "nats per label"

    def pair(self, shape: tuple[int, ...], attributes: "tuple[Attribute, ...]" = ()) -> "tuple[nn.Module, nn.Module]":
        """Build the classifier and its empty guide, which share the network."""
        from torch.nn import BatchNorm1d, ReLU, Sequential

        from guides.classifier import ClassifierGuide
        from pyro_models import nn
        from pyro_models.classifier import Classifier

        network: Any
        if self.network == "conv":
            network = nn.strided_classifier(shape, self.kinds)
        elif self.network == "article":
            network = nn.redrawn(nn.conv_classifier(shape[0], self.kinds, (32, 64), 100, 0.5), 0.02)
        elif self.network == "paper":
            sizes = (nn.size(shape), 1200, 600, 300, 150, self.kinds)
            noisy = nn.mlp(*sizes, norm=BatchNorm1d, activation=lambda: Sequential(ReLU(), nn.GaussianNoise(0.5)))
            network = nn.encoder(noisy, shape)
        else:
            network = nn.encoder(nn.mlp(nn.size(shape), 64, 64, self.kinds, norm=BatchNorm1d), shape)
        return Classifier(network), ClassifierGuide(network)

    def objective_at(self, progress: float, guide: "nn.Module", train: "Split") -> "Objective":
        """Build the log-likelihood of the labels, and the terms of the other data."""
        from pyro_models import objectives

        classify: Any = guide.classify
        terms = self.terms()
        others = objectives.regularised(objectives.discriminative(classify), terms, classify)
        useful = any(weight for weight, _ in terms.values())
        return objectives.with_labels(others if useful else None, self.bound(), classify)

    def pools(self, train: "Split") -> "tuple[Split, Split | None]":
        """Return the data without labels, or the labelled ones where there are no others, and the labelled."""
        labelled, others = self.draw_labels(train)
        if self.unlabelled is not None and self.unlabelled > len(others):
            raise UserError(f"--unlabelled {self.unlabelled} is more than the {len(others)} training data left")
        others = others[: self.unlabelled] if self.unlabelled is not None else others
        return others if len(others) else labelled, labelled
