"""One recipe trained in a run folder, from its first epoch or from a checkpoint, and its results written there."""

import json
import os
import platform
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from math import nextafter
from pathlib import Path
from typing import Any

import torch
from pyro.nn import PyroModule
from tqdm import tqdm

from pyro_models import __version__
from pyro_models.base.errors import UserError
from pyro_models.base.files import write
from pyro_models.base.names import command
from pyro_models.data import Batches, Dataset
from pyro_models.metrics import eval_mode, reconstruct
from pyro_models.objectives import Scheduled, modules_of
from pyro_models.recipes import Recipe
from pyro_models.runs.folder import (
    Run,
    best_epoch,
    build,
    initial_weights,
    is_over,
    leg,
    prepare,
    restore,
    save_checkpoint,
    save_weights,
    starting_run,
    teacher,
)
from pyro_models.runs.options import RunOptions
from pyro_models.runs.origin import provenance
from pyro_models.training.loop import Epoch, NonFiniteTerm, fit, parameters
from pyro_models.training.processes import Processes, distributed_session
from pyro_models.training.schedules import check_optimizer, cosine, optimizer_of, schedule_of
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
        # All that can be refused is, before a folder is made.
        recipe.check_data(dataset)
        dataset = dataset.to(processes.device)
        batches = recipe.batches(dataset, rank=processes.rank, processes=processes.count)
        _check_hooks(recipe, options, processes)
        started = options.resume and options.out is not None and (options.out / "checkpoint.pt").exists()
        processes.first_alone(partial(starting_run, recipe, dataset))
        first_weights = None if started else processes.first_alone(partial(initial_weights, recipe, dataset))
        folder, recipe, state = processes.from_first(partial(prepare, recipe, options, processes, dataset))
        run = build(recipe, dataset, folder, processes)
        run.frames["examples"] = recipe.examples(dataset)
        optimizer = optimizer_of(recipe.optimizer, parameters(run.model, run.guide), recipe.learning_rate)
        if state is not None:
            restore(run, optimizer, state)
        elif first_weights is not None:
            run.pair.load_state_dict(first_weights)
        was_compiled = state is not None and state.get("compiled", False)  # the same bits need the same steps
        epochs = epochs_of(
            run, batches, optimizer, "on" if was_compiled and options.compile == "auto" else options.compile
        )
        try:
            if processes.rank > 0:
                for _ in epochs:
                    if recipe.early_stopping and processes.from_first(lambda: False):
                        break
                return None
            _introduce(run)
            _record(run, optimizer, _progress(epochs, run), processes, options.log)
            _finish(run)
        except NonFiniteTerm as error:
            left = (
                "the checkpoint before it is kept" if (folder / "checkpoint.pt").exists() else "there is no checkpoint"
            )
            advice = f"try a `learning_rate` below {recipe.learning_rate:g}"
            raise UserError(f"{error}: {left} in {folder}; {advice}", 1) from None
        except KeyboardInterrupt:
            words = [recipe.name, "--out", str(folder), "--resume"]
            words += ["--data-dir", str(options.data_dir)] if options.data_dir else []
            has = (folder / "checkpoint.pt").exists() and processes.rank == 0
            kept = f"stopped, with the checkpoint that {folder} holds" if has else "stopped"
            raise UserError(f"{kept}; continue with: {command('train')} {shlex.join(words)}", 130) from None
    return run


def _check_hooks(recipe: Recipe, options: RunOptions, processes: Processes) -> None:
    """Refuse a schedule, an optimiser, a logger or a precision that torch or this machine does not have."""
    check_optimizer(recipe.optimizer, recipe.learning_rate)
    schedule_of(recipe.schedule, recipe.learning_rate, recipe.epochs)
    if recipe.amp and processes.device.type != "cuda":
        raise UserError("`amp=True` is for a GPU: on this device bfloat16 would be slower than single precision")
    if options.log == "tensorboard" and find_spec("tensorboard") is None:
        raise UserError("`log=tensorboard` needs a package: pip install 'pyro-stories[tensorboard]'")


def epochs_of(
    run: Run, batches: Batches, optimizer: torch.optim.Optimizer | None = None, compile: Compile = "auto"
) -> Iterator[Epoch]:
    """Train a run as its recipe says, from its last row of metrics on: an epoch for each `next`, and nothing recorded.

    Raises:
        NonFiniteTerm: as `fit`.
    """
    recipe, (first, peak) = run.recipe, leg(run.recipe)
    objective = recipe.training_objective(run.guide, run.dataset.train, teacher(recipe, run.dataset))
    schedule = schedule_of(recipe.schedule, peak, recipe.epochs)
    if first:
        share = recipe.epochs / (recipe.epochs - first)
        schedule = lambda progress: cosine(peak)(max(0.0, 1.0 - share * (1.0 - progress)))  # noqa: E731
        if isinstance(objective, Scheduled):  # which has come to its end
            objective = objective.at(nextafter(1.0, 0.0))
    if recipe.amp:
        objective = _in_bfloat16(objective)
    return fit(
        run.model,
        run.guide,
        batches,
        objective,
        optimizer or optimizer_of(recipe.optimizer, parameters(run.model, run.guide), peak),
        epochs=len(run.metrics) if is_over(recipe, run.metrics) else recipe.epochs,
        done=len(run.metrics),
        seed=recipe.seed,
        learning_rate=schedule,
        compile="off" if recipe.amp else compile,
    )


def _load(recipe: Recipe, options: RunOptions) -> Dataset:
    """Load the data: those that a run was begun on, where one is continued, wherever they lie by now."""
    folder = options.out
    if options.resume and folder is not None and (folder / "data.json").is_file():
        recipe = provenance(folder, recipe).located(recipe)
    return recipe.load(options.data_dir)


def _introduce(run: Run) -> None:
    """Say what is trained on what, and in which units."""
    recipe, dataset, folder = run.recipe, run.dataset, run.folder
    sizes = ", ".join(f"{len(split)} {name}" for name, split in dataset.parts.items())
    say(folder, f"data: {dataset.name}, {sizes}")
    for note in dataset.notes:
        say(folder, f"data: {note}")
    for site, meaning in recipe.legend(dataset).items():
        say(folder, f"{site}: {meaning}")
    say(folder, f"terms: {recipe.unit_of('elbo', dataset)}")
    say(folder, f"run folder: {folder}")
    if recipe.initial_weights and not run.metrics:
        say(folder, f"starting from the weights of the run in {recipe.initial_weights}")
    if run.metrics:
        say(folder, f"continuing after epoch {len(run.metrics)} of the run in {folder}")
    if run.metrics and len(run.metrics) == leg(recipe)[0]:
        say(folder, f"a fresh cosine to epoch {recipe.epochs}, from a step size of {leg(recipe)[1]:g}")


def say(folder: Path, line: str, *, shown: bool = True) -> None:
    """Print a line at once, and add it to the run's log.txt."""
    if shown:
        print(line, flush=True)
    with suppress(OSError), (folder / "log.txt").open("a") as log:
        log.write(line + "\n")


def _record(
    run: Run, optimizer: torch.optim.Optimizer, epochs: Iterator[Epoch], processes: Processes, log: str
) -> None:
    """After each epoch: a row of metrics, perhaps a frame of the animation, now and then a checkpoint."""
    recipe, last = run.recipe, run.recipe.epochs
    framed = {round(1 + k * (last - 1) / (FRAMES - 1)) for k in range(FRAMES)}
    saved = time.monotonic()
    with _interrupt_after_the_epoch() as interrupted, _tensorboard(run.folder, log) as writer:
        for epoch in epochs:
            run.metrics.append(_row(run, epoch) | {"learning_rate": optimizer.param_groups[0]["lr"]})
            if recipe.keep == "best" and best_epoch(run.metrics) == epoch.number:
                run.best.update({name: weight.clone() for name, weight in run.pair.state_dict().items()})
            if epoch.number in framed and run.frames["examples"]:
                _keep_frame(run, epoch.number)
            if writer:
                for name, value in run.metrics[-1].items():
                    part, _, rest = name.partition("_")
                    tag = f"{part}/{rest}" if part in ("train", "validation", "test") else name
                    writer.add_scalar(tag, value, epoch.number)
            over = is_over(recipe, run.metrics)
            if time.monotonic() - saved > CHECKPOINT_SECONDS or over or interrupted:
                save_checkpoint(run, optimizer, epoch.compiled)
                saved = time.monotonic()
            if recipe.early_stopping and processes.from_first(partial(bool, over)):
                break
            if interrupted:
                raise KeyboardInterrupt


def _tensorboard(folder: Path, log: str) -> Any:
    """Return a writer for TensorBoard in a run folder, or None where none is wanted."""
    if log != "tensorboard":
        return nullcontext()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))


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
    """One line of metrics.csv: the epoch's training terms and, where it is evaluated, the scores after it."""
    row = {"epoch": epoch.number, "seconds": epoch.seconds}
    row |= {f"train_{name}": value for name, value in epoch.terms.items()}
    start, recipe = time.perf_counter(), run.recipe
    if recipe.evaluates(epoch.number):
        row |= {f"train_{name}": value for name, value in recipe.training_scores(run).items()}
        parts = {"validation": recipe.watched(run.dataset)}
        if recipe.evaluate_on is None:
            parts["test"] = run.dataset.test
        for split, part in parts.items():
            row |= {f"{split}_{name}": value for name, value in recipe.scores(run, part).items()}
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
    """Show a bar on a terminal, else a line now and then, and a line for each epoch in the run's log.txt."""
    recipe, done, start = run.recipe, len(run.metrics), time.monotonic()
    terminal, every = sys.stderr.isatty(), max(1, recipe.epochs // 20)
    with tqdm(total=recipe.epochs, initial=done, unit="epoch", desc=recipe.name, disable=not terminal) as bar:
        for epoch in epochs:
            line = ", ".join(f"{name} {value:.2f}" for name, value in epoch.terms.items() if name != "loss")
            bar.set_postfix_str(line, refresh=False)
            bar.update()
            left = (time.monotonic() - start) / (epoch.number - done) * (recipe.epochs - epoch.number)
            seconds = f"{epoch.seconds:.3g} s, {_duration(left)} left"
            shown = not terminal and (epoch.number % every == 0 or epoch.number in (done + 1, recipe.epochs))
            say(run.folder, f"epoch {epoch.number}/{recipe.epochs}: {line}; {seconds}", shown=shown)
            yield epoch


def _duration(seconds: float) -> str:
    """Spell a time.

    >>> _duration(42.3), _duration(600), _duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _in_bfloat16(objective: Any) -> Any:
    """Compute an objective's networks in bfloat16, and its densities in single precision."""
    if isinstance(objective, Scheduled):
        return Scheduled(lambda progress: _in_bfloat16(objective.at(progress)))

    def in_bfloat16(model: Any, guide: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        with autocast_networks(*modules_of(model, guide)):
            return objective(model, guide, *args, **kwargs)

    return in_bfloat16


@contextmanager
def autocast_networks(*modules: torch.nn.Module, device: str = "cuda") -> Iterator[None]:
    """Let the networks of a pair, those of its parts that are no Pyro modules, compute in bfloat16.

    >>> layer = torch.nn.Linear(1, 1)
    >>> with autocast_networks(layer, device="cpu"):
    ...     layer(torch.tensor([[1.0 + 2**-12]])).dtype
    torch.float32
    """

    def networks(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
        if not isinstance(module, PyroModule):
            yield module
            return
        for child in module.children():
            yield from networks(child)

    def patch(forward: Any) -> Any:
        def patched(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(device, dtype=torch.bfloat16):
                out = forward(*args, **kwargs)
            return out.float() if isinstance(out, torch.Tensor) else type(out)(each.float() for each in out)

        return patched

    patched = list(dict.fromkeys(network for module in modules for network in networks(module)))
    for network in patched:
        network.forward = patch(network.forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for network in patched:
            del network.forward


def _finish(run: Run) -> None:
    """Write the weights and the final scores."""
    recipe = run.recipe
    say(run.folder, "evaluating ...")
    if run.best:
        run.pair.load_state_dict(run.best)
        say(run.folder, f"kept: the weights of epoch {best_epoch(run.metrics)}, whose validation ELBO is the highest")
    save_weights(run)
    splits = {split: _last_scores(run, split) for split in ("test", "validation")}
    for split, scores in recipe.final_scores(run).items():
        splits[split] |= scores
    results: dict[str, Any] = {
        "recipe": recipe.name,
        "data": str(recipe.data),
        "pixels": recipe.pixels,
        "seed": recipe.seed,
        "epochs": len(run.metrics),
        **splits,
        "units": {name: recipe.unit_of(name, run.dataset) for name in splits["test"]},
        "images": {name: len(part) for name, part in run.dataset.parts.items()},
        "seconds": round(sum(row["seconds"] + row["evaluation_seconds"] for row in run.metrics), 2),
        "command": recipe.command(run.processes),
        "versions": {"pyro-stories": __version__} | {name: version(name) for name in ("torch", "pyro-ppl")},
        "machine": _machine(run),
        **recipe.details(run),
    }
    if run.best:
        results["kept_epoch"] = best_epoch(run.metrics)
    for remark in recipe.remarks(run):
        say(run.folder, remark)
    write(run.folder / "results.json", json.dumps(results, indent=2, allow_nan=False) + "\n")
    if recipe.fixes_epochs:  # else the longer run is continued from the optimiser's state
        save_checkpoint(run, None)
    say(run.folder, "test: " + ", ".join(f"{name} {value:.4g}" for name, value in splits["test"].items()))
    run.model.eval()
    run.guide.eval()


def _last_scores(run: Run, split: str) -> dict[str, float]:
    """Return the scores of a split: where it was evaluated whole, off the row of metrics.csv of the final weights."""
    if run.recipe.evaluate_on is not None:
        return run.recipe.scores(run, run.dataset.parts[split])
    row = run.metrics[best_epoch(run.metrics) - 1 if run.best else -1]
    return {name.removeprefix(f"{split}_"): value for name, value in row.items() if name.startswith(split)}


def _machine(run: Run) -> dict[str, Any]:
    device = next(run.model.parameters()).device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }
