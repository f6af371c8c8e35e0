"""Columns have the likelihood of their type, guessed by the rule that is stated, or given."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_models.base.errors import UserError
from pyro_models.data import Preprocessing, load

N = 90
RNG = np.random.default_rng(0)
MIXED = {
    "height": RNG.normal(170, 10, N),
    "visits": RNG.poisson(2.0, N).astype(float),
    "ill": RNG.integers(0, 2, N).astype(float),
    "town": np.array(["Bonn", "Kiel", "Ulm"])[RNG.integers(0, 3, N)],
    "sex": np.array(["f", "m"])[RNG.integers(0, 2, N)],
    "year": RNG.integers(1990, 1999, N),
    "grade": np.array(["low", "mid", "high"])[RNG.integers(0, 3, N)],
    "rate": RNG.random(N),
}


def likelihoods(spec):
    return {column.name: column.likelihood for column in load(MIXED, likelihood=spec).preprocessing.columns}


def test_types_are_guessed_by_the_rule_and_changed_by_name_or_type():
    guessed = {
        "height": "normal",
        "visits": "negative-binomial",
        "ill": "bernoulli",
        "town": "categorical",
        "sex": "bernoulli",
        "year": "normal",
        "grade": "categorical",
        "rate": "normal",
    }
    assert likelihoods("columns") == guessed
    assert set(likelihoods("normal").values()) == {"normal"}
    given = "counts=poisson,height=student-t,grade=ordinal:low/mid/high,rate=beta,year=ordinal"
    changes = {"visits": "poisson", "height": "student-t", "grade": "ordinal", "rate": "beta", "year": "ordinal"}
    assert likelihoods(given) == guessed | changes


def test_features_are_what_the_likelihoods_take_and_come_back_as_they_were():
    spec = "grade=ordinal:low/mid/high,rate=beta"
    holed = {name: np.where(np.arange(N) % 9 == k, "", column) for k, (name, column) in enumerate(MIXED.items())}
    dataset = load(holed, likelihood=spec)
    preprocessing = Preprocessing.from_json(json.loads(json.dumps(dataset.preprocessing.as_json())))
    assert preprocessing == dataset.preprocessing
    assert any("counts (negative-binomial) 'visits'" in note for note in dataset.notes)
    x = preprocessing.apply(holed).x
    at = dict(zip(dataset.columns, x.T, strict=True))
    known = np.arange(N) % 9 != 1
    np.testing.assert_array_equal(at["visits"][known], MIXED["visits"][known])
    levels = {"low": 0, "mid": 1, "high": 2}
    known = np.arange(N) % 9 != 6
    assert at["grade"][known].tolist() == [levels[word] for word in MIXED["grade"][known]]
    assert [name for name in dataset.columns if "=" in name] == ["town=Bonn", "town=Kiel", "town=Ulm", "sex=m"]
    assert x.isnan().sum(0).tolist() == [10] * len(dataset.columns)
    units = x.double().numpy() * preprocessing.units[:, 1].numpy() + preprocessing.units[:, 0].numpy()
    first = 0
    for k, column in enumerate(preprocessing.columns):
        last = first + len(column.names)
        known = np.arange(N) % 9 != k
        values = column.values(units[known, first:last])
        expected = MIXED[column.name][known]
        if column.categories:
            assert values.tolist() == expected.tolist()
        else:
            np.testing.assert_allclose(values, expected, rtol=1e-6)
        first = last


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("height=poisson", r"column 'height' holds 1\d\d\.\d+, and poisson takes whole numbers"),
        ("visits=beta", "column 'visits' holds [0-9]+, and beta takes numbers between 0 and 1, both excluded"),
        ("town=normal", "column 'town' holds text .*, and normal takes numbers"),
        ("town=bernoulli", "column 'town' has 3 different values, and bernoulli takes 2"),
        ("height=categorical", "column 'height' has 90 different values: too many for categorical"),
        ("grade=ordinal", "column 'grade' is ordinal: give the order of all its levels, as ordinal:high/low/mid"),
        ("grade=ordinal:low/high", "column 'grade' is ordinal: give the order of all its levels"),
        ("heigth=student-t", "has no column, and there is no type, heigth: did you mean 'height'"),
        ("height=poison", "`likelihood` of height: unknown value 'poison': did you mean 'poisson'"),
        ("counts=beta", "counts are negative-binomial or poisson"),
        ("norml", "`likelihood`: unknown value 'norml': did you mean 'normal'"),
    ],
)
def test_a_likelihood_that_does_not_fit_its_column_is_refused_in_one_line(spec, message):
    with pytest.raises(UserError, match=message) as error:
        load(MIXED, likelihood=spec)
    assert "\n" not in str(error.value)


def test_new_values_that_the_likelihood_does_not_take_are_refused():
    preprocessing = load(MIXED, likelihood="columns").preprocessing
    for name, value, message in (("visits", 1.5, "takes whole numbers"), ("ill", 2.0, "bernoulli takes 0 and 1")):
        with pytest.raises(UserError, match=message):
            preprocessing.apply(MIXED | {name: np.full(N, value)})


def test_a_count_that_single_precision_would_round_is_real():
    large = np.where(np.arange(N) == 3, 0, 2**24 + 1 + np.arange(N))
    columns = load({"a": large, "b": MIXED["height"]}, likelihood="columns").preprocessing.columns
    assert columns[0].likelihood == "normal"
    assert torch.finfo(torch.float32).eps > 2**-24


def test_categories_that_the_data_declare_are_categories_and_in_their_order_ordinal(tmp_path):
    pytest.importorskip("pyarrow")
    turn = np.arange(N) % 3
    frame = pd.DataFrame({"height": MIXED["height"]})
    frame["grade"] = pd.Categorical(np.array(["low", "mid", "high"])[turn], ["low", "mid", "high", "top"], ordered=True)
    frame["stars"] = pd.Categorical(np.where(turn == 0, np.nan, turn), [1.0, 2.0, 3.0], ordered=True)
    frame["plot"] = pd.Categorical(10 * turn)
    frame["few"] = pd.array(np.where(turn == 0, None, turn - 1), dtype="Int64")
    frame["ill"] = pd.array(np.where(turn == 0, None, turn == 1), dtype="boolean")
    frame["word"] = pd.array(np.where(turn == 0, None, np.array(["", "p", "q"])[turn]), dtype="string")
    frame.drop(columns=["stars", "plot"]).to_parquet(tmp_path / "own.parquet")  # which keeps categories of text alone
    stored = load(tmp_path / "own.parquet", likelihood="columns").preprocessing.columns
    assert stored == load(frame.drop(columns=["stars", "plot"]), likelihood="columns").preprocessing.columns
    dataset = load(frame, likelihood="columns")
    expected = ["normal", "ordinal", "ordinal", "categorical", "bernoulli", "bernoulli", "bernoulli"]
    assert [column.likelihood for column in dataset.preprocessing.columns] == expected
    x = dict(zip(dataset.columns, dataset.preprocessing.apply(frame).x.T, strict=True))
    np.testing.assert_array_equal(x["grade"], turn)
    np.testing.assert_array_equal(x["stars"], np.where(turn == 0, np.nan, turn - 1))
    np.testing.assert_array_equal(x["plot=20"], turn == 2)
    np.testing.assert_array_equal(x["few"], np.where(turn == 0, np.nan, turn - 1))
    np.testing.assert_array_equal(x["ill"], np.where(turn == 0, np.nan, turn == 1))
    np.testing.assert_array_equal(x["word=q"], np.where(turn == 0, np.nan, turn == 2))
    plain = frame.astype({"plot": int, "ill": object}).assign(grade=frame["grade"].astype(str))
    torch.testing.assert_close(
        dataset.preprocessing.apply(plain).x, dataset.preprocessing.apply(frame).x, equal_nan=True
    )
    changed = load(frame, likelihood="plot=poisson,grade=categorical,stars=ordinal:3/2/1").preprocessing
    assert [column.likelihood for column in changed.columns[1:4]] == ["categorical", "ordinal", "poisson"]
    assert changed.columns[2].categories == ("3", "2", "1")
    assert load(frame[["height", "plot"]]).columns == ("height", "plot=0", "plot=10", "plot=20")
    with pytest.raises(UserError, match="column 'ill' is 1 in every row, and does not say what a blank cell means"):
        load(frame.assign(ill=np.where(turn == 0, None, True)))


def test_frames_of_polars_are_those_of_pandas():
    polars = pytest.importorskip("polars")
    levels = [None if k % 3 == 0 else ("mid", "high")[k % 2] for k in range(N)]
    columns = {"height": MIXED["height"], "grade": polars.Series(levels, dtype=polars.Enum(["low", "mid", "high"]))}
    of_polars = load(polars.DataFrame(columns), likelihood="columns")
    grade = pd.Categorical(levels, ["low", "mid", "high"], ordered=True)
    of_pandas = load(pd.DataFrame({"height": MIXED["height"], "grade": grade}), likelihood="columns")
    assert of_polars.preprocessing == of_pandas.preprocessing
