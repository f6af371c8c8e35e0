"""The curves of a run for its page, from metrics.csv, and the film of its reconstructions."""

import csv
import html
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_models.report.charts import Curve, chart, legend
from pyro_models.report.sprites import sprite
from pyro_models.report.words import count, score_name

SPLITS = ("train", "validation")  # never test, by which nothing may be chosen
FIRST = 3  # charts that are shown at once
LEFT_OUT = ("loss",)
ENLARGED = 2.5  # pixels of the screen to one of an image


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the rows of metrics.csv without their unit and blanks; none where there is no such file yet."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: float(cell) for name, cell in row.items() if cell and name != "unit"} for row in rows]


def curves(rows: Sequence[Mapping[str, float]], units: Mapping[str, str]) -> str:
    """Return a chart of each score over the epochs, of training and validation data: HTML."""
    if not rows:
        return "<p>There is no metrics.csv, from which curves could be drawn.</p>"
    columns = {key: [row for row in rows if key in row] for key in dict.fromkeys(chain.from_iterable(rows))}
    names = list(dict.fromkeys(key.split("_", 1)[1] for key in columns if key.startswith(("train_", "validation_"))))
    charts = []
    for name in names:
        drawn = [
            Curve(split, [row["epoch"] for row in columns[key]], [row[key] for row in columns[key]], colour=k)
            for k, split in enumerate(SPLITS)
            if (key := f"{split}_{name}") in columns
        ]
        if name not in LEFT_OUT:
            title, unit = score_name(name), units.get(name, "")
            caption = f"{html.escape(title)}<small>{html.escape(unit)}</small>" if unit else html.escape(title)
            charts.append(f"<figure><figcaption>{caption}</figcaption>{chart(title, drawn)}</figure>")
    more, summary = "\n".join(charts[FIRST:]), count(len(charts) - FIRST, "more curve")
    key = legend([Curve(split, [], [], colour=k) for k, split in enumerate(SPLITS)])
    return f'{key}<div class="charts">{"".join(charts[:FIRST])}</div>' + (
        f'<details><summary>{summary}</summary><div class="charts">{more}</div></details>' if more else ""
    )


def film(originals: Tensor, frames: Mapping[str, Any]) -> str:
    """Return images above their reconstructions after each epoch that was kept, to play: HTML.

    Args:
        originals: [n, channel, height, width], of 0 to 1.
        frames: `epochs`, and `images`, bytes [n, channel, height, width] for each.
    """
    rows = torch.cat([originals.cpu(), *(images / 255 for images in frames["images"])])
    source, last = sprite(rows, len(originals)), len(frames["epochs"]) - 1
    return (
        f'<figure class="film" data-epochs="{json.dumps(frames["epochs"])}">'
        f'<canvas style="max-width: {ENLARGED * len(originals) * originals.shape[-1]}px" role="img" '
        'aria-label="test images above their reconstructions"></canvas>'
        f'<img alt="test images, and a row of reconstructions for each epoch" src="{source}">'
        f'<div><button>play</button><input type="range" min="0" max="{last}" value="{last}" aria-label="epoch">'
        "<output></output></div><figcaption>test images above their reconstructions</figcaption></figure>"
    )
