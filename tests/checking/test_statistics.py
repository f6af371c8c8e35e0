"""Each statistic against a picture or a table that can be worked out by hand, or by scipy."""

import sys

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.ndimage
import scipy.stats
import torch

from pyro_models.base.errors import UserError
from pyro_models.checking import statistics
from pyro_models.checking.statistics import (
    autocorrelation,
    centre,
    coefficient_of_variation,
    correlations,
    dispersion,
    distance_to_training,
    holes,
    image_statistics,
    ink,
    load_statistic,
    moment,
    nearest,
    standard_statistics,
    statistics_of,
    stroke_width,
    symmetry,
    table_statistics,
    trend,
)


def picture(*rows):
    return torch.tensor([[float(cell == "#") for cell in row] for row in rows])[None, None]


RING = picture(".....", ".###.", ".#.#.", ".###.", ".....")
EIGHT = picture(".###.", ".#.#.", ".###.", ".#.#.", ".###.")
DIAMOND = picture(".....", "..#..", ".#.#.", "..#..", ".....")
OPEN = picture(".###.", ".#.#.", ".#.#.", ".#.#.", ".....")


@pytest.mark.parametrize(("image", "count"), [(RING, 1), (EIGHT, 2), (DIAMOND, 1), (OPEN, 0), (RING * 0, 0)])
def test_holes_are_parts_of_the_background_that_ink_encloses(image, count):
    assert holes(image).tolist() == [count]


def test_holes_of_many_images_are_those_of_each():
    x = torch.bernoulli(torch.full((200, 1, 9, 7), 0.55))
    each = []
    for image in x[:, 0].numpy():
        _, parts = scipy.ndimage.label(np.pad(1 - image, 1, constant_values=1))
        each.append(parts - 1)
    assert holes(x).tolist() == each
    assert max(each) > 3


def test_ink_and_its_centre():
    x = torch.zeros(2, 3, 5, 4)
    x[0, :, 4, 0] = 1.0  # the lower left corner
    torch.testing.assert_close(ink(x), torch.tensor([0.05, 0.0]))
    torch.testing.assert_close(centre(x, -1), torch.tensor([-1.5, 0.0]))
    torch.testing.assert_close(centre(x, -2), torch.tensor([2.0, 0.0]))
    x[0, :, 4, 3] = 0.5
    torch.testing.assert_close(centre(x, -1), torch.tensor([-0.5, 0.0]))


@pytest.mark.parametrize("width", [1, 2, 3, 5])
def test_the_width_of_a_long_stroke_is_that_of_the_bar_whichever_way_it_lies(width):
    x = torch.zeros(2, 1, 400, 400)
    x[0, 0, 100 : 100 + width, 10:390] = 1
    rows, columns = torch.meshgrid(torch.arange(400), torch.arange(400), indexing="ij")
    x[1, 0] = ((rows - columns).abs() < 0.7072 * width) & (rows > 20) & (rows < 380)
    thin = 2 * width * 380 / (2 * (380 + width) - 4 + 4 / 2**0.5)
    assert stroke_width(x)[0].item() == pytest.approx(thin)
    diagonals = 2 * int(0.7072 * width) + 1
    assert stroke_width(x)[1].item() == pytest.approx(diagonals / 2**0.5, rel=0.02)
    assert stroke_width(x * 0).tolist() == [0, 0]


def test_symmetry_is_the_share_of_ink_that_the_mirror_image_has():
    x = torch.cat([EIGHT, picture("#....", ".....", ".....", ".....", "..#.."), EIGHT * 0])
    torch.testing.assert_close(symmetry(x), torch.tensor([1.0, 0.5, 0.0]))


def test_a_copy_of_a_training_image_is_at_no_distance():
    train, x = torch.rand(40, 1, 4, 4), torch.rand(7, 1, 4, 4)
    expected = (x[:, None] - train[None]).flatten(2).norm(dim=-1).amin(1)
    torch.testing.assert_close(nearest(train, batch_size=3)(x), expected, rtol=0, atol=1e-6)
    assert nearest(train)(train[5:9]).max() < 1e-6


def test_moments_are_scipys():
    x = torch.randn(50).exp()
    assert moment(x, 3).item() == pytest.approx(scipy.stats.skew(x.numpy()))
    assert moment(x, 4).item() == pytest.approx(scipy.stats.kurtosis(x.numpy(), fisher=False))
    assert moment(torch.ones(5), 3).item() == 0.0


def test_the_statistics_of_a_table_are_of_columns_and_of_correlations():
    train = torch.randn(1000, 3)
    statistics_by_name = table_statistics(train, ["a", "b", "c"])
    x = torch.randn(500, 3) * torch.tensor([1.0, 2.0, 1.0])
    torch.testing.assert_close(statistics_by_name["b"](x), x[:, 1])
    outside = "share outside training's 5 to 95 %"
    assert statistics_by_name[f"a, {outside}"](train).item() == pytest.approx(0.1)
    assert statistics_by_name[f"b, {outside}"](x) > 0.3
    assert statistics_by_name["distance of correlations to training"](train).item() == 0.0
    bound = torch.stack([x[:, 0], x[:, 0], x[:, 2]], 1)
    expected = (torch.from_numpy(np.corrcoef(bound.T)) - torch.from_numpy(np.corrcoef(train.T))).square().mean().sqrt()
    torch.testing.assert_close(statistics_by_name["distance of correlations to training"](bound), expected)
    assert correlations(torch.ones(5, 2)).tolist() == [[0, 0], [0, 0]]


def test_the_values_of_a_site_decide_its_statistics():
    train = {"x": torch.rand(9, 1, 4, 4), "y": torch.eye(3).repeat(3, 1), "t": torch.randn(9, 2)}
    statistics_by_name = standard_statistics(train, {"t": ("left", "right")})
    assert set(statistics_by_name["x"]) == set(image_statistics(train["x"]))
    assert list(statistics_by_name["y"]) == ["share of y=0", "share of y=1", "share of y=2"]
    assert {"left", "right", "left, skewness"} <= set(statistics_by_name["t"])
    partly_known = torch.tensor([[0.0, 1.0, 0.0], [torch.nan] * 3, [1.0, 0.0, 0.0]])
    assert [float(share(partly_known)) for share in statistics_by_name["y"].values()] == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_statistic_of_images_takes_blank_full_and_negative_ones(dtype):
    x = torch.cat([torch.zeros(2, 1, 6, 6), torch.ones(2, 1, 6, 6), -torch.ones(1, 1, 6, 6)]).to(dtype)
    for statistic in image_statistics(x).values():
        value = statistic(x)
        assert value.isfinite().all()
        assert value.shape in ((), (5,))


def test_a_distance_is_between_summaries():
    far = distance_to_training(lambda x: x.mean(0), torch.zeros(5, 2))
    assert float(far(torch.tensor([[3.0, 0.0], [3.0, 0.0]]))) == pytest.approx((9 / 2) ** 0.5)


def test_a_statistic_of_the_working_folder_is_found_and_one_whose_module_fails_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    (tmp_path / "statistics_of_mine.py").write_text("def mean(x):\n    return x.mean()\n")
    (tmp_path / "statistics_that_fail.py").write_text("1 / 0\n")
    assert load_statistic("statistics_of_mine:mean")(torch.ones(3)) == 1
    with pytest.raises(UserError, match="statistics_that_fail:mean`: division by zero; give MODULE:FUNCTION"):
        load_statistic("statistics_that_fail:mean")


def test_a_statistic_is_imported_by_its_name():
    assert load_statistic("pyro_models.checking.statistics:ink") is statistics.ink
    for spec in ("pyro_models.checking.statistics:inkk", "nowhere:ink", "ink", "math:pi", ""):
        with pytest.raises(UserError, match="give MODULE:FUNCTION") as error:
            load_statistic(spec)
        assert error.value.exit_code == 2


def test_statistics_follow_the_distribution_of_the_values():
    n = torch.randn(50)
    likelihoods = {
        "count": dist.Poisson(torch.ones(50)),
        "binomial": dist.Binomial(5, probs=torch.ones(50) / 2),
        "category": dist.Categorical(torch.ones(50, 3)),
        "time": dist.Exponential(torch.ones(50)),
        "number": dist.Normal(n, 1.0),
        "vector": dist.Normal(torch.zeros(50, 2), 1.0).to_event(1),
        "bit": dist.Bernoulli(torch.ones(50) / 2).mask(True),
    }
    values = {name: fn.sample() for name, fn in likelihoods.items()}
    names = {site: list(each) for site, each in statistics_of(values, likelihoods).items()}
    assert names["count"] == names["binomial"] == ["mean", "variance / mean", "share of zeros", "largest"]
    assert names["category"] == ["share of 0", "share of 1", "share of 2"]
    assert names["time"][:2] == ["mean", "sd / mean"]
    assert names["time"][-2:] == names["number"][-2:] == ["autocorrelation at lag 1", "trend"]
    assert names["vector"][:2] == ["[0]", "[0], skewness"]
    assert len(names["vector"]) == 2 * len(names["number"])
    assert names["bit"] == ["share of 1"]
    shares = [statistic(values["category"]) for statistic in statistics_of(values, likelihoods)["category"].values()]
    assert sum(shares) == pytest.approx(1.0)


def test_order_is_measured_as_by_scipy_and_overdispersion_is_above_one():
    x = torch.randn(200).cumsum(0)
    assert autocorrelation(x) > 0.8
    assert abs(autocorrelation(torch.randn(20_000))) < 0.03
    assert trend(x).item() == pytest.approx(scipy.stats.pearsonr(x.numpy(), np.arange(200))[0])
    counts = dist.NegativeBinomial(2.0, probs=torch.tensor(0.5)).sample((20_000,))
    assert dispersion(counts).item() == pytest.approx(2.0, abs=0.1)
    assert coefficient_of_variation(dist.Exponential(3.0).sample((20_000,))).item() == pytest.approx(1.0, abs=0.03)
