from __future__ import annotations

import io
import sys
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from pcejax import datasets
from pcejax.datasets.deepglobe import Deepglobe, survey
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE, IGNORE, encode_mask

SIZE = 64  # px
LABELLED = ("119", "3484", "855", "10233", "6399", "104113")
UNLABELLED = {"valid": ("26961", "6390"), "test": ("118757",)}


def classes_of(tile_id, size=SIZE):
    """Truth of a tile: uint8 `[size, size]`."""
    return np.random.default_rng(int(tile_id)).integers(0, DEEPGLOBE.num_classes, (size, size), np.uint8)


def save_image(path, tile_id, size=SIZE):
    pixels = np.random.default_rng(int(tile_id) + 1).integers(0, 256, (size, size, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "JPEG", quality=90)


def save_mask(path, tile_id, size=SIZE):
    """Colours off 0 and 255, as in the real archive, on the right side of 128."""
    pure = encode_mask(classes_of(tile_id, size), DEEPGLOBE)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(pure, np.uint8(128), np.uint8(127))).save(path)


def save_list(folder, split, *lines):
    (folder / "splits").mkdir(parents=True, exist_ok=True)
    (folder / "splits" / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))


def save_archive(folder):
    """Six labelled tiles and three unlabelled ones, without split lists."""
    for tile_id in LABELLED:
        save_image(folder / "train" / f"{tile_id}_sat.jpg", tile_id)
        save_mask(folder / "train" / f"{tile_id}_mask.png", tile_id)
    for part, ids in UNLABELLED.items():
        for tile_id in ids:
            save_image(folder / part / f"{tile_id}_sat.jpg", tile_id)
    (folder / "metadata.csv").write_text("image_id,split,sat_image_path,mask_path\n")
    rows = [f"{name}_land,{r},{g},{b}\n" for name, (r, g, b) in zip(DEEPGLOBE.names, DEEPGLOBE.colors, strict=True)]
    (folder / "class_dict.csv").write_text("name,r,g,b\n" + "".join(rows))
    return folder


def zip_of(folder, path, top=""):
    with zipfile.ZipFile(path, "w") as file:
        for member in sorted(folder.rglob("*")):
            if member.is_file():
                file.write(member, f"{top}{member.relative_to(folder)}")
    return path


def ids_of(plan):
    return {split: [tile.tile_id for tile in tiles] for split, tiles in plan.splits.items()}


def build(source, data_dir):
    builder = Deepglobe(manual_dir=source, data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare()
    return datasets.open_dataset("deepglobe", data_dir)


def examples_of(builder):
    """Image bytes and class ids of each tile of each split."""
    raw = {"image": tfds.decode.SkipDecoding()}
    return {
        split: [
            (e["tile_id"].decode(), e["image"], e["mask"].tobytes())
            for e in builder.as_data_source(split, decoders=raw)
        ]
        for split in builder.info.splits
    }


@pytest.fixture
def folder(tmp_path):
    return save_archive(tmp_path / "archive")


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """An archive with lists, and what was built from it."""
    root = tmp_path_factory.mktemp("deepglobe")
    folder = save_archive(root / "archive")
    save_list(folder, "train", "855_sat.jpg", "119_sat.jpg", "3484_sat.jpg", "10233_sat.jpg", "77_sat.jpg")
    save_list(folder, "test", "6399_sat.jpg")
    return folder, build(folder, root / "data")


def test_images_are_stored_as_they_came_and_masks_as_class_ids(listed):
    folder, builder = listed
    for tile_id, image, mask in examples_of(builder)["train"]:
        assert image == (folder / "train" / f"{tile_id}_sat.jpg").read_bytes()
        assert mask == classes_of(tile_id).tobytes()


def test_a_pixel_is_half_a_metre(listed):
    folder, builder = listed
    assert datasets.bands_of(builder).metres == 0.5
    assert datasets.bands_of(datasets.open_dataset("deepglobe", folder.parent / "data")).metres == 0.5


def test_stored_masks_are_8_bit_png(listed):
    raw = listed[1].as_data_source("train", decoders={"mask": tfds.decode.SkipDecoding()})[0]["mask"]
    assert (Image.open(io.BytesIO(raw)).format, Image.open(io.BytesIO(raw)).mode) == ("PNG", "L")


def test_lists_set_the_splits_and_the_order(listed):
    tiles = {split: [e[0] for e in examples] for split, examples in examples_of(listed[1]).items()}
    assert tiles == {
        "train": ["855", "119", "3484", "10233"],
        "test": ["6399"],
        datasets.UNLABELLED: ["118757", "26961", "6390"],
    }


def test_slices_are_slices_of_the_list(listed):
    source = listed[1].as_data_source("train[:1]+train[2:]")
    assert [source[i]["tile_id"] for i in range(len(source))] == [b"855", b"3484", b"10233"]


def test_unlabelled_tiles_have_no_class(listed):
    for tile in listed[1].as_data_source(datasets.UNLABELLED):
        assert tile["mask"].shape == (SIZE, SIZE, 1)
        assert (tile["mask"] == IGNORE).all()


def test_the_legend_travels_with_the_data(listed):
    assert datasets.legend_of(listed[1]) == DEEPGLOBE


def test_what_is_left_out_is_told_with_the_reason(listed):
    assert [(s.number, s.what) for s in survey(listed[0]).skipped] == [
        (1, "ids in splits/train.txt"),  # 77 has no file
        (1, "tiles in train/"),  # no list names 104113
    ]


def test_tensorflow_is_not_imported(listed):
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("top", ["", "land/"])
def test_a_zip_and_its_folder_give_the_same_dataset(listed, tmp_path, top):
    folder, builder = listed
    assert examples_of(build(zip_of(folder, tmp_path / "a.zip", top), tmp_path)) == examples_of(builder)


def test_a_folder_that_holds_only_the_zip_stands_for_the_zip(listed, tmp_path):
    zip_of(listed[0], tmp_path / "a.zip")
    assert ids_of(survey(tmp_path)) == ids_of(survey(listed[0]))


def test_a_top_folder_is_found(listed):
    assert ids_of(survey(listed[0].parent)) == ids_of(survey(listed[0]))


def test_lists_beside_a_zip_are_honoured(folder, tmp_path):
    zipped = zip_of(folder, tmp_path / "a.zip", "land/")
    save_list(tmp_path, "crossvali", "3484_sat.jpg")
    assert ids_of(survey(zipped))["crossvali"] == ["3484"]
    assert "train" not in ids_of(survey(zipped))


def test_junk_that_some_zip_programs_add_is_no_tile(folder):
    (folder / "train" / "._119_sat.jpg").write_bytes(b"x")
    (folder / "__MACOSX" / "train").mkdir(parents=True)
    (folder / "__MACOSX" / "train" / "._119_sat.jpg").write_bytes(b"x")
    assert sum(map(len, survey(folder).splits.values())) == 9


def test_without_lists_every_labelled_tile_is_in_one_split(folder):
    drawn = ids_of(survey(folder))
    assert {split: len(ids) for split, ids in drawn.items()} == {
        "train": 3,
        "crossvali": 2,
        "test": 1,
        datasets.UNLABELLED: 3,
    }
    assert sorted(drawn["train"] + drawn["crossvali"] + drawn["test"]) == sorted(LABELLED)


def test_the_split_without_lists_never_changes(folder):
    """Golden values: whoever prepared earlier must get the same split again."""
    assert {s: ids for s, ids in ids_of(survey(folder)).items() if s != datasets.UNLABELLED} == {
        "train": ["10233", "104113", "119"],
        "crossvali": ["3484", "855"],
        "test": ["6399"],
    }


def test_a_listed_tile_whose_image_is_unlabelled_is_told(folder):
    save_list(folder, "train", "119_sat.jpg", "6390_sat.jpg")
    plan = survey(folder)
    assert ids_of(plan)["train"] == ["119"]
    assert "valid/6390_sat.jpg" in plan.skipped[0].why


def test_masks_without_an_image_are_told(folder):
    (folder / "train" / "119_sat.jpg").unlink()
    assert survey(folder).skipped == [(1, "masks in train/", "no image for them, as 119")]


def test_more_tiles_than_a_shard_keep_their_order(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("pcejax.datasets.deepglobe._TILES_PER_SHARD", 2)
    builder = build(folder, tmp_path)
    assert len(builder.info.splits["train"].filepaths) == 2
    assert [e[0] for e in examples_of(builder)["train"]] == ids_of(survey(folder))["train"]


def cut(path, share):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def recolour(path):
    mask = np.array(Image.open(path))
    mask[:3, :4] = (255, 0, 0)
    Image.fromarray(mask).save(path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda f: cut(f / "train/119_sat.jpg", 0.99),
            r"train/119_sat\.jpg: \d+ bytes, cannot be decoded: .*truncat",
        ),
        (lambda f: cut(f / "valid/6390_sat.jpg", 0.5), r"valid/6390_sat\.jpg: \d+ bytes, cannot be decoded: .*truncat"),
        (lambda f: cut(f / "train/119_mask.png", 0.9), r"train/119_mask\.png: \d+ bytes, cannot be decoded"),
        (lambda f: (f / "train/119_sat.jpg").write_bytes(b""), r"119_sat\.jpg: 0 bytes, .* no JPEG or PNG"),
        (lambda f: save_mask(f / "train/119_mask.png", "119", 32), "mask is 32x32, image is 64x64"),
        (lambda f: recolour(f / "train/119_mask.png"), r"119_mask\.png: 1 colour.*\(255, 0, 0\) at 12 pixels"),
        (lambda f: Image.new("L", (SIZE, SIZE)).save(f / "train/119_mask.png"), r"119_mask\.png: bands are L"),
        (lambda f: Image.new("L", (SIZE, SIZE)).save(f / "train/119_sat.jpg"), r"119_sat\.jpg: bands are L"),
    ],
)
def test_a_bad_tile_ends_in_one_message_and_no_dataset(folder, tmp_path, damage, told):
    damage(folder)
    with pytest.raises(UserError, match=told) as caught:
        build(folder, tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "data").rglob("*.array_record*"))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "train/119_mask.png").unlink(), r"train/119_sat\.jpg: has no mask"),
        (
            lambda f: (f / "class_dict.csv").write_text("name,r,g,b\nroad,255,255,255\nbackground,0,0,0\n"),
            r"class_dict\.csv: classes are road, background; expected",
        ),
        (lambda f: save_list(f, "test", "119_sat.jpg", "855_sat.jpg", "119_sat.jpg"), "line 3: tile 119 .* line 1"),
        (
            lambda f: [save_list(f, split, "119_sat.jpg") for split in ("train", "test")],
            r"splits/test\.txt, line 1: tile 119 is named before, in .*splits/train\.txt, line 1",
        ),
        (lambda f: save_list(f, "train", "119.jpg"), "line 1: got '119.jpg'; expected <id>_sat.jpg"),
        (lambda f: save_list(f, "train", "1_sat.jpg"), "no tile for a labelled split"),
        (lambda f: save_list(f, "train"), "no tile for a labelled split"),
        (lambda f: save_image(f / "test/119_sat.jpg", "119"), r"tile 119 is test/119_sat\.jpg and train/119_sat\.jpg"),
        (lambda f: save_image(f / "copy/train/119_sat.jpg", "119"), r"tiles in several folders \(\., copy/\)"),
    ],
)
def test_a_bad_archive_is_told_before_any_image_is_read(folder, damage, told):
    damage(folder)
    with pytest.raises(UserError, match=told):
        survey(folder)


def test_a_missing_or_empty_manual_dir_is_told(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        survey(tmp_path / "none")
    with pytest.raises(UserError, match="is empty"):
        survey(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="holds no tile; expected"):
        survey(tmp_path)


def test_a_cut_zip_is_told(folder, tmp_path):
    zipped = zip_of(folder, tmp_path / "a.zip")
    cut(zipped, 0.7)
    with pytest.raises(UserError, match=r"a\.zip: \d+ bytes that are no whole zip"):
        survey(zipped)


def test_a_zip_with_a_damaged_member_is_told(folder, tmp_path):
    zipped = zip_of(folder, tmp_path / "a.zip")
    whole, image = zipped.read_bytes(), (folder / "train" / "119_sat.jpg").read_bytes()
    middle = whole.index(image) + len(image) // 2
    zipped.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    with pytest.raises(UserError, match=r"a\.zip/train/119_sat\.jpg: cannot be read: Bad CRC-32"):
        build(zipped, tmp_path / "data")
