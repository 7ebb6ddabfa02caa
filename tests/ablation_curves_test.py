import ablations_for_tests as made_up
import numpy as np
import pytest

from pcejax import ablation_curves
from pcejax.ablation_results import Arm, Run


def setting_of(miou, hours=1.0, **levels):
    return {
        "levels": levels,
        "miou": miou,
        "interval": [miou - 0.1, miou + 0.1],
        "iou": {"urban": miou, "forest": None, "water": 0.5, "road": 0.1},
        "iou_interval": {"urban": [0.1, 0.9], "forest": None, "water": None, "road": None},
        "annotator_hours": hours,
    }


BUDGETS = {"30": 30, "3": 3, "dense": None}
ABOUT = made_up.about_of(
    "x",
    {"model": ["a", "b"], "points": list(BUDGETS)},
    [],
    budget_axis="points",
    budgets=BUDGETS,
    references={"dense": "dense"},
)


def curves(models=("a", "b")):
    settings = [
        setting_of(0.1 * place + score, hours, model=model, points=points)
        for place, model in enumerate(models)
        for points, score, hours in (("30", 0.6, 4.0), ("3", 0.4, 0.5), ("dense", 0.7, 9.0))
    ]
    return ablation_curves.curves_of(ABOUT, {"settings": settings})


def single_of(found):
    return {
        f"model={curve.held['model']}, points={point['levels']['points']}": [point["miou"] - 0.02, point["miou"] + 0.02]
        for curve in found
        for point in curve.settings
    }


def arm_of(tiles, points, clicks, annotator="balanced"):
    told = {"annotator": annotator, "num_tiles": tiles, "point_counts": {"urban": clicks}}
    return Arm("", None, "", Run({"tiles": str(tiles), "points": points}, 0, 0, {}, 0.0), 0.5, "", "", told, {}, {})


def test_a_curve_has_its_budgets_in_order_and_its_references_apart():
    first, second = curves()
    assert (first.held, second.held) == ({"model": "a"}, {"model": "b"})
    assert first.budgets == [3, 30]
    assert [found["miou"] for found in first.settings] == [0.4, 0.6]
    assert first.references["dense"]["miou"] == 0.7


def test_one_budget_is_no_curve():
    about = ABOUT | {"budgets": {"3": 3, "dense": None}}
    assert ablation_curves.curves_of(about, {"settings": [setting_of(0.4, points="3")]}) == []
    assert ablation_curves.curves_of(made_up.about_of("x", {"loss": ["a"]}, []), {"settings": []}) == []


def lines_of(axes):
    """x and y of every line that joins points."""
    drawn = [line for line in axes.lines if line.get_linestyle() == "-" and line.get_marker() not in (".", "None")]
    return [(line.get_xdata(), line.get_ydata()) for line in drawn]


def test_one_curve_is_drawn_at_its_budgets_with_band_runs_and_reference():
    found = curves(["a"])
    figure, caption = ablation_curves.over_budget(found, single_of(found), [], "points per tile")
    (axes,) = figure.axes
    ((x, y),) = lines_of(axes)
    np.testing.assert_allclose(x, [3, 30])
    np.testing.assert_allclose(y, [0.4, 0.6])
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel() == "points per tile"
    dots = [line for line in axes.lines if line.get_marker() == "."]
    np.testing.assert_allclose(np.concatenate([line.get_ydata() for line in dots]), [0.38, 0.42, 0.58, 0.62])
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [0.7]
    assert [text.get_text() for text in figure.legends[0].texts] == ["model=a", "dense"]
    assert "Horizontal" in caption
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((0.3, 0.7))


def test_curves_lie_apart_by_less_than_budgets_do():
    found = curves()
    (axes,) = ablation_curves.over_budget(found, single_of(found), [], "points").figure.axes
    (first, _), (second, _) = lines_of(axes)
    assert (first < second).all()
    np.testing.assert_allclose(second / first, 1.03)
    np.testing.assert_allclose(np.sqrt(first * second), [3, 30])


def test_the_fitted_curve_is_drawn_by_its_formula():
    found = curves(["a"])
    fit = {"held": {"model": "a"}, "limit": 0.9, "shape": {"drop": 0.8, "rate": 0.5}}
    figure, caption = ablation_curves.over_budget(found, single_of(found), [fit], "points")
    thin = next(line for line in figure.axes[0].lines if line.get_linewidth() == 0.8)
    x = thin.get_xdata()
    assert (x[0], x[-1]) == pytest.approx((3, 30))
    np.testing.assert_allclose(thin.get_ydata(), 0.9 - 0.8 / np.sqrt(x))
    assert "levels off" in caption
    no_fit = ablation_curves.over_budget(found, single_of(found), [fit | {"limit": None, "shape": {}}], "points")
    assert "levels off" not in no_fit.caption


def test_over_hours_settings_and_references_stand_at_their_hours():
    found = curves(["a"])
    (axes,) = ablation_curves.over_hours(found, single_of(found)).figure.axes
    ((x, y),) = lines_of(axes)
    np.testing.assert_allclose(x, [0.5, 4.0])
    np.testing.assert_allclose(y, [0.4, 0.6])
    reference = next(line for line in axes.lines if line.get_marker() == "s")
    assert (reference.get_xdata()[0], reference.get_ydata()[0]) == (9.0, 0.7)


def test_every_class_has_a_panel_also_one_that_is_absent():
    figure = ablation_curves.by_class(curves(), "points").figure
    assert [axes.get_title() for axes in figure.axes] == ["urban", "forest: absent", "water", "road"]
    for axes, value in zip(figure.axes, (0.4, np.nan, 0.5, 0.1), strict=True):
        np.testing.assert_allclose(lines_of(axes)[0][1][0], value)


def test_tiles_are_an_axis_where_it_alone_decides_them():
    about = ABOUT | {"axes": {"tiles": ["4", "16"], "points": list(BUDGETS)}}
    arms = [arm_of(tiles, points, 1) for tiles in (4, 16) for points in ("3", "30")]
    assert ablation_curves.tiles_of(about, arms) == {"4": 4, "16": 16}
    alike = [arm._replace(points=arm.points | {"num_tiles": 4}) for arm in arms]
    assert ablation_curves.tiles_of(about, alike) == {}
    mixed = [arm._replace(points=arm.points | {"num_tiles": index}) for index, arm in enumerate(arms)]
    assert ablation_curves.tiles_of(about, mixed) == {}


def test_iso_cost_lines_are_where_the_hours_are_equal():
    about = ABOUT | {"axes": {"tiles": ["4", "16"], "points": list(BUDGETS)}, "seconds": {"click": 2.0, "tile": 10.0}}
    arms = [
        arm_of(tiles, points, 5 * tiles * BUDGETS[points]) for tiles in (4, 16) for points in ("3", "30")
    ]  # five clicks for a point of the budget
    settings = [setting_of(0.5, tiles=str(tiles), points=points) for tiles in (4, 16) for points in ("3", "30")]
    found = ablation_curves.curves_of(about, {"settings": settings})
    figure, caption = ablation_curves.iso_cost(about, arms, found, {"4": 4, "16": 16})
    axes = figure.axes[0]
    assert "5.0 clicks" in caption
    lines = next(c for c in axes.collections if hasattr(c, "levels"))
    assert len(lines.levels) >= 3
    for hours, path in zip(lines.levels, lines.get_paths(), strict=True):
        tiles, budget = path.vertices[:: max(1, len(path.vertices) // 7)].T
        np.testing.assert_allclose(tiles * (10 + 2 * 5 * budget) / 3600, hours, rtol=0.02)
    dots = next(c for c in axes.collections if len(c.get_offsets()) == 4)
    assert sorted(map(tuple, dots.get_offsets())) == [(4, 3), (4, 30), (16, 3), (16, 30)]


@pytest.mark.parametrize(
    ("annotators", "told"),
    [
        (["balanced", "dense"], "points per class and tile"),
        (["file"], "points per class and tile"),
        (["uniform", "dense_balanced"], "points per tile"),
        (["component"], "points per component"),
        (["uniform", "balanced"], "budget"),
    ],
)
def test_the_unit_of_the_budget_is_told(annotators, told):
    assert ablation_curves.unit_of([arm_of(4, "3", 1, annotator) for annotator in annotators]) == told
