"""What missing cells cost: clusters of wine with 20 % of the cells removed, and the coverage of imputed intervals.

    python benchmarks/missing.py [--seeds 10] [--coverage-seeds 5]

A seed is that of the cells that are removed and of the fits. Accuracy is over all rows, each cluster named by the best
matching of clusters and classes, which no fit sees. Beside the model stand mixtures fitted by EM to the same cells,
whose likelihood leaves out what is missing, and to cells filled with the mean of their column; each is the best of ten
starts by its likelihood.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.mixture import GaussianMixture

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.timing import write_section
from pyro_models.base.markdown import markdown
from pyro_models.metrics import score
from pyro_models.sklearn import VAE, GaussianMixtureVAE

SHARE, INTERVAL, STARTS, STEPS = 0.2, 0.9, 10, 200
TABLES = ("wine", "iris", "breast_cancer", "diabetes")


def holed(x: np.ndarray, seed: int) -> np.ndarray:
    """Remove cells at random; each row keeps one."""
    rng = np.random.default_rng(seed)
    gone = rng.random(x.shape) < SHARE
    gone[np.arange(len(x)), rng.integers(0, x.shape[1], len(x))] = False
    return np.where(gone, np.nan, x)


def by_em(x: np.ndarray, seed: int) -> np.ndarray:
    """The likeliest component of each row, of a mixture of three diagonal Normals fitted by EM to the known cells."""
    known, rng, best = ~np.isnan(x), np.random.default_rng(seed), (-np.inf, np.zeros(len(x), int))
    x = np.where(known, (x - np.nanmean(x, 0)) / np.nanstd(x, 0), 0.0)
    for _ in range(STARTS):
        share = rng.dirichlet(np.ones(3), len(x))
        for _ in range(STEPS):
            counts = share.T @ known
            loc = share.T @ x / counts
            variance = np.stack([s @ (known * (x - m) ** 2) for s, m in zip(share.T, loc, strict=True)]) / counts + 1e-3
            log_p = -0.5 * ((x[:, None] - loc) ** 2 / variance + np.log(2 * np.pi * variance))
            joint = (log_p * known[:, None]).sum(-1) + np.log(share.mean(0))
            total = np.logaddexp.reduce(joint, 1)
            share = np.exp(joint - total[:, None])
        best = max(best, (total.sum(), share.argmax(1)), key=lambda each: each[0])
    return best[1]


def accuracies(x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, float]:
    """The accuracy of each model on complete and on incomplete rows."""
    holes = holed(x, seed)
    filled = np.where(np.isnan(holes), np.nanmean(holes, 0), holes)
    standard = (filled - filled.mean(0)) / filled.std(0)
    mixture = GaussianMixture(3, covariance_type="diag", n_init=STARTS, random_state=seed)
    clusters = {
        "GaussianMixtureVAE, complete": GaussianMixtureVAE(clusters=3, seed=seed).fit_predict(x),
        "GaussianMixtureVAE": GaussianMixtureVAE(clusters=3, seed=seed).fit_predict(holes),
        "EM, complete": by_em(x, seed),
        "EM": by_em(holes, seed),
        "GaussianMixture of means": mixture.fit_predict(standard),
    }
    labels = torch.as_tensor(y)
    return {name: score(torch.as_tensor(each), labels, 3)["accuracy"] for name, each in clusters.items()}


def coverage(x: np.ndarray, seed: int) -> float:
    """The share of removed cells that lie in their interval."""
    holes = holed(x, seed)
    gone = np.isnan(holes)
    _, low, high = VAE(seed=seed).fit(holes).run_.impute(holes, interval=INTERVAL, samples=500)
    return float(((low <= x) & (x <= high))[gone].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--coverage-seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    wine: Any = datasets.load_wine()
    rows = [accuracies(wine.data, wine.target, seed) for seed in range(given.seeds)]
    of_models = {name: [row[name] for row in rows] for name in rows[0]}
    of_tables = {
        name: [coverage(getattr(datasets, f"load_{name}")().data, seed) for seed in range(given.coverage_seeds)]
        for name in TABLES
    }
    models = [
        {"model": name, "accuracy, mean ± sd": f"{np.mean(each):.3f} ± {np.std(each):.3f}", "least": f"{min(each):.3f}"}
        for name, each in of_models.items()
    ]
    tables = [
        {"table": name, "coverage, mean (least to most)": f"{np.mean(each):.3f} ({min(each):.3f} to {max(each):.3f})"}
        for name, each in of_tables.items()
    ]
    text = (
        f"Wine, 20 % of its cells missing, {given.seeds} seeds: accuracy of three clusters over all rows.\n\n"
        f"{markdown(models)}\n\n"
        f"Removed cells in their 90 % interval under `VAE`, {given.coverage_seeds} seeds.\n\n{markdown(tables)}"
    )
    write_section("missing", text)


if __name__ == "__main__":
    main()
