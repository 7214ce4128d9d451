"""The stages of a model, each a program that users run, and the journal of them by which the same command continues.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client, under train/scaling.py.
"""

import dataclasses
import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from train.evaluation_sets.pretraining import FOLDER
from vit22b.fields import from_fields, require
from vit22b.program import Interrupted
from vit22b.whole_file import write_whole

JOURNAL = "stages.json"  # a note by stage
STOPPED = 75  # what a training that was told to stop is asked to exit with: it has not come to its end


@dataclasses.dataclass(frozen=True)
class Note:
    """What the journal has of a stage.

    Attributes:
        command: as of the stage.
        data: digests of what it learns from or judges on, by name.
        finished: whether it has come to its end.
    """

    command: tuple[str, ...]
    data: Mapping[str, str]
    finished: bool

    @property
    def settings(self) -> dict[str, str]:
        """What decides what comes of it: by flag what stands behind it, and the data."""
        name = "program"
        found: dict[str, list[str]] = {name: []}
        for word in self.command:
            if word.startswith("--"):
                name = word
                found[name] = []
            else:
                found[name].append(word)
        of_flags = {flag: " ".join(words) or "given" for flag, words in found.items()}
        return of_flags | {f"data {name}": digest for name, digest in self.data.items()}


@dataclasses.dataclass(frozen=True)
class Stage:
    """A program to run for a model.

    Attributes:
        name: of the stage.
        command: the program below train/, and its arguments.
        leaves: what is there once it has come to its end.
        workdir: of a training: it goes on with what lies there, and learns from the folder `pretraining` alone.
    """

    name: str
    command: tuple[str, ...]
    leaves: Path
    workdir: Path | None = None

    def note(self, data: Mapping[str, str], *, finished: bool) -> Note:
        """What the journal has of it.

        Args:
            data: digests of all data, by name.
            finished: whether it has come to its end.
        """
        return Note(self.command, dict(data if self.workdir is None else {FOLDER: data[FOLDER]}), finished)

    def is_that_of(self, noted: Note | None, data: Mapping[str, str]) -> bool:
        """Whether a note is of this command on these data."""
        return noted is not None and noted.settings == self.note(data, finished=True).settings


def run_stages(folder: Path, todo: Sequence[Stage], data: Mapping[str, str]) -> None:
    """Runs the stages of a model that are not finished: by the very same command, on the very same data.

    A stage that runs makes those behind it run again; a training among them looks itself whether it began with what is
    there now.

    Raises:
        ValueError: see refuse_others.
        ChildProcessError: one failed.
        Interrupted: one was told to stop, or this program.
    """
    refuse_others(folder, todo, data)
    noted = _noted(folder)
    for number, stage in enumerate(todo):
        before = noted.get(stage.name)
        if before is not None and before.finished and stage.is_that_of(before, data) and stage.leaves.exists():
            print(f"{folder.name}: {stage.name} is finished")
            continue
        behind = [each.name for each in todo[number:] if each.name in noted]
        noted |= {name: dataclasses.replace(noted[name], finished=False) for name in behind}
        noted[stage.name] = stage.note(data, finished=False)
        _write_notes(folder, noted)  # before there is anything that it could be asked of
        print(f"{folder.name}: {' '.join(stage.command)}", flush=True)
        told = _run(stage)
        noted[stage.name] = stage.note(data, finished=True)
        _write_notes(folder, noted)
        if told:
            raise Interrupted(f"stopped, {stage.name} is finished; the same command goes on behind it", 130)


def refuse_others(folder: Path, todo: Sequence[Stage], data: Mapping[str, str]) -> None:
    """Raises ValueError where a training's folder holds one that was begun by another command or on other data.

    It would be continued, or taken as finished: a training knows its data by little more than their number. So too
    where the journal is damaged.
    """
    noted = _noted(folder)
    others = {
        stage.workdir: _differences(stage.workdir, noted.get(stage.name), stage.note(data, finished=True))
        for stage in todo
        if stage.workdir is not None and stage.workdir.exists() and not stage.is_that_of(noted.get(stage.name), data)
    }
    if others:
        lines = "\n".join(line for found in others.values() for line in found)
        raise ValueError(f"{lines}\nremove {' '.join(map(str, others))}, or give another --output")


def _differences(workdir: Path, there: Note | None, here: Note) -> list[str]:
    """In what the training in a work directory is not the one that is asked for, as lines of a message."""
    if there is None:
        return [f"{workdir} would be continued, and {JOURNAL} beside it does not say how it was begun"]
    before, now = there.settings, here.settings
    names = [name for name in {**now, **before} if before.get(name) != now.get(name)]
    return [
        f"{workdir} would be continued, and was begun with other settings:",
        *(f"  {name}: {before.get(name, 'nothing')} there, {now.get(name, 'nothing')} here" for name in names),
    ]


def _noted(folder: Path) -> dict[str, Note]:
    journal = folder / JOURNAL
    if not journal.is_file():
        return {}
    try:
        values = json.loads(journal.read_text(encoding="utf-8"))
        require(isinstance(values, dict), f"it is {values!r}; expected an object of stages")
        return {name: from_fields(Note, each, typed=True) for name, each in values.items()}
    except ValueError as error:
        raise ValueError(
            f"{journal} is damaged: {error}; remove {folder}, so that its model is made anew, or give another --output"
        ) from error


def _write_notes(folder: Path, noted: Mapping[str, Note]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: dataclasses.asdict(note) for name, note in noted.items()}, indent=1)
    write_whole(folder / JOURNAL, lambda file: file.write(text.encode()))


def _run(stage: Stage) -> bool:
    """Runs a stage to its end; whether this program was told to stop meanwhile."""
    script, *arguments = stage.command
    code, told = _waited([sys.executable, str(Path(__file__).parent / script), *arguments])
    if code == STOPPED:
        raise Interrupted(f"{script} was told to stop and has saved what it had; the same command continues it", 130)
    if code and told:
        raise Interrupted(f"{script} was told to stop (exit code {code}); the same command tries it again", 130)
    if code or not stage.leaves.exists():
        raise ChildProcessError(f"{script} failed (exit code {code}), see above; the same command tries it again")
    return told


def _waited(command: Sequence[str]) -> tuple[int, bool]:
    """Runs a program until it ends by itself; its exit code, and whether this one was told to stop meanwhile.

    A training saves when it is told to stop, and that is waited for. Ctrl-C tells both, since the terminal sends it to
    both; a second one ends the training at once. SIGTERM came to this program alone, and is handed on.
    """
    told: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def note(number: int, _frame: FrameType | None) -> None:
        told.append(number)
        if number == signal.SIGTERM and process is not None:
            process.terminate()

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        process = subprocess.Popen(command)
        if told:  # before it could hear of it
            process.terminate()
        return process.wait(), bool(told)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
