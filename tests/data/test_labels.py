from functools import partial
from itertools import chain

import pytest
import torch

from pyro_models.base.errors import UserError
from pyro_models.data import Batches, Split, batch_of, draw_labels

CLASSES = 4


def numbered(n=200, classes=CLASSES, columns=None):
    """Rows that hold their own number, and labels in no order."""
    x = torch.arange(n, dtype=torch.float32)[:, None].expand(n, columns or 1)
    return Split(x, torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(5)))


def labelled(split, count, classes, *, seed, how="stratified"):
    return draw_labels(split, count, classes, seed=seed, how=how)[0]


def identities(some):
    return some.x[:, 0].long().tolist()


@pytest.mark.parametrize("count", [4, 5, 6, 7, 8, 41, 100])
@pytest.mark.parametrize("seed", [0, 1])
def test_stratified_labels_come_alike_often_up_to_one(count, seed):
    counts = labelled(numbered(), count, CLASSES, seed=seed).labels.bincount(minlength=CLASSES)
    assert counts.sum() == count
    assert counts.max() - counts.min() <= (1 if count % CLASSES else 0)


def test_which_kinds_come_once_more_follows_from_the_seed():
    more = {tuple(labelled(numbered(), 5, CLASSES, seed=seed).labels.bincount().tolist()) for seed in range(40)}
    assert len(more) == CLASSES


@pytest.mark.parametrize("how", ["stratified", "random", "article"])
def test_the_draw_is_without_repeats_keeps_labels_with_data_and_follows_from_the_seed_alone(how):
    split = numbered()
    some = labelled(split, 40, CLASSES, seed=3, how=how)
    chosen = identities(some)
    assert len(some) == len(set(chosen)) == 40
    assert torch.equal(some.labels, split.labels[chosen])
    torch.manual_seed(99)
    assert identities(labelled(split, 40, CLASSES, seed=3, how=how)) == chosen
    assert set(identities(labelled(split, 40, CLASSES, seed=4, how=how))) != set(chosen)


@pytest.mark.parametrize("how", ["stratified", "random"])
def test_more_labels_of_one_seed_hold_the_fewer(how):
    few, many = (set(identities(labelled(numbered(), n, CLASSES, seed=3, how=how))) for n in (20, 60))
    assert few < many


def test_each_datum_is_drawn_as_often_as_any_other_of_its_kind():
    split = Split(torch.arange(20.0)[:, None], torch.arange(20) % 2)
    drawn = torch.tensor([identities(labelled(split, 4, 2, seed=seed)) for seed in range(800)]).flatten().bincount()
    torch.testing.assert_close(drawn / 800, torch.full((20,), 0.2), rtol=0, atol=5 * (0.2 * 0.8 / 800) ** 0.5)


def test_unstratified_labels_come_as_often_as_in_the_data_on_average():
    split = Split(torch.arange(100.0)[:, None], (torch.arange(100) >= 90).long())
    rare = [labelled(split, 10, 2, seed=seed, how="random").labels.sum().item() for seed in range(1000)]
    assert sum(rare) / 1000 == pytest.approx(1.0, abs=0.15)
    assert len(set(rare)) > 3


def test_a_kind_that_runs_out_leaves_its_share_to_the_others():
    split = Split(torch.arange(50.0)[:, None], (torch.arange(50) >= 2).long() + (torch.arange(50) >= 26).long())
    assert labelled(split, 20, 3, seed=0).labels.bincount().tolist() == [2, 9, 9]
    assert len(labelled(split, 50, 3, seed=0)) == 50


@pytest.mark.parametrize(
    ("split", "count", "classes", "message"),
    [
        (Split(torch.zeros(50, 1)), 10, 4, r"^`labels` are asked for, and the data have none"),
        (numbered(), 10, 3, r"labelled 0 to 3, and 3 classes are labelled 0 to 2"),
        (Split(torch.zeros(50, 1), torch.full((50,), -1)), 10, 4, r"a split has none that is known"),
        (Split(torch.zeros(50, 1), torch.arange(50) % 5 - 1), 41, 4, r"whose label is known, 40, not 41"),
        (Split(torch.zeros(50, 1), torch.arange(50) % 4 + 1), 10, 4, r"labelled 1 to 4, and 4 classes"),
        (numbered(), 3, 4, r"^`labels` must be at least 4, one for each class, not 3"),
        (numbered(), 201, 4, r"^`labels` must be at most the number of training data, 200, not 201"),
    ],
)
@pytest.mark.parametrize("how", ["stratified", "random", "article"])
def test_labels_that_cannot_be_drawn_get_one_line(split, count, classes, message, how):
    with pytest.raises(UserError, match=message) as error:
        labelled(split, count, classes, seed=0, how=how)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("how", ["stratified", "random", "article"])
@pytest.mark.parametrize("count", [40, 200])
def test_the_others_are_all_that_were_not_drawn(how, count):
    seen, others = draw_labels(numbered(), count, CLASSES, seed=3, how=how)
    assert sorted(identities(seen) + identities(others)) == list(range(200))
    assert torch.equal(others.labels, numbered().labels[identities(others)])


@pytest.mark.parametrize("how", ["stratified", "random"])
def test_the_others_come_in_a_random_order_whatever_their_labels(how):
    """How often a label comes among the first 60 is hypergeometric: 0 and 1 on average, standardised and squared.

    Over 400 draws, of which the means have deviations of 0.05 and, near normality, sqrt(2 / 400) = 0.07.
    """
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 2, 2]).repeat(40)
    split, n, standard, orders = Split(torch.arange(400.0)[:, None], labels), 60, [], set()
    for seed in range(400):
        seen, others = draw_labels(split, 60, 3, seed=seed, how=how)
        assert how == "random" or seen.labels.bincount().tolist() == [20, 20, 20]
        share = others.labels.bincount() / len(others)
        variance = n * share * (1 - share) * (len(others) - n) / (len(others) - 1)
        standard.append((others.labels[:n].bincount(minlength=3) - n * share) / variance.sqrt())
        orders.add(tuple(identities(others)[:n]))
    standard = torch.stack(standard).double()
    torch.testing.assert_close(standard.mean(0), torch.zeros(3), rtol=0, atol=0.25)
    torch.testing.assert_close(standard.square().mean(0), torch.ones(3), rtol=0, atol=0.35)
    assert len(orders) == 400


def test_the_articles_draw_is_scikit_learns():
    from sklearn.model_selection import train_test_split

    seen, others = draw_labels(numbered(), 30, CLASSES, seed=1, how="article")
    expected = train_test_split(list(range(200)), random_state=1, test_size=170)
    assert [identities(seen), identities(others)] == expected


def batches_of(split, some, pixels="grey", **options):
    to_batch, to_labelled = partial(batch_of, pixels=pixels), partial(batch_of, pixels=pixels, classes=CLASSES)
    return Batches(split, size=10, to_batch=to_batch, labelled=some, to_labelled=to_labelled, **options)


def known(batch):
    return batch["labelled_x"][:, 0].long().tolist()


@pytest.mark.parametrize("count", [4, 9, 10, 11, 60])
def test_a_batch_brings_all_labelled_data_or_as_many_as_itself_with_their_labels_one_hot(count):
    split = numbered()
    some = labelled(split, count, CLASSES, seed=0)
    seen = set()
    for batch in batches_of(split, some).epoch(0):
        chosen = known(batch)
        assert len(chosen) == len(set(chosen)) == min(count, 10)
        assert set(chosen) <= set(identities(some))
        assert torch.equal(batch["labelled_y"], torch.eye(CLASSES)[split.labels[chosen]])
        assert batch["labelled_y"].dtype == batch["labelled_x"].dtype == torch.get_default_dtype()
        seen |= set(chosen)
    assert seen <= set(identities(some))
    assert len(seen) == count if count <= 10 else len(seen) > 10


def test_labelled_data_leave_the_order_of_the_others_as_it_is_and_are_drawn_anew():
    split = numbered()
    some = labelled(split, 60, CLASSES, seed=0)
    plain = list(batches_of(split, None, seed=2).epoch(1))
    beside = list(batches_of(split, some, seed=2).epoch(1))
    assert all(torch.equal(one["x"], other["x"]) for one, other in zip(plain, beside, strict=True))
    assert all(set(batch) == {"x"} for batch in plain)
    assert len({tuple(sorted(known(batch))) for batch in beside}) == len(beside)


def test_the_labelled_data_of_a_step_follow_from_seed_and_epoch_alone():
    split = numbered()
    some = labelled(split, 60, CLASSES, seed=0)

    def steps(seed, epoch):
        torch.rand(1)
        return [known(batch) for batch in batches_of(split, some, seed=seed).epoch(epoch)]

    assert steps(2, 1) == steps(2, 1)
    assert steps(2, 1) != steps(2, 2)
    assert steps(2, 1) != steps(3, 1)


def test_labelled_images_are_cut_in_the_pixel_mode():
    images = Split(torch.full((40, 1, 4, 4), 128, dtype=torch.uint8), torch.arange(40) % CLASSES)
    few = images[:8]
    (grey, *_), (dynamic, *_) = (batches_of(images, few, pixels).epoch(0) for pixels in ("grey", "dynamic"))
    torch.testing.assert_close(grey["labelled_x"], torch.full((8, 1, 4, 4), 128 / 255))
    assert set(dynamic["labelled_x"].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("processes", [2, 5])
def test_processes_share_the_labelled_data_of_a_step_out_among_them(processes):
    split = numbered()
    some = labelled(split, 60, CLASSES, seed=0)
    whole = [known(batch) for batch in batches_of(split, some).epoch(0)]
    shares = [
        [known(batch) for batch in batches_of(split, some, rank=rank, processes=processes).epoch(0)]
        for rank in range(processes)
    ]
    assert [sorted(chain(*parts)) for parts in zip(*shares, strict=True)] == [sorted(step) for step in whole]


def test_few_labelled_data_are_seen_by_every_process():
    split = numbered()
    some = labelled(split, 5, CLASSES, seed=0)
    for rank in range(2):
        for batch in batches_of(split, some, rank=rank, processes=2).epoch(0):
            assert sorted(known(batch)) == sorted(identities(some))
