import json
import re

import numpy as np
import pytest

from tests import sample_reports
from tests.documented import documented, fields
from tests.planted_tower import PATCH, PlantedTower
from train.evaluation_sets.reading import EvaluationSet, write_set
from train.reports import document, facts
from train.reports.document import lines_of, plain
from train.reports.paper_figures import PAPER_FIGURES, paper_figures
from train.suite.outcome import CannotRun, Plot, Row
from train.suite.protocol import Protocol
from train.suite.registry import PROTOCOLS
from train.suite.running import Task, run
from vit22b.report_rows import read_rows


@pytest.fixture
def report():
    return sample_reports.report()


def test_what_is_written_is_read_again_but_for_the_pictures(report, tmp_path):
    document.write(report, tmp_path / "deep" / "report.json")
    found = document.read(tmp_path / "deep" / "report.json")
    assert found.rows == report.rows
    assert (found.model, found.sets, found.protocols) == (report.model, report.sets, report.protocols)
    assert (found.not_run, found.seconds, found.packages) == (report.not_run, report.seconds, report.packages)
    assert [plot.kind for plot in found.plots] == [plot.kind for plot in report.plots if plot.kind != "overlays"]
    assert list(found.plots[0].values["series"]["ridge"]) == report.plots[0].values["series"]["ridge"].tolist()
    assert document.Report.from_json(json.loads(found.to_json())).rows == report.rows


def test_who_did_not_make_it_reads_its_rows(report, tmp_path):
    document.write(report, tmp_path / "report.json")
    found = read_rows(tmp_path / "report.json")
    assert (found.source, found.space_id, found.date) == (report.model.source, report.model.space_id, "2030-01-01")
    for theirs, ours in zip(found.rows, report.rows, strict=True):
        for name in ("protocol", "data", "metric", "value", "chance", "interval", "synthetic", "deviation", "seeds"):
            assert getattr(theirs, name) == getattr(ours, name)


def test_every_row_says_by_how_much_it_beats_chance(report):
    rows = json.loads(report.to_json())["rows"]
    assert [row["beats_chance_by"] for row in rows] == [row.beats_chance_by for row in report.rows]
    less = sample_reports.row(value=0.2, better="less", chance=0.5)
    assert less.beats_chance_by == pytest.approx(0.3)
    assert sample_reports.row(better="neither").beats_chance_by is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_row(value):
    with pytest.raises(ValueError, match=f"top1 on emoji is {value}, which is no number"):
        sample_reports.report(rows=(sample_reports.row(value=value),))
    with pytest.raises(ValueError, match="JSON"):
        lines_of({"value": value})


def test_a_row_of_no_protocol_is_refused():
    with pytest.raises(ValueError, match="none of the report's protocols"):
        sample_reports.report(rows=(sample_reports.row(protocol="another/1"),))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.pop("rows"), "is no report"),
        (lambda values: values.update(rows={}), "is damaged"),
        (lambda values: values.update(format_version=2), "format version 2, this vit22b reads 1"),
        (lambda values: values.pop("sets"), "lacks 'sets'"),
        (lambda values: values["rows"][0].pop("value"), "Row lacks value"),
        (lambda values: values["rows"][0].update(new=1), "Row has no field new"),
        (lambda values: values["rows"].append("row"), "Row is 'row'; expected an object"),
        (
            lambda values: values["rows"][0].update(scores=[1, "0"]),
            r"rows\[0\]: scores is .*'0'.*a list \(a number each\) or null",
        ),
        (
            lambda values: values["rows"][1].update(better="most"),
            r"rows\[1\]: better is 'most'; expected one of 'more'",
        ),
        (lambda values: values["model"].update(parameters=None), "parameters is None; expected a whole number"),
        (lambda values: values.update(seconds={"a": "1"}), r"seconds is .*an object \(a number each\)"),
    ],
)
def test_a_broken_report_is_told_by_name(report, tmp_path, change, message):
    values = json.loads(report.to_json())
    change(values)
    (tmp_path / "report.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message) as told:
        document.read(tmp_path / "report.json")
    assert "report.json" in str(told.value)
    with pytest.raises(ValueError, match=r"none\.json is missing"):
        document.read(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r" is no report; expected the report\.json"):
        document.read(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("value", "high", "a number"),
        ("value", True, "a number"),
        ("interval", 0.5, "a list of 2 (a number each) or null"),
        ("interval", [0.5], "a list of 2 (a number each) or null"),
        ("examples", None, "a whole number"),
        ("examples", 4.5, "a whole number"),
        ("chance", [], "a number or null"),
        ("settings", ["sgd"], "an object"),
        ("data", 3, "a text"),
    ],
)
def test_a_value_of_another_type_is_told_with_its_row_and_field(report, tmp_path, field, value, expected):
    values = json.loads(report.to_json())
    values["rows"][2][field] = value
    (tmp_path / "report.json").write_text(json.dumps(values))
    for read in (document.read, read_rows):
        with pytest.raises(
            ValueError, match=rf"report\.json is damaged: rows\[2\]: {field} is .*; expected {re.escape(expected)};"
        ):
            read(tmp_path / "report.json")


@pytest.mark.parametrize(("where", "field"), [("", "date"), ("model", "source"), ("model", "space_id")])
def test_what_says_which_model_and_when_is_a_text(report, tmp_path, where, field):
    values = json.loads(report.to_json())
    (values[where] if where else values)[field] = None
    (tmp_path / "report.json").write_text(json.dumps(values))
    for read in (document.read, read_rows):
        with pytest.raises(ValueError, match=rf"report\.json is damaged: {field} is None; expected a text;"):
            read(tmp_path / "report.json")


def test_arrays_become_lists_and_numpys_scalars_pythons():
    found = plain({"a": np.float32(0.5), "b": np.arange(3), "c": (np.int64(2), [np.bool_(True)]), 1: None})
    assert found == {"a": 0.5, "b": [0, 1, 2], "c": [2, [True]], "1": None}
    assert json.loads(lines_of({"rows": [{"a": 1}, {"a": 2}], "empty": [], "text": 'q"'})) == {
        "rows": [{"a": 1}, {"a": 2}],
        "empty": [],
        "text": 'q"',
    }


def test_the_digest_of_a_set_is_of_its_files_and_not_of_what_is_said_of_it(tmp_path):
    def made(name, origin="here", classes=("a", "b"), content=b"1", file="x.png"):
        folder = tmp_path / name
        (folder / "test" / "a").mkdir(parents=True)
        (folder / "test" / "a" / file).write_bytes(content)
        (folder / "test" / ".hidden").write_bytes(name.encode())
        described = EvaluationSet(folder, "set", "classification", origin, False, classes)
        write_set(described)
        return facts.contents_digest(described)

    first = made("first")
    assert made("second", origin="there") == first
    assert len({first, made("3", classes=("b", "a")), made("4", content=b"2"), made("5", file="y.png")}) == 4


def test_what_ran_becomes_a_report(tmp_path):
    described = EvaluationSet(tmp_path, "set", "classification", "here", True, ("a", "b"))
    write_set(described)

    def gives(_, data):
        yield Row("one/1", data.name, "top1", 0.5, "more", 4)
        yield Plot("one/1", data.name, "bars", "t", {"names": ["a"], "values": [1.0], "label": "l"})
        raise CannotRun("the rest needs a text tower")

    def breaks(_, data):
        raise ValueError(f"{data.name} is broken")
        yield

    protocols = [
        Protocol(f"{name}/1", name, "classification", "s", "d", runs)
        for name, runs in (("one", gives), ("two", breaks))
    ]
    ran = [run(None, Task(protocol, described)) for protocol in protocols]
    found = facts.make_report(facts.model_facts(PlantedTower()), ran)
    assert [row.value for row in found.rows] == [0.5]
    assert [(each.protocol, each.reason) for each in found.not_run] == [
        ("one/1", "the rest needs a text tower"),
        ("two/1", "set is broken"),
    ]
    assert set(found.seconds) == {"one/1", "two/1"}
    assert [each.synthetic for each in found.sets] == [True]
    assert (found.model.size, found.model.patch, found.model.step) == ("custom", PATCH, 7)
    assert found.model.parameters > found.model.image_parameters > 0
    assert found.model.training_flops is None
    document.write(found, tmp_path / "report.json")
    assert document.read(tmp_path / "report.json").rows == found.rows


def test_the_papers_figures_stand_beside_the_same_measure_only():
    assert [figure.value for figure in paper_figures(sample_reports.row())] == [0.895, 0.909]
    assert paper_figures(sample_reports.row(metric="top5")) == ()
    assert paper_figures(sample_reports.row(protocol="linear-probe/2")) == ()
    (linear,) = paper_figures(
        sample_reports.row(protocol="depth/1", metric="AbsRel", settings={"head": "linear", "align": "none"})
    )
    assert (linear.value, linear.checked) == (0.166, False)
    assert all(0 < figure.value < 1 for figure in PAPER_FIGURES)
    assert {figure.protocol for figure in PAPER_FIGURES} <= {protocol.id for protocol in PROTOCOLS}


def test_the_fields_are_documented(report):
    values = json.loads(report.to_json())
    values |= {"packages": {}, "seconds": {}}
    for row in (*values["rows"], *values["plots"]):
        row.pop("settings", None)
        row.pop("values", None)
    named = {"rows.settings", "plots.values"}
    model = {f"model.{name}" for name in values["model"]}
    assert documented("build/eval/report.json") == (fields(values) | named | model) - {"model"}
