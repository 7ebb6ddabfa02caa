import itertools

import numpy as np
import pytest

from pcejax.errors import UserError
from pcejax.label_tiles import balancing_weights, gather, near_labels, rasterise, thin
from pcejax.legend import DEEPGLOBE, IGNORE
from pcejax.points import Points

UNKNOWN = DEEPGLOBE.num_known


def random_points(count, shape=(24, 40), seed=0):
    rng = np.random.default_rng(seed)
    row, col = (rng.integers(0, n, count) for n in shape)
    return Points(row, col, rng.integers(0, UNKNOWN, count), np.arange(count))


def first_of(points, count):
    return Points(*(values[:count] for values in points))


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("shape", [(24, 31), (17, 22)])
def test_rasterising_loses_and_doubles_no_point(factor, shape):
    for seed in range(5):
        drawn = random_points(24, shape, seed)
        label = rasterise(drawn, shape, factor)
        assert label.shape == tuple(-(-n // factor) for n in shape)
        assert label.dtype == np.uint8
        taught = np.bincount(label[label != IGNORE], minlength=UNKNOWN)
        np.testing.assert_array_equal(taught, np.bincount(drawn.class_id, minlength=UNKNOWN))


def test_a_point_lies_in_the_coarse_pixel_that_holds_it():
    drawn = Points(*np.array([[0, 7, 5], [3, 4, 0], [1, 2, 3], [0, 1, 2]]))
    expected = np.full((2, 2), IGNORE, np.uint8)
    expected[0, 0], expected[1, 1], expected[1, 0] = 1, 2, 3
    np.testing.assert_array_equal(rasterise(drawn, (8, 8), 4), expected)


def test_a_point_whose_pixel_is_taken_moves_to_the_nearest_free_one():
    for seed in range(20):
        drawn = random_points(60, seed=seed)
        expected = np.full((6, 10), IGNORE, np.uint8)
        for r, c, class_id in zip(drawn.row // 4, drawn.col // 4, drawn.class_id, strict=True):
            free = np.argwhere(expected == IGNORE)
            expected[tuple(free[((free - (r, c)) ** 2).sum(1).argmin()])] = class_id
        np.testing.assert_array_equal(rasterise(drawn, (24, 40), 4), expected)


def test_more_points_than_pixels_are_refused_with_both_numbers():
    with pytest.raises(UserError, match=r"5 points do not fit on the 4 pixels .* reduced 4 times"):
        rasterise(random_points(5, (8, 8)), (8, 8), 4)
    assert (rasterise(random_points(4, (8, 8)), (8, 8), 4) != IGNORE).all()


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("radius", [0, 1, 3, 6])
def test_what_lower_ranks_teach_does_not_depend_on_later_ones(factor, radius):
    for seed in range(3):
        drawn = random_points(30, (40, 52), seed)
        labels = [rasterise(first_of(drawn, count), (40, 52), factor, radius) for count in range(31)]
        for fewer, more in itertools.pairwise(labels):
            assert (fewer != IGNORE).sum() < (more != IGNORE).sum()
            np.testing.assert_array_equal(more[fewer != IGNORE], fewer[fewer != IGNORE])


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("radius", [1, 3, 6])
def test_a_disc_is_drawn_at_the_training_scale_and_the_lower_rank_wins(factor, radius):
    for seed in range(5):
        drawn = random_points(6, (40, 52), seed)
        label = rasterise(drawn, (40, 52), factor, radius)
        # Native coordinates of the middles of coarse pixels.
        row, col = (np.indices(label.shape) + 0.5) * factor - 0.5
        expected = np.full(label.shape, IGNORE, np.uint8)
        for r, c, class_id in list(zip(*drawn[:3], strict=True))[::-1]:
            covered = (row - r) ** 2 + (col - c) ** 2 <= radius**2
            covered[r // factor, c // factor] = True
            expected[covered] = class_id
        # Where every point still shows, none has moved.
        if len(np.unique(expected)) == len(np.unique([*drawn.class_id, IGNORE])):
            np.testing.assert_array_equal(label, expected)
        else:
            assert set(np.unique(label)) >= set(drawn.class_id)


def test_a_point_inside_lower_discs_moves_to_the_nearest_free_pixel():
    drawn = Points(*np.array([[10, 10], [10, 11], [1, 2], [0, 1]]))
    label = rasterise(drawn, (21, 21), 1, 0)
    assert label[10, 11] == 2
    inner = Points(*np.array([[10, 10, 10, 10], [10, 14, 6, 10], [1, 1, 1, 2], [0, 1, 2, 3]]))
    label = rasterise(inner, (21, 21), 1, 4)
    # Rank 3 lies at the middle of rank 0's disc, which covers all of its own.
    assert (label == 2).sum() == 1
    assert label[10, 10] == 1


def test_discs_that_leave_no_pixel_to_a_point_are_refused():
    points = Points(*np.array([[2, 2], [2, 2], [0, 1], [0, 1]]))
    with pytest.raises(UserError, match=r"points.point_radius"):
        rasterise(points, (5, 5), 1, 9)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("shape", [(16, 24), (17, 22), (5, 3)])
def test_thinning_takes_the_same_pixel_of_every_block(factor, shape):
    mask = np.random.default_rng(0).integers(0, 200, shape).astype(np.uint8)
    label = thin(mask, factor)
    assert label.shape == tuple(-(-n // factor) for n in shape)
    for row, col in np.ndindex(*label.shape):
        at = (row * factor + factor // 2, col * factor + factor // 2)
        assert label[row, col] == (mask[at] if at[0] < shape[0] and at[1] < shape[1] else IGNORE)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("shape", [(16, 24), (17, 22), (5, 3)])
def test_gathering_labels_a_pixel_where_any_of_its_own_is(factor, shape):
    rng = np.random.default_rng(0)
    for share in (0.02, 0.2, 1.0):
        native = np.where(rng.random(shape) < share, rng.integers(0, 7, shape), IGNORE).astype(np.uint8)
        label = gather(native, factor)
        assert label.shape == tuple(-(-n // factor) for n in shape)
        assert label.dtype == np.uint8
        for row, col in np.ndindex(*label.shape):
            block = native[row * factor :, col * factor :][:factor, :factor]
            labelled = np.argwhere(block != IGNORE)
            if not len(labelled):
                assert label[row, col] == IGNORE
                continue
            distance = ((labelled - factor // 2) ** 2).sum(1)
            nearest = labelled[distance == distance.min()]
            assert label[row, col] in block[tuple(nearest.T)]
    np.testing.assert_array_equal(gather(native, factor) != IGNORE, True)


def test_balancing_weights_let_classes_count_alike_with_a_mean_of_one():
    rng = np.random.default_rng(0)
    label = rng.choice([0, 2, 5, IGNORE], (40, 50), p=[0.7, 0.2, 0.05, 0.05]).astype(np.uint8)
    weights = balancing_weights(label, 7)
    assert weights.dtype == np.float32
    assert weights.shape == (7,)
    counts = np.bincount(label.ravel(), minlength=256)[:7]
    share = counts * weights
    np.testing.assert_allclose(share[[0, 2, 5]], share.sum() / 3, rtol=1e-6)
    assert share.sum() / counts.sum() == pytest.approx(1, rel=1e-6)
    assert (weights[[1, 3, 4, 6]] == 1).all()
    assert (balancing_weights(np.full((3, 3), IGNORE, np.uint8), 7) == 1).all()
    assert (balancing_weights(np.full((3, 3), 4, np.uint8), 7) == 1).all()


@pytest.mark.parametrize("buffer_px", [0, 1, 5])
def test_near_labels_are_the_pixels_within_the_buffer(buffer_px):
    drawn = random_points(12)
    row, col = np.indices((24, 40))
    distance = np.min([np.maximum(abs(row - r), abs(col - c)) for r, c in zip(*drawn[:2], strict=True)], 0)
    label = rasterise(drawn, (24, 40), 1)
    np.testing.assert_array_equal(near_labels(label, buffer_px), distance <= buffer_px)


def test_near_no_label_is_nowhere():
    assert not near_labels(np.full((3, 3), IGNORE, np.uint8), 8).any()
