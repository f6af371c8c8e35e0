"""The estimators keep scikit-learn's rules, all of its checks, and labels that are not known count as such."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_wine, make_blobs
from sklearn.exceptions import SkipTestWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from pyro_models import open_run
from pyro_models.base.errors import UserError
from pyro_models.cli.verbs import main as verbs
from pyro_models.recipes import VAERecipe
from pyro_models.sklearn import JMVAE, VAE, Autoencoder, FewLabelsClassifier, GaussianMixtureVAE
from pyro_models.sklearn.base import indices_of

ROWS, KIND = make_blobs(120, centers=[[0, 0, 0], [9, 0, 4], [0, 9, -4]], random_state=0)
PLAIN = {"vat": 0.0, "consistency": 0.0, "marginal_kl": 0.0, "entropy": 0.0}
with warnings.catch_warnings():
    warnings.simplefilter("ignore", SkipTestWarning)
    QUICK = [
        VAE(epochs=1, network="iwae"),
        Autoencoder(epochs=1, network="linear"),
        GaussianMixtureVAE(epochs=1, start="random", **PLAIN),
        FewLabelsClassifier(epochs=3, batch_size=32, learning_rate=0.01, **PLAIN),
        JMVAE(epochs=1, steps=2, width=8),
    ]
    passes_every_check = parametrize_with_checks(QUICK)


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@passes_every_check
def test_scikit_learn(estimator, check):
    check(estimator)


def test_the_options_are_the_recipes_and_checked_alike():
    assert VAE().get_params()["learning_rate"] == VAERecipe().learning_rate
    with pytest.raises(TypeError, match="no option 'latents'"):
        VAE(latents=3)
    with pytest.raises(UserError, match="`latent_dim` must be between 1 and"):
        VAE(latent_dim=0).fit(ROWS)
    with pytest.raises(UserError, match="goes with `elbo=renyi`"):
        VAE(alpha=0.7).fit(ROWS)
    again = clone(GaussianMixtureVAE(clusters=3, likelihood="normal", scale=0.3))
    assert (again.clusters, again.scale) == (3, 0.3)


def test_the_state_of_torch_is_left_alone():
    before = torch.get_rng_state()
    VAE(epochs=1, network="iwae").fit(ROWS)
    assert torch.equal(torch.get_rng_state(), before)


def test_grid_search_in_a_pipeline_picks_the_model_that_scores_higher():
    search = GridSearchCV(
        make_pipeline(MinMaxScaler(), VAE(network="iwae", batch_size=32)), {"vae__epochs": [1, 15]}, cv=2
    )
    assert search.fit(ROWS).best_params_ == {"vae__epochs": 15}


@pytest.mark.parametrize("unknown", [-1, np.nan, None])
def test_labels_that_are_not_known_are_no_class(unknown):
    y = np.array([2, 5, 2, 5], dtype=object if unknown is None else float)
    y[1] = unknown
    indices, classes = indices_of(y, 4)
    assert (indices.tolist(), classes.tolist()) == ([0, -1, 0, 1], [2, 5])


def test_minus_1_and_1_are_two_classes_and_without_a_label_there_is_none():
    assert indices_of([-1, 1, 1], 3)[1].tolist() == [-1, 1]
    with pytest.raises(ValueError, match="no label is known"):
        indices_of([None, -1, None], 3)
    with pytest.raises(ValueError, match="y holds one class"):
        FewLabelsClassifier().fit(ROWS, np.where(np.arange(120) < 9, 4, np.nan))


@pytest.mark.parametrize("kind", [FewLabelsClassifier, GaussianMixtureVAE])
def test_a_few_known_labels_classify_the_rest(kind):
    y = np.full(120, -1)
    for label in range(3):
        y[np.flatnonzero(label == KIND)[:4]] = label
    estimator = kind(epochs=20, batch_size=32).fit(ROWS, y)
    assert estimator.classes_.tolist() == [0, 1, 2]
    assert (estimator.predict(ROWS) == KIND).mean() > 0.95
    assert estimator.predict_proba(ROWS).shape == (120, 3)


def test_text_columns_data_frames_and_saving(tmp_path):
    frame = pd.DataFrame(ROWS, columns=["a", "b", "c"]).assign(kind=np.array(["ape", "bee", "cat"])[KIND])
    model = GaussianMixtureVAE(clusters=3, epochs=3).fit(frame).set_output(transform="pandas")
    z = model.transform(frame[["kind", "c", "b", "a"]][["a", "b", "c", "kind"]])
    assert z.columns.tolist() == ["gaussianmixturevae0", "gaussianmixturevae1"]
    model.save(tmp_path / "run")
    again = GaussianMixtureVAE.load(tmp_path / "run")
    assert again.get_params() == model.get_params()
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    np.testing.assert_array_equal(again.score_samples(frame), model.score_samples(frame))
    np.testing.assert_array_equal(open_run(tmp_path / "run").encode(frame), z)
    frame.to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "z.npz"
    assert verbs(["encode", str(tmp_path / "run"), "--data", str(tmp_path / "new.csv"), "--out", str(out)]) == 0
    np.testing.assert_allclose(np.load(out)["z"], z, rtol=1e-5)
    with pytest.raises(UserError, match="holds a GaussianMixtureVAE, not a VAE"):
        VAE.load(tmp_path / "run")
    assert "y ~" in again.story().text
    assert model.inverse_transform(z.to_numpy()).shape == (120, 6)
    assert model.sample(5, y=1).shape == (5, 6)


def test_wine_is_reconstructed_no_worse_than_by_its_mean():
    x = load_wine().data
    model = Autoencoder(latent_dim=5, epochs=30, batch_size=32, network="linear", learning_rate=0.01).fit(x)
    error = ((model.reconstruct(x) - x) / x.std(0)) ** 2
    assert error.mean() < 0.5
    assert model.score(x) == pytest.approx(model.score_samples(x).mean())


def test_images_and_several_attributes():
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 6), dtype=np.uint8)
    bright = np.where(np.arange(60) % 2, "bright", "dark")
    images[bright == "bright"] //= 4
    y = np.stack([bright, np.arange(60) % 3], 1).astype(object)
    y[:5, 1] = None
    model = JMVAE(width=32, epochs=15, steps=10).fit(images, y)
    predicted = model.predict(images)
    assert predicted.shape == (60, 2)
    assert (predicted[:, 0] == bright).mean() > 0.95
    assert model.sample(2, y1="dark").shape == (2, 1, 6, 6)
    named = JMVAE(width=8, epochs=1, steps=1).fit(
        images, pd.DataFrame({"light": pd.Categorical(bright), "turn": y[:, 1]})
    )
    assert named.sample(2, light="dark", turn=2).shape == (2, 1, 6, 6)
    assert model.transform(images).shape == (60, 2)
