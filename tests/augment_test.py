import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from configs import default
from pcejax import augment as augment_module
from pcejax.augment import augment, dihedral, photometric
from pcejax.errors import UserError
from pcejax.legend import IGNORE

SIZE = 6
LIGHT = ("brightness", "color", "contrast", "hue", "blur")
views_of = functools.partial(jax.jit, static_argnames=("dihedral_moves", *LIGHT))(augment)
STILL = {"dihedral_moves": True, "brightness": 0.0, "color": 0.0}


def run(*arguments, **options):
    """The view that a model learns from: image and label."""
    return views_of(*arguments, **options)[:2]


def keys_of(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def random_crops(count, seed=0):
    """Images in [0, 1] and labels, half of them IGNORE."""
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 3, 5, IGNORE, IGNORE, IGNORE], (count, SIZE, SIZE)).astype(np.uint8)
    return jnp.asarray(rng.random((count, SIZE, SIZE, 3)), jnp.float32), jnp.asarray(label)


def square_group():
    """The eight flips and turns of a square by NumPy's own functions, of an image without symmetry, as bytes."""
    plain = np.arange(SIZE * SIZE).reshape(SIZE, SIZE)
    return plain, {np.rot90(image, turns).tobytes() for image in (plain, plain.T) for turns in range(4)}


def test_the_eight_elements_are_the_symmetries_of_a_square():
    plain, group = square_group()
    views = dihedral(jnp.tile(plain, (8, 1, 1)), jnp.arange(8))
    assert len(group) == 8
    assert {np.asarray(view, plain.dtype).tobytes() for view in views} == group
    np.testing.assert_array_equal(views[0], plain)


def test_two_moves_after_each_other_are_one_of_the_eight():
    plain, group = square_group()
    first, second = jnp.array(list(itertools.product(range(8), range(8)))).T
    views = dihedral(dihedral(jnp.tile(plain, (64, 1, 1)), first), second)
    composed = [np.asarray(view, plain.dtype).tobytes() for view in views]
    # Every row and every column of the group's table holds each element once.
    for element in range(8):
        assert set(composed[element * 8 : element * 8 + 8]) == group
        assert set(composed[element::8]) == group


def test_image_and_label_move_together():
    _, label = random_crops(40)
    image = jnp.repeat(label[..., None].astype(jnp.float32) / 255, 3, -1)
    moved_image, moved_label = run(keys_of(40), image, label, **STILL)
    np.testing.assert_array_equal(np.rint(np.asarray(moved_image) * 255)[..., 0], moved_label)
    assert (np.asarray(moved_label) != np.asarray(label)).any((1, 2)).sum() > 20


@pytest.mark.parametrize("dihedral_moves", [False, True])
def test_labels_keep_their_values_and_type(dihedral_moves):
    image, label = random_crops(20)
    _, moved = run(keys_of(20), image, label, dihedral_moves=dihedral_moves, brightness=0.5, color=0.5)
    assert moved.dtype == jnp.uint8
    for before, after in zip(np.asarray(label), np.asarray(moved), strict=True):
        np.testing.assert_array_equal(np.bincount(before.ravel()), np.bincount(after.ravel()))
        if not dihedral_moves:
            np.testing.assert_array_equal(before, after)


def test_all_eight_views_are_taken_alike():
    plain, group = square_group()
    label = jnp.tile(plain.astype(np.uint8), (1600, 1, 1))
    _, moved = run(keys_of(1600), jnp.zeros((1600, SIZE, SIZE, 3)), label, **STILL)
    views = [np.asarray(view, plain.dtype).tobytes() for view in np.asarray(moved)]
    counts = np.array([views.count(view) for view in group])
    # 200 expected of each; chi-square with 7 degrees of freedom is above 30 once in 10,000 times.
    assert ((counts - 200) ** 2 / 200).sum() < 30


def test_a_crops_view_depends_on_its_key_alone():
    config = default.get_config().augment
    image, label = random_crops(1)
    images, labels = jnp.repeat(image, 8, 0), jnp.repeat(label, 8, 0)
    keys, order = keys_of(8), np.array([5, 2, 7, 0, 1, 6, 3, 4])
    views, view_labels = run(keys, images, labels, **config)
    assert len(np.unique(np.asarray(views), axis=0)) == 8
    moved, moved_labels = run(keys[order], images, labels, **config)
    np.testing.assert_array_equal(moved, views[order])
    np.testing.assert_array_equal(moved_labels, view_labels[order])
    # Nor on what else is in the batch, or how many.
    others, other_labels = random_crops(3, seed=1)
    mixed, mixed_labels = run(
        keys[jnp.array([1, 2, 0, 3])],
        jnp.concatenate([others[:2], image, others[2:]]),
        jnp.concatenate([other_labels[:2], label, other_labels[2:]]),
        **config,
    )
    np.testing.assert_allclose(mixed[2], views[0], rtol=1e-6)
    np.testing.assert_array_equal(mixed_labels[2], view_labels[0])


def test_geometry_does_not_depend_on_photometry():
    image, label = random_crops(8)
    _, plain = run(keys_of(8), image, label, **STILL)
    _, bright = run(keys_of(8), image, label, dihedral_moves=True, brightness=0.3, color=0.3)
    np.testing.assert_array_equal(plain, bright)


def test_all_views_of_a_crop_have_one_geometry_and_each_its_own_light():
    image, label = random_crops(8)
    still = views_of(keys_of(8), image, label, **STILL)
    views = views_of(keys_of(8), image, label, dihedral_moves=True, brightness=0.3, color=0.3)
    np.testing.assert_array_equal(views.plain, still.image)
    np.testing.assert_array_equal(still.other, still.image)
    np.testing.assert_array_equal(views.label, still.label)
    # A factor on each band of a crop, where nothing was clipped: the same pixels in another light.
    factors = []
    for view in (views.image, views.other):
        inside = (view < 1) & (views.plain > 0.05)
        ratio = jnp.where(inside, view / views.plain, jnp.nan)
        assert float(jnp.nanmax(ratio, (1, 2)).max() - jnp.nanmin(ratio, (1, 2)).min()) > 0.1
        np.testing.assert_allclose(jnp.nanmax(ratio, (1, 2)), jnp.nanmin(ratio, (1, 2)), rtol=1e-4)
        factors.append(jnp.nanmean(ratio, (1, 2)))
    assert float(jnp.abs(factors[0] - factors[1]).min()) > 1e-3


def test_no_augmentation_is_the_identity():
    image, label = random_crops(8)
    new_image, new_label = run(keys_of(8), image, label, dihedral_moves=False, brightness=0.0, color=0.0)
    np.testing.assert_array_equal(new_image, image)
    np.testing.assert_array_equal(new_label, label)


@pytest.mark.parametrize(("brightness", "color"), [(0.2, 0.1), (5.0, 0.0), (0.0, 5.0)])
def test_images_stay_in_their_range(brightness, color):
    image, _ = random_crops(50)
    image = image.at[:, 0].set(0.0).at[:, 1].set(1.0)
    new = np.asarray(photometric(keys_of(50), image, brightness=brightness, color=color))
    assert new.min() >= 0
    assert new.max() <= 1
    assert new.dtype == np.float32
    assert (new[:, 0] == 0).all()


@pytest.mark.parametrize(("brightness", "color"), [(0.3, 0.0), (0.0, 0.2), (0.3, 0.2)])
def test_factors_are_one_of_all_bands_and_one_of_each_within_their_bounds(brightness, color):
    # Dark enough that nothing is clipped: the quotient of new and old is the factor.
    image = jnp.full((400, 2, 2, 3), 0.1)
    new = np.asarray(photometric(keys_of(400), image, brightness=brightness, color=color))
    exponent = np.log(new / 0.1)
    np.testing.assert_allclose(exponent, np.broadcast_to(exponent[:, :1, :1], exponent.shape), atol=1e-5)
    exponent = exponent[:, 0, 0]
    largest = np.abs(exponent).max()
    assert 0.8 * (brightness + color) < largest <= brightness + color + 1e-5
    spread = np.ptp(exponent, axis=1)
    assert spread.max() <= 2 * color + 1e-5
    assert spread.max() >= color * 1.5
    assert abs(exponent.mean()) < 0.05 * (1 + brightness)


DULL = {"brightness": 0.0, "color": 0.0}


def test_contrast_scales_the_distance_from_each_bands_mean():
    image, _ = random_crops(60)
    image = 0.4 + 0.1 * image
    new = np.asarray(photometric(keys_of(60), image, **DULL, contrast=0.5))
    old, centre = np.asarray(image), np.asarray(image).mean((1, 2), keepdims=True)
    factor = (new - centre).std((1, 2, 3)) / (old - centre).std((1, 2, 3))
    np.testing.assert_allclose(new, centre + factor[:, None, None, None] * (old - centre), atol=1e-5)
    assert 0.4 < np.abs(np.log(factor)).max() <= 0.5 + 1e-5
    assert abs(np.log(factor).mean()) < 0.15


def test_hue_turns_colours_about_grey_and_leaves_grey():
    image, _ = random_crops(60)
    image = 0.4 + 0.1 * image
    image = image.at[:, 0].set(image[:, 0, :, :1])
    new, old = np.asarray(photometric(keys_of(60), image, **DULL, hue=0.1)), np.asarray(image)
    np.testing.assert_allclose(new[:, 0], old[:, 0], atol=1e-5)
    np.testing.assert_allclose(new.sum(-1), old.sum(-1), atol=1e-5)
    colour, new_colour = (x[:, 1:] - x[:, 1:].mean(-1, keepdims=True) for x in (old, new))
    cosine = (colour * new_colour).sum((1, 2, 3)) / (colour**2).sum((1, 2, 3))
    np.testing.assert_allclose((new_colour**2).sum(-1), (colour**2).sum(-1), atol=1e-5)
    turns = np.arccos(np.clip(cosine, -1, 1)) / (2 * np.pi)
    assert 0.08 < turns.max() <= 0.1 + 1e-3


def test_hue_needs_three_bands():
    with pytest.raises(UserError, match=r"augment.hue=0.1 on 5 bands; expected three"):
        photometric(keys_of(2), jnp.zeros((2, 4, 4, 5)), **DULL, hue=0.1)


def test_blur_is_a_gaussian_of_some_width_on_its_share_of_the_images():
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.random((80, 12, 12, 1)), jnp.float32)
    new = np.asarray(photometric(keys_of(80), image, **DULL, blur=0.5))
    changed = np.abs(new - np.asarray(image)).max((1, 2, 3)) > 1e-3
    assert 25 < changed.sum() < 55
    np.testing.assert_allclose(new[~changed], np.asarray(image)[~changed], atol=1e-3)
    widths = np.linspace(0.1, augment_module.MAX_BLUR, 141)
    for before, after in zip(np.asarray(image)[changed], new[changed], strict=True):
        errors = [
            np.abs(scipy.ndimage.gaussian_filter(before[..., 0], width, mode="nearest", radius=3) - after[..., 0]).max()
            for width in widths
        ]
        assert min(errors) < 1e-2
