import numpy as np
import pytest
import scipy.ndimage

from configs import default
from pcejax import points
from pcejax.label_options import PLACEMENTS, label_options
from pcejax.legend import DEEPGLOBE, IGNORE
from pcejax.points import ANNOTATORS

UNKNOWN = DEEPGLOBE.num_known
annotators = pytest.mark.parametrize("annotator", list(ANNOTATORS))
placements = pytest.mark.parametrize("placement", PLACEMENTS)
CARELESS = {"click_jitter_px": 3, "label_noise": 0.3, "min_distance_px": 4}


def random_mask(seed, shape=(24, 31)):
    """Classes of very different shares, unknown and IGNORE among them."""
    shares = np.array([0.3, 0.25, 0.2, 0.1, 0.04, 0.01, 0.05, 0.05])
    return np.random.default_rng(seed).choice([*range(7), IGNORE], shape, p=shares).astype(np.uint8)


def patchy_mask(seed, shape=(24, 31)):
    """The same in patches, as land lies."""
    coarse = random_mask(seed, tuple(-(-n // 5) for n in shape))
    return coarse.repeat(5, 0).repeat(5, 1)[: shape[0], : shape[1]]


def draw_all(annotator, mask, budget, seed=0, tile_id="119", **fields):
    config = default.get_config().points.to_dict() | {"annotator": annotator, "budget": budget, "seed": seed}
    return points.draw(mask, tile_id, label_options(config | {"min_area": 1} | fields), DEEPGLOBE)


def draw(*arguments, **fields):
    return draw_all(*arguments, **fields).points


def places(drawn):
    return list(zip(drawn.row.tolist(), drawn.col.tolist(), strict=True))


def assert_nested(draw, mask, budgets=24):
    largest = draw(mask, budgets)
    for budget in range(1, budgets):
        fewer = draw(mask, budget)
        first = largest.rank < budget
        for got, expected in zip(fewer, largest, strict=True):
            np.testing.assert_array_equal(got, expected[first])
        # In the order of rank, the smaller budget is a prefix.
        assert places(fewer) == places(largest)[: len(fewer.row)]


@annotators
@placements
@pytest.mark.parametrize("fields", [{}, {"min_distance_px": 3}, CARELESS], ids=["exact", "apart", "careless"])
def test_budget_k_is_the_first_of_budget_k_plus_one(annotator, placement, fields):
    for seed, mask in enumerate((random_mask(0), patchy_mask(1), patchy_mask(2, (17, 40)))):
        assert_nested(lambda m, k: draw(annotator, m, k, seed=seed, placement=placement, **fields), mask)  # noqa: B023


def test_a_sampler_whose_clicks_follow_the_budget_is_not_nested():
    def shaking(mask, budget):
        drawn = draw("balanced", mask, budget)
        return drawn._replace(row=(drawn.row + np.random.default_rng(0).integers(0, 2, len(drawn.row))[::-1]))

    with pytest.raises(AssertionError):
        assert_nested(shaking, random_mask(0))


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


def test_the_same_tile_seed_and_mask_give_these_points_for_ever():
    # A change here changes which labels every published run was taught by.
    row, col = np.indices((8, 8))
    mask = ((row // 4) * 2 + col // 4).astype(np.uint8)
    assert places(draw("uniform", mask, 4, seed=7, tile_id="855")) == [(4, 4), (7, 7), (2, 1), (5, 1)]
    assert places(draw("balanced", mask, 2, seed=7, tile_id="855")) == [
        (2, 1),
        (0, 5),
        (5, 1),
        (4, 4),
        (2, 0),
        (2, 7),
        (4, 3),
        (7, 7),
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"annotator": "component"}, [(3, 0, 0), (3, 11, 1), (6, 11, 3), (5, 3, 0), (4, 7, 1), (6, 10, 3)]),
        ({"placement": "interior"}, [(3, 0, 0), (3, 11, 1), (6, 11, 3), (1, 5, 0), (4, 7, 1), (9, 8, 3)]),
        (
            {"placement": "boundary", "boundary_px": 1},
            [(5, 3, 0), (5, 8, 1), (6, 11, 3), (3, 5, 0), (5, 11, 1), (6, 10, 3)],
        ),
        ({"min_distance_px": 4}, [(3, 0, 0), (3, 11, 1), (6, 7, 3), (1, 5, 0), (9, 3, 3)]),
        ({"click_jitter_px": 2}, [(2, 1, 0), (2, 10, 1), (6, 9, 3), (6, 3, 0), (5, 8, 1), (5, 11, 3)]),
        ({"label_noise": 0.5}, [(3, 0, 0), (3, 11, 2), (6, 11, 3), (5, 3, 5), (4, 7, 1), (6, 10, 3)]),
    ],
    ids=str,
)
def test_every_way_of_drawing_gives_these_points_for_ever(fields, expected):
    row, col = np.indices((12, 12))
    mask = np.where(row + col < 9, 0, np.where(row < 6, 1, 3)).astype(np.uint8)
    fields = {"annotator": "balanced"} | fields
    drawn = draw(mask=mask, budget=2, seed=7, tile_id="855", **fields)
    assert list(zip(*(values.tolist() for values in drawn[:3]), strict=True)) == expected


@annotators
def test_other_seeds_and_other_tiles_give_other_points(annotator):
    mask = random_mask(0)
    base = places(draw(annotator, mask, 5))
    assert places(draw(annotator, mask, 5)) == base
    for other in ({"seed": 1}, {"tile_id": "120"}, {"seed": 1, "tile_id": "19"}):
        assert places(draw(annotator, mask, 5, **other)) != base


def test_a_class_that_changes_elsewhere_leaves_the_balanced_points_of_the_others():
    mask = random_mask(0)
    changed = np.where(mask == 2, UNKNOWN, mask).astype(np.uint8)
    before, after = draw("balanced", mask, 4), draw("balanced", changed, 4)
    kept = before.class_id != 2
    assert places(after) == [place for place, keep in zip(places(before), kept, strict=True) if keep]


def counts_leave_shares(sampler, mask, tiles=300, budget=10):
    """The largest distance, in standard deviations, of a class's count from its share of the known pixels."""
    counts = np.zeros(UNKNOWN)
    for tile in range(tiles):
        counts += np.bincount(sampler("uniform", mask, budget, tile_id=str(tile)).class_id, minlength=UNKNOWN)
    known = mask[mask < UNKNOWN]
    share = np.bincount(known, minlength=UNKNOWN) / known.size
    assert counts.sum() == tiles * budget
    return np.max(np.abs(counts - share * counts.sum()) / np.sqrt(counts.sum() * share * (1 - share)))


def test_uniform_counts_of_classes_follow_their_shares():
    mask = random_mask(0)

    def shy_of_urban(annotator, mask, budget, **arguments):
        # A fifth of one class's pixels can never be drawn: 30 % of the tile become 24.
        hidden = (mask == 0) & (np.arange(mask.size).reshape(mask.shape) % 5 == 0)
        return draw(annotator, np.where(hidden, IGNORE, mask).astype(np.uint8), budget, **arguments)

    assert counts_leave_shares(draw, mask) < 4
    assert counts_leave_shares(shy_of_urban, mask) > 4


def test_uniform_points_lie_evenly_over_the_tile():
    mask = np.zeros((16, 16), np.uint8)

    def chi_square(sampler):
        drawn = [sampler("uniform", mask, 4, tile_id=str(tile)) for tile in range(400)]
        cells = np.concatenate([d.row // 4 * 4 + d.col // 4 for d in drawn])
        return ((np.bincount(cells, minlength=16) - 100) ** 2 / 100).sum()

    def towards_the_middle(*arguments, **fields):
        drawn = draw(*arguments, **fields)
        return drawn._replace(row=drawn.row + np.sign(8 - drawn.row), col=drawn.col + np.sign(8 - drawn.col))

    # 15 degrees of freedom: above 45 once in 10,000 times.
    assert chi_square(draw) < 45
    assert chi_square(towards_the_middle) > 45


def test_balanced_draws_the_budget_of_each_class_and_all_of_a_class_that_has_fewer():
    mask = random_mask(3)
    there = np.bincount(mask.ravel(), minlength=UNKNOWN)[:UNKNOWN]
    budget = 12
    assert (there < budget).any()
    drawn = draw("balanced", mask, budget)
    np.testing.assert_array_equal(np.bincount(drawn.class_id, minlength=UNKNOWN), np.minimum(there, budget))
    for class_id in range(UNKNOWN):
        ranks = drawn.rank[drawn.class_id == class_id]
        np.testing.assert_array_equal(ranks, np.arange(len(ranks)))


def test_classes_that_got_fewer_points_than_the_budget_are_named():
    mask = np.zeros((20, 20), np.uint8)
    mask[0, :3], mask[5:8, 5:8], mask[10], mask[19] = 1, 3, UNKNOWN, IGNORE
    assert draw_all("balanced", mask, 3).underfull == ()
    assert draw_all("balanced", mask, 4).underfull == (1,)
    assert draw_all("balanced", mask, 10).underfull == (1, 3)
    # Too far apart to fit, or too few pixels at the border.
    assert draw_all("balanced", mask, 9, min_distance_px=2).underfull == (1, 3)
    assert draw_all("balanced", mask, 9, placement="boundary", boundary_px=1).underfull == (1, 3)
    # The tile is one stratum: all of its classes share what is missing.
    assert draw_all("uniform", mask, 100).underfull == ()
    assert draw_all("uniform", mask, 361).underfull == (0, 1, 3)


@annotators
def test_points_keep_their_distance_over_the_whole_tile(annotator):
    def nearest(**fields):
        drawn = draw(annotator, patchy_mask(0, (60, 60)), 8, **fields)
        between = np.hypot(*(np.subtract.outer(values, values) for values in (drawn.row, drawn.col)))
        assert len(drawn.row) > 6
        return between[~np.eye(len(between), dtype=bool)].min()

    assert nearest(min_distance_px=7) >= 7
    assert annotator == "uniform" or nearest() < 7


def components(mask):
    for class_id in range(UNKNOWN):
        labelled, count = scipy.ndimage.label(mask == class_id, np.ones((3, 3)))
        yield from ((class_id, labelled == number) for number in range(1, count + 1))


def test_each_component_gets_the_budget_and_those_too_small_nothing():
    seen = np.zeros(2)
    for seed in range(4):
        mask = patchy_mask(seed, (60, 61))
        drawn = draw_all("component", mask, 30, min_area=26, seed=seed)
        for class_id, inside in components(mask):
            there = inside[drawn.points.row, drawn.points.col]
            assert (drawn.points.class_id[there] == class_id).all()
            small = inside.sum() < 26
            np.testing.assert_array_equal(drawn.points.rank[there], np.arange(0 if small else min(30, inside.sum())))
            seen[int(small)] += 1
    assert (seen > 5).all()


def test_corners_that_touch_join_a_component():
    mask = np.full((6, 6), UNKNOWN, np.uint8)
    mask[:3, :3], mask[3:, 3:] = 0, 0
    assert len(draw("component", mask, 2).row) == 2
    mask[3:, 3:] = 1
    assert len(draw("component", mask, 2).row) == 4


def test_a_component_draws_its_pixels_equally_often():
    mask = np.full((9, 9), 1, np.uint8)
    mask[1:5, 2:6] = 0
    counts = np.zeros((9, 9))
    for tile in range(1600):
        drawn = draw("component", mask, 2, tile_id=str(tile))
        inside = drawn.class_id == 0
        counts[drawn.row[inside], drawn.col[inside]] += 1
    assert ((counts[1:5, 2:6] - 200) ** 2 / 200).sum() < 45
    assert counts.sum() == 3200


# Imperfect clicks


def moved(tiles=600, **fields):
    """Offsets int `[n, 2]` of jittered clicks from the points meant, away from the tile's edges."""
    mask, offsets = np.zeros((40, 40), np.uint8), []
    for tile in range(tiles):
        meant, got = (draw("uniform", mask, 5, tile_id=str(tile), **extra) for extra in ({}, fields))
        inner = (np.abs(meant.row - 19.5) < 12) & (np.abs(meant.col - 19.5) < 12)
        offsets.append(np.stack([got.row - meant.row, got.col - meant.col], 1)[inner])
    return np.concatenate(offsets)


def test_jitter_moves_clicks_evenly_within_its_radius():
    offsets = moved(click_jitter_px=2)
    assert (np.hypot(*offsets.T) <= 2).all()

    def chi_square(offsets):
        pixels, counts = np.unique(offsets, axis=0, return_counts=True)
        assert len(pixels) == 13  # of the disc
        return ((counts - counts.mean()) ** 2 / counts.mean()).sum()

    # 12 degrees of freedom: above 39 once in 10,000 times.
    assert chi_square(offsets) < 39
    biased = np.where((np.arange(len(offsets)) % 4 == 0)[:, None], np.sign(offsets), offsets)
    assert chi_square(biased) > 39


def test_jittered_clicks_stay_on_the_tile_and_keep_the_class_meant():
    mask = patchy_mask(4)
    for tile in range(50):
        meant, got = (draw("balanced", mask, 9, tile_id=str(tile), **f) for f in ({}, {"click_jitter_px": 6}))
        np.testing.assert_array_equal(got.class_id, meant.class_id)
        np.testing.assert_array_equal(got.rank, meant.rank)
        assert ((got.row >= 0) & (got.row < 24) & (got.col >= 0) & (got.col < 31)).all()
    assert (mask[got.row, got.col] != got.class_id).any()


def wrong(share, tiles=800, **fields):
    """How often a point of class r is called c: int `[known, known]`."""
    row, _ = np.indices((12, 12))
    mask, counts = (row // 2).astype(np.uint8), np.zeros((UNKNOWN, UNKNOWN), int)
    for tile in range(tiles):
        meant, got = (
            draw("balanced", mask, 4, tile_id=str(tile), **extra) for extra in ({}, {"label_noise": share} | fields)
        )
        assert places(got) == places(meant)
        np.add.at(counts, (meant.class_id, got.class_id), 1)
    return counts


def sigmas(counts, expected):
    """The largest distance of counts from expected chances, row by row, in standard deviations."""
    total = counts.sum(1, keepdims=True)
    spread = np.sqrt(total * expected * (1 - expected))
    assert (counts[spread == 0] == (total * expected)[spread == 0]).all()
    return np.max(np.abs(counts - total * expected)[spread > 0] / spread[spread > 0])


def test_noise_gives_its_share_of_points_another_class_all_alike():
    expected = 0.7 * np.eye(UNKNOWN) + 0.3 * (1 - np.eye(UNKNOWN)) / (UNKNOWN - 1)
    assert sigmas(wrong(0.3), expected) < 4.5
    # A point that may keep its class by chance is noisy too seldom.
    assert sigmas(wrong(0.25), expected) > 4.5
    assert (np.diag(wrong(1.0, tiles=50)) == 0).all()


def test_noise_follows_the_confusion_matrix():
    confusion = np.roll(np.eye(UNKNOWN), 1, 1) * 3 + np.roll(np.eye(UNKNOWN), 2, 1)
    counts = wrong(0.4, label_confusion=confusion.tolist())
    assert sigmas(counts, 0.6 * np.eye(UNKNOWN) + 0.1 * confusion) < 4.5
    # Every noisy class at once is far from the uniform one.
    assert sigmas(counts, 0.6 * np.eye(UNKNOWN) + 0.08 * (1 - np.eye(UNKNOWN))) > 4.5
