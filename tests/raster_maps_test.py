import datasets_folder_test
import jax.numpy as jnp
import numpy as np
import pytest
import rasterio
import scipy.special
from datasets_rasters_test import TRANSFORM, write_tiff
from PIL import Image
from runs_for_tests import config_of, prepare, save_run

from pcejax import datasets, map_files, predict, raster_maps, tiles, trained
from pcejax.calibration import Calibration
from pcejax.class_maps import open_map, strips
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE, IGNORE


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    prepare(data_dir := tmp_path_factory.mktemp("data"))
    save_run(folder := tmp_path_factory.mktemp("run"), config_of(data_dir))
    return folder


def random_image(shape, dtype=np.uint8, bands=3):
    return np.random.default_rng(0).integers(1, 255, (*shape, bands)).astype(dtype)


def read(path):
    with rasterio.open(path) as file:
        return file.read(), file.profile


@pytest.mark.parametrize("moves", [False, True])
def test_a_raster_is_mapped_by_strips_as_a_whole_image_is(workdir, tmp_path, moves, capsys):
    image = random_image((150, 131))
    image[20:60, 30:50] = 0  # what the model is given where there are no data
    in_file = np.where(image == 0, np.uint8(255), image)
    write_tiff(tmp_path / "a.tif", in_file, nodata=255, tiled=True, blockxsize=32, blockysize=32)
    written = predict.predict(
        workdir, str(tmp_path / "a.tif"), tmp_path / "out", dihedral_moves=moves, confidence=True, probabilities=True
    )
    assert [path.name for path in written] == ["a_classes.tif", "a_confidence.tif", "a_probabilities.tif"]
    model = trained.load(workdir, dihedral_moves=moves)
    logits = model.map_image(model.variables, image)
    nodata = (image == 0).all(-1)
    assert nodata.sum() == 800
    ids, profile = read(written[0])
    np.testing.assert_array_equal(ids[0], np.where(nodata, IGNORE, logits.argmax(-1)))
    assert (profile["crs"].to_epsg(), tuple(profile["transform"])[:6]) == (32652, TRANSFORM)
    assert profile["nodata"] == IGNORE
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    confidence, _ = read(written[1])
    assert np.abs(confidence[0] / map_files.SHARES - p.max(-1))[~nodata].max() <= 0.5001 / map_files.SHARES
    shares, profile = read(written[2])
    assert profile["count"] == DEEPGLOBE.num_known
    assert np.abs(shares / map_files.SHARES - np.moveaxis(p, -1, 0))[:, ~nodata].max() <= 0.5001 / map_files.SHARES
    assert (shares[:, nodata] == IGNORE).all()
    assert (confidence[0][nodata] == IGNORE).all()
    told = capsys.readouterr().out
    assert "predict: images 1/1" in told
    share = np.mean(ids[0][~nodata] == 3)
    assert (f"forest {share:.0%}" in told) == (share >= 0.005)


def test_a_temperature_changes_probabilities_and_no_class_and_the_files_tell(workdir, tmp_path, capsys):
    image = random_image((60, 70))
    write_tiff(tmp_path / "a.tif", image)
    plain = trained.load(workdir)
    logits = plain.map_image(plain.variables, image)
    for name, fitted in (("plain", None), ("warm", Calibration(2.5, 24, 6))):
        told = "calibrated by temperature 2.500, fitted on 24 points" if fitted else "uncalibrated"
        outputs = {n: tmp_path / f"{name}_{n}.tif" for n in ("classes", "confidence", "probabilities")}
        raster_maps.map_raster(plain._replace(calibration=fitted), tmp_path / "a.tif", outputs)
        np.testing.assert_array_equal(read(outputs["classes"])[0][0], logits.argmax(-1))
        p = scipy.special.softmax(logits / (fitted.temperature if fitted else 1), -1)
        for n, expected in (("confidence", p.max(-1)[None]), ("probabilities", np.moveaxis(p, -1, 0))):
            assert np.abs(read(outputs[n])[0] / map_files.SHARES - expected).max() <= 0.5001 / map_files.SHARES
            with rasterio.open(outputs[n]) as file:
                assert file.tags()["calibration"] == told
                assert file.descriptions == ((f"confidence, {told}",) if n == "confidence" else DEEPGLOBE.names[:6])
    predict.predict(workdir, str(tmp_path / "a.tif"), tmp_path / "out", confidence=True)
    assert "predict: confidence: uncalibrated" in capsys.readouterr().out


def test_a_map_is_read_by_area_estimation_as_it_was_written(workdir, tmp_path):
    write_tiff(tmp_path / "a.tif", random_image((90, 70)))
    (path,) = predict.predict(workdir, str(tmp_path / "a.tif"), tmp_path / "out")
    found = np.concatenate([ids for _, ids in strips(open_map(path, None))])
    np.testing.assert_array_equal(found, read(path)[0][0])


def test_chosen_bands_and_their_scaling_are_those_of_training(tmp_path):
    # A model of which each class is a band: it tells what it was given.
    bands = datasets.Bands("uint16", (100.0, 0.0), (1100.0, 500.0), chosen=(4, 2), in_file=5)
    seen = []

    def map_rows(variables, read, shape, finish):
        pixels = read(0, shape[0])
        seen.append(pixels)
        yield finish(jnp.zeros((6, *shape)))

    config = config_of(tmp_path)
    model = trained.Trained(config, DEEPGLOBE, bands, {}, 0, None, map_rows, None)
    image = random_image((20, 30), np.uint16, 5)
    image[3:5, 4:9, 0] = 0  # no data in a band alone is data
    write_tiff(tmp_path / "a.tif", image, nodata=0)
    raster_maps.map_raster(model, tmp_path / "a.tif", {"classes": tmp_path / "a_classes.tif"})
    np.testing.assert_array_equal(seen[0], image[..., [3, 1]])
    with pytest.raises(UserError, match=r"b: 4 bands of uint16; expected 5 of uint16"):
        bands.check_file("b", 4, "uint16")


@pytest.mark.parametrize("chosen", [(), (4, 1, 2)])
def test_near_infrared_that_gdal_tags_as_alpha_is_prepared_and_mapped_alike(tmp_path, chosen):
    image = random_image((48, 30), bands=4)
    image[:16, :, 3], image[16:24, :, 3] = 0, 255  # strips that look like alpha
    root = datasets_folder_test.own_folder(tmp_path, points=("a,1,1,40", "a,40,9,7"))
    path = write_tiff(root / "images" / "a.tif", image)
    expected = image[..., [band - 1 for band in chosen or (1, 2, 3, 4)]]
    builder = datasets_folder_test.prepare(root, bands=[str(band) for band in chosen])
    np.testing.assert_array_equal(tiles.read(builder, "train")[0].image(), expected)
    seen = []

    def map_rows(variables, read, shape, finish):
        for first in range(0, 48, 8):
            seen.append(read(first, first + 8))
            yield finish(jnp.zeros((6, 8, 30)))

    bands = datasets.bands_of(builder)
    assert predict._job(path, tmp_path, [], bands).frame.height == 48
    model = trained.Trained(config_of(tmp_path), DEEPGLOBE, bands, {}, 0, None, map_rows, None)
    counts = raster_maps.map_raster(model, path, {"classes": tmp_path / "a_classes.tif"})
    np.testing.assert_array_equal(np.concatenate(seen), expected)
    assert counts.sum() == 48 * 30  # all have data


def test_progress_is_told_with_rate_and_time_left(workdir, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(raster_maps, "_LINE_EVERY", 0.0)
    write_tiff(tmp_path / "a.tif", random_image((150, 131)))
    predict.predict(workdir, str(tmp_path / "a.tif"), tmp_path / "out")
    lines = [line for line in capsys.readouterr().out.splitlines() if ": rows " in line]
    assert len(lines) > 2
    assert all("/s" in line and " left" in line for line in lines)


# What is refused, before work starts where that is possible


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (random_image((60, 60), bands=4), r"a.tif: 4 bands of uint8; expected 3 of uint8, as the run was taught by"),
        (random_image((60, 60), np.uint16), r"a.tif: 3 bands of uint16; expected 3 of uint8"),
        (random_image((60, 60), np.int32), r"a.tif: 3 bands of int32; expected 3 of uint8"),
    ],
)
def test_other_bands_than_training_had_are_refused_before_any_map(workdir, tmp_path, pixels, told):
    (tmp_path / "in").mkdir()
    write_tiff(tmp_path / "in" / "0_good.tif", random_image((60, 60)))
    write_tiff(tmp_path / "in" / "a.tif", pixels, photometric="MINISBLACK")
    with pytest.raises(UserError, match=told):
        predict.predict(workdir, str(tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_raster_is_refused_before_any_map(workdir, tmp_path):
    (tmp_path / "in").mkdir()
    write_tiff(tmp_path / "in" / "0_good.tif", random_image((60, 60)))
    (tmp_path / "in" / "a.tif").write_text("no raster" * 20)
    with pytest.raises(UserError, match=r"a.tif: cannot be read: .*expected a whole TIFF"):
        predict.predict(workdir, str(tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_raster_leaves_no_map(workdir, tmp_path):
    write_tiff(tmp_path / "a.tif", random_image((400, 300)), compress="deflate")
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(UserError, match=r"a.tif: cannot be read: "):
        predict.predict(workdir, str(tmp_path / "a.tif"), tmp_path / "out")
    assert [*(tmp_path / "out").iterdir()] == []


def test_a_map_that_is_there_is_replaced_only_where_asked_for(workdir, tmp_path):
    write_tiff(tmp_path / "a.tif", random_image((60, 60)))
    (path,) = predict.predict(workdir, str(tmp_path / "a.tif"), tmp_path / "out")
    path.write_text("mine")
    with pytest.raises(UserError, match=r"a_classes.tif is there; expected a new --output, or --overwrite to replace"):
        predict.predict(workdir, str(tmp_path / "a.tif"), tmp_path / "out")
    assert path.read_text() == "mine"
    predict.predict(workdir, str(tmp_path / "a.tif"), tmp_path / "out", overwrite=True)
    assert read(path)[0].shape == (1, 60, 60)


def test_too_little_room_is_told_before_work_starts(workdir, tmp_path, monkeypatch):
    write_tiff(tmp_path / "a.tif", random_image((60, 60)))
    monkeypatch.setattr(predict.shutil, "disk_usage", lambda _: type("", (), {"free": 10_000}))
    with pytest.raises(UserError, match=r"out: 1 maps take up to 2 MB, the disk has 0 MB free; free some space"):
        predict.predict(workdir, str(tmp_path / "a.tif"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_raster_smaller_than_a_window_is_mapped_and_told(workdir, tmp_path, capsys):
    write_tiff(tmp_path / "a.tif", random_image((20, 90)))
    (path,) = predict.predict(workdir, str(tmp_path / "a.tif"), tmp_path / "out")
    assert read(path)[0].shape == (1, 20, 90)
    assert "a.tif: 90x20 pixels, less than a window of 48" in capsys.readouterr().out


def test_confidence_of_a_picture_is_refused(workdir, tmp_path):
    Image.fromarray(random_image((60, 60))).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match=r"a.tif: is not georeferenced; expected a GeoTIFF for --confidence"):
        predict.predict(workdir, str(tmp_path / "a.tif"), tmp_path / "out", confidence=True)
