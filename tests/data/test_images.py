"""Images as people have them: the rule for what is white, axes, sizes, folders of files."""

import numpy as np
import pytest
import torch

from pyro_models.base.errors import UserError
from pyro_models.data import Batches, batch_of, load, mapped
from pyro_models.recipes import VAERecipe
from pyro_models.runs import RunOptions, train

RNG = np.random.default_rng(0)
GREY = RNG.random((30, 4, 6))
GREY[0, 0] = [0, 1, 0, 1, 0, 1]
MASK = GREY > 0.5


def bytes_of(images, **options):
    """All images in the order of their source, and the one line on them."""
    dataset = load(images, **options)
    order = np.argsort(np.concatenate([part.ids for part in dataset.parts.values()]))
    return torch.cat([part.x for part in dataset.parts.values()])[order], " ".join(dataset.notes)


@pytest.mark.parametrize(
    ("images", "intensities", "note"),
    [
        (GREY, GREY, ""),
        (GREY.astype(np.float16), GREY, ""),
        (GREY * (1 + 1e-6), GREY, "clipped"),
        (GREY * 2 - 1, GREY, "-1 is black and 1 is white"),
        (GREY * 255, GREY, "255 is white"),
        ((GREY * 255).round().astype(np.uint8), GREY, ""),
        ((GREY * 255).round().astype(np.int64), GREY, "255 is white"),
        ((GREY * 65535).round().astype(np.uint16), GREY, "16 bits: 65535 is white"),
        ((GREY * 65535).round().astype(np.int32), GREY, "16 bits: 65535 is white"),
        (MASK, MASK, "True is white"),
        (MASK.astype(np.int64), MASK, "1 is white"),
        (MASK.astype(np.float32), MASK, ""),
        (MASK.astype(np.uint8) * 255, MASK, ""),
    ],
    ids=str,
)
def test_pixels_of_every_type_have_the_intensities_that_they_stand_for(images, intensities, note):
    x, notes = bytes_of(images)
    assert (x[:, 0].double() / 255 - torch.from_numpy(intensities.astype(float))).abs().max() < 0.6 / 255 + 1e-3
    assert note in notes
    assert bool(note) == bool(notes)


@pytest.mark.parametrize(
    ("images", "white", "advice"),
    [
        (MASK.astype(np.uint8), 1, "bytes of 0 and 1, of which 255 would be white: give `white=1`"),
        ((GREY * 4095).astype(np.uint16), 4095, "give what is white, as `white=4095`"),
        ((GREY * 16), 16, "give what is white, as `white=255`"),
        ((GREY * 1e5).astype(np.int64), 1e5, "give what is white"),
    ],
)
def test_pixels_whose_white_is_not_clear_are_asked_about_and_taken_when_it_is_given(images, white, advice):
    with pytest.raises(UserError, match=advice) as error:
        load(images)
    assert error.value.exit_code == 2
    x, notes = bytes_of(images, white=float(white))
    np.testing.assert_allclose(x[:, 0].numpy() / 255, images / white, rtol=0, atol=0.51 / 255)
    assert "is white, as `white` says" in notes


@pytest.mark.parametrize("images", [GREY * 3 - 2, -(GREY * 10).astype(int)])
def test_pixels_below_black_are_refused(images):
    with pytest.raises(UserError, match="pixels lie in"):
        load(images)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 9])
def test_channels_may_be_first_or_last_and_of_any_number(channels):
    images = RNG.random((30, channels, 11, 13))
    first, _ = bytes_of(images)
    last, notes = bytes_of(images.transpose(0, 2, 3, 1))
    assert first.shape == (30, channels, 11, 13)
    assert torch.equal(first, last)
    assert f"holds {channels} channels" in notes


def test_images_are_resized_by_their_shorter_side_and_cropped_about_the_centre():
    ramp = np.broadcast_to(np.linspace(0, 1, 40), (30, 20, 40))
    x, _ = bytes_of(ramp, size=10)
    assert x.shape == (30, 1, 10, 10)
    assert x[0, 0, 5].double().mean() == pytest.approx(127.5, abs=1)
    edges = x[0, 0, 5, [0, -1]] / 255
    torch.testing.assert_close(edges, torch.tensor([0.275, 0.725]), rtol=0, atol=0.02)  # of the middle half
    assert torch.equal(bytes_of(GREY, size=4)[0].flatten(2)[0], bytes_of(GREY[:, :, 1:5])[0].flatten(2)[0])


def test_colours_become_grey_by_their_luminance_and_grey_becomes_coloured():
    colours = np.zeros((30, 3, 4, 4))
    colours[:, 1] = 1
    assert bytes_of(colours, colour="grey")[0].unique().tolist() == [round(255 * 0.587)]
    assert bytes_of(GREY, colour="colour")[0].shape == (30, 3, 4, 6)
    with pytest.raises(UserError, match="takes images of 1 or 3 channels, not 2"):
        load(colours[:, :2], colour="grey")


@pytest.fixture
def folder(tmp_path):
    """Twelve images each of cats and dogs, one file that is none, and one of text."""
    from PIL import Image

    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for k in range(12):
            Image.fromarray(RNG.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(tmp_path / label / f"{k}.png")
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"not an image")
    (tmp_path / "dog" / "notes.txt").write_text("no image either")
    return tmp_path


def test_the_folders_below_a_folder_of_images_are_their_labels(folder):
    from PIL import Image

    dataset = load(folder)
    assert dataset.shape == (3, 9, 8)
    assert dataset.classes == ("cat", "dog")
    assert any("1 of 25 files cannot be read and are left out: broken.jpg" in note for note in dataset.notes)
    for image, label, name in zip(dataset.test.x, dataset.test.labels, dataset.test.ids, strict=True):
        assert name.split("/")[0] == dataset.classes[label]
        assert (image.permute(1, 2, 0).numpy() == np.asarray(Image.open(folder / name))).all()
    again = dataset.preprocessing.apply(folder / "dog")
    assert again.x.shape == (12, 3, 9, 8)
    assert again.labels is None


def test_a_folder_of_mixed_images_is_read_in_one_size_and_colour(folder):
    from PIL import Image

    Image.fromarray(RNG.integers(0, 256, (30, 20), dtype=np.uint8)).save(folder / "cat" / "grey.png")
    Image.fromarray((np.full((9, 8), 40_000)).astype(np.uint16)).save(folder / "cat" / "deep.png")
    Image.fromarray(RNG.integers(0, 256, (9, 8, 4), dtype=np.uint8)).save(folder / "cat" / "rgba.png")
    with pytest.raises(UserError, match=r"images of 2 sizes \(26 of 27 are 9 x 8\): give `size=8`"):
        load(folder)
    dataset = load(folder, size=6)
    assert dataset.shape == (3, 6, 6)
    assert "grey and coloured images: all are read as coloured" in dataset.notes
    split = dataset.preprocessing.apply(folder / "cat")
    deep = split.x[split.ids.tolist().index("deep.png")]
    assert deep.unique().tolist() == [round(40_000 / 257)]
    assert load(folder, size=6, colour="grey").shape == (1, 6, 6)


def test_folders_may_hold_the_splits(folder):
    for part in ("train", "test"):
        (folder / part).mkdir()
        for label in ("cat", "dog"):
            (folder / part / label).mkdir()
            for k in range(12):
                (folder / part / label / f"{k}.png").write_bytes((folder / label / f"{k}.png").read_bytes())
    for label in ("cat", "dog"):
        (folder / label).rename(folder / f".{label}")
    dataset = load(folder)
    assert dataset.classes == ("cat", "dog")
    assert [len(part) for part in dataset.parts.values()] == [22, 2, 24]
    assert {name.split("/")[0] for name in dataset.test.ids} == {"test"}


def test_transparency_is_dropped_and_said_where_there_is_any(tmp_path):
    from PIL import Image

    pixels = RNG.integers(0, 256, (24, 9, 8, 4), dtype=np.uint8)
    pixels[3:, ..., 3] = 255  # an alpha channel that is opaque all over
    for k, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{k:02}.png")
    dataset = load(tmp_path)
    assert any("3 of 24 files have transparency, which is dropped" in note for note in dataset.notes)
    rows = torch.cat([part.x for part in dataset.parts.values()])
    assert {row.numpy().tobytes() for row in rows} == {
        np.ascontiguousarray(image[..., :3].transpose(2, 0, 1)).tobytes() for image in pixels
    }


def test_images_of_floats_have_no_white_and_are_left_out_and_folders_beside_splits_are_named(folder):
    from PIL import Image

    for kind, value in (("f4", 0.5), ("i4", 2**30)):
        Image.fromarray(np.full((9, 8), value, kind)).save(folder / "cat" / f"{kind}.tif")
    dataset = load(folder)
    assert any("3 of 27 files cannot be read and are left out" in note for note in dataset.notes)
    (folder / "cat").rename(folder / "train")
    with pytest.raises(UserError, match=r"some folders are named as splits are, and dog/.*png is in none"):
        load(folder)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there are no images in it"),
        (lambda path: (path / "a.png").write_bytes(b"x"), "none of the 1 image files can be read"),
    ],
)
def test_a_folder_without_images_gets_one_line(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path)
    assert error.value.exit_code == 2


def test_one_image_is_no_data_set(folder):
    with pytest.raises(UserError, match=r"0\.png is one image: give the folder of many"):
        load(folder / "cat" / "0.png")


def test_arrays_of_a_file_may_hold_the_splits(tmp_path):
    x = (GREY * 255).astype(np.uint8)
    labels = np.arange(30)[:, None] % 3
    np.savez(tmp_path / "own.npz", train_images=x, train_labels=labels, test_images=x[:9], test_labels=labels[:9])
    dataset = load(tmp_path / "own.npz")
    assert [len(part) for part in dataset.parts.values()] == [28, 2, 9]
    assert torch.equal(dataset.test.x[:, 0], torch.from_numpy(x[:9]))
    assert dataset.test.labels.tolist() == labels[:9, 0].tolist()


@pytest.mark.parametrize("length", [4, 20, 70, 128, 200])
def test_an_array_cut_short_gets_one_line(tmp_path, length):
    np.save(tmp_path / "whole.npy", GREY)
    (tmp_path / "own.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:length])
    with pytest.raises(UserError, match="cannot be read") as error:
        load(tmp_path / "own.npy")
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("pixels", ["grey", "threshold"])
def test_images_of_a_large_file_stay_in_it_and_are_those_that_memory_would_hold(tmp_path, monkeypatch, pixels):
    np.save(tmp_path / "own.npy", (RNG.random((60, 4, 6, 3)) * 255).astype(np.uint8))
    expected = load(tmp_path / "own.npy", pixels=pixels, size=3)
    monkeypatch.setattr(mapped, "LARGE", 1000)
    dataset = load(tmp_path / "own.npy", pixels=pixels, size=3)
    batches = [
        Batches(each.train, size=5, to_batch=lambda rows: batch_of(rows, "grey"), seed=1)
        for each in (dataset, expected)
    ]
    for ours, theirs in zip(*(each.epoch(3) for each in batches), strict=True):
        assert torch.equal(ours["x"], theirs["x"])
    assert isinstance(dataset.test.x, mapped.MappedRows)
    assert dataset.shape == tuple(dataset.test.x.shape[1:]) == (3, 3, 3)
    new = dataset.preprocessing.apply(tmp_path / "own.npy")
    assert torch.equal(new[[7, 2]].x.load(), expected.preprocessing.apply(np.load(tmp_path / "own.npy")[[7, 2]]).x)


def test_a_vae_learns_from_a_file_that_is_larger_than_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "LARGE", 1000)
    np.save(tmp_path / "own.npy", GREY.repeat(3, 0))
    torch.set_default_dtype(torch.float32)
    recipe = VAERecipe(data=tmp_path / "own.npy", epochs=1, batch_size=20, network="article")
    run = train(recipe, RunOptions(out=tmp_path / "run", device="cpu"))
    assert isinstance(run.dataset.train.x, mapped.MappedRows)
    assert run.recipe.encode(run, run.dataset.test).shape == (15, 2)
