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
from pyro_models.recipes import RECIPES
from pyro_models.report import pictures
from pyro_models.report.explorer import means
from pyro_models.report.page import write_page
from pyro_models.runs import folder as run_module
from pyro_models.training.processes import Processes
from tests.report.conftest import accessibility_faults

ARTICLE = "vae --network article"
EXPLORED = [
    "vae --network article --latent-dim 5 --likelihood continuous-bernoulli",
    "vae --network article --likelihood normal --latent-dim 1",
    pytest.param("gmvae --network conv --latent-dim 2", marks=pytest.mark.long),
    "gmvae --preset table --data wine",
    "jmvae --network spatial --latent-dim 3",
    "cvae --given label --network mlp",
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


def agrees(page, run, known=None, arguments=None):
    """Whether what is shown, and what is computed, is what Python decodes at the page's code, to a hundredth."""
    z = code(page)
    image = shown(page, run)
    computed = page.evaluate("() => [...explorer.decode({z: explorer.z, ...explorer.given}).x]")
    expected = means(run.model, arguments, z=z, **(known or {}))["x"].flatten()
    torch.testing.assert_close(torch.tensor(computed), expected, rtol=0, atol=0.01)
    if run.dataset.is_table:
        torch.testing.assert_close(image.double(), in_units(run, expected), rtol=1e-3, atol=1e-3)
    else:
        torch.testing.assert_close(image, expected.clamp(0, 1), rtol=0, atol=0.01)
    return torch.tensor(computed)


def in_units(run, x):
    columns = run.preprocessing.columns
    return torch.tensor([c.loc for c in columns]).double() + torch.tensor([c.scale for c in columns]).double() * x


@pytest.mark.parametrize("words", EXPLORED)
def test_the_point_moves_and_the_picture_is_what_python_decodes(words, tmp_path, page):
    run = untrained(words, tmp_path)
    write_page(run, megabytes=50.0 if "conv" in words else 6.0)
    page.goto((tmp_path / "report.html").as_uri(), timeout=60_000)
    given = {name: values[:1] for name, values in run.recipe.conditions(run)[1].items()}
    if not given:
        torch.testing.assert_close(means(run.model, z=code(page))["x"], decode(run.model, code(page)))
    seen = [agrees(page, run, arguments=given)]
    page.locator("#sliders input").first.focus()
    page.keyboard.press("End")
    seen.append(agrees(page, run, arguments=given))
    if run.recipe.latent_dim > 1:
        page.locator("#plane").scroll_into_view_if_needed()
        box = page.locator("#plane").bounding_box()
        places = [(box["x"] + share * box["width"], box["y"] + share * box["height"]) for share in (0.2, 0.8)]
        page.mouse.move(*places[0])
        page.mouse.down()
        page.mouse.move(*places[1])
        page.mouse.up()
        seen.append(agrees(page, run, arguments=given))
        page.mouse.move(*places[0])  # nothing is held
        assert torch.equal(agrees(page, run, arguments=given), seen[-1])
        before = code(page)
        page.touchscreen.tap(*places[0])
        seen.append(agrees(page, run, arguments=given))
        page.locator("#plane").focus()
        for _ in range(9):
            page.keyboard.press("ArrowRight")
            page.keyboard.press("ArrowDown")
        assert ((code(page) - before).abs() > 1e-6).sum() == 2
        dot = page.locator("#dots circle").nth(3)
        at = [float(dot.get_attribute(name)) for name in ("cx", "cy")]
        page.mouse.click(box["x"] + at[0] * box["width"], box["y"] + at[1] * box["height"])  # or of a dot upon it
        latents = run.recipe.encode(run, run.dataset.test[:400])
        assert float((latents - code(page)).abs().amax(1).min()) < 1e-5
        seen.append(agrees(page, run, arguments=given))
    page.get_by_text("next test datum").click()
    seen.append(agrees(page, run, arguments=given))
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
        (6.0, "with 16-bit weights"),
        (3.5, "with 8-bit weights"),
        (1.0, "There is no explorer: the weights"),
    ):
        write_page(run, megabytes)
        page = (tmp_path / "report.html").read_text()
        assert expected in page
        assert len(page) < megabytes * 1e6
    (tmp_path / "figures" / "01-large.png").write_bytes(bytes(4_000_000))
    write_page(run)
    page = (tmp_path / "report.html").read_text()
    assert "There is no explorer: the weights would take 2." in page
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
    run = untrained(ARTICLE, tmp_path)
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
        (ARTICLE, Codeless(), "the story must have data x and a latent z [latent]; its sites are x"),
        (
            "vae --network article",
            Told(nn.Sequential(nn.Linear(5, 784), Odd())),
            "this page does not know the operations _fft_r2c",
        ),
        ("classifier", None, "the classifier has no latent z to move"),
    ],
)
def test_why_there_is_no_explorer_is_said(words, model, reason, tmp_path, page):
    run = untrained(words, tmp_path)
    write_page(dataclasses.replace(run, model=model or run.model))
    page.goto((tmp_path / "report.html").as_uri())
    assert f"There is no explorer: {reason}" in page.locator("#explorer").inner_text()
    assert not page.locator("#controls").is_visible()
    assert "ELBO" in page.locator("#bound").inner_text()
    if words == "classifier":
        assert "python -m" not in page.locator("#bound").inner_text() + page.locator("#checks").inner_text()


def result(mean, two_sided):
    return {"mean": mean, "sd": 0.1, "p": two_sided / 2, "error": 0.01, "two_sided": two_sided}


CHECKS = [
    {"site": "x", "statistic": "symmetry, mean", "observed": 0.5, "prior": result(0.5, 0.9)},
    {"site": "x", "statistic": "holes, sd", "observed": 1.0, "prior": result(2.0, 0.04), "posterior": result(1.5, 0.3)},
]
CHECKS[1]["notes"] = {"posterior": "no replicate has any"}


def test_checks_and_the_log_likelihood_are_shown_when_they_are_there(tmp_path, page):
    run = untrained(ARTICLE, tmp_path)
    (tmp_path / "figures" / "check-ink.png").write_bytes(b"")
    write_page(run)
    written = (tmp_path / "report.html").read_text()
    assert f"pyro_models check {tmp_path}" in written
    assert f"pyro_models likelihood {tmp_path}" in written
    assert "check ink" not in written  # of weights before
    gap = {name: {"mean": 2.0, "standard_error": 0.1} for name in ("elbo", "gap", "amortisation", "approximation")}
    found = {"mean": -88.125, "standard_error": 0.25, "samples": 500, "seed": 0, "unit": "nats per <image>"}
    results = json.loads((tmp_path / "results.json").read_text())
    results["test"]["kl"] = results["validation"]["kl"] = 20.0
    results["units"]["kl"] = "nats"
    likelihood = {"log_likelihood": found | {"gap": gap | {"data": 7}}}
    (tmp_path / "results.json").write_text(json.dumps(results | likelihood))
    bins = {"histogram": {"low": 0.0, "high": 2.0, "data": 1.0, "prior": [1, 2], "posterior": [2, 1]}}
    (tmp_path / "checks.json").write_text(json.dumps({"checks": [CHECKS[0], CHECKS[1] | bins], "replicates": 99}))
    for name in ("compare", "samples-seed-0"):  # of any verb
        (tmp_path / "figures" / f"{name}.png").write_bytes(b"")
    write_page(run)
    page.goto((tmp_path / "report.html").as_uri())
    cells = [row.split("\t") for row in page.locator("#checks tbody tr").all_inner_texts()]
    assert [row[:2] for row in cells] == [["holes, sd", "1"], ["symmetry, mean", "0.5"]]  # what fails comes first
    assert "p = 0.02 ± 0.01 ✗" in cells[0][2]
    assert "✗" not in cells[0][3] + cells[1][2]
    assert page.get_by_text("holes, sd: no replicate has any").count() == 1
    assert page.locator("#checks .fails").count() == 1
    assert page.locator("#checks .histogram").count() == 2
    for name in ("ink", "bound, signal to noise of the gradient", "samples seed 0"):
        assert page.get_by_alt_text(name).count() == 1
    first, more = (table.locator("tr").all_inner_texts() for table in page.locator("#bound table").all())
    assert first[-1].split() == ["log", "p(x),", "500", "samples", "nats", "per", "<image>", "−88.12", "±", "0.25"]
    assert more[1] == "log p(x) − ELBO\t2 ± 0.1"
    assert f"likelihood {tmp_path} --samples 500" in page.locator("#bound code").first.inner_text()
    marks = page.locator("#verdict li")
    assert [mark.get_attribute("class") for mark in marks.all()] == ["unknown", "doubtful", "good"]
    said = marks.all_inner_texts()
    assert "1 of 3 checks fail" in said[1]
    assert "too varied in number of holes" in said[1]
    assert "(10% of KL(q ‖ p))" in said[2]
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert accessibility_faults(page) == []


SCREENS = [(1200, "light"), (400, "light"), (400, "dark")]
TOO_FAINT = """() => { // contrast of texts below that of WCAG 2.2, AA
  const channels = text => text.match(/[0-9.]+/g).map(Number);
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => [0.2126, 0.7152, 0.0722].reduce((sum, w, k) => sum + w * linear(c[k] / 255), 0);
  const behind = e => { const c = channels(getComputedStyle(e).backgroundColor);
    return c.length === 4 && c[3] === 0 ? e.parentElement ? behind(e.parentElement) : [255, 255, 255] : c; };
  const faint = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, style = getComputedStyle(e);
    if (!walker.currentNode.data.trim() || !e.checkVisibility() || e.closest("script, .story svg")) continue;
    const colour = channels(e.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(colour), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) faint.push([walker.currentNode.data, colour, behind(e)]);
  }
  return faint; }"""


@pytest.mark.parametrize("recipe", [*RECIPES, "gmvae --preset table --data wine"])
def test_the_page_of_every_recipes_default_run(recipe, tmp_path, page):
    """It has an explorer that is right, or says why not; it is small, fits each screen, and can be read."""
    run = untrained(recipe, tmp_path)
    write_page(run)
    assert (tmp_path / "report.html").stat().st_size < 6e6
    page.goto((tmp_path / "report.html").as_uri())
    if "explorer" in run.recipe.unanswered:
        assert "There is no explorer" in page.locator("#explorer").inner_text()
    else:
        site, (_, conditions) = run.recipe.latent_site, run.recipe.conditions(run)
        computed = page.evaluate("s => [...explorer.decode({[s]: explorer.z, ...explorer.given}).x]", site)
        given = {name: values[:1] for name, values in conditions.items()}
        expected = means(run.model, given, **{site: code(page)})["x"].flatten()
        torch.testing.assert_close(torch.tensor(computed), expected, rtol=0, atol=0.01)
    page.evaluate("() => { for (const e of document.querySelectorAll('details')) e.open = true; }")
    for width, scheme in SCREENS:
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
        assert page.evaluate(TOO_FAINT) == []
    assert accessibility_faults(page, contrast=False) == []


def test_many_statistics_are_folded_up_and_long_names_fit_a_phone(tmp_path, page):
    run = untrained(ARTICLE, tmp_path)
    many = [CHECKS[0] | {"statistic": f"od280/od315_of_diluted_wines_{k}, share outside"} for k in range(17)]
    (tmp_path / "checks.json").write_text(json.dumps({"checks": [*many, CHECKS[1]], "replicates": 99}))
    write_page(run)
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("#checks tbody tr:visible").count() == 15
    page.get_by_text("3 more statistics, of which 0 fail").click()
    assert page.locator("#checks tbody tr:visible").count() == 18
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 400


def test_the_film_shows_each_epoch(tmp_path, page):
    run = untrained(ARTICLE, tmp_path)
    run.frames.update(examples=[0, 1], epochs=[1, 5], images=[torch.full((2, 1, 28, 28), k).byte() for k in (0, 255)])
    write_page(run)
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector(".film.ready")
    film = page.locator(".film")
    pixel = (
        "c => { const pen = new OffscreenCanvas(1, 1).getContext('2d'); pen.drawImage(c, -5, -30);"
        "return pen.getImageData(0, 0, 1, 1).data[0]; }"
    )
    last = film.locator("canvas").evaluate(pixel)
    film.locator("input").press("Home")
    assert (film.locator("canvas").evaluate(pixel), last) == (255, 0)  # ink is dark
    assert film.locator("output").inner_text() == "epoch 1"


def test_traversals_interpolation_and_neighbours_are_shown(tmp_path, page):
    run = untrained("vae --network article --latent-dim 3", tmp_path)
    write_page(run)
    page.goto((tmp_path / "report.html").as_uri())
    page.get_by_text("Traversals of every dimension").click()
    page.wait_for_selector("#traversals canvas")
    assert page.locator("#traversals canvas").count() == 3 * 9
    start = code(page)
    page.get_by_text("Interpolation between two latents").click()
    page.get_by_text("start from here").click()
    page.get_by_text("next test datum").click()
    page.get_by_text("next test datum").click()
    end = code(page)
    page.wait_for_function("() => document.querySelectorAll('#interpolation canvas').length === 9")
    page.get_by_role("button", name="go to step 5 of 9").first.click()
    torch.testing.assert_close(code(page), (start + end) / 2)
    page.locator("#planes").select_option(index=1)  # the principal axes
    before = code(page)
    page.locator("#plane").press("ArrowRight")
    assert ((code(page) - before).abs() > 1e-6).all()
    page.wait_for_function("() => document.querySelectorAll('#neighbours canvas').length === 5")


def test_an_embedding_is_walked_from_datum_to_datum(tmp_path, page):
    """No latent follows from a place in t-SNE: a click, a drag and the arrow keys go to those of test data."""
    run = untrained("vae --network article --latent-dim 3", tmp_path)
    write_page(run)
    page.goto((tmp_path / "report.html").as_uri())
    assert not page.locator("#embedding").is_visible()
    page.locator("#planes").select_option("t-SNE of 3 dimensions")
    assert page.locator("#embedding").is_visible()
    latents = run.recipe.encode(run, run.dataset.test[:400])
    places = "all => all.map(dot => ['cx', 'cy'].map(name => Number(dot.getAttribute(name))))"
    dots = page.locator("#dots circle").evaluate_all(places)
    low, high = latents[:, :2].amin(0), latents[:, :2].amax(0)
    shares = 0.05 + 0.9 * (latents[:, :2] - low) / (high - low)  # of a stand-in for t-SNE: see conftest.py
    torch.testing.assert_close(torch.tensor(dots), torch.stack([shares[:, 0], 1 - shares[:, 1]], 1), rtol=0, atol=1e-3)
    page.locator("#plane").scroll_into_view_if_needed()
    box = page.locator("#plane").bounding_box()
    page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])

    def datum():
        """The number of the test datum where the point is."""
        (found,) = (latents - code(page)).abs().amax(1).lt(1e-5).nonzero()
        return int(found)

    nearest = (shares - 0.5).square().sum(1).argmin()
    assert datum() == nearest
    page.locator("#plane").press("ArrowRight")
    assert shares[datum(), 0] > shares[nearest, 0]
    page.locator("#plane").press("Enter")
    assert datum() in range(len(latents))


def test_a_finished_run_without_checkpoint_or_checks_gets_its_page(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    monkeypatch.setattr(pictures, "write_pictures", lambda *_: None)
    words = f"vae --network article --epochs 1 --out {folder}".split()
    assert main(words) == 0
    assert f"pyro_models likelihood {folder}" in (folder / "report.html").read_text()
    (folder / "checkpoint.pt").unlink()
    (folder / "report.html").unlink()
    computed = (
        "checks.json",
        "compare.json",
        "compare-training.json",
        "figures/check-ranks.pdf",
        "figures/samples-2.png",
    )
    for name in computed:
        (folder / name).write_text("{}")
    assert verbs(["likelihood", str(folder), "--samples", "2", "--gap", "0"]) == 0
    assert "2 samples" in (folder / "report.html").read_text()
    monkeypatch.undo()
    assert verbs(["report", str(folder), "--megabytes", "1"]) == 0
    assert "holds no checkpoint.pt: the pictures stay as they are" in capsys.readouterr().err
    assert "There is no explorer: the weights" in (folder / "report.html").read_text()
    torch.set_default_dtype(torch.float32)
    monkeypatch.setattr(pictures, "write_pictures", lambda *_: None)
    assert main([*words, "--overwrite"]) == 0
    assert not any((folder / name).exists() for name in (*computed, "likelihood.npz"))
