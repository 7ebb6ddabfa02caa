import io
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import default
from pcejax import parallel, tiles
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE, IGNORE
from pcejax.tiles import RawTile, TileSet, cut, place, reduce_image, reduction


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def random_arrays(shape, seed=0, bands=3):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*shape, bands), np.uint8), rng.integers(0, 7, shape, np.uint8)


def raw_tile(tile_id, shape, seed=0):
    image, mask = random_arrays(shape, seed)
    return RawTile(tile_id, png(image), png(mask))


def tile_set_of(shapes):
    arrays = [random_arrays(shape, seed) for seed, shape in enumerate(shapes)]
    count = len(shapes)
    weights = [np.full(7, 1 + i, np.float32) for i in range(count)]
    return TileSet(
        [f"tile{i}" for i in range(count)],
        [a[0] for a in arrays],
        [a[1] for a in arrays],
        weights,
        [None] * count,
        [None] * count,
        [()] * count,
    )


# Cutting and placing


@pytest.mark.parametrize("size", [1, 8, 20])
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_cut_is_slicing(size, bands):
    images, labels = random_arrays((3, 20, 30), bands=bands)
    rng = np.random.default_rng(1)
    plan = [(t, rng.integers(0, 21 - size), rng.integers(0, 31 - size), 7) for t in (2, 0, 0, 1)]
    plan += [(0, 0, 0, 0), (2, 20 - size, 30 - size, 2**31 - 1)]
    plan = np.array(plan, np.int32)
    arrays = tiles.Tiles(jnp.asarray(images), jnp.asarray(labels), jnp.ones((3, 7)))
    batch = jax.jit(cut, static_argnums=2)(arrays, plan, size)
    assert batch.image.dtype == batch.label.dtype == jnp.uint8
    assert batch.image.shape == (6, size, size, bands)
    for index, (tile, row, col, _) in enumerate(plan):
        np.testing.assert_array_equal(batch.image[index], images[tile, row : row + size, col : col + size])
        np.testing.assert_array_equal(batch.label[index], labels[tile, row : row + size, col : col + size])


def test_tiles_are_placed_on_every_device_padded_with_zero_and_ignore():
    tile_set = tile_set_of([(5, 9), (7, 4)])
    placed = place(tile_set)
    assert placed.images.shape == (2, 7, 9, 3)
    assert placed.labels.shape == (2, 7, 9)
    for index, (image, label) in enumerate(zip(tile_set.images, tile_set.labels, strict=True)):
        height, width = label.shape
        sides = ((0, 7 - height), (0, 9 - width))
        np.testing.assert_array_equal(placed.images[index], np.pad(image, (*sides, (0, 0))))
        np.testing.assert_array_equal(placed.labels[index], np.pad(label, sides, constant_values=IGNORE))
    np.testing.assert_array_equal(placed.weights, np.stack(tile_set.weights))
    for array, dtype in zip(placed, (jnp.uint8, jnp.uint8, jnp.float32), strict=True):
        assert array.dtype == dtype
        assert len(array.sharding.device_set) == 2
        assert array.is_fully_replicated


def test_the_hash_is_that_of_tile_ids_labels_and_weights():
    base = tile_set_of([(4, 6), (4, 6)])
    assert base.hash() == tile_set_of([(4, 6), (4, 6)]).hash()
    assert re.fullmatch("[0-9a-f]{64}", base.hash())
    label = base.labels[1].copy()
    label[3, 5] = IGNORE
    others = [
        base._replace(labels=[base.labels[0], label]),
        base._replace(tile_ids=["tile0", "tile2"]),
        base._replace(labels=base.labels[::-1]),
        base._replace(labels=[label.reshape(6, 4) for label in base.labels]),
        base._replace(weights=base.weights[::-1]),
        TileSet(*(field[:1] for field in base)),
    ]
    assert len({base.hash(), *(other.hash() for other in others)}) == 7
    # Images are no labels.
    assert base._replace(images=[255 - image for image in base.images]).hash() == base.hash()


# Resolution


@pytest.mark.parametrize(("scale", "factor"), [(1.0, 1), (1, 1), (0.5, 2), (0.25, 4)])
def test_a_scale_is_a_whole_reduction(scale, factor):
    assert reduction(scale) == factor


@pytest.mark.parametrize("scale", [0, 2.0, 0.3, 0.125, -0.5, float("nan")])
def test_other_scales_are_refused(scale):
    with pytest.raises(UserError, match=f"data.scale={scale}; expected 1, 0.5 or 0.25"):
        reduction(scale)


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_reducing_averages_blocks(factor):
    image, _ = random_arrays((16, 24))
    reduced = reduce_image(image, factor)
    means = image.reshape(16 // factor, factor, 24 // factor, factor, 3).mean((1, 3))
    assert reduced.dtype == np.uint8
    # Rounded to the nearest.
    assert np.abs(reduced - means).max() <= 0.5


@pytest.mark.parametrize("factor", [2, 4])
def test_a_block_cut_by_the_border_is_averaged_over_what_there_is(factor):
    image, _ = random_arrays((13, 7))
    reduced = reduce_image(image, factor)
    assert reduced.shape == (-(-13 // factor), -(-7 // factor), 3)
    for row, col in np.ndindex(*reduced.shape[:2]):
        block = image[row * factor : (row + 1) * factor, col * factor : (col + 1) * factor]
        # Pillow rounds the mean of a cut block down now and then.
        assert np.abs(reduced[row, col] - block.mean((0, 1))).max() < 1


def test_images_are_scaled_to_one():
    scaled = tiles.scale_image(np.array([[[0, 51, 255]]], np.uint8))
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(scaled, [[[0, 0.2, 1]]], rtol=1e-6)


# Loading


def prepare(monkeypatch, raw):
    """Lets `load` find these tiles where a prepared dataset would be."""
    monkeypatch.setattr(tiles.datasets, "open_dataset", lambda name, data_dir: None)
    monkeypatch.setattr(tiles.datasets, "legend_of", lambda builder: DEEPGLOBE)
    monkeypatch.setattr(tiles, "read", lambda builder, split, config: raw)


def config_of(**overrides):
    config = default.get_config()
    config.update_from_flattened_dict({"points.budget": 2, **overrides})
    return config


def test_loading_gives_reduced_images_and_label_tiles_in_order(monkeypatch):
    raw = [raw_tile(f"tile{seed}", (16 + seed, 24), seed) for seed in range(6)]
    prepare(monkeypatch, raw)
    calls = []
    loaded = tiles.load(config_of(), lambda done, total: calls.append((done, total)))
    assert calls == [(done, 6) for done in range(1, 7)]
    assert loaded.tile_ids == [f"tile{seed}" for seed in range(6)]
    for tile, image, label in zip(raw, loaded.images, loaded.labels, strict=True):
        np.testing.assert_array_equal(image, reduce_image(tile.image(), 2))
        expected = tiles.labels_of(tile, config_of(), DEEPGLOBE)
        np.testing.assert_array_equal(label, expected.label)
        assert (label != IGNORE).sum() == len(expected.points.row) == 12
        assert label.shape == image.shape[:2]
        # At native resolution the points are where they were clicked.
        native = tiles.labels_of(tile, config_of(), DEEPGLOBE, factor=1).label
        np.testing.assert_array_equal(native[expected.points.row, expected.points.col], expected.points.class_id)
        assert (native != IGNORE).sum() == 12
    assert [len(points.row) for points in loaded.points] == [12] * 6
    assert all((weights == np.ones(7, np.float32)).all() for weights in loaded.weights)


def test_loading_keeps_the_weights_and_the_underfull_classes_of_each_tile(monkeypatch):
    raw = [raw_tile(f"tile{seed}", (16, 24), seed) for seed in range(3)]
    prepare(monkeypatch, raw)
    loaded = tiles.load(config_of(**{"points.annotator": "dense_balanced"}))
    assert loaded.points == [None] * 3
    for tile, weights in zip(raw, loaded.weights, strict=True):
        expected = tiles.labels_of(tile, config_of(**{"points.annotator": "dense_balanced"}), DEEPGLOBE)
        np.testing.assert_array_equal(weights, expected.class_weights)
        assert len(np.unique(weights)) > 2
    # 384 pixels of seven classes: none has 80 of them, all have 30.
    assert tiles.load(config_of(**{"points.budget": 80, "data.scale": 1.0})).underfull == [(0, 1, 2, 3, 4, 5)] * 3
    assert tiles.load(config_of(**{"points.budget": 30, "data.scale": 1.0})).underfull == [()] * 3


def test_fewer_labelled_tiles_are_among_more_and_the_others_are_not_loaded(monkeypatch):
    raw = [raw_tile(f"tile{seed}", (16, 24), seed) for seed in range(6)]
    prepare(monkeypatch, raw)
    chosen = [tiles.load(config_of(**{"data.num_labelled_tiles": count})).tile_ids for count in range(1, 7)]
    for count, (fewer, more) in enumerate(itertools.pairwise(chosen), 1):
        assert len(fewer) == count
        assert set(fewer) < set(more)
        # In the dataset's order.
        assert fewer == sorted(fewer)
    assert tiles.load(config_of()).tile_ids == chosen[-1]
    others = [
        tiles.load(config_of(**{"data.num_labelled_tiles": 2, "points.seed": seed})).tile_ids for seed in range(1, 9)
    ]
    assert len({*map(tuple, others)}) > 3
    # Tiles that are not used need no room either: 8 x 12 pixels, 4 bytes each.
    monkeypatch.setattr(parallel, "device_memory", lambda: 2 * 384)
    config = config_of(**{"data.num_labelled_tiles": 2, "data.device_memory_share": 1.0})
    assert len(tiles.load(config).images) == 2


@pytest.mark.parametrize("count", [-1, 7])
def test_more_labelled_tiles_than_there_are_are_refused(monkeypatch, count):
    prepare(monkeypatch, [raw_tile(f"tile{seed}", (16, 24), seed) for seed in range(6)])
    with pytest.raises(UserError, match=rf"data.num_labelled_tiles={count}; expected 1 to 6, .*'train', or 0 for all"):
        tiles.load(config_of(**{"data.num_labelled_tiles": count}))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [({"points.budget": 0}, "points.budget=0"), ({"points.label_confusion": ((0, 1), (1, 0))}, "6 rows of 6 values")],
)
def test_bad_options_are_refused_before_a_tile_is_read(monkeypatch, overrides, told):
    prepare(monkeypatch, None)
    with pytest.raises(UserError, match=told):
        tiles.load(config_of(**overrides))


def test_labels_do_not_depend_on_the_runs_seed_but_on_the_points(monkeypatch):
    prepare(monkeypatch, [raw_tile("a", (16, 16))])
    base = tiles.load(config_of()).hash()
    assert tiles.load(config_of(seed=1)).hash() == base
    assert tiles.load(config_of(**{"points.seed": 1})).hash() != base
    assert tiles.load(config_of(**{"points.budget": 3})).hash() != base


def test_tiles_without_a_labelled_pixel_are_refused(monkeypatch):
    image, mask = random_arrays((8, 8))
    prepare(monkeypatch, [RawTile("a", png(image), png(np.full_like(mask, IGNORE)))])
    with pytest.raises(UserError, match=r"data.train_split='train': no tile has a labelled pixel"):
        tiles.load(config_of())


def test_tiles_that_do_not_fit_the_device_are_refused_with_both_numbers(monkeypatch):
    prepare(monkeypatch, [raw_tile(f"tile{seed}", (40, 80)) for seed in range(3)])
    config = config_of(**{"data.device_memory_share": 0.5})
    # Reduced twice, 20 x 40 pixels of three bands and a label, three tiles: 9,600 bytes.
    monkeypatch.setattr(parallel, "device_memory", lambda: 2 * 9600)
    tiles.load(config)
    monkeypatch.setattr(parallel, "device_memory", lambda: 2 * 9599)
    with pytest.raises(UserError, match=r"3 tiles of 20x40 at data.scale=0.5 need .* GB .* at most .* GB"):
        tiles.load(config)
    # Many times the same tile: refused before any is decoded.
    prepare(monkeypatch, [raw_tile("a", (400, 800))] * 10_000)
    monkeypatch.setattr(parallel, "device_memory", lambda: 5_000_000_000)
    with pytest.raises(UserError, match=r"10000 tiles of 200x400 .* need 3\.20 GB .* at most 2\.50 GB, 0\.5 of"):
        tiles.load(config)


def test_tiles_of_different_sizes_are_measured_by_the_largest(monkeypatch):
    # `place` pads every tile to the largest: 2 tiles of 20 x 40 pixels, 4 bytes each.
    prepare(monkeypatch, [raw_tile("small", (8, 8)), raw_tile("large", (40, 80))])
    monkeypatch.setattr(parallel, "device_memory", lambda: 6399)
    with pytest.raises(UserError, match="20x40"):
        tiles.load(config_of(**{"data.device_memory_share": 1.0}))


def test_decoded_tiles_come_in_order_and_whole():
    raw = [raw_tile(f"tile{seed}", (5 + seed, 6), seed) for seed in range(4)]
    decoded = list(tiles.decoded(raw))
    assert [tile.tile_id for tile, _, _ in decoded] == [tile.tile_id for tile in raw]
    for seed, (_, image, mask) in enumerate(decoded):
        expected_image, expected_mask = random_arrays((5 + seed, 6), seed)
        np.testing.assert_array_equal(image, expected_image)
        np.testing.assert_array_equal(mask, expected_mask)
    assert list(tiles.decoded([])) == []
