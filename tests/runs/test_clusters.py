"""Runs of the mixture as a user meets them: tables, labels, several seeds, comparisons, and wrong inputs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pyro_models import report
from pyro_models.base.errors import UserError
from pyro_models.cli.train import main
from pyro_models.cli.verbs import main as verbs
from pyro_models.data import load
from pyro_models.metrics import score, spectral_posterior
from pyro_models.recipes import GMVAERecipe, VAERecipe
from pyro_models.runs import RunOptions, open_run, train, trainer
from pyro_models.runs.results import row
from pyro_models.runs.seeds import summary
from tests.runs.conftest import dies_at_step

QUICK = ["--epochs", "1", "--batch-size", "200"]


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    """Single precision, and no pictures and page, which are tested elsewhere."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(report, "publish", lambda run: None)


@pytest.fixture
def line(capsys):
    """Run train.py and return the one line of its complaint."""

    def run(*words):
        try:
            code = main(["gmvae", *words])
        except SystemExit as stop:
            code = stop.code
        assert code == 2
        (complaint,) = capsys.readouterr().err.strip().splitlines()
        return complaint

    return run


def test_a_table_goes_end_to_end_beside_scikit_learns_mixture(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["gmvae", "--preset", "table", "--data", "blobs", *QUICK, "--out", str(folder)]) == 0
    results = json.loads((folder / "results.json").read_text())
    assert results["gaussian_mixture"]["accuracy"] == 1.0
    unit = "nats per row of standardised columns, normal likelihood"
    assert results["units"]["elbo"] == f"{unit}, bound of neither story: y relaxed at temperature 0.5, discrete kl"
    assert results["units"]["elbo_exact"] == f"{unit}, sum over y"
    assert {"accuracy", "purity", "nmi", "ari", "clusters_used", "elbo", "elbo_exact"} <= set(results["test"])
    assert main(["gmvae", "--out", str(folder), "--resume", "--epochs", "1"]) == 0
    capsys.readouterr()
    assert verbs(["results", str(folder)]) == 0
    assert "| 100.0 |" in capsys.readouterr().out


def test_a_table_of_ones_own_without_labels_has_no_accuracy(tmp_path):
    rows = np.random.default_rng(0).normal(size=(400, 3))
    np.savetxt(tmp_path / "own.csv", rows, delimiter=",", header="a,b,c", comments="")
    words = f"gmvae --preset dense --clusters 4 --data {tmp_path / 'own.csv'} --out {tmp_path / 'run'}".split()
    assert main([*words, "--likelihood", "normal", *QUICK]) == 0
    test = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert "accuracy" not in test
    assert 1 <= test["clusters_used"] <= 4


def test_several_seeds_are_summed_up_and_resumed(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    start = "gmvae --preset table --start random --data iris --clusters 3"
    words = f"{start} --epochs 2 --steps 1 --batch-size 50 --out {folder}".split()
    assert main([*words, "--seed", "4", "--seeds", "3"]) == 0
    assert "over 3 seeds (" in capsys.readouterr().out
    results = json.loads((folder / "results.json").read_text())
    assert [run["seed"] for run in results["seeds"]] == [4, 5, 6]
    values = [run["test"]["accuracy"] for run in results["seeds"]]
    assert results["test"]["accuracy"] == pytest.approx(np.mean(values))
    assert results["spread"]["accuracy"] == pytest.approx(np.std(values, ddof=1))
    assert results["command"].endswith("--seeds 3")
    single = tmp_path / "single"
    assert main([*words[:-1], str(single), "--seed", "5"]) == 0
    assert json.loads((single / "results.json").read_text())["test"] == results["seeds"][1]["test"]
    (folder / "seed-6" / "results.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "fit", lambda *a, **k: iter(()))  # what is finished is not trained again
        assert main(["gmvae", "--out", str(folder), "--resume", "--seeds", "3"]) == 0
    assert json.loads((folder / "results.json").read_text())["test"] == results["test"]
    capsys.readouterr()
    assert verbs(["results", str(folder)]) == 0
    assert "--seeds 3" in capsys.readouterr().out
    assert verbs(["report", str(folder)]) == 2
    assert "give one of them" in capsys.readouterr().err
    for more in ([], ["--seeds", "1"]):
        with pytest.raises(SystemExit):
            main(["gmvae", "--out", str(folder), "--resume", *more])
        assert "give --seeds N" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 2
    assert "holds runs of several seeds" in capsys.readouterr().err
    before = (single / "results.json").read_bytes()
    assert main([*words[:-1], str(single), "--seeds", "2"]) == 2
    assert "holds a single run" in capsys.readouterr().err
    assert (single / "results.json").read_bytes() == before
    assert main([*words, "--seeds", "2", "--overwrite"]) == 0
    assert sorted(path.name for path in folder.glob("seed-*")) == ["seed-1", "seed-2"]


def test_labels_may_be_any_whole_numbers_where_they_only_score(tmp_path):
    rows = np.concatenate([np.random.default_rng(0).normal(size=(100, 2)) + 3 * k for k in (0, 1)])
    np.savez(tmp_path / "own.npz", table=rows, labels=np.repeat([7, 10**9], 100))
    words = f"gmvae --preset table --clusters 2 --data {tmp_path / 'own.npz'} --out {tmp_path / 'run'}".split()
    assert main([*words, "--epochs", "1"]) == 0
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test"]["accuracy"] >= 0.5


def test_the_summary_of_one_run_has_no_spread():
    figures = {"accuracy": 0.5}
    run = {"test": figures, "validation": figures, "seconds": 3.0, "seed": 1}
    assert summary([run])["spread"] == {"accuracy": 0.0}


def test_a_summary_has_the_mean_of_the_likelihoods_where_each_seed_has_one():
    parts = {
        "test": {"elbo": -3.0, "mse": 0.1},
        "validation": {},
        "seconds": 60.0,
        "recipe": "vae",
        "command": "",
        "units": {"elbo": "nats"},
    }
    runs = [
        parts | {"seed": seed, "log_likelihood": {"mean": mean, "samples": 500, "unit": "nats"}}
        for seed, mean in ((1, -2.0), (2, -1.0))
    ]
    assert summary(runs)["log_likelihood"] == {"mean": -1.5, "samples": 500}
    assert row(summary(runs))["log p(x) (samples)"] == "-1.50 (500) ± 0.71 (-2.00 (500), -1.00 (500))"
    assert row(summary(runs[:1]))["log p(x) (samples)"] == "-2.00 (500)"
    assert "log_likelihood" not in summary([runs[0], parts | {"seed": 2}])


def test_collapsed_kinds_are_reported(tmp_path, capsys):
    words = ["gmvae", "--preset", "table", "--data", "blobs", "--clusters", "15"]
    words += ["--start", "random", "--consistency", "0", "--marginal-kl", "0", "--entropy", "0"]
    assert main([*words, *QUICK, "--out", str(tmp_path / "run")]) == 0
    assert "collapsed: hardly any training data fall to" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test"]["clusters_used"] < 15


def test_estimators_are_compared_on_a_run(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["gmvae", "--preset", "table", "--data", "blobs", *QUICK, "--out", str(folder)]) == 0
    capsys.readouterr()
    every = "trace,mean-field,graph,enum,iwae,renyi,rws,dreg"
    assert verbs(["compare", str(folder), "--elbo", every, "--draws", "3", "--batches", "1"]) == 0
    printed = capsys.readouterr().out
    for name in every.split(","):
        assert f"| {name} | " in printed
    assert "| mean-field | neither story: y relaxed at temperature 0.5, discrete kl |" in printed
    assert "| enum | the story |" in printed
    assert (folder / "figures" / "compare.png").is_file()
    assert set(json.loads((folder / "compare.json").read_text())["estimators"]) == set(every.split(","))
    assert verbs(["compare", str(folder), "--elbo", "enumm"]) == 2
    assert "did you mean 'enum'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        verbs(["compare", str(folder), "--draws", "1"])
    assert "--draws must be at least 2, not 1" in capsys.readouterr().err


def test_labels_that_do_not_do_are_one_line(line, tmp_path):
    assert "--labels must be at least 10, one for each class, not 5" in line("--labels", "5")
    assert "--labels must be at most the number of training data" in line("--labels", "9999")
    assert "the data are labelled 0 to 9, and 4 classes are labelled 0 to 3" in line(
        "--labels", "50", "--clusters", "4"
    )
    images = np.random.default_rng(0).integers(0, 256, (60, 28, 28), np.uint8)
    np.savez(tmp_path / "bare.npz", images=images)
    assert "the data have none" in line("--labels", "20", "--data", str(tmp_path / "bare.npz"), "--batch-size", "20")
    np.savez(tmp_path / "odd.npz", images=images, labels=np.arange(60) - 3)
    complaint = line("--labels", "20", "--data", str(tmp_path / "odd.npz"), "--batch-size", "20")
    assert "labels go down to -3, and -1 means not known" in complaint


def test_tables_that_do_not_do_are_one_line(line, tmp_path):
    own = tmp_path / "own.csv"
    for cell, complaint in (
        ("x", "is 'x' in every row"),
        ("nan", "has no value in any row"),
        ("7", "is 7 in every row"),
    ):
        own.write_text("a,b\n" + "".join(f"{k},{cell}\n" for k in range(60)))
        assert f"column 'b' {complaint}" in line("--preset", "table", "--data", str(own))
    rows = np.random.default_rng(0).normal(size=(60, 2))
    np.save(tmp_path / "own.npy", rows)
    data = ["--data", str(tmp_path / "own.npy"), "--batch-size", "20"]
    assert "50 values of y are more than the 46 training data" in line("--preset", "table", *data, "--clusters", "50")
    assert "is a table: use --preset table, or --likelihood columns" in line(*data)
    assert "--batch-size must be at least 2" in line("--preset", "table", *data[:2], "--batch-size", "1")
    assert "--network conv takes images of 28 x 28, not [2]" in line("--preset", "table", *data, "--network", "conv")
    assert "--temperature must be between" in line("--temperature", "0")


def test_a_table_needs_a_likelihood_of_real_numbers(capsys):
    assert main(["vae", "--data", "wine"]) == 2
    assert "--data wine is a table: use --preset table, or --likelihood columns" in capsys.readouterr().err


def unequal(shares, n, seed=0):
    """Round groups of unit deviation on a circle, neighbours 8 deviations apart, and which group each row is of."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(len(shares), n, p=shares)
    angle = 2 * np.pi * np.arange(len(shares)) / len(shares)
    centres = 4 / np.sin(np.pi / len(shares)) * np.stack([np.cos(angle), np.sin(angle)], 1)
    return centres[labels] + generator.normal(size=(n, 2)), labels


@pytest.mark.parametrize("shares", [[0.95, 0.05], [0.5, 0.3, 0.1, 0.06, 0.04]], ids=len)
def test_groups_of_unequal_size_are_clustered_as_scikit_learns_mixture_does_and_p_of_y_learns_their_shares(
    tmp_path, shares, capsys
):
    table = GMVAERecipe.preset("table", data=unequal(shares, 900), clusters=len(shares), start="mixture", epochs=15)
    recipe = replace(table, evaluate_every=15)
    run = train(recipe, RunOptions(out=tmp_path / "run", device="cpu"))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test"]["ari"] > results["gaussian_mixture"]["ari"] - 0.02
    weights = run.model.logits.softmax(-1).sort(descending=True).values
    counts = run.dataset.train.labels.bincount().sort(descending=True).values
    torch.testing.assert_close(weights, counts / counts.sum(), rtol=0, atol=0.03)
    printed = capsys.readouterr().out
    assert "collapsed" not in printed
    assert "scikit-learn's GaussianMixture of as many components is the better model" in printed


@pytest.fixture
def latents(tmp_path):
    """A finished run of a VAE of the digits."""
    folder = tmp_path / "vae"
    train(VAERecipe(network="article", latent_dim=10, epochs=1, batch_size=100), RunOptions(out=folder, device="cpu"))
    return folder


def test_clusters_start_from_those_of_the_latents_of_another_run(latents, tmp_path, monkeypatch):
    """With nothing else to go by q(y | x) agrees with them well beyond chance, to the bit after a restart."""
    nothing = [word for term in ("vat", "consistency", "marginal-kl", "entropy") for word in (f"--{term}", "0")]
    words = ["gmvae", "--network", "mlp", *nothing, "--epochs", "2", "--evaluate-every", "2", "--batch-size", "64"]
    words += ["--least-steps", "15", "--learning-rate", "0.003", "--clusters", "4", "--start", str(latents)]
    assert main([*words, "--out", str(tmp_path / "once")]) == 0
    with monkeypatch.context() as patch:
        dies_at_step(patch, 22)
        assert main([*words, "--out", str(tmp_path / "twice")]) == 130
    assert main(["gmvae", "--resume", "--out", str(tmp_path / "twice")]) == 0
    run, again, source = (open_run(folder) for folder in (tmp_path / "once", tmp_path / "twice", latents))
    for name, weight in run.pair.state_dict().items():
        torch.testing.assert_close(again.pair.state_dict()[name], weight, rtol=0, atol=0)
    assert run.recipe.start == str(latents) == GMVAERecipe(start=latents).start
    z = torch.as_tensor(source.encode(source.dataset.train))
    clusters = spectral_posterior(z, 4, run.recipe.seed)(z).argmax(-1)
    found = torch.as_tensor(run.predict(run.dataset.train).values.astype(int))
    assert score(found, clusters, 4)["ari"] > 0.2  # of chance 0


def test_a_start_that_says_nothing_of_these_images_is_refused(latents, line, tmp_path):
    words = ["--out", str(tmp_path / "run"), "--start"]
    typo = "--start is random, mixture or a finished run, and mixtrue is no run folder: it holds no recipe.json"
    assert typo in line(*words, "mixtrue")
    table = line(*words, str(latents), "--preset", "table")
    assert "takes images, and blobs is a table: --start mixture is for those" in table
    labelled = line(*words, str(latents), "--labels", "20")
    assert "goes without --labels, which say more than another run's latents" in labelled
    other = line(*words, str(latents), "--data", "attributes")
    assert "is of images [1, 28, 28], and attributes has [1, 28, 56]" in other
    recipe = GMVAERecipe(start=str(latents), epochs=1, least_steps=1, vat=0.0, network="mlp")
    train(replace(recipe, start="random"), RunOptions(out=tmp_path / "clusters", device="cpu"))
    gmvae = line(*words, str(tmp_path / "clusters"))
    assert "is a run of gmvae, which has no latents of x alone: give one of vae or autoencoder" in gmvae
    assert not (tmp_path / "run").exists()
    dataset = load("digits")
    objective = recipe.training_objective(recipe.pair(dataset)[1], dataset.train)
    with pytest.raises(UserError, match="needs a `teacher`"):
        objective.at(0.0)
