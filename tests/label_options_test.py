import json

import ml_collections
import numpy as np
import pytest

from configs import default
from pcejax.errors import UserError
from pcejax.label_options import ANNOTATORS, DENSE, POINTS, LabelOptions, confusion, describe, label_options
from pcejax.legend import DEEPGLOBE

KNOWN = DEEPGLOBE.num_known


def options_of(**overrides):
    return label_options(default.get_config().points.to_dict() | overrides)


def test_the_options_are_the_fields_of_the_config():
    config = default.get_config()
    options = label_options(config.points)
    assert options._asdict() == config.points.to_dict()
    assert set(LabelOptions._fields) == set(config.points)
    # And as a run's config.json gives them back.
    assert label_options(ml_collections.ConfigDict(json.loads(config.to_json())).points)[:-5] == options[:-5]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"annotator": "balancd"}, r"points.annotator='balancd'; expected one of .*'uniform', 'balanced', .*'dense'"),
        ({"placement": "inside"}, r"points.placement='inside'; expected one of \['random', 'interior', 'boundary'\]"),
        ({"budget": 0}, "points.budget=0; expected 1 or more"),
        ({"budget": -3, "annotator": "uniform"}, "points.budget=-3"),
        ({"held_out": -1}, "points.held_out=-1; expected 0 or more"),
        ({"held_out": 5, "budget": 5}, "points.held_out=5 of points.budget=5; expected fewer than the budget"),
        ({"held_out": 1, "budget": 1}, "points.held_out=1 of points.budget=1; expected fewer than the budget"),
        ({"boundary_px": 0}, "points.boundary_px=0; expected 1 or more"),
        ({"min_distance_px": -1}, "points.min_distance_px=-1; expected 0 or more"),
        ({"min_area": 0}, "points.min_area=0; expected 1 or more"),
        ({"click_jitter_px": -1}, "points.click_jitter_px=-1; expected 0 or more"),
        ({"label_noise": -0.1}, "points.label_noise=-0.1; expected 0 or more"),
        ({"label_noise": 1.1}, "points.label_noise=1.1; expected a share"),
        ({"label_noise": float("nan")}, "points.label_noise=nan; expected"),
        ({"point_radius": -2}, "points.point_radius=-2; expected 0 or more"),
        ({"scribble_width": 0}, "points.scribble_width=0; expected 1 or more"),
        ({"scribble_share": 0.0}, "points.scribble_share=0.0; expected a share"),
        ({"scribble_share": 1.5}, "points.scribble_share=1.5; expected a share"),
        ({"block_px": 0}, "points.block_px=0; expected 1 or more"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_was_got_and_expected(fields, told):
    with pytest.raises(UserError, match=told):
        options_of(**fields)


@pytest.mark.parametrize("annotator", [name for name in ANNOTATORS if name not in POINTS])
@pytest.mark.parametrize(
    "field",
    [
        {"held_out": 1},
        {"placement": "interior"},
        {"min_distance_px": 5},
        {"click_jitter_px": 2},
        {"label_noise": 0.1},
        {"point_radius": 3},
    ],
    ids=str,
)
def test_what_an_annotator_would_not_do_is_refused(annotator, field):
    options_of(annotator=annotator)
    with pytest.raises(
        UserError, match=rf"points.{next(iter(field))}=.* does nothing for points.annotator='{annotator}'"
    ):
        options_of(annotator=annotator, **field)
    options_of(annotator="uniform", **field)


def test_confusion_is_uniform_over_the_other_classes_unless_given():
    matrix = confusion(options_of(), DEEPGLOBE)
    np.testing.assert_allclose(matrix, (1 - np.eye(KNOWN)) / (KNOWN - 1))
    given = np.roll(np.eye(KNOWN), 1, 1) * 3 + np.roll(np.eye(KNOWN), 2, 1)
    matrix = confusion(options_of(label_confusion=given.tolist()), DEEPGLOBE)
    np.testing.assert_allclose(matrix, given / 4)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda m: m[:-1], "6 rows of 6 values"),
        (lambda m: [row[:-1] for row in m], "6 rows of 6 values"),
        (lambda m: [m[0][:2], *m[1:]], "6 rows of 6 values"),
        (lambda m: (1, 2), "6 rows of 6 values"),
        (lambda m: (("a",),), "6 rows of 6 values"),
        (lambda m: [[1.0] * 6, *m[1:]], "0 on the diagonal"),
        (lambda m: [[0.0] * 6, *m[1:]], "not all 0 in a row"),
        (lambda m: [[0, -1, 2, 0, 0, 0], *m[1:]], "values of 0 or more"),
        (lambda m: [[0, float("nan"), 2, 0, 0, 0], *m[1:]], "values of 0 or more"),
    ],
)
def test_another_confusion_matrix_is_refused(change, told):
    matrix = change((1 - np.eye(KNOWN)).tolist())
    with pytest.raises(UserError, match=rf"points.label_confusion=.*{told}"):
        confusion(options_of(label_confusion=matrix), DEEPGLOBE)


def test_the_budget_is_told_with_its_unit():
    assert describe(options_of(annotator="uniform", budget=5)) == "5 points per tile"
    assert describe(options_of(budget=10)) == "10 points per class and tile"
    assert describe(options_of(budget=10, held_out=2)) == "10 points per class and tile, the last 2 held out"
    component = describe(options_of(annotator="component", budget=2, placement="interior", click_jitter_px=3))
    assert component.startswith("2 points per connected component of at least 400 px, interior")
    assert "3 px off" in component
    told = [describe(options_of(annotator=name)) for name in ANNOTATORS]
    assert len(set(told)) == len(ANNOTATORS)
    assert all("dense" in describe(options_of(annotator=name)) for name in DENSE)
