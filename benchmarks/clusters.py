"""Unequal clusters: adjusted Rand index of the Gaussian-mixture VAE beside those of scikit-learn's two mixtures.

    python -m benchmarks.clusters --out clusters.csv [--share 0.1]

Each line of the file is a case that is done, so that a command that was stopped goes on where it was. Cases: two to ten
groups, Gaussian or bent, the smallest with a share of 2 to 10 %, without and with noise columns, 200 to 20,000 rows, 20
seeds.
"""

import argparse
import csv
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.preprocessing import StandardScaler

from benchmarks.timing import write_section
from pyro_models.base.markdown import markdown
from pyro_models.sklearn import GaussianMixtureVAE

FIELDS = ("shape", "groups", "smallest", "noise", "rows", "seed")
CASES = list(
    itertools.product(("gaussian", "bent"), (2, 3, 5, 10), (0.02, 0.1), (0, 5), (200, 2000, 20_000), range(20))
)
MODELS = ("gmvae", "GaussianMixture", "BayesianGaussianMixture")


def data(shape: str, groups: int, smallest: float, noise: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and their groups: one of the smallest share, the others alike, seven deviations apart or more."""
    rng = np.random.default_rng([seed, groups, rows, noise])
    least = min(smallest, 1 / groups)
    labels = rng.choice(groups, size=rows, p=[least, *[(1 - least) / (groups - 1)] * (groups - 1)])
    angle = 2 * np.pi * labels / groups
    radius = max(4.0, 3.5 / np.sin(np.pi / groups))
    if shape == "gaussian":
        x = radius * np.stack([np.cos(angle), np.sin(angle)], 1) + rng.normal(size=(rows, 2))
    else:  # arms that bend, as those of the pinwheel
        along = rng.normal(radius, radius / 4, rows)
        turn = angle + 0.5 * along / radius * np.pi / groups
        x = np.stack([along * np.cos(turn), along * np.sin(turn)], 1) + 0.2 * rng.normal(size=(rows, 2))
    return np.concatenate([x, rng.normal(size=(rows, noise))], 1), labels


def scores(case: tuple[Any, ...]) -> dict[str, float]:
    """Return the index of each model on a case."""
    x, labels = data(*case)
    groups, seed = case[1], case[-1]
    models = {
        "gmvae": GaussianMixtureVAE(clusters=groups, seed=seed, epochs=max(10, min(100, 200_000 // len(x)))),
        "GaussianMixture": GaussianMixture(groups, n_init=10, random_state=seed),
        "BayesianGaussianMixture": BayesianGaussianMixture(
            n_components=groups, n_init=3, max_iter=500, random_state=seed
        ),
    }
    rows = {"gmvae": x}  # which standardises the columns itself
    standard = StandardScaler().fit_transform(x)
    return {
        name: adjusted_rand_score(labels, model.fit(rows.get(name, standard)).predict(rows.get(name, standard)))
        for name, model in models.items()
    }


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Return means by shape and number of groups, and how far the first model is behind the better of the others."""
    found = defaultdict(list)
    for row in rows:
        found[row["shape"], int(row["groups"])].append([float(row[name]) for name in MODELS])
    lines = []
    for (shape, groups), cases in sorted(found.items()):
        indices = np.array(cases)
        behind = sorted(indices[:, 1:].max(1) - indices[:, 0], reverse=True)
        means = {name: f"{mean:.3f}" for name, mean in zip(MODELS, indices.mean(0), strict=True)}
        far = ", ".join(f"{gap:.3f}" for gap in behind if gap > 0.02) or "none"
        line = {"groups": f"{groups}, {shape}", "cases": str(len(cases)), **means}
        lines.append(line | {"behind the better of the two by more than 0.02": far})
    return f"{len(rows)} of {len(CASES):,} cases, drawn at random: mean adjusted Rand index.\n\n{markdown(lines)}"


def main() -> None:
    """Do the cases that the file does not hold yet, in a random order, and write the table of all that it holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("clusters.csv"), help="file that grows by a line a case")
    parser.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="share of the cases; 0: the table of what the file holds (default: all)",
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = {}
    if given.out.exists():
        with given.out.open() as file:
            done = {tuple(row[name] for name in FIELDS): row for row in csv.DictReader(file)}
    order = np.random.default_rng(0).permutation(len(CASES))[: round(given.share * len(CASES))]
    for number in order:
        key = tuple(map(str, CASES[number]))
        if key in done:
            continue
        row = dict(zip(FIELDS, key, strict=True)) | scores(CASES[number])
        with given.out.open("a", newline="") as file:
            writer = csv.DictWriter(file, (*FIELDS, *MODELS))
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
        done[key] = {name: str(value) for name, value in row.items()}
    write_section("unequal clusters", table(list(done.values())))


if __name__ == "__main__":
    main()
