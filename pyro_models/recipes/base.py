"""What every recipe answers: its data, its pair, its objective, and what is measured, drawn and reported of a run.

A recipe is a frozen dataclass. Its fields are the options of the command line and the contents of recipe.json; its
methods build what the fields name. All other rooms ask a recipe by these methods and none asks which recipe it has.

The rooms imported here load torch when one of their names is first used, so that `--help` does not wait for it.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pyro_models import data as datasets
from pyro_models import metrics, nn, objectives, reading
from pyro_models.base.errors import DataError, UserError, nearest
from pyro_models.base.names import COLUMN_TYPES, DATASETS, PixelMode, check_exists, check_name, parse_call, sites_of
from pyro_models.recipes.options import SEEDS, check, command_words, option

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure
    from torch import Tensor

    from pyro_models.metrics import Trained

Question = Literal["replicates", "log-likelihood", "explorer"]
"""What a recipe may have to leave unanswered: data drawn anew, log p of the target site, a page that decodes z."""
Splits = tuple["datasets.Split", "datasets.Split | None"]
"""The data to cut batches from, and those whose labels are seen, if any."""
SOURCE_OPTIONS = ("data", "validation_data", "test_data")
SCHEDULES = ("cosine", "stages", "constant")
DATA_OPTIONS = (*SOURCE_OPTIONS[1:], "label_column", "id_column", "split_column", "size", "colour", "white")

Teacher = Callable[["Tensor"], "Tensor"]
"""From data, or their latents, to log-probabilities of their categories, [batch, categories]."""
Picture = Callable[["Trained"], "Mapping[str, Figure]"]
"""Draws figures, each by the name of its file."""


@dataclass(frozen=True)
class Recipe:
    """The options that all recipes share, and the answers that most recipes give.

    Raises:
        UserError: an option lies outside its bounds, or two do not go together.
    """

    name: ClassVar[str]
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    sources: ClassVar[Mapping[str, str]] = {}  # of the presets: whose setting each is
    target: ClassVar[str] = "x"  # the observed site whose log-density the bound is of
    latent_site: ClassVar[str] = "z"  # the one that maps and the explorer show
    density: ClassVar[str] = "p(x)"  # whose logarithm `likelihood` estimates
    unanswered: ClassVar[Mapping[Question, str]] = {}  # why a question cannot be put to the pair
    beside_z: ClassVar[str] = ""  # what x depends on beside z, which differs from datum to datum

    data: Any = option(
        "digits",
        f"data set to learn: {', '.join(DATASETS)}; the path of your own .npy, .npz, .csv, .tsv or .parquet file, or "
        "of a folder of images, whose subfolders are their labels; in Python arrays, tensors or a data frame too",
    )
    pixels: PixelMode = option(
        "grey",
        "what a pixel is, and so which likelihood is meant: intensities as they are; binarised anew in every batch "
        "(Salakhutdinov and Murray, 2008), once and for all, or at one half",
    )
    validation_data: Any = option(None, "your own validation data, as `data`; none: a twelfth of the training data")
    test_data: Any = option(None, "your own test data, as `data`; none: a sixth of the data, drawn at random")
    label_column: str | None = option(None, "column of your table that holds the labels; none: `label`, if it exists")
    id_column: str | None = option(None, "column of your table that names its rows, which is no feature")
    split_column: str | None = option(None, "column of your table that says train, validation or test of each row")
    size: int | None = option(
        None, "height and width to resize your images to: the shorter side, then the centre of the other", 1, 10_000
    )
    colour: Literal["auto", "grey", "colour"] = option("auto", "channels of your images: as they are, 1 or 3")
    white: float | None = option(
        None, "value of a white pixel of your images; none: by the type and the range of the pixels", 1e-6, 1e9
    )
    epochs: int = option(
        100, "number of epochs: passes over the training data, unless `steps` says otherwise", 1, 10**5
    )
    steps: int | None = option(
        None, "optimiser steps in an epoch, cycling through the training data; none: one pass over them", 1, 10**6
    )
    least_steps: int = option(
        1, "optimiser steps that an epoch has at least, cycling through data that are too few for them", 1, 10**6
    )
    batch_size: int = option(128, "data in an optimiser step, over all processes; the articles use 128", 1)
    learning_rate: float = option(
        1e-3, "step size of the optimiser, at its peak; 0.001 is Adam's usual value", 0.0, 10.0
    )
    schedule: str = option(
        "cosine",
        "learning-rate schedule: cosine decay to 0; stages: down to a tenth in eight stages, each three times as long "
        "as the last (Burda et al., 2016); constant; or a scheduler of torch.optim.lr_scheduler, or MODULE:CLASS, "
        "stepped after each epoch, as 'StepLR(step_size=30)'",
    )
    optimizer: str = option(
        "Adam",
        "optimiser of torch.optim, or MODULE:CLASS, with options of its own as in Python: 'AdamW(weight_decay=0.01)', "
        "'pytorch_optimizer:SOAP(weight_decay=0.0)'",
    )
    evaluate_every: int = option(1, "evaluate after every so many epochs; the last is always evaluated", 1, 10**5)
    evaluate_on: float | None = option(
        None,
        "validation data to evaluate while training, drawn once: a share of at most 1, or their number; the others and "
        "test data follow when training is over; none: all validation and test data each time",
        1e-6,
        1e9,
    )
    early_stopping: int | None = option(
        None,
        "end training after so many evaluations, one an epoch unless `evaluate_every` says otherwise, without a higher "
        "validation ELBO; none: train to the last of `epochs`",
        1,
        10**5,
    )
    keep: Literal["last", "best"] = option(
        "last",
        "weights that a run ends with: those of its last epoch, or best: of the epoch with the highest validation "
        "ELBO, which says little of clusters",
    )
    amp: bool = option(False, "compute networks in bfloat16 (automatic mixed precision), on a GPU alone")
    seed: int = option(
        1, "seed of the weights, the order and the noise; the split of the data does not depend on it", 0, SEEDS
    )
    initial_weights: str | None = option(
        None,
        "finished run, a folder or hub:USER/NAME, whose weights training starts from, where the networks are the same; "
        "none: drawn from the seed",
    )
    continued: Any = option(
        (),
        "where a finished run was trained further: its `epochs` until then, the epoch that it had reached, and the "
        "step size from which a fresh cosine fell",
        shown=False,
    )

    def __post_init__(self) -> None:
        for name in ("initial_weights", "start"):
            if isinstance(path := getattr(self, name, None), PathLike):
                object.__setattr__(self, name, os.fspath(path))
        check(self)
        if self.evaluate_on is not None and self.evaluate_on > 1 and self.evaluate_on % 1:
            raise UserError(f"`evaluate_on` must be a share of at most 1 or a whole number, not {self.evaluate_on:g}")
        parse_call(self.optimizer)
        name, _ = parse_call(self.schedule)
        if name not in SCHEDULES and name[:1].islower() and ":" not in name:
            raise UserError(f"`schedule`: unknown value {name!r}: {nearest(name, SCHEDULES)}")
        object.__setattr__(self, "continued", tuple(tuple(each) for each in self.continued))
        for name in SOURCE_OPTIONS:
            value = getattr(self, name)
            if isinstance(value, Mapping) and value.keys() == {"description", "sha256"}:  # as `as_json` wrote it
                value = datasets.InMemory(**value)
            elif isinstance(value, PathLike | str):
                value = os.fspath(value) if name != "data" else check_name(os.fspath(value))
                if value not in DATASETS and os.path.isdir(value):
                    value = os.path.join(value, "")  # which says that it is a folder, where it is gone
            elif value is not None and not isinstance(value, datasets.InMemory):
                value = datasets.InMemory.of(value)
            object.__setattr__(self, name, value)

    # Options

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Self:
        """Make the recipe of a preset, but for the changes.

        Raises:
            UserError: there is no such preset, or the options do not go together.
        """
        if name not in cls.presets:
            raise UserError(f"unknown preset {name!r}: {nearest(name, cls.presets)}")
        return cls(**cls.presets[name] | changes)

    def as_json(self) -> dict[str, Any]:
        """Return the recipe's name and fields, from which `recipes.from_json` makes it again."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in SOURCE_OPTIONS:
            if not isinstance(values[name], str | None):
                values[name] = {"description": values[name].description, "sha256": values[name].sha256}
        return {"recipe": self.name, **values, "continued": [list(each) for each in self.continued]}

    def command(self, processes: int = 1) -> str:
        """Return the shortest command that trains this recipe: a preset, and the options that differ from it.

        Of a run that was trained further, the commands, one after the other.
        """
        torchrun = ["torchrun", "--nproc-per-node", str(processes), "-m", "pyro_models", "train", self.name]
        start = ["pyro-stories", "train", self.name] if processes == 1 else torchrun
        ends = [epochs for epochs, _, _ in self.continued] + [self.epochs]
        first = dataclasses.replace(self, epochs=ends[0], continued=())
        bases: dict[str | None, Recipe] = {None: type(self)()} | {name: self.preset(name) for name in self.presets}
        words = [
            [*(["--preset", name] if name else []), *command_words(vars(first), vars(base))]
            for name, base in bases.items()
        ]
        commands = [[*start, *min(words, key=len)]]
        if self.continued:
            commands[0] += ["--out", "RUN"]
        for (_, _, size), end in zip(self.continued, ends[1:], strict=True):
            further = ["--out", "RUN", "--resume", "--epochs", str(end), "--learning-rate", str(size)]
            commands.append([*start, *further])
        return " && ".join(map(shlex.join, commands))

    # Data and batches

    def check_source(self) -> None:
        """Refuse paths of data that do not exist, before anything is loaded.

        Raises:
            UserError: there is no such file or folder.
        """
        for name in SOURCE_OPTIONS:
            if isinstance(path := getattr(self, name), str):
                check_exists(path)

    def load(self, data_dir: Path | None = None) -> datasets.Dataset:
        """Load the data.

        Raises:
            UserError: as `pyro_models.data.load`.
        """
        options = {name: getattr(self, name) for name in DATA_OPTIONS}
        options |= {"pixels": self.pixels, "likelihood": self.likelihood_of_columns}
        return datasets.load(self.data, data_dir=data_dir, **options, **self.split_options)

    @property
    def likelihood_of_columns(self) -> str:
        """The likelihood of a table's columns, as `pyro_models.data.load` takes it."""
        return "normal"

    def columns(self, dataset: datasets.Dataset) -> nn.ColumnInputs | None:
        """Build the first layer of an encoder of a table's rows; None where the data are images."""
        if dataset.preprocessing is None or not dataset.is_table:
            return None
        import torch

        each = [column for column in dataset.preprocessing.columns for _ in column.names]
        counts = torch.tensor([column.likelihood in COLUMN_TYPES["counts"] for column in each], device=dataset.device)
        inputs = [(0.0, 1.0) if column.is_standardised else (column.loc, column.scale) for column in each]
        loc, scale = torch.tensor(inputs, device=dataset.device).T
        return nn.ColumnInputs(counts, loc, scale, masked=any(column.missing for column in each))

    @property
    def split_options(self) -> dict[str, Any]:
        """The arguments of `pyro_models.data.load` that choose among the splits of a named data set."""
        return {}

    def check_data(self, dataset: datasets.Dataset) -> None:
        """Refuse data that the recipe cannot learn from.

        Raises:
            UserError: they are a table, or too few, or of the wrong shape.
        """
        if dataset.is_table:
            raise DataError(f"`data={self.data}` is a table, and {self.name} learns images: use vae or gmvae")

    def training_splits(self, train: datasets.Split) -> Splits:
        """Return the data to cut batches from, and those whose labels are seen, if any."""
        return train, None

    def batch(self, dataset: datasets.Dataset, split: datasets.Split) -> dict[str, Tensor]:
        """Return all data of a split as the pair takes them, by the names of its arguments: [n, *shape] each."""
        return datasets.batch_of(split, self.pixels)

    def training_batch(self, dataset: datasets.Dataset, split: datasets.Split) -> dict[str, Tensor]:
        """Return data as the objective takes them, which sees less of them than an evaluation may."""
        return self.batch(dataset, split)

    def labelled_batch(self, dataset: datasets.Dataset, labelled: datasets.Split) -> dict[str, Tensor]:
        """Return the data whose labels are seen; the objective gets them under names that begin `labelled_`."""
        raise NotImplementedError

    def batches(
        self, dataset: datasets.Dataset, *, rank: int = 0, processes: int = 1, **changes: Any
    ) -> datasets.Batches:
        """Return the shuffled training batches of one process.

        Args:
            dataset: the data.
            rank, processes: which process this is, and of how many.
            changes: of the arguments of `Batches`, `size` and `steps` for instance.

        Raises:
            UserError: there are too few data for a batch, or it does not divide among the processes.
        """
        split, labelled = self.training_splits(dataset.train)
        given: dict[str, Any] = {"size": self.batch_size, "steps": self.steps, "seed": self.seed} | changes
        if labelled is not None:
            given |= {"labelled": labelled, "to_labelled": partial(self.labelled_batch, dataset)}
        if given["steps"] is None and len(split) // given["size"] < self.least_steps:
            if self.least_steps == 1:
                raise UserError(
                    f"`batch_size` {given['size']} is more than the {len(split)} training data; `least_steps` cycles "
                    "through them"
                )
            given["steps"] = self.least_steps
        if given["size"] % processes:
            raise UserError(f"`batch_size` {given['size']} does not divide among {processes} processes")
        to_batch = lambda part: self.training_batch(dataset, part)  # noqa: E731
        return datasets.Batches(split, to_batch=to_batch, rank=rank, processes=processes, **given)

    # Pair and objective

    def pair(self, dataset: datasets.Dataset) -> tuple[nn.Module, nn.Module]:
        """Build the story and its guide for the shape and the attributes of a data set."""
        raise NotImplementedError

    def training_objective(
        self, guide: nn.Module, train: datasets.Split, teacher: Teacher | None = None
    ) -> objectives.Objective | objectives.Scheduled:
        """Build what is minimised: `objective_at` each moment of the run, or the same throughout."""
        if self.is_scheduled:
            return objectives.Scheduled(lambda progress: self.objective_at(progress, guide, train, teacher))
        return self.objective_at(1.0, guide, train, teacher)

    def objective_at(
        self, progress: float, guide: nn.Module, train: datasets.Split, teacher: Teacher | None = None
    ) -> objectives.Objective:
        """Build what is minimised after a fraction of the run: the bound, and the terms that a recipe adds to it.

        Args:
            progress: the fraction, 0 to 1.
            guide: the guide.
            train: the training data.
            teacher: what `teacher_of` the latents of the run that `starts_from` names returned.
        """
        return self.bound()

    @property
    def starts_from(self) -> str | None:
        """A finished run, a folder or hub:USER/NAME, whose latents have a part in the objective; None without one."""
        return None

    def teacher_of(self, latents: Tensor) -> Teacher:
        """Return what is imitated at the start, made of the latents of the training data in the run `starts_from`.

        Args:
            latents: [n, latent].

        Returns:
            from latents [batch, latent] to log-probabilities, [batch, categories].
        """
        raise NotImplementedError

    def bound(self) -> objectives.Objective:
        """Build the estimator of the bound, with which validation and test data are evaluated too."""
        return objectives.ESTIMATORS["trace"]

    @property
    def is_scheduled(self) -> bool:
        """Whether the objective changes over the run."""
        return False

    @property
    def fixes_epochs(self) -> bool:
        """Whether a step depends on the number of epochs, so that a run cannot be made longer afterwards."""
        return self.schedule != "constant" or self.is_scheduled or bool(self.continued)

    @property
    def bound_of(self) -> str | None:
        """What the estimator's bound is a bound of, where that is not the story."""
        return None

    @property
    def note(self) -> str | None:
        """What is to be known of the objective beside its formula."""
        return None if self.bound_of is None else f"the bound is of {self.bound_of}"

    def story(self, dataset: datasets.Dataset) -> reading.Story:
        """Read the recipe's pair on a batch of its data, and its objective as it is at the end of a run.

        Raises:
            UserError: as `reading.story`.
        """
        with metrics.eval_mode():
            batch = next(self.batches(dataset, steps=1).epoch(0))
            model, guide = (half.to(dataset.train.x.device) for half in self.pair(dataset))
        objective = self.training_objective(guide, dataset.train)
        if isinstance(objective, objectives.Scheduled):
            objective = objective.at(1.0)
        return reading.story_of_objective(
            model, guide, objective, batch, arguments=self.story_arguments(batch), note=self.note
        )

    def story_arguments(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the part of a training batch that the story is read on: all but what is labelled."""
        return {name: values for name, values in batch.items() if not name.startswith("labelled_")}

    # What is measured of a run

    def evaluation_batches(self, run: Trained, split: datasets.Split, size: int = 1000) -> Iterator[dict[str, Tensor]]:
        """Yield a split as `batch` returns it, a part at a time."""
        for first in range(0, len(split), size):
            yield self.batch(run.dataset, split[first : first + size])

    def encode(self, run: Trained, split: datasets.Split) -> Tensor:
        """Return the mean of q(z | x) for each datum of a split, a discrete y at its likeliest value: [n, latent]."""
        batches = map(self.inputs_of, self.evaluation_batches(run, split))
        return metrics.encode(run.guide, batches, site=self.latent_site)

    def evaluate(self, run: Trained, split: datasets.Split) -> dict[str, float]:
        """Average the terms of the bound over a split, nats per datum, and the squared error of reconstructions."""
        return self._evaluate(run, split, self.bound())

    def _evaluate(self, run: Trained, split: datasets.Split, objective: objectives.Objective) -> dict[str, float]:
        def error(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
            reconstruction, x = metrics.reconstruct(run.model, run.guide, self.inputs_of(batch)), batch["x"]
            if columns is not None:
                reconstruction, x = columns.standardised(reconstruction), columns.standardised(x)
            return {"mse": (reconstruction - x).square().nanmean()}

        columns = self.columns(run.dataset)
        batches = self.evaluation_batches(run, split, self.evaluation_size)
        return metrics.evaluate(run.model, run.guide, objective, batches, scores=error)

    def inputs_of(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the part of a batch that latents are inferred from, where these are shown or decoded again."""
        return {"x": batch["x"]}

    @property
    def evaluation_size(self) -> int:
        """How many data are evaluated at a time."""
        return 1000

    def scores(self, run: Trained, split: datasets.Split) -> dict[str, float]:
        """Return the scores of a split after an epoch: those of metrics.csv."""
        return self.evaluate(run, split)

    def training_scores(self, run: Trained) -> dict[str, float]:
        """Return the scores of as many training data as validation data are watched, after an epoch."""
        train = run.dataset.train[: len(self.watched(run.dataset))]
        return self._evaluate(run, train, lambda *pair, **batch: {})  # without a bound, which takes as long again

    def evaluates(self, epoch: int) -> bool:
        """Return whether the scores are measured after an epoch."""
        return epoch % self.evaluate_every == 0 or epoch == self.epochs

    def watched(self, dataset: datasets.Dataset) -> datasets.Split:
        """Return the validation data that are evaluated after an epoch, the same each time."""
        validation, wanted = dataset.validation, self.evaluate_on
        if wanted is None:
            return validation
        import torch

        count = ceil(wanted * len(validation)) if wanted <= 1 else int(wanted)
        order = torch.randperm(len(validation), generator=torch.Generator().manual_seed(0))
        return validation[order[:count].sort().values]

    def final_scores(self, run: Trained) -> dict[str, dict[str, float]]:
        """Return further scores of the trained pair for `validation` and `test`: those of results.json."""
        return {}

    def details(self, run: Trained) -> dict[str, Any]:
        """Return further entries of results.json."""
        return {}

    def remarks(self, run: Trained) -> list[str]:
        """Return what a user should know of the trained pair, a line each."""
        return []

    def legend(self, dataset: datasets.Dataset) -> dict[str, str]:
        """Return the meaning of sites whose names do not say it."""
        return {}

    def unit(self, dataset: datasets.Dataset) -> str:
        """Return the unit of this recipe's likelihoods, with all that decides what they can be compared with."""
        return "nats per row of standardised columns" if dataset.is_table else f"nats per image, {self.pixels} pixels"

    def unit_of(self, score: str, dataset: datasets.Dataset) -> str:
        """Return the unit of a score or a term by its name."""
        if score == "mse":
            return "squared standard deviation per column" if dataset.is_table else "squared intensity per pixel"
        bound_of = None if score == "log_likelihood" else self.bound_of
        return self.unit(dataset) + ("" if bound_of is None else f", bound of {bound_of}")

    @classmethod
    def headline(cls, result: Mapping[str, Any]) -> dict[str, str]:
        """Return the columns of the table of results, from the contents of a results.json."""
        return {"elbo": f"{result['test']['elbo']:.2f}"}

    # What is drawn and asked of a run

    def pictures(self) -> Sequence[Picture]:
        """Return the functions that draw the pictures of a run, in their order."""
        return ()

    def examples(self, dataset: datasets.Dataset) -> list[int]:
        """Index the test data whose reconstructions are kept during training: the first of each label, or ten."""
        if dataset.is_table:
            return []
        labels, known = dataset.test.labels, dataset.test.labelled().labels
        if labels is None or known is None or len(known) == 0:
            return list(range(min(10, len(dataset.test))))
        return [int((labels == label).nonzero()[0]) for label in known.unique()[:10]]

    def site_names(self, dataset: datasets.Dataset) -> dict[str, Sequence[str]]:
        """Return the names of the columns or categories at each site."""
        names: dict[str, list[str]] = {}
        if dataset.preprocessing is None or not dataset.is_table:
            return {"x": dataset.columns}
        sites = sites_of({column.likelihood for column in dataset.preprocessing.columns})
        for column in dataset.preprocessing.columns:
            names.setdefault(sites[column.likelihood], []).extend(column.names)
        return dict(names)

    def estimators(self, names: Sequence[str], particles: int) -> dict[str, tuple[objectives.Objective, str | None]]:
        """Return estimators of the bound to compare, each with what it is a bound of where that is not the story.

        Args:
            names: those to compare; empty takes a few.
            particles: of the estimators that weight several.

        Raises:
            UserError: the recipe has no bound to estimate, or does not take one of them.
        """
        raise UserError(f"{self.name} has no bound to estimate: its likelihood is exact")

    def sample(self, run: Trained, conditions: Sequence[str], count: int, seed: int) -> tuple[Tensor, str]:
        """Draw data under some conditions, and describe these.

        Args:
            run: the trained pair.
            conditions: NAME=VALUE words.
            count: how many data.
            seed: of the draws.

        Returns:
            images, or rows of standardised columns; where pixels are grey, the mean images.

        Raises:
            UserError: the story cannot generate data, or there is no such name or value.
        """
        if "replicates" in self.unanswered:
            raise UserError(self.unanswered["replicates"])
        if conditions:
            raise UserError(f"the story of {self.name} has no attributes that could be given")
        mean = not run.dataset.is_table and self.pixels == "grey"
        return metrics.generate(run.model, ["x"], count, mean=mean, seed=seed)["x"], ""

    def category_names(self, dataset: datasets.Dataset) -> Sequence[str]:
        """Return the names of the values of y, where the guide infers it: of clusters, or of classes."""
        return ()

    def landmarks(self, run: Trained) -> tuple[list[dict[str, Any]], Tensor | None, str]:
        """Return the choices that the explorer offers, the latents that each leads to, and what they are."""
        return [], None, ""

    def conditions(self, run: Trained) -> tuple[Sequence[str], dict[str, Tensor]]:
        """Return examples of what the story is given, for the explorer: their names, and an argument of the story."""
        return (), {}

    def heads(self, dataset: datasets.Dataset) -> list[dict[str, Any]]:
        """Return the sites beside x whose probabilities the explorer shows: `site`, `name`, `values`."""
        return []


def columns_of(guide: Any) -> Any:
    """Return the first layer of a guide of a table's rows, see `Recipe.columns`; None where there is none."""
    return next((part for part in guide.modules() if isinstance(part, nn.ColumnInputs)), None)
