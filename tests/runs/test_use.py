"""What a run says of new data: right where the answer is known, and of each datum by itself."""

import csv
import dataclasses

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro_models.guides import VAEGuide

from pyro_models import VAE, runs
from pyro_models.base.errors import UserError
from pyro_models.cli.verbs import main as verbs
from pyro_models.data import Preprocessing, load, stand_in
from pyro_models.distributions import NormalLikelihood
from pyro_models.recipes import AutoencoderRecipe, ClassifierRecipe, GMVAERecipe, JMVAERecipe, VAERecipe
from pyro_models.recipes.cvae import CVAERecipe
from pyro_models.recipes.hvae import HVAERecipe
from pyro_models.report import write_answer
from pyro_models.runs.folder import build
from pyro_models.training.processes import Processes

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(60, 3)) @ [[3.0, 1, 0], [0, 2, 1], [0, 0, 0.5]] + [100, -7, 0.5]


def untrained(recipe, dataset, folder="."):
    """A run of first weights, in evaluation mode."""
    run = build(recipe, dataset, folder, Processes(0, 1, torch.device("cpu")))
    run.model.eval()
    run.guide.eval()
    return run


@pytest.fixture
def linear():
    """A linear Gaussian model of a table, z of one dimension: every answer has a closed form."""
    preprocessing = Preprocessing.fit(TABLE)
    recipe = VAERecipe.preset("table", latent_dim=1, data=TABLE)
    decoder, encoder = torch.nn.Linear(1, 3), torch.nn.Linear(3, 2)
    decoder.weight.data[:], decoder.bias.data[:] = torch.tensor([[0.8], [-0.5], [0.3]]), torch.tensor([0.1, 0.0, -0.2])
    weight, scale = decoder.weight.data[:, 0], 0.6
    precision = 1 + weight @ weight / scale**2
    encoder.weight.data[0], encoder.weight.data[1] = weight / scale**2 / precision, 0.0
    encoder.bias.data[0] = -encoder.weight.data[0] @ decoder.bias.data
    encoder.bias.data[1] = -precision.log() / 2
    dataset = stand_in("memory", preprocessing, {"train": 60, "validation": 1, "test": 1})
    encode = torch.nn.Sequential(recipe.columns(dataset), encoder)
    model, guide = VAE(decoder, NormalLikelihood(scale, 1), 1), VAEGuide(encode)
    return runs.Run(".", recipe, dataset, model, guide, [], {}, 1)


def covariance(run):
    weight = run.model.decoder.weight.data
    return weight @ weight.T + 0.36 * torch.eye(3)


@pytest.mark.parametrize("samples", [1, 7])
def test_with_the_exact_posterior_a_score_is_the_evidence(linear, samples):
    x = linear.preprocessing.apply(TABLE).x.double()
    exact = dist.MultivariateNormal(linear.model.decoder.bias, covariance(linear)).log_prob(x)
    scores = linear.score(TABLE, samples=samples)
    np.testing.assert_allclose(scores.values, exact.detach(), rtol=1e-5)
    assert "importance samples" in scores.meaning
    assert scores.unit == linear.recipe.unit(linear.dataset)


def test_answers_follow_the_weights_and_the_networks_of_the_pair(linear):
    """The double that is kept between answers is of the pair as it is."""
    before = linear.encode(TABLE)
    linear.guide.encoder[1].bias.data[0] += 1.0
    np.testing.assert_allclose(linear.encode(TABLE), before + 1.0, rtol=1e-5)
    linear.guide.encoder[1] = torch.nn.Linear(3, 2)
    linear.guide.encoder[1].weight.data[:], linear.guide.encoder[1].bias.data[:] = 0.0, torch.tensor([7.0, 0.0])
    np.testing.assert_allclose(linear.encode(TABLE), 7.0)


def test_what_is_missing_becomes_its_mean_given_the_rest(linear):
    holes = TABLE.copy()
    holes[:, 1] = np.nan
    x = linear.preprocessing.apply(TABLE).x.double().numpy()
    c, loc = covariance(linear).numpy(), linear.model.decoder.bias.detach().numpy()
    rest = [0, 2]
    mean = loc[1] + (x[:, rest] - loc[rest]) @ np.linalg.solve(c[np.ix_(rest, rest)], c[rest, 1])
    exact = mean * TABLE[:, 1].std() + TABLE[:, 1].mean()
    filled = linear.impute(holes, samples=4000)
    assert abs(filled[:, 1] - exact).max() < 0.05 * TABLE[:, 1].std()
    np.testing.assert_array_equal(filled[:, rest], TABLE[:, rest])
    _, low, high = linear.impute(holes[:20], samples=400, interval=0.9)
    sd = np.sqrt(c[1, 1] - c[1, rest] @ np.linalg.solve(c[np.ix_(rest, rest)], c[rest, 1])) * TABLE[:, 1].std()
    for bound, normal in ((low, -1.645), (high, 1.645)):
        assert abs((bound[:, 1] - exact[:20]) / sd - normal).max() < 0.25  # of 400 draws, and weights
    np.testing.assert_allclose(linear.impute(holes[3:4], samples=400, interval=0.9)[1], low[3:4], rtol=1e-6)
    x[:, 1] = np.nan
    evidence = dist.MultivariateNormal(torch.tensor(loc[rest]), torch.tensor(c[np.ix_(rest, rest)]))
    exact_evidence = evidence.log_prob(torch.tensor(x[:, rest]))
    np.testing.assert_allclose(linear.score(holes, samples=4000).values, exact_evidence, atol=0.1)
    with pytest.raises(UserError, match=r"of 1 rows no value is known: leave them out \(2\)"):
        linear.impute(np.where(np.arange(60)[:, None] == 2, np.nan, TABLE))


def test_rows_come_back_in_their_units(linear):
    z = linear.encode(TABLE)
    again = linear.reconstruct(TABLE)
    np.testing.assert_allclose(linear.decode(z), again, rtol=1e-5)
    drawn = linear.sample(4000)
    np.testing.assert_allclose(drawn.mean(0), TABLE.mean(0), atol=0.4 * TABLE.std(0).max())
    spread = np.sqrt(np.diag(covariance(linear))) * TABLE.std(0)
    np.testing.assert_allclose(drawn.std(0), spread, rtol=0.05)
    assert not np.array_equal(drawn, linear.sample(4000, seed=1))


def small_images(n=40):
    rng = np.random.default_rng(1)
    return {"images": rng.integers(0, 256, (n, 6, 6), dtype=np.uint8), "labels": np.arange(n) % 3}


RECIPES = {
    "vae": VAERecipe(latent_dim=3),
    "dynamic": VAERecipe(latent_dim=3, pixels="dynamic"),
    "gmvae": GMVAERecipe(clusters=3, latent_dim=2),
    "jmvae": JMVAERecipe(width=16, latent_dim=3),
    "autoencoder": AutoencoderRecipe(),
}


@pytest.fixture(params=RECIPES)
def run(request):
    recipe = dataclasses.replace(RECIPES[request.param], data=small_images())
    return untrained(recipe, load(small_images(), pixels=recipe.pixels))


def test_an_answer_depends_on_the_datum_alone(run):
    images = small_images()["images"]
    order = np.random.default_rng(2).permutation(len(images))
    for ask in (run.encode, run.reconstruct, lambda x: run.score(x, samples=5).values):
        whole = ask(images)
        np.testing.assert_array_equal(ask(images[order]), whole[order])
        np.testing.assert_array_equal(ask(images[3:4]), whole[3:4])
    for batch in (1, 7):
        np.testing.assert_array_equal(run.score(images, samples=5, batch=batch).values, whole)


def test_clusters_classes_and_attributes_have_names_and_probabilities():
    dataset = load({**small_images(), "labels": np.array(["ape", "bee", "cat"])[np.arange(40) % 3]})
    images = small_images()["images"]
    few = GMVAERecipe(clusters=3, labels=6, data=small_images())
    for recipe, names in (
        (few, ("ape", "bee", "cat")),
        (dataclasses.replace(few, labels=0), ("0", "1", "2")),
        (ClassifierRecipe(network="mlp", labels=6, data=small_images()), ("ape", "bee", "cat")),
        (JMVAERecipe(width=16, data=small_images()), ("ape", "bee", "cat")),
    ):
        found = untrained(recipe, dataset).predict(images)
        assert found.categories == names
        np.testing.assert_allclose(found.probabilities.sum(1), 1, rtol=1e-5)
        np.testing.assert_array_equal(found.values, np.array(names)[found.probabilities.argmax(1)])


def test_several_attributes_are_predicted_side_by_side(tmp_path):
    sides = np.array([["left", "p"], ["right", "q"]])[np.arange(40) % 2]
    dataset = load({**small_images(), "attributes": sides, "attribute_names": np.array(["side", "kind"])})
    run = untrained(JMVAERecipe(width=16, data=small_images()), dataset)
    write_answer(run, "predict", small_images(), tmp_path / "y.csv", samples=3)
    first, *rows = csv.reader((tmp_path / "y.csv").read_text().splitlines())
    assert first == ["id", "side", "p(side=left)", "p(side=right)", "kind", "p(kind=p)", "p(kind=q)"]
    for row in rows:
        assert row[1] == ("left" if float(row[2]) >= 0.5 else "right")
        assert float(row[2]) + float(row[3]) == pytest.approx(1)


def test_what_a_model_cannot_answer_is_refused_by_its_reason():
    dataset, images = load(small_images()), small_images()["images"]
    classifier = untrained(ClassifierRecipe(network="mlp", labels=6, data=small_images()), dataset)
    for ask in (classifier.encode, classifier.reconstruct, classifier.score, classifier.impute):
        with pytest.raises(UserError, match=r"no latent z|no density"):
            ask(images)
    with pytest.raises(UserError, match="infers no clusters"):
        untrained(VAERecipe(data=small_images()), dataset).predict(images)
    with pytest.raises(UserError, match="cannot generate x"):
        untrained(AutoencoderRecipe(data=small_images()), dataset).sample(2)
    with pytest.raises(UserError, match="images of 5 x 6"):
        untrained(VAERecipe(data=small_images()), dataset).encode(images[:, 1:])


def test_a_condition_and_a_second_level_of_latents():
    dataset, images = load(small_images()), small_images()["images"]
    labelled = untrained(CVAERecipe(given="label", latent_dim=3, data=small_images()), dataset)
    assert labelled.sample(4, given={"label": 2}).shape == (4, 1, 6, 6)
    scores = labelled.score(dataset.test, samples=3)
    assert "log p(x | c)" in scores.meaning
    with pytest.raises(UserError, match="needs the label of each datum"):
        labelled.encode(images)
    quadrant = untrained(CVAERecipe(latent_dim=3, data=small_images()), dataset)
    assert quadrant.reconstruct(images).shape == (40, 1, 6, 6)
    for ask in (quadrant.sample, lambda: quadrant.impute(images), lambda: quadrant.decode(np.zeros((1, 3)))):
        with pytest.raises(UserError, match=r"given a part|conditions on a part|depends on the condition"):
            ask()
    levels = untrained(HVAERecipe(latent_dim=3, lower_dim=4, data=small_images()), dataset)
    assert levels.decode(levels.encode(images)).shape == (40, 1, 6, 6)
    order = np.arange(40)[::-1]
    scores = [levels.score(each, samples=3).values for each in (images, images[order])]
    np.testing.assert_array_equal(scores[0], scores[1][order])
    assert levels.sample(2).shape == (2, 1, 6, 6)


def test_missing_pixels_are_filled_and_the_others_stay():
    run = untrained(VAERecipe(data=small_images()), load(small_images()))
    images = small_images(25)["images"] / 255
    images[:, 2, 3] = np.nan
    filled = run.impute(images)[:, 0]
    known = ~np.isnan(images)
    assert ((filled > 0) & (filled < 1))[~known].all()
    np.testing.assert_allclose(filled[known], images[known], atol=1e-6)


@pytest.mark.usefixtures("quick")
def test_verbs_write_an_answer_for_each_datum_with_its_id(tmp_path, capsys):
    rows = "\n".join(f"r{k},{a},{b},{c},{'xyz'[k % 3]}" for k, (a, b, c) in enumerate(TABLE.tolist()))
    (tmp_path / "own.csv").write_text("name,a,b,c,label\n" + rows)
    recipe = GMVAERecipe.preset(
        "table", data=tmp_path / "own.csv", id_column="name", epochs=1, batch_size=16, clusters=3, labels=6
    )
    runs.train(recipe, runs.RunOptions(out=tmp_path / "run", device="cpu"))
    new = TABLE.round(3).tolist()[:5]
    (tmp_path / "new.csv").write_text(
        "c,b,a,name\n" + "\n".join(f"{c},{b},{a},q{k}" for k, (a, b, c) in enumerate(new))
    )
    heads = {
        "encode": ["z[0]", "z[1]"],
        "predict": ["y", "p(y=x)", "p(y=y)", "p(y=z)"],
        "score": ["score", "error"],
        "reconstruct": ["a", "b", "c"],
        "impute": ["a", "b", "c"],
    }
    for verb, head in heads.items():
        out = tmp_path / f"{verb}.csv"
        assert verbs([verb, str(tmp_path / "run"), "--data", str(tmp_path / "new.csv"), "--out", str(out)]) == 0
        first, *written = csv.reader(out.read_text().splitlines())
        assert first == ["id", *head]
        assert [row[0] for row in written] == [f"q{k}" for k in range(5)]
    assert np.array([row[1:] for row in written], dtype=float) == pytest.approx(np.array(new))
    (tmp_path / "holes.csv").write_text("name,a,b,c\nq0,,1.5,2.5\n")
    words = ["impute", str(tmp_path / "run"), "--data", str(tmp_path / "holes.csv"), "--interval", "0.9"]
    assert verbs([*words, "--out", str(tmp_path / "filled.npz")]) == 0
    filled = np.load(tmp_path / "filled.npz")
    assert filled["a (low)"] < filled["a"] < filled["a (high)"]
    assert filled["b (low)"] == filled["b"] == filled["b (high)"] == 1.5
    assert verbs([*words, "--out", str(tmp_path / "holes.csv")]) == 2
    assert "holds the data: give another file" in capsys.readouterr().err
    out = tmp_path / "drawn.npz"
    assert verbs(["sample", str(tmp_path / "run"), "--given", "y=x", "--count", "3", "--out", str(out)]) == 0
    assert np.load(out)["a"].shape == (3,)
    assert verbs(["encode", str(tmp_path / "run"), "--out", str(tmp_path / "z.txt")]) == 2
    assert "give FILE.csv" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_reconstructions_of_a_folder_of_images_are_png_files_of_their_names(tmp_path):
    from PIL import Image

    (tmp_path / "in" / "0").mkdir(parents=True)
    for k, image in enumerate(small_images(3)["images"]):
        Image.fromarray(image).save(tmp_path / "in" / "0" / f"{k}.png")
    recipe = VAERecipe(data=small_images(), epochs=1, batch_size=16)
    runs.train(recipe, runs.RunOptions(out=tmp_path / "run", device="cpu"))
    words = ["--data", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert verbs(["reconstruct", str(tmp_path / "run"), *words]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["0-0.png", "0-1.png", "0-2.png"]
