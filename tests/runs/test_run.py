"""Run folders: resumed to the bit, replaced whole, and never trusted blindly."""

import csv
import json
import os
import pickle
import re
import resource
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.decomposition import FactorAnalysis

from pyro_models import report
from pyro_models.base.errors import UserError
from pyro_models.cli.train import main
from pyro_models.objectives import mean_field
from pyro_models.recipes import VAERecipe, from_json
from pyro_models.runs import RunOptions, open_run, train, trainer
from pyro_models.runs import folder as folder_module
from pyro_models.training import cosine, loop, parameters
from tests.runs.conftest import dies_at_step

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("quick")
OPTIONS = [
    "vae",
    "--network",
    "article",
    "--batch-size",
    "64",
    "--steps",
    "5",
    "--pixels",
    "dynamic",
    "--device",
    "cpu",
]


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
        patch.setattr(report, "publish", lambda run: None)
        assert main([*OPTIONS, *options, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of four epochs that nothing interrupted."""
    return trained(tmp_path_factory.mktemp("whole") / "run", "--epochs", "4")


@pytest.mark.parametrize("point", ["step 3", "step 12", "checkpoint 4", "weights"])
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
        patch.setattr(loop, "average_gradients", dies("step", loop.average_gradients))
        patch.setattr(folder_module.checkpoint, "save", dies("checkpoint", folder_module.checkpoint.save))
        library = folder_module.safetensors.torch
        patch.setattr(library, "save_model", dies("weights", library.save_model))
        assert main([*OPTIONS, "--epochs", "4", "--out", str(folder)]) == 130
    assert f"continue with: pyro-stories train vae --out {folder} --resume" in capsys.readouterr().err
    assert not (folder / "results.json").exists()
    torch.manual_seed(99)
    assert main(["vae", "--out", str(folder), "--resume"]) == 0
    assert_same_run(whole, folder)


@pytest.mark.parametrize(
    "optimizer",
    [
        "Adam",
        "pytorch_optimizer:SOAP(weight_decay=0.0, max_precondition_dim=100, precondition_frequency=2)",
        "pytorch_optimizer:ScheduleFreeAdamW",
    ],
)
def test_a_finished_run_can_be_given_more_epochs(optimizer, tmp_path):
    """The state of SOAP is lists of matrices, and None at first; the last evaluates at other weights than it trains."""
    constant = [*OPTIONS, "--schedule", "constant", "--optimizer", optimizer]
    assert main([*constant, "--epochs", "2", "--out", str(tmp_path / "once")]) == 0
    assert main([*constant, "--epochs", "1", "--out", str(tmp_path / "twice")]) == 0
    assert main(["vae", "--epochs", "2", "--out", str(tmp_path / "twice"), "--resume"]) == 0
    assert_same_run(tmp_path / "once", tmp_path / "twice")


def test_a_class_of_another_module_steps_as_that_of_torch_by_name(tmp_path):
    specs = ["AdamW(weight_decay=0.1)", "torch.optim:AdamW(weight_decay=0.1)"]
    own = ["--schedule", "torch.optim.lr_scheduler:StepLR(step_size=1)"], ["--schedule", "StepLR(step_size=1)"]
    for name, spec, schedule in zip("ab", specs, own, strict=True):
        trained(tmp_path / name, "--epochs", "2", "--optimizer", spec, *schedule)
    ours, theirs = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.fixture(scope="module")
def after_an_epoch(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("epoch") / "run", "--schedule", "constant", "--epochs", "1")


@pytest.fixture
def stopped(after_an_epoch, tmp_path):
    """A run that has a checkpoint and is not over, which a test may change."""
    return Path(shutil.copytree(after_an_epoch, tmp_path / "run"))


def refused(words, capsys, code=2):
    """The one line that a command fails with, whether it is parsed or not."""
    capsys.readouterr()
    try:
        found = main(words)
    except SystemExit as stop:
        found = stop.code
    assert found == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_checkpoint_cut_short(stopped, capsys):
    path = stopped / "checkpoint.pt"
    whole = path.read_bytes()
    for length in (0, 10, 1000, 100_000):
        path.write_bytes(whole[:length])
        error = refused(["vae", "--out", str(stopped), "--resume", "--epochs", "2"], capsys, code=1)
        assert "truncated or damaged" in error


def test_a_checkpoint_of_another_recipe(stopped, capsys):
    state = torch.load(stopped / "checkpoint.pt", weights_only=True)
    torch.save(state | {"recipe": state["recipe"] | {"latent_dim": 3}}, stopped / "checkpoint.pt")
    error = refused(["vae", "--out", str(stopped), "--resume", "--epochs", "2"], capsys)
    assert "another recipe: --latent-dim is 3 there, 2 here" in error


def test_resuming_with_other_options_is_refused(stopped, capsys):
    error = refused(["vae", "--out", str(stopped), "--resume", "--latent-dim", "5"], capsys)
    assert "--latent-dim is 2 for the run" in error
    error = refused(["autoencoder", "--out", str(stopped), "--resume"], capsys)
    assert "of the recipe vae, not autoencoder" in error
    assert "give one of them" in refused(["vae", "--out", str(stopped), "--resume", "--overwrite"], capsys)


def test_a_refused_resume_leaves_every_byte_as_it_was(tmp_path, stopped, capsys):
    assert main(["vae", "--out", str(stopped), "--resume", "--epochs", "2"]) == 0
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    assert "at epoch 2 already: give more --epochs to train it further" in refused(
        ["vae", "--out", str(stopped), "--resume", "--epochs", "1"], capsys
    )
    assert before == {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    open_run(stopped)


def test_a_finished_run_is_trained_further_by_a_fresh_cosine_to_the_bit(whole, tmp_path, monkeypatch, capsys):
    """From the weights that it ended with, also where that is interrupted; then once more, with a step size given."""
    once, twice = (Path(shutil.copytree(whole, tmp_path / name)) for name in ("once", "twice"))
    further = ["vae", "--resume", "--epochs", "6", "--out"]
    assert main([*further, str(once)]) == 0
    assert "a fresh cosine to epoch 6, from a step size of 0.0001" in capsys.readouterr().out

    run = open_run(whole)
    optimizer = torch.optim.Adam(parameters(run.model, run.guide), fused=True)
    batches, objective = run.recipe.batches(run.dataset), run.recipe.bound()
    by_hand = loop.fit(
        *(run.model, run.guide, batches, objective, optimizer),
        epochs=6, done=4, seed=run.recipe.seed, learning_rate=lambda progress: cosine(1e-4)(3 * progress - 2),
    )  # fmt: skip
    assert len(list(by_hand)) == 2
    for name, weight in run.pair.state_dict().items():
        torch.testing.assert_close(weights(once).get(name, weight), weight)

    with monkeypatch.context() as patch:
        dies_at_step(patch, 8)
        assert main([*further, str(twice)]) == 130
    assert "at epoch 5 of 6" in refused(["vae", "--resume", "--epochs", "9", "--out", str(twice)], capsys)
    assert main(["vae", "--resume", "--out", str(twice)]) == 0
    assert_same_run(once, twice)
    assert main(["vae", "--resume", "--epochs", "7", "--learning-rate", "0.002", "--out", str(once)]) == 0
    results, recipe = (json.loads((once / f"{name}.json").read_text()) for name in ("results", "recipe"))
    assert recipe["continued"] == [[4, 4, 1e-4], [6, 6, 0.002]]
    assert (recipe["epochs"], recipe["learning_rate"]) == (7, 1e-3)
    assert results["command"].split(" && ")[1:] == [
        f"pyro-stories train vae --out RUN --resume --epochs {epochs} --learning-rate {size}"
        for epochs, size in ((6, 0.0001), (7, 0.002))
    ]
    assert (once / "checkpoint.pt").stat().st_size < (once / "model.safetensors").stat().st_size


def test_training_starts_from_the_weights_of_another_run(after_an_epoch, tmp_path, monkeypatch, capsys):
    """With other options and a fresh optimiser, to the bits of the same steps by hand; its run may go after that."""
    source = Path(shutil.copytree(after_an_epoch, tmp_path / "source"))
    words = [*OPTIONS, "--seed", "5", "--learning-rate", "0.002", "--epochs", "2", "--initial-weights", str(source)]
    assert main([*words, "--out", str(tmp_path / "once")]) == 0
    assert f"starting from the weights of the run in {source}" in capsys.readouterr().out
    run = open_run(source)
    recipe = from_json(json.loads((tmp_path / "once/recipe.json").read_text()))
    optimizer = torch.optim.Adam(parameters(run.model, run.guide), fused=True)
    batches, objective = recipe.batches(run.dataset), recipe.bound()
    steps = loop.fit(
        *(run.model, run.guide, batches, objective, optimizer), epochs=2, seed=5, learning_rate=cosine(0.002)
    )
    assert len(list(steps)) == 2
    for name, weight in run.pair.state_dict().items():
        torch.testing.assert_close(weights(tmp_path / "once").get(name, weight), weight, rtol=0, atol=0)
    with monkeypatch.context() as patch:
        dies_at_step(patch, 8)
        assert main([*words, "--out", str(tmp_path / "twice")]) == 130
    shutil.rmtree(source)
    assert main(["vae", "--resume", "--out", str(tmp_path / "twice")]) == 0
    assert_same_run(tmp_path / "once", tmp_path / "twice")


def test_weights_that_cannot_be_started_from_are_refused_before_a_folder_is_made(whole, tmp_path, capsys):
    out = tmp_path / "run"
    words = [*OPTIONS, "--out", str(out), "--initial-weights"]
    assert f"{tmp_path / 'gone'} is no run folder" in refused([*words, str(tmp_path / "gone")], capsys)
    assert "are not of these networks: size mismatch" in refused(
        [*words, str(whole), "--latent-dim", "7"], capsys, code=1
    )
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(whole / "recipe.json", unfinished)
    assert "is not finished" in refused([*words, str(unfinished)], capsys)
    assert not out.exists()
    assert VAERecipe(initial_weights=whole).initial_weights == str(whole)


BOUNDS = [1.0, 3.0, 2.0, 2.5]  # of validation data, after each epoch


def test_training_ends_early_and_keeps_the_epoch_with_the_best_bound(tmp_path, monkeypatch, capsys):
    words = [*OPTIONS, "--schedule", "constant", "--steps", "1", "--out"]
    assert main([*words, str(tmp_path / "two"), "--epochs", "2"]) == 0
    monkeypatch.setattr(VAERecipe, "scores", lambda recipe, run, split: {"elbo": BOUNDS[len(run.metrics)]})
    early = ["--epochs", "9", "--early-stopping", "2", "--keep", "best"]
    with monkeypatch.context() as patch:
        dies_at_step(patch, 4)
        assert main([*words, str(tmp_path / "run"), *early]) == 130
    assert main(["vae", "--resume", "--out", str(tmp_path / "run")]) == 0
    assert "kept: the weights of epoch 2" in capsys.readouterr().out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["epochs"], results["kept_epoch"], results["test"]) == (4, 2, {"elbo": 3.0})
    two = weights(tmp_path / "two")
    assert all(torch.equal(weight, two[name]) for name, weight in weights(tmp_path / "run").items())


def test_evaluating_seldom_and_on_a_share_moves_neither_weights_nor_results(tmp_path):
    words = [*OPTIONS, "--epochs", "3", "--out"]
    for name, options in {"whole": [], "share": ["--evaluate-every", "2", "--evaluate-on", "0.1"]}.items():
        assert main([*words, str(tmp_path / name), *options]) == 0
    whole, share = (open_run(tmp_path / name) for name in ("whole", "share"))
    assert all(torch.equal(weight, weights(share.folder)[name]) for name, weight in weights(whole.folder).items())
    results = [json.loads((run.folder / "results.json").read_text()) for run in (whole, share)]
    assert [results[0][name] for name in ("test", "validation")] == [
        results[1][name] for name in ("test", "validation")
    ]
    rows = list(csv.DictReader((share.folder / "metrics.csv").read_text().splitlines()))
    assert (
        [row["validation_elbo"] != "" for row in rows]
        == [row["train_mse"] != "" for row in rows]
        == [False, True, True]
    )
    assert "test_elbo" not in rows[0]
    watched = share.recipe.watched(share.dataset)
    assert len(watched) == -(-len(share.dataset.validation) // 10)
    assert float(rows[2]["validation_elbo"]) == pytest.approx(share.recipe.scores(share, watched)["elbo"], rel=1e-5)
    assert share.metrics[0].keys() < share.metrics[1].keys() < whole.metrics[0].keys()
    assert float(rows[2]["train_elbo"]) == pytest.approx(whole.metrics[2]["train_elbo"])


def test_early_stopping_counts_evaluations():
    recipe = VAERecipe(epochs=9, early_stopping=2, evaluate_every=2)
    rows = [{"validation_elbo": BOUNDS[k // 2]} if k % 2 else {} for k in range(8)]
    assert [folder_module.is_over(recipe, rows[:k]) for k in range(1, 9)] == [False] * 7 + [True]
    assert [folder_module.best_epoch(rows[:k]) for k in (1, 2, 8)] == [0, 2, 4]


class Scalars:
    """In place of TensorBoard's writer, which is an extra."""

    def __init__(self, folder):
        self.written = written

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        written.append("closed")

    def add_scalar(self, name, value, epoch):
        self.written.append((name, epoch))


written: list = []


def test_rows_of_metrics_are_logged_for_tensorboard(tmp_path, monkeypatch, capsys):
    words = [*OPTIONS, "--epochs", "2", "--steps", "1", "--log", "tensorboard", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    assert "pip install 'pyro-stories[tensorboard]'" in refused(words, capsys)
    monkeypatch.setattr(trainer, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Scalars))
    assert main(words) == 0
    assert {("train/elbo", 1), ("validation/elbo", 2), ("test/kl", 2), ("learning_rate", 1)} <= set(written)
    assert written[-1] == "closed"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--optimizer Adamm", "--optimizer Adamm is not in torch: did you mean 'Adam'?"),
        ("--optimizer AdamW(decay=1)", "--optimizer AdamW(decay=1): "),
        ("--optimizer LBFGS", "does not train on dense gradients alone: LBFGS.step() missing 1"),
        ("--optimizer SparseAdam", "does not train on dense gradients alone: SparseAdam does not support dense"),
        ("--optimizer pytorch_optimizer:AdaHessian", "does not train on dense gradients alone: "),
        ("--optimizer pytorch_optimizer:Lookahead", "--optimizer pytorch_optimizer:Lookahead: "),
        ("--optimizer torch.nn:Linear", "--optimizer torch.nn:Linear is no torch.optim.optimizer.Optimizer: give"),
        ("--optimizer no.such:Adam", "--optimizer no.such:Adam: No module named 'no'; give MODULE:CLASS"),
        ("--optimizer torch.optim.Adam", "'torch.optim.Adam': give NAME, NAME(option=value) or MODULE:NAME"),
        ("--schedule StepLRR(step_size=2)", "--schedule StepLRR is not in torch: did you mean 'StepLR'?"),
        ("--schedule StepLR", "--schedule StepLR: "),
        ("--evaluate-on 2.5", "--evaluate-on must be a share of at most 1 or a whole number, not 2.5"),
        ("--schedule ReduceLROnPlateau", "depends on how training goes: use --early-stopping"),
        ("--amp", "--amp is for a GPU"),
        ("--device mps", "use --device cpu"),
    ],
)
def test_hooks_that_torch_or_the_machine_has_not_get_one_line_before_a_folder_is_made(complaint_of, words, complaint):
    if words == "--device mps" and torch.backends.mps.is_available():
        pytest.skip("there is one")
    assert complaint in complaint_of(*OPTIONS, *words.split())


def test_a_run_keeps_its_number_of_processes(stopped, capsys):
    state = torch.load(stopped / "checkpoint.pt", weights_only=True)
    torch.save(state | {"processes": 2}, stopped / "checkpoint.pt")
    error = refused(["vae", "--out", str(stopped), "--resume", "--epochs", "2"], capsys)
    assert "of 2 processes, not 1" in error


def test_a_checkpoint_that_lacks_something_or_does_not_fit(stopped, capsys):
    state = torch.load(stopped / "checkpoint.pt", weights_only=True)
    torch.save({"recipe": state["recipe"]}, stopped / "checkpoint.pt")
    words = ["vae", "--out", str(stopped), "--resume", "--epochs", "2"]
    assert "is not a checkpoint of a run" in refused(words, capsys, code=1)
    torch.save(state | {"weights": {"none": torch.zeros(1)}}, stopped / "checkpoint.pt")
    assert "does not fit the recipe" in refused(words, capsys, code=1)


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
        assert "checkpoint" in refused(["vae", "--out", str(stopped), "--resume", "--epochs", "2"], capsys, code=1)
    assert not (tmp_path / "exploded").exists()


def test_a_full_disk_keeps_the_checkpoint_before(stopped, capsys):
    before = (stopped / "checkpoint.pt").read_bytes()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        error = refused(["vae", "--out", str(stopped), "--resume", "--epochs", "2"], capsys, code=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    assert "cannot write" in error
    assert "kept" in error
    assert (stopped / "checkpoint.pt").read_bytes() == before
    assert not list(stopped.glob(".*"))
    assert main(["vae", "--out", str(stopped), "--resume", "--epochs", "2"]) == 0


@pytest.mark.parametrize(
    ("step", "named"), [(4, "kl became nan.* in step 4 of epoch 1"), (10, "weights became .* in step 5 of epoch 2")]
)
def test_what_is_not_finite_is_named_and_so_is_what_is_left(tmp_path, capsys, monkeypatch, step, named):
    """Within the first epoch of five steps, and in the last step of the run."""
    folder = tmp_path / "run"
    average, count = loop.average_gradients, []

    def poison(optimizer):
        count.append(1)
        if len(count) == step - 1 + (step == 10):
            optimizer.param_groups[0]["params"][0].grad.fill_(float("nan"))
            optimizer.param_groups[0]["params"][-1].grad.fill_(float("nan"))
        average(optimizer)

    monkeypatch.setattr(loop, "average_gradients", poison)
    assert main([*OPTIONS, "--epochs", "2", "--out", str(folder)]) == 1
    error = capsys.readouterr().err
    assert re.search(named, error)
    assert "try a --learning-rate below 0.001" in error
    if step == 4:
        assert "there is no checkpoint in" in error
        assert not (folder / "checkpoint.pt").exists()
    else:
        assert "the checkpoint before it is kept in" in error
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
    path.touch()
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


def test_a_linear_vae_of_a_table_reaches_the_likelihood_of_factor_analysis(tmp_path):
    """Which is the same model, each column with noise of its own, fitted by scikit-learn; the bound is tight there."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 1)) @ [[2.0, -1.0, 0.5, 1.0]] + 0.5 * rng.normal(size=(300, 4))
    networks = {"encoder": torch.nn.Linear(4, 2), "decoder": torch.nn.Linear(1, 4)}
    recipe = VAERecipe.preset("table", data=rows, latent_dim=1, learning_rate=0.03, epochs=6, steps=60, **networks)
    run = train(recipe, RunOptions(out=tmp_path / "run", device="cpu"))
    x = run.dataset.train.x
    with torch.no_grad():
        elbo = mean_field(run.model, run.guide, particles=300, x=x)["elbo"].item()
    assert FactorAnalysis(1, tol=1e-6).fit(x.numpy()).score(x.numpy()) == pytest.approx(elbo, abs=0.02)


def test_the_first_interrupt_ends_the_epoch_and_saves_it(whole, tmp_path, monkeypatch, capsys):
    folder, steps = tmp_path / "run", []
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 1e9)
    average = loop.average_gradients

    def interrupt(optimizer):
        steps.append(1)
        if len(steps) == 7:  # in the second epoch, of five steps
            signal.raise_signal(signal.SIGINT)
        average(optimizer)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "average_gradients", interrupt)
        assert main([*OPTIONS, "--epochs", "4", "--out", str(folder)]) == 130
    assert len(torch.load(folder / "checkpoint.pt", weights_only=True)["metrics"]) == 2
    assert "stopping at the end of this epoch" in capsys.readouterr().err
    assert main(["vae", "--out", str(folder), "--resume"]) == 0
    assert "continuing after epoch 2" in capsys.readouterr().out
    assert_same_run(whole, folder)
