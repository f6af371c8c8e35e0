"""The command line as a user meets it: every recipe end to end, and the wrong inputs."""

import csv
import json
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyro_models import __version__, report
from pyro_models.base import names
from pyro_models.cli.parser import in_flags
from pyro_models.cli.train import main, parse
from pyro_models.cli.verbs import VERBS
from pyro_models.cli.verbs import main as verbs
from pyro_models.metrics import attributes
from pyro_models.recipes import RECIPES, Recipe
from pyro_models.report import likelihood, pictures
from pyro_models.report.words import number
from pyro_models.runs import trainer
from pyro_models.runs.folder import open_run

ROOT = Path(__file__).parents[2]
EXTRA = {"autoencoder": ["--network", "simple", "--tied"], "gmvae": ["--labels", "20"], "jmvae": ["--width", "16"]}
EXTRA |= {"vae": ["--network", "article"], "classifier": ["--network", "mlp"], "cvae": ["--given", "2"]}


@pytest.fixture(autouse=True)
def quick(monkeypatch, sketched):
    """Single precision, a coarse judge of attributes, and an empty picture: those of recipes are tested elsewhere."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(Recipe, "pictures", lambda recipe: (lambda run: {"blank": Figure(figsize=(1, 1))},))
    for recipe in RECIPES.values():
        if "pictures" in vars(recipe):
            monkeypatch.setattr(recipe, "pictures", Recipe.pictures)
    few_steps = partial(attributes.attribute_classifier, steps=3)
    monkeypatch.setattr(attributes, "attribute_classifier", few_steps)


def without_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "write_pictures", lambda run: None)
    monkeypatch.setattr(report, "write_page", lambda run: None)


def test_help_answers_without_torch():
    command = [sys.executable, "-X", "importtime", "train.py", "vae", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--latent-dim" in done.stdout
    assert "torch" not in done.stderr


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_goes_end_to_end(recipe, tmp_path, capsys):
    """From training to the page, and opened again."""
    folder = tmp_path / "run"
    assert main([recipe, "--epochs", "1", "--steps", "2", "--out", str(folder), *EXTRA.get(recipe, [])]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{recipe} on ")
    *_, test, _, seconds, where, page_at, to_do = printed.splitlines()
    assert test.startswith("test: ")
    assert seconds.startswith("trained: 1 epochs in ")
    assert where == f"run folder: {folder}"
    assert page_at == f"report: {(folder / 'report.html').as_uri()}"
    assert to_do.endswith(f"pyro-stories train {recipe} --out {folder} --resume --epochs N")
    log = (folder / "log.txt").read_text()
    assert log in printed
    assert re.search(r"^epoch 1/1: .*; [\d.e-]+ s, 0 s left$", log, re.MULTILINE)
    target = RECIPES[recipe].target
    unit = {"x": "grey pixels", "y": "nats per label"}[target]
    assert printed.count(unit) == 1  # once, and not in each epoch's line
    results = json.loads((folder / "results.json").read_text())
    for key in ("recipe", "data", "pixels", "seed", "epochs", "test", "seconds", "command", "versions", "machine"):
        assert key in results
    wanted = {"x": {"elbo", "reconstruction", "kl", "mse"}, "y": {"elbo", "accuracy", "f1"}}[target]
    assert wanted <= set(results["test"]) == set(results["units"])
    test = results["test"]
    if target == "x":
        assert test["elbo"] == pytest.approx(test["reconstruction"] - test["kl"], rel=1e-4)
    assert unit in results["units"]["elbo"]
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1"]
    assert float(rows[0]["test_elbo"]) == pytest.approx(results["test"]["elbo"])
    assert {"train_elbo", "validation_elbo", "seconds"} <= set(rows[0])
    page = (folder / "report.html").read_text()
    assert number(results["test"]["elbo"]) in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    drawn = sorted(path.name for path in (folder / "figures").iterdir())
    assert drawn == ["01-blank.png"]
    assert (folder / "checkpoint.pt").stat().st_size < 1e6  # the weights are in model.safetensors
    run = open_run(folder)
    assert run.recipe.as_json() == json.loads((folder / "recipe.json").read_text())
    again = run.recipe.scores(run, run.dataset.test)
    assert again == pytest.approx({name: results["test"][name] for name in again}, rel=1e-5)
    if recipe == "vae":
        (folder / "figures" / "01-blank.png").unlink()
        assert verbs(["report", str(folder)]) == 0
        assert sorted(path.name for path in (folder / "figures").iterdir()) == drawn


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vae", "--epoch", "3"], "unknown option '--epoch': did you mean '--epochs'?"),
        (["vae", "--pixels", "gray"], "unknown value 'gray': did you mean 'grey'?"),
        (["vaee"], "unknown recipe 'vaee': did you mean 'vae'?"),
        (["vae", "--data", "minst"], "unknown data set 'minst': did you mean 'mnist'?"),
        (["vae", "--elbo", "iwea"], "did you mean 'iwae'?"),
        (["vae", "--epochs", "0"], "--epochs must be between 1 and 100000, not 0"),
        (["vae", "--epochs", "-1"], "--epochs must be between 1 and 100000, not -1"),
        (["vae", "--epochs", "1e9"], "--epochs must be between 1 and 100000, not 1000000000"),
        (["vae", "--seed", "1e23"], "--seed must be between 0 and 4294967295, not 1e+23"),
        (
            ["vae", "--seed", "4294967295", "--seeds", "2"],
            "--seeds 2 from --seed 4294967295 on go beyond the highest seed",
        ),
        (["vae", "--schedule", "cosin"], "--schedule: unknown value 'cosin': did you mean 'cosine'?"),
        (["vae", "--optimizer", "Adam(1)"], "'Adam(1)': give NAME, NAME(option=value) or MODULE:NAME"),
        (["vae", "--recipe", "nowhere.json"], "cannot read nowhere.json: No such file or directory"),
        (["--recipe", "nowhere.json"], "cannot read nowhere.json: No such file or directory"),
        (
            ["vae", "--elbo", "iwae", "--particles", "5", "--free-bits", "1"],
            "--free-bits with --elbo iwae bounds nothing",
        ),
        (["vae", "--epochs", "2.5"], "expected a whole number, not '2.5'"),
        (["vae", "--epochs", "many"], "expected a number, not 'many'"),
        (["vae", "--latent-dim", "0"], "--latent-dim must be between 1 and 4096, not 0"),
        (["vae", "--beta", "nan"], "--beta must be between 0 and 1000000, not nan"),
        (["vae", "--preset", "kingm"], "unknown preset 'kingm': did you mean 'kingma'?"),
        (["vae", "--resume"], "--resume needs --out"),
        (["vae", "--resume", "--out", "nowhere"], "nothing to resume in nowhere"),
        (["autoencoder", "--tied"], "--tied goes with --network simple or --network linear"),
        (["vae", "stray"], "unknown option 'stray'"),
        (["vae", "--lr", "0.1"], "unknown option '--lr': see --help"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_presets_and_files_are_defaults_that_options_override(tmp_path, capsys):
    recipe, _ = parse(["vae", "--preset", "kingma", "--epochs", "7"])
    assert (recipe.network, recipe.schedule, recipe.epochs) == ("article", "constant", 7)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"recipe": "vae", "latent_dim": 5, "schedule": "StepLR(step_size=3)"}))
    for words in (["vae", "--recipe", str(path)], ["--recipe", str(path)]):
        recipe, _ = parse([*words, "--epochs", "7"])
        assert (recipe.latent_dim, recipe.epochs, recipe.schedule) == (5, 7, "StepLR(step_size=3)")
    path.write_text(json.dumps({"recipe": "vae", "latent_dims": 5}))
    for words, complaint in (
        (["vae", "--recipe", str(path)], "the recipe vae has no option 'latent_dims': did you mean 'latent_dim'?"),
        (["gmvae", "--recipe", str(path)], "the recipe vae has no option 'latent_dims'"),
        (["vae", "--recipe", str(path), "--preset", "kingma"], "give one of them"),
    ):
        with pytest.raises(SystemExit, match="2"):
            parse(words)
        assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    "recipe", [recipe for recipe in RECIPES.values() if recipe.presets], ids=lambda each: each.name
)
def test_help_says_whose_setting_a_preset_is_and_what_it_sets(recipe, capsys):
    with pytest.raises(SystemExit, match="0"):
        parse([recipe.name, "--help"])
    text = capsys.readouterr().out
    assert set(recipe.sources) == set(recipe.presets)
    for name in recipe.presets:
        (described,) = re.findall(rf"^  {name}: (.*?)(?=^  \w|\Z)", text, re.MULTILINE | re.DOTALL)
        words = " ".join(described.split()).removeprefix(in_flags(recipe.sources[name]))
        assert parse([recipe.name, *shlex.split(words)])[0] == recipe.preset(name)


def test_table_presets_take_a_table():
    for name in ("vae", "gmvae", "classifier"):
        recipe, _ = parse([name, "--preset", "table"])
        recipe.check_data(recipe.load())


def fails(words, capsys, code=2):
    """Return the one line that a command fails with."""
    assert main(words) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


QUICK = ["vae", "--network", "article", "--epochs", "1", "--batch-size", "512"]


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(tmp_path, capsys):
    error = fails(["vae", "--batch-size", "5000", "--out", str(tmp_path / "run")], capsys)
    assert "--batch-size 5000 is more than the 1372 training data" in error
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten_unasked_and_other_folders_never(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    assert main([*QUICK, "--out", str(folder)]) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert "--overwrite" in fails([*QUICK, "--out", str(folder)], capsys)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main([*QUICK, "--out", str(folder), "--seed", "2", "--overwrite"]) == 0
    assert json.loads((folder / "results.json").read_text())["seed"] == 2
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("all my work")
    (folder / "figures" / "mine.png").write_text("kept")
    capsys.readouterr()
    assert "not a run" in fails([*QUICK, "--out", str(precious), "--overwrite"], capsys)
    assert [path.name for path in precious.iterdir()] == ["thesis.txt"]
    assert main([*QUICK, "--out", str(folder), "--overwrite"]) == 0
    assert (folder / "figures" / "mine.png").read_text() == "kept"


def test_the_command_of_a_run_trains_it_again(tmp_path, monkeypatch):
    without_pictures(monkeypatch)
    folder = tmp_path / "run"
    assert main([*QUICK, "--seed", "7", "--out", str(folder)]) == 0
    command = json.loads((folder / "results.json").read_text())["command"]
    assert command == "pyro-stories train vae --epochs 1 --batch-size 512 --seed 7 --network article"
    recipe, _ = parse(command.split()[2:])
    assert recipe.as_json() == json.loads((folder / "recipe.json").read_text())


@pytest.mark.parametrize("labels", [True, False])
def test_few_images_of_ones_own_and_a_code_of_one_number(tmp_path, labels, monkeypatch):
    without_pictures(monkeypatch)
    arrays = {"images": np.random.default_rng(0).random((30, 5, 4, 4))[:, :3]}
    arrays |= {"labels": np.arange(30) % 2} if labels else {}
    np.savez(tmp_path / "own.npz", **arrays)
    words = ["vae", "--data", str(tmp_path / "own.npz"), "--latent-dim", "1", "--batch-size", "8", "--epochs", "2"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0


def test_a_density_is_named_beside_its_figures_and_refused_on_binary_pixels(tmp_path, capsys, monkeypatch):
    without_pictures(monkeypatch)
    folder = tmp_path / "run"
    assert main([*QUICK, "--likelihood", "normal", "--out", str(folder)]) == 0
    assert "nats per image, grey pixels, normal likelihood" in capsys.readouterr().out
    assert "normal likelihood" in json.loads((folder / "results.json").read_text())["units"]["elbo"]
    assert "normal likelihood" in (folder / "metrics.csv").read_text()
    with pytest.raises(SystemExit, match="2"):
        main(["vae", "--likelihood", "normal", "--pixels", "dynamic"])
    assert "density of grey pixels" in capsys.readouterr().err


def test_an_output_folder_that_is_a_file_or_cannot_be_made(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert "is a file, not a folder" in fails([*QUICK, "--out", str(file)], capsys)
    assert "cannot use the folder" in fails([*QUICK, "--out", str(file / "below")], capsys)
    assert "cannot use the folder" in fails([*QUICK, "--out", "/proc/nowhere"], capsys)


def test_runs_without_out_are_numbered(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without_pictures(monkeypatch)
    for k in (1, 2):
        assert main(QUICK) == 0
        assert f"run folder: runs/vae-digits-{k}" in capsys.readouterr().out


def test_a_gpu_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "use --device cpu" in fails([*QUICK, "--device", "cuda"], capsys)


def test_the_table_of_recipes_and_the_verbs(capsys):
    assert verbs(["recipes"]) == 0
    assert "| `vae` |" in capsys.readouterr().out
    assert verbs(["recipe"]) == 2
    assert "did you mean 'recipes'?" in capsys.readouterr().err
    for verb in ("report", "check", "likelihood", "compare", "encode", "export"):
        more = {"encode": ["--out", "z.csv"]}.get(verb, [])
        assert verbs([verb, "nowhere", *more]) == 2
        assert "no run folder" in capsys.readouterr().err
    for call in (verbs, main):
        with suppress(SystemExit):
            assert call(["--version"]) == 0
        assert capsys.readouterr().out == f"pyro-stories {__version__}\n"


def test_an_interrupted_verb_says_so_and_has_its_own_exit_code(monkeypatch, capsys):
    def interrupted(words):
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, "recipes", interrupted)
    assert verbs(["recipes"]) == 130
    assert capsys.readouterr().err.strip() == "pyro-stories recipes: stopped"


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("bin/pyro-stories", "pyro-stories"),
        ("pyro_models/__main__.py", "python -m pyro_models"),
        ("train.py", "train.py"),
    ],
)
def test_the_program_calls_itself_as_it_was_called(called, name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [called])
    if called == "train.py":
        with pytest.raises(SystemExit, match="2"):
            main(["vaee"])
        assert names.command("train") == "python train.py"
        assert names.command("check") == "python -m pyro_models check"
    else:
        assert verbs(["chek"]) == 2
        assert names.command("check") == f"{name} check"
    assert capsys.readouterr().err.startswith(f"{name}")


def test_the_likelihood_of_a_run_names_its_pixels_and_lies_above_the_elbo(tmp_path, capsys, monkeypatch):
    without_pictures(monkeypatch)
    assert main([*QUICK, "--pixels", "dynamic", "--out", str(tmp_path / "run")]) == 0
    elbo = json.loads((tmp_path / "run" / "results.json").read_text())["test"]["elbo"]
    capsys.readouterr()
    assert verbs(["likelihood", str(tmp_path / "run"), "--samples", "30", "--gap", "0"]) == 0
    printed = capsys.readouterr().out
    assert "dynamic pixels, 300 test data, 30 samples" in printed
    evidence = printed.split("= ")[1].split(" ")[0]
    assert float(evidence) > elbo
    assert verbs(["results", str(tmp_path / "run")]) == 0
    assert f"| dynamic pixels | {elbo:.2f} |" in (row := capsys.readouterr().out.splitlines()[-1])
    assert f"| {evidence} (30) |" in row
    words = ["autoencoder", "--network", "linear", "--epochs", "1", "--steps", "1"]
    assert main([*words, "--out", str(tmp_path / "ae")]) == 0
    capsys.readouterr()
    assert verbs(["likelihood", str(tmp_path / "ae")]) == 2
    assert "is no density of x" in capsys.readouterr().err


def test_the_likelihood_keeps_each_datum_and_the_parts_of_the_gap_add_up(tmp_path, capsys, monkeypatch):
    without_pictures(monkeypatch)
    monkeypatch.setattr(likelihood, "gap", partial(likelihood.gap, steps=20))
    words = ["--preset", "table", "--data", "wine", "--start", "random", "--epochs", "1"]
    assert main(["gmvae", *words, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert verbs(["likelihood", str(tmp_path / "run"), "--samples", "40", "--gap", "3"]) == 0
    printed = capsys.readouterr().out
    assert "log p(x) - elbo of the first 3: " in printed
    assert printed.endswith(f"of each datum: {tmp_path / 'run' / 'likelihood.npz'}\n")
    kept = np.load(tmp_path / "run" / "likelihood.npz")
    found = json.loads((tmp_path / "run" / "results.json").read_text())["log_likelihood"]
    assert found["unit"] == "nats per row of standardised columns, normal likelihood"
    assert found["mean"] == pytest.approx(kept["log_p"].mean(), rel=1e-5)
    assert found["monte_carlo_error"] == pytest.approx((kept["error"] ** 2).sum() ** 0.5 / len(kept["log_p"]), rel=1e-4)
    assert found["effective"]["median"] == pytest.approx(np.median(kept["effective"]) / 40, rel=0.05)
    assert found["below_10"] == (kept["effective"] < 10).sum()
    assert len(kept["gap_elbo"]) == 3
    gap = {name: part["mean"] for name, part in found["gap"].items() if name != "data"}
    assert gap["gap"] == pytest.approx(gap["amortisation"] + gap["approximation"], abs=1e-4)
    (tmp_path / "run" / "results.json").unlink()
    monkeypatch.setattr(likelihood, "evidence", lambda *_, **__: pytest.fail("refuses before it computes"))
    assert verbs(["likelihood", str(tmp_path / "run"), "--samples", "40"]) == 2
    assert "results.json: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (["--samples", "1"], "--samples must be at least 2, not 1"),
        (["--gap", "-1"], "--gap must be at least 0, not -1"),
        (["--gap", "1"], "--gap must be 0 or at least 2, not 1"),
        (["--seed", "1e23"], "--seed must be between 0 and 4294967295, not 1e23"),
        (["--sample", "3"], "unknown option '--sample': did you mean '--samples'?"),
    ],
)
def test_a_likelihood_that_makes_no_sense_is_refused(option, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        verbs(["likelihood", "nowhere", *option])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_sweep_trains_every_combination_and_tabulates_it(tmp_path, capsys, monkeypatch):
    without_pictures(monkeypatch)
    folder = tmp_path / "sweep"
    words = ["sweep", "vae", "--network", "article", "--epochs", "1", "--steps", "1", "--out", str(folder)]
    words += ["--over", "latent_dim=1,3", "beta=2"]
    assert verbs(words) == 0
    table = (folder / "sweep.md").read_text()
    assert table in capsys.readouterr().out
    head, _, *rows = table.strip().splitlines()
    assert head.startswith("| latent_dim | beta | likelihood | elbo |")
    written = json.loads((folder / "sweep.json").read_text())
    for row, each, latent in zip(rows, written, (1, 3), strict=True):
        assert each["folder"] == f"latent_dim={latent},beta=2"
        assert row.startswith(f"| {latent} | 2 | grey pixels | {each['results']['test']['elbo']:.2f} |")
        recipe = open_run(folder / each["folder"]).recipe
        assert (recipe.latent_dim, recipe.beta) == (latent, 2.0)
    monkeypatch.setattr(trainer, "fit", lambda *args, **options: pytest.fail("what is finished is not trained again"))
    assert verbs([*words, "--resume"]) == 0
    capsys.readouterr()
    assert verbs(["report", str(folder)]) == 2
    assert "holds the runs of a sweep: give one of them" in capsys.readouterr().err


def test_a_search_trains_what_is_proposed_by_the_validation_bound(tmp_path, capsys, monkeypatch):
    """Of an optuna that proposes the ends of each range in turn."""
    without_pictures(monkeypatch)
    words = ["sweep", "vae", "--network", "article", "--epochs", "1", "--steps", "1", "--out", str(tmp_path / "runs")]
    words += ["--over", "learning_rate=1e-4..1e-2", "latent_dim=2..9", "beta=1,2", "--trials", "3"]
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert verbs(words) == 2
    assert "pip install 'pyro-stories[search]'" in capsys.readouterr().err
    optuna, ends = MagicMock(), iter([(0, 1e-4, 2, "1"), (1, 1e-2, 9, "2"), (2, 1e-4, 2, "1")])
    trials = []

    def ask():
        number, size, latent, beta = next(ends)
        trial = MagicMock(user_attrs={}, number=number)
        trial.suggest_float.side_effect = lambda name, low, high, log: (
            size if (low, high, log) == (1e-4, 1e-2, True) else 0
        )
        trial.suggest_int.side_effect = lambda name, low, high, log: latent if (low, high, log) == (2, 9, True) else 0
        trial.suggest_categorical.side_effect = lambda name, values: beta
        trial.set_user_attr.side_effect = trial.user_attrs.__setitem__
        trials.append(trial)
        return trial

    study = optuna.create_study.return_value
    study.ask.side_effect = ask
    study.tell.side_effect = lambda trial, value, state: setattr(trial, "value", value)
    type(study).best_trial = property(lambda _: max(trials, key=lambda trial: trial.value))
    monkeypatch.setitem(sys.modules, "optuna", optuna)
    assert verbs(words) == 0
    written = json.loads((tmp_path / "runs" / "sweep.json").read_text())
    names = ["learning_rate=0.0001,latent_dim=2,beta=1", "learning_rate=0.01,latent_dim=9,beta=2"]
    assert [each["folder"] for each in written] == names
    bounds = [each["results"]["validation"]["elbo"] for each in written]
    assert [trial.value for trial in trials] == [*bounds, bounds[0]]
    best = names[int(np.argmax(bounds))]
    assert f"best bound of validation data, {max(bounds):.2f}: {tmp_path / 'runs' / best}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("over", "complaint"),
    [
        ("latent_dims=1,2", "--over latent_dims=1,2: did you mean 'latent_dim'?"),
        ("latent_dim", "--over latent_dim: give OPTION=A,B,..."),
        ("latent_dim=0,1", "--latent-dim must be between 1 and 4096, not 0"),
        ("latent_dim=1 latent-dim=2", "--over names an option twice"),
        ("latent_dim=2..5", "--over latent_dim=2..5: a range goes with --trials N, a search"),
        ("learning_rate=1e-2..1e-4 --trials 2", "learning_rate=1e-2..1e-4 is no range: give the lower number first"),
        ("latent_dim=0..5 --trials 2", "--latent-dim must be between 1 and 4096, not 0"),
        ("latent_dim=1,2 --trials 0", "--trials must be at least 1, not 0"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_before_it_begins(over, complaint, capsys):
    with pytest.raises(SystemExit, match="2"):
        verbs(["sweep", "vae", "--over", *over.split()])
    assert complaint in capsys.readouterr().err
