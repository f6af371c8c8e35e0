"""The list of runs, the page of results and the README say the same; a run that was interrupted goes on."""

import contextlib
import json
import re
import sys
from importlib import import_module

import pytest

from pyro_models.recipes import RECIPES
from tests.test_docs import PAGES, ROOT, prose

sys.path.insert(0, str(ROOT / "benchmarks"))
reproduce = import_module("reproduce")
RESULTS = ROOT / "benchmarks/RESULTS.md"
HEADS = ("log-scale", "log-variance", "softplus")
RUN = {"name": "points", "table": "points", "command": "gmvae --preset table --data blobs", "seeds": 2}


def test_the_page_and_the_readme_are_made_from_the_list():
    runs, kept = reproduce.listed(), json.loads(reproduce.KEPT.read_text())
    commands = {run["name"]: run["command"] for run in runs}
    assert len(commands) == len(runs)
    assert {name: entry["command"] for name, entry in kept.items()}.items() <= commands.items()
    assert reproduce.page(RESULTS.read_text(), runs, kept) == RESULTS.read_text()
    assert reproduce.readme(reproduce.README.read_text(), runs, kept) == reproduce.README.read_text()
    assert {run["table"] for run in runs} | {"measured"} == set(
        re.findall(r"<!-- table: (\S+) -->", RESULTS.read_text())
    )


@pytest.mark.parametrize("page", [page for page in PAGES if page != RESULTS], ids=lambda page: page.stem)
def test_no_figure_of_another_page_stands_there_alone(page):
    for number in re.findall(r"(\d+\.\d+) ?(?:%|per cent|nats)", prose(page)):
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", RESULTS.read_text()), number


def test_runs_are_chosen_by_their_name_by_their_table_or_by_how_they_begin():
    def names(*words):
        return {run["name"] for run in reproduce.listed(words)}

    assert names("gmvae") == {"gmvae"}
    assert names("labels") == {run["name"] for run in reproduce.listed() if run["table"] == "labels"}
    assert names("burda-1", "heads-vae") == {"burda-1", *(f"heads-vae-{head}" for head in HEADS)}
    with pytest.raises(SystemExit, match="no run and no table is called vea, or begins so"):
        names("vae", "vea")


def test_quick_runs_make_a_tenth():
    vae, joint = RECIPES["vae"], RECIPES["jmvae"]
    assert reproduce.tenth(vae(epochs=60)) == vae(epochs=6)
    assert reproduce.tenth(vae(epochs=3)) == vae(epochs=1)
    assert reproduce.tenth(joint(epochs=5, steps=4000)) == joint(epochs=1, steps=2000)
    assert reproduce.tenth(joint(epochs=40)) == joint(epochs=4)


class Process:
    """A training that has ended."""

    returncode = 0

    def poll(self):
        return 0

    def wait(self):
        return 0


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Trainings that write at once what they would in an hour; the second is interrupted in its third epoch."""
    interrupted = []

    def start(job):
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "recipe.json").write_text(json.dumps(job.recipe.as_json()))
        rows = ["seconds,evaluation_seconds,test_accuracy", *["30,0,0.5"] * (3 if not interrupted else 100)]
        if job.seed == 2 and not interrupted:
            interrupted.append(job)
            (job.folder / "metrics.csv").write_text("\n".join(rows))
            raise KeyboardInterrupt
        (job.folder / "metrics.csv").write_text("\n".join(rows))
        scores = {"test": {"accuracy": 0.9 + 0.02 * job.seed}, "validation": {"accuracy": 0.9}}
        results = {"recipe": "gmvae", "seed": job.seed, "seconds": 600, "command": job.recipe.command()}
        (job.folder / "results.json").write_text(json.dumps(results | scores))
        return Process()

    monkeypatch.setattr(reproduce, "start", start)
    return tmp_path


def test_what_was_interrupted_goes_on_and_earlier_figures_stay_until_then(folders, capsys):
    jobs, updates = reproduce.jobs_of([RUN], folders), []
    with pytest.raises(SystemExit):
        reproduce.train(jobs, 1, {}, lambda: updates.append(1))
    assert [job.commands() == [] for job in jobs] == [True, False]
    assert jobs[1].commands()[0][2:] == ["gmvae", "--out", str(jobs[1].folder), "--resume"]
    scores = {"seeds": [1, 2], "part": "", "cells": {"accuracy": "91.0"}, "minutes": "9", "measured": "then"}
    earlier = {"points": {"command": RUN["command"], "runs": [scores]}}
    assert reproduce.shown(reproduce.keep(earlier, [RUN], folders)["points"]) == scores
    assert reproduce.shown(reproduce.keep({}, [RUN], folders)["points"])["seeds"] == [1]
    assert reproduce.measured(jobs[1])["part"] == "after 3 of 100 epochs"
    assert "3 of 100 epochs" in reproduce.progress(jobs, [jobs[1]], [], [], 1, {})
    assert reproduce.train(jobs, 2, {}, lambda: updates.append(1))
    kept = reproduce.keep(earlier, [RUN], folders)
    entry = reproduce.shown(kept["points"])
    assert entry["cells"]["accuracy"] == "93.0 ± 1.4 (92.0, 94.0)"
    assert entry["minutes"] == "10.0"
    for better, answer in ((92.9, "yes"), (93.2, "no: of two seeds")):
        run = RUN | {"theirs": {"accuracy": better}, "source": "a paper", "note": "of two seeds"}
        assert reproduce.reached(run, entry["cells"]).startswith(answer)
        assert f"accuracy {better} (a paper)" in reproduce.table("points", [run], kept)


def test_trainings_of_several_days_and_machines_make_one_mean(folders):
    run, kept = RUN | {"seeds": 3}, {}
    for device, seeds in (("a GPU", (1, 2)), ("cpu", (2, 3))):
        here = folders / device
        for job in reproduce.jobs_of([run], here):
            if job.seed not in seeds:
                continue
            with contextlib.suppress(KeyboardInterrupt):
                reproduce.start(job)
            reproduce.start(job)
            machine = {"threads": 1, "cores": 2, "processor": "x86_64", "device": device}
            path = job.folder / "results.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": machine}))
        kept = reproduce.keep(kept, [run], here)
    entry = reproduce.shown(kept["points"])
    assert entry["seeds"] == [1, 2, 3]
    assert entry["cells"]["accuracy"] == "94.0 ± 2.0 (92.0, 94.0, 96.0)"
    assert [part.rpartition(", ")[2] for part in entry["measured"].split("; ")] == ["a GPU", "cpu"]
    other = reproduce.keep(kept, [run | {"command": f"{RUN['command']} --beta 2"}], folders / "none")
    assert other == kept
    assert reproduce.keep(kept, [run], folders / "none") == kept


def test_cells_of_several_seeds_have_the_mean_of_each_number():
    assert reproduce.over_seeds(["grey pixels, 1 quadrant"] * 2) == "grey pixels, 1 quadrant"
    assert reproduce.over_seeds(["-90.2 (500)", "-90.4 (500)"]) == "-90.3 (500) ± 0.1 (-90.2 (500), -90.4 (500))"
    assert reproduce.over_seeds(["0.70%", "0.80%"]) == "0.75% ± 0.07 (0.70%, 0.80%)"
    assert reproduce.over_seeds(["2.5 + 1.2", "2.7 + 1.0"]) == "2.6 + 1.1"
    with pytest.raises(ValueError, match="zip"):
        reproduce.over_seeds(["2.5 + 1.2", "2.7"])


def test_another_default_makes_another_run_and_an_estimate_follows_the_training(folders):
    (job,) = reproduce.jobs_of([RUN | {"seeds": 1, "samples": 50, "gap": 3}], folders)
    reproduce.start(job)
    assert [words[2:] for words in job.commands()] == [
        ["pyro_models", "likelihood", str(job.folder), "--samples", "50", "--gap", "3"]
    ]
    other = reproduce.Job(RUN | {"command": f"{RUN['command']} --beta 2"}, 1, job.folder)
    assert other.commands()[0][-1] == "--overwrite"
    assert other.results() == {}


def test_a_run_that_starts_from_another_waits_for_it(folders, capsys):
    second = RUN | {"name": "further", "command": f"{RUN['command']} --initial-weights {{points}}", "seeds": 1}
    (first,), (later,) = (reproduce.jobs_of([run | {"seeds": 1}], folders) for run in (RUN, second))
    assert later.recipe.initial_weights == str(first.folder)
    assert not reproduce.train([later], 2, {}, lambda: None)
    assert "not begun, for want of the runs that they start from: further, seed 1" in capsys.readouterr().out
    assert reproduce.train([later, first], 2, {}, lambda: None)
    assert later.commands() == first.commands() == []
    assert [later.can_start(others) for others in ([], [later], [first])] == [True, True, False]
    assert "--initial-weights runs/points`" in reproduce.command(second, 1)


@pytest.mark.parametrize(("python", "good"), [("true", True), ("false", False)])
def test_a_training_that_fails_is_reported(python, good, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "PYTHON", python)
    assert reproduce.train(reproduce.jobs_of([RUN], tmp_path), 2, {}, lambda: None) == good
    assert ("failed: points, seed 1" in capsys.readouterr().out) == (not good)
    assert (tmp_path / "points/seed-2.log").exists()
