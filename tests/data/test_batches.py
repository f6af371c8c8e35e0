from functools import partial
from itertools import chain

import pytest
import torch

from pyro_models.data import Batches, Split, batch_of, to_float


def images(n=50):
    """Images of one pixel whose value is their number."""
    return Split(torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1))


def batches_of(split, size, **options):
    return Batches(split, size=size, to_batch=partial(batch_of, pixels="grey"), **options)


def numbers(batches, epoch):
    return [(batch["x"].flatten() * 255).round().int().tolist() for batch in batches.epoch(epoch)]


def test_an_epoch_shows_each_image_at_most_once_in_whole_batches():
    batches = batches_of(images(), 8, seed=3)
    drawn = numbers(batches, 0)
    assert [len(batch) for batch in drawn] == [8] * len(batches) == [8] * 6
    assert len(set(chain(*drawn))) == 48
    assert set(chain(*(chain(*numbers(batches, epoch)) for epoch in range(5)))) == set(range(50))


def test_the_order_follows_from_seed_and_epoch_alone():
    batches = batches_of(images(), 8, seed=3)
    first = numbers(batches, 4)
    torch.manual_seed(99)
    assert numbers(batches, 4) == first
    assert numbers(batches, 5) != first
    assert numbers(batches_of(images(), 8, seed=4), 4) != first


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_batch_out_among_them(processes):
    whole = numbers(batches_of(images(), 8), 0)
    shares = [numbers(batches_of(images(), 8, rank=rank, processes=processes), 0) for rank in range(processes)]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == whole


@pytest.mark.parametrize(("n", "size", "steps"), [(50, 8, 20), (50, 25, 6), (7, 3, 5), (5, 8, 4)])
def test_an_epoch_of_many_steps_shows_all_images_once_before_any_comes_again(n, size, steps):
    """The last case has a batch larger than the split."""
    batches = batches_of(images(n), size, seed=3, steps=steps)
    drawn = numbers(batches, 0)
    assert [len(batch) for batch in drawn] == [size] * len(batches) == [size] * steps
    flat = list(chain(*drawn))
    rounds = [flat[start : start + n] for start in range(0, len(flat), n)]
    assert all(sorted(each) == list(range(n)) for each in rounds[:-1])
    assert len(set(rounds[-1])) == len(rounds[-1])
    assert rounds[0] != rounds[1]


def test_the_steps_of_an_epoch_follow_from_seed_and_epoch_and_begin_as_without_their_number():
    plain = batches_of(images(), 8, seed=3)
    many, few = (batches_of(images(), 8, seed=3, steps=steps) for steps in (20, 2))
    first = numbers(many, 4)
    torch.manual_seed(99)
    assert numbers(many, 4) == first
    assert numbers(many, 5) != first
    assert first[:6] == numbers(plain, 4)
    assert numbers(few, 4) == first[:2]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_out_every_one_of_many_steps(processes):
    whole = numbers(batches_of(images(), 8, steps=20), 0)
    shares = [
        numbers(batches_of(images(), 8, rank=rank, processes=processes, steps=20), 0) for rank in range(processes)
    ]
    assert [list(chain(*parts)) for parts in zip(*shares, strict=True)] == whole


def test_dynamic_pixels_are_one_as_often_as_their_byte_says():
    levels = torch.tensor([0, 1, 64, 200, 254, 255], dtype=torch.uint8)
    drawn = to_float(levels.expand(200_000, 6).reshape(-1, 1, 2, 3), "dynamic").reshape(-1, 6)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), levels / 255.0, rtol=0, atol=0.005)
    assert not drawn[:, 0].any()
    assert drawn[:, 5].all()


def test_dynamic_pixels_are_drawn_anew_and_grey_ones_are_the_bytes():
    some = torch.full((3, 1, 8, 8), 128, dtype=torch.uint8)
    assert (to_float(some, "dynamic") != to_float(some, "dynamic")).any()
    torch.testing.assert_close(to_float(some, "grey"), torch.full((3, 1, 8, 8), 128 / 255))
