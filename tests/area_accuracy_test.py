import numpy as np
import pytest

from pcejax import area_accuracy
from pcejax.errors import UserError

# Olofsson et al. (2014), Table 8: deforestation, forest gain, stable forest, stable non-forest; pixels of 30 m.
COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
MAPPED = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HECTARES = 0.09


def half_widths(estimate):
    return 1.96 * estimate.standard_error


# The paper's worked example


def test_proportions_are_those_of_table_9():
    expected = [
        [0.0176, 0, 0.0013, 0.0011],
        [0, 0.0110, 0.0016, 0.0024],
        [0.0019, 0, 0.2967, 0.0213],
        [0.0040, 0.0020, 0.0179, 0.6212],
    ]
    got = area_accuracy.estimate(COUNTS, MAPPED).proportions
    np.testing.assert_allclose(got, expected, atol=5.1e-5)
    assert got.sum() == pytest.approx(1)


def test_accuracies_and_their_intervals_are_those_of_section_5_2_1():
    got = area_accuracy.estimate(COUNTS, MAPPED)
    printed = {"rtol": 0, "atol": 0.0051}
    np.testing.assert_allclose([got.overall.value, half_widths(got.overall)], [0.95, 0.02], **printed)
    np.testing.assert_allclose(got.users.value, [0.88, 0.73, 0.93, 0.96], **printed)
    np.testing.assert_allclose(half_widths(got.users), [0.07, 0.10, 0.04, 0.02], **printed)
    np.testing.assert_allclose(got.producers.value, [0.75, 0.85, 0.93, 0.96], **printed)
    # The paper prints 0.23 for forest gain and 0.01 for stable non-forest, which its equation 7 does not give.
    np.testing.assert_allclose(half_widths(got.producers), [0.21, 0.254, 0.03, 0.018], **printed)


def test_areas_and_their_intervals_are_those_of_section_5_2_2():
    pixels = area_accuracy.estimate(COUNTS, MAPPED).areas
    np.testing.assert_allclose([pixels.value[0], half_widths(pixels)[0]], [235_086, 68_418], atol=0.5)
    hectares = area_accuracy.estimate(COUNTS, MAPPED * HECTARES).areas
    np.testing.assert_allclose(hectares.value, [21_158, 11_686, 285_770, 581_386], atol=0.5)
    np.testing.assert_allclose(half_widths(hectares), [6_158, 3_756, 15_510, 16_282], atol=0.5)


def test_equations_6_and_7_by_hand():
    """Two classes, written out."""
    got = area_accuracy.estimate(np.array([[8, 2], [3, 27]]), np.array([40.0, 60.0]))
    p00, p10 = 0.4 * 0.8, 0.6 * 0.1
    p = p00 / (p00 + p10)
    assert got.producers.value[0] == pytest.approx(p)
    assert got.users.standard_error[0] ** 2 == pytest.approx(0.8 * 0.2 / 9)
    first = 40**2 * (1 - p) ** 2 * 0.8 * 0.2 / 9
    second = p**2 * 60**2 * 0.1 * 0.9 / 29
    assert got.producers.standard_error[0] ** 2 == pytest.approx((first + second) / (40 * 0.8 + 60 * 0.1) ** 2)


# What the estimators promise


@pytest.fixture(scope="module")
def repeated():
    """Estimates of 2,000 samples of one population, in which errors get several points, and what they estimate."""
    cells = np.array([[900, 60, 140], [50, 2_500, 450], [500, 900, 14_500]])  # pixels, [map class, true class]
    mapped, rng = cells.sum(1), np.random.default_rng(0)
    sizes = np.array([120, 150, 330])
    samples = [
        np.stack([rng.multinomial(n, row / row.sum()) for n, row in zip(sizes, cells, strict=True)])
        for _ in range(2_000)
    ]
    right = np.diag(cells)
    truth = {
        "overall": right.sum() / cells.sum(),
        "users": right / mapped,
        "producers": right / cells.sum(0),
        "areas": cells.sum(0),
    }
    return [area_accuracy.estimate(counts, mapped) for counts in samples], truth, cells.sum()


@pytest.mark.parametrize("what", ["overall", "users", "producers", "areas"])
def test_over_samples_the_mean_is_the_truth_and_the_standard_error_the_spread(repeated, what):
    estimates, truth, _ = repeated
    values = np.array([getattr(each, what).value for each in estimates])
    errors = np.array([getattr(each, what).standard_error for each in estimates])
    spread = values.std(0)
    # A ratio is unbiased in large samples only.
    slack = 0.2 if what == "producers" else 4 / np.sqrt(len(values))
    assert (np.abs(values.mean(0) - truth[what]) < slack * spread).all()
    np.testing.assert_allclose(np.sqrt((errors**2).mean(0)), spread, rtol=0.06)


@pytest.mark.parametrize("what", ["overall", "users", "producers", "areas"])
def test_95_of_100_intervals_cover_the_truth(repeated, what):
    estimates, truth, most = repeated
    ends = [getattr(each, what).interval(most if what == "areas" else 1.0) for each in estimates]
    covered = np.mean([(low <= truth[what]) & (truth[what] <= high) for low, high in ends], 0)
    assert ((covered > 0.925) & (covered < 0.97)).all(), covered


def test_how_many_points_a_class_got_does_not_shift_the_estimates():
    once = area_accuracy.estimate(COUNTS, MAPPED)
    more = area_accuracy.estimate(COUNTS * np.array([[7], [1], [3], [2]]), MAPPED)
    for what in ("overall", "users", "producers", "areas"):
        np.testing.assert_allclose(getattr(more, what).value, getattr(once, what).value)


def test_a_perfect_map_has_its_own_areas_and_no_error():
    got = area_accuracy.estimate(np.diag([5, 9, 2]), np.array([10, 30, 60]))
    for estimate in (got.overall, got.users, got.producers):
        np.testing.assert_array_equal(estimate.value, np.ones_like(estimate.value))
        np.testing.assert_array_equal(estimate.standard_error, np.zeros_like(estimate.value))
    np.testing.assert_allclose(got.areas.value, [10, 30, 60])


def test_a_class_that_the_map_lacks_has_an_area_and_no_users_accuracy():
    got = area_accuracy.estimate(np.array([[8, 2], [0, 0]]), np.array([50, 0]))
    np.testing.assert_array_equal(got.users.value, [0.8, np.nan])
    np.testing.assert_array_equal(got.producers.value, [1, 0])
    np.testing.assert_allclose(got.areas.value, [40, 10])
    assert got.overall.value == pytest.approx(0.8)
    assert got.areas.standard_error[1] == pytest.approx(50 * np.sqrt(0.8 * 0.2 / 9))


def test_a_class_without_reference_points_of_it_has_no_producers_accuracy():
    got = area_accuracy.estimate(np.array([[8, 0], [5, 0]]), np.array([50, 50]))
    np.testing.assert_array_equal(got.producers.value, [0.5, np.nan])
    np.testing.assert_allclose(got.areas.value, [100, 0])


def test_a_class_without_any_point_gives_nan_and_no_number():
    got = area_accuracy.estimate(np.array([[8, 2], [0, 0]]), np.array([50, 50]))
    for estimate in (got.overall, got.areas):
        assert np.isnan(estimate.value).all()
        assert np.isnan(estimate.standard_error).all()


def test_a_class_of_one_pixel_is_known_by_one_point():
    got = area_accuracy.estimate(np.array([[8, 2], [0, 1]]), np.array([999, 1]))
    assert got.overall.value == pytest.approx((999 * 0.8 + 1) / 1000)
    assert got.overall.standard_error == pytest.approx(0.999 * np.sqrt(0.8 * 0.2 / 9))


def test_an_interval_stays_within_what_is_possible():
    low, high = area_accuracy.Estimate(np.array([0.01, 0.5, 0.99]), np.array([0.1, 0.1, 0.1])).interval(1.0)
    np.testing.assert_allclose(low, [0, 0.304, 0.794])
    np.testing.assert_allclose(high, [0.206, 0.696, 1])


# Allocation


def test_points_in_proportion_to_area_are_those_of_table_5():
    np.testing.assert_array_equal(area_accuracy.allocate(MAPPED, 641, 2), [13, 10, 205, 413])
    np.testing.assert_array_equal(area_accuracy.allocate(MAPPED, 640, 160), [160] * 4)


def test_rare_classes_get_the_minimum_and_the_others_share_the_rest():
    np.testing.assert_array_equal(area_accuracy.allocate(MAPPED, 640, 75), [75, 75, 162, 328])  # 490 x .3316, .6684


@pytest.mark.parametrize("seed", range(5))
def test_an_allocation_adds_up_and_holds_to_minimum_and_area(seed):
    rng = np.random.default_rng(seed)
    for _ in range(200):
        mapped = rng.integers(0, 10 ** rng.integers(1, 8, rng.integers(1, 9)))
        minimum = int(rng.integers(2, 60))
        least = np.minimum(mapped, minimum)
        total = int(rng.integers(least.sum(), min(mapped.sum(), least.sum() + 5_000), endpoint=True))
        if not mapped.any():
            continue
        got = area_accuracy.allocate(mapped, total, minimum)
        assert got.sum() == total
        assert ((got >= least) & (got <= mapped)).all()
        free = got > least
        if free.any():  # to within rounding, in proportion
            expected = got[free].sum() * mapped[free] / mapped[free].sum()
            assert (np.abs(got[free] - expected) < 2 + 0.02 * expected).all()


@pytest.mark.parametrize(
    ("mapped", "total", "told"),
    [
        ([100, 0, 200], 99, r"99 reference points; expected 100 to 300: at least 50 in each of the map's 2 classes"),
        ([100, 7, 200], 106, r"expected 107 to 307"),
        ([100, 7, 200], 308, r"expected 107 to 307: .* no pixel twice"),
    ],
)
def test_a_number_of_points_that_cannot_be_is_refused_with_those_that_can(mapped, total, told):
    with pytest.raises(UserError, match=told):
        area_accuracy.allocate(np.array(mapped), total, 50)
