"""Tables: generated points in the plane, and small real data sets."""

from collections.abc import Callable

import numpy as np

Table = tuple[dict[str, np.ndarray], np.ndarray]
"""Columns of numbers by name, and the labels of the rows."""


def blobs() -> Table:
    """Return 3,000 points in three round groups."""
    from sklearn.datasets import make_blobs

    centers = [(-4.0, -2.0), (0.0, 4.0), (4.0, -2.0)]
    points, labels = make_blobs(3000, centers=np.array(centers), cluster_std=0.8, random_state=0)
    return _plane(points), labels


def moons() -> Table:
    """Return 3,000 points on two interleaved half circles."""
    from sklearn.datasets import make_moons

    points, labels = make_moons(3000, noise=0.05, random_state=0)
    return _plane(points), labels


def pinwheel() -> Table:
    """Return 3,000 points in five curved arms, as Johnson et al. (Structured VAEs, 2016)."""
    arms, each, generator = 5, 600, np.random.default_rng(0)
    labels = np.repeat(np.arange(arms), each)
    along, across = generator.normal(size=(2, arms * each)) * [[0.3], [0.05]]
    angle = 2 * np.pi * labels / arms + 0.25 * np.exp(along + 1)
    x, y = along + 1, across
    turned = np.stack([x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)], axis=1)
    return _plane(turned), labels


def _plane(points: np.ndarray) -> dict[str, np.ndarray]:
    return {"x[0]": points[:, 0], "x[1]": points[:, 1]}


def _bundled(name: str) -> Table:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    return dict(zip(bunch.feature_names, bunch.data.T, strict=True)), bunch.target


TABLES: dict[str, Callable[[], Table]] = {
    "blobs": blobs,
    "moons": moons,
    "pinwheel": pinwheel,
    "wine": lambda: _bundled("wine"),
    "iris": lambda: _bundled("iris"),
}
