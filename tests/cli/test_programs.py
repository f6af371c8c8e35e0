"""`check` and `story` of a program of one's own: its data, its trained parameters, and what cannot be loaded."""

from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_models.cli.programs import load_pair
from pyro_models.cli.verbs import main as verbs

SOURCE = """
import pyro, pyro.distributions as dist, torch

def model(y, scale=1.0):
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("people", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)

def guide(y, scale=1.0):
    concentration = pyro.param("concentration", torch.tensor(1.0), constraint=dist.constraints.positive)
    pyro.sample("rate", dist.Gamma(concentration, 100.0))

class Regression:
    def __init__(self):
        self.network = torch.nn.Linear(2, 1)

    def model(self, x, y):
        pyro.module("network", self.network)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(self.network(x)[:, 0], 1.0), obs=y)

regression = Regression()

def table(rows):
    with pyro.plate("data", len(rows)):
        pyro.sample("row", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=rows)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a module of its own name, its data, and single precision as on the command line."""
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    y = np.random.default_rng(0).negative_binomial(1, 0.2, 100)
    np.savez("counts.npz", y=y, scale=2.0)
    (tmp_path / "counts.csv").write_text("y,id\n" + "\n".join(f"{value},a" for value in y))
    pyro.param("concentration", torch.tensor(float(y.sum())), constraint=dist.constraints.positive)
    pyro.get_param_store().save("store.pt")
    pyro.clear_param_store()
    return name


def stars(printed, row):
    (line,) = [line for line in printed.splitlines() if line.startswith(f"| y: {row} |")]
    return line.count("*")


def test_a_program_is_checked_with_the_parameters_of_its_store(folder, capsys):
    words = ["check", f"{folder}:model,{folder}:guide", "--data", "counts.npz", "--params", "store.pt"]
    assert verbs([*words, "--statistic", "torch:mean", "--arviz", "draws.nc"]) == 0
    printed = capsys.readouterr().out
    assert [stars(printed, row) for row in ("mean", "variance / mean", "torch:mean")] == [0, 2, 0]
    assert printed.strip().endswith("draws.nc")


def test_without_a_guide_the_prior_alone_is_checked_and_columns_are_arguments(folder, capsys):
    assert verbs(["check", f"{folder}:model", "--data", "counts.csv", "--replicates", "39"]) == 0
    printed = capsys.readouterr().out
    assert stars(printed, "variance / mean") == 1
    assert "of 4 checks fail at 5 %" in printed


@pytest.mark.parametrize("saved", ["store", "state", "by name"])
def test_parameters_reach_modules_in_each_form(saved, folder):
    module = __import__(folder)
    network = torch.nn.Linear(2, 1)
    network.weight.data[:] = torch.tensor([[2.0, -3.0]])
    if saved == "store":
        pyro.module("network", network)
        pyro.get_param_store().save("p.pt")
        pyro.clear_param_store()
    else:
        state = network.state_dict()
        torch.save(state if saved == "state" else {"model": state}, "p.pt")
    np.savez("d.npz", x=np.ones((3, 2)), y=np.ones(3))
    load_pair(f"{folder}:regression.model", Path("d.npz"), Path("p.pt"))
    assert module.regression.network.weight.tolist() == [[2.0, -3.0]]


def test_a_table_is_the_one_argument_of_a_model(folder, tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3.5,\n")
    _, _, arguments = load_pair(f"{folder}:table", tmp_path / "t.csv")
    torch.testing.assert_close(arguments["rows"], torch.tensor([[1.0, 2.0], [3.5, torch.nan]]), equal_nan=True)


def test_the_story_of_a_program(folder, capsys):
    assert verbs(["story", f"{folder}:model,{folder}:guide", "--data", "counts.npz"]) == 0
    assert "p(y, rate) = p(rate) ∏_people p(y | rate)" in capsys.readouterr().out


def test_estimators_train_a_program_and_what_does_not_says_why(folder, capsys):
    words = ["compare", f"{folder}:model,{folder}:guide", "--data", "counts.npz", "--elbo", "trace,graph,dreg"]
    assert verbs([*words, "--train", "0.01", "--particles", "2,3"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row[0] for row in rows[2:]] == ["| trace", "| graph", "| dreg of 2", "| dreg of 3"]
    assert all(float(row[2]) < 0 for row in rows[2:])
    for option, value in (("--particles", "1,x"), ("--train", "-1")):
        with pytest.raises(SystemExit, match="2"):
            verbs([*words, option, value])
        assert f"compare: {option} must be" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "words", "complaint"),
    [
        ("compare", ["--device", "cuda"], "--device goes with a run, not with a program"),
        ("compare", ["--batches", "7"], "--batches goes with a run, not with a program"),
        ("compare", ["--format", "pdf"], "--format goes with a run, not with a program"),
        ("compare", ["--train", "1", "--draws", "7"], "--draws goes with estimators at the weights as they are"),
        ("likelihood", ["--gap", "50"], "--gap goes with a run, not with a program"),
        ("likelihood", ["--data-dir", "d"], "--data-dir goes with a run, not with a program"),
        ("check", ["--split", "train"], "--split goes with a run, not with a program"),
    ],
)
def test_options_that_would_do_nothing_for_a_program_are_refused(verb, words, complaint, folder, capsys):
    with pytest.raises(SystemExit, match="2"):
        verbs([verb, f"{folder}:model,{folder}:guide", "--data", "counts.npz", *words])
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["M:modl"], "has no attribute 'modl'; give MODULE:NAME"),
        (["nowhere:model"], "No module named 'nowhere'; give MODULE:NAME"),
        (["M:Regression"], "is a class: name an instance of it"),
        (["M:model"], "does not take the arrays of the data, no arguments: missing a required argument: 'y'"),
        (["M:regression.model", "--data", "counts.npz"], "does not take the arrays of the data, y, scale"),
        (["M:model", "--data", "none.npz"], "cannot read none.npz: No such file or directory"),
        (["M:model", "--data", "counts.txt"], "--data counts.txt: give a .npz file"),
        (["M:regression.model", "--data", "t.csv"], "no column of t.csv is an argument of the model, x, y"),
        (["M:model", "--data", "text.csv"], "the column 'y' of text.csv holds no number"),
        (
            ["M:model,pyro.infer.autoguide:AutoNormal", "--data", "counts.npz"],
            "not trained: give its parameters, --params",
        ),
        (["M:model", "--data", "counts.npz", "--params", "counts.csv"], "--params counts.csv cannot be loaded"),
        (["M:model", "--data", "counts.npz", "--params", "store.pt"], "no program has the parameter 'concentration'"),
        (["M:model", "--data", "counts.npz", "--params", "state.pt"], "0 modules of the programs have its parameters"),
    ],
)
def test_what_cannot_be_loaded_is_answered_in_one_line(words, complaint, folder, capsys, tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "text.csv").write_text("y\n1\nmany\n")
    torch.save({"weight": torch.zeros(2)}, "state.pt")
    assert verbs(["check", *(word.replace("M:", f"{folder}:") for word in words)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert complaint in line
