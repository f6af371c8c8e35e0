"""Attributes: their codes, the two sets made of digits, labels, and the user's own."""

import hashlib
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm

from pyro_models.base.errors import UserError
from pyro_models.data import Attribute, Batches, Dataset, Split, attributes, batch_of, load
from pyro_models.data.attributes import MNIST_A, combinations, mnist_a
from pyro_models.data.attributes import _normal as truncated_normal
from pyro_models.data.datasets import _composed
from tests.data.test_datasets import MNIST, needs_mnist

SIDE, COLOUR = Attribute("side", ("left", "right")), Attribute("colour", ("red", "green", "blue"))
CANVAS = torch.arange(64, dtype=torch.float64) + 0.5


def same(some, other):
    return all(
        torch.equal(a.x, b.x) and torch.equal(a.attributes, b.attributes) for a, b in zip(some, other, strict=True)
    )


def parts(dataset):
    return dataset.train, dataset.validation, dataset.test


def test_two_values_are_a_bit_more_are_one_hot_and_missing_is_nan_throughout():
    nan = math.nan
    codes = torch.tensor([1, -1, 0])
    expected = torch.tensor([[1.0], [nan], [0.0]]), torch.tensor([[0.0, 1, 0], [nan] * 3, [1, 0, 0]])
    for attribute, y in zip((SIDE, COLOUR), expected, strict=True):
        assert attribute.size == y.shape[1]
        torch.testing.assert_close(attribute.one_hot(codes), y, equal_nan=True)
    assert torch.equal(COLOUR.one_hot(torch.arange(3)), torch.eye(3))


def test_a_value_has_the_code_of_its_place_and_another_gets_one_line_that_lists_them():
    assert [COLOUR.index(value) for value in COLOUR.values] == [0, 1, 2]
    with pytest.raises(
        UserError, match=r"^unknown colour 'gren': did you mean 'green'\? choose from red, green, blue$"
    ):
        COLOUR.index("gren")
    with pytest.raises(UserError, match=r"^unknown side 'up': choose from left, right$"):
        SIDE.index("up")


# ---------------------------------------------------------------- digits put left or right


def test_a_digit_put_to_one_side_is_an_image_of_the_same_part_and_leaves_the_other_side_empty():
    dataset, source = load("attributes"), load("digits")
    assert [(each.name, each.values) for each in dataset.attributes] == [
        ("side", ("left", "right")),
        ("digit", ("1", "2")),
    ]
    assert dataset.shape == (1, 28, 56)
    for made, digits in zip(parts(dataset), parts(source), strict=True):
        side, digit = made.attributes.T
        halves = torch.stack(made.x.chunk(2, -1))
        rows = torch.arange(len(made))
        assert not halves[1 - side, rows].any()
        chosen = (digits.labels == 1) | (digits.labels == 2)
        assert torch.equal(halves[side, rows], digits.x[chosen])
        assert torch.equal(made.labels + 1, digits.labels[chosen])
        assert torch.equal(made.labels, digit)
        assert 0 < side.double().mean() < 1


def test_the_sides_are_drawn_evenly_and_apart_from_the_digits():
    side, digit = load("attributes").train.attributes.double().T
    bound = 3 / len(side) ** 0.5
    assert abs(side.mean() - 0.5) < bound / 2
    assert abs(torch.corrcoef(torch.stack([side, digit]))[0, 1]) < bound


@pytest.mark.parametrize("pixels", ["threshold", "static"])
def test_pixel_modes_work_on_digits_put_aside(pixels):
    grey, black = load("attributes").test, load("attributes", pixels=pixels)
    assert black.pixels == pixels
    assert set(black.test.x.unique().tolist()) == {0, 255}
    assert not black.test.x[grey.x == 0].any()
    assert black.test.x[grey.x == 255].all()
    assert torch.equal(black.test.attributes, grey.attributes)


@needs_mnist
def test_the_ones_and_twos_of_mnist_put_aside_are_all_of_them():
    dataset = load("attributes", data_dir=MNIST, source="mnist")
    counts = [part.labels.bincount().tolist() for part in parts(dataset)]
    assert [a + b for a, b in zip(*counts[:2], strict=True)] == [6742, 5958]
    assert counts[2] == [1135, 1032]


# ---------------------------------------------------------------- MNIST-A


@pytest.fixture(scope="module")
def of_digits():
    return load("mnist-a", source="digits")


def drawn(image, n=200, seed=3):
    """Copies of one image, as their ink [m, 64, 64] and their codes."""
    allowed = combinations(compositional=False, seed=0)["train"]
    images = torch.as_tensor(image, dtype=torch.uint8).expand(n, 1, 28, 28)
    x, codes = mnist_a(images, torch.zeros(n, dtype=torch.long), allowed=allowed, seed=seed)
    return x[:, 0] / 255.0, codes


def test_mnist_a_has_ten_black_and_white_copies_of_each_image_and_all_combinations_by_chance(of_digits):
    assert of_digits.shape == (1, 64, 64)
    assert [len(part) for part in parts(of_digits)] == [13720, 1250, 3000]
    assert [each.name for each in of_digits.attributes] == ["digit", "scale", "orientation", "location"]
    for made, digits in zip(parts(of_digits), parts(load("digits")), strict=True):
        assert ((made.x == 0) | (made.x == 255)).all()
        assert torch.equal(made.labels, digits.labels.repeat(10))
        assert torch.equal(made.attributes[:, 0], made.labels)
        chance = 240 * math.exp(-len(made) / 240)  # combinations that as many draws are expected to miss
        assert 240 - len(made.attributes.unique(dim=0)) <= chance + 4 * chance**0.5


def test_data_are_the_same_under_every_version_of_torch(of_digits):
    """The hashes were found with torch 2.5.0 and 2.14.1, whose `multinomial` and `exponential_` draw other numbers."""
    made = [load("attributes"), load("attributes", pixels="static"), of_digits]
    hashes = [hashlib.sha1(dataset.test.x.numpy().tobytes()).hexdigest()[:8] for dataset in made]
    assert hashes == ["bf8fa071", "7fc8880b", "aa923c29"]


def test_combinations_come_as_often_as_any_other_of_their_digit(of_digits):
    """Chi-square, whose mean is its degrees of freedom, 23 for each digit."""
    counts = torch.zeros(10, 2, 3, 4)
    counts.index_put_(tuple(of_digits.train.attributes.T), torch.ones(()), accumulate=True)
    expected = counts.sum((1, 2, 3), keepdim=True) / 24
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - 230) < 4 * (2 * 230) ** 0.5


def test_the_same_call_gives_the_same_data_whatever_the_state_and_the_type(of_digits):
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(7)
    assert same(parts(load("mnist-a", source="digits", split="iid", pixels="static")), parts(of_digits))
    assert same(parts(load("attributes")), parts(load("attributes")))


def test_training_and_test_images_come_from_those_of_their_source():
    """Black images to learn from, grey ones to choose by, white ones to test on."""
    levels = (0, 100, 255)
    source = Dataset(
        "x", "grey", *(Split(torch.full((20, 1, 28, 28), v).byte(), torch.arange(20) % 10) for v in levels)
    )
    made = [part.x for part in parts(_composed("mnist-a", source, "grey", False))]
    assert not made[0].any()
    assert made[1].any((1, 2, 3)).all()
    assert made[2].count_nonzero((1, 2, 3)).min() > 0.38**2 * 28**2  # the smallest scale is 0.4


def test_held_out_combinations_never_occur_in_training_and_each_single_value_does(of_digits):
    dataset = load("mnist-a", source="digits", split="compositional")
    seen = [set(map(tuple, part.attributes.tolist())) for part in parts(dataset)]
    assert list(map(len, seen)) == [204, 12, 24]
    assert len(set.union(*seen)) == 240
    for k, attribute in enumerate(MNIST_A):
        assert {combination[k] for combination in seen[0]} == set(range(len(attribute.values)))
    digits = load("digits")
    for made, source in zip(parts(dataset), parts(digits), strict=True):
        kept = torch.isin(source.labels, made.labels)
        assert torch.equal(made.labels, source.labels[kept].repeat(10))
    assert torch.equal(dataset.train.labels, digits.train.labels.repeat(10))
    assert torch.equal(
        dataset.all_combinations.labels, digits.train.labels.repeat(2)
    )  # the classifier sees all combinations
    assert len(dataset.all_combinations.attributes.unique(dim=0)) == 240
    assert of_digits.all_combinations is None


def test_the_digit_stands_in_the_quadrant_of_its_location(of_digits):
    ink = of_digits.test.x[:, 0] / 255.0
    mass = ink.sum((1, 2))
    row, column = (ink.sum(2) @ CANVAS) / mass, (ink.sum(1) @ CANVAS) / mass
    found = 2 * (row > 32) + (column > 32)
    assert (found == of_digits.test.attributes[:, 3]).double().mean() > 0.999


def test_scales_are_as_in_the_paper_and_the_whole_box_lies_on_the_canvas():
    """A white square's area is that of its scale, and turned it is as wide as it is high unless it is cut."""
    ink, codes = drawn(255)
    scale = ink.sum((1, 2)).sqrt() / 28
    assert scale.min() > 0.39
    assert scale.max() < 1.01
    for k, loc in enumerate((0.9, 0.6)):
        expected = truncnorm((0.4 - loc) / 0.1, (1 - loc) / 0.1, loc, 0.1)
        found = scale[codes[:, 1] == k]
        assert found.mean() == pytest.approx(expected.mean(), abs=0.01)
        assert found.std() == pytest.approx(expected.std(), abs=0.01)
    height, width = ink.any(2).sum(1), ink.any(1).sum(1)
    assert (height - width).abs().max() <= 2  # the pixels on the border are there or not by chance


def test_strokes_turn_with_the_orientation_by_45_degrees_of_standard_deviation_10():
    bar = torch.zeros(28, 28)
    bar[3:25, 12:16] = 255
    ink, codes = drawn(bar)
    mass = ink.sum((1, 2))
    row, column = (ink.sum(2) @ CANVAS) / mass, (ink.sum(1) @ CANVAS) / mass
    up, right = row[:, None, None] - CANVAS[:, None], CANVAS - column[:, None, None]
    uu, rr, ur = ((ink * each).sum((1, 2)) for each in (up * up, right * right, up * right))
    angle = (torch.atan2(-2 * ur, uu - rr) / 2).rad2deg()  # of the principal axis, from upright to the left
    orientation = codes[:, 2]
    for code, degrees in ((0, 45), (2, -45)):
        found = angle[orientation == code]
        bound = 4 / len(found) ** 0.5
        assert found.mean() == pytest.approx(degrees, abs=10 * bound)
        assert found.std() == pytest.approx(10, rel=bound)
    assert angle[orientation == 1].abs().max() < 5  # not turned; the pixels on the border are there by chance


def test_the_grey_level_is_the_probability_of_ink():
    white, grey = (drawn(level)[0] for level in (255, 100))
    assert not grey[white == 0].any()
    count = white.count_nonzero().item()
    assert grey.sum() / count == pytest.approx(100 / 255, abs=4 * 0.5 / count**0.5)


def test_big_digits_have_more_ink(of_digits):
    ink = of_digits.train.x.count_nonzero((1, 2, 3)).double()
    for digit in range(10):
        of_digit = of_digits.train.attributes[:, 0] == digit
        big, small = (ink[of_digit & (of_digits.train.attributes[:, 1] == k)].mean() for k in (0, 1))
        assert big / small == pytest.approx(2, abs=0.2)  # E[scale^2]: 0.764 to 0.373 after the truncation


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (2.0, 8.0), (-9.0, -1.5)])
def test_truncated_normals_have_the_moments_of_scipys(low, high):
    drawn = truncated_normal(torch.full((40_000,), 5.0), 2.0, 5 + 2 * low, 5 + 2 * high, torch.Generator())
    expected = truncnorm(low, high, 5, 2)
    assert drawn.mean() == pytest.approx(expected.mean(), abs=4 * expected.std() / 200)
    assert drawn.std() == pytest.approx(expected.std(), rel=0.03)
    assert 5 + 2 * low <= drawn.min() < drawn.max() <= 5 + 2 * high


# ---------------------------------------------------------------- labels, and attributes of one's own


def test_labels_are_the_one_attribute_of_digits():
    dataset = load("digits")
    assert dataset.attributes == (Attribute("digit", tuple("0123456789")),)
    assert all(torch.equal(part.attributes, part.labels[:, None]) for part in parts(dataset))
    assert load("wine").attributes == (Attribute("label", ("0", "1", "2")),)


def own(tmp_path, n=60, **arrays):
    """Images that hold their own number."""
    images = np.arange(n, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    np.savez(tmp_path / "own.npz", images=images, **arrays)
    return load(str(tmp_path / "own.npz"))


def numbers(some):
    return (some["x"][:, 0, 0, 0] * 255).round().long() if isinstance(some, dict) else some.x[:, 0, 0, 0].long()


CODES = np.stack([np.arange(60) % 2, np.arange(60) % 5 - 1], axis=1)


def test_attributes_of_ones_own_stay_with_their_images(tmp_path):
    dataset = own(tmp_path, attributes=CODES, attribute_names=np.array(["smile", "hair"]), labels=np.arange(60) % 3)
    assert dataset.attributes == (Attribute("smile", ("0", "1")), Attribute("hair", ("0", "1", "2", "3")))
    for part in parts(dataset):
        assert torch.equal(part.attributes, torch.from_numpy(CODES)[numbers(part)])
        assert torch.equal(part.labels, numbers(part) % 3)
    assert [each.name for each in own(tmp_path, attributes=CODES.astype(np.int8)).attributes] == ["y1", "y2"]


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (np.arange(60) % 3, ["0", "1", "2"]),
        (np.arange(60) % 3 + 1, ["1", "2", "3"]),
        (np.arange(60) % 3 - 1, ["0", "1"]),
        (np.array(["cat", "dog", "eel"])[np.arange(60) % 3, None], ["cat", "dog", "eel"]),
        (np.zeros(60, int), []),
    ],
)
def test_labels_of_ones_own_are_an_attribute_if_there_are_two_classes(tmp_path, labels, values):
    dataset = own(tmp_path, labels=labels)
    assert [(each.name, list(each.values)) for each in dataset.attributes] == [("label", values)] * bool(values)
    for part in parts(dataset):
        assert (part.attributes is None) == (not values)
        if values:
            given = [str(labels.ravel()[n]) for n in numbers(part)]
            assert [values[k] if k >= 0 else "-1" for k in part.attributes[:, 0].tolist()] == given


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"attributes": CODES[:, 0]}, r"attributes must be integers or text \[60, attributes\], not int64 \[60\]"),
        ({"attributes": CODES[:7]}, r"attributes must be integers or text \[60, attributes\], not int64 \[7, 2\]"),
        ({"attributes": CODES[:, :0]}, r"integers or text \[60, attributes\], not int64 \[60, 0\]"),
        ({"attributes": CODES / 2}, r"integers or text \[60, attributes\], not float64 \[60, 2\]"),
        ({"attributes": CODES - 1}, "attributes must be 0, 1, ..., or -1 where missing, not -2"),
        ({"attributes": CODES * 0 - 1}, "attribute 'y1' goes up to -1: its values must be 0, 1, ..., two or more"),
        ({"attributes": CODES * 0}, "attribute 'y1' goes up to 0: its values must be 0, 1, ..., two or more"),
        ({"attributes": CODES % 2 * 1000}, "attribute 'y1' goes up to 1000: its values must be"),
        ({"attributes": np.full((60, 1), 2**64 - 1, np.uint64)}, "attribute 'y1' goes up to 18446744073709551615"),
        ({"attributes": CODES, "attribute_names": np.array(["a"])}, r"must be 2 different strings, not <U1 \['a'\]"),
        ({"attributes": CODES, "attribute_names": np.array(["a", "a"])}, "must be 2 different strings"),
        ({"attributes": CODES, "attribute_names": np.array([1, 2])}, r"2 different strings, not int64 \[1, 2\]"),
        ({"attributes": CODES, "attribute_names": np.array("ab")}, "must be 2 different strings, not <U2 ab"),
    ],
)
def test_attributes_that_are_none_get_one_clear_line(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message) as error:
        own(tmp_path, **arrays)
    assert str(error.value).startswith(str(tmp_path / "own.npz"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mnist", {"split": "compositional"}, "^`split=compositional` goes with .* mnist-a, not with mnist$"),
        ("attributes", {"split": "iid"}, "^unknown `split` 'iid' of attributes: choose from official$"),
        ("mnist-a", {"split": "article"}, "^`split=article` goes with .* of mnist, not with mnist-a$"),
        ("mnist", {"source": "digits"}, "^`source` goes with attributes and mnist-a, .* not with mnist$"),
        ("wine", {"source": "digits"}, "^`source` goes with attributes and mnist-a, .* not with wine$"),
        ("mnist-a", {"source": "kmnist"}, "^unknown `source` 'kmnist': mnist-a can be made from digits or mnist$"),
        ("attributes", {"source": "minst"}, "^unknown `source` 'minst': attributes can be made from digits or mnist$"),
        ("atributes", {}, "did you mean 'attributes'"),
    ],
)
def test_options_that_are_not_for_the_data_get_one_line_that_names_what_is(name, options, message):
    with pytest.raises(UserError, match=message) as error:
        load(name, **options)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- batches


def test_batches_hold_the_attributes_of_their_images_and_only_where_asked(tmp_path):
    train = own(tmp_path, attributes=CODES).train
    known = SIDE, Attribute("hair", ("0", "1", "2", "3"))
    plain, rich = (
        list(Batches(train, size=8, to_batch=partial(batch_of, pixels="grey", attributes=some)).epoch(2))
        for some in ((), known)
    )
    for without, batch in zip(plain, rich, strict=True):
        assert list(without) == ["x"]
        assert list(batch) == ["x", "y1", "y2"]
        assert torch.equal(batch["x"], without["x"])
        n = numbers(batch)
        torch.testing.assert_close(batch["y1"], (n % 2)[:, None].double())
        hair = torch.eye(5)[n % 5][:, 1:]
        hair[n % 5 == 0] = math.nan
        torch.testing.assert_close(batch["y2"], hair, equal_nan=True)


def test_a_batch_of_a_split_without_attributes_has_none_and_refuses_to_make_some():
    split = Split(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    assert list(batch_of(split, "grey")) == ["x"]
    with pytest.raises(ValueError, match="the split has none"):
        batch_of(split, "grey", (SIDE,))


def test_parts_of_a_split_and_copies_elsewhere_keep_its_attributes(tmp_path):
    dataset = own(tmp_path, attributes=CODES)
    some = torch.tensor([3, 1])
    assert torch.equal(dataset.train[some].attributes, dataset.train.attributes[some])
    assert torch.equal(dataset.to("cpu").test.attributes, dataset.test.attributes)
    assert dataset.to("meta").test.attributes.device.type == "meta"
    assert dataset.to("meta").attributes == dataset.attributes


def test_mnist_a_is_the_same_however_the_last_digits_of_grey_levels_are_rounded(monkeypatch):
    digits = load("digits").train[:40]
    allowed = combinations(compositional=False, seed=0)["train"]
    exact = mnist_a(digits.x, digits.labels, allowed=allowed, seed=1, copies=1)
    rotated = attributes._rotated
    monkeypatch.setattr(attributes, "_rotated", lambda *args: rotated(*args) * (1 + 1e-13))
    rounded = mnist_a(digits.x, digits.labels, allowed=allowed, seed=1, copies=1)
    assert all(torch.equal(a, b) for a, b in zip(exact, rounded, strict=True))
