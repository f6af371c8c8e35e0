"""What all tests stand on: float64, validation on, one seed, and pairs small enough for seconds."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # models this small only lose by more, here and in the processes that tests start
os.fsync = lambda descriptor: None  # what tests write need not outlast a loss of power, and they would wait for each

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro_models.guides.vae import VAEGuide

from pyro_models import nn, plots
from pyro_models.distributions import bernoulli
from pyro_models.vae import VAE

IMAGE = (1, 4, 4)


for accelerators in (torch.cuda, torch.xpu, torch.mtia):
    if not accelerators.is_available():  # each `torch.manual_seed` notes a traceback for its first use, of a deep stack
        accelerators.manual_seed_all = lambda seed: None


@pytest.fixture(autouse=True)
def exact():
    """Run each test in float64, with argument validation, from one seed, in an empty parameter store."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    with pyro.validation_enabled(True), pyro.get_param_store().scope():
        yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def sketched(monkeypatch):
    """Write figures coarsely, without arranging their panels, and let two coordinates be t-SNE: see tests/plots."""

    def sketch(figure, path):
        figure.set_layout_engine("none")
        figure.savefig(path, dpi=20)

    monkeypatch.setattr(plots, "save", sketch)
    monkeypatch.setattr(plots, "tsne", lambda points, seed=0: F.pad(points.flatten(1).cpu(), (0, 1))[:, :2])


@pytest.fixture
def vae():
    """A VAE of 4x4 images with two latents, and its guide."""
    model = VAE(nn.decoder(nn.mlp(2, 8, 16), IMAGE), bernoulli, 2)
    return model, VAEGuide(nn.encoder(nn.mlp(16, 8, 4), IMAGE))


@pytest.fixture
def x():
    """Seven binary images."""
    return torch.bernoulli(torch.rand(7, *IMAGE))


LONGEST = (
    "test_matrix.py", "test_recipes.py", "test_docs.py", "test_jmvae.py", "test_train.py",
    "test_estimators.py", "test_clusters.py", "test_page.py", "test_pictures.py", "test_processes.py",
    "test_capture.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Start with the longest files, or one process would be left alone with one of them."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
