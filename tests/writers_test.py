import json

import numpy as np
import pytest

from pcejax import writers
from pcejax.writers import Progress, Writer, append_line, format_duration, read_lines, write_json


def test_lines_come_back_as_they_were_appended(tmp_path):
    path = tmp_path / "records.jsonl"
    assert read_lines(path) == []
    records = [{"step": 1, "loss": 0.1}, {"step": 2, "name": "a\nb\u2028c"}, {}]
    for count, record in enumerate(records, 1):
        append_line(path, record)
        # On disk at once, not when a file is closed.
        assert read_lines(path) == records[:count]


def test_a_last_line_cut_at_any_place_is_left_out(tmp_path):
    path = tmp_path / "records.jsonl"
    for step in (1, 2):
        append_line(path, {"step": step, "loss": 0.5})
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        path.write_bytes(whole[:end])
        assert read_lines(path) == [{"step": 1, "loss": 0.5}]
    path.write_bytes(whole[: first - 1])
    assert read_lines(path) == []


def test_json_is_written_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "report" / "scores.json"
    write_json(path, {"miou": 0.5})
    write_json(path, {"miou": 0.6, "iou": {"water": None}})
    assert json.loads(path.read_text()) == {"miou": 0.6, "iou": {"water": None}}
    assert list(path.parent.iterdir()) == [path]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores.json"
    write_json(path, {"miou": 0.5})
    with pytest.raises(TypeError):
        write_json(path, {"miou": np.float32(0.6)})
    assert json.loads(path.read_text()) == {"miou": 0.5}


def write_run(workdir, steps, resumed_step=0):
    writer = Writer(workdir, resumed_step)
    for step in steps:
        writer.scalars(step, {"loss": step / 10}, {"seconds": 1.0} if step % 20 == 0 else {})
    writer.close()


def steps_in(path):
    return [record["step"] for record in read_lines(path)]


def test_what_is_deterministic_and_what_is_not_go_to_two_files(tmp_path):
    write_run(tmp_path, (10, 20))
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 10, "loss": 1.0}, {"step": 20, "loss": 2.0}]
    assert read_lines(tmp_path / "timing.jsonl") == [{"step": 20, "seconds": 1.0}]
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(("resumed_step", "kept"), [(0, []), (15, [10]), (20, [10, 20]), (40, [10, 20, 30, 40])])
def test_records_after_the_resumed_step_are_dropped(tmp_path, resumed_step, kept):
    write_run(tmp_path, (10, 20, 30, 40))
    write_run(tmp_path, (), resumed_step)
    assert steps_in(tmp_path / "metrics.jsonl") == kept
    assert steps_in(tmp_path / "timing.jsonl") == [step for step in kept if step % 20 == 0]


def test_a_run_that_was_cut_and_goes_on_leaves_the_file_of_one_that_was_not(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    write_run(whole, range(10, 60, 10))
    write_run(cut, range(10, 50, 10))
    # Killed while it wrote: the line is cut short, and step 20 was the last one saved.
    metrics = cut / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-4])
    write_run(cut, range(30, 60, 10), resumed_step=20)
    assert metrics.read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert sorted(p.name for p in cut.iterdir()) == ["metrics.jsonl", "tensorboard", "timing.jsonl"]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (219, "3:39"),
        (3599.7, "1:00:00"),
        (3730, "1:02:10"),
        (360_000, "100:00:00"),
    ],
)
def test_durations_are_told_in_minutes_and_hours(seconds, told):
    assert format_duration(seconds) == told


def test_progress_tells_rate_and_time_left_since_its_start(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(writers.time, "monotonic", lambda: now[0])
    progress = Progress(800, done=20)
    assert progress.line(20) == "20/800, 0.00/s, time left unknown"
    now[0] += 50
    # 100 more in 50 s; 680 to go. What was done before the start says nothing of the rate.
    assert progress.rate(120) == 2.0
    assert progress.line(120) == "120/800, 2.00/s, 5:40 left"
    assert progress.line(800).endswith("0:00 left")
