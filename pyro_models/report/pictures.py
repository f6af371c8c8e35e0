"""The pictures of a run, and the page, once it is trained or its folder holds more."""

from functools import partial
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure

from pyro_models import plots
from pyro_models.base.errors import UserError
from pyro_models.base.files import replace
from pyro_models.metrics import eval_mode
from pyro_models.report.page import write_page
from pyro_models.runs import Run

Format = Literal["png", "svg", "pdf"]


def publish(run: Run) -> None:
    """Write the pictures and the page of a finished run.

    Raises:
        UserError: as `write_pictures` and `write_page`.
    """
    write_pictures(run)
    write_page(run)


def write_pictures(run: Run, form: Format = "png") -> None:
    """Write the recipe's pictures to the run's folder `figures`, in the recipe's order.

    Args:
        run: a finished run.
        form: svg or pdf writes these beside the PNG files that the page shows.

    Raises:
        UserError: the run kept no metrics (its checkpoint is gone), or a picture cannot be written.
    """
    if not run.metrics:
        raise UserError(f"{run.folder} holds no checkpoint.pt, from which the pictures are drawn")
    folder = run.folder / "figures"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[0-9][0-9]-*.*"):
        old.unlink()
    number = 0
    for draw in run.recipe.pictures():
        with eval_mode(run.model, run.guide, seed=run.recipe.seed):
            pictures = draw(run)
        for title, picture in pictures.items():
            number += 1
            write_figure(picture, folder / f"{number:02d}-{title.replace('/', '-')}.png", form)


def write_figure(figure: Figure, path: Path, form: Format = "png") -> Path:
    """Write a figure as PNG, and in another format beside that; return the path of the PNG file.

    Raises:
        UserError: a file cannot be written.
    """
    for suffix in dict.fromkeys(("png", form)):
        replace(path.with_name(f"{path.stem}.{suffix}"), partial(plots.save, figure))
    return path
