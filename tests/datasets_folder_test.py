import json
import re

import numpy as np
import pytest
from datasets_rasters_test import TRANSFORM, random_pixels, write_tiff
from PIL import Image
from rasterio.transform import Affine

from configs import quickstart
from pcejax import datasets, evaluate, predict, tiles, train
from pcejax.datasets import export
from pcejax.datasets.prepare import prepare_dataset
from pcejax.datasets.rasters import read_raster
from pcejax.errors import UserError
from pcejax.legend import IGNORE

LEGEND = """
classes:
  - {name: water, id: 40, color: [0, 0, 255]}
  - {name: field, id: 7, color: [200, 200, 0]}
  - {name: wood, id: 3, color: [0, 99, 0]}
ignore: [99]
"""
IDS = np.array([40, 7, 3], np.uint8)
NAMES = ("water", "field", "wood")
COLORS = np.array([(0, 0, 255), (200, 200, 0), (0, 99, 0)], np.uint8)
SHAPE = (24, 30)


def own_folder(root, tiles=(), masked=(), points=(), bands=3):
    """A folder of PNGs; `points` are lines of points.csv."""
    for name in ("images", "masks", "splits"):
        (root / name).mkdir(parents=True)
    (root / "legend.yaml").write_text(LEGEND)
    for seed, tile in enumerate(tiles):
        Image.fromarray(random_pixels(bands, shape=SHAPE, seed=seed)).save(root / "images" / f"{tile}.png")
    for seed, tile in enumerate(masked):
        Image.fromarray(IDS[classes(seed)]).save(root / "masks" / f"{tile}.png")
    if points:
        (root / "points.csv").write_text("\n".join(["tile_id,row,col,class", *points]))
    return root


def classes(seed, shape=SHAPE):
    """Class ids in patches: halves of two classes and a strip of the third."""
    ids = np.full(shape, seed % 3, np.uint8)
    ids[:, shape[1] // 2 :] = (seed + 1) % 3
    ids[: shape[0] // 3] = (seed + 2) % 3
    return ids


def prepare(root, name="own", **options):
    prepare_dataset("folder", root / "data", manual_dir=str(root), name=name, **options)
    return datasets.open_dataset(f"folder/{name}", root / "data")


def refused(root, told):
    """One message that starts with a file or folder of the user's, and nothing is left behind."""
    with pytest.raises(UserError, match=told) as caught:
        prepare(root)
    assert str(caught.value).startswith(str(root))
    assert not list((root / "data").glob("**/dataset_info.json"))


def splits_of(builder):
    return {split: [tile.tile_id for tile in tiles.read(builder, split)] for split in builder.info.splits}


def config_of(root, **overrides):
    config = quickstart.get_config("smoke")
    config.data.update(name="folder/own", data_dir=str(root / "data"), crop=8, scale=1.0, eval_split="")
    config.points.update(annotator="file", budget=0)
    config.model.update(depth=1, width=2)
    config.inference.update(window=16, overlap=4, batch_size=2)
    config.update_from_flattened_dict(overrides)
    return config.lock()


# What is stored


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("kind", ["ids", "colours", "transparent colours"])
def test_pictures_are_stored_as_they_are_and_masks_as_classes(tmp_path, suffix, kind):
    names = [f"tile {i}" for i in range(4)]
    root = own_folder(tmp_path, names)
    expected = {}
    for seed, name in enumerate(names):
        path = root / "images" / f"{name}.{suffix}"
        Image.open(root / "images" / f"{name}.png").save(path)
        ids = classes(seed)
        stored = {"ids": IDS, "colours": COLORS}.get(kind, np.pad(COLORS, ((0, 0), (0, 1)), constant_values=255))[ids]
        expected[name] = (np.asarray(Image.open(path)), ids.copy())
        if kind != "colours":
            stored[3:6, 3:9] = 99 if kind == "ids" else 0
            expected[name][1][3:6, 3:9] = IGNORE
        Image.fromarray(stored).save(root / "masks" / f"{name}.png")
        if suffix != "png":
            (root / "images" / f"{name}.png").unlink()
    builder = prepare(root)
    assert datasets.bands_of(builder) == datasets.RGB
    assert datasets.legend_of(builder).names == ("water", "field", "wood")
    raw = [tile for split in builder.info.splits for tile in tiles.read(builder, split)]
    assert sorted(tile.tile_id for tile in raw) == names
    for tile in raw:
        image, mask = expected[tile.tile_id]
        np.testing.assert_array_equal(tile.image(), image)
        np.testing.assert_array_equal(tile.mask(), mask)
        assert tile.shape() == SHAPE
        if suffix == "jpg":
            assert tile.image_bytes == (root / "images" / f"{tile.tile_id}.jpg").read_bytes()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_bands_are_stored_in_their_type_and_scaled_by_the_training_tiles(tmp_path, dtype):
    root = own_folder(tmp_path)
    (root / "splits" / "train.txt").write_text("a\nb\n")
    (root / "splits" / "test.txt").write_text("c\n")
    hole, images = np.s_[5:9, 10:20], {}
    for seed, (name, factor) in enumerate((("a", 10), ("b", 20), ("c", 100))):
        images[name] = random_pixels(5, dtype, SHAPE, seed) * np.array(factor, dtype)
        stored = images[name].copy()
        stored[hole] = np.nan if dtype == "float32" else 32000
        write_tiff(root / "images" / f"{name}.tif", stored, nodata=None if dtype == "float32" else 32000)
        write_tiff(root / "masks" / f"{name}.tif", IDS[classes(seed)][..., None])
        images[name][hole] = 0
    builder = prepare(root)
    bands = datasets.bands_of(builder)
    assert bands.dtype == dtype
    valid = np.ones(SHAPE, bool)
    valid[hole] = False
    training = np.concatenate([images[name][valid] for name in "ab"])
    low, high = np.quantile(training, [0.01, 0.99], axis=0)
    np.testing.assert_allclose((bands.low, bands.high), (low, high))
    for seed, tile in enumerate([*tiles.read(builder, "train"), *tiles.read(builder, "test")]):
        assert tile.image().dtype == dtype
        np.testing.assert_array_equal(tile.image(), images[tile.tile_id])
        np.testing.assert_array_equal(tile.mask(), np.where(valid, classes(seed), IGNORE))
    scaled = np.asarray(tiles.scale_image(images["a"], bands))
    np.testing.assert_allclose(scaled, np.clip((images["a"] - low) / (high - low), 0, 1), atol=1e-5)
    for frame in datasets.frames_of(builder).values():
        assert frame == (*SHAPE, TRANSFORM, "EPSG:32652")
    with pytest.raises(UserError, match=r"images of .*folder/own.* are no pictures"):
        export.write_images(root / "data" / "folder" / "own" / "1.0.0", root / "out")


# Who goes where


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
def test_chosen_bands_are_taken_in_their_order_and_kept_with_the_dataset(tmp_path, suffix):
    root = own_folder(tmp_path)
    chosen, count = ([4, 2], 5) if suffix == "tif" else ([3, 1, 2], 3)
    path = root / "images" / f"a.{suffix}"
    if suffix == "tif":
        write_tiff(path, random_pixels(5, "uint16", SHAPE) * 20)
    else:
        Image.fromarray(random_pixels(3, shape=SHAPE)).save(path)
    Image.fromarray(IDS[classes(0)]).save(root / "masks" / "a.png")
    whole = read_raster(path).pixels
    builder = prepare(root, bands=[str(band) for band in chosen])
    bands = datasets.bands_of(builder)
    assert (bands.chosen, bands.in_file, bands.num) == (tuple(chosen), count, len(chosen))
    expected = whole[..., [band - 1 for band in chosen]]
    np.testing.assert_array_equal(tiles.read(builder, "all")[0].image(), expected)
    if suffix == "tif":
        np.testing.assert_allclose(bands.low, np.quantile(expected.reshape(-1, 2), 0.01, axis=0))


@pytest.mark.parametrize(
    ("bands", "told"),
    [
        (["4", "x"], r"--bands=4,x; expected numbers of bands, counted from 1, each once"),
        (["1", "1"], r"--bands=1,1; expected"),
        (["1", "4"], r"a\.png: bands 1, 4 of 3; expected numbers from 1 to as many"),
        (["0"], r"a\.png: bands 0 of 3"),
    ],
)
def test_bands_that_are_not_there_are_refused(tmp_path, bands, told):
    with pytest.raises(UserError, match=told):
        prepare(own_folder(tmp_path, "a", "a"), bands=bands)


def test_without_lists_regions_are_kept_together_and_each_tile_goes_where_it_can_be_used(tmp_path, capsys):
    masked = [f"{region}{i}" for region in "abcdefghij" for i in range(2)]
    pointed = [f"{region}-p" for region in "abcdefghij"] + ["alone"]
    root = own_folder(tmp_path, [*masked, *pointed, "bare"], masked, [f"{tile},1,2,wood" for tile in pointed])
    rows = [f"{tile},{tile[0]}" for tile in [*masked, *pointed[:-1]]]
    (root / "groups.csv").write_text("\n".join(["tile,region", *rows]))
    splits = splits_of(prepare(root))
    home = {tile[0]: split for split in ("train", "validation", "test") for tile in splits[split] if tile in masked}
    assert sorted(home) == list("abcdefghij")
    assert [sum(split == name for split in home.values()) for name in ("train", "validation", "test")] == [7, 1, 2]
    for split, members in splits.items():
        assert {tile for tile in masked if home[tile[0]] == split} == {tile for tile in members if tile in masked}
    taught = {tile for tile in pointed if home.get(tile[0], "train") == "train"} | {"alone"}
    assert taught == {tile for tile in splits["train"] if tile not in masked}
    assert not {*splits["validation"], *splits["test"]} & set(pointed)
    assert splits["unlabelled"] == ["bare"]
    assert re.search(r"3 +│ tiles +│ points alone, in a region that is scored", capsys.readouterr().out)
    # The same draw again, with or without other tiles.
    root = own_folder(tmp_path / "other", masked, masked)
    (root / "groups.csv").write_text("\n".join(["tile,region", *rows[: len(masked)]]))
    again = splits_of(prepare(root))
    assert again == {split: [t for t in splits[split] if t in masked] for split in again}


def test_lists_are_followed_and_what_they_leave_out_is_told(tmp_path, capsys):
    root = own_folder(tmp_path, "abcdefg", "abcd", ["e,0,0,wood"])
    for split, text in {"fit": "b\na\n\n", "test": "\ufeffd\r\n", "unlabelled": "g\n"}.items():
        (root / "splits" / f"{split}.txt").write_text(text)
    (root / "masks" / "gone.png").write_bytes((root / "masks" / "a.png").read_bytes())
    # An unlabelled tile may lie beside any other.
    (root / "groups.csv").write_text("tile,region\na,west\nb,west\ng,west\n")
    assert splits_of(prepare(root)) == {"fit": ["b", "a"], "test": ["d"], "unlabelled": ["g", "f"]}
    told = " ".join(capsys.readouterr().out.split())
    assert "2 │ tiles │ in no list of splits/, as c" in told
    assert "1 │ masks │ no image for them, as gone.png" in told


# Points


def test_points_of_the_folder_teach_exactly_their_pixels_without_any_mask(tmp_path):
    clicked = {"a": {(3, 4): 0, (20, 29): 2}, "b": {(0, 0): 1}}
    lines = [
        f"{tile},{r},{c},{IDS[k] if tile == 'b' else NAMES[k]}"
        for tile, pixels in clicked.items()
        for (r, c), k in pixels.items()
    ]
    root = own_folder(tmp_path, "abc", points=lines)
    prepare(root)
    loaded = tiles.load(config_of(root))
    assert loaded.tile_ids == ["a", "b"]
    for tile, label in zip(loaded.tile_ids, loaded.labels, strict=True):
        expected = np.full(SHAPE, IGNORE, np.uint8)
        for pixel, class_id in clicked[tile].items():
            expected[pixel] = class_id
        np.testing.assert_array_equal(label, expected)


def test_a_runs_own_file_of_points_is_read_in_map_coordinates(tmp_path):
    root = own_folder(tmp_path)
    for i, tile in enumerate("ab"):
        place = Affine(*TRANSFORM[:2], TRANSFORM[2] + 10 * i * SHAPE[1], *TRANSFORM[3:])
        write_tiff(root / "images" / f"{tile}.tif", random_pixels(5, "uint16", SHAPE, i), transform=place)
        write_tiff(root / "masks" / f"{tile}.tif", IDS[classes(i)][..., None])
    (root / "splits" / "train.txt").write_text("a\nb\n")
    assert datasets.bands_of(prepare(root)).metres == 10
    with pytest.raises(UserError, match=r"points.file is empty and .*folder/own.* was prepared without points"):
        tiles.load(config_of(root))
    # The centre of the pixel (2, 5) of tile b, 30 columns of 10 m to the east of a.
    x, y = TRANSFORM[2] + 10 * (30 + 5.5), TRANSFORM[5] - 10 * 2.5
    point = {"type": "Point", "coordinates": [x, y]}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32652"}}
    # A class by its number is one of the masks, 3, not the third of the legend.
    features = [{"type": "Feature", "properties": {"class": 3}, "geometry": point}]
    (root / "points.geojson").write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    loaded = tiles.load(config_of(root, **{"points.file": str(root / "points.geojson")}))
    assert loaded.tile_ids == ["b"]
    assert np.argwhere(loaded.labels[0] != IGNORE).tolist() == [[2, 5]]
    assert loaded.labels[0][2, 5] == 2


# What is refused


def write_image(root, tile, pixels):
    Image.fromarray(pixels).save(root / "images" / f"{tile}.png")


def write_mask(root, tile, ids):
    Image.fromarray(ids).save(root / "masks" / f"{tile}.png")


def cut_image(root, tile):
    path = root / "images" / f"{tile}.png"
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda root: (root / "legend.yaml").unlink(), r"legend\.yaml: no such file; expected classes: a list"),
        (lambda root: [p.unlink() for p in (root / "images").iterdir()], "images: no image; expected <tile>.png"),
        (lambda root: write_mask(root, "b", IDS[classes(0)] + (classes(0) == 2)), r"masks/b\.png: .*: 4 at 240 pixels"),
        (lambda root: write_mask(root, "b", IDS[classes(0)][:20]), r"masks/b\.png: .* 30x20, image is 30x24 pixels"),
        (lambda root: write_image(root, "b", random_pixels(1)[..., 0]), r"images/b\.png: 1 bands of uint8; expected 3"),
        (lambda root: cut_image(root, "b"), r"images/b\.png: cannot be read: .*; get the file anew"),
        (
            lambda root: write_tiff(root / "images" / "b.tif", random_pixels(3)),
            r"images/b\.tif: tile b is b\.png too; expected one file a tile",
        ),
        (
            lambda root: (root / "points.geojson").write_text("{}"),
            "points.csv and points.geojson; expected one file of points",
        ),
        (lambda root: (root / "points.csv").write_text("tile_id,row,col,class\nz,0,0,wood"), r"points\.csv, line 2: "),
    ],
    ids=["legend", "images", "stray", "size", "bands", "cut", "twice", "points", "point"],
)
def test_bad_input_is_refused_by_the_files_name(tmp_path, damage, told):
    root = own_folder(tmp_path, "abc", "abc", ["a,0,0,wood"])
    damage(root)
    refused(root, told)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"groups.csv": "tile,region\na,west\nb,west", "splits/train.txt": "a", "splits/validation.txt": "b"},
            r"splits: region 'west' of groups.csv is in train \(tile a\) and in validation \(tile b\)",
        ),
        ({"splits/train.txt": "a\nb\na"}, r"train\.txt, line 3: tile a is named before, in .*train\.txt, line 1"),
        ({"splits/train.txt": "a\na.png"}, r"train\.txt, line 2: no image of tile 'a\.png'; .* without a suffix"),
        ({"splits/train.txt": "a\nd"}, r"train\.txt, line 2: tile d has neither mask nor points"),
        ({"splits/all.txt": "a"}, r"all\.txt: 'all' cannot name a split"),
        ({"splits/train-1.txt": "a"}, r"train-1\.txt: 'train-1' cannot name a split"),
        ({"splits/train.txt": b"\xff\xfea"}, r"train\.txt: is no UTF-8"),
        (
            {"groups.csv": "tile;region\na;west"},
            r"groups\.csv: columns are \['tile;region'\]; expected tile and region",
        ),
        ({"groups.csv": "tile,region\nz,west"}, r"groups\.csv, line 2: no image of tile 'z'"),
        ({"groups.csv": "tile,region\na,west\na,east"}, r"groups\.csv, line 3: tile a is named before"),
        ({"groups.csv": "tile,region\na"}, r"groups\.csv, line 2: tile a has no region"),
    ],
)
def test_bad_lists_are_refused_with_file_and_line(tmp_path, files, told):
    root = own_folder(tmp_path, "abcd", "abc")
    for name, text in files.items():
        (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(root, told)


def test_a_band_of_one_value_and_images_without_data_are_refused(tmp_path):
    root = own_folder(tmp_path)
    pixels = random_pixels(5, "uint16", SHAPE)
    pixels[..., 3] = 12
    write_tiff(root / "images" / "a.tif", pixels)
    refused(root, "images: band 4 is 12 nearly everywhere on the training tiles")
    write_tiff(root / "images" / "a.tif", np.full_like(pixels, 7), nodata=7)
    refused(root, "images: no pixel of the training tiles has data")


def test_a_truncated_tiff_is_refused_by_its_name(tmp_path):
    root = own_folder(tmp_path)
    path = write_tiff(root / "images" / "a.tif", random_pixels(5, "uint16", SHAPE))
    path.write_bytes(path.read_bytes()[:2000])
    refused(root, r"images/a\.tif: cannot be read: .*; expected a whole TIFF")


@pytest.mark.parametrize("manual_dir", [None, "gone"])
def test_a_folder_that_is_not_there_is_told(tmp_path, manual_dir):
    with pytest.raises(UserError, match=rf"--manual_dir={manual_dir}: no such folder; expected one with legend.yaml"):
        prepare_dataset("folder", tmp_path, **({"manual_dir": manual_dir} if manual_dir else {}))


# The whole way


def test_a_run_on_five_bands_is_taught_by_points_scored_on_masks_and_maps_a_geotiff(tmp_path):
    names = list("abcde")
    lines = [f"{t},{r},{c},{NAMES[classes(i)[r, c]]}" for i, t in enumerate("abc") for r, c in ((2, 3), (12, 20))]
    root = own_folder(tmp_path, points=lines)
    for i, name in enumerate(names):
        pixels = random_pixels(5, "uint16", SHAPE, i) * 20
        write_tiff(root / "images" / f"{name}.tif", pixels, nodata=0)
    for i, name in ((3, "d"), (4, "e")):
        write_tiff(root / "masks" / f"{name}.tif", IDS[classes(i)][..., None])
    (root / "splits" / "train.txt").write_text("a\nb\nc")
    (root / "splits" / "test.txt").write_text("d\ne")
    prepare(root)
    workdir = root / "run"
    result = train.train_and_evaluate(config_of(root, **{"data.eval_split": "test", "train.batch_size": 4}), workdir)
    assert result["protocol"] == "across"
    assert np.sum(result["confusion_matrix"]) == 2 * SHAPE[0] * SHAPE[1]
    assert evaluate.evaluate(workdir, "test")["confusion_matrix"] == result["confusion_matrix"]
    with pytest.raises(UserError, match="tile a has no mask"):
        evaluate.evaluate(workdir, "train")

    # What has no data has none in the map, which is the same whatever number stands there.
    maps = []
    for nodata in (0, 65535):
        pixels = random_pixels(5, "uint16", SHAPE, 9) * 20
        pixels[:5, :5] = nodata
        write_tiff(root / "new.tif", pixels, nodata=nodata)
        maps.append(
            read_raster(predict.predict(workdir, str(root / "new.tif"), root / f"maps_{nodata}")[0], indices=True)
        )
    assert maps[0].valid.shape == SHAPE
    assert maps[0].pixels.max() < 3
    np.testing.assert_array_equal(maps[0].pixels, maps[1].pixels)
    np.testing.assert_array_equal(np.argwhere(~maps[1].valid), [(r, c) for r in range(5) for c in range(5)])
    write_tiff(root / "rgb.tif", random_pixels(3))
    with pytest.raises(UserError, match=r"rgb\.tif: 3 bands of uint8; expected 5 of uint16, as the run was taught by"):
        predict.predict(workdir, str(root / "rgb.tif"), root / "maps")
