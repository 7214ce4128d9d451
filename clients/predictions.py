"""What a model makes of images and classes: the guesses for each image, as data and as text.

Behind clients/zero_shot.py at the end of the walk, after the client.
"""

import csv
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, TextIO

import rich.table
import rich.text

from clients.origin import space_changed
from clients.terminal import bar, progress
from vit22b import program
from vit22b.client import Client
from vit22b.embeddings import Classification, ClassVectors
from vit22b.errors import Failure
from vit22b.folder import Record
from vit22b.prompts import canonical

_ROWS = 20
_BAR = 12


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The guesses for an image, best first, and whether the best is right: None where none of its labels is a class.

    `lowest` is the score of the class that fits least, of all.
    """

    record: Record
    guesses: list[tuple[str, float]]
    right: bool | None
    lowest: float


@dataclasses.dataclass(frozen=True)
class Found:
    """What came of all images.

    Attributes:
        predictions: for each that could be decoded, in order.
        failures: the others.
        version: of the model, that answered last.
    """

    predictions: list[Prediction]
    failures: list[Failure]
    version: int


def classify(client: Client, records: Sequence[Record], bank: ClassVectors, top: int) -> Found:
    """Scores every image.

    Of the vectors no more are in memory than those of the requests under way.

    Raises:
        SpaceChangedError: the model was replaced by one of another space since the classes were embedded.
    """
    known = {canonical(name) for name in bank.classes}
    predictions: list[Prediction] = []
    failures: list[Failure] = []
    version = bank.version
    with progress(len(records)) as advance:
        for part in client.stream_images((record.path for record in records), on_error="skip"):
            if part.space_id != bank.space_id:
                remedy = "repeat the command, which embeds the classes with the model that is served now"
                raise space_changed(bank.space_id, part, client, remedy)
            found = Classification(part.vectors @ bank.vectors.T, bank.classes, part)
            for index, guesses, scores in zip(part.indices, found.top(top), found.scores, strict=True):
                right = is_right(guesses[0][0], records[index].labels, known)
                predictions.append(Prediction(records[index], guesses, right, float(scores.min())))
            failures += part.failures
            version = part.version
            advance(len(part) + len(part.failures))
    return Found(predictions, failures, version)


def is_right(guess: str, labels: Sequence[str], known: Collection[str]) -> bool | None:
    """Whether a guess is one of an image's labels; None if none of them is a class, which are `known` by canonical."""
    counted = {canonical(label) for label in labels} & set(known)
    return canonical(guess) in counted if counted else None


def document(bank: ClassVectors, found: Found, templates: Sequence[str]) -> dict[str, Any]:
    """What --json prints and --output writes. Without labels zero_shot_top1 is null and n, the images counted, is 0."""
    counted = [prediction.right for prediction in found.predictions if prediction.right is not None]
    return {
        "zero_shot_top1": sum(counted) / len(counted) if counted else None,
        "n": len(counted),
        "chance": 1 / len(bank.classes),
        "classes": bank.classes,
        "templates": templates,
        "space_id": bank.space_id,
        "version": found.version,
        "failures": [dataclasses.asdict(failure) for failure in found.failures],
        "predictions": [
            {
                "name": str(prediction.record.path),
                "labels": prediction.record.labels,
                "right": prediction.right,
                "top": [{"class": name, "score": score} for name, score in prediction.guesses],
            }
            for prediction in found.predictions
        ],
    }


def write_csv(file: TextIO, predictions: Sequence[Prediction], top: int) -> None:
    """A line for each image: its name, its labels, whether the best guess is right, and the guesses, best first."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["name", "labels", "right", *(f"{kind}_{n}" for n in range(1, top + 1) for kind in ("class", "score"))]
    )
    for prediction in predictions:
        right = "" if prediction.right is None else str(prediction.right).lower()
        guesses = [cell for name, score in prediction.guesses for cell in (name, f"{score:.6f}")]
        writer.writerow([str(prediction.record.path), "|".join(prediction.record.labels), right, *guesses])


def summary(report: dict[str, Any]) -> str:
    """The result in a line."""
    classes = f"{len(report['classes'])} classes"
    if report["n"] == 0:
        return f"{len(report['predictions'])} images, {classes}"
    right = f"zero-shot top-1 {report['zero_shot_top1']:.1%} of {report['n']} images"
    return f"{right}, {classes}, chance {report['chance']:.1%}"


def show(predictions: Sequence[Prediction], report: dict[str, Any]) -> None:
    """Prints the guesses for the first images, and the result.

    A bar is empty for the class that fits the image least, of all, and full for the one that fits it best.
    """
    console = program.table_console()
    table = rich.table.Table("image", "guess", "cosine", "")
    if report["n"]:
        table.add_column("label")
    for prediction in predictions[:_ROWS]:
        style = "red" if prediction.right is False else ""
        best = prediction.guesses[0][1]
        for place, (name, score) in enumerate(prediction.guesses):
            share = (score - prediction.lowest) / (best - prediction.lowest) if best > prediction.lowest else 1.0
            drawn = bar(share, _BAR, console.encoding)
            first = [prediction.record.name, ", ".join(prediction.record.labels)] if place == 0 else ["", ""]
            cells = [first[0], name, f"{score:.3f}", drawn, *(first[1:] if report["n"] else [])]
            last = place == len(prediction.guesses) - 1
            table.add_row(*(rich.text.Text(cell, style) for cell in cells), end_section=last and place > 0)
    console.print(table)
    more = f"; the first {_ROWS} are shown" if len(predictions) > _ROWS else ""
    console.print(summary(report) + more, highlight=False, markup=False, soft_wrap=True)
