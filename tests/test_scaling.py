import json
from pathlib import Path

import pytest

from tests import sample_reports
from train import evaluate, lit, pretrain, scaling
from train.reports import document
from train.reports.comparison import compared
from train.scaling import Settings, Stage, run_stages, stages
from vit22b.folder import write_metadata


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


@pytest.fixture
def started(monkeypatch):
    """The programs that were started; each leaves its file, and exits with what `codes` says of it."""
    from types import SimpleNamespace

    ran, codes = [], {}

    def start(command, check):
        assert not check
        name = Path(command[1]).name
        ran.append(name)
        if name not in codes:
            Path(command[2]).parent.mkdir(parents=True, exist_ok=True)
            Path(command[2]).touch()
        return SimpleNamespace(returncode=codes.get(name, 0))

    monkeypatch.setattr(scaling.subprocess, "run", start)
    return SimpleNamespace(ran=ran, codes=codes)


def made(folder, flag="1"):
    return [Stage(name, (f"{name}.py", str(folder / name / "done"), flag), folder / name / "done") for name in "abc"]


def test_what_is_finished_is_not_done_again(started, tmp_path):
    run_stages(tmp_path, made(tmp_path), {"set": "1"})
    run_stages(tmp_path, made(tmp_path), {"set": "1"})
    assert started.ran == ["a.py", "b.py", "c.py"]


def test_other_flags_other_data_or_a_missing_file_begin_again_with_all_that_is_behind(started, tmp_path):
    run_stages(tmp_path, made(tmp_path), {"set": "1"})
    started.ran.clear()
    run_stages(tmp_path, made(tmp_path, flag="2"), {"set": "1"})
    assert started.ran == ["a.py", "b.py", "c.py"]
    started.ran.clear()
    run_stages(tmp_path, made(tmp_path, flag="2"), {"set": "2"})
    assert started.ran == ["a.py", "b.py", "c.py"]
    started.ran.clear()
    (tmp_path / "b" / "done").unlink()
    run_stages(tmp_path, made(tmp_path, flag="2"), {"set": "2"})
    assert started.ran == ["b.py", "c.py"]


@pytest.mark.parametrize(
    ("code", "message"), [(1, r"b\.py failed \(exit code 1\)"), (0, "failed"), (75, "was told to stop and has saved")]
)
def test_a_program_that_fails_or_stops_ends_it_and_the_same_command_goes_on(started, tmp_path, code, message):
    started.codes["b.py"] = code
    with pytest.raises(ChildProcessError, match=message):
        run_stages(tmp_path, made(tmp_path), {})
    started.codes.clear()
    run_stages(tmp_path, made(tmp_path), {})
    assert started.ran == ["a.py", "b.py", "b.py", "c.py"]


def test_it_leaves_the_figure_the_page_and_the_numbers(tmp_path):
    reports = [sample_reports.report("checkpoint:a", 0.5), sample_reports.report("checkpoint:b", 0.7)]
    scaling.write(compared(reports, ["a", "b"]), tmp_path)
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert scaling.NOTE in (tmp_path / "scaling.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["names"] == ["a", "b"]


def test_all_models_end_in_one_figure(started, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scaling, "find_sets", lambda *_: ())
    (tmp_path / "sets" / "pretraining").mkdir(parents=True)
    write_metadata(tmp_path / "sets" / "pretraining", [])
    settings = Settings(output=tmp_path / "out", data=tmp_path / "sets", sizes=("mu", "Ti"))
    for size, patch in settings.members:
        folder = settings.output / f"{size}-{patch}"
        for stage in stages(settings, size, patch):
            stage.leaves.parent.mkdir(parents=True, exist_ok=True)
            stage.leaves.touch()
        document.write(sample_reports.report(f"checkpoint:{size}"), scaling.report_of(folder))
    monkeypatch.setattr(scaling, "_run", lambda stage: started.ran.append(stage.command[0]))
    scaling.scale(settings)
    scaling.scale(settings)
    assert started.ran == ["pretrain.py", "lit.py", "evaluate.py"] * 2
    assert "2 models" in capsys.readouterr().out


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
