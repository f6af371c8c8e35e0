"""A run: a recipe, trained in a folder that holds all there is to know of it."""

import csv
import io
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import nn
from tqdm import tqdm

from pyro_models.base.errors import UserError
from pyro_models.base.files import read_json, replace, write
from pyro_models.base.seeds import derived_seed
from pyro_models.criticism.metrics import evaluate, evaluation, reconstruct
from pyro_models.data import Batches, Dataset, Split, cut, load
from pyro_models.training import checkpoint
from pyro_models.training.fit import Epoch, NonFiniteTerm, cosine, fit, parameters
from pyro_models.training.options import Place, flag
from pyro_models.training.recipe import Recipe
from pyro_models.training.recipes import from_json

CHECKPOINT_SECONDS = 10.0
FRAMES = 40  # of the animation, spread over the epochs
UNITS = {"mse": "squared intensity per pixel"}
NATS = "nats per image"


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        folder: where.
        recipe: what was trained.
        dataset: on what.
        model, guide: the trained pair, in evaluation mode.
        metrics: the rows of metrics.csv.
    """

    folder: Path
    recipe: Recipe
    dataset: Dataset
    model: nn.Module
    guide: nn.Module
    metrics: list[dict[str, float]]
    frames: dict[str, Any]


def train(recipe: Recipe, place: Place) -> Path:
    """Train a recipe to its last epoch and return the run folder.

    Raises:
        UserError: the data, the folder or the device does not do; a term of the objective is not finite; the
            user interrupted it. Whatever a checkpoint holds is kept.
    """
    with _processes(place.device) as (device, rank, processes):
        dataset = load(recipe.data, data_dir=place.data_dir, pixels=recipe.pixels)
        _check_batch_size(recipe, dataset, processes)
        folder = _folder(recipe, place) if rank == 0 else place.out or Path()
        state = _state(recipe, place.out) if place.resume and place.out else None
        run, optimizer = _start(recipe, dataset, folder, device, state)
        batches = Batches(run.dataset.train, recipe.pixels, recipe.batch_size, recipe.seed, rank, processes)
        rate = cosine(recipe.learning_rate) if recipe.schedule == "cosine" else None
        objective = recipe.objective()
        keep = {round(1 + k * (recipe.epochs - 1) / (FRAMES - 1)) for k in range(FRAMES)}
        saved = time.monotonic()

        epochs = fit(
            run.model,
            run.guide,
            objective,
            optimizer,
            batches,
            epochs=recipe.epochs,
            done=len(run.metrics),
            seed=recipe.seed,
            learning_rate=rate,
        )
        try:
            for epoch in _progress(epochs, recipe, len(run.metrics), rank):
                if rank != 0:
                    continue
                run.metrics.append(_row(run, epoch))
                if epoch.number in keep:
                    _keep_frame(run, epoch.number)
                if time.monotonic() - saved > CHECKPOINT_SECONDS or epoch.number == recipe.epochs:
                    _write_metrics(run)
                    _save(run, optimizer)
                    saved = time.monotonic()
            if rank == 0:
                _finish(run)
                print(f"report: {folder / 'report.html'}\nrun folder: {folder}")
        except NonFiniteTerm as error:
            raise UserError(f"{error}; the checkpoint before it is kept in {folder}") from None
        except KeyboardInterrupt:
            raise UserError(f"stopped; go on with: {recipe.name} --out {folder} --resume", exit_code=130) from None
    return folder


def open_run(folder: Path, *, data_dir: Path | None = None, device: str = "cpu") -> Run:
    """Open a finished run.

    Raises:
        UserError: the folder holds none, or its weights do not fit its recipe.
    """
    if not (folder / "recipe.json").is_file():
        raise UserError(f"{folder} is no run folder: it holds no recipe.json")
    recipe = from_json(read_json(folder / "recipe.json"))
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"the run in {folder} is not finished: continue it with --out {folder} --resume")
    dataset = load(recipe.data, data_dir=data_dir, pixels=recipe.pixels)
    run, _ = _start(recipe, dataset, folder, torch.device(device), _state(recipe, folder))
    try:
        safetensors.torch.load_model(_pair(run), folder / "model.safetensors", device=device)
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot read the weights in {folder}: {reason}") from None
    run.model.eval()
    run.guide.eval()
    return run


@contextmanager
def _processes(choice: str) -> Iterator[tuple[torch.device, int, int]]:
    """Join the other processes under torchrun: this one's device, its rank, and how many there are."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; use --device cpu")
    kind = "cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu"
    if "RANK" not in os.environ:
        yield torch.device(kind), 0, 1
        return
    device = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(kind)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield device, dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def _check_batch_size(recipe: Recipe, dataset: Dataset, processes: int) -> None:
    if recipe.batch_size > len(dataset.train):
        raise UserError(f"--batch-size {recipe.batch_size} is more than the {len(dataset.train)} training images")
    if recipe.batch_size % processes:
        raise UserError(f"--batch-size {recipe.batch_size} does not divide among {processes} processes")


def _folder(recipe: Recipe, place: Place) -> Path:
    """Make the run folder, or clear the old run out of it, as far as the options allow."""
    folder = place.out or _next_folder(Path("runs"), f"{recipe.name}-{Path(recipe.data).stem}")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file, not a folder")
    if not place.resume and folder.is_dir() and any(folder.iterdir()):
        if not place.overwrite:
            raise UserError(f"{folder} is not empty: give another --out, or --overwrite, or --resume")
        if not (folder / "recipe.json").is_file():
            raise UserError(f"{folder} holds something that is not a run: it is not overwritten")
        for name in (
            "recipe.json",
            "metrics.csv",
            "results.json",
            "model.safetensors",
            "checkpoint.pt",
            "report.html",
        ):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "figures", ignore_errors=True)
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None
    write(folder / "recipe.json", json.dumps(recipe.as_json(), indent=2) + "\n")
    return folder


def _next_folder(runs: Path, stem: str) -> Path:
    taken = {path.name for path in runs.glob(f"{stem}-*")}
    return runs / next(name for number in range(1, len(taken) + 2) if (name := f"{stem}-{number}") not in taken)


def _state(recipe: Recipe, folder: Path) -> dict[str, Any] | None:
    """Read the checkpoint in a folder, if it has one yet."""
    path = folder / "checkpoint.pt"
    if not path.exists():
        return None
    state = checkpoint.load(path)
    ours, theirs = recipe.as_json(), dict(state["recipe"])
    theirs["epochs"] = ours["epochs"]
    for key in ours.keys() | theirs.keys():
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"{path} belongs to another recipe: {flag(key)} is {theirs.get(key)!r} there, {ours.get(key)!r} here"
            )
    if state["epoch"] > recipe.epochs:
        raise UserError(f"the run in {folder} is at epoch {state['epoch']} already, beyond --epochs {recipe.epochs}")
    return state


def _start(
    recipe: Recipe, dataset: Dataset, folder: Path, device: torch.device, state: dict[str, Any] | None
) -> tuple[Run, torch.optim.Optimizer]:
    """Build the pair and its optimiser, as new or as a checkpoint left them."""
    torch.manual_seed(derived_seed(recipe.seed, "weights"))
    model, guide = recipe.pair(dataset.image_shape)
    model.to(device)
    guide.to(device)
    frames: dict[str, Any] = {"examples": _examples(dataset.test), "epochs": [], "images": []}
    run = Run(folder, recipe, dataset.to(device), model, guide, [], frames)
    optimizer = torch.optim.Adam(parameters(model, guide), lr=recipe.learning_rate, fused=True)
    if state is not None:
        _pair(run).load_state_dict(state["weights"])
        optimizer.load_state_dict(state["optimizer"])
        run.metrics.extend(state["metrics"])
        run.frames.update(state["frames"])
    return run, optimizer


def _pair(run: Run) -> nn.Module:
    """Both halves as one module, so that what they share is one entry wherever it is stored."""
    return nn.ModuleDict({"model": run.model, "guide": run.guide})


def _row(run: Run, epoch: Epoch) -> dict[str, float]:
    """One line of metrics.csv: the epoch's training terms, and validation's and test's after it."""
    row = {"epoch": epoch.number, "seconds": epoch.seconds}
    row |= {f"train_{name}": value for name, value in epoch.terms.items()}
    start = time.perf_counter()
    for split in ("validation", "test"):
        row |= {f"{split}_{name}": value for name, value in _figures_of(run, split).items()}
    row["evaluation_seconds"] = time.perf_counter() - start
    return row


def _figures_of(run: Run, split: str) -> dict[str, float]:
    return evaluate(run.model, run.guide, run.recipe.objective(), getattr(run.dataset, split), run.recipe.pixels)


def _examples(test: Split) -> list[int]:
    """Index ten fixed test images: the first of each label, or simply the first ten."""
    if test.labels is None:
        return list(range(10))
    return [int((test.labels == label).nonzero()[0]) for label in test.labels.unique()[:10]]


def _keep_frame(run: Run, epoch: int) -> None:
    """Keep what the pair makes of the ten examples now, as bytes."""
    with evaluation(run.model, run.guide):
        x = cut(run.dataset.test.images[run.frames["examples"]], run.recipe.pixels)
        decoded = reconstruct(run.model, run.guide, x).clamp(0, 1)
    run.frames["epochs"].append(epoch)
    run.frames["images"].append((decoded * 255).to(torch.uint8).cpu())


def _progress(epochs: Iterator[Epoch], recipe: Recipe, done: int, rank: int) -> Iterator[Epoch]:
    """Show a bar on a terminal, and a line now and then in a log."""
    terminal = sys.stderr.isatty()
    bar = tqdm(total=recipe.epochs, initial=done, unit="epoch", desc=recipe.name, disable=rank != 0 or not terminal)
    every = max(1, recipe.epochs // 20)
    with bar:
        for epoch in epochs:
            line = ", ".join(f"{name} {value:.2f}" for name, value in epoch.terms.items() if name != "loss")
            bar.set_postfix_str(f"{line} {NATS}, {recipe.pixels}", refresh=False)
            bar.update()
            if not terminal and rank == 0 and (epoch.number % every == 0 or epoch.number == recipe.epochs):
                print(
                    f"epoch {epoch.number}/{recipe.epochs}: {line} ({NATS}, {recipe.pixels} pixels)",
                    flush=True,
                )
            yield epoch


def _write_metrics(run: Run) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(run.metrics[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(run.metrics)
    write(run.folder / "metrics.csv", text.getvalue())


def _save(run: Run, optimizer: torch.optim.Optimizer) -> None:
    checkpoint.save(
        run.folder / "checkpoint.pt",
        {
            "recipe": run.recipe.as_json(),
            "epoch": len(run.metrics),
            "weights": _pair(run).state_dict(),
            "optimizer": optimizer.state_dict(),
            "metrics": run.metrics,
            "frames": run.frames,
        },
    )


def _finish(run: Run) -> None:
    """Write the weights, the final figures, the pictures and the page."""
    from pyro_models.criticism.report import write_pictures, write_report

    def write_weights(path: Path) -> None:
        try:
            safetensors.torch.save_model(_pair(run), str(path))
        except SafetensorError as error:
            raise OSError(str(error)) from None

    replace(run.folder / "model.safetensors", write_weights)
    test = _figures_of(run, "test")
    results: dict[str, Any] = {
        "recipe": run.recipe.name,
        "data": run.recipe.data,
        "pixels": run.recipe.pixels,
        "seed": run.recipe.seed,
        "epochs": run.recipe.epochs,
        "test": test,
        "validation": _figures_of(run, "validation"),
        "images": {split: len(getattr(run.dataset, split)) for split in ("train", "validation", "test")},
        "seconds": round(sum(row["seconds"] + row["evaluation_seconds"] for row in run.metrics), 2),
        "command": "python " + shlex.join(sys.argv),
        "versions": {name: version(name) for name in ("torch", "pyro-ppl", "pyro-stories")},
        "machine": _machine(run),
    }
    results["units"] = {name: UNITS.get(name, f"{NATS}, {run.recipe.pixels} pixels") for name in test}
    write(run.folder / "results.json", json.dumps(results, indent=2) + "\n")
    write_pictures(run)
    write_report(run, results)


def _machine(run: Run) -> dict[str, Any]:
    device = next(run.model.parameters()).device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
