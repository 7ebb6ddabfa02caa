import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs_for_tests import config_of, prepare, state_of

from pcejax import cached_features, datasets, feature_cache, models, runs, tiles, train
from pcejax.checkpoints import Checkpoints
from pcejax.errors import UserError
from pcejax.legend import IGNORE

RECIPE = {
    "model.encoder": "efficientnet-lite0",
    "model.pretrained": False,
    "model.depth": 2,
    "model.scales": (1, 2),
    "model.frozen_stages": 2,
    "model.frozen_statistics": True,
    "model.decoder": "none",
    "model.width": 8,
    "model.norm": "batch",
    "data.cached_views": 3,
    "data.crop": 48,
    "train.batch_size": 16,
}
"""Windows of 48 pixels, three a side of a tile."""


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    prepare(folder := tmp_path_factory.mktemp("data"))
    return folder


def recipe(data_dir, **overrides):
    return config_of(data_dir, **(RECIPE | {"data.cache_dir": str(data_dir / "cache")} | overrides))


def computed(config, progress=None, cache=None):
    """With a cache of its own, or in the folder `cache`."""
    with tempfile.TemporaryDirectory() as own, config.unlocked():
        config.data.cache_dir = str(cache or own)
        return _computed(config, progress)


def _computed(config, progress):
    tile_set = tiles.load(config)
    model = models.create_model(config.model, 6)
    variables = state_of(config, 6).ema_variables()
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])  # variances
    on_tile = (lambda *at: progress.append(at)) if progress is not None else (lambda *_: None)
    cached, dims = cached_features.compute(config, tile_set, model, variables, datasets.RGB, on_tile)
    return tile_set, model, variables, cached, dims


UNMOVED = {"augment.dihedral_moves": False, "augment.brightness": 0.0, "augment.color": 0.0, "augment.contrast": 0.0}


def test_a_view_that_moves_nothing_is_what_the_encoder_sees_of_each_labelled_pixel(data_dir):
    """A whole tile in one window, where the order of pixels is theirs."""
    config = recipe(data_dir, **UNMOVED, **{"data.crop": 96, "data.cached_views": 1})
    tile_set, model, variables, cached, dims = computed(config)
    assert dims == (16, 24 + 16, 24)
    for image, label, features, classes in zip(
        tile_set.images, tile_set.labels, cached.images, cached.labels, strict=True
    ):
        levels = model.apply(variables, tiles.scale_image(image[None]), train=False, method="levels")
        wide = [jax.image.resize(x[0], (96, 96, x.shape[-1]), "bilinear") for x in levels if x is not None]
        at = np.nonzero(label != IGNORE)
        expected = jnp.concatenate(wide, -1)[at]
        np.testing.assert_allclose(features[:, 0], expected, rtol=1e-3, atol=1e-3 * float(jnp.abs(expected).max()))
        np.testing.assert_array_equal(classes[:, 0], label[at])


@pytest.mark.parametrize("crop", [48, 96])
def test_each_view_of_a_tile_has_each_of_its_labelled_pixels_once(data_dir, crop):
    progress = []
    tile_set, _, _, cached, dims = computed(recipe(data_dir, **{"data.crop": crop}), progress)
    assert cached.tile_ids == [tile_id for tile_id in tile_set.tile_ids for _ in range(3)]
    assert progress == [(1, 3), (2, 3), (3, 3)]
    for index, (image, label) in enumerate(zip(cached.images, cached.labels, strict=True)):
        whole = tile_set.labels[index // 3]
        assert sorted(label[:, 0]) == sorted(whole[whole != IGNORE])
        assert (image.shape, image.dtype) == ((len(label), 1, sum(dims)), np.float32)
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(cached.weights[index], tile_set.weights[index // 3])


def test_a_tile_smaller_than_a_window_is_seen_as_its_map_is(data_dir):
    """By one window that goes beyond it, reflected: points keep their places, and the run ends with a map."""
    tile_set, model, variables, cached, _ = computed(
        recipe(data_dir, **UNMOVED, **{"data.crop": 128, "data.cached_views": 1})
    )
    image, label = tile_set.images[0], tile_set.labels[0]
    whole = np.concatenate([image, image[::-1]])
    whole = np.concatenate([whole, whole[:, ::-1]], 1)[None, :128, :128]
    levels = model.apply(variables, tiles.scale_image(whole), train=False, method="levels")
    wide = [jax.image.resize(x[0], (128, 128, x.shape[-1]), "bilinear") for x in levels if x is not None]
    at = np.nonzero(label != IGNORE)
    expected = jnp.concatenate(wide, -1)[at]
    atol = 1e-3 * float(jnp.abs(expected).max())
    np.testing.assert_allclose(cached.images[0][:, 0], expected, rtol=1e-3, atol=atol)
    np.testing.assert_array_equal(cached.labels[0][:, 0], label[at])


def test_views_differ_and_are_the_same_in_each_run_of_a_seed(data_dir):
    *_, first, _ = computed(recipe(data_dir))
    *_, again, _ = computed(recipe(data_dir))
    *_, other, _ = computed(recipe(data_dir, seed=1))
    for one, same in zip(first.images, again.images, strict=True):
        np.testing.assert_array_equal(one, same)
    assert not np.allclose(first.images[0], first.images[1], rtol=1e-2)
    assert not np.allclose(first.images[0], other.images[0], rtol=1e-2)


def test_a_pixel_alone_gets_the_logits_that_it_has_in_its_image(data_dir):
    """Where nothing changes from pixel to pixel, interpolation is none."""
    config = recipe(data_dir)
    model, variables = models.create_model(config.model, 6), state_of(config, 6).ema_variables()
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    image = jnp.full((1, 96, 96, 3), 0.3)
    levels = model.apply(variables, image, train=False, method="levels")
    whole = model.apply(variables, image, train=False)[0, 48, 48]
    middle = jnp.concatenate([x[:, x.shape[1] // 2, x.shape[1] // 2] for x in levels if x is not None], -1)
    dims = tuple(x.shape[-1] for x in levels if x is not None)
    alone = models.create_model(config.model, 6, cached=dims).apply(variables, middle[:, None, None], train=False)
    assert alone.shape == (1, 1, 1, 6)
    np.testing.assert_allclose(alone[0, 0, 0], whole, rtol=1e-4, atol=1e-4)


def test_a_dense_mask_gives_some_pixels_of_each_class(data_dir, monkeypatch):
    monkeypatch.setattr(cached_features, "MAX_PIXELS", 7)
    config = recipe(data_dir, **{"points.annotator": "dense"})
    tile_set, _, _, cached, _ = computed(config)
    for index, label in enumerate(cached.labels):
        classes, counts = np.unique(label, return_counts=True)
        there, whole = np.unique(tile_set.labels[index // 3], return_counts=True)
        known = there != IGNORE
        np.testing.assert_array_equal(classes, there[known])
        np.testing.assert_array_equal(counts, np.minimum(whole[known], 7))


def test_all_points_teach_however_many_a_class_has(data_dir, monkeypatch):
    monkeypatch.setattr(cached_features, "MAX_PIXELS", 2)
    tile_set, _, _, cached, _ = computed(recipe(data_dir, **{"points.budget": 6}))
    for index, label in enumerate(cached.labels):
        assert len(label) == (tile_set.labels[index // 3] != IGNORE).sum() > 2 * len(np.unique(label))


def test_what_one_run_computed_no_other_computes_again(data_dir, tmp_path, monkeypatch):
    """Points are nested: the more have the fewer, and what is kept is as it would have been alone."""
    few, many = (recipe(data_dir, **{"points.budget": budget}) for budget in (2, 4))
    *_, alone, _ = computed(few)
    *_, whole, _ = computed(many)
    first = computed(few, cache=tmp_path)[3]
    asked = []
    features = cached_features._features
    monkeypatch.setattr(cached_features, "_features", lambda *a: asked.append(a[-1].size) or features(*a))
    then, again = computed(many, cache=tmp_path)[3], computed(few, cache=tmp_path)[3]
    assert asked == [len(whole.images[3 * tile]) - len(alone.images[3 * tile]) for tile in range(3)]
    for found, expected in ((first, alone), (then, whole), (again, alone)):
        for name in ("images", "labels"):
            for one, same in zip(getattr(found, name), getattr(expected, name), strict=True):
                np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"data.cached_views": 2},
        {"data.crop": 64},
        {"inference.overlap": 8},
        {"augment.brightness": 0.4},
        {"model.scales": (1, 4)},
        {"model.dtype": "bfloat16"},
    ],
    ids=str,
)
def test_features_seen_otherwise_are_computed_anew(data_dir, tmp_path, change):
    computed(recipe(data_dir), cache=tmp_path)
    kept = {*tmp_path.rglob("*.npz")}
    assert len(kept) == 3
    *_, found, _ = computed(recipe(data_dir, **change), cache=tmp_path)
    *_, alone, _ = computed(recipe(data_dir, **change))
    assert len({*tmp_path.rglob("*.npz")} - kept) == 3
    for one, same in zip(found.images, alone.images, strict=True):
        np.testing.assert_array_equal(one, same)


def test_a_tile_without_a_label_has_no_pixel(data_dir, tmp_path):
    config = recipe(data_dir)
    tile_set = tiles.load(config)
    tile_set.labels[1] = np.full_like(tile_set.labels[1], IGNORE)
    model, variables = models.create_model(config.model, 6), state_of(config, 6).ema_variables()
    with config.unlocked():
        config.data.cache_dir = str(tmp_path)
    cached, dims = cached_features.compute(config, tile_set, model, variables, datasets.RGB, lambda *_: None)
    assert cached.images[3].shape == (0, 1, sum(dims))
    assert cached.labels[3].shape == (0, 1)


def test_a_file_of_features_that_is_not_whole_says_what_to_do(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"a.npz: cannot be read: .*; remove it, and it is computed again"):
        feature_cache.gather(path, np.arange(2), lambda pixels: np.zeros((1, pixels.size, 3), np.float32))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"b.npz: cannot be written: .*; free some space, or set data.cache_dir"):
        feature_cache.gather(
            tmp_path / "file" / "b.npz", np.arange(2), lambda pixels: np.zeros((1, pixels.size, 3), np.float32)
        )


def test_a_window_has_the_pixels_that_it_holds_farthest_inside():
    np.testing.assert_array_equal(cached_features._owner([0, 4], 10, 6), [0] * 5 + [1] * 5)
    np.testing.assert_array_equal(cached_features._owner([0], 3, 3), [0] * 3)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("model.frozen_stages", 1, "expected 2"),
        ("model.frozen_statistics", False, "expected True"),
        ("model.decoder", "convolutions", "expected 'none'"),
        ("model.dropout", 0.1, "expected 0.0"),
        ("loss.entropy.weight", 0.1, "expected 0.0"),
        ("data.unlabelled_share", 0.5, "expected 0.0"),
    ],
)
def test_what_cannot_be_computed_once_is_refused_before_anything_starts(data_dir, tmp_path, field, value, told):
    with pytest.raises(UserError, match=rf"{field}={value!r} with data.cached_views=3; {told}"):
        train.train_and_evaluate(recipe(data_dir, **{field: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=r"data.cached_views=-1; expected 1 or more, or 0"):
        train.train_and_evaluate(recipe(data_dir, **{"data.cached_views": -1}), tmp_path / "run")


@pytest.mark.parametrize("crop", [48, 128])
def test_a_run_learns_from_pixels_and_goes_on_where_it_was_cut(data_dir, tmp_path, monkeypatch, crop):
    """Tiles of 96 pixels, larger than a window or smaller."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    steps = {"train.num_steps": 6, "train.checkpoint_every_steps": 3, "train.log_every_steps": 1}
    config = recipe(data_dir, **steps, **{"data.crop": crop, "inference.window": crop})
    result = train.train_and_evaluate(config, whole)
    assert result["protocol"] == "across"
    saved = Checkpoints.save

    def stop(self, *args):
        saved(self, *args)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        train.train_and_evaluate(config, cut)
    monkeypatch.setattr(Checkpoints, "save", saved)
    again = train.train_and_evaluate(config, cut)
    assert again["confusion_matrix"] == result["confusion_matrix"]
    assert (cut / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert runs.read_config(cut) == runs.read_config(whole)
