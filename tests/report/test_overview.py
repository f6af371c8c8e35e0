"""Pages of several runs, and of one that is training."""

import json

import pytest
import torch

from pyro_models.base.errors import UserError
from pyro_models.cli.verbs import main as verbs
from pyro_models.recipes import RECIPES
from pyro_models.report import write_overview
from pyro_models.training import checkpoint

UNIT = "nats per image"


def make_run(folder, elbos, epochs=4, finished=True, **options):
    """The folder of a run as far as pages read it."""
    (folder / "figures").mkdir(parents=True)
    recipe = RECIPES["vae"](**options, epochs=epochs)
    (folder / "recipe.json").write_text(json.dumps(recipe.as_json()))
    head = "epoch,seconds,train_elbo,validation_elbo,evaluation_seconds,unit"
    rows = [f"{k},30,{elbo + 1},{elbo},30,{UNIT}" for k, elbo in enumerate(elbos, 1)]
    (folder / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    if finished:
        results = {"recipe": "vae", "test": {"elbo": elbos[-1], "mse": 0.1}, "units": {"elbo": UNIT}, "seconds": 240}
        results |= {"command": recipe.command(), "epochs": epochs}
        (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_several_runs_stand_beside_each_other(tmp_path, page):
    first = make_run(tmp_path / "a", [-300.0, -200.0], beta=2.0)
    second = make_run(tmp_path / "b", [-310.0, -190.0])
    head, *rows = (second / "metrics.csv").read_text().splitlines()  # an epoch that was not evaluated
    (second / "metrics.csv").write_text("\n".join([head, f"0,30,-320.0,,0,{UNIT}", *rows]) + "\n")
    for run in (first, second):
        (run / "figures" / "02-prior-samples.png").write_bytes(b"")
    assert verbs(["report", str(first), str(second), "--out", str(tmp_path / "report.html")]) == 0
    page.goto((tmp_path / "report.html").as_uri())
    table = [row.split("\t") for row in page.locator("#runs tbody tr").all_inner_texts()]
    head = page.locator("#runs thead tr").inner_text().split("\t")
    assert head[:5] == ["run", "data", "epochs", "recipe", "beta"]
    assert [row[:5] for row in table] == [["a", "digits", "4", "vae", "2.0"], ["b", "digits", "4", "vae", "1.0"]]
    assert [row[-1] for row in table] == ["4.0", "4.0"]  # minutes
    assert page.locator("#runs a").first.get_attribute("href") == "a/report.html"
    assert page.locator("#curves polyline").count() == 2
    assert "b from -310 to -190" in page.locator("#curves svg").get_attribute("aria-label")
    assert page.locator("#pictures figcaption").all_inner_texts() == ["prior samples: a", "prior samples: b"]


def test_seeds_are_a_mean_with_a_band(tmp_path, page):
    for seed, elbos in ((1, [-300.0, -200.0]), (2, [-304.0, -208.0])):
        make_run(tmp_path / "s" / f"seed-{seed}", elbos, seed=seed)
    folder = make_run(tmp_path / "s" / "more", [-302.0, -204.0])
    for name in ("recipe.json", "results.json"):
        (folder / name).rename(tmp_path / "s" / name)
    other = make_run(tmp_path / "t", [-300.0, -200.0])
    assert verbs(["report", str(tmp_path / "s"), str(other), "--out", str(tmp_path / "report.html")]) == 0
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("#curves polygon").count() == 1
    label = page.locator("#curves svg").get_attribute("aria-label")
    assert "s from -302 to -204; t from -300 to -200" in label


def test_a_run_that_trains_is_watched_until_it_ends(tmp_path, page, monkeypatch, capsys):
    torch.set_default_dtype(torch.float32)
    folder = make_run(tmp_path, [-300.0, -250.0], finished=False)
    frames = {"examples": [0, 1], "epochs": [1], "images": [torch.zeros(2, 1, 28, 28, dtype=torch.uint8)]}
    checkpoint.save(folder / "checkpoint.pt", dict.fromkeys(checkpoint.KEYS) | {"frames": frames})
    monkeypatch.setattr("time.sleep", lambda seconds: (folder / "results.json").write_text("{}"))
    assert verbs(["watch", str(folder), "--seconds", "600"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "epoch 2 of 4, about 2.0 minutes left"
    page.goto((folder / "report.html").as_uri())
    assert "about 2.0 minutes left" in page.locator("header").inner_text()
    assert page.locator("polyline").count() == 2
    assert page.locator(".film").count() == 1
    assert page.locator("meta[http-equiv=refresh]").get_attribute("content") == "600"


def test_a_run_that_is_trained_further_is_watched_although_it_has_results(tmp_path, monkeypatch, capsys):
    torch.set_default_dtype(torch.float32)
    folder = make_run(tmp_path, [-300.0, -250.0])
    of_epochs = lambda number: (folder / "results.json").write_text(json.dumps({"epochs": number}))  # noqa: E731
    of_epochs(1)
    monkeypatch.setattr("time.sleep", lambda seconds: of_epochs(2))
    assert verbs(["watch", str(folder)]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == "epoch 2 of 4, about 2.0 minutes left"
    assert last.startswith("finished: ")


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no recipe\.json"):
        write_overview([tmp_path], tmp_path / "index.html", 6.0)
