"""`make eval`, the Makefile's own lines, with programs that only say that they ran."""

import subprocess

import pytest

from tests.artefacts import ROOT

# Stands for Python: a training leaves its work directory, and adds to it what it is called for.
PYTHON = """#!/bin/bash
while [ $# -gt 0 ]; do
  [ "$1" = --workdir ] && mkdir -p "$2" && echo trained >> "$2/log"
  shift
done
"""


@pytest.fixture
def make_eval(tmp_path):
    """Runs it in a folder of the test's, with an image in the pretraining set; how often each tower was trained on."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)
    images = tmp_path / "eval" / "sets" / "pretraining"
    images.mkdir(parents=True)

    def run(image):
        (images / "an image.png").write_bytes(image)
        given = ["EVAL=eval", "BIN=bin", "--old-file", ".venv/.eval"]
        subprocess.run(["make", "-C", tmp_path, "-f", ROOT / "Makefile", *given, "eval"], check=True)
        return [len((tmp_path / "eval" / name / "log").read_text().split()) for name in ("pretrain", "lit")]

    return run


def test_towers_are_continued_on_the_same_images_and_begun_anew_on_others(make_eval):
    assert make_eval(b"an image") == [1, 1]
    assert make_eval(b"an image") == [2, 2]
    assert make_eval(b"of the same name") == [1, 1]
    assert make_eval(b"of the same name") == [2, 2]
