import copy

import jax
import numpy as np
import pytest

from configs import default
from pcejax import input_pipeline, tiles
from pcejax.errors import UserError
from pcejax.input_pipeline import find_anchors, make_plan
from pcejax.legend import IGNORE
from pcejax.tiles import TileSet

SIZES = [(40, 60), (64, 33), (100, 32)]
CROP = 32


def sparse_labels(per_class=(30, 6, 2), sizes=SIZES, seed=0):
    """Label tiles with very different numbers of points of each class."""
    rng = np.random.default_rng(seed)
    labels = [np.full(size, IGNORE, np.uint8) for size in sizes]
    for class_id, count in enumerate(per_class):
        for _ in range(count):
            tile = labels[rng.integers(len(labels))]
            row, col = rng.integers(0, tile.shape)
            tile[row, col] = class_id
    return labels


def plan_of(labels, step=0, seed=0, batch=64, crop=CROP, share=0.75):
    return make_plan(
        step,
        seed=seed,
        batch=batch,
        crop=crop,
        sizes=np.array([label.shape for label in labels]),
        anchors=find_anchors(labels, seed),
        anchored_share=share,
        num_labelled=len(labels),
        unlabelled_share=0.0,
    )


def crops_of(plan, labels, crop=CROP):
    return [labels[tile][row : row + crop, col : col + crop] for tile, row, col, _ in plan]


def make_run(labels=None, **overrides):
    labels = sparse_labels() if labels is None else labels
    config = default.get_config()
    config.data.crop = CROP
    config.train.num_steps = 12
    config.train.batch_size = 8
    config.update_from_flattened_dict(overrides)
    images = [np.zeros((*label.shape, 3), np.uint8) for label in labels]
    return config, TileSet(
        [f"tile{index}" for index in range(len(labels))],
        images,
        labels,
        [np.ones(7, np.float32)] * len(labels),
        [None] * len(labels),
        [None] * len(labels),
        [()] * len(labels),
    )


def test_a_plan_is_a_function_of_seed_and_step():
    labels = sparse_labels()
    plan = plan_of(labels, step=3, seed=5)
    assert plan.shape == (64, 4)
    assert plan.dtype == np.int32
    # Others in between: nothing is kept from call to call.
    for step, seed in ((4, 5), (3, 6), (5, 3)):
        assert (plan_of(labels, step=step, seed=seed) != plan).any(0)[[0, 1, 2, 3]].all()
    np.testing.assert_array_equal(plan_of(labels, step=3, seed=5), plan)


@pytest.mark.parametrize("share", [0.0, 0.75, 1.0])
def test_crops_lie_inside_their_tiles_also_of_different_sizes(share):
    labels = sparse_labels(per_class=(200, 60, 20))
    for step in range(20):
        for crop in crops_of(plan_of(labels, step=step, share=share), labels):
            assert crop.shape == (CROP, CROP)
        assert (plan_of(labels, step=step, share=share) >= 0).all()


def test_a_crop_as_large_as_its_tile_is_the_tile():
    labels = sparse_labels(sizes=[(CROP, CROP)])
    assert (plan_of(labels, share=0.5)[:, :3] == 0).all()


@pytest.mark.parametrize(("batch", "share", "expected"), [(64, 0.75, 48), (64, 1.0, 64), (10, 0.25, 2), (8, 0.0, 0)])
def test_the_anchored_share_of_the_crops_holds_a_labelled_pixel(batch, share, expected):
    # One labelled pixel in the corner of a large tile: a crop that lies anywhere misses it but for 1 in 10^5.
    label = np.full((400, 400), IGNORE, np.uint8)
    label[0, 0] = 1
    for step in range(10):
        plan = plan_of([label], step=step, batch=batch, share=share, crop=8)
        assert sum((crop != IGNORE).any() for crop in crops_of(plan, [label], 8)) == expected


def test_the_anchored_crops_are_spread_over_the_rows():
    label = np.full((400, 400), IGNORE, np.uint8)
    label[0, 0] = 1
    hits = np.zeros(16)
    for step in range(400):
        hits += [(crop != IGNORE).any() for crop in crops_of(plan_of([label], step, batch=16, crop=8), [label], 8)]
    # 300 expected in each row, standard deviation 8.7.
    assert np.abs(hits - 300).max() < 45


def test_anchors_are_of_all_classes_alike():
    # Crops of one pixel are their anchors; class 0 has fifteen times the pixels of class 2.
    labels = sparse_labels()
    plan = plan_of(labels, batch=6000, crop=1, share=1.0)
    counts = np.bincount(np.concatenate(crops_of(plan, labels, 1)).ravel())
    assert len(counts) == 3
    assert np.abs(counts - 2000).max() < 4.5 * np.sqrt(6000 * 2 / 9)
    # And every anchor of a class is taken.
    assert len(np.unique(plan[:, :3], axis=0)) == sum((label != IGNORE).sum() for label in labels)


def test_an_anchor_may_lie_anywhere_in_its_crop():
    label = np.full((100, 100), IGNORE, np.uint8)
    label[50, 50] = 0
    plan = plan_of([label], batch=4000, crop=4, share=1.0)
    offsets = 50 - plan[:, 1:3]
    counts = np.bincount(offsets[:, 0] * 4 + offsets[:, 1], minlength=16)
    # Chi-square with 15 degrees of freedom: above 45 once in 10,000 times.
    assert ((counts - 250) ** 2 / 250).sum() < 45


def test_crops_without_an_anchor_lie_anywhere_on_any_tile():
    labels = [np.zeros(size, np.uint8) for size in ((6, 4), (4, 4), (4, 7))]
    plan = plan_of(labels, batch=3000, crop=4, share=0.0)
    for tile, places in enumerate((3, 1, 4)):
        taken, counts = np.unique(plan[plan[:, 0] == tile][:, 1:3], axis=0, return_counts=True)
        assert len(taken) == places
        assert np.abs(counts - 1000 / places).max() < 5 * np.sqrt(1000 / places)


def test_every_crop_has_a_seed_of_its_own():
    seeds = np.concatenate([plan_of(sparse_labels(), step=step)[:, 3] for step in range(20)])
    assert len(np.unique(seeds)) == len(seeds)
    assert seeds.min() >= 0


def test_anchors_are_the_labelled_pixels_by_class():
    labels = sparse_labels()
    anchors = find_anchors(labels, 0)
    for class_id, found in enumerate(anchors.by_class):
        expected = [(t, *place) for t, label in enumerate(labels) for place in np.argwhere(label == class_id)]
        assert found.dtype == np.int32
        np.testing.assert_array_equal(sorted(map(tuple, found)), sorted(expected))


def test_anchors_of_a_dense_tile_are_a_sample_of_each_class():
    dense = (np.indices((50, 80)).sum(0) > 20).astype(np.uint8) * 4
    anchors = find_anchors([dense, np.full((3, 3), IGNORE, np.uint8)], 0)
    few = (dense == 0).sum()
    assert [len(found) for found in anchors.by_class] == [few, input_pipeline.MAX_ANCHORS]
    for class_id, (tile, row, col) in zip((0, 4), (found.T for found in anchors.by_class), strict=True):
        assert (tile == 0).all()
        assert (dense[row, col] == class_id).all()
        assert len(np.unique(row * 80 + col)) == len(row)


def test_the_stream_holds_the_plans_of_all_steps():
    config, tile_set = make_run()
    expected = [plan_of(tile_set.labels, step, batch=8) for step in range(12)]
    np.testing.assert_array_equal(list(input_pipeline.plans(config, tile_set, 0)), expected)


@pytest.mark.parametrize("first_step", [1, 7, 11, 12])
def test_resuming_the_stream_is_starting_at_a_step(first_step):
    config, tile_set = make_run()
    whole = list(input_pipeline.plans(config, tile_set, 0))
    rest = list(input_pipeline.plans(config, tile_set, first_step))
    assert len(rest) == 12 - first_step
    for got, expected in zip(rest, whole[first_step:], strict=True):
        np.testing.assert_array_equal(got, expected)


def test_which_points_and_which_crops_are_two_seeds():
    config, tile_set = make_run()
    other, _ = make_run(**{"points.seed": 9})
    for got, expected in zip(*(input_pipeline.plans(c, tile_set, 0) for c in (config, other)), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_check_accepts_what_fits():
    input_pipeline.check(*make_run())
    input_pipeline.check(*make_run(**{"data.anchored_share": 0.0}))
    input_pipeline.check(*make_run(**{"data.anchored_share": 1.0}))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"data.crop": 33}, r"data.crop=33 is larger than tile tile2, 100x32 pixels at data.scale=0.5; .* at most 32"),
        ({"data.anchored_share": 1.01}, "data.anchored_share=1.01; expected a share from 0 to 1"),
        ({"data.anchored_share": -0.1}, "data.anchored_share=-0.1"),
        ({"data.anchored_share": float("nan")}, "data.anchored_share=nan"),
    ],
)
def test_check_refuses(overrides, told):
    with pytest.raises(UserError, match=told):
        input_pipeline.check(*make_run(**overrides))


def test_a_share_of_the_crops_is_cut_from_the_tiles_without_labels():
    labels = sparse_labels()
    sizes = np.array([*SIZES, (50, 50), (64, 40)])
    plans = [
        make_plan(
            step,
            seed=0,
            batch=16,
            crop=CROP,
            sizes=sizes,
            anchors=find_anchors(labels, 0),
            anchored_share=0.5,
            num_labelled=3,
            unlabelled_share=0.25,
        )
        for step in range(100)
    ]
    rows = np.concatenate(plans)
    assert all((plan[:, 0] >= 3).sum() == 4 for plan in plans)
    assert set(rows[:, 0]) == {0, 1, 2, 3, 4}
    assert (rows[:, 1:3] + CROP <= sizes[rows[:, 0]]).all()
    holding = [(labels[t][r : r + CROP, c : c + CROP] != IGNORE).any() for t, r, c, _ in rows if t < 3]
    assert np.mean(holding) >= 0.5
    # Not always the same rows, which are the same device's.
    assert len({tuple(plan[:, 0] >= 3) for plan in plans}) > 50


@pytest.mark.parametrize("overrides", [{"data.unlabelled_share": 0.5}, {"data.unlabelled_split": "unlabelled"}])
def test_unlabelled_crops_need_a_share_and_a_split(overrides):
    with pytest.raises(UserError, match="expected both or none"):
        input_pipeline.check(*make_run(**overrides))


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_an_unlabelled_share_is_a_share(share):
    with pytest.raises(UserError, match=f"data.unlabelled_share={share}; expected a share"):
        input_pipeline.check(*make_run(**{"data.unlabelled_share": share, "data.unlabelled_split": "unlabelled"}))


@pytest.mark.parametrize("threads", [1, 3])
def test_crops_cut_on_the_host_are_those_cut_on_the_device_bit_for_bit(threads):
    rng = np.random.default_rng(0)
    config, run = make_run(
        **{"data.host_threads": threads, "data.unlabelled_share": 0.25, "data.unlabelled_split": "unlabelled"}
    )
    run = run._replace(
        images=[rng.integers(0, 256, (*size, 3), np.uint8) for size in (*SIZES, (50, 50))],
        weights=[rng.random(7).astype(np.float32) for _ in SIZES],
    )
    host_config = copy.deepcopy(config)
    host_config.data.tiles = "host"
    cut = jax.jit(tiles.cut, static_argnums=2)
    for first in (0, 5):
        on_device = input_pipeline.feed(config, run, first)
        on_host = input_pipeline.feed(host_config, run, first)
        steps = 0
        for (batch, rows), (resident, plan) in zip(on_host, on_device, strict=True):
            np.testing.assert_array_equal(rows, plan)
            for device in range(2):
                expected = cut(jax.tree.map(np.asarray, resident), np.asarray(plan[device]), CROP)
                for mine, theirs in zip(batch, expected, strict=True):
                    assert mine.dtype == theirs.dtype
                    np.testing.assert_array_equal(mine[device], theirs)
            steps += 1
        assert steps == 12 - first
