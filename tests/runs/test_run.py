"""Run folders: resumed to the bit, replaced whole, and never trusted blindly."""

import csv
import json
import os
import pickle
import re
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pyro_models.base.errors import UserError
from pyro_models.cli.train import main
from pyro_models.recipes import VAERecipe
from pyro_models.report import pictures
from pyro_models.runs import RunOptions, open_run, train, trainer
from pyro_models.runs import folder as folder_module
from pyro_models.training import fit as fit_module

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("quick")
OPTIONS = ["vae", "--network", "article", "--batch-size", "256", "--pixels", "dynamic", "--device", "cpu"]


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_run(one, other):
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, weights(other)[name]), name
    ignored = ("seconds",)
    ours, theirs = (json.loads((folder / "results.json").read_text()) for folder in (one, other))
    assert {k: v for k, v in ours.items() if k not in ignored} == {k: v for k, v in theirs.items() if k not in ignored}
    ours, theirs = (list(csv.DictReader((folder / "metrics.csv").read_text().splitlines())) for folder in (one, other))
    assert [untimed(row) for row in ours] == [untimed(row) for row in theirs]
    ours, theirs = (torch.load(folder / "checkpoint.pt", weights_only=True)["frames"] for folder in (one, other))
    assert ours["epochs"] == theirs["epochs"]
    assert all(torch.equal(a, b) for a, b in zip(ours["images"], theirs["images"], strict=True))


def untimed(row):
    return {name: value for name, value in row.items() if "seconds" not in name}


def trained(folder, *options):
    """Train for several tests, without pictures."""
    torch.set_default_dtype(torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "write_pictures", lambda run: None)
        assert main([*OPTIONS, *options, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four epochs that nothing interrupted."""
    return trained(tmp_path_factory.mktemp("whole") / "run", "--epochs", "4")


@pytest.mark.parametrize("point", ["step 3", "step 12", "checkpoint 2", "checkpoint 4", "weights"])
def test_a_run_interrupted_anywhere_is_resumed_to_the_bit(whole, tmp_path, monkeypatch, point, capsys):
    folder = tmp_path / "run"
    what, _, when = point.partition(" ")
    calls = {"step": 0, "checkpoint": 0}

    def dies(kind, function):
        def wrapped(*args, **kwargs):
            calls[kind] = calls.get(kind, 0) + 1
            if kind == what and calls[kind] == int(when or 1):
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "average_gradients", dies("step", fit_module.average_gradients))
        patch.setattr(folder_module.checkpoint, "save", dies("checkpoint", folder_module.checkpoint.save))
        library = folder_module.safetensors.torch
        patch.setattr(library, "save_model", dies("weights", library.save_model))
        assert main([*OPTIONS, "--epochs", "4", "--out", str(folder)]) == 130
    assert f"continue with: python train.py vae --out {folder} --resume" in capsys.readouterr().err
    assert not (folder / "results.json").exists()
    torch.manual_seed(99)
    assert main(["vae", "--out", str(folder), "--resume"]) == 0
    assert_same_run(whole, folder)


def test_a_finished_run_can_be_given_more_epochs(tmp_path):
    constant = [*OPTIONS, "--schedule", "constant"]
    assert main([*constant, "--epochs", "2", "--out", str(tmp_path / "once")]) == 0
    assert main([*constant, "--epochs", "1", "--out", str(tmp_path / "twice")]) == 0
    assert main(["vae", "--epochs", "2", "--out", str(tmp_path / "twice"), "--resume"]) == 0
    assert_same_run(tmp_path / "once", tmp_path / "twice")


@pytest.fixture(scope="module")
def after_an_epoch(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("epoch") / "run", "--schedule", "constant", "--epochs", "1")


@pytest.fixture
def stopped(after_an_epoch, tmp_path):
    """A run that has a checkpoint and is not over, which a test may change."""
    return Path(shutil.copytree(after_an_epoch, tmp_path / "run"))


def refused(words, capsys, code=1):
    capsys.readouterr()
    if code == 2:
        with pytest.raises(SystemExit, match="2"):
            main(words)
    else:
        assert main(words) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("length", [0, 10, 1000, 100_000])
def test_a_checkpoint_cut_short(stopped, capsys, length):
    path = stopped / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:length])
    error = refused(["vae", "--out", str(stopped), "--resume", "--epochs", "2"], capsys)
    assert "truncated or damaged" in error


def test_a_checkpoint_of_another_recipe(stopped, tmp_path, capsys):
    other = tmp_path / "other"
    assert main([*OPTIONS, "--schedule", "constant", "--latent-dim", "3", "--epochs", "1", "--out", str(other)]) == 0
    (stopped / "checkpoint.pt").write_bytes((other / "checkpoint.pt").read_bytes())
    error = refused(["vae", "--out", str(stopped), "--resume", "--epochs", "2"], capsys)
    assert "another recipe: --latent-dim is 3 there, 2 here" in error


def test_resuming_with_other_options_is_refused(stopped, capsys):
    error = refused(["vae", "--out", str(stopped), "--resume", "--latent-dim", "5"], capsys, code=2)
    assert "--latent-dim is 2 for the run" in error
    error = refused(["autoencoder", "--out", str(stopped), "--resume"], capsys, code=2)
    assert "of the recipe vae, not autoencoder" in error
    assert "give one of them" in refused(["vae", "--out", str(stopped), "--resume", "--overwrite"], capsys, code=2)


def test_a_refused_resume_leaves_every_byte_as_it_was(tmp_path, stopped, capsys):
    assert main(["vae", "--out", str(stopped), "--resume", "--epochs", "2"]) == 0
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    assert "at epoch 2 already" in refused(["vae", "--out", str(stopped), "--resume", "--epochs", "1"], capsys)
    assert before == {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    open_run(stopped)


def test_a_cosine_run_keeps_its_number_of_epochs(whole, capsys):
    error = refused(["vae", "--out", str(whole), "--resume", "--epochs", "9"], capsys, code=2)
    assert "--epochs cannot change: the schedule of the run so far depends on it" in error


def test_a_run_keeps_its_number_of_processes(stopped, capsys):
    state = torch.load(stopped / "checkpoint.pt", weights_only=True)
    torch.save(state | {"processes": 2}, stopped / "checkpoint.pt")
    error = refused(["vae", "--out", str(stopped), "--resume", "--epochs", "2"], capsys)
    assert "of 2 processes, not 1" in error


def test_a_checkpoint_that_lacks_something_or_does_not_fit(stopped, capsys):
    state = torch.load(stopped / "checkpoint.pt", weights_only=True)
    torch.save({"recipe": state["recipe"]}, stopped / "checkpoint.pt")
    words = ["vae", "--out", str(stopped), "--resume", "--epochs", "2"]
    assert "is not a checkpoint of a run" in refused(words, capsys)
    torch.save(state | {"weights": {}}, stopped / "checkpoint.pt")
    assert "does not fit the recipe" in refused(words, capsys)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_nothing_in_a_run_folder_is_unpickled(stopped, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for content in (pickle.dumps({"recipe": Bomb()}), None):
        if content is None:
            torch.save({"recipe": Bomb()}, stopped / "checkpoint.pt")
        else:
            (stopped / "checkpoint.pt").write_bytes(content)
        assert "checkpoint" in refused(["vae", "--out", str(stopped), "--resume", "--epochs", "2"], capsys)
    assert not (tmp_path / "exploded").exists()


def test_a_full_disk_keeps_the_checkpoint_before(stopped, capsys):
    before = (stopped / "checkpoint.pt").read_bytes()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        error = refused(["vae", "--out", str(stopped), "--resume", "--epochs", "2"], capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    assert "cannot write" in error
    assert "kept" in error
    assert (stopped / "checkpoint.pt").read_bytes() == before
    assert not list(stopped.glob(".*"))
    assert main(["vae", "--out", str(stopped), "--resume", "--epochs", "2"]) == 0


@pytest.mark.parametrize(
    ("step", "named"), [(8, "kl became nan.* in step 4 of epoch 2"), (10, "weights became .* in step 5 of epoch 2")]
)
@pytest.mark.parametrize("epochs", [2, 4])
def test_what_is_not_finite_is_named_and_the_checkpoint_before_it_kept(
    tmp_path, capsys, monkeypatch, step, named, epochs
):
    """Steps 8 and 10 of two epochs of five: within an epoch, and the last of it and perhaps of the run."""
    folder = tmp_path / "run"
    average, count = fit_module.average_gradients, []

    def poison(optimizer):
        count.append(1)
        if len(count) == step:
            optimizer.param_groups[0]["params"][0].grad.fill_(float("nan"))
            optimizer.param_groups[0]["params"][-1].grad.fill_(float("nan"))
        average(optimizer)

    monkeypatch.setattr(fit_module, "average_gradients", poison)
    assert main([*OPTIONS, "--epochs", str(epochs), "--out", str(folder)]) == 1
    assert re.search(named, capsys.readouterr().err)
    assert len(torch.load(folder / "checkpoint.pt", weights_only=True)["metrics"]) == 1
    assert not (folder / "results.json").exists()


def test_an_unfinished_or_foreign_folder_cannot_be_opened(tmp_path, stopped):
    with pytest.raises(UserError, match="no run folder"):
        open_run(tmp_path)
    path = stopped / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="cannot read the weights"):
        open_run(stopped)
    path.unlink()
    with pytest.raises(UserError, match="not finished"):
        open_run(stopped)
    (stopped / "recipe.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        open_run(stopped)


def test_tied_weights_are_stored_once_and_tied_again_on_opening(tmp_path):
    folder = tmp_path / "run"
    words = ["autoencoder", "--network", "simple", "--tied", "--epochs", "1", "--out", str(folder)]
    assert main(words) == 0
    assert len(weights(folder)) == 3
    run = open_run(folder)
    assert run.model.decoder[0][0].weight is run.guide.encoder[1][0].weight


GOLDEN = -300.1  # nats per image, grey pixels: the mean over seeds 1 to 10, whose standard deviation was 1.8


def test_a_vae_of_the_digits_reaches_its_usual_bound(tmp_path):
    recipe = VAERecipe(network="article", encoder_dropout=0.0, epochs=40)
    run = train(recipe, RunOptions(out=tmp_path / "run", device="cpu"))
    elbo = json.loads((run.folder / "results.json").read_text())["test"]["elbo"]
    assert abs(elbo - GOLDEN) < 4 * 1.8


def test_the_first_interrupt_ends_the_epoch_and_saves_it(whole, tmp_path, monkeypatch, capsys):
    folder, steps = tmp_path / "run", []
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 1e9)
    average = fit_module.average_gradients

    def interrupt(optimizer):
        steps.append(1)
        if len(steps) == 7:  # in the second epoch, of five steps
            signal.raise_signal(signal.SIGINT)
        average(optimizer)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "average_gradients", interrupt)
        assert main([*OPTIONS, "--epochs", "4", "--out", str(folder)]) == 130
    assert len(torch.load(folder / "checkpoint.pt", weights_only=True)["metrics"]) == 2
    assert "stopping at the end of this epoch" in capsys.readouterr().err
    assert main(["vae", "--out", str(folder), "--resume"]) == 0
    assert "continuing after epoch 2" in capsys.readouterr().out
    assert_same_run(whole, folder)
