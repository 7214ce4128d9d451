import signal

import pytest

from export import apart


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A program in the folder of those that are run apart."""
    monkeypatch.setattr(apart, "__file__", str(tmp_path / "apart.py"))
    return tmp_path / "step.py"


def test_the_exit_code_is_the_programs(program):
    program.write_text("import sys\nsys.exit(int(sys.argv[1]))")
    assert [apart.run("step.py", code) for code in ("0", "3")] == [0, 3]


def test_a_program_that_is_killed_is_told_as_such(program):
    program.write_text(f"import os\nos.kill(os.getpid(), {int(signal.SIGKILL)})")
    with pytest.raises(ChildProcessError, match=r"export/step\.py was killed by SIGKILL .* memory is short"):
        apart.run("step.py")
