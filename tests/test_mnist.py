"""Figures of the real data set."""

import json
import os
from pathlib import Path

import pytest
import torch

from pyro_models.cli.train import main
from pyro_models.data import load

MNIST = Path(os.environ.get("PYRO_MODELS_DATA", "datasets"))
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not (MNIST / "MNIST/raw").is_dir(), reason=f"no MNIST in {MNIST}: set PYRO_MODELS_DATA"),
]


def trained(words, folder):
    torch.set_default_dtype(torch.float32)
    assert main([*words, "--data", "mnist", "--out", str(folder)]) == 0
    return json.loads((folder / "results.json").read_text())["test"]


def test_one_epoch_of_the_articles_vae(tmp_path):
    """Seed 1 gave 171.8 nats per image, grey pixels."""
    assert -176 < trained(["vae", "--preset", "kingma", "--epochs", "1"], tmp_path / "run")["elbo"] < -164


def test_a_linear_tied_autoencoder_comes_within_half_a_percent_of_pca(tmp_path):
    dataset = load("mnist", data_dir=MNIST)
    train, test = ((split.x / 255.0).double().flatten(1) for split in (dataset.train, dataset.test))
    mean = train.mean(0)
    components = torch.linalg.eigh((train - mean).T @ (train - mean)).eigenvectors[:, -20:]
    residual = (test - mean) - (test - mean) @ components @ components.T
    pca = residual.square().mean().item()
    words = ["autoencoder", "--network", "linear", "--tied", "--latent-dim", "20", "--epochs", "30"]
    assert trained(words, tmp_path / "run")["mse"] == pytest.approx(pca, rel=0.005)
