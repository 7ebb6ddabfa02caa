import numpy as np
import pytest
from PIL import Image
from runs_for_tests import config_of, prepare, save_image, save_run

from pcejax import pictures, predict, trained
from pcejax.datasets import RGB
from pcejax.errors import UserError
from pcejax.legend import DEEPGLOBE, decode_mask


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    prepare(data_dir := tmp_path_factory.mktemp("data"))
    save_run(folder := tmp_path_factory.mktemp("run"), config_of(data_dir))
    return folder


# Which images


def test_a_file_a_folder_and_a_glob_name_images_in_order(tmp_path):
    for name in ("b.png", "a.JPG", "c.tif", "c.tif.aux.xml", "notes.txt", "sub/d.jpeg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def found(pattern):
        return [str(path.relative_to(tmp_path)) for path in predict.find_images(str(tmp_path / pattern))]

    assert found("b.png") == ["b.png"]
    assert found("") == ["a.JPG", "b.png", "c.tif"]
    assert found("*.png") == ["b.png"]
    assert found("**/*.jp*g") == ["sub/d.jpeg"]
    assert found("[ab]*") == ["a.JPG", "b.png"]
    assert found("*") == ["a.JPG", "b.png", "c.tif"]
    assert found("**") == ["a.JPG", "b.png", "c.tif", "sub/d.jpeg"]
    assert found("notes.txt") == ["notes.txt"]  # a file is taken at its word


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path):
    (tmp_path / "a[1].png").write_bytes(b"")
    assert predict.find_images(str(tmp_path / "a[1].png")) == [tmp_path / "a[1].png"]


def test_a_path_from_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"")
    assert predict.find_images("~/*.png") == [tmp_path / "a.png"]


@pytest.mark.parametrize("pattern", ["gone.png", "*.png", "*.txt", "sub"])
def test_no_image_is_told(tmp_path, pattern):
    (tmp_path / "sub").mkdir()
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"--input=.*: no image; expected a file, a glob, or a folder of \.png"):
        predict.find_images(str(tmp_path / pattern))


# Which maps


@pytest.mark.parametrize("shape", [(96, 96), (50, 131), (20, 33), (1, 1)])
def test_three_maps_of_an_image_agree_and_have_its_size(workdir, tmp_path, shape):
    image = save_image(tmp_path / "in" / "field.png", shape)
    written = predict.predict(workdir, str(tmp_path / "in"), tmp_path / "out")
    names = ["field_classes.png", "field_mask.png", "field_overlay.jpg"]
    assert written == [tmp_path / "out" / name for name in names]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    classes, mask, overlay = (Image.open(path) for path in written)
    assert classes.size == mask.size == overlay.size == shape[::-1]
    model = trained.load(workdir)
    ids = model.map_image(model.variables, image).argmax(-1)
    assert classes.mode == "P"
    np.testing.assert_array_equal(np.asarray(classes), ids)
    assert mask.mode == "RGB"
    np.testing.assert_array_equal(decode_mask(np.asarray(mask), DEEPGLOBE, "mask"), ids)
    laid = pictures.overlay(image, ids.astype(np.uint8), DEEPGLOBE)
    assert overlay.mode == "RGB"
    # JPEG: alike, not equal.
    assert np.abs(np.asarray(overlay, int).mean((0, 1)) - laid.mean((0, 1))).max() < 8


def test_class_ids_are_shown_in_the_legends_colours(workdir, tmp_path):
    save_image(tmp_path / "a.png", (60, 60))
    classes = Image.open(predict.predict(workdir, str(tmp_path / "a.png"), tmp_path / "out")[0])
    np.testing.assert_array_equal(np.reshape(classes.getpalette(), (-1, 3))[:7], DEEPGLOBE.palette)
    assert len(np.unique(np.asarray(classes))) > 1


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("RGBA", "png"), ("P", "png"), ("RGB", "tif")])
def test_grey_palette_and_transparent_images_are_mapped_as_rgb(workdir, tmp_path, mode, suffix):
    save_image(tmp_path / "rgb.png", (48, 48))
    Image.open(tmp_path / "rgb.png").convert(mode).save(tmp_path / f"other.{suffix}")
    written = predict.predict(workdir, str(tmp_path / f"other.{suffix}"), tmp_path / "out")
    assert np.asarray(Image.open(written[1])).shape == (48, 48, 3)


def test_the_classes_of_each_image_are_told(workdir, tmp_path, capsys):
    for index, name in enumerate(("a.png", "b.jpg")):
        save_image(tmp_path / "in" / name, (48, 48), index)
    assert len(predict.predict(workdir, str(tmp_path / "in"), tmp_path / "out")) == 6
    lines = capsys.readouterr().out.splitlines()
    assert "predict: images 1/2" in lines[0]
    assert "images 2/2" in lines[1]
    ids = np.asarray(Image.open(tmp_path / "out" / "a_classes.png"))
    for class_id, name in enumerate(DEEPGLOBE.names):
        share = np.mean(ids == class_id)
        assert (f"{name} {share:.0%}" in lines[0]) == (share >= 0.005)


def test_maps_are_written_over_old_ones_where_that_is_asked_for(workdir, tmp_path):
    save_image(tmp_path / "a.png", (48, 48))
    first = [path.read_bytes() for path in predict.predict(workdir, str(tmp_path / "a.png"), tmp_path / "out")]
    with pytest.raises(UserError, match=r"a_classes.png and 2 more are there; expected a new --output, or --overwrite"):
        predict.predict(workdir, str(tmp_path / "a.png"), tmp_path / "out")
    written = predict.predict(workdir, str(tmp_path / "a.png"), tmp_path / "out", overwrite=True)
    assert first == [path.read_bytes() for path in written]


# What is refused


def test_two_images_of_one_name_are_refused_before_any_map(workdir, tmp_path):
    for name in ("a/119.png", "b/119.png", "b/120.png"):
        save_image(tmp_path / name, (48, 48))
    with pytest.raises(UserError, match="two images are named '119'; their maps would overwrite each other"):
        predict.predict(workdir, str(tmp_path / "*" / "*.png"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def broken_chunk(whole):
    return whole[:37] + b"\xe8vm\x11" + whole[41:]


@pytest.mark.parametrize(
    "damage",
    [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"no image" * 20, broken_chunk],
    ids=["cut", "empty", "text", "chunk"],
)
def test_what_is_no_whole_image_is_told_by_its_name(workdir, tmp_path, damage):
    save_image(tmp_path / "bad.png", (48, 48))
    (tmp_path / "bad.png").write_bytes(damage((tmp_path / "bad.png").read_bytes()))
    with pytest.raises(UserError, match=r"bad.png: cannot be read: .*; expected a whole PNG or JPEG"):
        predict.predict(workdir, str(tmp_path / "bad.png"), tmp_path / "out")


def test_an_image_too_large_to_open_is_told(tmp_path, monkeypatch):
    save_image(tmp_path / "large.png", (48, 48))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match=r"large.png: cannot be read: Image size \(2304 pixels\) exceeds"):
        predict._read(tmp_path / "large.png", RGB)


def test_no_run_is_told(tmp_path):
    save_image(tmp_path / "a.png", (48, 48))
    with pytest.raises(UserError, match="no run there"):
        predict.predict(tmp_path / "gone", str(tmp_path / "a.png"), tmp_path / "out")
