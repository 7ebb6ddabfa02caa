from configs import default
from pcejax import benchmarks


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
