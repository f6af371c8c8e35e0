"""A run and its folder: made, opened, saved and restored."""

import csv
import inspect
import io
import json
import shutil
import warnings
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from pyro_models.base import files
from pyro_models.base.errors import UserError, first_line
from pyro_models.base.files import read_json, write
from pyro_models.base.names import HUB
from pyro_models.base.seeds import seed_noise
from pyro_models.data import Dataset, Deferred, Preprocessing
from pyro_models.recipes import Recipe, from_json
from pyro_models.recipes.base import Teacher
from pyro_models.runs.options import RunOptions
from pyro_models.runs.origin import describe, provenance
from pyro_models.runs.use import Inference
from pyro_models.training import checkpoint
from pyro_models.training.processes import Processes


@dataclass(frozen=True)
class Run(Inference):
    """The contents of a run folder.

    Attributes:
        folder: where.
        recipe: what was trained.
        dataset: on what, on the device of the pair; the data are loaded when a split is first asked for.
        model, guide: the pair.
        metrics: the rows of metrics.csv.
        frames: reconstructions kept during training: `examples`, which test data; `epochs`, when; `images`, bytes
            [n, *image] for each of those epochs.
        processes: how many trained it.
        best: while it trains and `keep=best`, the weights of the epoch with the highest validation ELBO.
    """

    folder: Path
    recipe: Recipe
    dataset: Dataset
    model: nn.Module
    guide: nn.Module
    metrics: list[dict[str, float]]
    frames: dict[str, Any]
    processes: int
    best: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def preprocessing(self) -> Preprocessing:
        """What was done to the data: `run.preprocessing.apply(x)` does it to new ones."""
        preprocessing: Any = self.dataset.preprocessing
        return preprocessing

    @property
    def pair(self) -> nn.Module:
        """Both halves as one module, so that a weight they share is one entry wherever it is stored."""
        return nn.ModuleDict({"model": self.model, "guide": self.guide})


def open_run(
    folder: Path | str, *, data: Any = None, data_dir: Path | None = None, device: str = "cpu", **networks: Any
) -> Run:
    """Open a finished run, its pair in evaluation mode.

    Its data are not needed to open it, and are loaded when a split of `run.dataset` is first asked for. A file that
    changed since is named by a warning, and refused where its data are asked for.

    Args:
        folder: the run folder, or `hub:USER/NAME` of a run on the Hugging Face Hub.
        data: the data that it was trained on, where they were in memory or have moved.
        data_dir: the folder of the data sets; None as in `pyro_models.load`.
        device: `cpu` or `cuda`.
        networks: `encoder` and `decoder`, where they were in memory.

    Raises:
        UserError: the folder holds no finished run, or its weights do not fit its recipe.
    """
    folder = finished(folder)
    recipe = from_json(read_json(folder / "recipe.json") | networks)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("`device=cuda`: torch finds no GPU here; use `device=cpu`")
    known, source = provenance(folder, recipe, data_dir), recipe
    if data is not None:
        source = replace(recipe, data=Path(data).resolve() if isinstance(data, str | Path) else data)
    for problem in known.problems(source):
        if " changed " in problem:
            warnings.warn(problem, stacklevel=2)
    dataset = Deferred(known.name, known.preprocessing, lambda: known.located(source).load(data_dir))
    with torch.random.fork_rng():
        run = build(recipe, dataset, folder, Processes(0, 1, torch.device(device)))
    load_trained(run.pair, folder)
    if (folder / "checkpoint.pt").is_file():
        state = checkpoint.load(folder / "checkpoint.pt")
        run.metrics.extend(state["metrics"])
        run.frames.update(state["frames"])
    run.model.eval()
    run.guide.eval()
    return run


def finished(folder: Path | str) -> Path:
    """Return the folder of a finished run, downloaded where it is on the Hub.

    Raises:
        UserError: it holds none.
    """
    folder = fetched(str(folder)) if str(folder).startswith(HUB) else Path(folder)
    if what := _several(folder):
        raise UserError(f"{folder} holds {what}: give one of them, a folder in it")
    if not (folder / "recipe.json").is_file():
        raise UserError(f"{folder} is no run folder: it holds no recipe.json")
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"the run in {folder} is not finished: continue it with `out={folder}` and `resume=True`")
    return folder


def fetched(source: str) -> Path:
    """Return the folder of a run on the Hub, `hub:USER/NAME`, downloaded or as it was.

    Raises:
        UserError: the package of the Hub is missing, or there is no such run.
    """
    hub = hub_package()
    try:
        return Path(hub.snapshot_download(source.removeprefix(HUB)))
    except Exception as error:
        raise UserError(f"cannot open {source}: {first_line(error)}", 1) from None


def hub_package() -> Any:
    """Return the package of the Hugging Face Hub.

    Raises:
        UserError: it is missing.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("the Hugging Face Hub needs a package: pip install 'pyro-stories[hub]'") from None
    return huggingface_hub


def leg(recipe: Recipe) -> tuple[int, float]:
    """Return the epoch after which the last leg of a run began, 0 of its first, and the step size that it began with.

    A run has one leg, and one more for each time that it was trained further after it was over.
    """
    return recipe.continued[-1][1:] if recipe.continued else (0, recipe.learning_rate)


def best_epoch(metrics: list[dict[str, float]]) -> int:
    """Return the first epoch with the highest validation ELBO; 0 where none has been evaluated."""
    return max(evaluated(metrics), key=lambda epoch: metrics[epoch - 1]["validation_elbo"], default=0)


def evaluated(metrics: list[dict[str, float]]) -> list[int]:
    """Return the epochs whose scores were measured."""
    return [epoch for epoch, row in enumerate(metrics, 1) if "validation_elbo" in row]


def is_over(recipe: Recipe, metrics: list[dict[str, float]]) -> bool:
    """Return whether a run has all its epochs, or `early_stopping` evaluations without a better bound."""
    patience = recipe.early_stopping
    if patience is None or not metrics or len(metrics) >= recipe.epochs:
        return len(metrics) >= recipe.epochs
    best = max(best_epoch(metrics), leg(recipe)[0])
    return sum(epoch > best for epoch in evaluated(metrics)) >= patience


def prepare(
    recipe: Recipe, options: RunOptions, processes: Processes, dataset: Dataset
) -> tuple[Path, Recipe, dict[str, Any] | None]:
    """Make the run folder, after all checks.

    Returns:
        the folder; the recipe, with a further leg where a run that is over gets more epochs; the state to go on from.

    Raises:
        UserError: the folder cannot be used, or the checkpoint in it is of another run.
    """
    state = None
    if options.resume and options.out and not (options.out / "checkpoint.pt").exists():
        if (options.out / "model.safetensors").exists():
            what = "holds a finished run and no checkpoint.pt, without which it cannot be continued"
            raise UserError(f"{options.out} {what}: give another `out`, or `overwrite=True`")
    elif options.resume and options.out:
        state = checkpoint.load(options.out / "checkpoint.pt")
        in_memory = {name: getattr(recipe, name) for name in ("data", "encoder", "decoder") if hasattr(recipe, name)}
        saved = from_json(read_json(options.out / "recipe.json") | in_memory)
        recipe = _continued(recipe, saved, state["metrics"], options.out)
        _check_state(state, recipe, options.out, processes)
        if len(state["metrics"]) == leg(recipe)[0] > 0:  # a new leg starts from what the run ended with
            state |= {"weights": state["best"] or state["weights"], "optimizer": None}
    try:
        folder = _resumed_or_new(recipe, options)
        (folder / "figures").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use the folder {error.filename}: {error.strerror}") from None
    write(folder / "recipe.json", json.dumps(recipe.as_json(), indent=2) + "\n")
    if not (options.resume and (folder / "data.json").is_file()):
        describe(folder, recipe, dataset)
    return folder, recipe, state


FRACTION = 0.1  # of `learning_rate`: the least that a run is trained further with


def _continued(recipe: Recipe, saved: Recipe, metrics: list[dict[str, float]], folder: Path) -> Recipe:
    """Return the recipe of a run that is resumed: with a further leg, where it is over and is given more epochs.

    The leg is a fresh cosine from the step size of the last step, at least a tenth of `learning_rate`, or from the
    `learning_rate` that is given; it begins with the weights that the run ended with and a fresh optimiser. Where the
    step size is constant, a run with more epochs is the longer run itself.
    """
    now, done = replace(recipe, continued=saved.continued), len(metrics)
    own_size = recipe.learning_rate != saved.learning_rate
    if now.epochs in (saved.epochs, done) or not metrics or not (saved.fixes_epochs or own_size):
        return now
    if not is_over(saved, metrics):
        raise UserError(
            f"the run in {folder} is at epoch {done} of {saved.epochs}, on which its schedule depends: continue it to "
            "its end by `resume=True` first, and then with more `epochs`"
        )
    if now.epochs < done:
        return now  # which `_check_state` refuses
    size = recipe.learning_rate if own_size else max(metrics[-1]["learning_rate"], FRACTION * saved.learning_rate)
    return replace(now, learning_rate=saved.learning_rate, continued=(*saved.continued, (saved.epochs, done, size)))


def _resumed_or_new(recipe: Recipe, options: RunOptions) -> Path:
    """Make or empty the run folder, as far as the options allow."""
    folder = options.out
    if folder is None:
        return next_folder(recipe)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"`out={folder}` is a file, not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    if not options.resume and any(folder.iterdir()):
        if not options.overwrite:
            raise UserError(f"{folder} is not empty: give another `out`, or `overwrite=True`, or `resume=True`")
        if not (folder / "recipe.json").is_file():
            raise UserError(f"{folder} holds something that is not a run: it is not overwritten")
        if what := _several(folder):
            raise UserError(f"{folder} holds {what}: it is not overwritten by one")
        for name in (
            "recipe.json",
            "data.json",
            "metrics.csv",
            "results.json",
            "model.safetensors",
            "checkpoint.pt",
            "report.html",
            "log.txt",
        ):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
    return folder


def _several(folder: Path) -> str:
    """Describe the runs in a folder that holds several."""
    if list(folder.glob("seed-*")):
        return "runs of several seeds"
    return "the runs of a sweep" if list(folder.glob("*=*/recipe.json")) else ""


def next_folder(recipe: Recipe) -> Path:
    """Make the first of runs/RECIPE-DATA-1, runs/RECIPE-DATA-2, ... that is free."""
    runs, stem = Path("runs"), f"{recipe.name}-{Path(recipe.data).stem if isinstance(recipe.data, str) else 'memory'}"
    runs.mkdir(exist_ok=True)
    for number in count(1):
        folder = runs / f"{stem}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("there is always another number")


def _check_state(state: dict[str, Any], recipe: Recipe, folder: Path, processes: Processes) -> None:
    """Refuse to continue from the checkpoint of another recipe, or with another number of processes."""
    ours, theirs = recipe.as_json(), dict(state["recipe"])
    theirs |= {key: ours[key] for key in ("epochs", "continued")}
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"the checkpoint in {folder} belongs to another recipe: `{key}` is {theirs.get(key)!r} there, "
                f"{ours.get(key)!r} here"
            )
    done = len(state["metrics"])
    if done > recipe.epochs:
        raise UserError(f"the run in {folder} is at epoch {done} already: give more `epochs` to train it further")
    if state["processes"] != processes.count:
        raise UserError(f"the run in {folder} is of {state['processes']} processes, not {processes.count}")


def build(recipe: Recipe, dataset: Dataset, folder: Path, processes: Processes) -> Run:
    """Build the pair with its first weights, which follow from the seed alone."""
    seed_noise(recipe.seed, "weights")
    model, guide = (half.to(processes.device) for half in recipe.pair(dataset))
    frames: dict[str, Any] = {"examples": [], "epochs": [], "images": []}
    return Run(folder, recipe, dataset.to(processes.device), model, guide, [], frames, processes.count)


def restore(run: Run, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go back to the epoch at which a checkpoint was made, or to the weights that a finished run ended with.

    Raises:
        UserError: it does not fit the recipe.
    """
    run.metrics.extend(state["metrics"])
    run.frames.update(state["frames"])
    run.best.update(state["best"])
    if state["weights"] is None:
        load_trained(run.pair, run.folder)
        return
    try:
        run.pair.load_state_dict(state["weights"])
        if state["optimizer"] is not None:
            optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"the checkpoint in {run.folder} does not fit the recipe: {first_line(error)}", 1) from None


def load_trained(pair: nn.Module, folder: Path) -> None:
    """Load the weights of a finished run into the pair of its recipe, or into another with the same networks.

    Raises:
        UserError: they cannot be read, or are not of the pair's networks.
    """
    try:
        load_weights(pair, safetensors.torch.load_file(folder / "model.safetensors"))
    except RuntimeError as error:  # whose first line says nothing
        reason = first_line(ValueError(" ".join(str(error).split("\n", 1)[1:])))
        raise UserError(f"the weights in {folder} are not of these networks: {reason}", 1) from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"cannot read the weights in {folder}: {first_line(error)}", 1) from None


def initial_weights(recipe: Recipe, dataset: Dataset) -> dict[str, torch.Tensor] | None:
    """Return the weights of the run that `initial_weights` names, as those of this recipe's pair; None without one.

    Raises:
        UserError: it is no finished run, or has other networks.
    """
    if recipe.initial_weights is None:
        return None
    with torch.random.fork_rng():
        pair = build(recipe, dataset, Path(), Processes(0, 1, torch.device("cpu"))).pair
    load_trained(pair, finished(recipe.initial_weights))
    return pair.state_dict()


def starting_run(recipe: Recipe, dataset: Dataset) -> Run | None:
    """Open the run that a recipe `starts_from`; None without one.

    Raises:
        UserError: it is no finished run, its images have another shape, or its latents do not follow from them alone.
    """
    if recipe.starts_from is None:
        return None
    try:
        run = open_run(recipe.starts_from, device=str(dataset.device))
    except UserError as error:
        raise UserError(f"`start` is random, mixture or a finished run, and {error}") from None
    if run.dataset.shape != dataset.shape:
        shapes = f"{list(run.dataset.shape)}, and {recipe.data} has {list(dataset.shape)}"
        raise UserError(f"`start={recipe.starts_from}` is of images {shapes}: give a run on the same data")
    posterior: Any = getattr(run.guide, "posterior", None)
    names = inspect.signature(posterior).parameters if posterior else {}
    if "x" not in names or any(each.default is each.empty for name, each in names.items() if name != "x"):
        raise UserError(
            f"`start={recipe.starts_from}` is a run of {run.recipe.name}, which has no latents of x alone: give one of "
            "vae or autoencoder"
        )
    return run


def teacher(recipe: Recipe, dataset: Dataset) -> Teacher | None:
    """Return what the start of training imitates, by the latents of the run that `starts_from` names; None without.

    Raises:
        UserError: as `starting_run`.
    """
    run = starting_run(recipe, dataset)
    if run is None:
        return None
    posterior: Any = run.guide.posterior

    @torch.no_grad()
    def latents(x: torch.Tensor) -> torch.Tensor:
        return posterior(x=x).mean

    parts = (dataset.train[first : first + 1000] for first in range(0, len(dataset.train), 1000))
    of_latents = recipe.teacher_of(torch.cat([latents(recipe.batch(dataset, part)["x"]) for part in parts]))
    return lambda x: of_latents(latents(x))


def load_weights(pair: nn.Module, stored: dict[str, torch.Tensor]) -> None:
    """Load weights from a file that holds one name for each that both halves share.

    `safetensors.torch.load_model` does so too, but does not recognise the step counter of a shared batch norm.
    """
    own = pair.state_dict()
    shared = {own[name].data_ptr(): weight for name, weight in stored.items() if name in own}
    named = {name: shared[mine.data_ptr()] for name, mine in own.items() if mine.data_ptr() in shared}
    pair.load_state_dict(named | stored)


def save_checkpoint(run: Run, optimizer: torch.optim.Optimizer | None, compiled: bool = False) -> None:
    """Write metrics.csv and checkpoint.pt, and in that whether the steps are compiled.

    Without an optimiser, of a run that is over, it holds no weights.
    """
    text = io.StringIO()
    columns = dict.fromkeys(chain.from_iterable(run.metrics))  # rows of epochs without an evaluation lack some
    writer = csv.DictWriter(text, fieldnames=[*columns, "unit"], lineterminator="\n")
    writer.writeheader()
    unit = run.recipe.unit_of("elbo", run.dataset)
    writer.writerows(row | {"unit": unit} for row in run.metrics)
    write(run.folder / "metrics.csv", text.getvalue())
    state = {
        "recipe": run.recipe.as_json(),
        "processes": run.processes,
        "weights": optimizer and run.pair.state_dict(),
        "optimizer": optimizer and optimizer.state_dict(),
        "best": run.best if optimizer else {},
        "metrics": run.metrics,
        "frames": run.frames,
        "compiled": compiled,
    }
    checkpoint.save(run.folder / "checkpoint.pt", state)


def save_weights(run: Run) -> None:
    """Write model.safetensors, and remove what was computed of the weights before."""

    def write_to(path: Path) -> None:
        try:
            safetensors.torch.save_model(run.pair, str(path))
        except SafetensorError as error:
            raise OSError(str(error)) from None

    files.replace(run.folder / "model.safetensors", write_to)
    figures = [f"figures/{name}*" for name in ("check-", "compare", "samples-")]
    for pattern in ("checks.json", "likelihood.npz", "compare*.json", *figures):
        for path in run.folder.glob(pattern):
            path.unlink()
