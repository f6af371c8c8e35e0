"""Recipes with a category y that the guide infers, q(y | x): its labels, and terms of the loss that need none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pyro_models import data as datasets
from pyro_models import metrics, objectives, pictures
from pyro_models.base.errors import DataError, UserError
from pyro_models.recipes.base import Picture, Recipe, columns_of
from pyro_models.recipes.options import option

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_models.metrics import Trained

SHARE = "share of data"
UNITS = {
    "accuracy": f"{SHARE}, clusters matched to labels one to one",
    "f1": "mean over labels of the harmonic mean of precision and recall",
    "purity": f"{SHARE}, each cluster given its commonest label",
    "nmi": "normalised mutual information of clusters and labels, 0 to 1",
    "ari": "adjusted Rand index of clusters and labels, at most 1",
    "clusters_used": "clusters that at least a tenth of an even share of the data falls to",
}
TERMS = ("vat", "consistency", "entropy", "marginal_kl", "cross_entropy", "imitation")


@dataclass(frozen=True)
class DiscreteRecipe(Recipe):
    """The options of the recipes that infer a category y: labels, and terms of q(y | x) that need none."""

    labels: int = option(0, "number of training labels that are seen; 0 learns without labels", 0)
    label_seed: int | None = option(None, "seed of the draw of the labels; none: `seed`", 0)
    stratified: bool = option(True, "draw equally many labels of each class")
    split: Literal["official", "article"] = option(
        "official",
        "split of the data: the authors' own; article: of MNIST, with 10,000 training images for validation and labels "
        "drawn by scikit-learn, as in the article on virtual adversarial training",
    )
    vat: float = option(
        0.0,
        "weight of virtual adversarial training, KL(q(y | x) || q(y | x + r)), r the worst step (Miyato et al., 2018)",
        0.0,
        1e6,
    )
    radius: float = option(2.5, "length of the adversarial step r, in the units of the data", 0.0, 1e6)
    finite_difference: float = option(
        0.1, "length of the trial steps that find r; the paper's 1e-6 is too small for single precision", 1e-12, 1e6
    )
    iterations: int = option(1, "power iterations that find r; the paper uses 1", 1, 100)
    consistency: float = option(
        0.0, "weight of KL(q(y | x) || q(y | x augmented)) (Sajjadi et al., 2016; IMSAT, Hu et al., 2017)", 0.0, 1e6
    )
    jitter: float = option(
        0.2, "size of the augmentation: standard deviation of a random affine map, or of a row's noise", 0.0, 10.0
    )
    marginal_kl: float = option(
        0.0, "weight of KL(mean q(y | x) || uniform), which keeps all categories in use (Krause et al., 2010)", 0.0, 1e6
    )
    entropy: float = option(
        0.0, "weight of the entropy of q(y | x), which asks for confident categories (Krause et al., 2010)", 0.0, 1e6
    )

    def categories(self, dataset: datasets.Dataset) -> int:
        """Return the number of values of y."""
        raise NotImplementedError

    def category_names(self, dataset: datasets.Dataset) -> Sequence[str]:
        """Return the names of the classes where labels are seen, else the numbers of the clusters."""
        count = self.categories(dataset)
        return dataset.classes if self.labels and len(dataset.classes) == count else [str(k) for k in range(count)]

    @property
    def split_options(self) -> dict[str, Any]:
        """The split that is wanted."""
        return {"split": self.split}

    def check_data(self, dataset: datasets.Dataset) -> None:
        """Refuse data that the recipe cannot learn from."""
        categories = self.categories(dataset)
        if categories > len(dataset.train):
            raise DataError(f"{categories} values of y are more than the {len(dataset.train)} training data")
        if self.labels:
            for split in (dataset.train, dataset.validation, dataset.test):
                datasets.check_labels(split, categories)

    def batches(
        self, dataset: datasets.Dataset, *, rank: int = 0, processes: int = 1, **changes: Any
    ) -> datasets.Batches:
        """Return the training batches of one process, of 2 data or more: batch norm takes their mean."""
        if changes.get("size", self.batch_size) < 2 * processes:
            raise UserError("`batch_size` must leave 2 data for each process: batch norm takes their mean")
        return super().batches(dataset, rank=rank, processes=processes, **changes)

    def labelled_batch(self, dataset: datasets.Dataset, labelled: datasets.Split) -> dict[str, Tensor]:
        """Return `x`, and the labels as one-hot `y`."""
        return datasets.batch_of(labelled, self.pixels, classes=self.categories(dataset))

    def draw_labels(self, train: datasets.Split, classes: int | None = None) -> tuple[datasets.Split, datasets.Split]:
        """Draw the training data whose labels are seen: those, and the others; `classes` None takes the labels' own."""
        seed = self.seed if self.label_seed is None else self.label_seed
        how: Any = "article" if self.split == "article" else ("stratified" if self.stratified else "random")
        return datasets.draw_labels(train, self.labels, classes, seed=seed, how=how)

    def terms(self, guide: Any) -> dict[str, Any]:
        """Return the weight and the function of each term of q(y | x)."""
        step: dict[str, Any] = {
            "radius": self.radius,
            "finite_difference": self.finite_difference,
            "iterations": self.iterations,
        }
        columns = columns_of(guide)
        augment = partial(objectives.jitter if columns is None else columns.jittered, amount=self.jitter)
        return {
            "vat": (self.vat, partial(objectives.vat, **step)),
            "consistency": (self.consistency, partial(objectives.consistency, jitter=augment)),
            "marginal_kl": (self.marginal_kl, objectives.marginal_kl),
            "entropy": (self.entropy, objectives.entropy),
        }

    def infer(self, run: Trained, split: datasets.Split) -> Tensor:
        """Return the likeliest y under q(y | x) for each datum of a split: [n]."""
        classify: Any = run.guide.classify
        parts = (split.x[first : first + 1000] for first in range(0, len(split), 1000))
        return metrics.predict(classify, (datasets.to_float(x, self.pixels) for x in parts))

    def details(self, run: Trained) -> dict[str, Any]:
        """Return the scores of each class, where labels are seen."""
        test = run.dataset.test.labelled()
        if not self.labels or test.labels is None or len(test) == 0:
            return {}
        return {"classes": metrics.per_class(self.infer(run, test), test.labels, self.categories(run.dataset))}

    def remarks(self, run: Trained) -> list[str]:
        """Report collapsed categories, but for small ones that hold the data of a label."""
        train, categories = run.dataset.train, self.categories(run.dataset)
        inferred = self.infer(run, train).cpu()
        idle = (~metrics.used(inferred, categories)).nonzero()[:, 0].tolist()
        labels = train.labels.cpu() if train.labels is not None else inferred.new_full((len(inferred),), -1)
        if idle and (labels >= 0).any():
            counts = metrics.contingency(inferred[labels >= 0], labels[labels >= 0], categories)
            pure = counts.max(1).values > 0.5 * counts.sum(1)
            whole = counts.max(1).values > 0.5 * counts.sum(0)[counts.argmax(1)]
            idle = [k for k in idle if not (pure[k] and whole[k])]
        if not idle:
            return []
        sizes = ", ".join(f"{k}: {int((inferred == k).sum())}" for k in idle)
        few = f"hardly any training data fall to {len(idle)} of {categories} values of y"
        return [f"collapsed: {few} ({sizes} of {len(inferred)})"]

    def unit_of(self, score: str, dataset: datasets.Dataset) -> str:
        """Return the unit of a score or a term by its name."""
        if score in TERMS:
            return "nats"
        if score == "accuracy" and self.labels:
            return f"{SHARE} whose inferred class is their label"
        return UNITS.get(score) or super().unit_of(score, dataset)

    def pictures(self) -> Sequence[Picture]:
        """Return the pictures of y against the labels, and of the terms of q(y | x)."""
        return pictures.confusion, pictures.scores_of_classes, pictures.adversaries, pictures.labelled
