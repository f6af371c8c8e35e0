"""Where and how a run happens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pyro_models.recipes.options import check, option


@dataclass(frozen=True)
class RunOptions:
    """Where and how a run happens; nothing here changes what is learned, so none of it is part of the recipe.

    Raises:
        UserError: an option lies outside its bounds.
    """

    out: Path | None = option(None, "run folder to write (default: runs/RECIPE-DATA-NUMBER, the first that is free)")
    overwrite: bool = option(False, "replace the run in an existing run folder")
    resume: bool = option(False, "continue the run in the folder `out`, with the options that it has")
    data_dir: Path | None = option(
        None, "folder that the data sets are in or are downloaded to (else $PYRO_MODELS_DATA, else ./datasets)"
    )
    seeds: int = option(1, "number of runs, each with the next seed; more than one give a mean and a spread", 1, 1000)
    device: Literal["auto", "cpu", "cuda", "mps"] = option(
        "auto", "device to train on: a GPU of NVIDIA (cuda) or of Apple (mps); auto: cuda where there is one, else cpu"
    )
    log: Literal["none", "tensorboard"] = option(
        "none", "also write the rows of metrics.csv for TensorBoard, into the run folder (an extra package)"
    )
    compile: Literal["auto", "on", "graph", "off"] = option(
        "auto",
        "how steps run: on: compiled, which takes a minute and rounds otherwise; graph: without Python, to the same "
        "bits; off: as they are; auto: the fastest, where the first steps show that it pays within the run",
    )

    def __post_init__(self) -> None:
        for name in ("out", "data_dir"):
            if isinstance(path := getattr(self, name), str):
                object.__setattr__(self, name, Path(path))
        check(self)
