"""The test ELBO of runs with z at the mean of q(z | x) in place of a draw, as the article on the VAE evaluates.

    python benchmarks/at_the_mean.py RUN [RUN ...] [--data-dir DIR]

That is no bound of log p(x), and higher than the bound by what the noise of z costs the reconstruction.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from pyro_models import metrics, runs
from pyro_models.objectives import AtMean, mean_field


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    for folder in given.runs:
        run = runs.open_run(folder, data_dir=given.data_dir)
        batches = run.recipe.evaluation_batches(run, run.dataset.test)
        with AtMean():
            terms = metrics.evaluate(run.model, run.guide, mean_field, batches)
        print(f"{folder}: " + ", ".join(f"{name} {terms[name]:.2f}" for name in ("elbo", "reconstruction", "kl")))


if __name__ == "__main__":
    main()
