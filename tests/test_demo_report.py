import json
import re
from pathlib import Path

import pytest

from benchmarks import demo_report
from tests.manifests import manifest

DOCS = Path(__file__).parents[1] / "docs" / "reports.md"


@pytest.fixture
def folder(tmp_path):
    version = tmp_path / "models" / "digits" / "1" / "assets.extra"
    version.mkdir(parents=True)
    (version / "vit22b.json").write_text(manifest().to_json())
    (tmp_path / "zero_shot.json").write_text(json.dumps({"zero_shot_top1": 0.5, "chance": 0.1, "n": 4}))
    (tmp_path / "parity.json").write_text(json.dumps({"max_abs_error_served_vs_jax": 1e-7}))
    (tmp_path / "stages.tsv").write_text("pretrain\t12.5\nlit\t3.0\n")
    return tmp_path


def test_the_report_holds_what_the_stages_found(folder, run_program, capsys):
    assert run_program(demo_report.main, demo_report.Settings, folder, "--least_top1", 0.5) == 0
    report = json.loads((folder / "report.json").read_text())
    assert report["zero_shot_top1"] == 0.5
    assert report["n"] == 4
    assert report["max_abs_error_served_vs_jax"] == 1e-7
    assert report["stages"] == {"pretrain": 12.5, "lit": 3.0}
    assert report["model"]["space_id"] == manifest().space_id
    assert re.search(r"all +│ 15.5", capsys.readouterr().out)


def test_a_demo_that_learnt_too_little_fails(folder, run_program, capsys):
    assert run_program(demo_report.main, demo_report.Settings, folder) == 1
    assert "below 90%" in capsys.readouterr().err


def test_every_field_of_the_report_is_in_the_docs(folder):
    text = DOCS.read_text()
    for name in demo_report.gather(folder):
        assert name in text, name


def test_a_folder_of_something_else_is_an_error(tmp_path, run_program, capsys):
    assert run_program(demo_report.main, demo_report.Settings, tmp_path) == 1
    assert "zero_shot.json" in capsys.readouterr().err
