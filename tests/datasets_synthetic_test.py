from __future__ import annotations

import sys

import numpy as np
import pytest

from pcejax import datasets
from pcejax.datasets.landscape_scene import AGRICULTURE, UNKNOWN
from pcejax.datasets.landscapes import draw_tile
from pcejax.datasets.synthetic import SyntheticConfig, SyntheticV1
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE, IGNORE


@pytest.fixture(scope="module")
def shares():
    """Share of each class on 16 tiles of 768 px: float `[16, 7]`."""
    masks = [draw_tile(0, index, 768)[1] for index in range(16)]
    return np.array([np.bincount(mask.ravel(), minlength=DEEPGLOBE.num_classes) / mask.size for mask in masks])


@pytest.mark.parametrize("size", [64, 256, 720])
def test_a_tile_is_a_function_of_its_arguments(size):
    image, mask = draw_tile(3, 5, size)
    again, mask_again = draw_tile(3, 5, size)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(mask, mask_again)
    assert image.dtype == mask.dtype == np.uint8
    assert image.shape == (size, size, 3)
    assert mask.shape == (size, size)


def test_other_indices_and_seeds_are_other_scenes():
    scenes = [draw_tile(seed, index, 256) for seed, index in ((0, 0), (0, 1), (1, 0))]
    for i, (image, mask) in enumerate(scenes):
        for other, other_mask in scenes[:i]:
            assert np.mean(image != other) > 0.9
            assert np.any(mask != other_mask)


def test_every_pixel_has_a_class_of_the_legend():
    for index in range(6):
        assert draw_tile(1, index, 384)[1].max() < DEEPGLOBE.num_classes


@pytest.mark.parametrize("seed", [1, 2])
def test_any_four_consecutive_tiles_show_the_six_known_classes(seed):
    for first in (0, 1_000_000, 2_000_000):
        seen = sum(np.bincount(draw_tile(seed, first + i, 768)[1].ravel(), minlength=7) for i in range(4))
        assert np.all(seen[:UNKNOWN] > 0.003 * 4 * 768**2), (seed, first, seen)


def test_every_tile_of_768_px_holds_three_classes_or_more(shares):
    assert ((shares[:, :UNKNOWN] > 0.005).sum(1) >= 3).all()


def test_classes_are_as_uneven_as_promised(shares):
    mean = shares.mean(0)
    assert 0.45 < mean[AGRICULTURE] < 0.68
    assert (np.delete(mean[:UNKNOWN], AGRICULTURE) > 0.02).all()
    assert (np.delete(mean[:UNKNOWN], AGRICULTURE) < 0.16).all()


def test_clouds_cover_part_of_about_a_fifth_of_the_tiles(shares):
    assert 2 <= (shares[:, UNKNOWN] > 0).sum() <= 5
    assert shares[:, UNKNOWN].max() < 0.5


def test_colour_alone_does_not_tell_the_classes_apart():
    """The nearest mean colour, less the tile's mean, taught on six whole tiles, fails on four others."""
    colors, ids = [], []
    for index in (*range(6), *range(1_000_000, 1_000_004)):
        image, mask = draw_tile(0, index, 768)
        known = mask.ravel()[::29] < UNKNOWN
        colors.append((image.reshape(-1, 3)[::29] - image.mean((0, 1)))[known])
        ids.append(mask.ravel()[::29][known])
    taught, labels = np.concatenate(colors[:6]), np.concatenate(ids[:6])
    means = np.array([taught[labels == land_class].mean(0) for land_class in range(UNKNOWN)])
    seen, truth = np.concatenate(colors[6:]), np.concatenate(ids[6:])
    guess = ((seen[:, None] - means) ** 2).sum(-1).argmin(1)
    confusion = np.bincount(truth * UNKNOWN + guess, minlength=UNKNOWN**2).reshape(UNKNOWN, UNKNOWN)
    hits = np.diag(confusion)
    assert np.mean(hits / (confusion.sum(0) + confusion.sum(1) - hits)) < 0.30


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    config = SyntheticConfig(size=128, train=3, validation=1, test=0, unlabelled=2, seed=4)
    builder = SyntheticV1(config=config, data_dir=folder, file_format="array_record")
    told: list[str] = []
    builder.on_tile = told.append
    builder.download_and_prepare()
    return datasets.open_dataset("synthetic_v1/128px_3-1-0-2_seed4", folder), told


def test_what_tfds_stored_is_what_was_drawn(prepared):
    builder, _ = prepared
    source = builder.as_data_source("train")
    assert len(source) == 3
    for index in range(3):
        image, mask = draw_tile(4, index, 128)
        assert source[index]["tile_id"] == f"train_{index:04d}".encode()
        np.testing.assert_array_equal(source[index]["mask"][..., 0], mask)
        assert np.abs(source[index]["image"].astype(int) - image).mean() < 4  # grey levels, JPEG at quality 95


def test_slices_are_slices_of_the_fixed_order(prepared):
    builder, _ = prepared
    sliced = builder.as_data_source("train[:2]")
    assert [sliced[i]["tile_id"] for i in range(len(sliced))] == [b"train_0000", b"train_0001"]


def test_the_legend_travels_with_the_data(prepared):
    assert datasets.legend_of(prepared[0]) == DEEPGLOBE


def test_a_split_without_tiles_is_left_out_and_unlabelled_tiles_have_no_class(prepared):
    builder, _ = prepared
    assert set(builder.info.splits) == {"train", "validation", datasets.UNLABELLED}
    for tile in builder.as_data_source(datasets.UNLABELLED):
        assert (tile["mask"] == IGNORE).all()


def test_splits_hold_different_scenes(prepared):
    builder, _ = prepared
    first = [builder.as_data_source(split)[0]["image"] for split in ("train", "validation", datasets.UNLABELLED)]
    assert np.mean(first[0] != first[1]) > 0.9
    assert np.mean(first[0] != first[2]) > 0.9


def test_each_tile_is_reported(prepared):
    assert prepared[1] == ["train_0000", "train_0001", "train_0002", "validation_0000"] + [
        f"{datasets.UNLABELLED}_{i:04d}" for i in range(2)
    ]


def test_tensorflow_is_not_imported(prepared):
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"size": 0}, "size is 0 px"),
        ({"size": 48}, "size is 48 px"),
        ({"size": 100}, "multiple of 16"),
        ({"train": -1}, "train is -1 tiles"),
        ({"train": 0, "validation": 0, "test": 0, "unlabelled": 0}, "no tiles"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments_are_told(arguments, told):
    with pytest.raises(UserError, match=told):
        SyntheticConfig(**arguments)


def test_the_name_says_what_is_in_it():
    assert SyntheticConfig().name == "768px_16-4-4-4_seed0"


def test_a_dataset_that_tfds_alone_prepared_has_no_sizes_and_says_so(prepared):
    with pytest.raises(UserError, match=r"holds no sizes of tiles; .* prepare it anew"):
        datasets.frames_of(prepared[0])
