from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from pyro_models import plots
from pyro_models.checking.calibration import Ranks
from pyro_models.checking.predictive import Check
from tests.plots.canvas import assert_nothing_is_cut


@pytest.fixture(autouse=True)
def none_left_open():
    """Figures are returned, and pyplot holds none of them."""
    before = plt.get_fignums()
    yield
    assert plt.get_fignums() == before


def test_learning_curves_draw_each_split_and_name_the_unit():
    metrics = [
        {"epoch": k, "train_elbo": -100.0 / k, "validation_elbo": -120.0 / k, "train_kl": k, "validation_kl": 2 * k}
        for k in (1, 2, 3)
    ]
    figure = plots.learning_curves(metrics, {"elbo": "nats per image, static pixels", "kl": "nats"})
    elbo, kl = figure.axes
    assert [list(line.get_ydata()) for line in elbo.lines] == [[-100, -50, -100 / 3], [-120, -60, -40]]
    assert [line.get_label() for line in kl.lines] == ["train", "validation"]
    assert elbo.get_ylabel().split() == ["nats", "per", "image,", "static", "pixels"]
    (alone,) = plots.learning_curves(metrics, {"kl": "nats"}, ["validation"]).axes[0].lines
    assert list(alone.get_ydata()) == [2, 4, 6]
    seldom = [{"epoch": 0}, *metrics]  # an epoch that was not evaluated has no point
    assert list(plots.learning_curves(seldom, {"kl": "nats"}).axes[0].lines[1].get_xdata()) == [1, 2, 3]
    shared = plots.learning_curves(metrics, {"elbo": "nats", "kl": "nats"})  # a unit of all stands once, above
    assert [shared.get_suptitle(), *(panel.get_ylabel() for panel in shared.axes)] == ["nats", "", ""]


LONG = "mean images at latents drawn from the prior, of a title that is longer than any figure is wide (grey pixels)"


@pytest.mark.parametrize("count", [1, 13])
def test_nothing_is_cut_at_any_number_of_latents_labels_or_names(count):
    checks = [
        Check("x", f"distance to the nearest of 5000 training images, {k}", 2.0, {"prior": torch.arange(9.0)})
        for k in range(min(count, 5))
    ]
    names = [f"side=right, digit={k}" for k in range(count)]
    images = torch.zeros(count, 2, 1, 3, 3)
    points, labels = torch.rand(60, 2), torch.arange(60) % count
    bounds = {f"estimator-{k}": (-100.0 - k, 1.0) for k in range(min(count, 9))}
    ratios = {name: {"encoder": 1.0} for name in bounds}
    figures = [
        plots.ranks([Ranks(f"z[{k}]", torch.arange(100), 99) for k in range(count)]),
        plots.checks(checks, LONG),
        plots.latent_map({LONG: points}, labels, names=names),
        plots.confusion_matrix(torch.ones(count, count), range(count), names),
        plots.image_rows(images[:9], names[:9], LONG),
        plots.image_grid(images[:, 0], 1, LONG),
        plots.scatter({LONG: {name: points for name in names[:12]}}),
        plots.learning_curves([{"epoch": 1, "train_a": 1.0}], {"a": LONG}),
        plots.estimator_comparison(bounds, ratios, dict.fromkeys(bounds, 1.0), LONG),
    ]
    for figure in figures:
        assert_nothing_is_cut(figure)


def test_fonts_are_embedded_in_files_for_papers(tmp_path):
    figure = plots.class_scores({"recall": [0.5, 1.0]})
    for suffix in ("pdf", "svg"):
        plots.save(figure, tmp_path / f"figure.{suffix}")
    pdf, svg = (tmp_path / "figure.pdf").read_bytes(), (tmp_path / "figure.svg").read_text()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert "font-family" not in svg  # letters are paths


SEEN = {  # Machado, Oliveira and Fernandes, 2009: linear RGB as those see it who lack a sort of cones
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    "all cones": np.eye(3),
}


@pytest.mark.parametrize("who", SEEN)
def test_the_colours_of_groups_differ_for_the_colour_blind(who):
    """By ten in CIELAB at least, where two or three are just noticeable; those of the page are the same."""
    rgb = np.array([to_rgb(colour) for colour in plots.PALETTE])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.array(SEEN[who]).T
    xyz = (
        np.clip(linear, 0, 1)
        @ np.array(
            [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
        ).T
        / [0.95047, 1, 1.08883]
    )
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(len(lab), 1)]
    assert distances.min() > 10
    style = (files("pyro_models.report") / "assets" / "report.css").read_text()
    assert all(f".c{k} {{ --s: {colour}; }}" in style for k, colour in enumerate(plots.PALETTE))


def images_in(panel, shape):
    """The images that stand side by side in a panel, without the border of a pixel: [n, *shape]."""
    row = np.asarray(panel.images[0].get_array()).reshape(shape[-2], -1, shape[-1] + 2, shape[0])
    return row.transpose(1, 3, 0, 2)[..., 1:-1]


@pytest.mark.parametrize("channels", [1, 3])
def test_originals_stand_above_their_reconstructions(channels):
    originals, decoded = torch.rand(4, channels, 5, 6), torch.rand(4, channels, 5, 6)
    figure = plots.reconstructions(originals, decoded)
    first, second = figure.axes
    np.testing.assert_allclose(images_in(first, originals.shape[1:]), originals)
    np.testing.assert_allclose(images_in(second, originals.shape[1:]), decoded)
    figure.canvas.draw()
    assert first.get_position().y0 > second.get_position().y1


def test_an_animation_shows_the_reconstructions_of_each_epoch():
    originals, frames = torch.zeros(2, 1, 4, 4), torch.stack([torch.full((2, 1, 4, 4), k / 2) for k in range(3)])
    animation = plots.reconstruction_animation(originals, frames, [1, 5, 9])
    animation._draw_was_started = True  # or matplotlib warns that the animation was never shown
    for k, epoch in enumerate((1, 5, 9)):
        animation._func(k)
        figure = animation._fig
        np.testing.assert_allclose(images_in(figure.axes[1], (1, 4, 4)), frames[k])
        assert figure.get_suptitle() == f"epoch {epoch}"


def test_points_have_the_colours_of_their_labels():
    points = torch.tensor([[0.0, 1.0], [2.0, 3.0], [0.5, 0.5]])
    figure = plots.latent_map({"codes": points}, torch.tensor([0, 1, 0]), limit=4)
    (dots,) = figure.axes[0].collections
    np.testing.assert_allclose(dots.get_offsets(), points)
    assert dots.get_array().tolist() == [0, 1, 0]
    assert figure.axes[0].get_xlim() == (-4, 4)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["0", "1"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_holds_the_images_row_by_row(channels):
    images = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, channels, 2, 3) / 5
    figure = plots.image_grid(images, columns=3, extent=(-1, 1, -2, 2))
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    assert sheet.shape[:2] == (8, 15)  # a pixel of gap around each image
    np.testing.assert_allclose(sheet[1, 1::5].reshape(3, -1)[:, 0], [0, 0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(sheet[6, 1::5].reshape(3, -1)[:, 0], [0.6, 0.8, 1.0], rtol=1e-6)


def test_points_are_named_in_the_legend():
    figure = plots.latent_map({"codes": torch.zeros(3, 2)}, torch.tensor([2, 0, 2]), names=("left", "middle", "right"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["left", "right"]


def test_the_plane_of_codes_is_laid_out_as_the_sheet_shows_it():
    """Left to right is z[0] rising, bottom to top is z[1] rising."""
    z = plots.latent_grid(torch.tensor([-1.0, 10.0]), torch.tensor([1.0, 30.0]), 3)
    assert z[0].tolist() == [-1, 30]
    assert z[2].tolist() == [1, 30]
    assert z[-1].tolist() == [1, 10]
    assert z[3].tolist() == [-1, 20]


@pytest.mark.parametrize("lowest", [0.2, 0.95])
def test_scores_stand_a_row_a_score_and_a_column_a_class(lowest):
    values = {"precision": [1.0, lowest, 0.96], "recall": [0.97, 0.98, 0.99]}
    figure = plots.class_scores(values)
    (panel,) = figure.axes
    np.testing.assert_allclose(panel.images[0].get_array(), list(values.values()))
    written = {tuple(map(round, text.get_position())): text.get_text() for text in panel.texts}
    assert written == {(c, r): f"{v:.3f}" for r, row in enumerate(values.values()) for c, v in enumerate(row)}
    assert [label.get_text() for label in panel.get_yticklabels()] == ["precision", "recall"]
    low, high = panel.images[0].get_clim()
    assert low <= lowest
    assert high == 1
    figure.canvas.draw()
    top, bottom = (panel.transData.transform((0, row))[1] for row in (0, 1))
    assert top > bottom


@pytest.mark.parametrize("channels", [1, 3])
def test_a_step_stands_between_where_it_begins_and_where_it_leads(channels):
    images, step = torch.rand(4, channels, 5, 6), 0.1 * torch.randn(4, channels, 5, 6)
    before, after = (["a", "b", "c", "d"], ["e", "f", "g", "h"])
    figure = plots.adversarial_steps(images, step, before, after, "steps")
    first, middle, last = figure.axes
    np.testing.assert_allclose(images_in(first, images.shape[1:]), images)
    np.testing.assert_allclose(images_in(middle, (1, 5, 6)), step.mean(1, keepdim=True))
    np.testing.assert_allclose(images_in(last, images.shape[1:]), (images + step).clamp(0, 1))
    for panel, predictions in ((first, before), (last, after)):
        assert [label.get_text() for label in panel.get_xticklabels()] == predictions
        middles = panel.get_xticks() * 1.0
        np.testing.assert_allclose(np.diff(middles), 8)
        assert middles[0] == 3.5  # of the columns -0.5 to 7.5, with the border
    figure.canvas.draw()
    heights = [panel.get_position().y0 for panel in figure.axes]
    assert heights == sorted(heights, reverse=True)


def test_no_step_at_all_is_drawn_too():
    blank = torch.zeros(2, 1, 3, 3)
    plots.adversarial_steps(blank, blank, ["0"] * 2, ["0"] * 2, "steps").canvas.draw()


def test_tsne_keeps_far_groups_apart_and_repeats_itself():
    points = torch.cat([torch.randn(30, 5), torch.randn(30, 5) + 20])
    plane = plots.tsne(points)
    distances = torch.cdist(plane, plane)
    nearest = (distances + torch.eye(60) * 1e9).argmin(1)
    assert ((nearest < 30) == (torch.arange(60) < 30)).all()
    assert torch.equal(plane, plots.tsne(points))


def test_replicates_stand_beside_a_line_at_the_data_the_least_likely_first():
    near = Check("x", "near", 20.0, {"prior": torch.arange(40.0), "posterior": torch.arange(40.0) / 2 + 10})
    far = Check("x", "far", 99.0, {"prior": torch.arange(40.0)})
    figure = plots.checks([near, far], "title")
    first, second = figure.axes
    assert (first.get_title(), second.get_title()) == ("x: far", "x: near")
    assert list(first.lines[0].get_xdata()) == [99.0, 99.0]
    assert first.patches[0].get_data().values.sum() == 40
    assert [text.get_text() for text in second.get_legend().get_texts()] == [
        "prior, p = 0.51",
        "posterior, p = 0.51",
        "data",
    ]
    (only,) = plots.checks([near, far], "title", most=1).axes
    assert only.get_title() == "x: far"


def test_a_discrepancy_is_drawn_as_its_difference_from_the_datas_and_a_check_of_nothing_last():
    one = Check("x", "distance", 3.0, {"posterior": torch.arange(40.0)}, torch.arange(40.0) - 2)
    none = Check("x", "none", 3.0, {}, None, {"prior": 40}, {"prior": "none"})
    first, second = plots.checks([none, one], "title").axes
    assert first.get_title() == "x: distance, less the data's"
    assert list(first.lines[0].get_xdata()) == [0.0, 0.0]
    counts, edges, _ = first.patches[0].get_data()
    assert edges[:-1][counts > 0].max() == pytest.approx(2.0, abs=0.1)
    assert second.get_title() == "x: none"


def test_ranks_are_lines_with_their_band_the_least_uniform_first():
    even, uneven = Ranks("z[0]", torch.arange(100), 99), Ranks("z[1]", torch.arange(100) // 50, 99)
    first, second = plots.ranks([even, uneven]).axes
    assert (first.get_title().split(",")[0], second.get_title()) == ("z[1]", "z[0], p = 1")
    line, flat = first.lines[0], second.lines[0]
    assert max(line.get_ydata()) == pytest.approx(0.98)
    assert max(abs(flat.get_ydata())) < 1e-12
    assert line.get_color() != flat.get_color()
    low, high = uneven.band
    corners = first.collections[0].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (pytest.approx(low.min()), pytest.approx(high.max()))


def test_pixel_means_show_what_differs():
    data, prior, posterior = torch.full((1, 3, 3), 0.5), torch.full((1, 3, 3), 0.75), torch.full((1, 3, 3), 0.4)
    shown = [panel.images[0] for panel in plots.pixel_means([data, prior, posterior], "title").axes]
    assert [round(float(image.get_array().mean()), 3) for image in shown] == [0.5, 0.75, 0.4, 0.25, -0.1]
    assert shown[3].get_clim() == shown[4].get_clim() == (-0.25, 0.25)
