"""Several processes, started and killed: under torchrun, and forked off one that has imported torch already."""

import os
import signal
import socket
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from pyro_models.cli.train import main
from pyro_models.data import Batches, load, to_float
from pyro_models.recipes import AutoencoderRecipe
from pyro_models.report import pictures
from pyro_models.runs import folder as folder_module
from pyro_models.runs import trainer
from pyro_models.training.fit import fit, parameters
from pyro_models.training.processes import distributed_session
from tests.runs.test_run import OPTIONS, assert_same_run

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def start(monkeypatch):
    """Start a process that runs a function of this file."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # which optimisers import

    def run(work, *args):
        process = context.Process(target=work, args=args)
        process.start()
        return process

    return run


@pytest.fixture
def in_both(start):
    """Run a function in two processes that are told of each other as torchrun tells them."""

    def run(work, *args):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        both = [start(as_rank, rank, port, work, *args) for rank in (0, 1)]
        for process in both:
            process.join(300)
        assert [process.exitcode for process in both] == [0, 0]

    return run


def as_rank(rank, port, work, *args):
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    told |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in told.items()}
    work(*args)


def train(words, ranks):
    """Run train.py, keep the weights of this process, and leave no thread behind: one can abort the exit.

    Linux names the threads of a group."""
    trainer.CHECKPOINT_SECONDS = 0.0
    pictures.write_pictures = lambda run: None
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


def test_two_processes_train_one_model(tmp_path, in_both):
    """Under torchrun: one folder, and ranks identical; resumed after an epoch it is the same model."""

    def assert_ranks_are_identical():
        first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
        assert all(torch.equal(first[name], second[name]) for name in first)

    words = [*OPTIONS, "--schedule", "constant", "--out"]
    folder, resumed = tmp_path / "run", tmp_path / "resumed"
    program = tmp_path / "both.py"
    program.write_text(
        "import pathlib, sys\n"
        "from tests.runs.test_processes import train\n"
        "train(sys.argv[2:], pathlib.Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, str(tmp_path), *words, str(folder), "--epochs", "2"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
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


def test_averaged_gradients_are_those_of_the_whole_batch(tmp_path, in_both):
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


def test_a_killed_process_is_resumed_to_the_bit(tmp_path, start):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    words = [*OPTIONS, "--epochs", "3", "--out"]
    assert main([*words, str(whole)]) == 0
    process = start(train_slowly, [*words, str(folder)])
    deadline = time.monotonic() + 60
    while not (folder / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (folder / "results.json").exists()
    assert main(["vae", "--out", str(folder), "--resume"]) == 0
    assert_same_run(whole, folder)
