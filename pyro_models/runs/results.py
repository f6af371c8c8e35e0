"""Tables of the test scores of finished runs, in Markdown: one for each recipe."""

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import stdev
from typing import Any

from pyro_models.base.files import read_json
from pyro_models.base.markdown import markdown
from pyro_models.recipes import RECIPES

NUMBER = re.compile(r"-?\d+\.?\d*")  # of a cell


def tables(folders: Sequence[Path]) -> str:
    """Return a table for each recipe, with the columns of its headline, from the results.json of runs.

    Of a run of several seeds, a column whose value differs has the mean, the standard deviation over the seeds, and
    then the value of each.

    Raises:
        UserError: a folder holds no results.json.
    """
    rows: dict[str, list[dict[str, str]]] = {}
    for folder in folders:
        results = read_json(folder / "results.json")
        rows.setdefault(results["recipe"], []).append(row(results))
    return "\n\n".join(markdown(table) for table in rows.values())


def row(results: dict[str, Any]) -> dict[str, str]:
    """Return one run's row: the command, the headline of its recipe, minutes for a run."""
    headline = RECIPES[results["recipe"]].headline
    seeds = results.get("seeds", [])
    each = [headline({**results, **seed}) for seed in seeds]
    columns = {}
    for title, value in headline(results).items():
        values = [columns_of_seed[title] for columns_of_seed in each]
        columns[title] = with_spread(value, values) if len(set(values)) > 1 else value
    minutes = results["seconds"] / 60 / max(1, len(seeds))
    return {"command": f"`{results['command']}`"} | columns | {"minutes a run": f"{minutes:.1f}"}


def with_spread(mean: str, cells: Sequence[str]) -> str:
    """Return a mean, the standard deviation of the first numbers of cells, unless some are blank, and each cell."""
    spread = ""
    if all(cells):
        numbers = [NUMBER.findall(cell)[0] for cell in cells]
        spread = f" ± {stdev(map(float, numbers)):.{len(numbers[0].partition('.')[2])}f}"
    return f"{mean}{spread} ({', '.join(cells)})"
