"""Runs shared: a copy with a model card, in a folder or on the Hugging Face Hub, and opened from there.

A copy holds weights (safetensors), options and what was done to the data, and neither the data nor where they lay.
"""

import json
import shutil
import tempfile
from pathlib import Path

from pyro_models.base.errors import UserError, first_line
from pyro_models.base.files import read_json, write
from pyro_models.base.markdown import markdown
from pyro_models.base.names import HUB
from pyro_models.runs.folder import Run, hub_package
from pyro_models.runs.origin import provenance

FILES = ("recipe.json", "model.safetensors", "results.json", "checks.json", "metrics.csv")


def push(run: Run, to: Path | str) -> str:
    """Copy a finished run, with a model card, to a folder that is new or empty, or to the Hub.

    Args:
        run: the run.
        to: a folder, or `hub:USER/NAME`.

    Returns:
        where it is.

    Raises:
        UserError: the folder is not empty, the package of the Hub is missing, or it cannot be reached.
    """
    if not str(to).startswith(HUB):
        folder = Path(to)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not empty: give a new folder")
        _copy(run, folder)
        return str(folder)
    name, hub = str(to).removeprefix(HUB), hub_package()
    with tempfile.TemporaryDirectory() as beside:
        folder = Path(beside) / "run"
        _copy(run, folder)
        try:
            api = hub.HfApi()
            api.create_repo(name, exist_ok=True)
            return str(api.upload_folder(folder_path=str(folder), repo_id=name))
        except Exception as error:  # of the network, of a name, of a missing login
            raise UserError(f"cannot push to {to}: {first_line(error)}", 1) from None


def _copy(run: Run, folder: Path) -> None:
    """Write the copy."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (run.folder / name).is_file():
            shutil.copyfile(run.folder / name, folder / name)
    if (run.folder / "figures").is_dir():
        shutil.copytree(run.folder / "figures", folder / "figures")
    content = read_json(run.folder / "data.json")
    paths = [value for option in content["sources"] if isinstance(value := getattr(run.recipe, option), str)]
    content["sources"] = {option: {"sha256": entry["sha256"]} for option, entry in content["sources"].items()}
    write(folder / "data.json", json.dumps(content, indent=2) + "\n")
    for copied in folder.glob("*.json"):
        text = copied.read_text()
        for path in paths:
            text = text.replace(json.dumps(path)[1:-1], Path(path).name)
        write(copied, text)
    write(folder / "README.md", card(run))


def card(run: Run) -> str:
    """Return the model card of a run, in Markdown: its story, its figures, its checks, and how to open it."""
    recipe, results = run.recipe, read_json(run.folder / "results.json")
    story = recipe.story(provenance(run.folder, recipe).stand_in())
    rows = [
        {"score": score, "test": f"{value:.4g}", "unit": str(results["units"][score])}
        for score, value in results["test"].items()
    ]
    text = [
        "---\nlibrary_name: pyro-stories\ntags: [pyro, " + recipe.name + "]\n---",
        f"# {recipe.name} on {Path(results['data']).name}",
        str(type(recipe).__doc__).splitlines()[0],
        "## Story",
        f"```text\n{story.text}\n```",
        "## Results",
        markdown(rows),
        "## Checks",
        _checks(run.folder / "checks.json"),
    ]
    if figures := sorted((run.folder / "figures").glob("[0-9][0-9]-*.*")):
        text.append("## Figures")
        text += [f"![{path.stem[3:].replace('-', ' ')}](figures/{path.name})" for path in figures]
    text += [
        "## Use",
        "```python\nimport pyro_models\n\nrun = pyro_models.open_run(FOLDER)  # or hub:USER/NAME\n```",
        "The data are not part of it.",
    ]
    return "\n\n".join(text) + "\n"


def _checks(path: Path) -> str:
    if not path.is_file():
        return "None were made: `pyro-stories check RUN` makes them."
    checks = read_json(path)
    worst = [
        f"- {each['site']}: {each['statistic']} ({given}: p = {each[given]['p']:.2g})"
        for each in checks["checks"]
        for given in ("prior", "posterior")
        if given in each and each[given]["two_sided"] <= 0.05
    ]
    expected = f"{checks['expected_to_fail']:.3g} would of a right model"
    count = f"{checks['failed']} predictive checks fail at 5 %; {expected}."
    return "\n".join([count, *worst])
