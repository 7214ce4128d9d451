import numpy as np
import pytest

from serving import rates
from serving.call import Call
from serving.model_names import OTHER, ModelNames
from serving.rates import Rates


class Clock:
    def __init__(self, now=1000.0):
        self.now = now

    def __call__(self):
        return self.now


def end(made, seconds, status="OK", model="m", api="Predict"):
    made.end(Call(api, "GRPC", model=model), status, seconds)


def test_percentiles_are_within_a_tenth_of_numpys():
    made = Rates(Clock())
    times = np.random.default_rng(0).lognormal(-4, 1.5, 5000)
    for seconds in times:
        end(made, float(seconds))
    (row,) = made.rows()
    for summary in (row.minute, row.whole):
        for share, found in ((50, summary.p50), (95, summary.p95), (99, summary.p99)):
            exact = np.percentile(times, share, method="inverted_cdf")
            assert exact <= found <= exact * 1.1


def test_the_last_minute_forgets_and_the_whole_does_not():
    clock = Clock()
    made = Rates(clock)
    for _ in range(60):
        end(made, 0.010, "NOT_FOUND")
    clock.now += 30
    end(made, 10.0)
    (row,) = made.rows()
    assert (row.minute.count, row.whole.count) == (61, 61)
    assert row.minute.per_second == row.whole.per_second == pytest.approx(61 / 30)
    assert row.minute.statuses == {"NOT_FOUND": 60, "OK": 1}
    clock.now += 40
    (row,) = made.rows()
    assert (row.minute.count, row.whole.count) == (1, 61)
    assert row.minute.p50 == pytest.approx(10, rel=0.1)
    assert row.whole.p50 == pytest.approx(0.010, rel=0.1)
    assert row.minute.statuses == {"OK": 1}
    clock.now += 3600
    (row,) = made.rows()
    assert (row.minute.count, row.minute.p50, row.minute.per_second) == (0, None, 0)
    assert row.whole.statuses == {"NOT_FOUND": 60, "OK": 1}
    end(made, 0.010)
    assert made.rows()[0].minute.count == 1
    assert made.uptime == 3670


def test_models_and_apis_are_kept_apart():
    made = Rates(Clock())
    end(made, 0.1, model="b")
    end(made, 0.1, model="a", api="Classify")
    end(made, 0.1, model="a")
    assert [(row.model, row.api, row.whole.count) for row in made.rows()] == [
        ("a", "Classify", 1),
        ("a", "Predict", 1),
        ("b", "Predict", 1),
    ]


def test_times_beyond_the_buckets_count():
    made = Rates(Clock())
    end(made, 1e-9)
    end(made, 1e6)
    (row,) = made.rows()
    assert (row.whole.count, row.whole.p50) == (2, rates._LIMITS[0])
    assert row.whole.p99 == rates._LIMITS[-1]


def test_a_client_that_makes_up_names_takes_no_memory_without_end():
    names = ModelNames()
    names.follow(lambda: ["vit"])
    made = Rates(Clock(), names)
    for number in range(100):
        end(made, 0.1, model=f"m{number}")
    end(made, 0.1, model="vit")
    counts = {row.model: row.whole.count for row in made.rows()}
    assert len(counts) == 22
    assert (counts[OTHER], counts["vit"]) == (80, 1)
