import gzip

import numpy as np
import pandas
import pytest
import scipy.sparse
import torch

from pyro_models.base.errors import UserError
from pyro_models.data import load

ROWS = 60
POINTS = np.random.default_rng(0).normal(size=(ROWS, 2)) * [3.0, 0.1] + [5.0, -7.0]
BODY = "".join(f"{a},{b}\n" for a, b in POINTS.tolist())


def parts(dataset):
    return dataset.train, dataset.validation, dataset.test


def whole(dataset):
    return torch.cat([part.x for part in parts(dataset)])


def csv(tmp_path, text, **how):
    path = tmp_path / "own.csv"
    path.write_text(text, **how)
    return load(str(path))


def npz(tmp_path, **arrays):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    return load(str(path))


def parquet(tmp_path, columns, **options):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    path = tmp_path / "own.parquet"
    files.write_table(pa.table(columns, **options), path)
    return load(str(path))


def with_labels(labels):
    """A .csv with a column `label`."""
    return "a,label\n" + "".join(f"{a},{label}\n" for a, label in zip(POINTS[:, 0].tolist(), labels, strict=True))


def assert_same_rows(dataset, points):
    """The splits, put together and standardised anew, are the points in some order."""
    found, expected = (
        (rows - rows.mean(0)) / rows.std(0, correction=0) for rows in (whole(dataset).double(), torch.tensor(points))
    )
    distances = torch.cdist(found, expected)
    nearest = distances.argmin(1)
    assert sorted(nearest.tolist()) == list(range(len(points)))
    assert distances.min(1).values.max() < 1e-4
    return nearest


@pytest.mark.parametrize(
    ("name", "rows", "columns", "counts"),
    [
        ("blobs", 3000, 2, [1000] * 3),
        ("moons", 3000, 2, [1500] * 2),
        ("pinwheel", 3000, 2, [600] * 5),
        ("wine", 178, 13, [59, 71, 48]),
        ("iris", 150, 4, [50] * 3),
    ],
)
def test_tables_come_whole_in_disjoint_splits_with_columns_of_mean_0_and_deviation_1_in_training(
    name, rows, columns, counts
):
    dataset = load(name)
    assert dataset.is_table
    assert len(dataset.columns) == len(set(dataset.columns)) == columns
    assert dataset.shape == (columns,)
    held_out = round(rows / 6), round((rows - round(rows / 6)) / 12)
    assert [len(part) for part in parts(dataset)] == [rows - sum(held_out), held_out[1], held_out[0]]
    assert torch.cat([part.labels for part in parts(dataset)]).bincount().tolist() == counts
    train = dataset.train.x.double()
    torch.testing.assert_close(train.mean(0), torch.zeros(columns), rtol=0, atol=1e-6)
    torch.testing.assert_close(train.std(0, correction=0), torch.ones(columns), rtol=0, atol=1e-6)
    assert all(part.x.dtype == torch.float32 and part.labels.dtype == torch.int64 for part in parts(dataset))


@pytest.mark.parametrize("name", ["blobs", "moons", "pinwheel", "wine", "iris"])
def test_a_table_is_the_same_each_time_whatever_the_random_state(name):
    torch.manual_seed(7)
    np.random.seed(7)
    first = load(name)
    torch.manual_seed(8)
    np.random.seed(8)
    second = load(name)
    for one, other in zip(parts(first), parts(second), strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("name", ["wine", "iris"])
def test_the_small_tables_are_scikit_learns_with_the_label_of_each_row(name):
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    dataset = load(name)
    assert dataset.columns == tuple(bunch.feature_names)
    standard = (bunch.data - bunch.data.mean(0)) / bunch.data.std(0)
    rows = whole(dataset).double()
    rows = (rows - rows.mean(0)) / rows.std(0, correction=0)
    nearest = torch.cdist(rows, torch.from_numpy(standard)).min(1)
    assert nearest.values.max() < 1e-4
    labels = torch.cat([part.labels for part in parts(dataset)])
    assert (torch.from_numpy(bunch.target)[nearest.indices] == labels).all()


def test_the_arms_of_the_pinwheel_are_one_arm_turned_by_a_fifth_each():
    from pyro_models.data.tables import pinwheel

    columns, labels = pinwheel()
    x, y = columns["x[0]"], columns["x[1]"]
    radius = np.hypot(x, y)
    bend = 0.25 * np.exp(radius)  # the radius is 1 + `along`, but for the width of an arm
    angles = np.exp(1j * (np.arctan2(y, x) - bend - 2 * np.pi * labels / 5))
    for arm in range(5):
        assert (labels == arm).sum() == 600
        mean = angles[labels == arm].mean()
        assert abs(np.angle(mean)) < 0.03
        assert abs(mean) > 0.97
    assert radius.mean() == pytest.approx(1.0, abs=0.03)
    assert radius.std() == pytest.approx(0.3, abs=0.03)


def test_blobs_lie_around_their_centres():
    from pyro_models.data.tables import blobs

    columns, labels = blobs()
    points = np.stack(list(columns.values()), axis=1)
    for kind, center in enumerate([(-4, -2), (0, 4), (4, -2)]):
        assert points[labels == kind].mean(0) == pytest.approx(center, abs=0.1)
        assert points[labels == kind].std(0) == pytest.approx([0.8, 0.8], abs=0.06)


@pytest.mark.parametrize("head", ["", "height, width \n", "\ufeffheight,width\n"], ids=["none", "spaced", "marked"])
def test_a_csv_file_with_or_without_names_gives_the_same_rows(tmp_path, head):
    dataset = csv(tmp_path, head + BODY, encoding="utf-8")
    assert dataset.columns == (("height", "width") if head else ("x[0]", "x[1]"))
    assert dataset.train.labels is None
    assert_same_rows(dataset, POINTS)


def test_one_table_is_split_and_scaled_alike_in_every_kind_of_file(tmp_path):
    np.save(tmp_path / "own.npy", POINTS)
    expected = load(str(tmp_path / "own.npy"))
    assert expected.columns == ("x[0]", "x[1]")
    assert_same_rows(expected, POINTS)
    for other in (csv(tmp_path, BODY), npz(tmp_path, table=POINTS)):
        for one, two in zip(parts(expected), parts(other), strict=True):
            assert torch.equal(one.x, two.x)


def test_a_parquet_file_is_read_as_the_csv_file_of_its_columns(tmp_path):
    labels = ["stone", "leaf", "water"] * (ROWS // 3)
    names = {"a": POINTS[:, 0], "label": labels}
    expected = csv(tmp_path, with_labels(labels))
    found = parquet(tmp_path, names)
    assert found.columns == expected.columns == ("a",)
    for one, two in zip(parts(expected), parts(found), strict=True):
        assert torch.equal(one.x, two.x)
        assert torch.equal(one.labels, two.labels)
    assert load(str(tmp_path / "own.parquet")).train.labels.unique().tolist() == [0, 1, 2]


def test_names_of_labels_are_numbered_by_the_alphabet_and_stay_with_their_rows(tmp_path):
    names = np.where(POINTS[:, 0] > 5, "above", np.where(POINTS[:, 0] > 3, "below", "far"))
    dataset = csv(tmp_path, with_labels(names))
    assert dataset.columns == ("a",)
    nearest = assert_same_rows(dataset, POINTS[:, :1])
    found = torch.cat([part.labels for part in parts(dataset)])
    expected = torch.tensor([["above", "below", "far"].index(name) for name in names])
    assert torch.equal(found, expected[nearest])


@pytest.mark.parametrize("form", ["{}", "{}.0", " {} "])
def test_whole_numbers_as_labels_are_numbered_in_their_order_and_keep_their_names(tmp_path, form):
    dataset = csv(tmp_path, with_labels(form.format(5 * (k % 4)) for k in range(ROWS)))
    assert dataset.classes == ("0", "5", "10", "15")
    assert torch.cat([part.labels for part in parts(dataset)]).unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, np.float32, np.float64, bool])
def test_labels_beside_a_table_stay_with_their_rows(tmp_path, dtype):
    labels = (np.arange(ROWS) // 2).astype(dtype)
    dataset = npz(tmp_path, table=POINTS, labels=labels)
    nearest = assert_same_rows(dataset, POINTS)
    expected = torch.from_numpy(labels.astype(np.int64))[nearest]
    assert torch.equal(torch.cat([part.labels for part in parts(dataset)]), expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, bool])
def test_columns_of_any_numbers_are_rows_of_floats(tmp_path, dtype):
    dataset = npz(tmp_path, table=np.random.default_rng(0).integers(0, 2, (ROWS, 3)).astype(dtype))
    assert dataset.train.x.dtype == torch.float32
    assert all(len(column.unique()) == 2 for column in dataset.train.x.T)


def holed(hole, row=3):
    return "a,b\n" + "".join(f"{a},{hole if k == row else b}\n" for k, (a, b) in enumerate(POINTS.tolist()))


def one_line(error):
    return "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (holed("tall"), r"column 'b' holds 'tall', which is no number: .* leave a cell blank"),
        (holed("-inf"), "column 'b' has 1 infinite values: mend them, or leave these cells blank"),
        ("a,b\n" + "".join(f"{a},\n" for a in POINTS[:, 0].tolist()), "column 'b' has no value in any row: drop it"),
        ("a,b\n" + "".join(f"{a},3\n" for a in POINTS[:, 0].tolist()), "column 'b' is 3 in every row: drop it"),
        ("a,b\n" + BODY + "1\n", "row 62 has 1 columns, the first has 2"),
        ("a\n" + BODY, "row 2 has 2 columns, the first has 1"),
        ("a, a\n" + BODY, "two columns have the same name"),
        ("", "it is empty"),
        ("\n\n", "it is empty"),
        ("a,b\n", "0 rows are too few"),
        (with_labels([0] * ROWS).replace("a,label", "label,label"), "two columns have the same name"),
        ("label\n" + "".join(f"{k % 3}\n" for k in range(ROWS)), "no column of numbers"),
        ("a,b\n" + "".join(BODY.splitlines(keepends=True)[:23]), "23 rows are too few to split: give at least 24"),
        (with_labels(k / 2 for k in range(ROWS)), "labels must be integers or names"),
        (with_labels([-3, 1] * (ROWS // 2)), "labels go down to -3, and -1 means not known"),
    ],
)
def test_a_csv_file_that_is_no_table_gets_one_line_that_names_file_and_column(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as error:
        csv(tmp_path, text)
    assert str(tmp_path / "own.csv") in str(error.value)
    assert one_line(error)


def test_24_rows_are_enough(tmp_path):
    assert [len(part) for part in parts(npz(tmp_path, table=POINTS[:24]))] == [18, 2, 4]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"table": POINTS[:, 0]}, r"a table must be \[n, columns\], not \[60\]"),
        ({"table": POINTS[None]}, r"a table must be \[n, columns\], not \[1, 60, 2\]"),
        ({"table": POINTS[:, :0]}, "no column of numbers"),
        ({"table": POINTS[:23]}, "23 rows are too few"),
        ({"table": POINTS + 0j}, r"column 'x\[0\]' is of type complex128, not numbers"),
        ({"table": np.full((ROWS, 2), "tall")}, r"column 'x\[0\]' is 'tall' in every row"),
        ({"table": np.where(np.arange(2 * ROWS).reshape(ROWS, 2) == 5, np.inf, POINTS)}, r"column 'x\[1\]' has 1 inf"),
        ({"table": POINTS * [1, 0]}, r"column 'x\[1\]' is -?0 in every row"),
        ({"table": POINTS, "labels": np.zeros(7, int)}, r"60 rows but labels of shape \[7\]"),
        ({"table": POINTS, "labels": np.zeros((ROWS, 2), int)}, r"60 rows but labels of shape \[60, 2\]"),
        ({"table": POINTS, "labels": np.array(1)}, r"60 rows but labels of shape \[\]"),
        ({"table": POINTS, "labels": np.arange(ROWS) / 2}, "labels must be integers or names"),
        ({"tables": POINTS}, "no array named 'images' or 'table'"),
        ({"table": np.array([[{}]] * ROWS)}, "not a .npy or .npz file of plain numbers"),
    ],
)
def test_arrays_that_are_no_table_get_one_line_that_names_file_and_column(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message) as error:
        npz(tmp_path, **arrays)
    assert str(tmp_path / "own.npz") in str(error.value)
    assert one_line(error)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"a": POINTS[:, 0], "b": ["tall", "0.5"] * (ROWS // 2)}, {}, r"column 'b' holds 'tall', which is no number"),
        ({"a": POINTS[:, 0], "b": [None] * ROWS}, {}, "column 'b' has no value in any row"),
        ({"a": POINTS[:, 0], "b": np.arange(ROWS).astype("M8[s]")}, {}, r"column 'b' holds dates or times: drop it"),
        ({"a": POINTS[:, 0], "b": [0.5] * ROWS}, {}, "column 'b' is 0.5 in every row"),
        ({"a": POINTS[:23, 0]}, {}, "23 rows are too few"),
        ([POINTS[:, 0], POINTS[:, 1]], {"names": ["a", "a"]}, "cannot be read as a table"),
    ],
)
def test_a_parquet_file_that_is_no_table_gets_one_line_that_names_file_and_column(tmp_path, columns, options, message):
    with pytest.raises(UserError, match=message) as error:
        parquet(tmp_path, columns, **options)
    assert str(tmp_path / "own.parquet") in str(error.value)
    assert one_line(error)


@pytest.mark.parametrize("content", [b"", b"PAR1 and nothing more"])
def test_a_damaged_parquet_file_gets_one_line(tmp_path, content):
    pytest.importorskip("pyarrow")
    path = tmp_path / "own.parquet"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a table") as error:
        load(str(path))
    assert one_line(error)


def test_without_pyarrow_a_parquet_file_gets_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    path = tmp_path / "own.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"needs pyarrow: pip install 'pyro-stories\[parquet\]'"):
        load(str(path))


@pytest.mark.parametrize("value", [3.0, 0.1, 1 / 3, 1e8 + 0.3])
@pytest.mark.parametrize("copies", [1, 7])
def test_a_column_that_varies_in_held_out_rows_alone_is_refused(tmp_path, value, copies):
    rows = np.tile(POINTS, (copies, 1))
    rows[:, 1] = value
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    rows[int(order[0]), 1] = value + 1
    with pytest.raises(UserError, match=r"column 'x\[1\]' has a standard deviation of") as error:
        npz(tmp_path, table=rows)
    assert one_line(error)


def test_no_rows_are_too_few(tmp_path):
    with pytest.raises(UserError, match="0 rows are too few"):
        npz(tmp_path, table=np.zeros((0, 2)))


@pytest.mark.parametrize("label", [np.inf, -np.inf, 1e300])
def test_labels_that_no_whole_number_holds_are_refused(tmp_path, label):
    with pytest.raises(UserError, match="labels must be integers or names"):
        npz(tmp_path, table=POINTS, labels=np.where(np.arange(ROWS) == 3, label, 1.0))


@pytest.mark.parametrize("labels", [np.arange(ROWS).astype("M8[D]"), np.arange(ROWS) + 0j], ids=["dates", "complex"])
def test_labels_of_other_types_are_refused(tmp_path, labels):
    with pytest.raises(UserError, match="labels must be integers or names"):
        npz(tmp_path, table=POINTS, labels=labels)


MISSING = ["", "NA", "nan", "None", "?", "-1", "n/a", "Unknown"]


@pytest.mark.parametrize("missing", MISSING)
@pytest.mark.parametrize("names", [["1", "2"], ["leaf", "stone"]])
def test_a_label_that_is_not_known_is_no_class_of_its_own(tmp_path, names, missing):
    dataset = csv(tmp_path, with_labels([*names, missing] * (ROWS // 3)))
    assert dataset.classes == tuple(names)
    labels = torch.cat([part.labels for part in parts(dataset)])
    assert (labels + 1).bincount().tolist() == [ROWS // 3] * 3
    assert any("20 of 60 labels are not known" in note for note in dataset.notes)


@pytest.mark.parametrize("labels", [["leaf", "stone", None] * (ROWS // 3), [1.0, 2.0, float("nan")] * (ROWS // 3)])
def test_a_missing_label_in_a_parquet_file_or_a_frame_is_not_known(tmp_path, labels):
    pd = pytest.importorskip("pandas")
    frame = {"a": POINTS[:, 0], "label": labels}
    for dataset in (parquet(tmp_path, frame), load(pd.DataFrame(frame))):
        assert len(dataset.classes) == 2
        assert [len(part.labelled()) for part in parts(dataset)] == [30, 3, 7]  # each split has its share


def test_without_any_known_label_data_are_unlabelled(tmp_path):
    dataset = npz(tmp_path, table=POINTS, labels=np.full(ROWS, np.nan))
    assert dataset.train.labels is None
    assert dataset.classes == ()
    assert dataset.notes == ("60 of 60 labels are not known: these data are unlabelled",)


def test_a_hole_in_the_first_row_does_not_make_it_a_row_of_names(tmp_path):
    dataset = csv(tmp_path, ",1.5\n" + BODY)
    assert dataset.columns == ("x[0]", "x[1]")
    assert whole(dataset).isnan().sum(0).tolist() == [1, 0]


def test_columns_of_very_large_numbers_are_standardised_too_or_refused(tmp_path):
    try:
        dataset = npz(tmp_path, table=POINTS * 1e200)
    except UserError:
        return
    torch.testing.assert_close(dataset.train.x.std(0, correction=0), torch.ones(2, dtype=torch.float32))


def test_a_csv_as_pandas_writes_it_is_understood(tmp_path):
    rows = [f"{k / 7},{k * k}" for k in range(40)]
    path = tmp_path / "own.csv"
    path.write_text("0,1\n" + "\n".join(rows))  # to_csv(index=False) of columns without names
    dataset = load(str(path))
    assert dataset.columns == ("0", "1")
    assert sum(map(len, (dataset.train, dataset.validation, dataset.test))) == 40
    path.write_text(",a,b\n" + "\n".join(f"{k},{row}" for k, row in enumerate(rows)))  # to_csv()
    dataset = load(str(path))
    assert dataset.columns == ("a", "b")
    assert dataset.notes == ("the first column, which has no name and numbers the rows, is left out",)
    path.write_text(",a,b\n" + "\n".join(f"{k * 2},{row}" for k, row in enumerate(rows)))
    with pytest.raises(UserError, match="column 1 has no name"):
        load(str(path))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("decimal", [".", ","])
def test_a_table_is_the_same_whatever_separates_its_columns_and_its_decimals(tmp_path, separator, decimal):
    if separator == decimal:
        return
    expected = csv(tmp_path, "a,b,label\n" + BODY.replace("\n", ",x\n"))
    path = tmp_path / "other.CSV"
    body = BODY.replace("\n", ",x\n").replace(",", separator).replace(".", decimal)
    path.write_text(f"a{separator}b{separator}label\n" + body)
    dataset = load(path)
    assert dataset.columns == ("a", "b")
    assert dataset.classes == ("x",)
    assert torch.equal(dataset.train.x, expected.train.x)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_names_of_columns_are_read_in_any_usual_encoding(tmp_path, encoding):
    dataset = csv(tmp_path, "höhe,b\n" + BODY, encoding=encoding)
    assert dataset.columns == ("höhe", "b")
    assert bool(dataset.notes) == (encoding == "cp1252")


def test_a_row_of_years_is_a_row_of_names_and_a_table_of_years_is_not(tmp_path):
    dataset = csv(tmp_path, "2019,2020\n" + BODY)
    assert dataset.columns == ("2019", "2020")
    assert "is read as names of columns" in dataset.notes[0]
    rows = "".join(f"{1990 + k % 31},{1985 + k % 36}\n" for k in range(60))
    assert csv(tmp_path, "2019,2020\n" + rows).columns == ("x[0]", "x[1]")


def test_words_for_a_missing_cell_and_blanks_are_missing_and_the_others_stay_standardised(tmp_path):
    for word in ("NA", "?", "null", "", "  ", "nan"):
        dataset = csv(tmp_path, holed(word, row=int(load({"a": POINTS[:, 0]}).train.ids[0])))
        assert whole(dataset).isnan().sum(0).tolist() == [0, 1]
        assert any("1 columns have missing cells" in note for note in dataset.notes)
        train = dataset.train.x[~dataset.train.x.isnan().any(1)]
        torch.testing.assert_close(train.std(0, correction=0), torch.ones(2, dtype=torch.float32), rtol=0.1, atol=0)


def test_text_with_few_values_becomes_indicators_and_other_text_is_refused(tmp_path):
    sizes, sexes = ["big", "small", "tiny"] * (ROWS // 3), ["f", "m"] * (ROWS // 2)
    lines = zip(POINTS[:, 0].tolist(), sizes, sexes, strict=True)
    dataset = csv(tmp_path, "a,size,sex,label\n" + "".join(f"{a},{s},{x},{s}\n" for a, s, x in lines))
    assert dataset.columns == ("a", "size=big", "size=small", "size=tiny", "sex=m")
    assert torch.equal(dataset.train.x[:, 1:4].argmax(1), dataset.train.labels)
    assert set(dataset.train.x[:, 1:].unique().tolist()) == {0.0, 1.0}
    other = "column 'b' holds .*, which is no number"
    refused = {"'{}'": other, "1,{}": other, "{}%": other, "−{}": other, "{}.1.2024": "column 'b' holds dates"}
    refused |= {"n{}": r"column 'b' holds text .* give `label_column` or `id_column`", "1_{}": "holds text"}
    for word, message in refused.items():
        text = "".join(f'{a},"{word.format(k)}"\n' for k, a in enumerate(POINTS[:, 0].tolist()))
        with pytest.raises(UserError, match=message):
            csv(tmp_path, "a,b\n" + text)


def test_columns_that_are_no_features_are_named_and_hinted_at(tmp_path):
    text = "id,species,a,use\n" + "".join(
        f"row {k},{'xy'[k % 2]},{a},{['train', 'test', 'val'][k % 3]}\n" for k, a in enumerate(POINTS[:, 0].tolist())
    )
    path = tmp_path / "own.csv"
    path.write_text(text)
    dataset = load(path, label_column="species", id_column="id", split_column="use")
    assert dataset.columns == ("a",)
    assert dataset.classes == ("x", "y")
    assert dataset.test.ids.tolist() == [f"row {k}" for k in range(ROWS) if k % 3 == 1]
    assert [len(part) for part in parts(dataset)] == [20, 20, 20]
    with pytest.raises(UserError, match="no column 'specie' for `label_column`: choose from id, species, a, use"):
        load(path, label_column="specie")
    path.write_text(text.replace("row ", ""))
    hints = " ".join(load(path).notes)
    assert "`label_column=species`" in hints
    assert "`id_column=id`" in hints


def test_a_split_of_three_files_is_kept_and_scaled_by_its_training_rows(tmp_path):
    for name, rows in (("train", POINTS[:30]), ("val", POINTS[30:40]), ("test", POINTS[40:])):
        body = "".join(f"{b},{a},{name}\n" if name == "val" else f"{a},{b},{name}\n" for a, b in rows.tolist())
        head = "b,a,label\n" if name == "val" else "a,b,label\n"
        (tmp_path / f"{name}.csv").write_text(head + body)
    named = {f"{long}_data": tmp_path / f"{short}.csv" for long, short in (("validation", "val"), ("test", "test"))}
    dataset = load(tmp_path / "train.csv", **named)
    standard = torch.tensor((POINTS - POINTS[:30].mean(0)) / POINTS[:30].std(0))
    for part, rows in zip(parts(dataset), (standard[:30], standard[30:40], standard[40:]), strict=True):
        torch.testing.assert_close(part.x.double(), rows, rtol=0, atol=1e-5)
    assert dataset.classes == ("test", "train", "val")
    only_test = load(tmp_path / "train.csv", test_data=tmp_path / "test.csv")
    assert [len(part) for part in parts(only_test)] == [28, 2, 20]
    (tmp_path / "val.csv").write_text("a,c,label\n1,2,3\n")
    with pytest.raises(UserError, match=r"val\.csv: lacks the columns 'b' and has 'c'"):
        load(tmp_path / "train.csv", **named)


def test_ids_are_of_each_row_once(tmp_path):
    text = "name,a\n" + "".join(f"{min(k, 50)},{a}\n" for k, a in enumerate(POINTS[:, 0].tolist()))
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(UserError, match="1 ids are there more than once, '50' for one"):
        load(tmp_path / "own.csv", id_column="name")


def test_the_index_of_a_parquet_file_is_no_feature(tmp_path):
    pd, _ = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pd.DataFrame(POINTS, columns=["a", "b"]).sample(frac=1, random_state=0)
    frame.to_parquet(tmp_path / "own.parquet")
    dataset = load(tmp_path / "own.parquet")
    assert dataset.columns == ("a", "b")
    assert "the index of the data frame, which has no name, is left out" in dataset.notes
    frame.index = pd.Index([f"cell {k}" for k in range(ROWS)], name="cell")
    frame.to_parquet(tmp_path / "own.parquet")
    for source in (tmp_path / "own.parquet", frame):
        named = load(source)
        assert named.columns == ("a", "b")
        assert named.test.ids[0].startswith("cell ")
        assert torch.equal(named.test.x, dataset.test.x)


def test_arrays_frames_tensors_and_dictionaries_in_memory_are_the_same_data(tmp_path):
    pd = pytest.importorskip("pandas")
    labels = np.arange(ROWS) % 3
    expected = npz(tmp_path, table=POINTS, labels=labels)
    frame = pd.DataFrame(POINTS, columns=["a", "b"])
    forms = [
        (POINTS, labels),
        (torch.from_numpy(POINTS), torch.from_numpy(labels)),
        (frame, labels.tolist()),
        frame.assign(label=labels),
        {"table": POINTS, "labels": labels},
        {"a": POINTS[:, 0], "b": POINTS[:, 1], "label": labels},
    ]
    for form in forms:
        dataset = load(form)
        assert all(torch.equal(one.x, two.x) for one, two in zip(parts(dataset), parts(expected), strict=True))
        assert torch.equal(dataset.train.labels, expected.train.labels)


def test_the_matrix_of_an_anndata_is_a_table_with_its_own_names():
    pd = pytest.importorskip("pandas")
    from types import SimpleNamespace

    from scipy.sparse import csr_matrix

    obs = pd.DataFrame({"tissue": ["skin", "bone", "NA"] * (ROWS // 3)}, index=[f"cell {k}" for k in range(ROWS)])
    value = SimpleNamespace(X=csr_matrix(POINTS), var_names=["g1", "g2"], obs_names=obs.index, obs=obs)
    dataset = load(value, label_column="tissue")
    assert dataset.columns == ("g1", "g2")
    assert dataset.classes == ("bone", "skin")
    row = int(dataset.test.ids[0].split()[1])
    assert dataset.test.labels[0] == [1, 0, -1][row % 3]
    assert_same_rows(dataset, POINTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(90), "it is no text: save it as .csv"),
        (f"a,b\n{BODY}".encode("utf-16-le"), "it is no text"),
        (b"a,\x81\n" + BODY.encode(), "neither UTF-8 nor Windows-1252"),
        (gzip.compress(f"a,b\n{BODY}".encode())[:200], "cannot be read as a table"),
        (f'a,b\n1,"2\n{BODY}'.encode(), "a quotation mark is never closed"),
        (f"a,a\n{BODY}".encode(), "two columns have the same name, 'a'"),
        (f"a,\n{BODY}".encode(), "column 2 has no name: give it one"),
    ],
)
def test_files_that_are_no_tables_say_what_to_do(tmp_path, content, message):
    (tmp_path / "own.csv").write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path / "own.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(f"a,b\n{BODY}".encode()),
        f"a,b\n{BODY}".encode("utf-32"),
        f"a,b\n{BODY}".replace(",", "  ").encode(),
        f"a,b\n{BODY}".replace("\n", ",\n").encode(),
        f" a , b \n\n  \n{BODY}".encode(),
    ],
    ids=["gzip", "utf-32", "spaces", "a separator at the end", "blanks"],
)
def test_a_table_is_the_same_however_it_is_written(tmp_path, content):
    (tmp_path / "own.csv").write_bytes(content)
    dataset = load(tmp_path / "own.csv")
    assert dataset.columns == ("a", "b")
    assert_same_rows(dataset, POINTS)


def test_true_and_false_are_1_and_0_in_text_and_in_memory(tmp_path):
    true = np.arange(ROWS) % 3 == 0
    texts = csv(tmp_path, "a,b\n" + "".join(f"{a},{b}\n" for a, b in zip(POINTS[:, 0], true, strict=True)))
    arrays = load({"a": POINTS[:, 0], "b": true})
    assert texts.preprocessing == arrays.preprocessing
    torch.testing.assert_close(texts.train.x, arrays.train.x)


def test_masked_sparse_and_structured_arrays_are_what_they_hold():
    hole = np.arange(ROWS) % 7 == 3
    known = load(np.column_stack([POINTS[:, 0], np.where(hole, np.nan, POINTS[:, 1])])).preprocessing
    masked = np.ma.MaskedArray(POINTS, np.column_stack([np.zeros_like(hole), hole]))
    assert load(masked).preprocessing == known
    plain = load(POINTS)
    for same in (torch.from_numpy(POINTS).to_sparse(), scipy.sparse.csr_matrix(POINTS)):
        assert load(same).preprocessing == plain.preprocessing
    structured = np.array(list(map(tuple, POINTS)), dtype=[("a", "f8"), ("b", "f8")])
    for same in (structured, {"table": structured}):
        assert load(same).columns == ("a", "b")
        assert_same_rows(load(same), POINTS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "`data` are None: give an array"),
        ("", "an empty text: give the path"),
        ("https://host/own.csv", "is an address: download"),
        ({"a": POINTS[:, 0], "b": POINTS[1:, 1]}, "column 'a' has 60 rows, and 'b' 59"),
        ({"table": POINTS, "images": np.zeros((ROWS, 2, 2))}, "both 'images' and 'table'"),
        ({"table": POINTS, "columns": np.array(["a", "a"])}, "two columns have the same name, 'a'"),
        ({"table": POINTS, "split": np.array(["train"])}, r"60 data but splits of shape \[1\]"),
        ({"table": POINTS, "split": np.full(ROWS, "test")}, "0 training data are too few"),
        ((POINTS, np.eye(ROWS)[:, :3]), r"labels of shape \[60, 3\]: give one label .* `labels.argmax\(1\)`"),
        ((POINTS, np.arange(ROWS)), "labels are of 60 classes, one for each datum or two: leave them out"),
        ({"images": np.full((ROWS, 2, 2), 7)}, "every pixel of every image is 7"),
        ({"images": np.linspace(-0.5, 7, 4 * ROWS).reshape(ROWS, 2, 2)}, "shift them, so that black is 0"),
    ],
)
def test_data_that_make_no_sense_are_refused_with_what_to_do(data, message):
    with pytest.raises(UserError, match=message) as error:
        load(data)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_what_is_left_out_and_labels_without_training_data_are_said():
    dataset = load({"table": POINTS, "target": np.arange(ROWS)})
    assert any("the arrays target are left out" in note for note in dataset.notes)
    part = np.where(np.arange(ROWS) < 20, "test", "train")
    names = np.where(np.arange(ROWS) < 3, "new", np.where(np.arange(ROWS) % 2, "p", "q"))
    dataset = load({"table": POINTS, "labels": names, "split": part})
    assert "no training data are labelled new" in dataset.notes


def test_an_index_that_repeats_itself_holds_no_ids():
    frame = pandas.DataFrame(POINTS, index=["a", "b"] * (ROWS // 2))
    assert any("repeats itself and is left out" in note for note in load(frame).notes)


def test_several_label_columns_and_frames_of_labels_are_attributes_with_their_names(tmp_path):
    side, kind = (np.array(words)[np.arange(ROWS) % len(words)] for words in (["left", "right"], ["p", "q", "r"]))
    kind = np.where(np.arange(ROWS) < 2, "NA", kind)
    frame = pandas.DataFrame({"a": POINTS[:, 0], "b": POINTS[:, 1], "side": side, "kind": kind})
    frame.to_csv(tmp_path / "own.csv", index=False)
    datasets = [
        load(tmp_path / "own.csv", label_column="side,kind"),
        load((frame[["a", "b"]], frame[["side", "kind"]])),
        load({"table": POINTS, "attributes": frame[["side", "kind"]].to_numpy(), "attribute_names": ["side", "kind"]}),
    ]
    for dataset in datasets:
        assert [(each.name, each.values) for each in dataset.attributes] == [
            ("side", ("left", "right")),
            ("kind", ("p", "q", "r")),
        ]
        index = np.concatenate([part.ids.astype(int) for part in parts(dataset)])
        attributes = torch.cat([part.attributes for part in parts(dataset)]).numpy()
        expected = np.where(index < 2, -1, index % 3)
        np.testing.assert_array_equal(attributes, np.column_stack([index % 2, expected]))
    new = datasets[0].preprocessing.apply(frame[["kind", "b", "side", "a"]].iloc[:4])
    assert new.attributes.tolist() == [[0, -1], [1, -1], [0, 2], [1, 0]]
    assert datasets[0].preprocessing.apply(frame[["a", "b"]]).attributes is None
    with pytest.raises(UserError, match="attribute 'side': label 'up' is none of the classes in training, left, right"):
        datasets[0].preprocessing.apply(frame.assign(side="up"))
