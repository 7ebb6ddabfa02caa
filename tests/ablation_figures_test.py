import ablations_for_tests as made_up
import numpy as np
import pytest

from pcejax import ablation_figures, ablation_results
from pcejax.ablation_statistics import summarise

LOSSES = {"loss": ["partial", "plain"]}


def figures_of(about, runs):
    summary = summarise(
        runs,
        about["axes"],
        made_up.NAMES[:3],
        budget_axis=about["budget_axis"],
        budgets=about["budgets"],
        references=about["references"],
        differences=about["differences"],
        resamples=50,
    )
    arms = [
        ablation_results.Arm("", None, "", run, 0.1 + 0.1 * index, "across", "", made_up.points_of(4, 6), {}, {})
        for index, run in enumerate(runs)
    ]
    return arms, summary, ablation_figures.draw(about, arms, summary)


def runs_of(levels, tiles=3):
    rng = np.random.default_rng(0)
    return [
        ablation_results.Run(
            one, seed, 0, {f"tile_{i}": made_up.matrix(0.4 + 0.2 * place, rng) for i in range(tiles)}, 1.0
        )
        for place, one in enumerate(levels)
        for seed in (0, 1)
    ]


@pytest.fixture(scope="module")
def losses():
    about = made_up.about_of(
        "loss", LOSSES, [], differences=[["loss", "plain", "partial"]], watermark="a demonstration"
    )
    return figures_of(about, runs_of([{"loss": "partial"}, {"loss": "plain"}]))


def test_without_a_budget_axis_settings_stand_beside_each_other(losses):
    _, summary, drawn = losses
    assert list(drawn) == ["settings", "differences"]
    (axes,) = drawn["settings"].figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["loss=partial", "loss=plain"]
    marks = [line for line in axes.lines if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [
        (setting["miou"], row) for row, setting in enumerate(summary["settings"])
    ]
    for place, (bar, setting) in enumerate(zip(axes.containers, summary["settings"], strict=True)):
        (segment,) = bar.lines[2][0].get_segments()
        np.testing.assert_allclose(segment, [[setting["interval"][0], place], [setting["interval"][1], place]])
    dots = np.concatenate([line.get_xdata() for line in axes.lines if line.get_marker() == "."])
    np.testing.assert_allclose(dots, [0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("claim", [False, True])
def test_a_difference_is_filled_where_it_is_claimed(losses, claim):
    arms, summary, _ = losses
    told = summary | {"differences": [one | {"claim": claim} for one in summary["differences"]]}
    (axes,) = ablation_figures.draw(made_up.about_of("loss", LOSSES, []), arms, told)["differences"].figure.axes
    mark = next(line for line in axes.lines if line.get_marker() == "o")
    assert (mark.get_markerfacecolor() != "none") == claim
    assert mark.get_xdata()[0] == summary["differences"][0]["difference"]
    assert any(list(line.get_xdata()) == [0, 0] for line in axes.lines)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["loss: plain minus partial"]


def test_every_figure_bears_the_watermark(losses):
    for figure, _ in losses[2].values():
        assert [text.get_text() for text in figure.texts] == ["a demonstration"]


def test_with_a_budget_axis_there_are_curves():
    about = made_up.about_of(
        "points", {"points": ["1", "3"]}, [], budget_axis="points", budgets={"1": 1, "3": 3}, references={}
    )
    *_, drawn = figures_of(about, runs_of([{"points": "1"}, {"points": "3"}]))
    assert list(drawn) == ["miou_over_budget", "iou_over_budget", "miou_over_hours"]
    assert not drawn["miou_over_budget"].figure.texts


def test_a_difference_is_named_with_what_is_held():
    one = {"axis": "points", "level": "3", "against": "1", "held": {}}
    assert ablation_figures.difference_name(one) == "points: 3 minus 1"
    assert ablation_figures.difference_name(one | {"held": {"m": "a"}}) == "points: 3 minus 1, m=a"
