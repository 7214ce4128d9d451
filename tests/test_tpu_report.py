import json
from pathlib import Path

import pytest

from benchmarks import tpu_report
from train import topology
from train.abstract_step import Planned
from train.compilation import Program
from train.compute import Compute
from train.prediction import predict

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "tests" / "hlo" / "asynchronous.txt").read_text()
SMALL = Planned(size="mu", topology="v5p:2x2x2", batch=64, classes=10, compute=Compute(mesh="4x2", parallel="ring"))


@pytest.fixture
def row():
    found = predict(SMALL, Program(10**15, 1.0, 10**9, 10**9, TEXT, ""))
    found["goals_missed"] = tpu_report.missed(found)
    return found


@pytest.fixture
def refused():
    return {**predict(SMALL, Program(10**15, 1.0, None, None, "", "RESOURCE_EXHAUSTED")), "goals_missed": ["fits"]}


def perfect(row):
    layer = {"synchronous": 0, "overlapped_fraction": 1.0, "exposed_ms": 0.0, "ms": 1.0, "ring_bytes": 5}
    return {**row, "layer": {**row["layer"], **layer, "ring_bytes_closed_form": 5}}


def test_every_row_is_a_run_that_can_be():
    for run in tpu_report.ROWS:
        assert run.size == "22b"
        assert run.images_per_chip == (32 if run.topology == "v5p:4x4x4" else 64)
    asked = {(run.topology, run.compute.parallel) for run in tpu_report.ROWS}
    assert asked == {(where, how) for where in ("v5p:4x4x4", "v4:8x8x16") for how in ("ring", "gspmd")}


def test_the_report_has_what_fits_and_search_what_does_not(row, refused, tmp_path):
    tpu_report.write([row, refused], tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == [row]
    assert json.loads((tmp_path / "search.json").read_text()) == [refused]


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, []),
        ({"synchronous": 1}, ["none synchronous"]),
        ({"overlapped_fraction": 0.9}, ["overlapped_fraction of 0.95"]),
        ({"exposed_ms": 0.03}, ["exposed_ms of 2% of the layer"]),
        ({"ring_bytes": 4}, ["ring_bytes as the closed form"]),
    ],
)
def test_a_goal_that_is_missed_is_named(row, change, missed):
    good = perfect(row)
    assert tpu_report.missed({**good, "layer": {**good["layer"], **change}}) == missed


def test_on_v4_one_gather_may_be_synchronous(row):
    good = perfect(row)
    for count, missed in ((1, []), (2, ["at most one synchronous on v4"])):
        layer = {**good["layer"], "synchronous": count}
        assert tpu_report.missed({**good, "topology": "v4:8x8x16", "layer": layer}) == missed


def test_ci_fails_where_a_promise_is_broken_and_on_no_prediction(row, capsys):
    good = {**perfect(row), "predicted_mfu": 0.01, "goals_missed": ["exposed_ms of 2% of the layer"]}
    assert tpu_report.check(good) == 0
    assert tpu_report.check({**good, "goals_missed": ["none synchronous"]}) == 1
    assert "not reached: none synchronous" in capsys.readouterr().err


def test_a_report_is_shown_with_what_was_not_reached(row, refused, capsys):
    tpu_report.show([row, refused])
    out = capsys.readouterr().out
    assert "nothing was run on a TPU" in out
    assert "not reached: fits" in out


def test_every_field_of_a_row_is_in_the_docs(row):
    text = (ROOT / "docs" / "reports.md").read_text()
    for names in (row, row["layer"], row["layer"]["collectives"][0], row["step"]):
        for name in names:
            assert name in text, name


def test_without_the_compiler_the_remedy_is_told(monkeypatch, run_program, capsys):
    monkeypatch.setattr(topology, "has_compiler", lambda: False)
    assert run_program(tpu_report.main, tpu_report.Settings) == 2
    assert "pip install 'jax[tpu]'" in capsys.readouterr().err
