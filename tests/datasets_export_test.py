import io

import numpy as np
from PIL import Image

from pcejax import datasets
from pcejax.datasets.export import write_images
from pcejax.datasets.prepare import prepare_dataset


def test_every_image_is_written_by_split_and_tile_as_it_is_stored(tmp_path):
    options = {"size": 64, "num_train": 2, "num_validation": 0, "num_test": 1, "num_unlabelled": 1}
    folder = prepare_dataset("synthetic_v1", tmp_path / "data", **options)
    write_images(folder, tmp_path / "images")
    written = {str(path.relative_to(tmp_path / "images")): path.read_bytes() for path in tmp_path.glob("images/*/*")}
    assert sorted(written) == ["test/test_0000.jpg", "train/train_0000.jpg", "train/train_0001.jpg"] + [
        f"{datasets.UNLABELLED}/{datasets.UNLABELLED}_0000.jpg"
    ]
    stored = datasets.open_dataset("synthetic_v1/64px_2-0-1-1_seed0", tmp_path / "data").as_data_source("train")
    decoded = np.asarray(Image.open(io.BytesIO(written["train/train_0001.jpg"])))
    np.testing.assert_array_equal(decoded, stored[1]["image"])
