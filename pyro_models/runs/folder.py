"""A run: a recipe, trained in a folder that holds all there is to know of it."""

import csv
import io
import json
import os
import platform
import shlex
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from tqdm import tqdm

from pyro_models import __version__
from pyro_models.base.errors import UserError, first_line
from pyro_models.base.files import read_json, replace, write
from pyro_models.base.seeds import derived_seed
from pyro_models.data import Attribute, Batches, Dataset, Split, to_float
from pyro_models.metrics.attributes import three_cs
from pyro_models.metrics.clusters import agreement, gaussian_mixture, infer_kinds, per_class, score, used
from pyro_models.metrics.evaluation import evaluate, evaluation, reconstruct
from pyro_models.objectives import ESTIMATORS
from pyro_models.recipes.base import Recipe
from pyro_models.recipes.options import Place, flag
from pyro_models.recipes.registry import from_json
from pyro_models.recipes.units import units
from pyro_models.training import checkpoint
from pyro_models.training.fit import Epoch, NonFiniteTerm, fit, parameters
from pyro_models.training.processes import Processes, distributed_session
from pyro_models.training.schedules import cosine, stages

CHECKPOINT_SECONDS = 10.0
FRAMES = 40  # of the animation, spread over the epochs


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        folder: where.
        recipe: what was trained.
        dataset: on what.
        model, guide: the trained pair, in evaluation mode.
        metrics: the rows of metrics.csv.
        frames: reconstructions kept during training: `examples`, which test images; `epochs`, when; `images`, bytes
            [n, *image] for each of those epochs.
        processes: how many trained it.
    """

    folder: Path
    recipe: Recipe
    dataset: Dataset
    model: nn.Module
    guide: nn.Module
    metrics: list[dict[str, float]]
    frames: dict[str, Any]
    processes: int

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The attributes that the story tells of."""
        return self.dataset.attributes if self.recipe.multimodal else ()


def train(recipe: Recipe, place: Place) -> Path:
    """Train a recipe to its last epoch and return the run folder.

    Raises:
        UserError: the data, the folder or the device does not do; a term of the objective is not finite; the
            user interrupted it. Whatever a checkpoint holds is kept.
    """
    with distributed_session(place.device) as processes:
        dataset = processes.first_alone(partial(recipe.load, place.data_dir))
        recipe.check_data(dataset)
        pool, labelled = recipe.pools(dataset.train)
        _check_batches(recipe, pool, processes)
        folder, state = processes.from_first(partial(_prepare, recipe, place, processes))
        run = _build(recipe, dataset, folder, processes)
        optimizer = torch.optim.Adam(parameters(run.model, run.guide), lr=recipe.learning_rate, fused=True)
        if state is not None:
            _restore(run, optimizer, state)
        batches = Batches(
            pool.to(processes.device),
            recipe.pixels,
            recipe.batch_size,
            recipe.seed,
            processes.rank,
            processes.count,
            labelled.to(processes.device) if labelled else None,
            recipe.kinds if labelled else 0,
            recipe.steps,
            run.attributes,
        )
        schedules = {"cosine": cosine(recipe.learning_rate), "stages": stages(recipe.learning_rate)}
        epochs = fit(
            run.model,
            run.guide,
            recipe.training_objective(run.guide, run.dataset.train),
            optimizer,
            batches,
            epochs=recipe.epochs,
            done=len(run.metrics),
            seed=recipe.seed,
            learning_rate=schedules.get(recipe.schedule),
        )
        try:
            if processes.rank == 0:
                if run.metrics:
                    print(f"going on after epoch {len(run.metrics)} of the run in {folder}", flush=True)
                for site, meaning in _meanings(run).items():
                    print(f"{site}: {meaning}", flush=True)
                _keep_books(run, optimizer, _progress(epochs, run))
                _finish(run)
                print(f"report: {folder / 'report.html'}\nrun folder: {folder}")
            else:
                deque(epochs, maxlen=0)
        except NonFiniteTerm as error:
            raise UserError(f"{error}; the checkpoint before it is kept in {folder}") from None
        except KeyboardInterrupt:
            words = ["python", "train.py", recipe.name, "--out", str(folder), "--resume"]
            words += ["--data-dir", str(place.data_dir)] if place.data_dir else []
            kept = f"stopped, with the checkpoint that {folder} holds" if processes.rank == 0 else "stopped"
            raise UserError(f"{kept}; go on with: {shlex.join(words)}", exit_code=130) from None
    return folder


def open_run(folder: Path | str, *, data_dir: Path | None = None, device: str = "cpu") -> Run:
    """Open a finished run.

    Raises:
        UserError: the folder holds none, or its weights do not fit its recipe.
    """
    folder = Path(folder)
    if not (folder / "recipe.json").is_file():
        raise UserError(f"{folder} is no run folder: it holds no recipe.json")
    if list(folder.glob("seed-*")):
        raise UserError(f"{folder} holds runs of several seeds: give one of them, {folder}/seed-N")
    recipe = from_json(read_json(folder / "recipe.json"))
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"the run in {folder} is not finished: continue it with --out {folder} --resume")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu")
    dataset = recipe.load(data_dir)
    with torch.random.fork_rng():
        run = _build(recipe, dataset, folder, Processes(0, 1, torch.device(device)))
    try:
        _load_weights(_pair(run), safetensors.torch.load_file(folder / "model.safetensors", device=device))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"cannot read the weights in {folder}: {first_line(error)}") from None
    if (folder / "checkpoint.pt").is_file():
        state = checkpoint.load(folder / "checkpoint.pt")
        run.metrics.extend(state["metrics"])
        run.frames.update(state["frames"])
    run.model.eval()
    run.guide.eval()
    return run


def _check_batches(recipe: Recipe, pool: Split, processes: Processes) -> None:
    """Refuse batches that cannot be cut from the data, or not for so many processes."""
    if recipe.batch_size > len(pool) and recipe.steps is None:
        raise UserError(
            f"--batch-size {recipe.batch_size} is more than the {len(pool)} training data; --steps goes round them"
        )
    if recipe.batch_size % processes.count:
        raise UserError(f"--batch-size {recipe.batch_size} does not divide among {processes.count} processes")
    if recipe.kinds and recipe.batch_size < 2 * processes.count:
        raise UserError("--batch-size must leave 2 data for each process: batch norm takes their mean")


def _prepare(recipe: Recipe, place: Place, processes: Processes) -> tuple[Path, dict[str, Any] | None]:
    """Make the run folder ready, once all is known to be well with it: the folder, and the state to go on from."""
    state = None
    if place.resume and place.out and (place.out / "checkpoint.pt").exists():
        state = checkpoint.load(place.out / "checkpoint.pt")
        _check_state(state, recipe, place.out, processes)
    try:
        folder = _resumed_or_new(recipe, place)
        (folder / "figures").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot use the folder {error.filename}: {error.strerror}") from None
    write(folder / "recipe.json", json.dumps(recipe.as_json(), indent=2) + "\n")
    return folder, state


def _resumed_or_new(recipe: Recipe, place: Place) -> Path:
    """Make or empty the run folder, as far as the options allow."""
    folder = place.out
    if folder is None:
        return next_folder(recipe)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file, not a folder")
    folder.mkdir(parents=True, exist_ok=True)
    if not place.resume and any(folder.iterdir()):
        if not place.overwrite:
            raise UserError(f"{folder} is not empty: give another --out, or --overwrite, or --resume")
        if not (folder / "recipe.json").is_file():
            raise UserError(f"{folder} holds something that is not a run: it is not overwritten")
        if list(folder.glob("seed-*")):
            raise UserError(f"{folder} holds runs of several seeds: it is not overwritten by one")
        for name in ("recipe.json", "metrics.csv", "results.json", "model.safetensors", "checkpoint.pt", "report.html"):
            (folder / name).unlink(missing_ok=True)
    return folder


def next_folder(recipe: Recipe) -> Path:
    """Make the first of runs/RECIPE-DATA-1, runs/RECIPE-DATA-2, ... that nobody has."""
    runs, stem = Path("runs"), f"{recipe.name}-{Path(recipe.data).stem}"
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
    """Refuse to go on from the checkpoint of another recipe, or with another number of processes."""
    ours, theirs = recipe.as_json(), dict(state["recipe"])
    theirs["epochs"] = ours["epochs"]
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"the checkpoint in {folder} belongs to another recipe: {flag(key)} is {theirs.get(key)!r} there, "
                f"{ours.get(key)!r} here"
            )
    if len(state["metrics"]) > recipe.epochs:
        raise UserError(
            f"the run in {folder} is at epoch {len(state['metrics'])} already, beyond --epochs {recipe.epochs}"
        )
    if state["processes"] != processes.count:
        raise UserError(f"the run in {folder} is of {state['processes']} processes, not {processes.count}")


def _build(recipe: Recipe, dataset: Dataset, folder: Path, processes: Processes) -> Run:
    """Build the pair with its first weights, which follow from the seed alone."""
    torch.manual_seed(derived_seed(recipe.seed, "weights"))
    model, guide = (half.to(processes.device) for half in recipe.pair(dataset.shape, dataset.attributes))
    examples = [] if dataset.is_table or recipe.explains == "y" else _examples(dataset.test)
    frames: dict[str, Any] = {"examples": examples, "epochs": [], "images": []}
    return Run(folder, recipe, dataset.to(processes.device), model, guide, [], frames, processes.count)


def _restore(run: Run, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go back to where a checkpoint was made."""
    try:
        _pair(run).load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"the checkpoint in {run.folder} does not fit the recipe: {first_line(error)}") from None
    run.metrics.extend(state["metrics"])
    run.frames.update(state["frames"])


def _pair(run: Run) -> nn.Module:
    """Both halves as one module, so that what they share is one entry wherever it is stored."""
    return nn.ModuleDict({"model": run.model, "guide": run.guide})


def _load_weights(pair: nn.Module, stored: dict[str, torch.Tensor]) -> None:
    """Load weights of which the file holds one name for each that both halves share.

    `safetensors.torch.load_model` does so too, but takes the step counter of a shared batch norm for a stranger.
    """
    own = pair.state_dict()
    shared = {own[name].data_ptr(): weight for name, weight in stored.items() if name in own}
    named = {name: shared[mine.data_ptr()] for name, mine in own.items() if mine.data_ptr() in shared}
    pair.load_state_dict(named | stored)


def _keep_books(run: Run, optimizer: torch.optim.Optimizer, epochs: Iterator[Epoch]) -> None:
    """After each epoch: a row of metrics, perhaps a frame of the animation, now and then a checkpoint."""
    last = run.recipe.epochs
    framed = {round(1 + k * (last - 1) / (FRAMES - 1)) for k in range(FRAMES)}
    saved = time.monotonic()
    with _interrupt_after_the_epoch() as interrupted:
        for epoch in epochs:
            run.metrics.append(_row(run, epoch))
            if epoch.number in framed and run.frames["examples"]:
                _keep_frame(run, epoch.number)
            if time.monotonic() - saved > CHECKPOINT_SECONDS or epoch.number == last or interrupted:
                _write_metrics(run)
                _save(run, optimizer)
                saved = time.monotonic()
            if interrupted:
                raise KeyboardInterrupt


@contextmanager
def _interrupt_after_the_epoch() -> Iterator[list[int]]:
    """Note the first Ctrl-C in the list that this gives, so that the epoch can end; the second interrupts at once."""
    interrupted: list[int] = []

    def note(number: int, frame: Any) -> None:
        if interrupted:
            raise KeyboardInterrupt
        interrupted.append(number)
        print("\nstopping at the end of this epoch (again: at once)", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _row(run: Run, epoch: Epoch) -> dict[str, float]:
    """One line of metrics.csv: the epoch's training terms, and validation's and test's after it."""
    row = {"epoch": epoch.number, "seconds": epoch.seconds}
    row |= {f"train_{name}": value for name, value in epoch.terms.items()}
    start = time.perf_counter()
    if run.recipe.explains == "x":
        row["train_mse"] = _evaluated(run, run.dataset.train[: len(run.dataset.validation)])["mse"]
    for name in ("validation", "test"):
        row |= {f"{name}_{term}": value for term, value in _figures_of(run, getattr(run.dataset, name)).items()}
    row["evaluation_seconds"] = time.perf_counter() - start
    return row


def _evaluated(run: Run, split: Split) -> dict[str, float]:
    """Evaluate the bound on a split, with as many data at a time as the particles allow."""
    recipe, batch_size = run.recipe, max(1, 1000 // run.recipe.particles)
    kinds = recipe.kinds if recipe.explains == "y" else None
    return evaluate(
        run.model,
        run.guide,
        recipe.bound(),
        split,
        recipe.pixels,
        kinds=kinds,
        attributes=run.attributes,
        batch_size=batch_size,
    )


def _figures_of(run: Run, split: Split) -> dict[str, float]:
    """Evaluate the bound on a split, and score its kinds where there are some."""
    recipe, figures = run.recipe, _evaluated(run, split)
    if recipe.kinds:
        inferred = infer_kinds(run.guide, split, recipe.pixels)
        if recipe.explains == "x":
            figures |= score(inferred, split.labels, recipe.kinds, named=recipe.labels > 0)
        elif split.labels is not None:
            figures |= agreement(inferred, split.labels)
    return figures


def _examples(test: Split) -> list[int]:
    """Index ten fixed test images: the first of each label, or simply the first ten."""
    if test.labels is None:
        return list(range(min(10, len(test))))
    return [int((test.labels == label).nonzero()[0]) for label in test.labels.unique()[:10]]


def _keep_frame(run: Run, epoch: int) -> None:
    """Keep what the pair makes of the ten examples now, as bytes."""
    with evaluation(run.model, run.guide):
        x = to_float(run.dataset.test.x[run.frames["examples"]], run.recipe.pixels)
        decoded = reconstruct(run.model, run.guide, x).clamp(0, 1)
    run.frames["epochs"].append(epoch)
    run.frames["images"].append((decoded * 255).to(torch.uint8).cpu())


def _progress(epochs: Iterator[Epoch], run: Run) -> Iterator[Epoch]:
    """Show a bar on a terminal, and a line now and then in a log."""
    recipe, unit, done = run.recipe, units(run, "elbo"), len(run.metrics)
    terminal, every = sys.stderr.isatty(), max(1, recipe.epochs // 20)
    with tqdm(total=recipe.epochs, initial=done, unit="epoch", desc=recipe.name, disable=not terminal) as bar:
        for epoch in epochs:
            line = ", ".join(f"{name} {value:.2f}" for name, value in epoch.terms.items() if name != "loss")
            bar.set_postfix_str(f"{line} {unit}", refresh=False)
            bar.update()
            if not terminal and (epoch.number % every == 0 or epoch.number == recipe.epochs):
                print(f"epoch {epoch.number}/{recipe.epochs}: {line} ({unit})", flush=True)
            yield epoch


def _write_metrics(run: Run) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[*run.metrics[0], "unit"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"unit": units(run, "elbo")} for row in run.metrics)
    write(run.folder / "metrics.csv", text.getvalue())


def _save(run: Run, optimizer: torch.optim.Optimizer) -> None:
    checkpoint.save(
        run.folder / "checkpoint.pt",
        {
            "recipe": run.recipe.as_json(),
            "processes": run.processes,
            "weights": _pair(run).state_dict(),
            "optimizer": optimizer.state_dict(),
            "metrics": run.metrics,
            "frames": run.frames,
        },
    )


def _finish(run: Run) -> None:
    """Write the weights, the final figures, the pictures and the page."""
    from pyro_models.report.outputs import write_pictures
    from pyro_models.report.page import refresh

    def write_weights(path: Path) -> None:
        try:
            safetensors.torch.save_model(_pair(run), str(path))
        except SafetensorError as error:
            raise OSError(str(error)) from None

    replace(run.folder / "model.safetensors", write_weights)
    stale_files = [run.folder / name for name in ("checks.json", "likelihood.npz", "compare.json")]
    for stale in (*stale_files, *(run.folder / "figures").glob("check-*.png")):
        stale.unlink(missing_ok=True)  # they are of the weights before
    test, validation = (_last_figures(run, split) for split in ("test", "validation"))
    if run.recipe.kinds and run.recipe.explains == "x":
        for figures, split in ((test, run.dataset.test), (validation, run.dataset.validation)):
            exact = evaluate(run.model, run.guide, ESTIMATORS["enum"], split, run.recipe.pixels, batch_size=200)
            figures["elbo_exact"] = exact["elbo"]
    if run.attributes:
        judged = three_cs(run)
        test |= judged["test"]
        validation |= judged["validation"]
    results: dict[str, Any] = {
        "recipe": run.recipe.name,
        "data": run.recipe.data,
        "pixels": run.recipe.pixels,
        "seed": run.recipe.seed,
        "epochs": run.recipe.epochs,
        "test": test,
        "validation": validation,
        "units": {name: units(run, name) for name in test},
        "images": {name: len(getattr(run.dataset, name)) for name in ("train", "validation", "test")},
        "seconds": round(sum(row["seconds"] + row["evaluation_seconds"] for row in run.metrics), 2),
        "command": run.recipe.command(run.processes),
        "versions": {"pyro-stories": __version__} | {name: version(name) for name in ("torch", "pyro-ppl")},
        "machine": _machine(run),
    }
    if run.attributes:
        results["attributes"] = _meanings(run)
    if run.recipe.kinds:
        _report_kinds(run)
        test_labels = run.dataset.test.labels
        if run.recipe.labels and test_labels is not None:
            inferred = infer_kinds(run.guide, run.dataset.test, run.recipe.pixels)
            results["classes"] = per_class(inferred, test_labels, run.recipe.kinds)
        if run.dataset.is_table and run.recipe.explains == "x":
            results["gaussian_mixture"] = gaussian_mixture(run.dataset, run.recipe.kinds, run.recipe.seed)
    write(run.folder / "results.json", json.dumps(results, indent=2, allow_nan=False) + "\n")
    print("test: " + ", ".join(f"{name} {value:.4g}" for name, value in test.items()), flush=True)
    write_pictures(run)
    refresh(run)


def _meanings(run: Run) -> dict[str, str]:
    """What each attribute's site is."""
    return {f"y{i}": f"{one.name} ({', '.join(one.values)})" for i, one in enumerate(run.attributes, 1)}


def _report_kinds(run: Run) -> None:
    """Say so where kinds have collapsed."""
    kinds = run.recipe.kinds
    idle = (~used(infer_kinds(run.guide, run.dataset.train, run.recipe.pixels), kinds)).nonzero()[:, 0].tolist()
    if idle:
        print(f"collapsed: next to no training data fall to {len(idle)} of {kinds} kinds ({', '.join(map(str, idle))})")


def _last_figures(run: Run, split: str) -> dict[str, float]:
    """Read a split's figures off the last row of metrics.csv, which was measured with the final weights."""
    return {name.removeprefix(f"{split}_"): value for name, value in run.metrics[-1].items() if name.startswith(split)}


def _machine(run: Run) -> dict[str, Any]:
    device = next(run.model.parameters()).device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
