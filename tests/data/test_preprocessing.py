"""What is done to data is done to new data alike, whatever form they come in, and survives JSON."""

import json

import numpy as np
import pytest
import torch

from pyro_models.base.errors import DataError, UserError
from pyro_models.data import Preprocessing, load

RNG = np.random.default_rng(0)
TABLE = {
    "height": RNG.normal(170, 10, 90),
    "colour": np.array(["red", "green", "blue"])[RNG.integers(0, 3, 90)],
    "sex": np.array(["f", "m"])[RNG.integers(0, 2, 90)],
    "weight": RNG.normal(7, 0.1, 90),
    "label": np.array(["a", "b"])[RNG.integers(0, 2, 90)],
}


def stored(preprocessing):
    return Preprocessing.from_json(json.loads(json.dumps(preprocessing.as_json())))


def rows(dataset):
    """The rows of all splits in the order of their source."""
    order = np.argsort(np.concatenate([part.ids for part in dataset.parts.values()]).astype(int))
    return torch.cat([part.x for part in dataset.parts.values()])[order]


def written(tmp_path, columns, separator=","):
    lines = [separator.join(columns), *(separator.join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(lines))
    return path


def test_new_rows_become_what_the_same_rows_were_in_training(tmp_path):
    pd = pytest.importorskip("pandas")
    dataset = load(TABLE)
    preprocessing = stored(dataset.preprocessing)
    assert preprocessing == dataset.preprocessing
    turned = dict(reversed(TABLE.items()))
    for new in (TABLE, turned, pd.DataFrame(turned), written(tmp_path, turned), written(tmp_path, TABLE, ";")):
        split = preprocessing.apply(new)
        assert torch.equal(split.x, rows(dataset))
        assert [dataset.classes[k] for k in split.labels] == TABLE["label"].tolist()
    few = preprocessing.apply({name: column[3:4] for name, column in TABLE.items()})
    torch.testing.assert_close(few.x, rows(dataset)[3:4], rtol=0, atol=0)
    without = preprocessing.apply({name: column for name, column in TABLE.items() if name != "label"})
    assert without.labels is None
    assert torch.equal(without.x, rows(dataset))


def test_the_scaler_is_of_the_training_rows_alone():
    dataset = load(TABLE)
    column = dataset.preprocessing.columns[0]
    train = TABLE["height"][dataset.train.ids.astype(int)]
    assert column.loc == pytest.approx(train.mean())
    assert column.scale == pytest.approx(train.std())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t | {"extra": t["height"]}, "has the columns 'extra' beside: the columns are 'height', "),
        (lambda t: {k: v for k, v in t.items() if k != "sex"}, "lacks the columns 'sex'"),
        (lambda t: t | {"colour": np.full(90, "mauve")}, "column 'colour': 'mauve' is none of its categories"),
        (lambda t: {k: np.where(np.arange(90) == 4, "", v) for k, v in t.items()}, r"of 1 rows no value is .* \(4\)"),
        (lambda t: t | {"height": np.full(90, "tall")}, r"column 'height' (holds text|is 'tall')"),
        (lambda t: t | {"height": np.full(90, np.inf)}, "column 'height' has 90 infinite values: mend"),
        (lambda t: t | {"label": np.full(90, "c")}, "label 'c' is none of the classes in training, a, b"),
        (lambda t: np.zeros((5, 3)), r"3 columns, and 4 are needed: 'height', 'colour', 'sex', 'weight'"),
        (lambda t: np.zeros((5, 3, 3)), "holds images, not a table of the columns 'height'"),
        (lambda t: {k: v[:0] for k, v in t.items()}, "there are no data"),
        (lambda t: "nowhere.csv", "no such file: nowhere.csv"),
    ],
)
def test_new_data_that_do_not_fit_get_one_line_and_exit_code_2(change, message):
    with pytest.raises(UserError, match=message) as error:
        load(TABLE).preprocessing.apply(change(TABLE))
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_rows_without_names_are_taken_in_the_order_of_the_columns():
    numbers = {name: TABLE[name] for name in ("height", "weight")}
    dataset = load(numbers)
    new = dataset.preprocessing.apply(np.stack(list(numbers.values()), 1)[:7])
    assert torch.equal(new.x, rows(dataset)[:7])


IMAGES = RNG.random((40, 5, 7))


@pytest.mark.parametrize(
    ("train", "new"),
    [
        ((IMAGES * 255).round().astype(np.uint8), IMAGES),
        (IMAGES, (IMAGES * 255).round().astype(np.uint8)),
        (IMAGES, (IMAGES * 65535).round().astype(np.uint16)),
        (IMAGES, torch.from_numpy(IMAGES)),
        (IMAGES * 255, (IMAGES * 255)[:3] / 4),  # dark ones are not stretched
    ],
)
def test_new_images_keep_their_intensities_whatever_their_type(train, new):
    preprocessing = stored(load(train).preprocessing)
    x = preprocessing.apply(new).x
    expected = (IMAGES[: len(x)] * 255 / (4 if len(x) == 3 else 1)).round()
    assert x.shape == (len(new), 1, 5, 7)
    assert (x[:, 0].double() - torch.from_numpy(expected)).abs().max() <= 1


def test_new_images_of_another_size_or_number_of_channels_are_refused():
    preprocessing = load(IMAGES).preprocessing
    with pytest.raises(DataError, match="images of 5 x 6 with 1 channel, not of 5 x 7 with 1 channel as in training"):
        preprocessing.apply(IMAGES[..., :6])
    with pytest.raises(DataError, match="images of 5 x 7 with 3 channels, not of 5 x 7 with 1 channel"):
        preprocessing.apply(np.stack([IMAGES] * 3, 1))
    with pytest.raises(DataError, match=r"pixels lie in \[0, 1.5\], not between 0 and 1"):
        preprocessing.apply(np.where(np.arange(7) == 0, 1.5, 0 * IMAGES))


@pytest.mark.parametrize("pixels", ["threshold", "static"])
def test_binarised_pixels_of_a_new_image_depend_on_that_image_alone(pixels):
    preprocessing = stored(load("digits", pixels=pixels).preprocessing)
    grey = load("digits").test
    new = preprocessing.apply(grey.x[:40].numpy())
    assert set(new.x.unique().tolist()) == {0, 255}
    assert torch.equal(preprocessing.apply(grey.x[[5]].numpy()).x, new.x[5:6])
    if pixels == "threshold":
        assert torch.equal(new.x, load("digits", pixels="threshold").test.x[:40])
    else:
        ink, expected = new.x.double().mean() / 255, grey.x[:40].double().mean() / 255
        assert ink == pytest.approx(expected.item(), abs=4 * 0.5 / grey.x[:40].numel() ** 0.5)


@pytest.mark.parametrize("name", ["digits", "attributes", "blobs", "iris"])
def test_named_data_know_what_was_done_to_them(name):
    dataset = load(name)
    preprocessing = stored(dataset.preprocessing)
    assert preprocessing.shape == dataset.shape == tuple(dataset.train.x.shape[1:])
    assert preprocessing.attributes == dataset.attributes
    assert len(preprocessing.classes) == len(dataset.train.labels.unique()) == dataset.class_count
    if not dataset.is_table:
        assert torch.equal(preprocessing.apply(dataset.test.x[:9].numpy()).x, dataset.test.x[:9])
