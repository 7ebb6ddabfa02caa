from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from pcejax import datasets
from pcejax.datasets.context_scenes import draw_tile
from pcejax.datasets.landscape_scene import BARREN, FOREST, RANGELAND, UNKNOWN, URBAN, WATER
from pcejax.datasets.prepare import prepare_dataset
from pcejax.datasets.synthetic import SyntheticConfig
from pcejax.errors import UserError


@pytest.fixture(scope="module")
def clearings():
    """One on each of 400 tiles of 64 px: image, and the class of frame and core in either kind of scene."""
    drawn = []
    for index in range(400):
        image, ids = draw_tile(2, index, 64, informative=True)
        null_image, null_ids = draw_tile(2, index, 64, informative=False)
        np.testing.assert_array_equal(image, null_image)
        drawn.append((image, ids, null_ids))
    return drawn


def core_and_frame(ids):
    """The classes of the one core and the one frame."""
    (core,), (frame,) = (np.intersect1d(ids, pair) for pair in ((WATER, BARREN), (URBAN, FOREST)))
    return core, frame


@pytest.mark.parametrize("informative", [True, False])
def test_a_tile_is_a_function_of_its_arguments(informative):
    image, ids = draw_tile(3, 5, 192, informative=informative)
    again, ids_again = draw_tile(3, 5, 192, informative=informative)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(ids, ids_again)
    assert image.dtype == ids.dtype == np.uint8
    assert image.shape == (192, 192, 3)
    assert (draw_tile(3, 6, 192, informative=informative)[1] != ids).any()
    assert scipy.ndimage.label(np.isin(ids, (WATER, BARREN)))[1] == 9
    assert ids.max() < UNKNOWN


def test_in_context_scenes_the_frame_tells_the_core(clearings):
    told = [core_and_frame(ids) for _, ids, _ in clearings]
    assert set(told) == {(WATER, URBAN), (BARREN, FOREST)}


def test_in_their_twins_the_frame_tells_nothing(clearings):
    """Same images and frames; a test of independence at 1 %, with all four pairs about as frequent."""
    told = [core_and_frame(ids) for _, _, ids in clearings]
    counts = np.array([[told.count((core, frame)) for frame in (URBAN, FOREST)] for core in (WATER, BARREN)])
    assert counts.min() > 70
    assert scipy.stats.chi2_contingency(counts).pvalue > 0.01
    for (_, ids, null_ids), (core, _) in zip(clearings, told, strict=True):
        np.testing.assert_array_equal(np.where(np.isin(ids, (WATER, BARREN)), core, ids), null_ids)


def test_cores_of_both_classes_look_the_same(clearings):
    """Each core's mean colour and deviation: two samples that no test tells apart at 1 %."""
    looks = {WATER: [], BARREN: []}
    for image, ids, _ in clearings:
        core, _ = core_and_frame(ids)
        pixels = image[ids == core].astype(float)
        looks[core].append([*pixels.mean(0), *pixels.std(0)])
    for one, other in zip(np.transpose(looks[WATER]), np.transpose(looks[BARREN]), strict=True):
        assert scipy.stats.ks_2samp(one, other).pvalue > 0.01


def test_within_reach_of_a_shallow_net_no_core_has_its_frame(clearings):
    """A U-Net of depth 1 sees 9 px to each side; one more for the sensor's blur."""
    for _, ids, _ in clearings:
        near = scipy.ndimage.binary_dilation(np.isin(ids, (WATER, BARREN)), np.ones((3, 3)), iterations=10)
        assert np.isin(ids[near], (RANGELAND, WATER, BARREN)).all()
        far = scipy.ndimage.binary_dilation(np.isin(ids, (WATER, BARREN)), np.ones((3, 3)), iterations=14)
        assert np.isin(ids[far], (URBAN, FOREST)).any()


def test_they_are_prepared_beside_the_landscapes(tmp_path):
    sizes = {"size": 64, "num_train": 2, "num_validation": 1, "num_test": 0, "num_unlabelled": 0, "seed": 4}
    folder = prepare_dataset("synthetic_v1", tmp_path, scene="no_context", **sizes)
    assert folder == tmp_path / "synthetic_v1" / "no_context_64px_2-1-0-0_seed4" / "1.0.0"
    tiles = datasets.open_dataset("synthetic_v1/no_context_64px_2-1-0-0_seed4", tmp_path).as_data_source("train")
    np.testing.assert_array_equal(tiles[1]["mask"][..., 0], draw_tile(4, 1, 64, informative=False)[1])


def test_another_scene_is_refused():
    with pytest.raises(UserError, match="scene is 'city'; expected one of: landscape, context, no_context"):
        SyntheticConfig(scene="city")
