"""Networks of one's own take the place of a recipe's encoder and decoder, with any estimator of the bound."""

import dataclasses
import sys
import types

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from pyro_models.base.errors import UserError
from pyro_models.data import load
from pyro_models.nn import Folded, own_network
from pyro_models.recipes import AutoencoderRecipe, GMVAERecipe, JMVAERecipe, VAERecipe
from pyro_models.runs import RunOptions, open_run, train
from pyro_models.sklearn import VAE

IMAGES = {"images": np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8), "labels": np.arange(40) % 2}


class Encoder(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, outputs))

    def forward(self, x):
        return self.body(x)


class Decoder(nn.Module):
    def __init__(self, latent_dim):
        super().__init__()
        self.first, self.rest = nn.Linear(latent_dim, 64), nn.ConvTranspose2d(4, 1, 4, 2, 1)

    def forward(self, z):
        return self.rest(self.first(z).relu().reshape(-1, 4, 4, 4))  # one batch dimension, no more


@pytest.fixture
def single():
    torch.set_default_dtype(torch.float32)


def test_dimensions_left_of_the_batch_are_folded():
    network = Decoder(3)
    z = torch.randn(5, 2, 3)
    expected = torch.stack([network(each) for each in z])
    torch.testing.assert_close(Folded(network)(z), expected)


@pytest.mark.parametrize(
    "recipe",
    [
        VAERecipe(latent_dim=3, elbo="iwae", particles=4),
        VAERecipe(latent_dim=3),
        AutoencoderRecipe(latent_dim=3),
        GMVAERecipe(latent_dim=3, clusters=2, elbo="enum"),
        JMVAERecipe(latent_dim=3, width=16),
    ],
)
def test_every_recipe_and_estimator_takes_them(single, recipe):
    own = dataclasses.replace(recipe, encoder=Encoder, decoder=Decoder, data=IMAGES)
    dataset = load(IMAGES)
    own.check_data(dataset)
    model, guide = own.pair(dataset)
    batches = own.batches(dataset, size=8, steps=1)
    loss = own.training_objective(guide, dataset.train)(model, guide, **next(batches.epoch(0)))["loss"]
    loss.backward()
    for network, kind in ((model, Decoder), (guide, Encoder)):
        (mine,) = (part for part in network.modules() if isinstance(part, kind))
        assert all(weight.grad.abs().sum() > 0 for weight in mine.parameters())


def test_a_run_keeps_their_name_and_takes_them_again_where_they_were_in_memory(single, tmp_path, monkeypatch):
    module = types.ModuleType("mynets")
    module.Encoder, module.Decoder = Encoder, Decoder
    monkeypatch.setitem(sys.modules, "mynets", module)
    monkeypatch.setattr("pyro_models.report.pictures.write_pictures", lambda run: None)
    common = {"data": IMAGES, "epochs": 1, "batch_size": 16, "latent_dim": 3}
    named = train(
        VAERecipe(encoder="mynets:Encoder", decoder="mynets:Decoder", **common), RunOptions(out=tmp_path / "a")
    )
    x = IMAGES["images"]
    np.testing.assert_array_equal(open_run(tmp_path / "a").encode(x), named.encode(x))
    networks = {"encoder": Encoder(6), "decoder": Decoder(3)}
    given = train(VAERecipe(**networks, **common), RunOptions(out=tmp_path / "b"))
    with pytest.raises(UserError, match=r"test_own:Encoder\] was in memory and is not stored: give it again"):
        open_run(tmp_path / "b")
    np.testing.assert_array_equal(open_run(tmp_path / "b", **networks).encode(x), given.encode(x))


def test_an_estimator_takes_them_and_leaves_them_as_they_are(single):
    encoder = Encoder(4)
    before = encoder.body[0].weight.clone()
    model = VAE(encoder=encoder, decoder=Decoder(2), epochs=1)
    assert clone(model).fit(IMAGES["images"]).transform(IMAGES["images"]).shape == (40, 2)
    model.fit(IMAGES["images"])
    assert torch.equal(encoder.body[0].weight, before)


def test_what_does_not_fit_is_named_in_one_line():
    with pytest.raises(UserError, match=r"`encoder` maps \[2, 1, 8, 8\] to \[2, 5\], and \[2, 4\] is needed"):
        own_network("encoder", Encoder(5), (1, 8, 8), [4])
    with pytest.raises(UserError, match=r"`encoder` fails on zeros of shape \[2, 1, 9, 9\]: "):
        own_network("encoder", Encoder(4), (1, 9, 9), [4])
    with pytest.raises(UserError, match=r"`decoder=no.such:Net`: No module named 'no'; give MODULE:CLASS"):
        own_network("decoder", "no.such:Net", [2], [4])
    with pytest.raises(UserError, match="makes a list, not a module"):
        own_network("decoder", lambda: [], [2], [4])
