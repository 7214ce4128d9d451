import json
from pathlib import Path

import pytest

from benchmarks import tpu_report
from tests.documented import documented, fields
from train.abstract_step import Planned
from train.compilation import Program
from train.compute import Compute
from train.prediction import impossible, predict
from vit22b import topology

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
    runs = (SMALL, SMALL.with_compute(mesh="8x1"))
    refused = {**refused, "mesh": "8x1"}
    for one in (row, refused):
        tpu_report.write([one], tmp_path, runs)
    assert json.loads((tmp_path / "report.json").read_text()) == [row]
    assert json.loads((tmp_path / "search.json").read_text()) == [refused]


def test_a_report_that_is_interrupted_keeps_the_other_rows_and_no_stale_ones(row, refused, tmp_path):
    runs = tuple(SMALL.with_compute(mesh=mesh) for mesh in ("8x1", "4x2", "2x4"))
    first, second, third = ({**row, "mesh": run.compute.mesh} for run in runs)
    tpu_report.write([third, first, second], tmp_path, runs)
    again = {**second, "predicted_mfu": 0.5}
    tpu_report.write([again], tmp_path, runs)
    assert json.loads((tmp_path / "report.json").read_text()) == [first, again, third]
    tpu_report.write([{**refused, "mesh": "8x1"}], tmp_path, runs[:2])
    assert json.loads((tmp_path / "report.json").read_text()) == [again], (
        "the first fits no more, the third is not asked"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "search.json"}


def test_ci_compiles_one_row_and_leaves_every_report_as_it_is(tmp_path, monkeypatch, run_program):
    (tmp_path / "report.json").write_text("[]")
    monkeypatch.setattr(topology, "has_compiler", lambda: True)
    monkeypatch.setattr(tpu_report, "CI", SMALL)
    monkeypatch.setattr(tpu_report, "compile_apart", lambda *_: Program(10**15, 1.0, 10**9, 10**9, TEXT, ""))
    run_program(tpu_report.main, tpu_report.Settings, "--ci", "--folder", tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"report.json": "[]"}


def test_a_row_that_fits_without_a_layer_misses_a_goal_and_is_shown(row, capsys):
    without = {**row, "layer": None}
    without["goals_missed"] = tpu_report.missed(without)
    assert without["goals_missed"] == ["layer is known"]
    assert tpu_report.check(without) == 1
    tpu_report.show([without])
    assert "not reached: layer is known" in capsys.readouterr().out


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


def test_the_docs_have_the_fields_of_a_row_and_no_others(row):
    assert documented("build/tpu/report.json") == fields(row)


def test_every_row_has_every_field(row, refused):
    assert set(refused) == set(row)
    assert set(impossible(SMALL, "it cannot be")) == set(row) - {"goals_missed"}


def test_without_the_compiler_the_remedy_is_told(monkeypatch, run_program, capsys):
    monkeypatch.setattr(topology, "has_compiler", lambda: False)
    assert run_program(tpu_report.main, tpu_report.Settings) == 2
    assert "pip install 'jax[tpu]'" in capsys.readouterr().err
