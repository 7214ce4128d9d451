"""The program that judges: a report of a checkpoint, the same report of its served export, and the two compared."""

import json
import re

import pytest

from tests.artefacts import ROOT, serving
from tests.small_sets import write_sets
from train import evaluate, lit, pretrain
from train.optimizer import Optimizer
from train.reports import comparison, document
from train.suite.context import Effort
from train.suite.registry import PROTOCOLS
from vit22b.errors import VitError

QUICK = Effort(seeds=1, probe_epochs=2, decoder_steps=2, fine_tune_steps=0, distil_steps=0)
WEIGHTS = ("segmentation-tuned/1", "fine-tuning/1", "distillation/1")  # that train a tower's own


@pytest.fixture(scope="session")
def small_sets(digits, tmp_path_factory):
    return write_sets(digits, tmp_path_factory.mktemp("sets"))


def settings(source, data, output, *protocols, effort=QUICK, **fields):
    return evaluate.Settings(source=source, data=data, output=output, protocols=protocols, effort=effort, **fields)


@pytest.fixture(scope="module")
def judged(tuned, small_sets, tmp_path_factory):
    """Folder of the report of a few quick protocols."""
    output = tmp_path_factory.mktemp("judged")
    protocols = ["nearest-neighbours/1", "zero-shot/1", "head/1"]
    assert evaluate.evaluate(settings(f"checkpoint:{tuned}", small_sets, output, *protocols)) == 0
    return output


def test_the_report_has_what_was_asked_for_and_nothing_else(judged, tuned):
    report = document.read(judged / "report.json")
    assert {row.protocol for row in report.rows} == {"nearest-neighbours/1", "zero-shot/1", "head/1"}
    assert {row.data.split("/")[0] for row in report.rows} <= {"digits", "ink"}
    assert report.model.source == f"checkpoint:{tuned}"
    assert all(0 <= row.value <= 1 for row in report.rows)
    page = (judged / "report.html").read_text()
    assert "zero-shot/1" in page
    assert not re.search(r"(src|href)=\"https?:", page)


def test_a_report_is_compared_with_itself_without_a_difference(judged, tmp_path, capsys):
    paths = (judged / "report.json", judged / "report.json")
    assert evaluate.evaluate(evaluate.Settings(output=tmp_path, compare=paths)) == 0
    compared = json.loads((tmp_path / "compare.json").read_text())
    assert compared["rows"]
    assert (tmp_path / "compare.html").is_file()
    assert "compare.html" in capsys.readouterr().out


def test_answers_of_a_checkpoint_are_kept(judged, tuned, small_sets, monkeypatch):
    monkeypatch.setattr("train.checkpoint_tower.CheckpointTower.features", None)  # not asked
    report = (judged / "report.json").read_bytes()
    evaluate.evaluate(settings(str(tuned), small_sets, judged, "nearest-neighbours/1", sets=("digits",)))
    found = document.read(judged / "report.json")
    (judged / "report.json").write_bytes(report)
    before = {key(row): row.value for row in document.read(judged / "report.json").rows}
    assert found.rows
    for row in found.rows:
        assert row.value == before[key(row)]


def test_a_set_that_is_broken_is_told_and_the_others_are_judged(tuned, digits, tmp_path, capsys):
    sets = write_sets(digits, tmp_path / "sets", 20, 10)
    metadata = sets / "ink" / "test" / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace('"zero"', '"nought"'))
    output = tmp_path / "out"
    own = output / "scratch" / "mine"
    own.mkdir(parents=True)  # whoever made it: no evaluation's
    assert evaluate.evaluate(settings(str(tuned), sets, output, "nearest-neighbours/1")) == 1
    assert own.is_dir()
    assert not list(output.glob("scratch-*"))
    assert "has the labels ['nought']; expected one of the 10 classes" in capsys.readouterr().out
    report = document.read(output / "report.json")
    assert {row.data for row in report.rows} == {"digits"}
    assert any("nought" in each.reason for each in report.not_run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--source and --data are missing"),
        (["--source", "x"], "--data is missing"),
        (["--compare", "a.json"], "--compare has one report"),
        (["--compare", "a.json", "b.json", "--source", "x"], "leave out --source"),
        (["--compare", "a.json", "b.json"], r"a\.json"),
        (["--source", "x", "--data", "/nowhere"], "/nowhere is no folder"),
        (["--source", "x", "--data", "{sets}", "--protocols", "few-shots/1"], "Did you mean few-shot/1"),
        (["--source", "x", "--data", "{sets}", "--sets", "digit"], "Did you mean digits"),
        (["--source", "x", "--data", "{sets}", "--seeds", "0"], "--seeds is 0; expected 1 or more"),
        (["--source", "x", "--data", "{sets}", "--sets", "clips", "--protocols", "head/1"], "has anything to say of"),
        (["--source", "/nowhere", "--data", "{sets}"], "no checkpoint in /nowhere"),
    ],
)
def test_a_wrong_command_line_is_told_in_a_line(run_program, small_sets, tmp_path, capsys, arguments, message):
    given = [argument.format(sets=small_sets) for argument in arguments]
    assert run_program(evaluate.evaluate, evaluate.Settings, "--output", tmp_path, *given) == 2
    told = re.sub(r"[\s│]+", " ", capsys.readouterr().err)  # out of its box
    assert re.search(message, told)


def test_a_server_that_is_not_there_is_told(run_program, small_sets, tmp_path, unused_address, capsys, monkeypatch):
    monkeypatch.setattr("train.served_tower.TIMEOUT", 1.0)
    arguments = ["--output", tmp_path, "--data", small_sets, "--source", f"grpc://{unused_address}/mine"]
    assert run_program(evaluate.evaluate, evaluate.Settings, *arguments, failures=(VitError,)) == 1
    assert unused_address in capsys.readouterr().err


@pytest.fixture(scope="module")
def trained(digits, tmp_path_factory):
    """A checkpoint that knows digits: of a tower that knows nothing, figures hang on the last bits of its features."""
    root = tmp_path_factory.mktemp("trained")
    optimizer = Optimizer("adamw", peak=3e-3, warmup=30, cooldown=90)
    common = {"batch": 64, "optimizer": optimizer, "log_every": 50}
    size = {"size": "mu", "pooling": "mean", "head_bias": -2.2}
    data = digits / "train"
    pretrain.pretrain(
        pretrain.Settings(data=(str(data),), workdir=root / "pretrain", steps=150, signals_every=0, **size, **common)
    )
    tuning = lit.Settings(
        checkpoint=root / "pretrain", data=data, workdir=root / "lit", steps=150, vocabulary=300, **common
    )
    lit.tune(tuning)
    return root / "lit"


@pytest.mark.slow
def test_a_served_model_has_the_report_of_its_checkpoint(trained, small_sets, tmp_path):
    from export import to_savedmodel
    from export.batching import Batching

    to_savedmodel.export(
        to_savedmodel.Settings(
            checkpoint=trained,
            output=tmp_path / "models" / "digits",
            feature_layers=(0, 1, 2, 3),
            batching=Batching(sizes=(1, 64)),
        )
    )
    effort = Effort(seeds=2, decoder_steps=40, fine_tune_steps=0, distil_steps=0)
    with serving(tmp_path / "models" / "digits") as served:
        sources = {"here": str(trained), "there": f"grpc://{served.address}/{served.model}"}
        for name, source in sources.items():
            assert evaluate.evaluate(settings(source, small_sets, tmp_path / name, effort=effort)) == 0
    here, there = (document.read(tmp_path / name / "report.json") for name in sources)
    assert here.model.space_id == there.model.space_id
    values = [{key(row): row.value for row in report.rows if row.protocol not in WEIGHTS} for report in (here, there)]
    assert values[0].keys() == values[1].keys()
    assert {row.protocol for row in there.rows} == {p.id for p in PROTOCOLS if p.id not in WEIGHTS}
    for name, value in values[0].items():
        assert values[1][name] == pytest.approx(value, abs=1e-4), name
    top1 = next(
        row for row in here.rows if (row.protocol, row.data, row.metric) == ("linear-probe/1", "digits", "top1")
    )
    assert top1.interval[0] > top1.chance  # so that there is something to be lost


def key(row):
    """What a number is of; not what a sweep has found, whose last digits are the machine's."""
    asked = {name: value for name, value in row.settings.items() if name not in comparison.FOUND}
    return row.protocol, row.data, row.metric, json.dumps(asked, sort_keys=True, default=str)


def test_every_protocol_is_documented():
    page = (ROOT / "docs" / "evaluation.md").read_text()
    rows = re.findall(
        r"^\| `([a-z-]+/\d+)` \| (.+?) \| (.+?) \| .+ \| `--protocols ([a-z-]+/\d+)[^|]*` \|$", page, re.MULTILINE
    )
    table = [(name, what.replace("\\|", "|"), source, command) for name, what, source, command in rows]
    assert table == [(each.id, f"{each.title}. {each.definition}", each.section, each.id) for each in PROTOCOLS]
