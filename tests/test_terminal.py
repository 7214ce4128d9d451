import math
import os
import subprocess
import sys

import pytest

from clients.terminal import bar, progress

SHOWN = "from clients.terminal import progress\nwith progress(4) as advance:\n    advance(3)\n"


@pytest.mark.parametrize(
    ("share", "drawn"),
    [
        (0.0, ""),
        (1.0, "████"),
        (0.5, "██"),
        (0.53, "██▏"),
        (0.999, "████"),
        (-1.0, ""),
        (7.0, "████"),
        (math.nan, ""),
    ],
)
def test_a_bar_is_as_long_as_its_share_to_an_eighth_of_a_character(share: float, drawn: str):
    assert bar(share, 4) == drawn


def test_a_terminal_without_blocks_gets_plain_characters():
    assert bar(0.5, 4, "iso-8859-1") == "##"


def test_a_pipe_has_no_progress(capfd: pytest.CaptureFixture[str]):
    with progress(4) as advance:
        advance(3)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_has_progress_on_stderr():
    """The other end of a terminal is read; the speed needs two moments, and is left out until there are."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "100"}
    found = subprocess.run(
        [sys.executable, "-c", SHOWN], stdout=subprocess.PIPE, stderr=theirs, text=True, check=True, env=environment
    )
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert found.stdout == ""
    assert "3/4 images" in shown
