import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from pyro_models.base.errors import UserError
from pyro_models.data import Split, datasets, draw_labels, load
from pyro_models.data.datasets import _torchvision, enlarged

MNIST = Path(os.environ.get("PYRO_MODELS_DATA", "datasets"))
needs_mnist = pytest.mark.skipif(
    not (MNIST / "MNIST/raw").is_dir(), reason=f"no MNIST in {MNIST}: set PYRO_MODELS_DATA to test on it"
)


def rows(split):
    return {image.numpy().tobytes() for image in split.x}


def test_digits_are_all_of_scikit_learns_in_disjoint_splits():
    dataset = load("digits")
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [1372, 125, 300]
    assert dataset.shape == (1, 28, 28)
    assert dataset.train.x.dtype == torch.uint8
    parts = [rows(split) for split in (dataset.train, dataset.validation, dataset.test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 1797
    labels = torch.cat([split.labels for split in (dataset.train, dataset.validation, dataset.test)])
    assert labels.bincount().tolist() == np.bincount(load_digits().target).tolist()


def test_resizing_keeps_what_a_digit_looks_like():
    dataset, digits = load("digits"), load_digits()
    small = torch.nn.functional.interpolate(dataset.test.x.double(), size=(8, 8), mode="area").flatten(1)
    originals = torch.from_numpy(digits.images).flatten(1)
    nearest = torch.cdist(small * 16 / 255, originals).argmin(1)
    assert (torch.from_numpy(digits.target)[nearest] == dataset.test.labels).all()


def test_splits_do_not_depend_on_the_random_state():
    torch.manual_seed(7)
    first = load("digits").test.x
    torch.manual_seed(8)
    assert (load("digits").test.x == first).all()


def test_threshold_is_above_one_half_and_static_is_drawn_once_in_proportion():
    grey = load("digits").train.x
    threshold = load("digits", pixels="threshold").train.x
    assert (threshold == (grey > 127).to(torch.uint8) * 255).all()
    static = load("digits", pixels="static").train.x
    assert (load("digits", pixels="static").train.x == static).all()
    assert set(static.unique().tolist()) == {0, 255}
    middle = (grey > 100) & (grey < 160)
    torch.testing.assert_close(
        static[middle].double().mean(), grey[middle].double().mean(), rtol=0, atol=255 * 2 / middle.sum() ** 0.5
    )


@pytest.fixture
def sixty_thousand(monkeypatch):
    """In the place of each of torchvision's data sets, images that hold their own number."""
    numbers = torch.arange(60_010)
    parts = torch.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], -1).to(torch.uint8)
    whole = Split(parts.reshape(-1, 1, 1, 3), numbers % 10)
    monkeypatch.setattr(datasets, "_torchvision", lambda name, folder: (whole[:60_000], whole[60_000:]))


def identities(split):
    return (split.x[:, 0, 0].long() @ torch.tensor([65536, 256, 1])).tolist()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_articles_split_and_draw_are_its_own_lines_of_scikit_learn(sixty_thousand, name):
    """The article's notebook: train_test_split with random_state 42 and test_size 10,000, then 1 and 49,900."""
    train, held_out = train_test_split(np.arange(60_000), random_state=42, test_size=10_000)
    seen, others = train_test_split(train, random_state=1, test_size=49_900)
    dataset = load(name, split="article")
    assert identities(dataset.train) == train.tolist()
    assert identities(dataset.validation) == held_out.tolist()
    assert identities(dataset.test) == list(range(60_000, 60_010))
    found = draw_labels(dataset.train, 100, 10, seed=1, how="article")
    assert [identities(part) for part in found] == [seen.tolist(), others.tolist()]
    assert all(torch.equal(part.labels, torch.tensor(identities(part)) % 10) for part in found)


@pytest.mark.parametrize("name", ["digits", "blobs"])
def test_the_articles_split_of_other_data_gets_one_line(name):
    with pytest.raises(UserError, match=f"^`split=article` goes with .* of mnist, not with {name}$"):
        load(name, split="article")


@needs_mnist
def test_mnist_is_the_real_one():
    dataset = load("mnist", data_dir=MNIST)
    assert [len(split) for split in (dataset.train, dataset.validation, dataset.test)] == [55_000, 5_000, 10_000]
    assert dataset.test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert dataset.train.x.double().mean() / 255 == pytest.approx(0.1307, abs=2e-4)


@pytest.fixture
def mnist_files(tmp_path):
    """A tiny MNIST in torchvision's layout: 40 training and 30 test images."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem, count in (("train", 40), ("t10k", 30)):
        images = np.arange(count * 784, dtype=np.uint8).tobytes()
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(np.array([2051, count, 28, 28], ">i4").tobytes() + images)
        labels = bytes(range(10)) * (count // 10)
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(np.array([2049, count], ">i4").tobytes() + labels)
    return tmp_path


def test_idx_files_are_read_through_the_folder_or_the_variable(mnist_files, monkeypatch):
    train, test = _torchvision("mnist", mnist_files)
    assert (len(train), len(test)) == (40, 30)
    assert train.x[0, 0, 0, :5].tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setenv("PYRO_MODELS_DATA", str(mnist_files))
    assert len(load("mnist").test) == 30


@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b[:6],
        lambda b: b"",
        lambda b: b"\0\0\7\7" + b[4:],
        lambda b: b"PK" + b[2:],
    ],
    ids=["half", "six bytes", "empty", "wrong magic", "not idx"],
)
def test_damaged_idx_files_get_one_clear_line(mnist_files, file, damage):
    path = mnist_files / "MNIST" / "raw" / file
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"^mnist: .*damaged.*delete that folder") as error:
        load("mnist", data_dir=mnist_files)
    assert "\n" not in str(error.value)


def test_labels_that_do_not_match_the_images_are_refused(mnist_files):
    path = mnist_files / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.write_bytes(np.array([2049, 20], ">i4").tobytes() + bytes(20))
    with pytest.raises(UserError, match="30 images but 20 labels"):
        load("mnist", data_dir=mnist_files)


def test_without_files_and_without_a_network_one_line_names_folder_variable_and_digits(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(UserError) as error:
        load("kmnist", data_dir=tmp_path / "nowhere")
    message = str(error.value)
    assert "\n" not in message
    for word in (str(tmp_path / "nowhere"), "`data_dir`", "PYRO_MODELS_DATA", "`data=digits`"):
        assert word in message


def test_a_torchvision_of_another_torch_gets_one_line_with_the_remedy(monkeypatch, tmp_path):
    import builtins

    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(UserError, match="uninstall both, then install them in one command"):
        load("mnist", data_dir=tmp_path)


def test_unknown_names_get_the_nearest():
    with pytest.raises(UserError, match="did you mean 'mnist'"):
        load("minst")
    with pytest.raises(UserError, match="no such file"):
        load("nowhere.npz")


def own(tmp_path, **arrays):
    path = tmp_path / "own.npz"
    np.savez(path, **arrays)
    return load(str(path))


def test_images_of_ones_own(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (60, 3, 5, 4), dtype=np.uint8)
    dataset = own(tmp_path, images=images, labels=np.arange(60) % 30)
    assert dataset.shape == (3, 5, 4)
    for split in (dataset.train, dataset.validation, dataset.test):
        assert (split.x.numpy() == images[split.ids.astype(int)]).all()
        assert (split.labels.numpy() == split.ids.astype(int) % 30).all()
    np.save(tmp_path / "swapped.npy", np.tile(np.array([0.5, 1.0], ">f8"), (30, 2, 1)))
    assert (load(str(tmp_path / "swapped.npy")).train.x == torch.tensor([128, 255])).all()
    np.save(tmp_path / "grey.npy", np.linspace(0, 1, 30 * 4).reshape(30, 2, 2))
    floats = load(str(tmp_path / "grey.npy"))
    assert floats.shape == (1, 2, 2)
    assert floats.train.labels is None
    assert max(split.x.max() for split in (floats.train, floats.validation, floats.test)) == 255


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.full((30, 2, 2), np.nan)}, "120 pixels are NaN or infinite"),
        ({"images": np.full((30, 2, 2), 1.5)}, r"must lie in \[0, 1\]"),
        ({"images": np.full((30, 2, 2), 300)}, "pixels lie in .300, 300.: give what is white, as `white=1023`"),
        ({"images": np.ones((30, 2, 2), dtype=np.uint8)}, "bytes of 0 and 1, .* give `white=1`"),
        ({"images": np.zeros((30, 4), np.uint8)}, r"must be \[n, height, width\]"),
        ({"images": np.zeros((30, 8, 8, 8), np.uint8)}, "which axis of .* holds the channels"),
        ({"images": np.zeros((30, 0, 8))}, r"must be \[n, height, width\]"),
        ({"images": np.array([[["black"] * 3] * 3] * 30)}, "bytes, integers, booleans or floats, not <U5"),
        ({"images": np.zeros((3, 2, 2), np.uint8)}, "3 images are too few"),
        ({"pictures": np.zeros((30, 2, 2), np.uint8)}, "no array named 'images'"),
        ({"images": np.zeros((30, 2, 2), np.uint8), "labels": np.zeros(7, int)}, "30 images but labels of shape"),
        ({"images": np.zeros((30, 2, 2), np.uint8), "labels": np.arange(30) / 2}, "labels must be integers or names"),
        ({"images": np.array([{"a": 1}] * 30)}, "cannot be read"),
    ],
)
def test_images_that_are_none_get_one_clear_line(tmp_path, arrays, message):
    with pytest.raises(UserError, match=message) as error:
        own(tmp_path, **arrays)
    assert "\n" not in str(error.value)


def test_a_file_cut_short_gets_one_clear_line(tmp_path):
    path = tmp_path / "own.npz"
    np.savez(path, images=np.zeros((30, 2, 2), np.uint8))
    shutil.copy(path, tmp_path / "whole.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        load(str(path))


def test_digits_are_enlarged_by_torchs_bicubic_interpolation_but_for_the_rounding_of_ties():
    images = load_digits().images[:200]
    large = F.interpolate(torch.from_numpy(images / 16)[:, None], size=(28, 28), mode="bicubic")[:, 0]
    exact = (large.clamp(0, 1) * 255).numpy()
    assert abs(enlarged(images.astype(np.int64)) - exact).max() <= 0.5 + 1e-9
