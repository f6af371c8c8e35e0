"""The notebooks run from top to bottom in their short form, and end with the pictures they promise."""

from pathlib import Path

import jupytext
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PICTURES = {"autoencoder": 7, "checking": 6, "clustering": 21, "jmvae": 22, "vae": 8, "virtual_adversarial_training": 9}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # those of the client's own event loop
def test_a_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("PYRO_STORIES_SHORT", "1")
    notebook = jupytext.read(path)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= PICTURES[path.stem]
