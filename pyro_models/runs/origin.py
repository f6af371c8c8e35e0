"""What a run folder holds of its data, data.json: what was done to them, where they were, and which they were."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyro_models import __version__
from pyro_models.base.errors import DataError, UserError
from pyro_models.base.files import read_json, write
from pyro_models.base.names import DATASETS
from pyro_models.data import Dataset, InMemory, Preprocessing, sha256, stand_in
from pyro_models.recipes import Recipe

FORMAT = 1
SOURCES = ("data", "validation_data", "test_data")


@dataclass(frozen=True)
class Provenance:
    """The contents of data.json.

    Attributes:
        folder: of the run.
        name: of the data.
        sizes: the number of data of each split.
        preprocessing: what was done to them.
        sources: of each option that names data of one's own: its `path`, absolute and `relative` to the run folder,
            and the `sha256` of its content.
    """

    folder: Path
    name: str
    sizes: dict[str, int]
    preprocessing: Preprocessing
    sources: dict[str, dict[str, Any]]

    def stand_in(self) -> Dataset:
        """Return data of the shapes and sizes of the run's, all of them 0."""
        return stand_in(self.name, self.preprocessing, self.sizes)

    def problems(self, recipe: Recipe) -> list[str]:
        """Return what is wrong with the files of the data: those that changed or are gone, a line each."""
        return [problem for _, problem in self._located(recipe).values() if problem]

    def located(self, recipe: Recipe) -> Recipe:
        """Return the recipe with the paths at which the very data of the run lie by now.

        Raises:
            DataError: a file changed or is gone.
        """
        places = self._located(recipe)
        for _, problem in places.values():
            if problem:
                raise DataError(problem)
        return replace(recipe, **{option: path for option, (path, _) in places.items()})

    def _located(self, recipe: Recipe) -> dict[str, tuple[Any, str]]:
        """Return the path of each source, or data in memory, and what is wrong with it."""
        return {option: self._locate(option, getattr(recipe, option), entry) for option, entry in self.sources.items()}

    def _locate(self, option: str, value: Any, entry: dict[str, Any]) -> tuple[Any, str]:
        given = "give the data of the run as they were, or leave them out and work with new data"
        if isinstance(value, InMemory):
            if value.sha256 == entry["sha256"]:
                return value, ""
            return value, f"the run in {self.folder} was trained on other data in memory than these: {given}"
        candidates = [Path(entry["path"]), self.folder / entry["relative"]] if "path" in entry else []
        candidates += [Path(value)] if Path(value).is_absolute() else []
        existing = [path for path in dict.fromkeys(candidates) if path.exists()]
        for path in existing:
            if sha256(path) == entry["sha256"]:
                return str(path), ""
        if existing:
            return value, f"{existing[0]} changed since the run in {self.folder} was trained on it: {given}"
        where = candidates[0] if candidates else value
        return value, f"the run in {self.folder} was trained on {where}, which is gone: {given}"


def describe(folder: Path, recipe: Recipe, dataset: Dataset) -> None:
    """Write data.json.

    Raises:
        UserError: it cannot be written.
    """
    sources = {}
    for option, value in _own(recipe):
        entry: dict[str, Any] = {"sha256": sha256(value)}
        if isinstance(value, str):
            path = Path(value).resolve()
            entry |= {"path": str(path), "relative": os.path.relpath(path, folder.resolve())}
        sources[option] = entry
    preprocessing: Any = dataset.preprocessing
    content = {
        "format": FORMAT,
        "version": __version__,
        "name": dataset.name,
        "sizes": {part: len(split) for part, split in dataset.parts.items()},
        "sources": sources,
        "notes": dataset.notes,
        "preprocessing": preprocessing.as_json(),
    }
    write(folder / "data.json", json.dumps(content, indent=2) + "\n")


def _own(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Yield the options that name data of one's own, and their values."""
    for option in SOURCES:
        value = getattr(recipe, option)
        if value is not None and value not in DATASETS:
            yield option, value


def provenance(folder: Path, recipe: Recipe, data_dir: Path | None = None) -> Provenance:
    """Read data.json; of a named data set without it, which is the same everywhere, work out its contents.

    Raises:
        UserError: there is none for data of one's own, or a newer version wrote it.
    """
    path = folder / "data.json"
    if not path.is_file():
        if any(_own(recipe)):
            raise UserError(f"{folder} holds no data.json, which says what was done to the data: train it again")
        dataset = recipe.load(data_dir)
        preprocessing: Any = dataset.preprocessing
        sizes = {part: len(split) for part, split in dataset.parts.items()}
        return Provenance(folder, dataset.name, sizes, preprocessing, {})
    content = read_json(path)
    try:
        if content["format"] > FORMAT:
            version = content.get("version", "a newer version")
            raise UserError(f"the run in {folder} is of pyro-stories {version}, newer than this: {__version__}; update")
        stored = Preprocessing.from_json(content["preprocessing"])
        return Provenance(folder, content["name"], content["sizes"], stored, content["sources"])
    except (KeyError, TypeError, DataError) as error:
        raise UserError(f"{path} lacks what a run needs: {error}") from None
