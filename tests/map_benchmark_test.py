import pytest

from configs import quickstart
from pcejax import map_benchmark


def test_the_time_of_a_map_is_told_with_the_models_share():
    config = quickstart.get_config("smoke")
    config.model.update(depth=1, width=2)
    config.inference.update(window=48, overlap=16, batch_size=2)
    row = map_benchmark.measure_predict(config, 300)
    assert row["side"] == 300
    assert row["megapixels_per_second"] == pytest.approx(0.09 / row["seconds"])
    assert row["outside_share"] == pytest.approx(1 - row["model_seconds"] / row["seconds"])
    assert min(row[name] for name in ("model_seconds", "reading_seconds", "writing_seconds", "peak_bytes")) > 0
