"""The pictures of a run, and one page that holds them and needs nothing else."""

import base64
import html
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.animation import FuncAnimation, PillowWriter

from pyro_models.base.errors import UserError
from pyro_models.base.files import replace, write
from pyro_models.criticism import figures
from pyro_models.criticism.metrics import codes, decode, evaluation
from pyro_models.data import cut

if TYPE_CHECKING:
    from pyro_models.training.recipe import Recipe
    from pyro_models.training.run import Run

MOST_POINTS = 2000  # in a t-SNE, whose time grows faster than its points


def units(recipe: "Recipe", name: str) -> str:
    """Return the unit of a figure by its name."""
    return "squared intensity per pixel" if name == "mse" else recipe.unit


def learning_curves(run: "Run") -> dict[str, Any]:
    """Draw the terms over the epochs: training and test together, and each alone."""
    names = [name.removeprefix("train_") for name in run.metrics[0] if name.startswith("train_")]
    wanted = [name for name in names if name not in ("loss", "mse")] if run.recipe.generative else ["mse"]
    terms = {name: units(run.recipe, name) for name in wanted}
    return {
        "learning-curves": figures.learning_curves(run.metrics, terms),
        "learning-curves-train": figures.learning_curves(run.metrics, terms, ["train"]),
        "learning-curves-test": figures.learning_curves(run.metrics, terms, ["test"]),
    }


def reconstructions(run: "Run") -> dict[str, Any]:
    """Draw fixed test images above what some epochs, and the last, made of them; and as an animation."""
    originals = cut(run.dataset.test.x[run.frames["examples"]], run.recipe.pixels)
    frames, epochs = torch.stack(run.frames["images"]) / 255, run.frames["epochs"]
    chosen = sorted({0, len(epochs) // 4, len(epochs) - 1})
    stills = {
        f"reconstructions-epoch-{epochs[k]}": figures.reconstructions(originals, frames[k], f"epoch {epochs[k]}")
        for k in chosen
    }
    if len(epochs) == 1:
        return stills
    return stills | {"reconstructions": figures.reconstruction_animation(originals, frames, epochs)}


def latent_map(run: "Run") -> dict[str, Any]:
    """Draw the test set's codes in the plane, coloured by label: as they are, or laid out by t-SNE."""
    split = run.dataset.test
    if run.recipe.latent_dim == 2:
        z = codes(run.guide, split, run.recipe.pixels)
        limit = float(z.abs().max() * 1.05)
        return {"latent-map": figures.plane({"mean of q(z | x) for each test image": z}, split.labels, limit)}
    some = split[: min(len(split), MOST_POINTS)]
    z = codes(run.guide, some, run.recipe.pixels)
    title = f"t-SNE of the {z.shape[1]}-D codes of {len(some)} test images"
    return {"latent-map": figures.plane({title: figures.tsne(z)}, some.labels)}


def pixels_and_codes(run: "Run") -> dict[str, Any]:
    """Draw t-SNE maps of the raw pixels and of the codes side by side."""
    some = run.dataset.test[: min(len(run.dataset.test), MOST_POINTS)]
    panels = {
        "t-SNE of raw pixels": figures.tsne(cut(some.x, run.recipe.pixels)),
        f"t-SNE of {run.recipe.latent_dim}-D codes": figures.tsne(codes(run.guide, some, run.recipe.pixels)),
    }
    return {"pixels-and-codes": figures.plane(panels, some.labels)}


def decoded_plane(run: "Run") -> dict[str, Any]:
    """Draw what the decoder makes of a grid over the plane, where the codes have two dimensions."""
    if run.recipe.latent_dim != 2:
        return {}
    z = codes(run.guide, run.dataset.test, run.recipe.pixels)
    lower, upper = z.quantile(0.01, dim=0), z.quantile(0.99, dim=0)
    images = decode(run.model, figures.plane_of_codes(lower, upper, 20).to(z))
    extent = (float(lower[0]), float(upper[0]), float(lower[1]), float(upper[1]))
    title = f"mean image at each code ({run.recipe.pixels} pixels)"
    return {"decoded-plane": figures.image_grid(images.clamp(0, 1), 20, title, extent)}


def prior_samples(run: "Run") -> dict[str, Any]:
    """Draw the story's own images: z from the prior, then the mean of x given z."""
    z = torch.randn(100, run.recipe.latent_dim).to(next(run.model.parameters()))
    images = decode(run.model, z)
    title = f"mean images at codes drawn from the prior ({run.recipe.pixels} pixels)"
    return {"prior-samples": figures.image_grid(images.clamp(0, 1), 10, title)}


PICTURES: dict[str, Callable[["Run"], dict[str, Any]]] = {
    picture.__name__: picture
    for picture in (
        learning_curves,
        reconstructions,
        latent_map,
        pixels_and_codes,
        decoded_plane,
        prior_samples,
    )
}


def write_pictures(run: "Run") -> None:
    """Write the recipe's pictures to the run's folder `figures`, in the recipe's order.

    Raises:
        UserError: the run kept no reconstructions (its checkpoint is gone), or a picture cannot be written.
    """
    if not run.metrics:
        raise UserError(f"{run.folder} holds no checkpoint.pt, from which the pictures are drawn")
    folder = run.folder / "figures"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("[0-9][0-9]-*.*"):
        old.unlink()
    number = 0
    for name in run.recipe.figures:
        with evaluation(run.model, run.guide, seed=run.recipe.seed):
            pictures = PICTURES[name](run)
        for title, picture in pictures.items():
            number += 1
            stem = folder / f"{number:02d}-{title}"
            if isinstance(picture, FuncAnimation):
                replace(stem.with_suffix(".gif"), partial(picture.save, writer=PillowWriter(fps=6), dpi=60))
            else:
                replace(stem.with_suffix(".png"), partial(picture.savefig, dpi=110))


def write_report(run: "Run", results: dict[str, Any]) -> None:
    """Write report.html: the story and the guide, the figures, the pictures and the command, in one file."""
    pictures = "\n".join(
        f'<figure><img alt="{path.stem}" src="data:image/{path.suffix[1:]};base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}">'
        f"<figcaption>{path.stem[3:].replace('-', ' ')}</figcaption></figure>"
        for path in sorted((run.folder / "figures").glob("[0-9][0-9]-*.*"))
    )
    rows = "\n".join(
        f"<tr><td>{name}</td><td>{results['test'][name]:.4f}</td><td>{results['validation'][name]:.4f}</td>"
        f"<td>{results['units'][name]}</td></tr>"
        for name in results["test"]
    )
    options = ", ".join(f"{name} = {value}" for name, value in run.recipe.as_json().items())
    page = PAGE.format(
        title=html.escape(f"{run.recipe.name} on {run.recipe.data}"),
        story=_docstring(run.model),
        guide=_docstring(run.guide),
        rows=rows,
        images=results["images"]["test"],
        epochs=results["epochs"],
        seconds=results["seconds"],
        command=html.escape(results["command"]),
        options=html.escape(options),
        pictures=pictures,
    )
    write(run.folder / "report.html", page)


def _docstring(half: object) -> str:
    return html.escape(inspect.getdoc(type(half)) or "").split("\nArgs:")[0].strip()


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
pre {{ background: #f5f5f2; padding: 1rem; overflow-x: auto; white-space: pre-wrap; }}
table {{ border-collapse: collapse; }}
td, th {{ padding: 0.2rem 1.2rem 0.2rem 0; text-align: left; }}
td:nth-child(2), td:nth-child(3) {{ font-variant-numeric: tabular-nums; }}
img {{ max-width: 100%; }}
figure {{ margin: 2rem 0; }}
figcaption {{ color: #666; }}
</style>
<h1>{title}</h1>
<h2>Story</h2>
<pre>{story}</pre>
<h2>Guide</h2>
<pre>{guide}</pre>
<h2>Figures after {epochs} epochs</h2>
<table>
<tr><th>name</th><th>test ({images} images)</th><th>validation</th><th>unit</th></tr>
{rows}
</table>
<p>Trained in {seconds} seconds with</p>
<pre>{command}</pre>
<details><summary>every option</summary><p>{options}</p></details>
<h2>Pictures</h2>
{pictures}
</html>
"""
