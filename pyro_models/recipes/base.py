"""What every recipe says: which story, guide, objective and data belong together, as plain options.

A recipe is a frozen dataclass. Its fields are the command line's options and the contents of recipe.json;
its methods build what the fields name. The imports stand inside the methods so that `--help` never waits
for torch.
"""

import dataclasses
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pyro_models.base.errors import UserError, nearest
from pyro_models.base.names import DATASETS, PixelMode, check_name
from pyro_models.recipes.options import check, flag, option, read

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from pyro_models.data import Attribute, Dataset, Split
    from pyro_models.objectives import Objective, Scheduled


@dataclass(frozen=True)
class Recipe:
    """The options that all recipes share.

    Raises:
        UserError: an option lies outside its bounds, or two do not go together.
    """

    name: ClassVar[str]
    presets: ClassVar[dict[str, str]] = {}  # as words of the command line
    figures: ClassVar[tuple[str, ...]]
    explains: ClassVar[Literal["x", "y"]] = "x"  # the site whose log-density the bound is of
    multimodal: ClassVar[bool] = False  # whether the story tells of attributes beside x
    generative: ClassVar[bool] = True
    kinds = labels = 0  # fields of the recipes that have kinds; no annotation, or it would hide those from `dataclass`
    latent_dim, elbo, particles = 0, "", 1  # fields of the recipes with a code, and so an estimator to choose

    data: str = option("digits", f"{', '.join(DATASETS)}, or a file of your own")
    pixels: PixelMode = option("grey", "what a pixel is, and so which likelihood is meant")
    epochs: int = option(100, "how many, each a pass over the training data or as many steps as --steps says", 1, 10**5)
    steps: int | None = option(None, "steps in an epoch, going round the training data; none makes one pass", 1, 10**6)
    batch_size: int = option(128, "images in a step, over all processes", 1)
    learning_rate: float = option(1e-3, "step size of Adam, at its peak", 0.0, 10.0)
    schedule: Literal["cosine", "stages", "constant"] = option(
        "cosine", "how the step size goes over the run; stages: down to a tenth in eight, each three times the last"
    )
    seed: int = option(1, "of weights, order and noise; the split of the data does not depend on it", 0)

    def __post_init__(self) -> None:
        check(self)
        check_name(self.data)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Make the recipe that a preset says, but for the changes.

        Raises:
            UserError: there is no such preset, or the options do not do.
        """
        if name not in cls.presets:
            raise UserError(f"unknown preset {name!r}: {nearest(name, cls.presets)}")
        return cls(**read(cls.presets[name].split(), cls()) | changes)

    def pair(self, shape: tuple[int, ...], attributes: "tuple[Attribute, ...]" = ()) -> "tuple[nn.Module, nn.Module]":
        """Build the story and its guide for images [channel, height, width] or rows [columns], and attributes."""
        raise NotImplementedError

    def training_objective(self, guide: "nn.Module", train: "Split") -> "Objective | Scheduled":
        """Build what is minimised: `objective_at` each moment of the run, or the same throughout."""
        from pyro_models.objectives import Scheduled

        if self.anneals:
            return Scheduled(lambda progress: self.objective_at(progress, guide, train))
        return self.objective_at(1.0, guide, train)

    def objective_at(self, progress: float, guide: "nn.Module", train: "Split") -> "Objective":
        """Build what is minimised when a fraction of the run is over: the bound, and what a recipe adds to it."""
        return self.bound()

    @property
    def anneals(self) -> bool:
        """Whether what is minimised changes over the run."""
        return False

    @property
    def paced(self) -> bool:
        """Whether what a step does depends on how many epochs there are."""
        return self.schedule != "constant" or self.anneals

    def check_data(self, dataset: "Dataset") -> None:
        """Refuse data that the recipe cannot learn from.

        Raises:
            UserError: they are a table, or too few, or of the wrong shape.
        """
        if dataset.is_table:
            raise UserError(f"--data {self.data} is a table, and {self.name} learns images: use gmvae --preset table")

    def load(self, data_dir: "Path | None") -> "Dataset":
        """Load the data.

        Raises:
            UserError: as `pyro_models.data.load`.
        """
        from pyro_models.data import load

        return load(self.data, data_dir=data_dir, pixels=self.pixels)

    def pools(self, train: "Split") -> "tuple[Split, Split | None]":
        """Return the data that batches are cut from, and those whose labels are seen, if any."""
        return train, None

    def bound(self) -> "Objective":
        """Build the estimator of the bound, which is also what test data are evaluated with."""
        from pyro_models.objectives import ESTIMATORS

        return ESTIMATORS["trace"]

    def unit(self, dataset: "Dataset") -> str:
        """Return the unit of this recipe's likelihoods, with all that decides what they compare with."""
        return "nats per row of standardised columns" if dataset.is_table else f"nats per image, {self.pixels} pixels"

    @property
    def bound_of(self) -> str:
        """What the estimator's bound is a bound of."""
        return "the story"

    def command(self, processes: int = 1) -> str:
        """Return the command that trains this recipe: the options that are not the defaults."""
        words = ["python"] if processes == 1 else ["torchrun", "--nproc-per-node", str(processes)]
        by_preset = [["--preset", name, *self._words(self.preset(name))] for name in self.presets]
        return shlex.join([*words, "train.py", self.name, *min(self._words(type(self)()), *by_preset, key=len)])

    def _words(self, base: "Recipe") -> list[str]:
        """The options in which this recipe differs from another."""
        words: list[str] = []
        for field in dataclasses.fields(self):
            value, name = getattr(self, field.name), flag(field.name)
            if value == getattr(base, field.name):
                continue
            if isinstance(value, bool):
                words.append(name if value else name.replace("--", "--no-", 1))
            else:
                words += [name, "none" if value is None else str(value)]
        return words

    def as_json(self) -> dict[str, Any]:
        """Return the recipe's name and fields, from which `recipes.from_json` makes it again."""
        return {"recipe": self.name, **dataclasses.asdict(self)}
