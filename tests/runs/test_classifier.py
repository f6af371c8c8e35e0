"""Runs of the classifier as a user meets them: tables, few labels and none beside, resumed to the bit, wrong inputs."""

import csv
import json
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pyro_models.cli.train import main
from pyro_models.cli.verbs import main as verbs
from pyro_models.data import load, to_float
from pyro_models.runs.folder import open_run
from pyro_models.training import loop
from tests.runs.test_run import assert_same_run

pytestmark = pytest.mark.usefixtures("quick")
QUICK = ["classifier", "--network", "mlp", "--epochs", "1", "--steps", "4", "--batch-size", "50", "--device", "cpu"]
TABLE = ["classifier", "--preset", "table", "--data", "blobs", "--classes", "3", "--labels", "12", "--device", "cpu"]


def results(folder):
    return json.loads((folder / "results.json").read_text())


def weights(folder):
    return load_file(folder / "model.safetensors")


def rows(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def test_twelve_labels_of_three_blobs_are_enough(tmp_path, monkeypatch, request):
    monkeypatch.undo()  # with its pictures
    request.getfixturevalue("sketched")
    torch.set_default_dtype(torch.float32)
    folder = tmp_path / "run"
    assert main([*TABLE, "--epochs", "3", "--out", str(folder)]) == 0
    found = results(folder)
    assert found["test"]["accuracy"] == found["test"]["f1"] == 1.0
    assert found["units"] == {
        "elbo": "nats per label",
        "accuracy": "share of data whose inferred class is their label",
        "f1": "mean over labels of the harmonic mean of precision and recall",
    }
    assert set(found["test"]) == {"elbo", "accuracy", "f1"}
    assert "gaussian_mixture" not in found
    support = found["classes"]["support"]
    assert sum(support) == found["images"]["test"] == 500
    assert found["classes"]["confusion"] == torch.tensor(support).diag().tolist()
    pictures = {path.stem[3:] for path in (folder / "figures").iterdir()}
    assert {"confusion", "scores-of-classes", "learning-curves"} <= pictures
    assert not {"adversaries", "labelled"} & pictures  # of images alone


def test_the_figures_of_a_run_are_those_of_its_weights(tmp_path):
    assert (
        main([*QUICK, "--labels", "40", "--marginal-kl", "1", "--entropy", "0.2", "--out", str(tmp_path / "run")]) == 0
    )
    run, found = open_run(tmp_path / "run"), results(tmp_path / "run")
    test = load("digits").test
    logits = run.guide.classify(to_float(test.x, "grey")).logits.detach()
    elbo = -torch.nn.functional.cross_entropy(logits, test.labels).item()
    assert found["test"]["elbo"] == pytest.approx(elbo, rel=1e-5)
    assert found["test"]["accuracy"] == pytest.approx((logits.argmax(-1) == test.labels).double().mean().item())
    (row,) = rows(tmp_path / "run")
    terms = {name.removeprefix("train_") for name in row if name.startswith("train_")}
    assert terms == {"loss", "elbo", "vat", "consistency", "marginal_kl", "entropy"}
    assert row["unit"] == "nats per label"
    assert run.model.network is run.guide.network


NO_TERMS = ["--vat", "0", "--consistency", "0", "--marginal-kl", "0", "--entropy", "0"]


def test_with_no_terms_the_other_data_make_no_difference(tmp_path):
    """The same steps, with 1,332 other data that nothing is asked of and with none."""
    for name, options in (("some", []), ("none", ["--unlabelled", "0", "--batch-size", "40"])):
        words = [*QUICK, "--epochs", "2", "--labels", "40", *NO_TERMS, *options]
        assert main([*words, "--out", str(tmp_path / name)]) == 0
        terms = {column for column in rows(tmp_path / name)[0] if column.startswith("train_")}
        assert terms == {"train_loss", "train_elbo"}
    some, none = (weights(tmp_path / name) for name in ("some", "none"))
    assert all(torch.equal(tensor, none[name]) for name, tensor in some.items())
    assert results(tmp_path / "some")["test"] == results(tmp_path / "none")["test"]


def test_without_other_data_the_terms_are_of_the_labelled(tmp_path):
    words = [*QUICK, "--labels", "30", "--unlabelled", "0"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    (row,) = rows(tmp_path / "run")
    assert float(row["train_vat"]) > 0
    assert float(row["train_consistency"]) > 0


@pytest.mark.parametrize(
    "options",
    [
        ["--network", "conv", "--labels", "20"],
        ["--network", "paper", "--labels", "60", "--batch-size", "30", "--radius", "5", "--iterations", "2"],
    ],
    ids=["conv", "paper"],
)
def test_a_run_interrupted_in_its_second_epoch_is_resumed_to_the_bit(tmp_path, monkeypatch, options):
    """Of two steps each. The paper's net has noise, and more labels than a batch."""
    words = [*QUICK, *options, "--epochs", "2", "--steps", "2"]
    whole, folder, steps = tmp_path / "whole", tmp_path / "run", []
    assert main([*words, "--out", str(whole)]) == 0
    average = loop.average_gradients

    def dies(optimizer):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        average(optimizer)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "average_gradients", dies)
        assert main([*words, "--out", str(folder)]) == 130
    assert not (folder / "results.json").exists()
    torch.manual_seed(99)
    assert main(["classifier", "--out", str(folder), "--resume"]) == 0
    assert_same_run(whole, folder)


def test_seeds_draw_other_labels_unless_these_have_their_own(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*TABLE, "--epochs", "1", "--seeds", "2", "--out", str(folder)]) == 0
    found = results(folder)
    assert [set(run) >= {"seed", "test", "classes"} for run in found["seeds"]] == [True, True]
    assert found["test"]["f1"] == pytest.approx(np.mean([run["test"]["f1"] for run in found["seeds"]]))
    first, second = (open_run(folder / f"seed-{seed}") for seed in (1, 2))
    drawn = [run.recipe.training_splits(run.dataset.train)[1].x for run in (first, second)]
    assert not torch.equal(*drawn)
    assert first.recipe.label_seed is second.recipe.label_seed is None
    capsys.readouterr()
    assert verbs(["results", str(folder), str(folder / "seed-1")]) == 0
    printed = capsys.readouterr().out
    assert f"`{found['command']}`" in printed
    assert f"`{results(folder / 'seed-1')['command']}`" in printed


def test_verbs_that_are_of_a_density_of_x_say_so_in_one_line(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*QUICK, "--out", str(folder)]) == 0
    capsys.readouterr()
    for verb, complaint in (
        ("likelihood", "is no density of x: it has no log p(x) to estimate"),
        ("compare", "classifier has no bound to estimate: its likelihood is exact"),
    ):
        assert verbs([verb, str(folder)]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert complaint in line
    assert not (folder / "compare.json").exists()


@pytest.fixture
def line(complaint_of):
    """The one line in which a wrong use of the recipe ends."""
    return partial(complaint_of, "classifier")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--classes 4", "the data are labelled 0 to 9, and 4 classes are labelled 0 to 3"),
        ("--labels 5", "--labels must be at least 10, one for each class, not 5"),
        ("--labels 9999", "--labels must be at most the number of training data, 1372, not 9999"),
        ("--labels 0", "--labels must be at least 1, not 0"),
        ("--unlabelled 1300", "--unlabelled 1300 is more than the 1272 training data left"),
        ("--unlabelled 0", "--batch-size 256 is more than the 100 training data; --least-steps cycles through them"),
        (
            "--batch-size 1300",
            "--batch-size 1300 is more than the 1272 training data; --least-steps cycles through them",
        ),
        ("--split article", "--split article goes with the 60,000 training images of mnist, not with digits"),
        ("--data blobs", "--data blobs is a table: use --preset table, or --network mlp"),
        ("--data blobs --network article", "--network article takes images of 28 x 28, not [2]"),
        ("--elbo trace", "unknown option '--elbo'"),
        ("--preset tabel", "unknown preset 'tabel': did you mean 'table'?"),
    ],
)
def test_wrong_inputs_get_one_line(line, words, complaint):
    assert complaint in line(*words.split())


def test_images_of_ones_own_that_do_not_do_get_one_line(line, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "bare.npz", images=images)
    np.savez(tmp_path / "odd.npz", images=images, labels=np.arange(60) % 3 - 2)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(60) % 3)
    options = ["--labels", "20", "--batch-size", "20", "--classes", "3", "--data"]
    assert "--labels are asked for, and the data have none" in line(*options, str(tmp_path / "bare.npz"))
    assert "labels go down to -2, and -1 means not known: number them from 0 or 1" in line(
        *options, str(tmp_path / "odd.npz")
    )
    complaint = line(*options, str(tmp_path / "own.npz"), "--network", "article")
    assert "--network article takes images of 28 x 28, not [1, 8, 8]" in complaint
    assert "not with" in line(*options, str(tmp_path / "own.npz"), "--split", "article")


def test_a_resumed_run_keeps_its_labels(tmp_path, capsys):
    assert main([*QUICK, "--schedule", "constant", "--out", str(tmp_path / "run")]) == 0
    for options, complaint in (
        (["--labels", "50"], "--labels is 100"),
        (["--label-seed", "3"], "--label-seed is None"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit, match="2"):
            main(["classifier", "--out", str(tmp_path / "run"), "--resume", "--epochs", "2", *options])
        assert f"{complaint} for the run" in capsys.readouterr().err
