from configs import default
from pcejax import benchmarks, terms


def test_the_input_benchmark_counts_what_crosses_to_the_device_in_each_mode():
    config = default.get_config()
    config.data.update(scale=0.25, crop=16)
    config.train.batch_size = 4
    device, host = benchmarks.measure_input(config, 3)
    assert (device["tiles"], host["tiles"]) == ("device", "host")
    assert device["bytes_per_step"] == 4 * 16  # four numbers a crop
    assert host["bytes_per_step"] == 4 * (16 + 16 * 16 * 4 + 7 * 4)  # and image, label and class weights
    assert device["crops_per_second"] > 0
    assert host["crops_per_second"] > 0


def test_the_models_benchmark_tells_what_training_keeps():
    config = default.get_config()
    config.model.update(depth=1, width=8, norm="batch")
    small, large = (benchmarks.measure_model(config, size) for size in (16, 64))
    assert (small["parameters"], small["size"], large["size"]) == (large["parameters"], 16, 64)
    assert small["receptive_field"] == {"pixels": 18, "whole_image": False}
    # Parameters, two moments and the running mean of the parameters, float32.
    assert small["peak_bytes"] > 4 * 4 * small["parameters"]
    # And of each pixel at least the input of each convolution at the full resolution.
    assert large["peak_bytes"] - small["peak_bytes"] > (64**2 - 16**2) * 4 * (3 + 8 + 16 + 8)
    assert large["peak_bytes_remat"] not in (0, large["peak_bytes"])


def test_the_losses_benchmark_has_a_row_for_each_term_and_for_the_baseline(monkeypatch):
    kept = ("partial_cross_entropy", "consistency")  # each is a step to compile
    monkeypatch.setattr(terms, "TERMS", {name: terms.TERMS[name] for name in kept})
    config = default.get_config()
    config.model.update(depth=1, width=2)
    config.data.crop = 8
    config.train.batch_size = 1
    rows = benchmarks.measure_losses(config, 1)
    told = [row["term"] for row in rows]
    alone = ["partial_cross_entropy alone", "gated_crf alone", "gated_crf alone, unfolded"]
    assert told == [*terms.TERMS, *alone]
    assert rows[0]["share_of_step"] == 0
    assert all(row["peak_bytes"] > 0 for row in rows)
