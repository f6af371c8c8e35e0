"""Several processes, started as torchrun starts them, and killed."""

import os
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pyro_models import report
from pyro_models.cli.train import main
from pyro_models.data import Batches, load, to_float
from pyro_models.recipes import AutoencoderRecipe
from pyro_models.runs import folder as folder_module
from pyro_models.runs import trainer
from pyro_models.training.loop import fit, parameters
from pyro_models.training.processes import distributed_session
from tests.runs.test_run import OPTIONS, assert_same_run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("quick")


CONTEXT = get_context("forkserver")


@pytest.fixture(autouse=True)
def server(monkeypatch):
    """Processes are forked off one that has imported this file, and what optimisers import, already."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    CONTEXT.set_forkserver_preload([__name__, "torch._dynamo"])


def in_both(work, *args):
    """Run a function in two processes, as torchrun runs a program."""
    config = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="forkserver")
    elastic_launch(config, work)(*args)


def train(words, ranks):
    """Run train.py, keep the weights of this process, and leave no thread behind: one can abort the exit.

    Linux names the threads of a group."""
    trainer.CHECKPOINT_SECONDS = 0.0
    report.publish = lambda run: None
    build, runs = trainer.build, []

    def keep(*args):
        runs.append(build(*args))
        return runs[-1]

    trainer.build = keep
    assert main(words) == 0
    torch.save(runs[0].pair.state_dict(), ranks / f"{os.environ['RANK']}.pt")
    assert_no_group_is_left()


def assert_no_group_is_left():
    names = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in names), names


def test_two_processes_train_one_model(tmp_path):
    """One folder, and ranks identical; resumed after an epoch it is the same model."""

    def assert_ranks_are_identical():
        first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)

    words = [*OPTIONS, "--schedule", "constant", "--out"]
    folder, resumed = tmp_path / "run", tmp_path / "resumed"
    in_both(train, [*words, str(folder), "--epochs", "2"], tmp_path)
    assert_ranks_are_identical()
    assert len((folder / "metrics.csv").read_text().splitlines()) == 3
    in_both(train, [*words, str(resumed), "--epochs", "1"], tmp_path)
    in_both(train, ["vae", "--epochs", "2", "--out", str(resumed), "--resume"], tmp_path)
    assert_same_run(folder, resumed)
    assert_ranks_are_identical()


def descend(path):
    """Train a deterministic auto-encoder by an epoch of plain gradient descent, and keep its weights."""
    torch.set_default_dtype(torch.float64)
    with distributed_session("cpu") as processes:
        torch.manual_seed(0)
        recipe, data = AutoencoderRecipe(network="simple"), load("digits")
        pair = recipe.pair(data)
        batches = Batches(
            data.train,
            size=128,
            to_batch=lambda rows: {"x": to_float(rows.x, "grey")},
            rank=processes.rank,
            processes=processes.count,
        )
        optimizer = torch.optim.SGD(parameters(*pair), lr=1e-3)
        list(fit(*pair, batches, recipe.bound(), optimizer, epochs=1))
        if processes.rank == 0:
            torch.save(parameters(*pair), path)


def test_averaged_gradients_are_those_of_the_whole_batch(tmp_path):
    """Plain gradient descent on the deterministic auto-encoder: two processes reach the weights that one reaches."""
    descend(tmp_path / "one")
    in_both(descend, tmp_path / "two")
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    for alone, shared in zip(one, two, strict=True):
        torch.testing.assert_close(shared, alone, rtol=1e-9, atol=1e-12)


def train_slowly(words):
    trainer.CHECKPOINT_SECONDS = 0.0
    save = folder_module.checkpoint.save

    def slow(*args):
        save(*args)
        time.sleep(1.0)

    folder_module.checkpoint.save = slow
    main(words)


def test_a_killed_process_is_resumed_to_the_bit(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    words = [*OPTIONS, "--epochs", "3", "--out"]
    assert main([*words, str(whole)]) == 0
    process = CONTEXT.Process(target=train_slowly, args=([*words, str(folder)],))
    process.start()
    deadline = time.monotonic() + 60
    while not (folder / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "results.json").exists()
    assert main(["vae", "--out", str(folder), "--resume"]) == 0
    assert_same_run(whole, folder)
