"""Train a recipe: `python train.py RECIPE [options]`; `python train.py --help` lists them."""

import sys

from pyro_models.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
