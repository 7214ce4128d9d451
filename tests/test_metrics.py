import json

import pytest
import tensorflow as tf
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
        found |= {(value.tag, event.step): float(tf.make_ndarray(value.tensor)) for value in event.summary.value}
    assert found == pytest.approx(
        {(key, line["step"]): line[key] for line in lines(workdir) for key in ("loss", "grad_norm")}
    )


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
