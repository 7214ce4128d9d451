import json

from benchmarks import input_pipeline
from benchmarks.input_pipeline import KINDS, Settings


def test_the_report_has_a_rate_for_every_source_of_both_sets(tmp_path):
    output = tmp_path / "bench" / "input.json"
    input_pipeline.main(Settings(output, images=50, batch=8, rounds=1))
    report = json.loads(output.read_text())
    assert {"cores", "batch", "rounds", "sets"} == set(report)
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
