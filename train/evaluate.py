"""Judges a model as the paper judges ViT-22B: every protocol, on every set, one report.

    .venv/bin/python train/evaluate.py --source checkpoint:build/eval/lit --data build/eval/sets --output build/mine
    .venv/bin/python train/evaluate.py --source grpc://localhost:8500/mine --data build/eval/sets --output build/served
    .venv/bin/python train/evaluate.py --compare build/mine/report.json build/served/report.json --output build/compared

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A checkpoint and the
model that is served of it give the same numbers, so that two reports show whether anything was lost in between. In
--output: report.json and report.html, of a comparison compare.json and compare.html. docs/evaluation.md has more.
"""

import vit22b.quiet  # noqa: F401, I001 (before TensorFlow is imported)
import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from train.kept import Kept
from train.reports import comparison, comparison_page, document, page
from train.reports.document import ModelFacts
from train.reports.facts import make_report, model_facts
from train.reports.terminal_table import comparison_table, report_table
from train.suite.context import Context, Effort
from train.suite.registry import PROTOCOLS
from train.suite.running import Ran, Task, chosen, find_sets, run, tasks
from train.tower_opening import open_tower
from vit22b import program
from vit22b.errors import VitError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Judge a model by the paper's protocols, or compare reports."""

    output: Path
    """Folder for the reports; a checkpoint's answers are kept in the folder kept in it."""
    source: str | None = None
    """What to judge: checkpoint:DIR, a work directory or a step in it, or grpc://HOST:PORT/MODEL[/VERSION]."""
    data: Path | None = None
    """Folder of evaluation sets, or one set; train/evaluation_data.py makes some."""
    protocols: tuple[str, ...] = ()
    """Ids of protocols to run, such as linear-probe/1; all by default."""
    sets: tuple[str, ...] = ()
    """Names of sets to judge on; all by default."""
    compare: tuple[Path, ...] = ()
    """Judge nothing: set two or more report.json side by side."""
    effort: Effort = dataclasses.field(default_factory=Effort)

    def __post_init__(self) -> None:
        if self.compare:
            if given := [name for name in ("source", "data") if getattr(self, name) is not None]:
                raise ValueError(f"--compare reads reports and judges nothing; leave out --{' --'.join(given)}")
            if len(self.compare) < 2:
                raise ValueError("--compare has one report; give two or more")
        elif missing := [name for name in ("source", "data") if getattr(self, name) is None]:
            raise ValueError(f"--{' and --'.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; see --help")


def evaluate(settings: Settings) -> int:
    """Judges, or compares; 1 where a set or the model did not fit a protocol, the rest of the report being there."""
    if settings.compare:
        return _compare(settings.compare, settings.output)
    assert settings.source is not None  # the settings have checked it
    assert settings.data is not None
    names = chosen("--protocols", settings.protocols, [protocol.id for protocol in PROTOCOLS])
    sets = find_sets(settings.data, settings.sets)
    todo = tasks([protocol for protocol in PROTOCOLS if protocol.id in names], sets)
    if not todo:
        raise ValueError(f"none of {', '.join(names)} has anything to say of {', '.join(each.name for each in sets)}")
    settings.output.mkdir(parents=True, exist_ok=True)
    with (
        open_tower(settings.source) as tower,
        tempfile.TemporaryDirectory(prefix="scratch-", dir=settings.output) as scratch,
    ):
        model = model_facts(tower)  # reads the weights that it comes from, which nobody should wait for after Ctrl-C
        context = Context(tower, settings.effort, Path(scratch), Kept(settings.output / "kept"))
        ran: list[Ran] = []
        try:
            _run_all(context, todo, ran)
        finally:
            if ran:  # what there is when it is interrupted, too
                _write(model, ran, settings.output)
    failed = [each for each in ran if each.failed is not None]
    for each in failed:
        print(f"{each.task}: {each.failed}")
    return 1 if failed else 0


def _run_all(context: Context, todo: Sequence[Task], ran: list[Ran]) -> None:
    """Runs the tasks, and adds what came of each."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=len(todo))
        for task in todo:
            progress.update(bar, description=str(task))
            ran.append(run(context, task))
            progress.advance(bar)


def _write(model: ModelFacts, ran: Sequence[Ran], output: Path) -> None:
    report = make_report(model, ran)
    document.write(report, output / "report.json")
    page.write(report, output / "report.html")
    program.table_console().print(report_table(report))
    print(f"{output / 'report.html'}: {len(report.rows)} numbers, {len(report.not_run)} protocols not run")


def _compare(paths: Sequence[Path], output: Path) -> int:
    found = comparison.compare(paths)
    output.mkdir(parents=True, exist_ok=True)
    comparison.write(found, output / "compare.json")
    comparison_page.write(found, output / "compare.html")
    program.table_console().print(comparison_table(found))
    print(f"{output / 'compare.html'}: {len(found.rows)} numbers of {len(found.models)} models")
    return 0


if __name__ == "__main__":
    program.run(evaluate, Settings, __doc__, failures=(VitError,))
