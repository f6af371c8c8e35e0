"""Options of recipes with a category y: labels, and terms that need none."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pyro_models.base.errors import UserError
from pyro_models.recipes.base import Recipe
from pyro_models.recipes.options import option

if TYPE_CHECKING:
    from pathlib import Path

    from pyro_models.data import Dataset, Split


@dataclass(frozen=True)
class KindsRecipe(Recipe):
    """The options of the recipes that guess a kind, q(y | x): labels, and terms that need none."""

    kinds: int = option(10, "how many there are", 2, 1000)
    labels: int = option(0, "how many training labels are seen", 0)
    label_seed: int | None = option(None, "of their draw; none draws by --seed", 0)
    stratified: bool = option(True, "draw as many labels of each kind")
    split: Literal["official", "article"] = option(
        "official", "article: 10,000 training images for validation, labels drawn as there, by scikit-learn"
    )
    vat: float = option(0.0, "weight of KL(q(y | x) || q(y | x + r)), r the worst step", 0.0, 1e6)
    radius: float = option(2.5, "length of r, in the units of the data", 0.0, 1e6)
    finite_difference: float = option(0.1, "length of the steps that find r", 1e-12, 1e6)
    iterations: int = option(1, "of the power method that finds r", 1, 100)
    consistency: float = option(0.0, "weight of KL(q(y | x) || q(y | x moved a little))", 0.0, 1e6)
    jitter: float = option(0.2, "how little: sd of the affine map, or of a row's noise", 0.0, 10.0)
    balance: float = option(0.0, "weight of KL(mean q(y | x) || uniform)", 0.0, 1e6)
    decision: float = option(0.0, "weight of the entropy of q(y | x)", 0.0, 1e6)

    def load(self, data_dir: "Path | None") -> "Dataset":
        """Load the data, split as asked for."""
        from pyro_models.data import load

        return load(self.data, data_dir=data_dir, pixels=self.pixels, split=self.split)

    def check_data(self, dataset: "Dataset") -> None:
        """Refuse data that the recipe cannot learn from."""
        if self.kinds > len(dataset.train):
            raise UserError(f"--kinds {self.kinds} is more than the {len(dataset.train)} training data")
        if self.labels:
            from pyro_models.data import check_labels

            for split in (dataset.train, dataset.validation, dataset.test):
                check_labels(split, self.kinds)

    def terms(self) -> dict[str, Any]:
        """Return the weight and the function of each term of q(y | x)."""
        from functools import partial

        from pyro_models import objectives

        worst = partial(
            objectives.vat, radius=self.radius, finite_difference=self.finite_difference, iterations=self.iterations
        )
        moved = partial(objectives.consistency, jitter=partial(objectives.jitter, amount=self.jitter))
        return {
            "vat": (self.vat, worst),
            "consistency": (self.consistency, moved),
            "marginal_kl": (self.balance, objectives.marginal_kl),
            "entropy": (self.decision, objectives.entropy),
        }

    def draw_labels(self, train: "Split") -> "tuple[Split, Split]":
        """Draw the training data whose labels are seen: those, and the others."""
        from pyro_models.data import draw_labels

        seed = self.seed if self.label_seed is None else self.label_seed
        how: Any = "article" if self.split == "article" else ("stratified" if self.stratified else "random")
        return draw_labels(train, self.labels, self.kinds, seed=seed, how=how)
