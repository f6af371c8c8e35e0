"""The estimators: `fit`, `transform`, `predict`, `score_samples`, `sample` on arrays and data frames."""

import dataclasses
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from pyro_models.data import Split
from pyro_models.recipes import AutoencoderRecipe, ClassifierRecipe, GMVAERecipe, JMVAERecipe, VAERecipe
from pyro_models.sklearn.base import Estimator, attribute_of, indices_of


class Latent(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """An estimator with a latent z, which data are transformed to."""

    @property
    def _n_features_out(self) -> int:
        return int(self.latent_dim_)

    def fit(self, X: Any, y: Any = None) -> Any:
        """Train; see `Estimator.fit`."""
        super().fit(X, y)
        self.latent_dim_ = self.run_.encode(self.run_.dataset.test).shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the mean of q(z | x): [n, latent]."""
        split = self._new(X)
        return self.run_.encode(split)

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """Return the mean of p(x | z) at latents [n, latent]: rows in their units, or images of 0 to 1."""
        check_is_fitted(self)
        return self.run_.decode(Z)

    def reconstruct(self, X: Any) -> np.ndarray:
        """Return the mean of p(x | z) at the mean of q(z | x)."""
        split = self._new(X)
        return self.run_.reconstruct(split)

    def score_samples(self, X: Any, *, samples: int = 100, seed: int = 0) -> np.ndarray:
        """Return a score of each datum, nats, [n]: see `meaning` of `Run.score`; higher is likelier.

        It is log p(x) by importance samples; of an `Autoencoder`, which has no density of x, log p(x | z) at
        its latent. No score depends on the other data.
        """
        split = self._new(X)
        return self.run_.score(split, samples=samples, seed=seed).values.astype(np.float64)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean of `score_samples`, nats per datum."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, *, seed: int = 0, **given: Any) -> np.ndarray:
        """Draw new data from the story, under conditions by name if any are given: see `Run.sample`."""
        check_is_fitted(self)
        return self.run_.sample(n_samples, given=given, seed=seed)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags


class Density(Latent):
    """A density of x, in the terms of scikit-learn."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.estimator_type = "density_estimator"
        return tags


class VAE(Density, recipe=VAERecipe):
    """Variational auto-encoder: `transform` to latents, `score_samples`, `sample`."""


class Autoencoder(Latent, recipe=AutoencoderRecipe):
    """Auto-encoder: `transform` to the encoder's output, and back."""


class _WithClasses(Estimator):
    """An estimator whose y is a category, known for some data."""

    classes_: np.ndarray

    def _with_labels(self, split: Split, labels: Any) -> Split:
        return split if labels is None else dataclasses.replace(split, labels=torch.as_tensor(labels))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return q(y | x), [n, categories], in the order of `classes_`."""
        split = self._new(X)
        return self.run_.predict(split).probabilities.astype(np.float64)

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest cluster or class of each datum, [n]."""
        likeliest = self.predict_proba(X).argmax(1)
        return self.classes_[likeliest]


class GaussianMixtureVAE(Density, _WithClasses, recipe=GMVAERecipe):
    """Gaussian-mixture VAE: clusters by `predict`; with `y`, whose labels need not all be known, its classes."""

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Train, and return the cluster of each datum."""
        return self.fit(X, y).predict(X)

    def _encoded(self, y: Any, n: int) -> Any:
        if y is None:
            self.__dict__.pop("classes_", None)
            return None
        indices, self.classes_ = indices_of(y, n)
        return indices

    def _options(self, is_table: bool, split: Split) -> tuple[dict[str, Any], dict[str, Any]]:
        options, categories = super()._options(is_table, split)
        if split.labels is None:
            self.classes_ = np.arange(options.get("clusters", GMVAERecipe.clusters))
            return options, categories
        count = len(self.classes_)
        if count < 2:
            raise ValueError("y holds one class: give labels of two classes or more, or none")
        if self.clusters not in ("auto", count):  # type: ignore[attr-defined]
            raise ValueError(f"`clusters={self.clusters}`: y holds {count} classes: leave `clusters` out")  # type: ignore[attr-defined]
        seen_labels = int((split.labels >= 0).sum())
        return options | {"clusters": count, "labels": seen_labels}, {
            "classes": tuple(map(str, self.classes_.tolist()))
        }


class FewLabelsClassifier(
    ClassifierMixin,
    _WithClasses,
    recipe=ClassifierRecipe,
    for_tables=ClassifierRecipe.presets["table"] | {"epochs": 100},  # tables have fewer rows than the articles' images
):
    """Classifier by few labels: `y` is -1, None or NaN where a label is not known, and all of `X` is learned from."""

    def _encoded(self, y: Any, n: int) -> Any:
        if y is None:
            raise ValueError("FewLabelsClassifier requires y to be passed, but the target y is None")
        indices, self.classes_ = indices_of(y, n)
        if len(self.classes_) < 2:
            raise ValueError("y holds one class: a classifier needs labels of two classes or more")
        return indices

    def _options(self, is_table: bool, split: Split) -> tuple[dict[str, Any], dict[str, Any]]:
        options, _ = super()._options(is_table, split)
        labels: Any = split.labels
        return options | {"labels": int((labels >= 0).sum())}, {"classes": tuple(map(str, self.classes_.tolist()))}


class JMVAE(Latent, recipe=JMVAERecipe):
    """Joint multimodal VAE of data and their labels, or of several attributes, `y` [n, attributes].

    Attributes are classes by number or by name, and have the names of the columns of a data frame, else y1, y2, ...
    """

    def _encoded(self, y: Any, n: int) -> Any:
        if y is None:
            raise ValueError("JMVAE requires y to be passed, but the target y is None")
        columns = np.asarray(y)
        columns = columns[:, None] if columns.ndim == 1 else columns
        encoded = [indices_of(column, n) for column in columns.T]
        self.attributes_ = [classes for _, classes in encoded]
        numbered = ["label"] if len(encoded) == 1 else [f"y{k + 1}" for k in range(len(encoded))]
        self.attribute_names_ = [str(name) for name in getattr(y, "columns", numbered)]
        if least := [k for k, classes in enumerate(self.attributes_) if len(classes) < 2]:
            raise ValueError(f"attribute {least[0]} of y holds one class: give two classes or more")
        return np.stack([indices for indices, _ in encoded], 1)

    def _with_labels(self, split: Split, labels: Any) -> Split:
        return dataclasses.replace(split, attributes=torch.as_tensor(labels))

    def _options(self, is_table: bool, split: Split) -> tuple[dict[str, Any], dict[str, Any]]:
        options, _ = super()._options(is_table, split)
        attributes = [attribute_of(*each) for each in zip(self.attribute_names_, self.attributes_, strict=True)]
        return options, {"attributes": tuple(attributes)}

    def predict_proba(self, X: Any) -> Any:
        """Return p(y | x) of each attribute, a list of [n, values]; of a single one the array itself."""
        split = self._new(X)
        names = [each.name for each in self.run_.dataset.attributes]
        each = [self.run_.predict(split, attribute=name).probabilities.astype(np.float64) for name in names]
        return each[0] if len(each) == 1 else each

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest value of each attribute, [n] or [n, attributes]."""
        probabilities = self.predict_proba(X)
        probabilities = [probabilities] if len(self.attributes_) == 1 else probabilities
        values = [classes[each.argmax(1)] for classes, each in zip(self.attributes_, probabilities, strict=True)]
        return values[0] if len(values) == 1 else np.stack(values, 1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags
