import itertools

import numpy as np
import pytest
import scipy.ndimage

from configs import default
from pcejax import label_tiles, points, scribbles
from pcejax.annotators import annotate
from pcejax.annotators import looked_at as looked_at_of
from pcejax.label_options import ANNOTATORS, DENSE, DRAWN, POINTS, label_options
from pcejax.legend import DEEPGLOBE, IGNORE

UNKNOWN = DEEPGLOBE.num_known


def random_mask(seed, shape=(48, 62)):
    """Patches of all classes, unknown and IGNORE."""
    noise = np.random.default_rng(seed).normal(size=(8, *shape))
    regions = scipy.ndimage.gaussian_filter(noise, (0, 3, 3)).argmax(0)
    return np.where(regions == 7, IGNORE, regions).astype(np.uint8)


def options_of(annotator, **fields):
    config = default.get_config().points.to_dict() | {"min_area": 5, "budget": 3, "block_px": 8}
    return label_options(config | {"annotator": annotator} | fields)


def clicks_on(mask):
    """A person's points, three of each class."""
    return points.draw(mask, "119", options_of("balanced"), DEEPGLOBE).points


def annotate_with(mask, annotator="balanced", factor=1, train_unknown=False, tile_id="119", **fields):
    return annotate(
        mask,
        tile_id,
        clicks_on(mask) if annotator == "file" else None,
        options_of(annotator, **fields),
        legend=DEEPGLOBE,
        factor=factor,
        train_unknown=train_unknown,
    )


@pytest.mark.parametrize("annotator", ANNOTATORS)
@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("shape", [(48, 62), (33, 46)])
def test_every_annotator_gives_a_label_tile_of_the_training_scale_in_known_classes(annotator, factor, shape):
    got = annotate_with(random_mask(0, shape), annotator, factor)
    assert got.label.shape == tuple(-(-n // factor) for n in shape)
    assert got.label.dtype == np.uint8
    assert got.class_weights.shape == (DEEPGLOBE.num_classes,)
    assert got.class_weights.dtype == np.float32
    taught = got.label[got.label != IGNORE]
    assert len(taught)
    assert taught.max() < UNKNOWN
    assert (got.points is not None) == (annotator in POINTS)
    assert (got.class_weights == 1).all() == (annotator != "dense_balanced")


@pytest.mark.parametrize("annotator", ANNOTATORS)
def test_at_native_resolution_what_is_taught_is_the_mask(annotator):
    for seed in range(3):
        mask = random_mask(seed)
        label = annotate_with(mask, annotator, tile_id=str(seed)).label
        np.testing.assert_array_equal(label[label != IGNORE], mask[label != IGNORE])


@pytest.mark.parametrize("annotator", ANNOTATORS)
def test_an_annotation_is_a_function_of_mask_tile_and_options(annotator):
    mask = random_mask(1)
    base = annotate_with(mask, annotator).label
    np.testing.assert_array_equal(annotate_with(mask.copy(), annotator).label, base)
    for other in ({"tile_id": "120"}, {"seed": 1}):
        same = (annotate_with(mask, annotator, **other).label == base).all()
        # A person's points are what they are; those of a file are ranked by the seed where it is read.
        assert same == (annotator in (*DENSE, "file"))


@pytest.mark.parametrize("annotator", ANNOTATORS)
@pytest.mark.parametrize("value", [UNKNOWN, IGNORE])
def test_a_tile_without_a_known_pixel_is_not_labelled(annotator, value):
    got = annotate_with(np.full((9, 13), value, np.uint8), annotator, 2)
    assert (got.label == IGNORE).all()
    assert (got.class_weights == 1).all()
    assert got.underfull == ()


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize(
    ("annotator", "fields"),
    [
        *itertools.product(POINTS, [{}, {"point_radius": 3}]),
        *itertools.product(
            DRAWN, [{"click_jitter_px": 3, "label_noise": 0.4, "min_distance_px": 5, "point_radius": 2}]
        ),
    ],
)
def test_label_tiles_of_smaller_budgets_are_parts_of_larger_ones(annotator, factor, fields):
    mask = random_mask(1)
    labels = [annotate_with(mask, annotator, factor, budget=budget, **fields).label for budget in range(1, 4)]
    for fewer, more in itertools.pairwise(labels):
        assert (fewer != IGNORE).sum() < (more != IGNORE).sum()
        np.testing.assert_array_equal(more[fewer != IGNORE], fewer[fewer != IGNORE])


@pytest.mark.parametrize("annotator", DRAWN)
def test_annotators_that_draw_points_give_the_points_and_their_label_tile(annotator):
    mask = random_mask(2)
    fields = {"budget": 5, "placement": "interior", "point_radius": 3}
    got = annotate_with(mask, annotator, 2, **fields)
    expected = points.draw(mask, "119", options_of(annotator, **fields), DEEPGLOBE)
    for values, others in zip(got.points, expected.points, strict=True):
        np.testing.assert_array_equal(values, others)
    np.testing.assert_array_equal(got.label, label_tiles.rasterise(expected.points, mask.shape, 2, 3))
    assert got.underfull == expected.underfull


@pytest.mark.parametrize("budget", [0, 2, 5])
def test_a_persons_points_are_taken_up_to_the_budget_of_each_class_whatever_the_mask_says(budget):
    mask = random_mask(2)
    clicks = clicks_on(mask)
    options = options_of("file", budget=budget, point_radius=3)
    rest = {"legend": DEEPGLOBE, "factor": 2, "train_unknown": False}
    got = annotate(np.full_like(mask, IGNORE), "119", clicks, options, **rest)
    taken = clicks.rank < (budget or 3)
    assert (np.bincount(got.points.class_id) == min(budget or 3, 3)).all()
    for values, others in zip(got.points, clicks, strict=True):
        np.testing.assert_array_equal(values, others[taken])
    np.testing.assert_array_equal(got.label, label_tiles.rasterise(got.points, mask.shape, 2, 3))
    # No class has five points.
    assert got.underfull == (tuple(range(UNKNOWN)) if budget == 5 else ())
    nothing = annotate(mask, "119", None, options, **rest)
    assert (nothing.label == IGNORE).all()
    assert len(nothing.points.row) == 0


@pytest.mark.parametrize(("annotator", "drawing"), [("scribble", scribbles.scribble), ("block", scribbles.block)])
def test_drawing_annotators_give_their_native_drawing_reduced(annotator, drawing):
    mask = random_mask(2)
    native = drawing(mask, "119", options_of(annotator), DEEPGLOBE)
    np.testing.assert_array_equal(annotate_with(mask, annotator, 2).label, label_tiles.gather(native, 2))


@pytest.mark.parametrize("annotator", ["dense", "dense_balanced"])
@pytest.mark.parametrize("train_unknown", [False, True])
def test_dense_labels_are_the_mask_with_unknown_as_asked(annotator, train_unknown):
    mask = random_mask(0)
    got = annotate_with(mask, annotator, train_unknown=train_unknown)
    hidden = mask == IGNORE if train_unknown else mask >= UNKNOWN
    np.testing.assert_array_equal(got.label, np.where(hidden, IGNORE, mask))
    for factor in (2, 4):
        reduced = annotate_with(mask, annotator, factor, train_unknown=train_unknown).label
        np.testing.assert_array_equal(reduced, label_tiles.thin(got.label, factor))


def test_balanced_weights_are_those_of_the_label_tile_that_is_taught():
    mask = random_mask(3)
    for factor in (1, 2):
        got = annotate_with(mask, "dense_balanced", factor)
        counts = np.bincount(got.label.ravel(), minlength=256)[:UNKNOWN]
        there = counts > 0
        product = (counts * got.class_weights[:UNKNOWN])[there]
        np.testing.assert_allclose(product, counts.sum() / there.sum(), rtol=1e-6)


# Points that are held out


@pytest.mark.parametrize("annotator", POINTS)
@pytest.mark.parametrize("held_out", [1, 2])
def test_points_held_out_are_the_last_of_the_budget_and_teach_nothing(annotator, held_out):
    mask = random_mask(1)
    for factor, radius in ((1, 0), (2, 3)):
        every = annotate_with(mask, annotator, factor, budget=3, point_radius=radius)
        fewer = annotate_with(mask, annotator, factor, budget=3 - held_out, point_radius=radius)
        got = annotate_with(mask, annotator, factor, budget=3, held_out=held_out, point_radius=radius)
        # To the last pixel what a budget without them teaches.
        np.testing.assert_array_equal(got.label, fewer.label)
        for name in points.Points._fields:
            taught, held, clicked = (getattr(p, name) for p in (got.points, got.held_out, every.points))
            np.testing.assert_array_equal(taught, getattr(fewer.points, name))
            np.testing.assert_array_equal(np.concatenate([taught, held]), clicked)  # counted in the budget
        assert len(got.held_out.row)
        assert (got.held_out.rank >= 3 - held_out).all()
        assert got.underfull == every.underfull
        assert len(every.held_out.row) == 0


@pytest.mark.parametrize("annotator", DRAWN)
def test_budgets_with_points_held_out_are_nested(annotator):
    fields = {"held_out": 2, "click_jitter_px": 3, "label_noise": 0.4, "min_distance_px": 4}
    nested = [annotate_with(random_mask(2), annotator, budget=budget, **fields) for budget in (3, 4, 6)]
    for fewer, more in itertools.pairwise(nested):
        small, large = (set(zip(*a.points, strict=True)) for a in (fewer, more))
        assert small < large
        held, clicked = set(zip(*fewer.held_out, strict=True)), large | set(zip(*more.held_out, strict=True))
        assert held
        assert held <= clicked
        assert not held & small


def test_of_all_a_persons_points_the_last_of_each_class_are_held_out_but_never_its_first():
    mask = random_mask(2)
    clicks = clicks_on(mask)
    kept = (clicks.class_id > 1) | (clicks.rank == 0) | ((clicks.class_id == 1) & (clicks.rank < 2))
    clicks = points.Points(*(values[kept] for values in clicks))
    counts = np.array([1, 2, 3, 3, 3, 3])
    np.testing.assert_array_equal(np.bincount(clicks.class_id), counts)
    for held_out in (1, 2, 5):
        options = options_of("file", budget=0, held_out=held_out)
        got = annotate(mask, "119", clicks, options, legend=DEEPGLOBE, factor=1, train_unknown=False)
        left = np.maximum(1, counts - held_out)
        np.testing.assert_array_equal(np.bincount(got.points.class_id, minlength=6), left)
        np.testing.assert_array_equal(np.bincount(got.held_out.class_id, minlength=6), counts - left)


def test_where_an_annotator_has_looked_are_the_labels_and_the_points_held_out():
    got = annotate_with(random_mask(1), budget=3, held_out=1, point_radius=2)
    looked_at = looked_at_of(got)
    at = (got.held_out.row, got.held_out.col)
    np.testing.assert_array_equal(looked_at[at], got.held_out.class_id)
    differs = looked_at != got.label
    assert differs.any()
    assert differs.sum() == differs[at].sum()
    dense = annotate_with(random_mask(1), "dense")
    np.testing.assert_array_equal(looked_at_of(dense), dense.label)
