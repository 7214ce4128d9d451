import json

import pytest

from benchmarks import input_pipeline
from benchmarks.input_pipeline import KINDS, Settings, steady_rate
from tests.documented import documented, fields


def test_the_report_has_a_rate_for_every_source_of_both_sets(tmp_path):
    output = tmp_path / "bench" / "input.json"
    input_pipeline.main(Settings(output, images=50, batch=5, rounds=1))
    report = json.loads(output.read_text())
    assert documented("build/bench/input.json") == fields(report)
    assert [(found["images"], found["resolution"]) for found in report["sets"]] == [
        ("digits", 28),
        ("photographs", 224),
    ]
    for found in report["sets"]:
        for kind in KINDS:
            assert found[f"{kind}_images_per_second"] > 0
        # With one round a ratio of medians is the median of the ratios, but for the rounding.
        for kind in KINDS[1:]:
            rate, folder = (found[f"{each}_images_per_second"] for each in (kind, "folder"))
            assert abs(found[f"{kind}_to_folder"] - rate / folder) < 0.01 * (1 + rate / folder)


def test_the_clock_runs_while_as_many_batches_are_under_way_as_ever():
    # Those that were begun together come together, and so do the last.
    assert steady_rate([9.0, 9.1, 9.2, 10.0, 10.5, 11.0, 11.2, 11.3, 11.3]) == pytest.approx(4 / (11.2 - 9.2))


def test_too_few_images_for_that_are_told(tmp_path):
    with pytest.raises(ValueError, match="40 images make 5 batches of 8; take more --images"):
        input_pipeline.main(Settings(tmp_path / "input.json", images=50, batch=8, rounds=1))
