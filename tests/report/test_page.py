"""The page of a run, looked at in a browser."""

import base64
import dataclasses
import json
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from pyro_models.cli.train import main, parse
from pyro_models.cli.verbs import main as verbs
from pyro_models.data import one_hot_attributes
from pyro_models.metrics import decode
from pyro_models.report import pictures
from pyro_models.report.explorer import means
from pyro_models.report.page import write_page
from pyro_models.runs import folder as run_module
from pyro_models.training.processes import Processes

EXPLORED = [
    "vae",
    "vae --network article --latent-dim 5 --likelihood continuous-bernoulli",
    "vae --network article --likelihood normal --latent-dim 1",
    "autoencoder --network simple --tied",
    "gmvae",
    pytest.param("gmvae --network conv --latent-dim 2", marks=pytest.mark.long),
    "gmvae --preset table --data wine",
    "jmvae",
    "jmvae --network spatial --latent-dim 3",
    "jmvae --data digits --width 64",
]


@pytest.fixture(autouse=True)
def single():
    torch.set_default_dtype(torch.float32)


def untrained(words, folder):
    """A run that never was trained, with weights large enough for lively pictures."""
    recipe = parse(words.split())[0]
    run = run_module.build(recipe, recipe.load(None), folder, Processes(0, 1, torch.device("cpu")))
    with torch.no_grad():
        for weight in run.model.parameters():
            weight.mul_(2.0 if weight.ndim > 1 else 1.0)
        for part in run.model.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2.0)
    (folder / "figures").mkdir()
    test = {"elbo": -1.25}
    results = {"test": test, "validation": test, "units": {"elbo": "nats"}, "images": {"test": 3}}
    results |= {"epochs": 0, "seconds": 0, "command": recipe.command()}
    (folder / "results.json").write_text(json.dumps(results))
    return run.__class__(**(run.__dict__ | {"model": run.model.eval(), "guide": run.guide.eval()}))


def shown(page, run):
    """What the page shows of x: the picture's bytes, or the numbers of a table."""
    page.evaluate("() => new Promise(requestAnimationFrame)")
    if run.dataset.is_table:
        return torch.tensor([float(cell) for cell in page.locator("#heads td:nth-child(2)").all_inner_texts()])
    data = page.evaluate(
        "() => { const c = document.getElementById('picture'), copy = new OffscreenCanvas(c.width, c.height);"
        "const pen = copy.getContext('2d'); pen.drawImage(c, 0, 0);"
        "return [...pen.getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0); }"
    )
    return 1 - torch.tensor(data) / 255  # ink is dark


def code(page):
    return torch.tensor([page.evaluate("() => [...explorer.z]")], dtype=torch.float32)


def agrees(page, run, known=None):
    """Whether what is shown, and what is computed, is what Python decodes at the page's code."""
    z, tolerance = code(page), 0.006 if run.dataset.is_table else 0.5 / 255 + 1e-3
    image = shown(page, run)
    computed = page.evaluate("() => [...explorer.decode({z: explorer.z, ...explorer.given}).x]")
    expected = means(run.model, z=z, **(known or {}))["x"].flatten()
    torch.testing.assert_close(torch.tensor(computed), expected, rtol=0, atol=1e-3)
    bounded = expected if run.dataset.is_table else expected.clamp(0, 1)
    torch.testing.assert_close(image, bounded, rtol=0, atol=tolerance)
    return image


@pytest.mark.parametrize("words", EXPLORED)
def test_the_point_moves_and_the_picture_is_what_python_decodes(words, tmp_path, page):
    run = untrained(words, tmp_path)
    write_page(run, megabytes=50.0 if "conv" in words else 6.0)
    page.goto((tmp_path / "report.html").as_uri(), timeout=60_000)
    torch.testing.assert_close(means(run.model, z=code(page))["x"], decode(run.model, code(page)))
    seen = [agrees(page, run)]
    page.locator("#sliders input").first.focus()
    page.keyboard.press("End")
    seen.append(agrees(page, run))
    if run.recipe.latent_dim > 1:
        page.locator("#plane").scroll_into_view_if_needed()
        box = page.locator("#plane").bounding_box()
        places = [(box["x"] + share * box["width"], box["y"] + share * box["height"]) for share in (0.2, 0.8)]
        page.mouse.move(*places[0])
        page.mouse.down()
        page.mouse.move(*places[1])
        page.mouse.up()
        seen.append(agrees(page, run))
        page.mouse.move(*places[0])  # nothing is held
        assert torch.equal(agrees(page, run), seen[-1])
        before = code(page)
        page.touchscreen.tap(*places[0])
        seen.append(agrees(page, run))
        page.locator("#plane").focus()
        for _ in range(9):
            page.keyboard.press("ArrowRight")
            page.keyboard.press("ArrowDown")
        assert ((code(page) - before).abs() > 1e-6).sum() == 2
        seen.append(agrees(page, run))
    page.get_by_text("next test datum").click()
    seen.append(agrees(page, run))
    torch.testing.assert_close(code(page), run.recipe.encode(run, run.dataset.test[:1]))
    assert min((one - other).abs().max() for one, other in pairwise(seen)) > 0.003


@pytest.mark.parametrize("words", ["gmvae", "gmvae --preset table --data wine"])
def test_kinds_are_goals(words, tmp_path, page):
    run = untrained(words, tmp_path)
    write_page(run)
    page.goto((tmp_path / "report.html").as_uri())
    page.get_by_role("combobox", name="y", exact=True).select_option("2")
    y = torch.eye(run.recipe.clusters)[2:3]
    torch.testing.assert_close(code(page), run.model.prior(y).mean)
    agrees(page, run)


def test_attributes_are_goals_and_the_heads_are_told(tmp_path, page):
    run = untrained("jmvae", tmp_path)
    write_page(run)
    page.goto((tmp_path / "report.html").as_uri())
    assert code(page).tolist() == [[0.0, 0.0]]  # of the prior, as nothing is given
    page.get_by_role("combobox", name="digit", exact=True).select_option("2")
    given = {"digit": -1, "side": -1} | {"digit": 1}
    for side, known in ((None, -1), ("right", 1)):
        if side:
            page.get_by_role("combobox", name="side", exact=True).select_option(side)
        given["side"] = known
        asked = torch.tensor([[given["side"], given["digit"]]])
        torch.testing.assert_close(
            code(page), run.guide.posterior(**one_hot_attributes(run.dataset.attributes, asked)).mean
        )
        agrees(page, run)
    p = run.model.heads["y1"](code(page)).sigmoid().item()
    says = f"side {'right' if p > 0.5 else 'left'} ({100 * max(p, 1 - p):.0f} %)"
    assert page.locator("#heads tr").first.inner_text().split("\t")[:2] == [says.split()[0], says.split(" ", 1)[1]]


def test_a_page_keeps_to_its_size_by_coarser_weights_and_then_without_them(tmp_path):
    run = untrained("vae", tmp_path)
    for megabytes, expected in (
        (9.0, "32-bit weights."),
        (6.0, "16-bit weights"),
        (3.0, "There is no explorer: the weights"),
    ):
        write_page(run, megabytes)
        page = (tmp_path / "report.html").read_text()
        assert expected in page
        assert len(page) < megabytes * 1e6
    (tmp_path / "figures" / "01-large.png").write_bytes(bytes(2_500_000))
    write_page(run)
    page = (tmp_path / "report.html").read_text()
    assert "There is no explorer: the weights would take 3.2 MB of the page, in which 2.6 MB are left." in page
    assert base64.b64encode(bytes(300)).decode() in page
    assert len(page) < 6e6


class Told(PyroModule):
    """A story of one's own, with a kind and a code that are told of each other by nothing but x."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.register_buffer("even", torch.zeros(3))

    def forward(self, x=None, *, batch=1):
        with pyro.plate("data", batch if x is None else len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=self.even))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = self.network(torch.cat([z, y], -1)).reshape(-1, 1, 28, 28)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(3), obs=x)


def test_a_story_of_ones_own_is_explored_without_a_decoder_by_name(tmp_path, page):
    run = untrained("vae", tmp_path)
    network = nn.Sequential(nn.Linear(5, 30), nn.ELU(inplace=True), nn.Linear(30, 784), nn.Sigmoid())
    run = dataclasses.replace(run, model=Told(network))
    write_page(run)
    page.goto((tmp_path / "report.html").as_uri())
    first = agrees(page, run, {"y": torch.eye(3)[:1]})
    page.get_by_role("combobox", name="y", exact=True).select_option("1")
    second = agrees(page, run, {"y": torch.eye(3)[1:2]})
    assert (first - second).abs().max() > 0.01


class Odd(nn.Module):
    def forward(self, x):
        return torch.fft.fft(x).real


class Codeless(PyroModule):
    def forward(self, x=None, *, batch=1):
        with pyro.plate("data", batch if x is None else len(x)):
            return pyro.sample("x", dist.Normal(torch.zeros(1, 28, 28), 1.0).to_event(3), obs=x)


@pytest.mark.parametrize(
    ("words", "model", "reason"),
    [
        ("vae", Codeless(), "the story must have data x and a latent z [latent]; its sites are x"),
        ("vae", Told(nn.Sequential(nn.Linear(5, 784), Odd())), "this page does not know the operations _fft_r2c"),
        ("classifier", None, "the classifier has no latent z to move"),
    ],
)
def test_why_there_is_no_explorer_is_said(words, model, reason, tmp_path, page):
    run = untrained(words, tmp_path)
    write_page(dataclasses.replace(run, model=model or run.model))
    page.goto((tmp_path / "report.html").as_uri())
    assert f"There is no explorer: {reason}" in page.locator("#explorer").inner_text()
    assert not page.locator("#controls").is_visible()
    assert "elbo" in page.locator("#results").inner_text()
    if words == "classifier":
        assert "python -m" not in page.locator("#results").inner_text() + page.locator("#checks").inner_text()


def test_checks_and_the_log_likelihood_are_shown_when_they_are_there(tmp_path, page):
    run = untrained("vae --network article", tmp_path)
    (tmp_path / "figures" / "check-ink.png").write_bytes(b"")
    write_page(run)
    written = (tmp_path / "report.html").read_text()
    assert f"pyro_models check {tmp_path}" in written
    assert f"pyro_models likelihood {tmp_path}" in written
    assert "check ink" not in written  # of weights before
    found = {"mean": -88.125, "standard_error": 0.25, "samples": 500, "seed": 0, "unit": "nats per <image>"}
    results = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(results | {"log_likelihood": found}))
    rows = [
        {"statistic": "ink", "observed": 0.123456, "prior": {"p": 0.5}, "values": [1, 2]},
        {"statistic": "holes <b>"},
    ]
    (tmp_path / "checks.json").write_text(json.dumps({"checks": rows, "replicates": 99}))
    write_page(run)
    page.goto((tmp_path / "report.html").as_uri())
    cells = [row.split("\t") for row in page.locator("#checks tr").all_inner_texts()]
    assert cells[:2] == [["replicates"], ["99"]]
    assert cells[2:] == [["statistic", "observed", "prior p"], ["ink", "0.1235", "0.5"], ["holes <b>", "", ""]]
    assert page.get_by_alt_text("ink").count() == 1
    first, more = (table.locator("tr").all_inner_texts() for table in page.locator("#results table").all())
    assert first[-1].split("\t") == ["log p(x)", "-88.1250 ± 0.2500", "", "nats per <image>, 500 samples"]
    assert more[1:] == ["mean\t-88.12", "standard_error\t0.25", "samples\t500", "seed\t0"]
    assert f"likelihood {tmp_path} --samples 500" in page.locator("#results code").inner_text()


def test_a_finished_run_without_checkpoint_or_checks_gets_its_page(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    monkeypatch.setattr(pictures, "write_pictures", lambda run: None)
    words = f"vae --network article --epochs 1 --out {folder}".split()
    assert main(words) == 0
    assert f"pyro_models likelihood {folder}" in (folder / "report.html").read_text()
    (folder / "checkpoint.pt").unlink()
    (folder / "report.html").unlink()
    (folder / "checks.json").write_text("{}")
    assert verbs(["likelihood", str(folder), "--samples", "2", "--gap", "0"]) == 0
    assert "2 samples" in (folder / "report.html").read_text()
    monkeypatch.undo()
    assert verbs(["report", str(folder), "--megabytes", "1"]) == 0
    assert "holds no checkpoint.pt: the pictures stay as they are" in capsys.readouterr().err
    assert "There is no explorer: the weights" in (folder / "report.html").read_text()
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(pictures, "write_pictures", lambda run: None)
    assert main([*words, "--overwrite"]) == 0
    assert not (folder / "checks.json").exists()
