"""What the estimators share: options from a recipe, data and labels as scikit-learn has them, training, saving."""

import dataclasses
import inspect
import json
import warnings
from collections import deque
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from pyro_models import checking
from pyro_models.base.errors import UserError
from pyro_models.base.files import read_json, write
from pyro_models.checking.replicates import as_drawn, in_parts
from pyro_models.data import Attribute, Dataset, InMemory, Preprocessing, Split, stand_in
from pyro_models.data.preprocessing import binarised
from pyro_models.data.sources import Options, Raw, levels_of
from pyro_models.reading import Story
from pyro_models.recipes import Recipe
from pyro_models.recipes.latent import OF_IMAGES
from pyro_models.runs import open_run, provenance
from pyro_models.runs.folder import build, save_weights
from pyro_models.runs.origin import describe
from pyro_models.runs.trainer import epochs_of
from pyro_models.runs.use import AT_ONCE
from pyro_models.training.processes import Processes

OF_THE_DATA = {
    "data", "validation_data", "test_data", "label_column", "id_column", "split_column", "size", "colour", "white",
    "source", "split", "labels", "unlabelled", "label_seed", "stratified", "classes",
    "evaluate_every", "evaluate_on", "early_stopping", "keep", "amp", "initial_weights", "continued",
}  # fmt: skip
"""Options of recipes whose place `X` and `y` take, and those of a run with validation data, on a GPU, or resumed."""


class Estimator(BaseEstimator):
    """A recipe as an estimator: its options are the keywords, checked alike when it is fitted.

    `X` is a table [n, columns], an array or a data frame, whose columns are standardised and whose text becomes
    categories; or images [n, height, width] or with channels first or last, of bytes or of 0 to 1. Of a table the
    options whose default is "auto" take values made for tables.
    """

    recipe_class: ClassVar[type[Recipe]]
    defaults: ClassVar[dict[str, Any]]
    for_tables: ClassVar[dict[str, Any]]

    def __init_subclass__(
        cls, *, recipe: type[Recipe] | None = None, for_tables: dict[str, Any] | None = None, **rest: Any
    ) -> None:
        super().__init_subclass__(**rest)
        if recipe is None:
            return
        cls.recipe_class = recipe
        cls.for_tables = recipe.presets.get("table", {}) if for_tables is None else for_tables
        fields = {field.name: field.default for field in dataclasses.fields(recipe) if field.name not in OF_THE_DATA}
        cls.defaults = {name: "auto" if name in cls.for_tables else default for name, default in fields.items()}

        def __init__(self: Any, **options: Any) -> None:
            if unknown := options.keys() - cls.defaults.keys():
                raise TypeError(f"{cls.__name__} has no option {sorted(unknown)[0]!r}")
            for name, default in cls.defaults.items():
                setattr(self, name, options.get(name, default))

        keywords = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
            for name, default in cls.defaults.items()
        ]
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        __init__.__signature__ = inspect.Signature([own, *keywords])  # type: ignore[attr-defined]
        cls.__init__ = __init__  # type: ignore[method-assign]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    # Training

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on `X`, and on labels where the model takes any.

        Args:
            X: the data.
            y: labels, [n]; -1, None and NaN mean that one is not known. Where 1 is the only other label, -1 is a class.

        Raises:
            ValueError: data or labels cannot be used, or an option is out of its bounds, as the message says.
        """
        raw = self._raw(X, fitting=True)
        labels = self._encoded(y, len(raw))
        preprocessing = self._preprocessing(raw)
        split = self._with_labels(self._split(preprocessing, raw), labels)
        options, categories = self._options(preprocessing.is_table, split)
        preprocessing = dataclasses.replace(preprocessing, pixels=options.get("pixels", "grey"), **categories)
        if not preprocessing.is_table:
            split = binarised(split, preprocessing.pixels, "train")
        dataset = Dataset(
            "X",
            preprocessing.pixels,
            split,
            split,
            split,
            columns=preprocessing.features,
            attributes=preprocessing.attributes,
            classes=preprocessing.classes,
            preprocessing=preprocessing,
        )
        recipe = self.recipe_class(**options, data=InMemory(f"X {list(split.x.shape)}", _hash(split)))
        recipe.check_data(dataset)
        with torch.random.fork_rng():
            self._train(recipe, dataset)
        return self

    def _train(self, recipe: Recipe, dataset: Dataset) -> None:
        trained_on = len(recipe.training_splits(dataset.train)[0])
        batches = recipe.batches(dataset, size=min(recipe.batch_size, trained_on))
        run = build(recipe, dataset, Path(), Processes(0, 1, torch.device("cpu")))
        epochs = deque(epochs_of(run, batches), maxlen=1)
        self.terms_ = epochs[-1].terms if epochs else {}
        run.model.eval()
        run.guide.eval()
        sizes = {"train": trained_on, "validation": 1, "test": 1}
        known = stand_in("X", dataset.preprocessing, sizes)  # type: ignore[arg-type]
        self.run_ = dataclasses.replace(run, dataset=known, frames={})

    # Data and labels

    def _raw(self, X: Any, *, fitting: bool = False) -> Raw:
        """Return validated data; columns have the names of a data frame, else x[0], x[1], ..."""
        least = 2 if fitting else 1
        if hasattr(X, "columns") and hasattr(X, "dtypes") and not _is_numeric(X):
            validate_data(self, X, reset=fitting, skip_check_array=True)
            columns = {str(name): np.asarray(X[name]) for name in X.columns}
            return Raw("X", columns=columns, levels=levels_of(X))
        rules: Any = {"allow_nd": True, "dtype": "numeric", "ensure_min_samples": least}
        array = validate_data(self, X, reset=fitting, ensure_all_finite="allow-nan", **rules)  # NaN is a missing cell
        if array.ndim > 2:
            return Raw("X", images=array)
        names = getattr(self, "feature_names_in_", [f"x[{k}]" for k in range(array.shape[1])])
        return Raw("X", columns=dict(zip(map(str, names), array.T, strict=True)))

    def _preprocessing(self, raw: Raw) -> Preprocessing:
        """Return what is done to data: a column of numbers that are all equal is centred alone."""
        likelihood = getattr(self, "likelihood", "normal")
        if likelihood == "auto":
            likelihood = self.for_tables["likelihood"]
        likelihood = "normal" if likelihood in OF_IMAGES else likelihood
        return Preprocessing.fit(raw, options=Options(likelihood=likelihood), constant=True)

    def _split(self, preprocessing: Preprocessing, raw: Raw) -> Split:
        return preprocessing.transform(raw)

    def _new(self, X: Any) -> Split:
        """Return new data as the trained pair takes them."""
        check_is_fitted(self)
        run = self.run_
        split = run.preprocessing.transform(self._raw(X))
        return split if run.dataset.is_table else binarised(split, run.recipe.pixels, None)

    def _encoded(self, y: Any, n: int) -> Any:
        """Return labels as the estimator takes them: None, as it takes none."""
        return None

    def _with_labels(self, split: Split, labels: Any) -> Split:
        return split

    def _options(self, is_table: bool, split: Split) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the recipe's options, and the classes or attributes of the data."""
        options = {name: getattr(self, name) for name in self.defaults}
        for name, value in list(options.items()):
            if isinstance(value, str) and value == "auto" == self.defaults[name]:
                if is_table:
                    options[name] = self.for_tables[name]
                else:
                    del options[name]
        return {name: _plain(value) for name, value in options.items()}, {}

    # What is known of the trained pair

    def story(self) -> Story:
        """Return the story of the trained pair: its factors and its objective, to print.

        Raises:
            NotFittedError: it is not trained.
        """
        check_is_fitted(self)
        return self.run_.recipe.story(self.run_.dataset)

    def check(self, X: Any, statistics: Any = None, **options: Any) -> list[checking.Check]:
        """Check replicates of the model against data, as `pyro_models.check` does.

        Args:
            X: the data.
            statistics: of `x`, by name, as there; None takes those that suit its values.
            options: of `pyro_models.check`: `replicates`, `seed`, ...

        Raises:
            UserError: the model cannot generate data.
        """
        split, run = self._new(X), self.run_
        if reason := run.recipe.unanswered.get("replicates"):
            raise UserError(reason)
        pair, (full,) = (run.model, run.guide), run._batches(split, len(split))
        batch = run.recipe.inputs_of(full)
        if statistics is None:
            once = in_parts(*pair, batch, AT_ONCE)
            drawn = {name: as_drawn(value, once.drawn[name]) for name, value in once.observed.items()}
            statistics = checking.standard_statistics(drawn, run.recipe.site_names(run.dataset))
        return checking.check(*pair, batch, statistics, batch_size=AT_ONCE, **options)

    def save(self, folder: Path | str) -> None:
        """Write the trained estimator to a folder, which `load` and `pyro_models.open_run` read; nothing is pickled.

        Raises:
            UserError: it cannot be written.
        """
        check_is_fitted(self)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        run = dataclasses.replace(self.run_, folder=folder)
        write(folder / "recipe.json", json.dumps(run.recipe.as_json(), indent=2) + "\n")
        describe(folder, run.recipe, run.dataset)
        save_weights(run)
        fitted = {name: value for name, value in vars(self).items() if name.endswith("_") and name != "run_"}
        content = {"estimator": type(self).__name__, "options": self._stored_options(), "fitted": fitted}
        write(folder / "estimator.json", json.dumps(content, indent=2, default=_as_json) + "\n")

    def _stored_options(self) -> dict[str, Any]:
        return {name: value for name, value in self.get_params().items() if not isinstance(value, torch.nn.Module)}

    @classmethod
    def load(cls, folder: Path | str, **networks: Any) -> Self:
        """Read what `save` wrote; `encoder` and `decoder` are given again where they were in memory.

        Raises:
            UserError: the folder holds no estimator, or that of another class.
        """
        content = read_json(Path(folder) / "estimator.json")
        if content["estimator"] != cls.__name__:
            raise UserError(f"{folder} holds a {content['estimator']}, not a {cls.__name__}")
        estimator = cls(**content["options"] | networks)
        for name, value in content["fitted"].items():
            setattr(estimator, name, _from_json(value))
        run = open_run(folder, **networks)
        known = provenance(run.folder, run.recipe).stand_in()
        estimator.run_ = dataclasses.replace(run, dataset=known)
        return estimator


def indices_of(y: Any, n: int, *, classification: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return the index of the class of each label, -1 where it is not known, and the classes.

    >>> indices, classes = indices_of([3, -1, 5, None], 4)
    >>> indices.tolist(), classes.tolist()
    ([0, -1, 1, -1], [3, 5])

    Raises:
        ValueError: there are not n labels, none is known, or they are not classes.
    """
    labels = np.asarray(y)
    if labels.ndim == 2 and labels.shape[1] == 1:
        message = "A column-vector y was passed when a 1d array was expected: its only column is taken"
        warnings.warn(message, DataConversionWarning, stacklevel=2)
        labels = labels[:, 0]
    if labels.shape != (n,):
        raise ValueError(f"y should be a 1d array of {n} labels, not of shape {list(labels.shape)}")
    if labels.dtype.kind == "f" and np.isinf(labels).any():
        raise ValueError("Input y contains infinity: labels are classes")
    nothing = np.array([value is None or value != value for value in labels.tolist()])
    known = labels[~nothing]
    if labels.dtype.kind == "O":
        known = np.array(known.tolist())
    if known.dtype.kind in "if" and len(np.unique(known[known != -1])) != 1:
        nothing[~nothing] = known == -1
        known = known[known != -1]
    if len(known) == 0:
        raise ValueError("y holds nothing but NaN, None or -1: no label is known")
    if classification:
        check_classification_targets(known)
    classes, index_of = np.unique(known, return_inverse=True)
    indices = np.full(n, -1)
    indices[~nothing] = index_of
    return indices, classes


def attribute_of(name: str, classes: np.ndarray) -> Attribute:
    """Return the attribute whose values are the classes."""
    return Attribute(name, tuple(map(str, classes.tolist())))


def _is_numeric(frame: Any) -> bool:
    dtypes = [getattr(np.asarray(frame[name]).dtype, "kind", "O") for name in frame.columns]
    return all(dtype in "fiubc" for dtype in dtypes) and not levels_of(frame)


def _hash(split: Split) -> str:
    return InMemory.of(split.x).sha256


def _plain(value: Any) -> Any:
    """Return a number of numpy, as a grid of options may hold, as one of Python."""
    return value.item() if isinstance(value, np.generic) else value


def _as_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        dtype = "O" if value.dtype.kind == "O" else value.dtype.str
        return {"values": value.tolist(), "dtype": dtype}
    return _plain(value)


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(each) for each in value]
    return np.array(value["values"], value["dtype"]) if isinstance(value, dict) and "dtype" in value else value
