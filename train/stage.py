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
from typing import Any

from train.evaluation_sets.pretraining import FOLDER
from vit22b.program import Interrupted
from vit22b.whole_file import write_whole

JOURNAL = "finished.json"  # by stage, its command, its data, and whether it has come to its end
STOPPED = 75  # what a training that was told to stop is asked to exit with: it has not come to its end


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

    def note(self, data: Mapping[str, str], *, finished: bool) -> dict[str, Any]:
        """What the journal has of it.

        Args:
            data: digests of all data, by name.
            finished: whether it has come to its end.
        """
        used = data if self.workdir is None else {FOLDER: data[FOLDER]}
        return {"command": list(self.command), "data": dict(used), "finished": finished}

    def is_that_of(self, noted: Mapping[str, Any] | None, data: Mapping[str, str]) -> bool:
        """Whether a note is of this command on these data; notes of trainings once had other data besides."""
        now = self.note(data, finished=True)
        return (
            noted is not None
            and noted["command"] == now["command"]
            and all(noted["data"].get(name) == digest for name, digest in now["data"].items())
        )


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
        if stage.is_that_of(before, data) and _is_finished(before) and stage.leaves.exists():
            print(f"{folder.name}: {stage.name} is finished")
            continue
        behind = {each.name: noted[each.name] | {"finished": False} for each in todo[number:] if each.name in noted}
        noted |= behind | {stage.name: stage.note(data, finished=False)}
        _write_notes(folder, noted)  # before there is anything that it could be asked of
        print(f"{folder.name}: {' '.join(stage.command)}", flush=True)
        told = _run(stage)
        noted[stage.name] = stage.note(data, finished=True)
        _write_notes(folder, noted)
        if told:
            raise Interrupted(f"stopped, {stage.name} is finished; the same command goes on behind it", 130)


def refuse_others(folder: Path, todo: Sequence[Stage], data: Mapping[str, str]) -> None:
    """Raises ValueError where a training's folder holds one that was begun by another command or on other data.

    It would be continued, or taken as finished: a training knows its data by little more than their number.
    """
    noted = _noted(folder)
    others = [
        stage.workdir
        for stage in todo
        if stage.workdir is not None and stage.workdir.exists() and not stage.is_that_of(noted.get(stage.name), data)
    ]
    if others:
        names = " ".join(map(str, others))
        raise ValueError(
            f"{names}: {folder / JOURNAL} does not say that this was begun with these settings on these data, and it "
            "would be continued; remove it, or give another --output"
        )


def _noted(folder: Path) -> dict[str, Any]:
    journal = folder / JOURNAL
    found: dict[str, Any] = json.loads(journal.read_text()) if journal.is_file() else {}
    return found


def _is_finished(noted: Mapping[str, Any] | None) -> bool:
    """Once, only what was finished was noted."""
    return noted is not None and bool(noted.get("finished", True))


def _write_notes(folder: Path, noted: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(noted, indent=1)
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
