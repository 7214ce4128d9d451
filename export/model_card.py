"""The model card: README.md beside a version's manifest, what somebody should know before using the model.

Between checkpoint and SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. All that it says was read from the checkpoint, the manifest and, where one is given, an evaluation's report.
It is written when the version is done, and is none of the files that the manifest has hashes of: who owns the model
may write more into it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from export.artefact import read_manifest
from export.version_folder import rewrite
from vit22b.config import size_name
from vit22b.lineage import TrainingRun, lineage
from vit22b.report_rows import ReportRow, ReportRows
from vit22b.signature import MANIFEST_FILE, Manifest
from vit22b.stored_layers import Layers
from vit22b.tree import parameter_count

CARD_FILE = str(Path(MANIFEST_FILE).with_name("README.md"))


def check_report(report: ReportRows | None, spaces: Sequence[str], layers: Layers) -> None:
    """Raises ValueError where a report is of another model than the one with these space_ids, or of another head.

    A space_id says nothing of the head, of which the report has figures too.
    """
    if report is None:
        return
    remedy = "give the report that train/evaluate.py wrote of this checkpoint"
    if report.space_id not in spaces:
        raise ValueError(
            f"--report is of {report.source}, space {report.space_id}, and the model's is {spaces[0]}; {remedy}"
        )
    if report.head is not None and report.head != (head := layers.head):
        raise ValueError(
            f"--report is of {report.source} with the head {report.head}, and the model's is {head or 'none'}; {remedy}"
        )


def write(folder: Path, model: str, layers: Layers, report: ReportRows | None) -> None:
    """Writes the card of a version that is done.

    Args:
        folder: of the version; its manifest is read.
        model: the name that it is served under.
        layers: of the checkpoint.
        report: of an evaluation of it, or None.
    """
    lines = "\n".join(card(model, read_manifest(folder), layers, report))
    rewrite(folder / CARD_FILE, lambda beside: beside.write_text(lines + "\n", encoding="utf-8"))


def card(model: str, manifest: Manifest, layers: Layers, report: ReportRows | None) -> Iterator[str]:
    """The lines of the card, in Markdown."""
    yield f"# {_text(model)}"
    yield from _model(manifest, layers)
    yield from ("", "## Data and training")
    found = lineage(layers.folder)
    for run in found.runs:
        yield from _run(run)
    if found.missing is not None:
        yield f"- Before that: the checkpoint of space {found.missing}, which was not there at the export."
    yield from ("", "## Evaluation")
    yield from _evaluation(manifest, report)
    yield from ("", "## Limits")
    yield from (f"- {limit}" for limit in _limits(manifest, found.runs, report))


def _model(manifest: Manifest, layers: Layers) -> Iterator[str]:
    image, text = manifest.config.image, manifest.config.text
    parts = {name: parameter_count({name: part}) for name, part in layers.shapes.items()}
    side = manifest.preprocess.resolution
    form = f"width {image.width}, {image.depth} layers, MLP {image.mlp_dim}, {image.heads} heads"
    facts = {
        "size": f"{size_name(image)}: {form}",
        "parameters": ", ".join(f"{count:,} {name}" for name, count in parts.items()),
        "images": f"{side} x {side} pixels, patches of {image.patch}",
        "embedding": f"{image.embedding} numbers of unit length, in the space {manifest.space_id}",
        "classes of the head": f"{len(manifest.labels):,}" if manifest.labels else "no head",
        "texts": "no text tower" if text is None else f"{text.length} tokens, a vocabulary of {text.vocabulary:,}",
        "weights": f"{manifest.weights}, of step {manifest.step:,} ({manifest.source})",
        "format": f"{manifest.format}, for {', '.join(manifest.platforms)}; loads until {manifest.loads_until}",
        "exported": f"{manifest.exported_on}, code {manifest.git_revision or 'outside a checkout'}",
    }
    yield from ("", "| | |", "|---|---|")
    yield from (f"| {name} | {_text(value)} |" for name, value in facts.items())


def _run(run: TrainingRun) -> Iterator[str]:
    """What a run learnt from, and how."""
    recipe, source = run.recipe, run.description.source or {}
    if not recipe:
        family = _text(source.get("family", "unknown"))
        yield f"- Weights of the family {family}, imported; their own card says what they saw."
        return
    kind = "Locked-image tuning" if run.locked else "Training"
    start = "random weights" if run.from_nothing else f"the checkpoint of space {source.get('space_id', 'unknown')}"
    steps = f"{run.data['step']:,} steps of {run.data['batch']:,}"
    yield f"- {kind} from {start} on {run.data['examples']:,} examples, {steps}, seed {run.data['seed']}."
    if run.from_nothing and source:
        yield f"  - taught by the model of space {source.get('space_id', 'unknown')}"
    for each in recipe.get("sources", ()):
        yield f"  - a source of {each} (a hash of its first and last names)"
    yield f"  - settings: {_text(_flat({k: v for k, v in recipe.items() if k != 'sources'}))}"


def _evaluation(manifest: Manifest, report: ReportRows | None) -> Iterator[str]:
    if report is None:
        yield "No report was given at the export (`--report`), so that this card has no figures."
        return
    date, source = _text(report.date), _text(report.source)
    yield f"By train/evaluate.py on {date}, of {source}. A protocol's id names its definition."
    if report.space_id != manifest.space_id:
        yield f"Measured on the weights in float32, space {report.space_id}, and not on these in {manifest.weights}."
    yield from ("", "| protocol | data | metric | value | 95% interval | chance | examples |")
    yield "|---|---|---|---|---|---|---|"
    yield from map(_row, report.rows)


def _row(row: ReportRow) -> str:
    data = f"{row.data} (synthetic)" if row.synthetic else row.data
    settings = f" ({_flat(row.settings)})" if row.settings else ""
    interval = "" if row.interval is None else f"{row.interval[0]:.4f} to {row.interval[1]:.4f}"
    cells = (row.protocol, data, row.metric + settings, f"{row.value:.4f}", interval, _number(row.chance), row.examples)
    return f"| {' | '.join(_text(each) for each in cells)} |"


def _limits(manifest: Manifest, runs: Sequence[TrainingRun], report: ReportRows | None) -> Iterator[str]:
    yield f"Vectors compare only within the space {manifest.space_id}; other models' vectors mean something else."
    if all(run.recipe for run in runs) and runs[-1].from_nothing:  # else others' weights have seen more
        yield (
            "It has seen the examples that are counted above and no others: what they do not show it has not learnt, "
            "and what they show one-sidedly it has learnt so."
        )
    if manifest.labels:
        yield f"The head knows {len(manifest.labels):,} classes, and says one of them of any image."
    yield "An image is brought to the model's own size, so that small things in large images are lost."
    if report is None:
        yield "Accuracy, calibration and differences between groups of people were not measured."
        yield "Measure them on data of your own before anything depends on them."
    else:
        yield "The figures hold for the data that they name; on other data they say little."
        if any(row.synthetic for row in report.rows):
            yield "Sets that are marked as synthetic were put together by a program: their figures show the protocol."
        if not any(row.protocol.startswith("fairness/") for row in report.rows):
            yield "Differences between groups of people were not measured."
    yield from _numerics(manifest)


def _numerics(manifest: Manifest) -> Iterator[str]:
    if manifest.golden == "none":
        yield "The version was written without having run, and had no golden answers at the export."
    if manifest.weights == "float32":
        return
    found = manifest.numerics
    if not found:
        yield f"Its error in {manifest.weights}, against float32, was not measured."
        return
    yield (
        f"In {manifest.weights}, the cosine with the same model in float32 is at least {found['cosine_min']:.5f} "
        f"(mean {found['cosine_mean']:.5f}) on {found['images']} images of {found['source']}."
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> str:
    parts = []
    for name, value in values.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else f"{prefix}{name} {value}"
        parts.append(inner)
    return ", ".join(part for part in parts if part)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _text(value: object) -> str:
    """A text that a table of Markdown takes as one, and no HTML."""
    text = " ".join(str(value).split())
    for sign in "\\`*_|<[":
        text = text.replace(sign, f"\\{sign}")
    return text
