import subprocess
import sys
import textwrap

import numpy as np
import pytest
import rasterio

from pcejax import interrupts, map_files
from pcejax.errors import UserError
from pcejax.frames import Frame
from pcejax.legend import DEEPGLOBE, IGNORE

UTM = (10.0, 0.0, 342170.0, 0.0, -10.0, 3836350.0)
CLASSES = map_files.Content(["class"], DEEPGLOBE)


def random_ids(shape=(1, 700, 530), seed=0):
    ids = np.random.default_rng(seed).integers(0, 7, shape, np.uint8)
    ids[:, 10:50, 20:90] = IGNORE
    return ids


def write(path, rows, content=CLASSES, step=300, frame=None):
    frame = frame or Frame(*rows.shape[1:], UTM, "EPSG:32652")
    with map_files.map_file(path, frame, content) as take:
        for first in range(0, rows.shape[1], step):
            take(rows[:, first : first + step])
    return path


def write_all(path, strips):
    with map_files.map_file(path, Frame(700, 530, UTM, "EPSG:32652"), CLASSES) as take:
        for rows in strips:
            take(rows)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("step", [1, 300, 512, 2000])
def test_rows_come_back_whatever_the_strips(tmp_path, step):
    ids = random_ids()
    with rasterio.open(write(tmp_path / "a.tif", ids, step=step)) as file:
        np.testing.assert_array_equal(file.read(), ids)


def test_a_map_lies_where_its_frame_does_and_is_laid_out_for_the_cloud(tmp_path):
    path = write(tmp_path / "a.tif", random_ids())
    with rasterio.open(path) as file:
        assert file.crs == rasterio.crs.CRS.from_epsg(32652)
        assert tuple(file.transform)[:6] == UTM
        assert file.bounds == (342170, 3836350 - 7000, 342170 + 5300, 3836350)
        assert (file.dtypes, file.nodata) == (("uint8",), IGNORE)
        assert file.block_shapes == [(512, 512)]
        assert file.overviews(1) == [2]
        structure = file.tags(ns="IMAGE_STRUCTURE")
        # GDAL writes LAYOUT=COG with its driver of that name, and takes it away from a file that is changed later.
        assert (structure["LAYOUT"], structure["COMPRESSION"]) == ("COG", "DEFLATE")
        assert file.tags().items() >= {f"class_{n}": name for n, name in enumerate(DEEPGLOBE.names)}.items()
        assert file.colorinterp == (rasterio.enums.ColorInterp.palette,)
        colors = file.colormap(1)
        assert [colors[n][:3] for n in range(7)] == [*DEEPGLOBE.colors]
    # What readers of such files rely on: the header first, then overviews, then the full resolution.
    places = []
    for level in ({"overview_level": 0}, {}):
        with rasterio.open(path, **level) as file:
            places += [int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))]
            assert int(file.get_tag_item("IFD_OFFSET", "TIFF", bidx=1)) < min(places)
    assert places == sorted(places)


def test_overviews_hold_the_commonest_class_and_no_class_that_is_not_there(tmp_path):
    ids = np.zeros((1, 1200, 600), np.uint8)
    ids[:, ::5, ::7] = 4
    ids[:, 600:] = 2
    with rasterio.open(write(tmp_path / "a.tif", ids), overview_level=0) as file:
        small = file.read(1)
    assert set(np.unique(small)) <= {0, 2, 4}
    assert (small[:300] == 0).mean() > 0.95
    assert (small[300:] == 2).all()


@pytest.mark.parametrize("shape", [(1, 1), (512, 512), (513, 3), (1025, 1500), (700, 4097)])
def test_each_overview_is_half_of_the_one_before_down_to_a_block(tmp_path, shape):
    ids = random_ids((1, *shape))
    path = write(tmp_path / "a.tif", ids)
    sizes = [shape]
    while max(sizes[-1]) > 512:
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    with rasterio.open(path) as file:
        assert len(file.overviews(1)) == len(sizes) - 1
    above = ids[0]
    for level, (height, width) in enumerate(sizes[1:]):
        with rasterio.open(path, overview_level=level) as file:
            here = file.read(1)
        assert here.shape == (height, width)
        # The commonest of each four: no other one is there more often.
        even = np.pad(above, [(0, 2 * height - above.shape[0]), (0, 2 * width - above.shape[1])], mode="edge")
        four = even.reshape(height, 2, width, 2).transpose(0, 2, 1, 3).reshape(height, width, 4)
        counts = (four[..., None] == four[..., None, :]).sum(-1)
        np.testing.assert_array_equal((four == here[..., None]).sum(-1), counts.max(-1))
        above = here


def test_overviews_of_probabilities_are_means_of_what_has_data(tmp_path):
    rows = np.random.default_rng(0).integers(0, map_files.SHARES + 1, (2, 700, 530), np.uint8)
    rows[:, 10:50, 21:90] = IGNORE
    rows[1, :, 300:] = map_files.SHARES
    path = write(tmp_path / "p.tif", rows, map_files.Content(["wood", "field"]))
    with rasterio.open(path, overview_level=0) as file:
        small = file.read()
    four = np.where(rows == IGNORE, np.nan, rows.astype(float)).reshape(2, 350, 2, 265, 2)
    empty = np.isnan(four).all((2, 4))
    assert empty.sum() == 2 * 20 * 34
    np.testing.assert_array_equal(small == IGNORE, empty)
    means = np.nanmean(np.where(empty[:, :, None, :, None], 0, four), (2, 4))
    assert np.abs(small - means)[~empty].max() <= 0.5


def test_gdal_tells_the_classes_by_name(tmp_path):
    path = write(tmp_path / "a.tif", random_ids())
    text = map_files.files_of(path)[1].read_text()
    assert text.startswith('<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n      <Category>urban<')
    assert text.count("<Category>") == 7
    assert files(tmp_path) == ["a.tif", "a.tif.aux.xml"]


def test_probabilities_are_scaled_bands_with_names(tmp_path):
    rows = random_ids((2, 40, 30))
    path = write(tmp_path / "p.tif", rows, map_files.Content(["wood", "field"]))
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(), rows)
        assert file.descriptions == ("wood", "field")
        np.testing.assert_allclose(file.scales, 1 / 250)
        assert file.nodata == IGNORE
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert files(tmp_path) == ["p.tif"]


# Cut runs and full disks


@pytest.mark.parametrize("error", [ValueError("no"), interrupts.Interrupted("by SIGTERM"), UserError("bad raster")])
def test_an_error_meanwhile_is_passed_on_and_leaves_the_old_map(tmp_path, error):
    old = write(tmp_path / "a.tif", random_ids()).read_bytes()

    def rows():
        yield random_ids((1, 600, 530))
        raise error

    with pytest.raises(type(error), match=str(error)):
        write_all(tmp_path / "a.tif", rows())
    assert files(tmp_path) == ["a.tif", "a.tif.aux.xml"]
    assert (tmp_path / "a.tif").read_bytes() == old


SCRIPT = """
import os, resource, signal, sys
import numpy as np
from pathlib import Path
from pcejax import map_files
from pcejax.errors import UserError
from pcejax.frames import Frame
from pcejax.legend import DEEPGLOBE

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing on fails, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
ids = np.random.default_rng(0).integers(0, 256, (1, 1536, 1024), np.uint8)
frame = Frame(1536, 1024, (10.0, 0.0, 342170.0, 0.0, -10.0, 3836350.0), "EPSG:32652")
try:
    with map_files.map_file(Path(sys.argv[1]), frame, map_files.Content(["class"], DEEPGLOBE)) as take:
        for first in range(0, 1536, 300):
            take(ids[:, first : first + 300])
            if sys.argv[3] == str(first):
                os.kill(os.getpid(), signal.SIGKILL)
except UserError as error:
    sys.exit(f"error: {error}")
"""


def run_script(path, limit, killed_at=-1):
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(SCRIPT), str(path), str(limit), str(killed_at)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_disk_that_becomes_full_is_told_and_leaves_nothing(tmp_path):
    assert run_script(tmp_path / "fits.tif", 10**8).returncode == 0
    size = (tmp_path / "fits.tif").stat().st_size
    # The rows do not fit; the map does not, which has its overviews in it; all but the last block of it fits.
    for share in (0.3, 0.9, 0.999):
        ended = run_script(tmp_path / "a.tif", int(size * share))
        assert ended.returncode == 1, ended.stderr
        assert f"error: {tmp_path / 'a.tif'}: cannot be written: " in ended.stderr
        assert "expected room in a folder of yours" in ended.stderr
        assert files(tmp_path) == ["fits.tif", "fits.tif.aux.xml"]


def test_a_killed_run_leaves_no_map_and_the_next_one_clears_up(tmp_path):
    assert run_script(tmp_path / "a.tif", 10**8, killed_at=600).returncode == -9
    assert files(tmp_path) == [".a.tif.rows", ".a.tif.rows.ovr", ".a.tif.rows.ovr.ovr"]
    write(tmp_path / "a.tif", random_ids())
    assert files(tmp_path) == ["a.tif", "a.tif.aux.xml"]
