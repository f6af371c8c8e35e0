"""The command line as a user meets it: every recipe end to end, and the wrong inputs."""

import csv
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_models import report
from pyro_models.cli.train import main, parse
from pyro_models.cli.verbs import main as verbs
from pyro_models.metrics import attributes
from pyro_models.recipes.registry import RECIPES
from pyro_models.report import pictures
from pyro_models.report.words import number as written
from pyro_models.runs.folder import open_run

ROOT = Path(__file__).parents[2]
EXTRA = {"vae": [], "autoencoder": ["--network", "simple", "--tied"], "gmvae": ["--labels", "20"], "classifier": []}
EXTRA |= {"jmvae": ["--steps", "2", "--width", "16"], "cvae": ["--given", "2"], "hvae": []}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Single precision, a coarse judge of attributes, and no pictures; `monkeypatch.undo()` draws them."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(pictures, "write_pictures", lambda *_: None)
    monkeypatch.setattr(report, "write_pictures", lambda *_: None)
    few_steps = partial(attributes.attribute_classifier, steps=3)
    monkeypatch.setattr(attributes, "attribute_classifier", few_steps)


def test_help_answers_without_torch():
    command = [sys.executable, "-X", "importtime", "train.py", "vae", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--latent-dim" in done.stdout
    assert "torch" not in done.stderr


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_goes_end_to_end(recipe, tmp_path, capsys, monkeypatch):
    """From training to the page; one recipe with its pictures, which are drawn again by the verb."""
    folder = tmp_path / "run"
    if recipe == "vae":
        monkeypatch.undo()
    words = [recipe, "--epochs", "1", "--batch-size", "256", "--out", str(folder), *EXTRA.get(recipe, [])]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"run folder: {folder}"
    target = RECIPES[recipe].target
    unit = {"x": "grey pixels", "y": "nats per label"}[target]
    assert unit in printed
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
    assert written(results["test"]["elbo"]) in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    drawn = sorted(path.name for path in (folder / "figures").iterdir())
    assert any("learning-curves" in name for name in drawn) == (recipe == "vae")
    shown = [name for name in drawn if "learning-curves" not in name and "reconstructions" not in name]
    assert page.count("<img") == len(shown) + page.count('class="film"')
    assert page.count('class="film"') == (target == "x")
    run = open_run(folder)
    assert run.recipe.as_json() == json.loads((folder / "recipe.json").read_text())
    again = run.recipe.scores(run, run.dataset.test)
    assert again == pytest.approx({name: results["test"][name] for name in again}, rel=1e-5)
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
        (["vae", "--epochs", "1e9"], "--epochs must be between 1 and 100000, not 1e+09"),
        (["vae", "--epochs", "2.5"], "expected a whole number, not '2.5'"),
        (["vae", "--epochs", "many"], "expected a number, not 'many'"),
        (["vae", "--latent-dim", "0"], "--latent-dim must be between 1 and 4096, not 0"),
        (["vae", "--beta", "nan"], "--beta must be between 0 and 1e+06, not nan"),
        (["vae", "--preset", "artcle"], "unknown preset 'artcle': did you mean 'article'?"),
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


def test_presets_are_defaults_that_options_override():
    recipe, _ = parse(["vae", "--preset", "article", "--epochs", "7"])
    assert (recipe.network, recipe.schedule, recipe.epochs) == ("article", "constant", 7)


def fails(words, capsys):
    """Return the one line that a command fails with."""
    assert main(words) == 1
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
    monkeypatch.undo()
    torch.set_default_dtype(torch.float32)
    assert "not a run" in fails([*QUICK, "--out", str(precious), "--overwrite"], capsys)
    assert [path.name for path in precious.iterdir()] == ["thesis.txt"]
    assert main([*QUICK, "--out", str(folder), "--overwrite"]) == 0
    assert (folder / "figures" / "mine.png").read_text() == "kept"


def test_the_command_of_a_run_trains_it_again(tmp_path):
    folder = tmp_path / "run"
    assert main([*QUICK, "--seed", "7", "--out", str(folder)]) == 0
    command = json.loads((folder / "results.json").read_text())["command"]
    assert command == "python train.py vae --epochs 1 --batch-size 512 --seed 7 --network article"
    recipe, _ = parse(command.split()[2:])
    assert recipe.as_json() == json.loads((folder / "recipe.json").read_text())


@pytest.mark.parametrize("labels", [True, False])
def test_few_images_of_ones_own_and_a_code_of_one_number(tmp_path, labels):
    arrays = {"images": np.random.default_rng(0).random((30, 5, 4, 4))[:, :3]}
    arrays |= {"labels": np.arange(30) % 2} if labels else {}
    np.savez(tmp_path / "own.npz", **arrays)
    words = ["vae", "--data", str(tmp_path / "own.npz"), "--latent-dim", "1", "--batch-size", "8", "--epochs", "2"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0


def test_a_density_is_named_beside_its_figures_and_refused_on_binary_pixels(tmp_path, capsys):
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
    for number in (1, 2):
        assert main(QUICK) == 0
        assert f"run folder: runs/vae-digits-{number}" in capsys.readouterr().out


def test_a_gpu_that_is_not_there(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "use --device cpu" in fails([*QUICK, "--device", "cuda"], capsys)


def test_the_table_of_recipes_and_the_verbs(capsys):
    assert verbs(["recipes"]) == 0
    assert "| `vae` |" in capsys.readouterr().out
    assert verbs(["recipe"]) == 2
    assert "did you mean 'recipes'?" in capsys.readouterr().err
    assert verbs(["report", "nowhere"]) == 1
    assert "no run folder" in capsys.readouterr().err


def test_the_likelihood_of_a_run_names_its_pixels_and_lies_above_the_elbo(tmp_path, capsys):
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
    assert main(["autoencoder", "--epochs", "1", "--out", str(tmp_path / "ae")]) == 0
    assert verbs(["likelihood", str(tmp_path / "ae")]) == 1
    assert "is no density of x" in capsys.readouterr().err


def test_the_likelihood_keeps_each_datum_and_the_parts_of_the_gap_add_up(tmp_path, capsys):
    words = ["--preset", "table", "--data", "wine", "--epochs", "1"]
    assert main(["gmvae", *words, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert verbs(["likelihood", str(tmp_path / "run"), "--samples", "40", "--gap", "7"]) == 0
    printed = capsys.readouterr().out
    assert "log p(x) - elbo of the first 7: " in printed
    assert printed.endswith(f"of each datum: {tmp_path / 'run' / 'likelihood.npz'}\n")
    kept = np.load(tmp_path / "run" / "likelihood.npz")
    found = json.loads((tmp_path / "run" / "results.json").read_text())["log_likelihood"]
    assert found["unit"] == "nats per row of standardised columns, normal likelihood"
    assert found["mean"] == pytest.approx(kept["log_p"].mean(), rel=1e-5)
    assert found["monte_carlo_error"] == pytest.approx((kept["error"] ** 2).sum() ** 0.5 / len(kept["log_p"]), rel=1e-4)
    assert found["effective"]["median"] == pytest.approx(np.median(kept["effective"]) / 40, rel=0.05)
    assert found["below_10"] == (kept["effective"] < 10).sum()
    assert len(kept["gap_elbo"]) == 7
    gap = {name: part["mean"] for name, part in found["gap"].items() if name != "data"}
    assert gap["gap"] == pytest.approx(gap["amortisation"] + gap["approximation"], abs=1e-4)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (["--samples", "1"], "--samples must be at least 2, not 1"),
        (["--gap", "-1"], "--gap must be at least 2, not -1"),
        (["--gap", "1"], "--gap must be at least 2, not 1"),
        (["--seed", "-1"], "--seed must be at least 0, not -1"),
        (["--sample", "3"], "unknown option '--sample': did you mean '--samples'?"),
    ],
)
def test_a_likelihood_that_makes_no_sense_is_refused(option, complaint, capsys):
    with pytest.raises(SystemExit) as stop:
        verbs(["likelihood", "nowhere", *option])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err
