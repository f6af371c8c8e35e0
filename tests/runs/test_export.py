"""Runs for other programs and other people: exported networks give the run's numbers, copies open without the data."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pyro_models.base.errors import UserError
from pyro_models.cli.verbs import main as verbs
from pyro_models.recipes import GMVAERecipe
from pyro_models.recipes.hvae import HVAERecipe
from pyro_models.runs import RunOptions, export, open_run, push, train

RNG = np.random.default_rng(0)
ROWS = {"a": RNG.normal(5000, 100, 60), "b": RNG.normal(3, 0.01, 60)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on a table of one's own that has clusters, latents and a posterior."""
    folder = tmp_path_factory.mktemp("home")
    torch.set_default_dtype(torch.float32)
    lines = [f"{a},{b}" for a, b in zip(*ROWS.values(), strict=True)]
    (folder / "own.csv").write_text("\n".join(["a,b", *lines]))
    recipe = GMVAERecipe.preset("table", data=folder / "own.csv", start="random", epochs=1, batch_size=30)
    train(recipe, RunOptions(out=folder / "run", device="cpu"))
    return folder / "run"


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


@pytest.mark.filterwarnings("ignore")  # of torch.export, whose modules announce their next version
def test_exported_networks_give_the_runs_numbers_for_any_number_of_rows(folder, tmp_path, capsys):
    assert verbs(["export", str(folder), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / f"{name}")
        for name in ("classifier.pt2", "encoder.pt2", "posterior.pt2", "decoder.pt2", "signature.json")
    ]
    signature = json.loads((tmp_path / "signature.json").read_text())
    columns = signature["encoder.pt2"]["x"]
    assert [each["column"] for each in columns] == ["a", "b"]
    raw = np.stack([*ROWS.values()], 1)
    loc, scale = (np.array([each[part] for each in columns]) for part in ("loc", "scale"))
    x = torch.tensor((raw - loc) / scale, dtype=torch.float32)
    parts = {
        name: torch.export.load(tmp_path / f"{name}.pt2").module() for name in ("classifier", "encoder", "decoder")
    }
    run = open_run(folder)
    with torch.no_grad():
        np.testing.assert_allclose(parts["classifier"](x), run.predict(ROWS).probabilities, atol=1e-5)
        z = parts["encoder"](x)
        np.testing.assert_allclose(z, run.encode(ROWS), atol=1e-4)
        for n in (1, 7):
            np.testing.assert_allclose(parts["decoder"](z[:n]) * scale + loc, run.decode(z[:n]), rtol=1e-4)


def test_what_cannot_be_exported_is_refused_by_its_reason(folder, tmp_path, monkeypatch):
    run = open_run(folder)
    monkeypatch.setattr("pyro_models.runs.exporter.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnx and onnxscript: pip install 'pyro-stories\[onnx\]'"):
        export(run, tmp_path, "onnx")
    levels = HVAERecipe(data=RNG.random((30, 4, 4)), epochs=1, batch_size=15)
    with pytest.raises(UserError, match="several levels of latents"):
        export(train(levels, RunOptions(out=tmp_path / "run", device="cpu")))


def test_a_copy_has_a_card_and_opens_without_its_data(folder, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "copy"
    assert verbs(["push", str(folder), str(copy)]) == 0
    assert capsys.readouterr().out.strip() == str(copy)
    for path in copy.glob("*.json"):
        assert str(folder.parent) not in path.read_text()  # nor where they lay
    assert not list(copy.glob("checkpoint*"))
    card = (copy / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: pyro-stories\n")
    assert "# gmvae on own.csv" in card
    assert "y ~ OneHotCategorical" in card.split("## Story")[1]
    assert "| elbo |" in card.split("## Results")[1]
    assert "`pyro-stories check RUN`" in card.split("## Checks")[1]
    hidden = folder.parent / "own.csv"
    text = hidden.read_text()
    hidden.unlink()
    try:
        np.testing.assert_array_equal(open_run(copy).encode(ROWS), open_run(folder).encode(ROWS))
    finally:
        hidden.write_text(text)
    with pytest.raises(UserError, match="is not empty: give a new folder"):
        push(open_run(folder), copy)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert verbs(["encode", "hub:me/mine", "--out", "z.csv"]) == 2
    assert "pip install 'pyro-stories[hub]'" in capsys.readouterr().err


class Hub:
    """A hub in a folder, in place of the package, which is an extra."""

    def __init__(self, folder):
        self.folder = folder
        self.HfApi = lambda: self
        self.snapshot_download = lambda name: str(folder / name)

    def create_repo(self, name, exist_ok):
        (self.folder / name).mkdir(parents=True)

    def upload_folder(self, folder_path, repo_id):
        (self.folder / repo_id).rmdir()
        __import__("shutil").copytree(folder_path, self.folder / repo_id)
        return f"hub/{repo_id}"


def test_a_run_is_pushed_to_the_hub_and_opened_from_it(folder, tmp_path, monkeypatch):
    hub = Hub(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert push(open_run(folder), "hub:me/mine") == "hub/me/mine"
    np.testing.assert_array_equal(open_run("hub:me/mine").encode(ROWS), open_run(folder).encode(ROWS))
    monkeypatch.setattr(hub, "snapshot_download", SimpleNamespace)
    with pytest.raises(UserError, match="cannot open hub:me/other"):
        open_run("hub:me/other")
