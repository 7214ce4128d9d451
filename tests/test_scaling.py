import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests import sample_reports
from tests.artefacts import ROOT
from train import evaluate, lit, pretrain, scaling, stage
from train.reports import document
from train.reports.comparison import compared
from train.scaling import Settings, stages
from train.stage import JOURNAL, Stage, run_stages
from vit22b.folder import Record, write_metadata
from vit22b.program import Interrupted


def command_line(program, stage):
    """The settings that a stage's command gives its program."""
    import tyro

    return tyro.cli(
        program.Settings,
        args=list(stage.command[1:]),
        use_underscores=True,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def test_every_model_is_trained_alike_and_judged_by_what_is_plotted():
    settings = Settings(sizes=("mu", "S"))
    found = {member: list(stages(settings, *member)) for member in settings.members}
    of = {
        member: [command_line(program, each) for program, each in zip((pretrain, lit, evaluate), todo, strict=True)]
        for member, todo in found.items()
    }
    (mu, mu_lit, mu_judged), (small, small_lit, small_judged) = of.values()
    assert (mu.size, small.size) == ("mu", "S")
    assert {mu.image.resolution, small.image.resolution} == {112}
    for first, second in ((mu, small), (mu_lit, small_lit)):
        for name in ("data", "steps", "batch", "seed", "optimizer"):
            assert getattr(first, name) == getattr(second, name)
    assert mu.augment == small.augment
    assert mu_lit.checkpoint == mu.workdir
    assert mu_judged.source == f"checkpoint:{mu_lit.workdir}"
    assert "shape-bias/1" in mu_judged.protocols
    assert (mu_judged.protocols, mu_judged.sets) == (small_judged.protocols, small_judged.sets)
    assert found["mu", 16][2].leaves == mu_judged.output / "report.json"


def test_the_protocols_that_are_plotted_are_there():
    from train.suite.registry import PROTOCOLS

    (evaluation,) = [each for each in stages(Settings(), "mu", 16) if each.name == "evaluate"]
    named = evaluation.command[evaluation.command.index("--protocols") + 1 : evaluation.command.index("--sets")]
    assert set(named) <= {protocol.id for protocol in PROTOCOLS}


# A stage's program: leaves its file, unless a code is there to exit with.
PROGRAM = """
import sys
from pathlib import Path
program, leaves = Path(sys.argv[0]), Path(sys.argv[1])
with open(program.parent / "ran", "a") as file:
    print(program.name, file=file)
leaves.parent.mkdir(parents=True, exist_ok=True)
if (code := program.with_suffix(".code")).exists():
    sys.exit(int(code.read_text()))
leaves.touch()
"""
DATA = {"pretraining": "1", "emoji": "1"}


@pytest.fixture
def made(tmp_path):
    """Makes the stages of the folder `model`: the trainings a and b, and c."""
    for name in "abc":
        (tmp_path / f"{name}.py").write_text(PROGRAM)

    def make(flag="1"):
        work = {name: tmp_path / "model" / name for name in "abc"}
        commands = {name: (str(tmp_path / f"{name}.py"), str(work[name] / "done"), "--steps", flag) for name in "abc"}
        return [
            Stage(name, commands[name], work[name] / "done", work[name] if name in "ab" else None) for name in "abc"
        ]

    return make


@pytest.fixture
def ran(tmp_path):
    """Runs stages; the names of the programs that were started for it."""

    def run(todo, data=DATA):
        (tmp_path / "ran").write_text("")
        try:
            run_stages(tmp_path / "model", todo, data)
        finally:
            run.names = (tmp_path / "ran").read_text().split()
        return run.names

    return run


def test_what_is_finished_is_not_done_again(made, ran):
    assert ran(made()) == ["a.py", "b.py", "c.py"]
    assert ran(made()) == []


def test_a_missing_file_begins_again_with_all_that_is_behind(made, ran, tmp_path):
    ran(made())
    (tmp_path / "model" / "b" / "done").unlink()
    assert ran(made()) == ["b.py", "c.py"]
    assert ran(made()) == []


def test_other_sets_to_judge_on_are_judged_on_alone(made, ran):
    ran(made())
    assert ran(made(), {**DATA, "emoji": "2"}) == ["c.py"]
    assert ran(made(), {**DATA, "emoji": "2"}) == []


@pytest.mark.parametrize(
    ("flag", "images", "difference"),
    [("2", "1", "--steps: 1 there, 2 here"), ("1", "2", "data pretraining: 1 there, 2 here")],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_training_by_another_command_or_on_other_images_is_refused_and_not_continued(
    made, ran, tmp_path, flag, images, difference, finished
):
    if not finished:
        (tmp_path / "b.code").write_text("75")
        with pytest.raises(Interrupted):
            ran(made())
        (tmp_path / "b.code").unlink()
    else:
        ran(made())
    other, data = made(flag), {**DATA, "pretraining": images}
    folders = [tmp_path / "model" / name for name in "ab"]
    told = [f"{folder} would be continued, and was begun with other settings:\n  {difference}" for folder in folders]
    message = f"{told[0]}\n{told[1]}\nremove {folders[0]} {folders[1]}, or give another --output"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ran(other, data)
    assert ran.names == []
    shutil.rmtree(folders[0])
    message = f"{told[1]}\nremove {folders[1]}, or give another --output"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ran(other, data)
    shutil.rmtree(folders[1])
    assert ran(other, data) == ["a.py", "b.py", "c.py"]


def test_a_training_that_the_journal_does_not_know_is_refused(made, ran, tmp_path):
    (tmp_path / "model" / "a").mkdir(parents=True)
    folder = tmp_path / "model" / "a"
    with pytest.raises(ValueError, match=rf"{folder} .* stages\.json beside it does not .*\nremove {folder}, or give"):
        ran(made())
    assert ran.names == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[]", r"it is \[\]; expected an object of stages"),
        ('{"a": 1}', "Note is 1; expected an object"),
        ('{"a": {"command": [], "data": {}}}', "Note lacks finished"),
        ('{"a": {"command": "a.py", "data": {}, "finished": true}}', "command is 'a.py'; expected a list"),
    ],
)
def test_a_damaged_journal_is_told_by_its_name(made, ran, tmp_path, text, message):
    ran(made())
    (tmp_path / "model" / JOURNAL).write_text(text)
    with pytest.raises(ValueError, match=rf"model/stages\.json is damaged: {message}.*; remove {tmp_path / 'model'}"):
        ran(made())
    assert ran.names == []


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (1, ChildProcessError, r"b\.py failed \(exit code 1\)"),
        (0, ChildProcessError, "failed"),
        (75, Interrupted, "was told to stop and has saved"),
    ],
)
def test_a_program_that_fails_or_stops_ends_it_and_the_same_command_goes_on(made, ran, tmp_path, code, error, message):
    (tmp_path / "b.code").write_text(str(code))
    with pytest.raises(error, match=message):
        ran(made())
    assert ran.names == ["a.py", "b.py"]
    (tmp_path / "b.code").unlink()
    assert ran(made()) == ["b.py", "c.py"]


# A training that takes a second to save, and one that is told by the step that is its last.
TRAINING = """
import sys, time
from pathlib import Path
from train.stop import StopSignal
workdir, code = Path(sys.argv[1]), int(sys.argv[2])
with StopSignal() as stop:
    print("training", flush=True)
    while not stop.now():
        time.sleep(0.01)
    time.sleep(1)
    workdir.mkdir(parents=True)
    (workdir / "saved").touch()
sys.exit(code)
"""
SCALING = """
import dataclasses, sys
from pathlib import Path
from train.stage import Stage, run_stages
from vit22b import program
@dataclasses.dataclass
class Settings:
    folder: Path
    code: int
def scale(settings):
    workdir = settings.folder / "model" / "training"
    command = (str(settings.folder / "training.py"), str(workdir), str(settings.code))
    behind = Stage("behind", ("none.py",), settings.folder)
    training = Stage("training", command, workdir / "saved", workdir)
    run_stages(settings.folder / "model", [training, behind], {"pretraining": "1"})
program.run(scale, Settings, None)
"""


@pytest.mark.parametrize("code", [75, 0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_saves_before_an_interrupt_ends_it_all(tmp_path, number, code):
    """SIGINT comes to all processes of a terminal, SIGTERM to the one that is named."""
    (tmp_path / "training.py").write_text(TRAINING)
    command = [sys.executable, "-c", SCALING, "--folder", tmp_path, "--code", str(code)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True, start_new_session=True) as process:
        assert "training" in process.stdout.readline()  # what is started
        assert process.stdout.readline() == "training\n"
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        out, err = process.communicate(timeout=50)
    assert (process.returncode, out) == (130, "")
    assert (tmp_path / "model" / "training" / "saved").exists()
    (line,) = err.splitlines()
    expected = "was told to stop and has saved what it had" if code else "stopped, training is finished"
    assert expected in line
    noted = json.loads((tmp_path / "model" / JOURNAL).read_text())
    assert {name: each["finished"] for name, each in noted.items()} == {"training": code == 0}


def test_it_leaves_the_figure_the_page_and_the_numbers(tmp_path):
    reports = [sample_reports.report("checkpoint:a", 0.5), sample_reports.report("checkpoint:b", 0.7)]
    scaling.write(compared(reports, ["a", "b"]), tmp_path)
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert scaling.NOTE in (tmp_path / "scaling.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["names"] == ["a", "b"]


def test_all_models_end_in_one_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "find_sets", lambda *_: ())
    (tmp_path / "sets" / "pretraining").mkdir(parents=True)
    write_metadata(tmp_path / "sets" / "pretraining", [])
    settings, ran = Settings(output=tmp_path / "out", data=tmp_path / "sets", sizes=("mu", "Ti")), []

    def run(stage):
        ran.append(stage.command[0])
        stage.leaves.parent.mkdir(parents=True, exist_ok=True)
        if stage.name == "evaluate":
            document.write(sample_reports.report(f"checkpoint:{stage.leaves.parts[-3]}"), stage.leaves)
        stage.leaves.touch()
        return False

    monkeypatch.setattr(stage, "_run", run)
    scaling.scale(settings)
    scaling.scale(settings)
    assert ran == ["pretrain.py", "lit.py", "evaluate.py"] * 2
    assert "2 models" in capsys.readouterr().out
    ran.clear()
    shutil.rmtree(settings.output / "mu-16")
    write_metadata(tmp_path / "sets" / "pretraining", [Record(tmp_path, "other.png")])
    with pytest.raises(ValueError, match=str(settings.output / "Ti-16" / "pretrain")):
        scaling.scale(settings)
    assert ran == []  # nor an hour of mu, before Ti is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": ("mu",)}, "make 1 model; give two or more"),
        ({"sizes": ("mu", "Q")}, "unknown size 'Q'"),
        ({"patches": (15, 16)}, "resolution 112 is not a multiple of the patch 15"),
        ({"steps": 0}, "--steps is 0"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_trained(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


def test_data_that_are_not_there_are_told(tmp_path):
    with pytest.raises(
        ValueError, match=r"has no folder pretraining to train on; make it by train/evaluation_data\.py"
    ):
        scaling.scale(Settings(data=tmp_path, output=tmp_path))
