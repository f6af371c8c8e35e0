"""Runs of the JMVAE as a user meets them: every objective, resumed to the bit, images asked for, wrong inputs."""

import csv
import json
import shutil
from functools import partial
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pyro_models import metrics, report
from pyro_models import pictures as recipe_pictures
from pyro_models.cli.train import main
from pyro_models.cli.verbs import main as verbs
from pyro_models.data import attributes as data_module
from pyro_models.data import to_float
from pyro_models.metrics import attributes as attributes_module
from pyro_models.metrics import conditions as metrics_conditions
from pyro_models.metrics.attributes import attribute_classifier
from pyro_models.recipes.jmvae import JMVAERecipe
from pyro_models.runs import folder as folder_module
from pyro_models.runs.folder import open_run
from pyro_models.training import loop
from tests.runs.test_run import assert_same_run

QUICK = ["jmvae", "--width", "16", "--epochs", "1", "--steps", "2", "--batch-size", "20", "--device", "cpu"]
QUICK += ["--attribute-weight", "1"]
TELBO = ["--objective", "telbo"]


def judge_coarsely(patch):
    """Let a linear classifier of a few steps judge the images that a run generates."""

    def linear(shape, classes):
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(prod(shape), classes))

    patch.setattr(attributes_module, "spatial_classifier", linear)
    patch.setattr(attributes_module, "attribute_classifier", partial(attribute_classifier, steps=3))


@pytest.fixture(autouse=True)
def quickly_judged(quick, monkeypatch):
    judge_coarsely(monkeypatch)


def results(folder):
    return json.loads((folder / "results.json").read_text())


def weights(folder, half=""):
    stored = load_file(folder / "model.safetensors")
    return {name: tensor for name, tensor in stored.items() if name.startswith(half)}


def same(some, other):
    return some.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in some.items())


def rows(folder):
    table = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    return [{name: float(value) for name, value in row.items() if name != "unit"} for row in table]


def train_unpublished(words):
    """Train without pictures and a page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "publish", lambda run: None)
        return main(words)


def trained(folder, *options):
    """Train, and return what each epoch's steps came to."""
    assert train_unpublished([*QUICK, *options, "--out", str(folder)]) == 0
    found = [{name[6:]: value for name, value in row.items() if name.startswith("train_")} for row in rows(folder)]
    return found[0] if len(found) == 1 else found


N = 60


def write_own(path):
    """Images of one's own with three attributes, the last of which is missing of half of them."""
    generator = np.random.default_rng(0)
    codes = np.stack([np.arange(N) % 3, np.arange(N) // 3 % 2, np.arange(N) // 6 % 2], -1)
    codes[generator.random(N) < 0.5, 2] = -1
    return write(path, codes)


@pytest.fixture
def own(tmp_path):
    return write_own(tmp_path / "own.npz")


def write(path, codes, names=("colour", "size", "place"), size=8):
    images = np.random.default_rng(1).integers(0, 256, (N, size, size), dtype=np.uint8)
    np.savez(path, images=images, attributes=codes, attribute_names=np.array(names))
    return str(path)


def finish(folder, *options):
    """Train once for several tests, without pictures."""
    torch.set_default_dtype(torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "publish", lambda run: None)
        judge_coarsely(patch)
        assert main([*QUICK, *options, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, which nothing here changes."""
    return finish(tmp_path_factory.mktemp("jmvae") / "run")


@pytest.fixture(scope="module")
def of_own(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    return finish(folder / "run", "--data", write_own(folder / "own.npz"))


@pytest.fixture
def folder(of_own, tmp_path):
    """A finished run of `own`, which a test may change."""
    return Path(shutil.copytree(of_own, tmp_path / "run"))


def test_results_hold_the_three_cs_and_the_unit_of_each_figure(finished):
    found = results(finished)
    cs = {"classifier_accuracy", "correctness", "correctness_1", "coverage_1", "coverage"}
    bounds = {"elbo", "reconstruction", "kl", "reconstruction_x", "reconstruction_y1", "reconstruction_y2"}
    assert set(found["test"]) == cs | bounds | {"mse"}
    assert set(found["units"]) == set(found["test"])
    for name in cs:
        assert 0 <= found["test"][name] <= 1
        assert found["units"][name] not in (found["units"]["elbo"], "nats")
    assert found["test"]["coverage"] == found["test"]["coverage_1"]
    assert found["units"]["elbo"].startswith("nats per image")
    parts = [found["test"][f"reconstruction_{site}"] for site in ("x", "y1", "y2")]
    assert found["test"]["reconstruction"] == pytest.approx(sum(parts))
    assert found["test"]["elbo"] == pytest.approx(found["test"]["reconstruction"] - found["test"]["kl"])


def test_the_labels_of_digits_are_one_attribute_of_which_nothing_is_left_to_cover(tmp_path):
    assert main([*QUICK, "--data", "digits", "--out", str(tmp_path / "run")]) == 0
    found = results(tmp_path / "run")["test"]
    assert {name for name in found if name.startswith("correctness")} == {"correctness"}
    assert not [name for name in found if name.startswith("coverage")]
    assert verbs(["sample", str(tmp_path / "run"), "--given", "digit=7", "--count", "3"]) == 0


def test_jmvae_is_the_bound_and_two_divergences(own, tmp_path):
    for weight in (1.0, 3.0):
        terms = trained(tmp_path / f"{weight}", "--data", own, "--unimodal-weight", str(weight))
        assert terms["loss"] == pytest.approx(-terms["elbo"] + weight * (terms["kl_given_x"] + terms["kl_given_y"]))
        assert terms["elbo"] == pytest.approx(terms["reconstruction"] - terms["kl"])


def test_telbo_and_mvae_are_sums_of_bounds(own, tmp_path):
    for name, bounds in (("telbo", ("x", "y")), ("mvae", ("x", "y1", "y2", "y3", "y", "some"))):
        terms = trained(tmp_path / name, "--data", own, "--objective", name)
        assert {term for term in terms if term.startswith("elbo")} == {"elbo", *(f"elbo_{bound}" for bound in bounds)}
        total = terms["elbo"] + sum(terms[f"elbo_{bound}"] for bound in bounds)
        assert terms["loss"] == pytest.approx(-total)
    assert open_run(tmp_path / "mvae").guide.product
    assert not open_run(tmp_path / "telbo").guide.product


def test_what_likelihoods_weigh_changes_the_loss_and_not_the_bounds(own, tmp_path):
    one = ["--data", own, "--steps", "1"]
    plain = trained(tmp_path / "plain", *one)
    heavy = trained(tmp_path / "heavy", *one, "--image-weight", "2", "--attribute-weight", "10")
    weighed = ("loss", "mse")  # the latter is of the weights that the step came to
    assert all(heavy[name] == plain[name] for name in plain if name not in weighed)
    attributes = sum(heavy[f"reconstruction_y{i}"] for i in (1, 2, 3))
    weighted = 2 * heavy["reconstruction_x"] + 10 * attributes - heavy["kl"]
    assert heavy["loss"] == pytest.approx(-weighted + 5 * (heavy["kl_given_x"] + heavy["kl_given_y"]))


def test_the_private_weight_is_that_of_log_p_y_given_z_in_one_bound(own, tmp_path):
    """The loss is linear in it, steeper by minus that log-density, and no bound changes."""
    words = [*TELBO, "--data", own, "--steps", "1", "--private-weight"]
    terms = [trained(tmp_path / weight, *words, weight) for weight in ("1", "2", "12")]
    for name in ("elbo", "elbo_x", "elbo_y"):
        assert len({each[name] for each in terms}) == 1
    first, second, last = (each["loss"] for each in terms)
    assert second > first
    assert last - second == pytest.approx(10 * (second - first), rel=1e-3)
    assert first - second >= terms[0]["elbo_y"]  # log p(y | z) is elbo(y) and its kl


def test_warm_up_raises_the_weight_of_the_kl_from_0_to_1(own, tmp_path):
    """One step an epoch: at 0, a quarter, half and three quarters of the run."""
    epochs = trained(tmp_path / "run", "--data", own, "--warm-up", "0.5", "--epochs", "4", "--steps", "1")
    for terms, weight in zip(epochs, [0.0, 0.5, 1.0, 1.0], strict=True):
        divergences = terms["kl_given_x"] + terms["kl_given_y"]
        assert terms["loss"] == pytest.approx(
            5 * divergences - terms["reconstruction"] + weight * terms["kl"], rel=1e-6
        )
        assert terms["kl"] > 1e-4 * terms["loss"]  # or its weight would not show
        assert terms["elbo"] == pytest.approx(terms["reconstruction"] - terms["kl"], rel=1e-6)


def test_stop_gradient_lets_the_joint_bound_alone_train_the_story(own, tmp_path):
    """After one step the story is that of a run with no other bound; the guide is not."""
    runs = {"bound": ["--unimodal-weight", "0"], "joint": TELBO, "still": [*TELBO, "--variant", "stop-gradient"]}
    for name, options in runs.items():
        trained(tmp_path / name, "--data", own, "--steps", "1", *options)
    bound, joint, still = (weights(tmp_path / name, "model") for name in runs)
    assert same(bound, still)
    assert not same(bound, joint)
    assert not same(weights(tmp_path / "bound", "guide.experts"), weights(tmp_path / "still", "guide.experts"))


def test_two_stages_train_the_story_and_then_the_guide_alone(own, tmp_path, monkeypatch):
    kept, save = [], folder_module.checkpoint.save

    def keeps(path, state):
        if state["weights"] is not None:  # of a run that is over
            kept.append({name: weight.clone() for name, weight in state["weights"].items()})
        save(path, state)

    monkeypatch.setattr(folder_module.checkpoint, "save", keeps)
    epochs = trained(tmp_path / "run", "--data", own, *TELBO, "--variant", "two-stage", "--epochs", "2")
    assert epochs[0]["loss"] == pytest.approx(-epochs[0]["elbo"])
    assert epochs[1]["loss"] == pytest.approx(-sum(epochs[1][name] for name in ("elbo", "elbo_x", "elbo_y")))
    before, after = kept
    story = {name for name in before if name.startswith("model.")}
    assert all(torch.equal(before[name], after[name]) for name in story)
    learnt = [name for name in before.keys() - story if name.endswith("weight")]
    assert not any(torch.equal(before[name], after[name]) for name in learnt)


OBJECTIVES = {
    "jmvae, warming up": ["--warm-up", "1"],
    "telbo, two-stage": [*TELBO, "--variant", "two-stage", "--private-weight", "50"],
    "mvae": ["--objective", "mvae"],
}


@pytest.mark.parametrize("options", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_run_interrupted_anywhere_is_resumed_to_the_bit(own, tmp_path, monkeypatch, options):
    """In its second epoch, with attributes missing."""
    words = [*QUICK, "--data", own, "--epochs", "2", *options]
    whole, folder, steps = tmp_path / "whole", tmp_path / "run", []
    assert train_unpublished([*words, "--out", str(whole)]) == 0
    average = loop.average_gradients

    def dies(optimizer):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        average(optimizer)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "average_gradients", dies)
        assert train_unpublished([*words, "--out", str(folder)]) == 130
    assert not (folder / "results.json").exists()
    torch.manual_seed(99)
    assert train_unpublished(["jmvae", "--out", str(folder), "--resume"]) == 0
    assert_same_run(whole, folder)


def test_attributes_of_ones_own_some_missing_are_learnt_and_asked_for(folder, capsys):
    found = results(folder)
    assert {f"reconstruction_y{i}" for i in (1, 2, 3)} <= set(found["test"])
    assert {"correctness", "correctness_2", "correctness_1", "coverage_2", "coverage_1"} <= set(found["test"])
    covered = [found["test"][f"coverage_{given}"] for given in (1, 2)]
    assert found["test"]["coverage"] == pytest.approx(sum(covered) / 2)
    run = open_run(folder)
    for split, again in run.recipe.final_scores(run).items():
        assert again == {name: found[split][name] for name in again}
    capsys.readouterr()
    given = ["--given", "size=1", "colour=2"]
    assert verbs(["sample", str(folder), *given, "--count", "5"]) == 0
    picture = Path(capsys.readouterr().out.strip())
    assert picture.parent == folder / "figures"
    assert picture.name.startswith("samples-")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("words", [["--given", "size=1", "colour=2"], ["--given", "size=1", "--given", "colour=2"]])
def test_all_that_is_given_is_asked_for_as_many_times_as_asked(folder, monkeypatch, words):
    asked, imagine = [], metrics_conditions.generate_given

    def listens(model, guide, attributes, codes, **options):
        asked.append((codes.tolist(), options["seed"]))
        return imagine(model, guide, attributes, codes, **options)

    monkeypatch.setattr(metrics, "generate_given", listens)
    assert verbs(["sample", str(folder), *words, "--count", "5", "--seed", "4"]) == 0
    assert asked == [([[2, 1, -1]] * 5, 4)]


def test_samples_of_different_attributes_are_different_files(folder, capsys):
    for word in ("colour=1", "size=1", "place=1"):
        assert verbs(["sample", str(folder), "--given", word, "--count", "1"]) == 0
    assert len(set(capsys.readouterr().out.split())) == 3


NEVER_TOGETHER = np.where(np.arange(N)[:, None] % 2 == [0, 1], np.arange(N)[:, None] // 2 % 2, -1)
NEVER_WITH_SMALL = np.where(np.arange(N)[:, None] % 2 < [2, 1], np.arange(N)[:, None] // [1, 2] % 2, -1)


@pytest.mark.parametrize("codes", [NEVER_TOGETHER, NEVER_WITH_SMALL], ids=["together", "with a value of the other"])
def test_attributes_that_are_never_known_together_are_learnt(tmp_path, codes, capsys):
    data = write(tmp_path / "own.npz", codes, ("size", "place"))
    assert main([*QUICK, "--data", data, "--out", str(tmp_path / "run")]) == 0
    found = results(tmp_path / "run")["test"]
    assert 0 <= found["correctness_1"] <= 1
    assert 0 <= found["coverage"] <= 1
    capsys.readouterr()
    assert verbs(["results", str(tmp_path / "run")]) == 0
    assert "| coverage, one given |" in capsys.readouterr().out


class Blind(torch.nn.Module):
    """A classifier that says 0 of each of four attributes."""

    def predict(self, x):
        return torch.zeros(len(x), 4, dtype=torch.long)


def test_combinations_that_training_never_saw_are_what_is_asked_for(tmp_path, monkeypatch):
    asked, imagine = [], metrics_conditions.generate_given

    def listens(model, guide, attributes, codes, **options):
        asked.append(codes)
        return imagine(model, guide, attributes, codes, **options)

    monkeypatch.setattr(data_module, "COPIES", 1)
    monkeypatch.setattr(attributes_module, "attribute_classifier", lambda *_: Blind())
    monkeypatch.setattr(metrics, "generate_given", listens)
    words = ["--data", "mnist-a", "--source", "digits", "--split", "compositional", "--steps", "1"]
    assert main([*QUICK, *words, "--out", str(tmp_path / "run")]) == 0
    found = results(tmp_path / "run")
    assert {"correctness", "coverage"} <= set(found["test"])
    assert found["command"].count("--split compositional") == found["command"].count("--source digits") == 1
    seen = {tuple(row) for row in open_run(tmp_path / "run").dataset.train.attributes.tolist()}
    whole = {tuple(row) for codes in asked for row in codes.tolist() if min(row) >= 0}
    assert len(whole) == 24 + 12  # of test and of validation
    assert not seen & whole


@pytest.fixture
def drawn(tmp_path, monkeypatch, request):
    """Train with pictures that need attributes, the others being tested elsewhere, and return their names in order."""
    monkeypatch.undo()
    request.getfixturevalue("sketched")
    torch.set_default_dtype(torch.float32)
    judge_coarsely(monkeypatch)

    def names(data, *figures):
        monkeypatch.setattr(
            JMVAERecipe, "pictures", lambda recipe: [getattr(recipe_pictures, name) for name in figures]
        )
        assert main([*QUICK, "--data", data, "--out", str(tmp_path / "run")]) == 0
        return [path.stem[3:] for path in sorted((tmp_path / "run" / "figures").iterdir())]

    return names


def test_pictures_are_drawn_of_attributes_some_missing(own, drawn):
    generated = [f"images-from-{name}" for name in ("colour-and-size-and-place", "colour", "size", "place")]
    maps = [f"latent-map-by-{name}" for name in ("colour", "size", "place")]
    found = drawn(
        own,
        "generated_images",
        "latents_given_attributes",
        "latents_of_images",
        "attribute_regions",
        "latent_map_by_attribute",
    )
    assert found == [*generated, "latents-given-attributes", "latents-of-images", "decision-regions", *maps]


def test_pictures_are_drawn_of_attributes_that_are_never_known_together(tmp_path, drawn):
    data = write(tmp_path / "own.npz", NEVER_TOGETHER, ("size", "place"))
    found = drawn(data, "generated_images", "latents_given_attributes", "latents_of_images")
    assert {"images-from-size", "images-from-place", "latents-given-attributes", "latents-of-images"} <= set(found)


def test_the_name_of_an_attribute_may_hold_what_a_files_may_not(tmp_path, drawn):
    codes = np.stack([np.arange(N) % 2, np.arange(N) // 2 % 2], -1)
    found = drawn(write(tmp_path / "own.npz", codes, ("and/or", "size")), "generated_images", "latent_map_by_attribute")
    assert {"images-from-and-or", "latent-map-by-and-or"} <= set(found)


def test_the_likelihood_is_that_of_images_alone(folder, capsys):
    """As the integral over a grid of the code's plane; the attributes, some of which are missing, add nothing."""
    assert verbs(["likelihood", str(folder), "--samples", "300", "--gap", "0"]) == 0
    assert capsys.readouterr().out.startswith("log p(x) = ")
    found = results(folder)["log_likelihood"]
    assert found["unit"] == "nats per image, grey pixels, attributes left out"
    run = open_run(folder)
    axis = torch.linspace(-6, 6, 61)
    z = torch.cartesian_prod(axis, axis)
    x = to_float(run.dataset.test.x, "grey")
    with torch.no_grad():
        log_p = run.model.likelihood(run.model.decoder(z)).log_prob(x[:, None])
    log_prior = -z.square().sum(-1) / 2 - np.log(2 * np.pi)
    exact = (log_p + log_prior + 2 * (axis[1] - axis[0]).log()).logsumexp(-1)
    assert found["mean"] == pytest.approx(exact.mean().item(), abs=0.1)


def test_estimators_are_compared_on_images_and_attributes(folder, capsys):
    """Both estimate one bound, of all that a batch holds."""
    assert verbs(["compare", str(folder), "--draws", "20", "--batches", "1"]) == 0
    assert "| trace |" in capsys.readouterr().out
    found = json.loads((folder / "compare.json").read_text())["estimators"]
    trace, mean_field = found["trace"], found["mean-field"]
    assert trace["bound"] == pytest.approx(mean_field["bound"], abs=5 * (trace["error"] + mean_field["error"]))
    assert set(trace["variance"]) == {"decoder", "heads", "encoder", "experts"}
    assert trace["variance"]["heads"] > 0


def test_seeds_have_their_mean_and_spread_and_each_its_samples(own, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*QUICK, "--data", own, "--seeds", "2", "--out", str(folder)]) == 0
    found = results(folder)
    for name in ("elbo", "correctness", "coverage", "classifier_accuracy"):
        values = [run["test"][name] for run in found["seeds"]]
        assert found["test"][name] == pytest.approx(np.mean(values))
        assert found["spread"][name] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
        assert name in found["units"]
    capsys.readouterr()
    assert verbs(["results", str(folder), str(folder / "seed-2")]) == 0
    assert f"`{found['command']}`" in capsys.readouterr().out
    assert verbs(["sample", str(folder), "--given", "size=1"]) == 2
    assert "holds runs of several seeds: give one of them" in capsys.readouterr().err
    assert verbs(["sample", str(folder / "seed-1"), "--given", "size=1", "--count", "1"]) == 0


@pytest.fixture
def line(complaint_of):
    """The one line in which a wrong use of the recipe ends."""
    return partial(complaint_of, "jmvae")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--split compositional", "goes with the attributes of mnist-a, not with attributes"),
        ("--split compositional --data digits", "goes with the attributes of mnist-a, not with digits"),
        ("--split article", "--split: unknown value 'article': choose from iid, compositional"),
        ("--source digits --data digits", "--source goes with attributes and mnist-a, which are made"),
        ("--source kmnist", "--source: unknown value 'kmnist': did you mean 'mnist'?"),
        ("--objective jmvea", "--objective: unknown value 'jmvea': did you mean 'jmvae'?"),
        ("--private-weight 2", "--variant and --private-weight go with --objective telbo, not with jmvae"),
        ("--variant joynt", "--variant: unknown value 'joynt': did you mean 'joint'?"),
        ("--objective mvae --variant two-stage", "go with --objective telbo, not with mvae"),
        (
            "--elbo iwae --particles 5 --image-weight 2",
            "--image-weight 2 with --elbo iwae bounds nothing: give --image-weight 1",
        ),
        ("--elbo iwae --particles 5 --warm-up 0.5", "--warm-up with --elbo iwae bounds nothing: give --warm-up 0"),
        ("--elbo enum", "--elbo: unknown value 'enum': choose from trace, mean-field, iwae, renyi, rws, dreg"),
        ("--warm-up 2", "--warm-up must be between 0 and 1, not 2"),
        ("--attribute-weight -1", "--attribute-weight must be between 0 and 1000000, not -1"),
        ("--width 0", "--width must be between 1 and 100000, not 0"),
        ("--width wide", "--width: expected a number, not 'wide'"),
        ("--network conv", "--network: unknown value 'conv': choose from mlp"),
        ("--labels 10", "unknown option '--labels'"),
        ("--preset tebo", "unknown preset 'tebo': did you mean 'telbo'?"),
        ("--data attribute", "unknown data set 'attribute': did you mean 'attributes'?"),
        ("--data blobs", "--data blobs is a table: use --preset table, or --likelihood columns"),
        ("--pixels static --likelihood normal", "--likelihood normal is a density of grey pixels, not of static ones"),
    ],
)
def test_wrong_inputs_get_one_line(line, words, complaint):
    assert complaint in line(*QUICK[5:], *words.split())


def test_images_without_attributes_get_one_line(line, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (N, 8, 8), np.uint8)
    np.savez(tmp_path / "bare.npz", images=images)
    complaint = line("--data", str(tmp_path / "bare.npz"))
    assert "bare.npz has no attributes: give labels, or an array named attributes" in complaint


def test_a_run_that_changes_on_its_way_is_trained_further_as_it_was_at_its_end(own, tmp_path):
    """In its second stage, though by the fraction of the longer run the first epoch would have been in the first."""
    words = [*QUICK, "--data", own, "--schedule", "constant", *TELBO, "--variant", "two-stage"]
    assert train_unpublished([*words, "--out", str(tmp_path / "run")]) == 0
    assert train_unpublished(["jmvae", "--out", str(tmp_path / "run"), "--resume", "--epochs", "3"]) == 0
    for row in rows(tmp_path / "run")[1:]:
        assert row["train_loss"] == pytest.approx(-sum(row[f"train_{name}"] for name in ("elbo", "elbo_x", "elbo_y")))
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert recipe["continued"] == [[1, 1, recipe["learning_rate"]]]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--given left", "--given left: give NAME=VALUE, as side=left"),
        ("--given digits=1", "--given digits=1: unknown attribute 'digits': did you mean 'digit'?"),
        ("--given digit=7", "unknown digit '7': choose from 1, 2"),
        ("--given side=lift", "unknown side 'lift': did you mean 'left'? choose from left, right"),
        ("--given side=left side=right", "--given side=right contradicts side=left"),
        ("--given side=left --count 0", "--count must be at least 1, not 0"),
        ("--given side=left --count few", "--count: expected a number, not 'few'"),
        ("--given side=left --seed -1", "--seed must be between 0 and 4294967295, not -1"),
        ("--gven side=left", "unknown option '--gven': did you mean '--given'?"),
        ("--given", "--given: expected at least one argument"),
    ],
)
def test_what_cannot_be_sampled_gets_one_line(finished, capsys, words, complaint):
    capsys.readouterr()
    try:
        code = verbs(["sample", str(finished), *words.split()])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    (found,) = capsys.readouterr().err.strip().splitlines()
    assert complaint in found
    assert not list((finished / "figures").iterdir())


def test_a_story_without_attributes_has_none_to_sample_by(tmp_path, capsys):
    words = ["--network", "article", "--epochs", "1", "--steps", "1", "--device", "cpu"]
    assert main(["vae", *words, "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert verbs(["sample", str(tmp_path / "run"), "--given", "digit=1"]) == 2
    (complaint,) = capsys.readouterr().err.strip().splitlines()
    assert "the story of vae has no attributes that could be given" in complaint


def test_data_that_have_changed_since_get_one_line(own, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*QUICK, "--data", own, "--out", str(folder)]) == 0
    codes = np.load(own)["attributes"]
    sample = ["sample", str(folder), "--given", "size=1", "--count", "1"]
    assert verbs(sample) == 0
    for changed in ({"codes": codes, "size": 10}, {"codes": codes[:, :2], "names": ("colour", "size")}):
        write(own, **changed)
        with pytest.warns(UserWarning, match=r"own\.npz changed since"):
            assert verbs(sample) == 0  # draws need no data
        capsys.readouterr()
        with pytest.warns(UserWarning, match=r"own\.npz changed since"):
            assert verbs(["check", str(folder)]) == 2
        (complaint,) = capsys.readouterr().err.strip().splitlines()
        assert "own.npz changed since" in complaint
    (tmp_path / "own.npz").unlink()
    assert verbs(sample) == 0
    capsys.readouterr()
    assert verbs(["check", str(folder)]) == 2
    (complaint,) = capsys.readouterr().err.strip().splitlines()
    assert "own.npz" in complaint
