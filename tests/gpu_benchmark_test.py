import json

import pytest

from configs import default
from pcejax import gpu_benchmark, peers


def config_of():
    config = default.get_config()
    config.model.depth, config.data.crop = 1, 32
    return config


def test_a_row_is_measured_in_bfloat16():
    row = next(gpu_benchmark.measure_gpu(config_of(), [4], [2], 64, 2))
    assert (row["part"], row["name"], row["width"], row["batch_size"], row["crop"]) == ("batches", "pcejax", 4, 2, 32)
    assert "batches, width 4, 2 of 32 pixels, pcejax: " in gpu_benchmark.describe(row)
    assert sum(row["kernels"].values()) == pytest.approx(1)
    json.dumps(row)


def test_a_batch_too_large_ends_the_sweep_and_a_smaller_one_is_taken_beside_it(monkeypatch):
    """16 crops fit us and 8 fit PyTorch; 4 are the fastest with width 4, 16 with width 8."""
    config, seen = config_of(), []

    def measure(config, what, size, num_rounds, num_steps, names):
        (name,), batch, width = names, config.train.batch_size, config.model.width
        seen.append((name, what, config.data.tiles, config.data.crop, config.model.remat))
        assert config.model.dtype == "bfloat16"
        if batch > (16 if name == "pcejax" else 8):
            raise peers.WorkerFailed(f"{name}: JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")
        if name == "torch.compile":
            raise peers.WorkerFailed(f"{name}: InductorError: no C++ compiler")
        rate = batch if width == 8 else -abs(batch - 4)
        row = {"images_per_second": rate, "seconds": 1.0, "flops_per_second": 1e9, "peak_bytes": 1, "version": "1"}
        return {"rows": [row], "device": "cpu", "cores": 2, "kernels": {}}

    monkeypatch.setattr(peers, "measure", measure)
    monkeypatch.setattr(peers, "has_torch", lambda: True)
    rows = list(gpu_benchmark.measure_gpu(config, [4, 8], [2, 4, 8, 16, 32, 64], 64, 1))
    told = [(row["width"], row["part"], row["name"], row["batch_size"], "error" in row) for row in rows]
    beside_it = [("fed from the device", "pcejax"), ("fed from the host", "pcejax")]
    assert told == [
        *[(4, "batches", "pcejax", batch, batch > 16) for batch in (2, 4, 8, 16, 32)],
        (4, "beside", "torch", 4, False),
        (4, "beside", "torch.compile", 4, True),
        *[(4, *part, 4, False) for part in beside_it],
        *[(8, "batches", "pcejax", batch, batch > 16) for batch in (2, 4, 8, 16, 32)],
        (8, "beside", "torch", 16, True),
        (8, "beside", "torch", 8, False),
        (8, "beside", "torch.compile", 16, True),
        (8, "beside", "torch.compile", 8, True),
        *[(8, *part, 16, False) for part in beside_it],
        *[(width, "whole tile with remat", "pcejax", 1, False) for width in (4, 8)],
    ]
    assert {tiles for _, what, tiles, *_ in seen if what == "fed step"} == {"device", "host"}
    assert seen[-1][3:] == (64, True)
    assert {crop for *_, crop, remat in seen if not remat} == {32}
    assert gpu_benchmark.describe(rows[4]).endswith("out of memory")
    assert gpu_benchmark.describe(rows[6]).endswith("failed: torch.compile: InductorError: no C++ compiler")
    assert config == config_of()


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        ("torch: OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", True),
        ("pcejax: the process ended with -9 at 'round'; its error is above", True),
        ("pcejax: UserError: train.batch_size=3 on 2 devices", False),
    ],
)
def test_want_of_memory_is_told_from_other_failures(error, lacking):
    assert gpu_benchmark.lacks_memory({"error": error}) is lacking
