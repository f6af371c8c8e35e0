"""`python -m pyro_models check RUN`, on a run of every generative recipe and likelihood."""

import json

import pytest
import torch
from safetensors.torch import save_model

from pyro_models import report
from pyro_models.cli.train import parse
from pyro_models.cli.verbs import main as verbs
from pyro_models.report import checks
from pyro_models.runs.folder import build
from pyro_models.runs.origin import describe
from pyro_models.training.processes import Processes

RUNS = {
    "vae": ["vae", "--network", "article"],
    "table": ["gmvae", "--preset", "table", "--data", "iris"],
    "attributes": ["jmvae", "--width", "16", "--likelihood", "continuous-bernoulli"],
}
UNITS = {"vae": "grey pixels drawn black or white", "table": "standardised columns", "attributes": "grey pixels"}


@pytest.fixture(autouse=True)
def few_simulations(monkeypatch, sketched):
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(checks, "SIMULATIONS", 50)
    monkeypatch.setattr(checks, "REFERENCE", 100)
    monkeypatch.setattr(report, "write_page", lambda run: None)  # a page is of a trained run, and tested elsewhere


@pytest.fixture
def folder_of(tmp_path):
    """Make the folder of a run whose weights are the first ones."""

    def make(*words):
        recipe, _ = parse(list(words))
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "recipe.json").write_text(json.dumps(recipe.as_json()))
        dataset = recipe.load(None)
        describe(folder, recipe, dataset)
        run = build(recipe, dataset, folder, Processes(0, 1, torch.device("cpu")))
        save_model(run.pair, str(folder / "model.safetensors"))
        return folder

    return make


@pytest.mark.filterwarnings("ignore")  # of ArviZ, which announces its next version
@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_checked_and_all_is_written(name, folder_of, capsys, tmp_path):
    folder = folder_of(*RUNS[name])
    words = ["check", str(folder), "--data", "12", "--replicates", "39", "--split", "validation"]
    state = torch.get_rng_state()
    words += ["--arviz", str(tmp_path / "draws.nc")] if name == "table" else []
    assert verbs([*words, "--statistic", "torch:mean", "--seed", "3"]) == 0
    assert torch.equal(torch.get_rng_state(), state)
    printed = capsys.readouterr().out
    written = json.loads((folder / "checks.json").read_text())
    assert (written["split"], written["replicates"], written["seed"]) == ("validation", 39, 3)
    assert written["unit"] == UNITS[name]
    assert f"({written['data']} validation data, {UNITS[name]}; 39 replicates)" in printed
    names = [one["statistic"] for one in written["checks"]]
    assert "torch:mean" in names
    for one in written["checks"]:
        for given in {"prior", "posterior"} & one.keys():
            assert 1 / 40 <= one[given]["p"] <= 1
            assert one[given]["sd"] >= 0
    results = [one[given] for one in written["checks"] for given in ("prior", "posterior") if given in one]
    assert written["failed"] == sum(result["two_sided"] <= 0.05 for result in results)
    assert written["expected_to_fail"] == pytest.approx(0.05 * len(results), abs=0.01)
    assert printed.count("\n| ") == len(names) + 1
    sites = {"table": {"x", "y"}, "attributes": {"x", "y1", "y2"}}.get(name, {"x"})
    assert {one["site"] for one in written["checks"]} == sites
    assert all(sum(one["counts"]) == written["simulations"] for one in written["calibration"])
    if name == "table":
        import xarray  # with pandas, which is slow to import

        with xarray.open_dataset(tmp_path / "draws.nc", group="posterior_predictive", engine="h5netcdf") as group:
            assert group["x"].shape[:2] == (1, 100)
            assert set(group.data_vars) == sites - {"y"}
    pictures = {path.name for path in (folder / "figures").glob("check-*.png")}
    assert pictures == {"check-statistics.png", "check-ranks.png"} | (
        {"check-pixel-means.png"} if name != "table" else set()
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--replicates", "0"], "--replicates must be at least 39, not 0"),
        (["--data", "1"], "--data must be at least 2, not 1"),
        (["--seed", "-1"], "--seed must be between 0 and 4294967295, not -1"),
        (["--split", "tset"], "invalid choice: 'tset'"),
        (["--replicate", "50"], "unknown option '--replicate': did you mean '--replicates'?"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(words, message, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        verbs(["check", str(tmp_path), *words])
    assert stop.value.code == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert message in error


def test_what_cannot_be_checked_is_said_in_one_line(folder_of, capsys, tmp_path):
    assert verbs(["check", str(tmp_path / "nowhere")]) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert verbs(["check", str(tmp_path), "--statistic", "ink"]) == 2
    assert "give MODULE:FUNCTION" in capsys.readouterr().err
    folder = folder_of("autoencoder", "--network", "linear")
    assert verbs(["check", str(folder)]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "there are no replicates to check" in error
    (folder / "seed-1").mkdir()
    assert verbs(["check", str(folder)]) == 2
    assert "runs of several seeds: give one of them" in capsys.readouterr().err


def test_a_statistic_of_the_wrong_shape_is_named(folder_of, capsys):
    folder = folder_of(*RUNS["table"])
    assert verbs(["check", str(folder), "--replicates", "39", "--statistic", "torch:sin"]) == 2
    assert "statistic 'torch:sin' gives" in capsys.readouterr().err
    assert torch.get_default_dtype() == torch.float32
