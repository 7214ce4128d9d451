import dataclasses
import io
import json
import re

import numpy as np
import pytest
from rich.console import Console

from tests import sample_reports
from tests.documented import documented, fields
from train.reports import comparison, comparison_page, document, figures, scaling_figure
from train.reports.comparison import IMAGES_ONLY, PAIRED, PLAIN, SEEDED, compare, compared
from train.reports.document import Report
from train.reports.terminal_table import comparison_table


def two(first, second, **changes):
    """The comparison of two reports of one row each."""
    rows = [
        sample_reports.row(**{"value": float(np.mean(scores)), "scores": tuple(map(float, scores)), **changes})
        for scores in (first, second)
    ]
    reports = [sample_reports.report(f"checkpoint:{name}", rows=(row,)) for name, row in zip("ab", rows, strict=True)]
    (row,) = compared(reports, ["a", "b"]).rows
    return row


def sized(size, parameters, compute, quality):
    report = sample_reports.report(f"checkpoint:{size}", quality)
    model = dataclasses.replace(report.model, size=size, image_parameters=parameters, training_flops=compute)
    return dataclasses.replace(report, model=model)


def test_a_model_against_itself_differs_by_exactly_nothing():
    row = two([1, 0, 1, 1], [1, 0, 1, 1])
    (difference,) = row.differences
    assert (difference.value, difference.interval, difference.better) == (0, (0, 0), None)
    assert row.values == (0.75, 0.75)


def test_images_are_paired_and_better_needs_an_interval_without_0():
    rng = np.random.default_rng(0)
    easy = rng.random(400) < 0.5
    ahead = easy | (rng.random(400) < 0.1)  # right wherever the other is, and somewhere else too
    (difference,) = two(easy, ahead).differences
    assert difference.kind == PAIRED
    assert difference.interval[0] > 0
    assert difference.better is True
    assert two(ahead, easy).differences[0].better is False
    assert two(easy, ahead, better="less").differences[0].better is False
    assert two(easy, ahead, better="neither").differences[0].better is None
    # The same two shares, but of other images: unpaired by their order, the difference is not told apart from chance.
    shuffled = rng.permutation(ahead)
    unpaired = two(easy, shuffled).differences[0]
    assert unpaired.value == pytest.approx(difference.value)
    assert unpaired.interval[1] - unpaired.interval[0] > 2 * (difference.interval[1] - difference.interval[0])


def test_means_over_seeds_are_as_unsure_as_their_seeds():
    rng = np.random.default_rng(0)
    easy = rng.random(400) < 0.5
    ahead = easy | (rng.random(400) < 0.1)
    images = two(easy, ahead).differences[0]
    (steady,) = two(easy, ahead, seeds=3, deviation=0.0).differences
    assert (steady.interval, steady.kind, steady.better) == (images.interval, SEEDED, True)
    (shaky,) = two(easy, ahead, seeds=3, deviation=0.03).differences
    # Two variances of 0.03^2 / 3 with 2 degrees of freedom each: t of 4 of them is 2.776.
    half = 2.7764 * (2 * 0.03**2 / 3) ** 0.5
    low, high = images.interval
    expected = (shaky.value - np.hypot(shaky.value - low, half), shaky.value + np.hypot(high - shaky.value, half))
    assert shaky.interval == pytest.approx(expected, abs=1e-5)
    assert (shaky.value, shaky.better) == (images.value, None)
    (unknown,) = two(easy, ahead, seeds=3).differences
    assert (unknown.interval, unknown.kind, unknown.better) == (images.interval, IMAGES_ONLY, None)


def test_a_number_without_scores_has_a_plain_difference_and_no_verdict():
    row = two([0.0], [1.0], scores=None)
    (difference,) = row.differences
    assert (difference.value, difference.interval, difference.kind, difference.better) == (1.0, None, PLAIN, None)


def test_what_a_sweep_has_found_may_differ_and_what_else_decides_may_not():
    decides = {"solver": "SGD", "temperature": 2}
    first = sample_reports.row(settings={**decides, "learning_rate": 0.1, "chosen": {"temperature": [1.5]}})
    second = sample_reports.row(settings={**decides, "learning_rate": 1.0, "chosen": {"temperature": [2.5]}})
    third = sample_reports.row(settings={**decides, "solver": "L-BFGS", "learning_rate": 1.0})
    fourth = sample_reports.row(settings={**decides, "temperature": 3, "learning_rate": 1.0})
    reports = [sample_reports.report(rows=(row,)) for row in (first, second, third, fourth)]
    same, *others = compared(reports, ["a", "b", "c", "d"]).rows
    assert same.values == (0.75, 0.75, None, None)
    assert same.settings == decides
    assert [each is None for each in same.differences] == [False, True, True]
    assert [other.values for other in others] == [(None, None, 0.75, None), (None, None, None, 0.75)]
    assert all(other.differences == (None, None, None) for other in others)


def test_rows_that_only_their_sweeps_tell_apart_are_matched_by_their_order():
    rows = [sample_reports.row(value=value, scores=None, settings={"penalty": value}) for value in (0.1, 0.2)]
    reports = [sample_reports.report(rows=tuple(rows)), sample_reports.report(rows=tuple(rows))]
    assert [row.values for row in compared(reports, ["a", "b"]).rows] == [(0.1, 0.1), (0.2, 0.2)]


def test_other_data_is_refused_by_name(tmp_path):
    sets = (dataclasses.replace(sample_reports.SETS[0], digest="00"), sample_reports.SETS[1])
    document.write(sample_reports.report(), tmp_path / "a.json")
    document.write(sample_reports.report(sets=sets), tmp_path / "b.json")
    with pytest.raises(ValueError, match=r"the set emoji of .*b\.json is not the one of .*a\.json: .* 00, there 0123"):
        compare([tmp_path / "a.json", tmp_path / "b.json"])


def test_another_definition_is_refused_by_name():
    newer = dataclasses.replace(sample_reports.PROTOCOLS[0], id="linear-probe/2")
    report = sample_reports.report(protocols=(newer,), rows=())
    with pytest.raises(ValueError, match=r"b has linear-probe/2, and a has linear-probe/1"):
        compared([sample_reports.report(), report], ["a", "b"])


def test_reports_without_a_number_in_common_are_refused(tmp_path):
    paths = [tmp_path / f"{name}.json" for name in "abc"]
    for path, metric in zip(paths, ("top1", "top1", "top5"), strict=True):
        document.write(sample_reports.report(rows=(sample_reports.row(metric=metric),)), path)
    with pytest.raises(ValueError, match=r"c\.json has no number in common with .*a\.json; judge both models by the"):
        compare(paths)


def test_other_images_of_the_same_set_are_refused():
    other = sample_reports.row(scores=(1.0,), examples=1)
    reports = [sample_reports.report(rows=(row,)) for row in (sample_reports.row(), other)]
    with pytest.raises(ValueError, match="top1 was measured on"):
        compared(reports, ["a", "b"])


def test_a_count_that_depends_on_the_answers_may_differ():
    rows = [sample_reports.row(examples=n, scores=None) for n in (3, 5)]
    (row,) = compared([sample_reports.report(rows=(each,)) for each in rows], ["a", "b"]).rows
    assert row.examples == (3, 5)


def test_one_report_is_too_few(tmp_path):
    with pytest.raises(ValueError, match="1 report is too few"):
        compare([tmp_path / "a.json"])


def test_models_have_names_that_tell_them_apart():
    same = sample_reports.report()
    moved = sample_reports.report("checkpoint:build/other")
    bigger = sized("Ti", 5_000_000, 1e15, 0.5)
    assert compared([same, bigger], ["a", "b"]).names == ("mu/14 112 px", "Ti/14 112 px")
    assert compared([same, moved], ["a", "b"]).names == ("build/mu", "build/other")
    assert compared([same, same], ["a", "a"]).names == ("a", "a (2)")


def test_the_files_have_every_row_and_the_page_the_figure(tmp_path):
    reports = [sized("mu", 10**6, 1e15, 0.5), sized("Ti", 5 * 10**6, 5e15, 0.6), sized("S", 2 * 10**7, None, 0.75)]
    found = compared(reports, list("abc"))
    comparison.write(found, tmp_path / "deep" / "compare.json")
    values = json.loads((tmp_path / "deep" / "compare.json").read_text())
    assert [row["values"] for row in values["rows"]] == [list(row.values) for row in found.rows]
    assert len(values["models"]) == 3
    comparison_page.write(found, tmp_path / "deep" / "compare.html")
    text = (tmp_path / "deep" / "compare.html").read_text()
    for name in (*found.names, "not known", "better", "Size and compute"):
        assert name in text
    assert "linear probe, top-1 on emoji: mu/14 112 px 0.5, Ti/14 112 px 0.6, S/14 112 px 0.75" in text
    console = Console(width=220, record=True, file=io.StringIO())
    console.print(comparison_table(found))
    printed = console.export_text()
    assert "+0.2500 (" in printed
    assert "means over seeds widened" in printed


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "not told apart"),
        ({"better": "neither"}, "no verdict"),
        ({"seeds": 3, "deviation": 0.1}, "not told apart"),
        ({"seeds": 3}, "no verdict"),
    ],
)
def test_the_page_says_no_verdict_where_there_can_be_none(changes, verdict):
    rows = [
        sample_reports.row(value=sum(scores) / 4, scores=scores, **changes)
        for scores in ((1.0, 0.0, 1.0, 1.0), (1.0, 1.0, 1.0, 0.0))
    ]
    found = compared([sample_reports.report(rows=(row,)) for row in rows], ["a", "b"])
    told = re.findall(r">([a-z ]+)</span></td>", comparison_page.render(found))
    assert told == [verdict]


def test_the_figure_has_a_panel_a_measure_against_size_and_compute():
    found = compared([sized("mu", 10**6, None, 0.5), sized("Ti", 5 * 10**6, None, 0.6)], ["a", "b"])
    with figures.drawing():
        figure = scaling_figure.draw(found)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["linear probe, top-1", "calibration error (less is better)"] * 2
    line, chance = figure.axes[0].get_lines()
    assert set(chance.get_ydata()) == {0.25}
    np.testing.assert_array_equal(line.get_xydata(), [[1e6, 0.5], [5e6, 0.6]])
    assert len(figure.axes[1].get_lines()) == 1  # a calibration error has no chance
    assert not figure.axes[2].get_lines()  # no compute is known


def test_a_figure_of_nothing_is_refused():
    nothing = [sample_reports.report(rows=(), plots=()) for _ in range(2)]
    with figures.drawing(), pytest.raises(ValueError, match="no row of linear-probe/1"):
        scaling_figure.draw(compared(nothing, ["a", "b"]))


def test_a_report_as_it_was_written_compares_as_it_is(tmp_path):
    report = sample_reports.report()
    document.write(report, tmp_path / "a.json")
    read = document.read(tmp_path / "a.json")
    assert isinstance(read, Report)
    for row in compared([report, read], ["a", "b"]).rows:
        assert row.values[0] == row.values[1]
        assert row.differences[0].value == 0


def test_the_fields_are_documented():
    values = json.loads(compared([sample_reports.report(), sample_reports.report()], ["a", "b"]).to_json())
    for row in values["rows"]:
        row["settings"] = {}
    assert documented("build/scaling/report.json") == fields(values)
