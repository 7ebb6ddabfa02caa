import hashlib
import itertools

import numpy as np
import pytest

from pcejax import points
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE, IGNORE
from pcejax.points import ANNOTATORS, Points, annotate, balanced, near_points, rasterise, uniform

UNKNOWN = DEEPGLOBE.num_known
annotators = pytest.mark.parametrize("annotator", list(ANNOTATORS.values()), ids=list(ANNOTATORS))


def random_mask(seed, shape=(24, 31)):
    """Classes of very different shares, unknown and IGNORE among them."""
    shares = np.array([0.3, 0.25, 0.2, 0.1, 0.04, 0.01, 0.05, 0.05])
    return np.random.default_rng(seed).choice([*range(7), IGNORE], shape, p=shares).astype(np.uint8)


def draw(annotator, mask, budget, seed=0, tile_id="119"):
    return annotator(mask, budget=budget, seed=seed, tile_id=tile_id, legend=DEEPGLOBE)


def places(drawn):
    return list(zip(drawn.row.tolist(), drawn.col.tolist(), strict=True))


def annotate_with(mask, annotator="balanced", budget=3, factor=1, train_unknown=False, tile_id="119"):
    return annotate(
        mask,
        tile_id,
        annotator=annotator,
        budget=budget,
        seed=0,
        legend=DEEPGLOBE,
        factor=factor,
        train_unknown=train_unknown,
    )


# Which points are drawn


@annotators
@pytest.mark.parametrize("seed", range(3))
def test_budget_k_is_the_first_of_budget_k_plus_one(annotator, seed):
    mask = random_mask(seed)
    largest = draw(annotator, mask, 40, seed=seed)
    for budget in range(1, 40):
        fewer = draw(annotator, mask, budget, seed=seed)
        first = largest.rank < budget
        for got, expected in zip(fewer, largest, strict=True):
            np.testing.assert_array_equal(got, expected[first])
        # In the order of rank, the smaller budget is a prefix.
        assert places(fewer) == places(largest)[: len(fewer.row)]


@annotators
def test_points_are_distinct_pixels_of_the_class_that_they_name(annotator):
    mask = random_mask(0)
    drawn = draw(annotator, mask, 1000)
    assert len(set(places(drawn))) == len(drawn.row)
    np.testing.assert_array_equal(mask[drawn.row, drawn.col], drawn.class_id)
    assert all(values.dtype == np.int32 for values in drawn)
    assert (np.diff(drawn.rank) >= 0).all()


@annotators
def test_unknown_and_ignore_are_never_drawn(annotator):
    for seed in range(5):
        mask = random_mask(seed, (12, 12))
        drawn = draw(annotator, mask, mask.size, seed=seed)
        assert drawn.class_id.max() < UNKNOWN
        # A budget beyond all pixels draws every known one, and still no other.
        assert len(drawn.row) == (mask < UNKNOWN).sum()


@annotators
@pytest.mark.parametrize("value", [UNKNOWN, IGNORE])
def test_a_tile_without_a_known_pixel_has_no_points(annotator, value):
    mask = np.full((6, 5), value, np.uint8)
    drawn = draw(annotator, mask, 3)
    assert [len(values) for values in drawn] == [0, 0, 0, 0]
    assert (rasterise(drawn, mask.shape, 2) == IGNORE).all()


def test_the_keys_are_splitmix64():
    # Written again in Python's integers; the start for (0, "119") is the first 8 bytes of blake2b("0:119").
    wrap = (1 << 64) - 1
    start = int.from_bytes(hashlib.blake2b(b"0:119", digest_size=8).digest(), "little")
    expected = []
    for pixel in range(1, 50):
        z = (start + pixel * 0x9E3779B97F4A7C15) & wrap
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & wrap
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & wrap
        expected.append(z ^ z >> 31)
    assert points.pixel_keys(0, "119", 49).tolist() == expected


def test_the_same_tile_seed_and_mask_give_these_points_for_ever():
    # A change here changes which labels every published run was taught by.
    row, col = np.indices((8, 8))
    mask = ((row // 4) * 2 + col // 4).astype(np.uint8)
    assert places(draw(uniform, mask, 4, seed=7, tile_id="855")) == [(4, 4), (7, 7), (2, 1), (5, 1)]
    assert places(draw(balanced, mask, 2, seed=7, tile_id="855")) == [
        (2, 1),
        (0, 5),
        (5, 1),
        (4, 4),
        (2, 0),
        (2, 7),
        (4, 3),
        (7, 7),
    ]


@annotators
def test_other_seeds_and_other_tiles_give_other_points(annotator):
    mask = random_mask(0)
    base = places(draw(annotator, mask, 5))
    assert places(draw(annotator, mask, 5)) == base
    for other in ({"seed": 1}, {"tile_id": "120"}, {"seed": 1, "tile_id": "19"}):
        assert places(draw(annotator, mask, 5, **other)) != base


def test_the_seed_and_the_tile_are_told_apart():
    # Seed 1 of tile "23" is not seed 12 of tile "3".
    assert points.pixel_keys(1, "23", 4).tolist() != points.pixel_keys(12, "3", 4).tolist()


def test_a_class_that_changes_elsewhere_leaves_the_balanced_points_of_the_others():
    mask = random_mask(0)
    changed = np.where(mask == 2, UNKNOWN, mask).astype(np.uint8)
    before, after = draw(balanced, mask, 4), draw(balanced, changed, 4)
    kept = before.class_id != 2
    assert places(after) == [place for place, keep in zip(places(before), kept, strict=True) if keep]


def counts_leave_shares(sampler, mask, tiles=300, budget=10):
    """The largest distance, in standard deviations, of a class's count from its share of the known pixels."""
    counts = np.zeros(UNKNOWN)
    for tile in range(tiles):
        counts += np.bincount(draw(sampler, mask, budget, tile_id=str(tile)).class_id, minlength=UNKNOWN)
    known = mask[mask < UNKNOWN]
    share = np.bincount(known, minlength=UNKNOWN) / known.size
    assert counts.sum() == tiles * budget
    return np.max(np.abs(counts - share * counts.sum()) / np.sqrt(counts.sum() * share * (1 - share)))


def test_uniform_counts_of_classes_follow_their_shares():
    mask = random_mask(0)

    def shy_of_urban(mask, **arguments):
        # A fifth of one class's pixels can never be drawn: 30 % of the tile become 24.
        hidden = (mask == 0) & (np.arange(mask.size).reshape(mask.shape) % 5 == 0)
        return uniform(np.where(hidden, IGNORE, mask).astype(np.uint8), **arguments)

    assert counts_leave_shares(uniform, mask) < 4
    assert counts_leave_shares(shy_of_urban, mask) > 4


def test_uniform_points_lie_evenly_over_the_tile():
    mask = np.zeros((16, 16), np.uint8)
    drawn = [draw(uniform, mask, 4, tile_id=str(tile)) for tile in range(400)]
    cells = np.concatenate([d.row // 4 * 4 + d.col // 4 for d in drawn])
    counts = np.bincount(cells, minlength=16)
    # Chi-square with 15 degrees of freedom: above 45 once in 10,000 times.
    assert ((counts - 100) ** 2 / 100).sum() < 45


def test_balanced_draws_the_budget_of_each_class_and_all_of_a_class_that_has_fewer():
    mask = random_mask(3)
    there = np.bincount(mask.ravel(), minlength=UNKNOWN)[:UNKNOWN]
    budget = 12
    assert (there < budget).any()
    drawn = draw(balanced, mask, budget)
    np.testing.assert_array_equal(np.bincount(drawn.class_id, minlength=UNKNOWN), np.minimum(there, budget))
    for class_id in range(UNKNOWN):
        ranks = drawn.rank[drawn.class_id == class_id]
        np.testing.assert_array_equal(ranks, np.arange(len(ranks)))


# The label tile


@annotators
@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("shape", [(24, 31), (17, 22)])
def test_rasterising_loses_and_doubles_no_point(annotator, factor, shape):
    for seed in range(5):
        drawn = draw(annotator, random_mask(seed, shape), 4, seed=seed)
        label = rasterise(drawn, shape, factor)
        assert label.shape == tuple(-(-n // factor) for n in shape)
        assert label.dtype == np.uint8
        taught = np.bincount(label[label != IGNORE], minlength=UNKNOWN)
        np.testing.assert_array_equal(taught, np.bincount(drawn.class_id, minlength=UNKNOWN))


@pytest.mark.parametrize("annotator", list(ANNOTATORS))
@pytest.mark.parametrize("factor", [1, 2, 4])
def test_label_tiles_of_smaller_budgets_are_parts_of_larger_ones(annotator, factor):
    mask = random_mask(1, (16, 20))
    tiles = [annotate_with(mask, annotator=annotator, budget=budget, factor=factor) for budget in range(1, 4)]
    for (fewer, _), (more, _) in itertools.pairwise(tiles):
        assert (fewer != IGNORE).sum() < (more != IGNORE).sum()
        np.testing.assert_array_equal(more[fewer != IGNORE], fewer[fewer != IGNORE])


def test_a_point_lies_in_the_coarse_pixel_that_holds_it():
    drawn = Points(*np.array([[0, 7, 5], [3, 4, 0], [1, 2, 3], [0, 1, 2]]))
    expected = np.full((2, 2), IGNORE, np.uint8)
    expected[0, 0], expected[1, 1], expected[1, 0] = 1, 2, 3
    np.testing.assert_array_equal(rasterise(drawn, (8, 8), 4), expected)


def test_a_point_whose_pixel_is_taken_moves_to_the_nearest_free_one():
    rng = np.random.default_rng(0)
    for _ in range(20):
        row, col = rng.integers(0, 24, 60), rng.integers(0, 40, 60)
        drawn = Points(row, col, rng.integers(0, UNKNOWN, 60), np.arange(60))
        expected = np.full((6, 10), IGNORE, np.uint8)
        for r, c, class_id in zip(row // 4, col // 4, drawn.class_id, strict=True):
            free = np.argwhere(expected == IGNORE)
            expected[tuple(free[((free - (r, c)) ** 2).sum(1).argmin()])] = class_id
        np.testing.assert_array_equal(rasterise(drawn, (24, 40), 4), expected)


def test_more_points_than_pixels_are_refused_with_both_numbers():
    drawn = draw(uniform, np.zeros((8, 8), np.uint8), 5)
    with pytest.raises(UserError, match=r"5 points do not fit on the 4 pixels .* reduced 4 times"):
        rasterise(drawn, (8, 8), 4)
    assert (rasterise(draw(uniform, np.zeros((8, 8), np.uint8), 4), (8, 8), 4) == 0).all()


@pytest.mark.parametrize("annotator", list(ANNOTATORS))
def test_annotate_gives_the_points_and_their_label_tile(annotator):
    mask = random_mask(2)
    label, drawn = annotate_with(mask, annotator=annotator, budget=5, factor=2)
    expected = draw(ANNOTATORS[annotator], mask, 5)
    assert places(drawn) == places(expected)
    np.testing.assert_array_equal(label, rasterise(expected, mask.shape, 2))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"annotator": "balancd"}, r"points.annotator='balancd'; expected one of .*'uniform', 'balanced', 'dense'"),
        ({"budget": 0}, "points.budget=0; expected 1 or more"),
        ({"budget": -3, "annotator": "uniform"}, "points.budget=-3"),
    ],
)
def test_annotate_refuses(arguments, told):
    with pytest.raises(UserError, match=told):
        annotate_with(random_mask(0), **arguments)


@pytest.mark.parametrize("train_unknown", [False, True])
def test_dense_labels_are_the_mask_with_unknown_as_asked(train_unknown):
    mask = random_mask(0)
    label, drawn = annotate_with(mask, annotator="dense", train_unknown=train_unknown)
    assert drawn is None
    assert label.dtype == np.uint8
    hidden = mask == IGNORE if train_unknown else mask >= UNKNOWN
    np.testing.assert_array_equal(label, np.where(hidden, IGNORE, mask))


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", [(16, 24), (17, 22), (5, 3)])
def test_dense_labels_of_a_reduced_tile_are_pixels_of_their_own_blocks(factor, shape):
    # Each pixel has a value of its own, as far as classes go; a label must come from inside its block.
    mask = random_mask(0, shape)
    label, _ = annotate_with(mask, annotator="dense", factor=factor, train_unknown=True)
    assert label.shape == tuple(-(-n // factor) for n in shape)
    for row, col in np.ndindex(*label.shape):
        block = mask[row * factor : (row + 1) * factor, col * factor : (col + 1) * factor]
        whole = block.shape == (factor, factor)
        expected = block[factor // 2, factor // 2] if whole else label[row, col]
        assert label[row, col] == expected
        assert label[row, col] in [*block.ravel(), IGNORE]


@pytest.mark.parametrize("buffer_px", [0, 1, 5])
def test_near_points_are_the_pixels_within_the_buffer(buffer_px):
    drawn = draw(balanced, random_mask(0), 2)
    row, col = np.indices((24, 31))
    distance = np.min([np.maximum(abs(row - r), abs(col - c)) for r, c in places(drawn)], 0)
    np.testing.assert_array_equal(near_points(drawn, (24, 31), buffer_px), distance <= buffer_px)


def test_near_no_points_is_nowhere():
    none = draw(uniform, np.full((3, 3), IGNORE, np.uint8), 1)
    assert not near_points(none, (3, 3), 8).any()
