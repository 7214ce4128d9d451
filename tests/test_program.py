import dataclasses

import pytest

from vit22b.program import Interrupted, run


@dataclasses.dataclass(frozen=True)
class Part:
    """A nested part."""

    peak: float = 1.0
    """Above 0."""

    def __post_init__(self) -> None:
        if self.peak <= 0:
            raise ValueError(f"--peak is {self.peak}; expected a number above 0")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Count the steps."""

    first_steps: int
    """How many."""
    part: Part = dataclasses.field(default_factory=Part)


@pytest.fixture
def program(monkeypatch, capsys):
    """Runs a main function with a command line, as a script does; returns exit code, stdout and stderr."""

    def call(main, *arguments, **options):
        monkeypatch.setattr("sys.argv", ["count.py", *arguments])
        with pytest.raises(SystemExit) as exited:
            run(main, Settings, "Counts steps.", **options)
        # As the interpreter maps it: no code is success.
        return exited.value.code or 0, *capsys.readouterr()

    return call


def test_the_settings_come_from_the_command_line(program):
    seen = []
    assert program(seen.append, "--first_steps", "3", "--peak", "0.5")[0] == 0
    assert seen == [Settings(3, Part(0.5))]


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_what_main_returns_is_the_exit_code(program, returned, code):
    assert program(lambda _: returned, "--first_steps", "3") == (code, "", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("--size is x; expected mu"), 2),
        (FileNotFoundError(2, "No such file", "a.png"), 1),
        (PermissionError("read-only"), 1),
    ],
)
def test_a_users_error_is_one_line_without_a_traceback(program, error, code):
    def main(_):
        raise error

    assert program(main, "--first_steps", "3") == (code, "", f"error: {error}\n")


def test_a_program_names_its_own_failures(program):
    def main(_):
        raise FloatingPointError("the loss is nan")

    told = program(main, "--first_steps", "3", failures=(FloatingPointError,))
    assert told == (1, "", "error: the loss is nan\n")


@pytest.mark.parametrize(("asked", "code"), [((), 0), ((143,), 143)])
def test_stopped_with_all_work_saved_is_no_error(program, asked, code):
    def main(_):
        raise Interrupted("stopped at step 3 of 9; the same command continues from there", *asked)

    told = "stopped at step 3 of 9; the same command continues from there\n"
    assert program(main, "--first_steps", "3") == (code, "", told)


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    def main(_):
        raise KeyError("blocks")

    monkeypatch.setattr("sys.argv", ["count.py", "--first_steps", "3"])
    with pytest.raises(KeyError, match="blocks"):
        run(main, Settings, None)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--first_steps"),
        (("--first_steps", "many"), "many"),
        (("--first_steps", "3", "--perk", "1"), "--perk"),
        (("--first_steps", "3", "--peak", "0"), "--peak is 0.0; expected a number above 0"),
    ],
)
def test_a_wrong_command_line_exits_with_2_before_main_runs(program, arguments, named):
    code, out, err = program(lambda _: pytest.fail("main ran"), *arguments)
    assert (code, out) == (2, "")
    assert named in err
    assert "Traceback" not in err


def test_help_has_the_description_and_every_flag(program):
    code, out, err = program(lambda _: pytest.fail("main ran"), "--help")
    assert (code, err) == (0, "")
    for text in ("Counts steps.", "--first_steps INT", "How many.", "--peak FLOAT", "Above 0."):
        assert text in out
