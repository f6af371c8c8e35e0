"""Images drawn from a run, as one picture."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from pyro_models import plots
from pyro_models.base.errors import UserError
from pyro_models.report.pictures import write_figure
from pyro_models.runs import Run


def write_samples(run: Run, conditions: Sequence[str], count: int, seed: int) -> Path:
    """Draw images from the story, or given some attributes as NAME=VALUE words, and write them as one picture.

    Returns:
        the file: `samples`, the conditions and the seed, in the run's folder `figures`.

    Raises:
        UserError: the model cannot generate images, or the conditions are not among its attributes.
    """
    if run.dataset.is_table:
        raise UserError("rows are no picture: give `out=FILE.csv`, or FILE.npz")
    x, condition = run.recipe.sample(run, conditions, count, seed)
    columns = math.ceil(count**0.5)
    blank = x.new_zeros(-count % columns, *x.shape[1:])
    title = f"given {condition} ({run.recipe.pixels} pixels)" if condition else f"{run.recipe.pixels} pixels"
    picture = plots.image_grid(torch.cat([x.clamp(0, 1), blank]), columns, title)
    words = re.sub(r"[^\w=.]+", "-", " ".join(filter(None, [condition, f"seed {seed}"])))
    return write_figure(picture, run.folder / "figures" / f"samples-{words}.png")
