import csv
import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
from class_maps_test import LEGEND, write_tiff
from PIL import Image

from pcejax import area_accuracy, class_maps, reference_points
from pcejax.errors import UserError

SIZE = (60, 50)
NAMES = ("urban", "agriculture", "rangeland", "forest", "water", "barren")


def make_map(folder, shares=(0.05, 0.25, 0.7), seed=0, shape=SIZE, **profile):
    ids = np.random.default_rng(seed).choice(len(shares), shape, p=shares).astype(np.uint8)
    return write_tiff(folder / "map.tif", ids, **profile), ids


def draw(path, output, total=120, minimum=20, seed=0, legend=None):
    reference_points.draw(path, legend, output, total, minimum, seed)
    return output


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def pixels_of(path):
    return [(int(row["row"]), int(row["col"])) for row in rows_of(path)]


def write_rows(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def label(path, truth):
    """Fills in `class` by name, as it is at each point in `truth`, ids `[H, W]`."""
    rows = rows_of(path)
    for row in rows:
        row["class"] = NAMES[truth[int(row["row"]), int(row["col"])]]
    write_rows(path, rows)
    return path


def refused(path, points, told, legend=None):
    with pytest.raises(UserError, match=told) as caught:
        reference_points.score(path, legend, points)
    assert str(caught.value).startswith(str(points))


# Drawing


def test_points_are_drawn_in_their_stratum_and_none_twice(tmp_path):
    path, ids = make_map(tmp_path)
    points = draw(path, tmp_path / "points.csv")
    pixels = pixels_of(points)
    assert len(set(pixels)) == len(pixels) == 120
    strata = [int(row["stratum"]) for row in rows_of(points)]
    assert strata == [ids[pixel] for pixel in pixels]
    counts = np.bincount(ids.ravel())
    np.testing.assert_array_equal(np.bincount(strata), area_accuracy.allocate(counts, 120, 20))
    assert np.bincount(strata)[0] == 20


def test_a_person_who_labels_sees_no_answer_and_no_order_of_classes(tmp_path):
    path, _ = make_map(tmp_path)
    points = draw(path, tmp_path / "points.csv", 150, 50)
    rows = rows_of(points)
    assert list(rows[0]) == ["tile_id", "row", "col", "class", "stratum"]
    assert {row["class"] for row in rows} == {""}
    strata = np.array([int(row["stratum"]) for row in rows])
    for class_id in range(3):  # 50 of each: in a random order 25 in the first half, give or take 3
        assert 15 <= (strata[:75] == class_id).sum() <= 35
    assert np.abs(np.corrcoef(np.arange(150), strata)[0, 1]) < 0.25


def test_a_sample_is_a_function_of_map_and_seed_however_the_map_is_read(tmp_path, monkeypatch):
    path, _ = make_map(tmp_path)
    drawn = []
    for strip_pixels in (50, 333, 10**6):
        monkeypatch.setattr(class_maps, "_STRIP_PIXELS", strip_pixels)
        drawn.append(draw(path, tmp_path / f"{strip_pixels}.csv").read_text())
    assert len(set(drawn)) == 1
    other = draw(path, tmp_path / "other.csv", seed=1)
    assert len(set(pixels_of(other)) & set(pixels_of(tmp_path / "50.csv"))) < 30


def test_every_pixel_of_a_stratum_is_as_likely(tmp_path, monkeypatch):
    path, ids = make_map(tmp_path, (0.5, 0.5), shape=(6, 10))
    monkeypatch.setattr(class_maps, "_STRIP_PIXELS", 20)
    size, sizes = 6, np.bincount(ids.ravel())
    hits = np.zeros(ids.shape)
    for seed in range(200):
        drawn, strata = reference_points._draw_pixels(class_maps.open_map(path, None), np.array([size, size]), seed)
        np.testing.assert_array_equal(np.bincount(strata), [size, size])
        hits.reshape(-1)[drawn] += 1
    for class_id in (0, 1):
        share = size / sizes[class_id]
        spread = (hits[ids == class_id] - 200 * share) / np.sqrt(200 * share * (1 - share))
        assert np.abs(spread).max() < 4
        assert 0.5 < (spread**2).mean() < 1.6


def test_all_of_a_class_smaller_than_the_minimum_is_drawn(tmp_path):
    path, ids = make_map(tmp_path, (0.002, 0.498, 0.5))
    few = (ids == 0).sum()
    assert few < 20
    strata = [row["stratum"] for row in rows_of(draw(path, tmp_path / "points.csv"))]
    assert strata.count("0") == few


def test_pixels_without_a_class_are_not_drawn(tmp_path):
    path, ids = make_map(tmp_path, nodata=2)
    pixels = pixels_of(draw(path, tmp_path / "points.csv"))
    assert (ids[tuple(np.transpose(pixels))] != 2).all()


def test_labels_are_never_overwritten(tmp_path):
    path, _ = make_map(tmp_path)
    points = draw(path, tmp_path / "points.csv")
    before = points.read_text()
    with pytest.raises(UserError, match=r"points.csv: exists; expected a new file, since labels in it would be lost"):
        draw(path, points, seed=1)
    assert points.read_text() == before


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"minimum": 1}, "--min_per_class=1: expected 2 or more"),
        ({"total": 59}, "59 reference points; expected 60 to 3000: at least 20 in each of the map's 3 classes"),
        ({"output": "points.shp"}, "points.shp: points to a '.shp' file; expected .csv, .geojson or .gpkg"),
    ],
)
def test_a_sample_that_cannot_be_drawn_is_refused(tmp_path, options, told):
    path, _ = make_map(tmp_path)
    output = tmp_path / options.pop("output", "points.csv")
    with pytest.raises(UserError, match=told):
        draw(path, output, **options)
    assert [file.name for file in tmp_path.iterdir()] == ["map.tif"]


def test_a_map_without_any_class_is_refused(tmp_path):
    path = write_tiff(tmp_path / "map.tif", np.full(SIZE, 6, np.uint8))
    with pytest.raises(UserError, match=r"map.tif: no pixel has a class"):
        draw(path, tmp_path / "points.csv")


# Scoring


def test_scores_are_the_estimators_of_the_labelled_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(class_maps, "_STRIP_PIXELS", 333)
    path, ids = make_map(tmp_path)
    truth = np.where(np.random.default_rng(1).random(SIZE) < 0.2, 3, ids)
    points = label(draw(path, tmp_path / "points.csv"), truth)
    result = reference_points.score(path, None, points)
    counts = np.zeros((6, 6), int)
    for row, col in pixels_of(points):
        counts[ids[row, col], truth[row, col]] += 1
    assert result["counts"] == counts.tolist()
    assert result["mapped_pixels"] == np.bincount(ids.ravel(), minlength=6).tolist()
    expected = area_accuracy.estimate(counts, np.array(result["mapped_pixels"]) * 0.01)
    assert result["overall_accuracy"]["value"] == expected.overall.value
    assert result["unit"] == "ha"
    for index, name in enumerate(NAMES):
        for key, estimate in (
            ("users_accuracy", expected.users),
            ("producers_accuracy", expected.producers),
            ("area", expected.areas),
        ):
            if np.isnan(estimate.value[index]):
                assert result[key][name] is None
            else:
                assert result[key][name]["value"] == estimate.value[index]
                assert result[key][name]["standard_error"] == estimate.standard_error[index]
    forest = result["area"]["forest"]
    assert forest["low"] == pytest.approx(forest["value"] - 1.96 * forest["standard_error"])
    assert forest["low"] < 0.01 * (truth == 3).sum() < forest["high"]
    assert json.loads((tmp_path / "points_accuracy.json").read_text()) == json.loads(json.dumps(result))


def test_scores_are_shown_as_a_table(tmp_path, capsys):
    path, ids = make_map(tmp_path)
    points = label(draw(path, tmp_path / "points.csv"), ids)
    result = reference_points.score(path, None, points)
    capsys.readouterr()
    reference_points.print_scores(result)
    told = capsys.readouterr().out
    area = 0.01 * (ids == 1).sum()  # of 30 ha
    line = next(line for line in told.splitlines() if "│ agriculture" in line)
    assert f" {area:.3f} │  {area:.3f}±0.000 │ 1.000±0.000 │ 1.000±0.000 │" in line
    assert "absent │" in next(line for line in told.splitlines() if "│ water" in line)
    assert "overall accuracy 1.000±0.000, 120 points" in told
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.filterwarnings("ignore:.*crs.* was not provided")
@pytest.mark.parametrize("suffix", [".csv", ".geojson", ".gpkg"])
@pytest.mark.parametrize("placed", [True, False])
def test_a_sample_comes_back_from_every_form_and_from_qgis(tmp_path, suffix, placed):
    path, ids = make_map(tmp_path)
    if not placed:
        path = tmp_path / "map.png"
        Image.fromarray(ids).save(path)
    points = draw(path, tmp_path / f"points{suffix}")
    if suffix == ".csv":
        label(points, ids)
    else:
        meta, _, shapes, columns = pyogrio.raw.read(points)
        fields = dict(zip(meta["fields"], columns, strict=True))
        assert list(fields) == ["tile_id", "class", "stratum"]
        assert set(fields["class"]) <= {"", None}
        fields["class"] = np.array([NAMES[int(stratum)] for stratum in fields["stratum"]], object)
        points.unlink()
        driver = {".gpkg": "GPKG", ".geojson": "GeoJSON"}[suffix]
        pyogrio.raw.write(
            points,
            shapes,
            list(fields.values()),
            list(fields),
            driver=driver,
            geometry_type="Point",
            crs=meta["crs"] if placed or suffix == ".gpkg" else "EPSG:4326",
        )
    result = reference_points.score(path, None, points)
    assert result["overall_accuracy"]["value"] == 1
    assert (result["unit"], result["why_pixels"] == "") == (("ha", True) if placed else ("pixels", False))
    size = 0.01 if placed else 1
    assert result["area"]["agriculture"]["value"] == pytest.approx(size * (ids == 1).sum())


def test_classes_by_number_and_of_a_legend_file(tmp_path):
    (tmp_path / "legend.yaml").write_text(LEGEND)
    legend = tmp_path / "legend.yaml"
    path = write_tiff(tmp_path / "map.tif", np.random.default_rng(0).choice([10, 50, 100, 0], SIZE).astype(np.uint8))
    points = draw(path, tmp_path / "points.csv", legend=legend)
    rows = rows_of(points)
    assert {row["stratum"] for row in rows} == {"10", "50"}
    for row in rows:
        row["class"] = "building" if row["stratum"] == "10" else "50"
    write_rows(points, rows)
    result = reference_points.score(path, legend, points)
    assert result["classes"] == ("building", "field")
    assert result["overall_accuracy"]["value"] == 1


def test_the_script_draws_and_scores(tmp_path):
    path, ids = make_map(tmp_path)
    points = tmp_path / "points.csv"
    command = [sys.executable, "scripts/evaluate.py", f"--map={path}", f"--reference_points={points}"]
    run = functools.partial(subprocess.run, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert "100 reference points: urban 30" in run([*command, "--draw_reference=100", "--min_per_class=30"]).stdout
    label(points, ids)
    assert "overall accuracy 1.000±0.000, 100 points" in run(command).stdout


def test_points_from_elsewhere_need_no_stratum(tmp_path):
    path, ids = make_map(tmp_path)
    points = label(draw(path, tmp_path / "points.csv"), ids)
    expected = reference_points.score(path, None, points)["counts"]
    rows = rows_of(points)
    write_rows(points, [{name: row[name] for name in ("class", "col", "row", "tile_id")} for row in rows])
    assert reference_points.score(path, None, points)["counts"] == expected


def test_a_class_of_one_pixel_is_drawn_and_scored(tmp_path):
    path, ids = make_map(tmp_path, (0.5, 0.5))
    ids[7, 9] = 4
    path = write_tiff(tmp_path / "map.tif", ids)
    points = label(draw(path, tmp_path / "points.csv"), ids)
    assert (7, 9) in pixels_of(points)
    assert reference_points.score(path, None, points)["area"]["water"]["value"] == pytest.approx(0.01)


# What is refused


@pytest.fixture
def labelled(tmp_path):
    path, ids = make_map(tmp_path)
    return path, label(draw(path, tmp_path / "points.csv"), ids)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"row": "60"}, r", line 4: row 60, col \d+ is outside tile 'map'; expected 0 <= row < 60"),
        ({"class": "sea"}, r", line 4: class 'sea' is not in the legend; expected a name or an id of: urban \(0\)"),
        ({"class": "unknown"}, ", line 4: class 'unknown' is the legend's unknown"),
        (
            {"class": ""},
            ", line 4: class is not filled in, here and at 0 others of 120 points; expected a class for each",
        ),
        ({"stratum": "5"}, r", line 4: stratum 5, but .*map.tif has \d there; expected the map that the points were"),
        ({"stratum": ""}, ", line 4: no stratum, which other points have; expected the points that were drawn"),
        ({"tile_id": "mop"}, ", line 4: tile_id 'mop' is none of the 1 tiles"),
    ],
)
def test_a_point_that_is_not_as_drawn_is_named(labelled, changed, told):
    path, points = labelled
    rows = rows_of(points)
    rows[2] |= changed
    write_rows(points, rows)
    refused(path, points, told)
    assert not points.with_name("points_accuracy.json").exists()


def test_another_map_than_that_of_the_sample_is_refused(labelled, tmp_path):
    _, points = labelled
    (tmp_path / "other").mkdir()
    refused(make_map(tmp_path / "other", seed=1)[0], points, r"line \d+: stratum \d, but .*other/map.tif has \d there")


def test_an_unfilled_sample_says_how_much_there_is_to_do(tmp_path):
    path, _ = make_map(tmp_path)
    points = draw(path, tmp_path / "points.csv")
    refused(path, points, ", line 2: class is not filled in, here and at 119 others of 120 points")


@pytest.mark.parametrize("left", [0, 1])
def test_a_class_of_the_map_with_too_few_points_is_named(labelled, left):
    path, points = labelled
    rows = rows_of(points)
    urban = [row for row in rows if row["stratum"] == "0"]
    write_rows(points, [row for row in rows if row["stratum"] != "0"] + urban[:left])
    refused(
        path, points, rf": {left} points in the map's class 'urban', [45]\.\d% of the map; expected 2 or more in each"
    )


def test_a_point_where_the_map_has_no_class_is_named(labelled):
    path, points = labelled
    row, col = pixels_of(points)[0]
    with rasterio.open(path, "r+") as file:
        ids = file.read(1)
        ids[row, col] = 6
        file.write(ids, 1)
    refused(path, points, rf"line 2: the map has no class at row {row}, col {col}; expected a point on the map")
