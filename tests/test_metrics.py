import json
import time

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorflow.core.util import event_pb2

from train.metrics import MetricsWriter


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def workdir(tmp_path):
    """Of a run that logged the steps 1 to 4 of 9."""
    workdir = tmp_path / "new" / "run"
    with MetricsWriter(workdir, "run", start=0, steps=9) as writer:
        for step in range(1, 5):
            writer.advance(step)
            writer.write(step, {"loss": 1 / step, "grad_norm": 2.0})
    return workdir


def test_a_line_is_a_step_with_its_numbers(workdir):
    assert lines(workdir) == [{"step": step, "loss": 1 / step, "grad_norm": 2.0} for step in range(1, 5)]


def test_tensorboard_has_the_same_numbers(workdir):
    (file,) = (workdir / "tensorboard").iterdir()
    found = {}
    for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
        event = event_pb2.Event.FromString(record)
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    assert found == pytest.approx(
        {(key, line["step"]): line[key] for line in lines(workdir) for key in ("loss", "grad_norm")}
    )


def test_tensorboard_has_no_step_twice_of_a_run_that_began_again(workdir, monkeypatch):
    """Steps 3 and 4 were logged, and are taken again after a restart at 2."""
    # The files are read in the order of their names, which within one second is that of a number that has no zeros.
    monkeypatch.setattr("time.time", lambda now=time.time: now() + 5)
    with MetricsWriter(workdir, "run", start=2, steps=9) as writer:
        writer.write(3, {"loss": 7.0})
        # Read while the run goes on: a line is there once it is written.
        events = EventAccumulator(str(workdir / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 0.5), (3, 7.0)]


def test_the_terminal_has_a_line_a_step_where_it_shows_no_bar(workdir, capsys):
    with MetricsWriter(workdir, "run", start=4, steps=9) as writer:
        writer.write(5, {"loss": 0.123456, "grad_norm": 2.0})
    assert capsys.readouterr().out == "step 5/9  loss 0.1235  grad_norm 2\n"


@pytest.mark.parametrize("start", [0, 2, 4])
def test_what_was_logged_beyond_the_resumed_step_is_dropped(workdir, start):
    before = lines(workdir)
    with MetricsWriter(workdir, "run", start=start, steps=9) as writer:
        writer.write(start + 1, {"loss": 7.0})
    assert lines(workdir) == [*before[:start], {"step": start + 1, "loss": 7.0}]


def test_half_a_line_of_a_run_that_was_killed_is_dropped(workdir):
    before = lines(workdir)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    with MetricsWriter(workdir, "run", start=5, steps=9) as writer:
        writer.write(6, {"loss": 7.0})
    assert lines(workdir) == [*before, {"step": 6, "loss": 7.0}]


def test_layers_are_a_list_in_the_file_and_apart_in_tensorboard(tmp_path, capsys):
    with MetricsWriter(tmp_path, "run", start=0, steps=9) as writer:
        writer.write(1, {"loss": 7.0, "max_logit": [1.0, 3.0, 2.0], "entropy": [3.0, 0.5, 2.0]})
    assert lines(tmp_path) == [{"step": 1, "loss": 7.0, "max_logit": [1.0, 3.0, 2.0], "entropy": [3.0, 0.5, 2.0]}]
    (file,) = (tmp_path / "tensorboard").iterdir()
    tags = {
        value.tag: value.simple_value
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
        for value in event_pb2.Event.FromString(record).summary.value
    }
    assert {name: tags[name] for name in ("max_logit/00", "max_logit/01", "entropy/02")} == {
        "max_logit/00": 1.0,
        "max_logit/01": 3.0,
        "entropy/02": 2.0,
    }
    # The terminal has the most alarming layer of each.
    assert capsys.readouterr().out == "step 1/9  loss 7  max_logit 3 (layer 1)  entropy 0.5 (layer 1)\n"


def test_a_start_that_is_killed_loses_nothing_of_the_log(workdir, monkeypatch):
    """It dies where the file is cut: nothing was taken out of it before."""
    read = (workdir / "metrics.jsonl").read_bytes()

    def killed(*_):
        assert (workdir / "metrics.jsonl").read_bytes() == read
        raise MemoryError

    monkeypatch.setattr("os.truncate", killed)
    with pytest.raises(MemoryError):
        MetricsWriter(workdir, "run", start=2, steps=9)
    assert (workdir / "metrics.jsonl").read_bytes() == read


@pytest.mark.parametrize("name", ["entropy", "max_logit"])
def test_a_layer_that_is_no_number_is_the_most_alarming(tmp_path, capsys, name):
    with MetricsWriter(tmp_path, "run", start=0, steps=9) as writer:
        writer.write(1, {name: [1.0, 0.5, float("nan"), 2.0]})
    assert capsys.readouterr().out == f"step 1/9  {name} nan (layer 2)\n"


def test_a_number_that_is_none_is_null(tmp_path):
    with MetricsWriter(tmp_path, "run", start=0, steps=9) as writer:
        writer.write(1, {"loss": float("nan"), "max_logit": [1.0, float("inf")]})
    assert lines(tmp_path) == [{"step": 1, "loss": None, "max_logit": [1.0, None]}]


def test_the_bar_shows_the_rates_of_what_there_is(tmp_path):
    with MetricsWriter(tmp_path, "run", start=0, steps=9) as writer:
        writer.write(3, {"loss": 0.25, "images_per_second": 1234.5, "mfu": 0.549, "input_wait": 0.02})
        (task,) = writer._progress.tasks
    assert task.completed == 3
    assert task.fields["shown"] == "loss 0.25  1,234 images/s  MFU 54.9%  2.0% waiting for data"
