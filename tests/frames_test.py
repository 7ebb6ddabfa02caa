import pytest

from pcejax.frames import Frame, metres


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        ("EPSG:32652", (10.0, 0.0, 5e5, 0.0, -10.0, 4e6), 10.0),
        ("EPSG:32652", (0.3, 0.4, 5e5, 0.4, -0.3, 4e6), 0.5),  # turned
        ("EPSG:2263", (1.0, 0.0, 9e5, 0.0, -1.0, 2e5), 1200 / 3937),  # US survey feet
        ("EPSG:4326", (1e-5, 0.0, 12.0, 0.0, -1e-5, 45.0), 0.0),
        (None, None, 0.0),
    ],
)
def test_the_side_of_a_pixel_on_the_ground_is_known_where_frames_lie_in_units_of_length(crs, transform, expected):
    assert metres([Frame(8, 8, transform, crs)] * 3) == pytest.approx(expected)
    assert metres([Frame(8, 8, transform, crs), Frame(8, 8)]) == 0.0
