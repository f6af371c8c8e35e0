"""One recipe trained in a run folder, from its first epoch or from a checkpoint, and its results written there."""

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
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from tqdm import tqdm

from pyro_models import __version__
from pyro_models.base.errors import UserError
from pyro_models.base.files import write
from pyro_models.data import Batches, Dataset
from pyro_models.metrics import eval_mode, reconstruct
from pyro_models.recipes import Recipe
from pyro_models.runs.folder import Run, build, prepare, restore, save_checkpoint, save_weights
from pyro_models.runs.options import RunOptions
from pyro_models.runs.origin import provenance
from pyro_models.training.fit import Epoch, NonFiniteTerm, fit, parameters
from pyro_models.training.processes import distributed_session
from pyro_models.training.schedules import cosine, stages
from pyro_models.training.steps import Compile

CHECKPOINT_SECONDS = 10.0
FRAMES = 40  # of the animation, spread over the epochs


def train(recipe: Recipe, options: RunOptions) -> Run | None:
    """Train a recipe to its last epoch, write its weights and results.json, and return the finished run.

    Args:
        recipe: what to train.
        options: where, and on which device.

    Returns:
        the run, its pair in evaluation mode; None in all processes but the first.

    Raises:
        UserError: the data, the folder or the device cannot be used; a term of the objective is not finite; the user
            interrupted it. A checkpoint that was written is kept.
    """
    with distributed_session(options.device) as processes:
        dataset = processes.first_alone(partial(_load, recipe, options))
        recipe.check_data(dataset)
        dataset = dataset.to(processes.device)
        batches = recipe.batches(
            dataset, rank=processes.rank, processes=processes.count
        )  # refused before a folder is made
        folder, state = processes.from_first(partial(prepare, recipe, options, processes, dataset))
        run = build(recipe, dataset, folder, processes)
        run.frames["examples"] = recipe.examples(dataset)
        optimizer = adam(run)
        if state is not None:
            restore(run, optimizer, state)
        was_compiled = state is not None and state.get("compiled", False)  # the same bits need the same steps
        epochs = epochs_of(
            run, batches, optimizer, "on" if was_compiled and options.compile == "auto" else options.compile
        )
        try:
            if processes.rank > 0:
                deque(epochs, maxlen=0)
                return None
            for note in dataset.notes:
                print(f"data: {note}", flush=True)
            if run.metrics:
                print(f"continuing after epoch {len(run.metrics)} of the run in {folder}", flush=True)
            for site, meaning in recipe.legend(run.dataset).items():
                print(f"{site}: {meaning}", flush=True)
            _record(run, optimizer, _progress(epochs, run))
            _finish(run)
        except NonFiniteTerm as error:
            raise UserError(f"{error}; the checkpoint before it is kept in {folder}") from None
        except KeyboardInterrupt:
            words = ["python", "train.py", recipe.name, "--out", str(folder), "--resume"]
            words += ["--data-dir", str(options.data_dir)] if options.data_dir else []
            kept = f"stopped, with the checkpoint that {folder} holds" if processes.rank == 0 else "stopped"
            raise UserError(f"{kept}; continue with: {shlex.join(words)}", exit_code=130) from None
    return run


def adam(run: Run) -> torch.optim.Optimizer:
    """Return the optimiser of all that a run trains."""
    return torch.optim.Adam(parameters(run.model, run.guide), lr=run.recipe.learning_rate, fused=True)


def epochs_of(
    run: Run, batches: Batches, optimizer: torch.optim.Optimizer | None = None, compile: Compile = "auto"
) -> Iterator[Epoch]:
    """Train a run as its recipe says, from its last row of metrics on: an epoch for each `next`, and nothing recorded.

    Raises:
        NonFiniteTerm: as `fit`.
    """
    recipe = run.recipe
    schedules = {"cosine": cosine(recipe.learning_rate), "stages": stages(recipe.learning_rate)}
    return fit(
        run.model,
        run.guide,
        batches,
        recipe.training_objective(run.guide, run.dataset.train),
        optimizer or adam(run),
        epochs=recipe.epochs,
        done=len(run.metrics),
        seed=recipe.seed,
        learning_rate=schedules.get(recipe.schedule),
        compile=compile,
    )


def _load(recipe: Recipe, options: RunOptions) -> Dataset:
    """Load the data: those that a run was begun on, where one is continued, wherever they lie by now."""
    folder = options.out
    if options.resume and folder is not None and (folder / "data.json").is_file():
        recipe = provenance(folder, recipe).located(recipe)
    return recipe.load(options.data_dir)


def _record(run: Run, optimizer: torch.optim.Optimizer, epochs: Iterator[Epoch]) -> None:
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
                save_checkpoint(run, optimizer, epoch.compiled)
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
    """One line of metrics.csv: the epoch's training terms, and validation's and test's scores after it."""
    row = {"epoch": epoch.number, "seconds": epoch.seconds}
    row |= {f"train_{name}": value for name, value in epoch.terms.items()}
    start = time.perf_counter()
    row |= {f"train_{name}": value for name, value in run.recipe.training_scores(run).items()}
    for split in ("validation", "test"):
        scores = run.recipe.scores(run, run.dataset.parts[split])
        row |= {f"{split}_{name}": value for name, value in scores.items()}
    row["evaluation_seconds"] = time.perf_counter() - start
    return row


def _keep_frame(run: Run, epoch: int) -> None:
    """Keep the reconstructions of the examples, as bytes."""
    with eval_mode(run.model, run.guide):
        batch = run.recipe.inputs_of(run.recipe.batch(run.dataset, run.dataset.test[run.frames["examples"]]))
        images = reconstruct(run.model, run.guide, batch).clamp(0, 1)
    run.frames["epochs"].append(epoch)
    run.frames["images"].append((images * 255).to(torch.uint8).cpu())


def _progress(epochs: Iterator[Epoch], run: Run) -> Iterator[Epoch]:
    """Show a bar on a terminal, and a line now and then in a log."""
    recipe, unit, done = run.recipe, run.recipe.unit_of("elbo", run.dataset), len(run.metrics)
    terminal, every = sys.stderr.isatty(), max(1, recipe.epochs // 20)
    with tqdm(total=recipe.epochs, initial=done, unit="epoch", desc=recipe.name, disable=not terminal) as bar:
        for epoch in epochs:
            line = ", ".join(f"{name} {value:.2f}" for name, value in epoch.terms.items() if name != "loss")
            bar.set_postfix_str(f"{line} {unit}", refresh=False)
            bar.update()
            if not terminal and (epoch.number % every == 0 or epoch.number == recipe.epochs):
                print(f"epoch {epoch.number}/{recipe.epochs}: {line} ({unit})", flush=True)
            yield epoch


def _finish(run: Run) -> None:
    """Write the weights and the final scores."""
    recipe = run.recipe
    save_weights(run)
    splits = {split: _last_scores(run, split) for split in ("test", "validation")}
    for split, scores in recipe.final_scores(run).items():
        splits[split] |= scores
    results: dict[str, Any] = {
        "recipe": recipe.name,
        "data": str(recipe.data),
        "pixels": recipe.pixels,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        **splits,
        "units": {name: recipe.unit_of(name, run.dataset) for name in splits["test"]},
        "images": {name: len(part) for name, part in run.dataset.parts.items()},
        "seconds": round(sum(row["seconds"] + row["evaluation_seconds"] for row in run.metrics), 2),
        "command": recipe.command(run.processes),
        "versions": {"pyro-stories": __version__} | {name: version(name) for name in ("torch", "pyro-ppl")},
        "machine": _machine(run),
        **recipe.details(run),
    }
    for remark in recipe.remarks(run):
        print(remark)
    write(run.folder / "results.json", json.dumps(results, indent=2, allow_nan=False) + "\n")
    print("test: " + ", ".join(f"{name} {value:.4g}" for name, value in splits["test"].items()), flush=True)
    run.model.eval()
    run.guide.eval()


def _last_scores(run: Run, split: str) -> dict[str, float]:
    """Read a split's scores off the last row of metrics.csv, which was measured with the final weights."""
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
