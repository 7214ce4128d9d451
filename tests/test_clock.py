import types

import numpy as np
import pytest

from train import clock
from train.clock import Clock
from train.task import Work


@pytest.fixture
def time(monkeypatch):
    """A clock that the test moves."""
    now = types.SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(clock.time, "perf_counter", lambda: now.seconds)
    return now


def mesh(kind, devices):
    chips = [types.SimpleNamespace(device_kind=kind) for _ in range(devices)]
    return types.SimpleNamespace(size=devices, devices=np.array(chips))


def test_the_rates_are_those_since_the_last_reading(time):
    counter = Clock(32, Work(tokens=256, flops=1e12), mesh("TPU v4", 4))
    for _ in range(5):
        with counter:
            time.seconds += 0.25
        time.seconds += 0.75
        counter.step()
    with counter.stopped():
        time.seconds += 100
    # 32 images a second on 4 chips of 275 TFLOP/s.
    expected = {"images_per_second": 32.0, "input_wait": 0.25, "tokens_per_second_per_chip": 2048.0, "mfu": 0.0291}
    assert counter.read() == expected
    time.seconds += 2
    counter.step()
    assert counter.read() == expected | {
        "images_per_second": 16.0,
        "input_wait": 0.0,
        "tokens_per_second_per_chip": 1024.0,
        "mfu": 0.0145,
    }


def test_an_unknown_chip_has_no_mfu(time):
    counter = Clock(32, Work(tokens=256, flops=1e12), mesh("cpu", 1))
    time.seconds += 1
    assert set(counter.read()) == {"images_per_second", "input_wait", "tokens_per_second_per_chip"}
