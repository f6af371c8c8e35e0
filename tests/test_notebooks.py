"""The notebooks run from top to bottom in their short form, and end with the pictures they promise."""

import re
from pathlib import Path

import jupytext
import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.capture import capture_output
from matplotlib.figure import Figure
from nbclient import NotebookClient
from traitlets.config import Config

import pyro_models
from pyro_models.checking import predictive
from pyro_models.data import Batches

ROOT = Path(__file__).parents[1]
PICTURES = {
    "autoencoder": 5,
    "checking": 6,
    "clustering": 20,
    "estimators": 3,
    "jmvae": 22,
    "stories": 0,  # its graphs are SVG
    "vae": 8,
    "virtual_adversarial_training": 9,
}
FEW = {
    "EPOCHS": 2,
    "SETS": 1,
    "ROWS": 40,
    "HELD_OUT": 20,
    "SECONDS": 0.05,
    "epochs": 2,
    "samples": 10,
    "draws": 3,
    "steps": 5,
    "replicates": 5,
    "[:": 30,
}
"""Of what a notebook's short form sets by a name, and of the rows that it takes; here still less."""
SHORTENED = re.compile(rf"({'|'.join(map(re.escape, FEW))})( ?=? ?)(\d+) if SHORT")
every_notebook = pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.py")), ids=lambda path: path.stem)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setenv("PYRO_STORIES_SHORT", "1")
    monkeypatch.chdir(ROOT)


def few(match):
    return f"{match[1]}{match[2]}{min(FEW[match[1]], int(match[3]))} if SHORT"


def beginning(dataset):
    """The first of the data, of each split."""
    most = 300 if not dataset.is_table else 100
    return dataset.each(lambda name, part: part[: most if name == "train" else 100])


class Shell(InteractiveShell):
    """What a kernel runs its cells with, in this process: a kernel takes seconds to start and to import torch.

    A figure is drawn without arranging its panels and without its pixels, which takes longer than all else of it; the
    long test draws them in full."""

    def enable_matplotlib(self, gui=None):
        assert gui == "inline"
        self.display_formatter.formatters["image/png"].for_type(Figure, drawn)
        return gui, gui

    def show_open_figures(self, _):
        for number in plt.get_fignums():
            display(plt.figure(number))
            plt.close(number)


def drawn(figure):
    figure.set_layout_engine("none")
    figure.draw_without_rendering()
    return b"drawn"


@pytest.fixture(scope="module")
def shell():
    with matplotlib.rc_context():
        shell = Shell.instance(config=Config(HistoryManager={"enabled": False}))
        shell.events.register("post_run_cell", shell.show_open_figures)
        yield shell
    shell.restore_sys_module_state()
    Shell.clear_instance()


@every_notebook
def test_a_notebook_runs(path, shell, sketched, monkeypatch):
    """With few epochs of few steps on few data: here no figure of a notebook is judged."""
    steps, load = Batches.__len__, pyro_models.load
    monkeypatch.setattr(Batches, "__len__", lambda batches: min(steps(batches), 4))
    monkeypatch.setattr(pyro_models, "load", lambda *given, **options: beginning(load(*given, **options)))
    monkeypatch.setattr(predictive, "FEWEST_REPLICATES", FEW["replicates"])
    torch.set_default_dtype(torch.float32)
    shell.reset(new_session=False)
    pictures = 0
    for cell in jupytext.read(path).cells:
        if cell.cell_type == "code":
            with capture_output() as printed:
                result = shell.run_cell(SHORTENED.sub(few, cell.source))
            result.raise_error()
            assert not printed.stderr
            shown = [output.data for output in printed.outputs]
            shown.append(shell.display_formatter.format(result.result)[0])  # of the last line
            pictures += sum("image/png" in data for data in shown)
    assert pictures >= PICTURES[path.stem]


@pytest.mark.long
@every_notebook
@pytest.mark.filterwarnings("default")  # those of the client's own event loop
def test_a_notebook_runs_in_a_kernel(path):
    notebook = jupytext.read(path)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(ROOT)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    shown = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(shown) >= PICTURES[path.stem]
    assert len(set(shown)) == len(shown)  # none twice
