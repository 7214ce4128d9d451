"""Classifies images by the names of classes, with a served model and no training.

    .venv/bin/python clients/zero_shot.py cat.jpg dog.png --classes cat dog horse
    .venv/bin/python clients/zero_shot.py digits/heldout --templates digits --sheet predictions.png --output report.json

The last step of the walk: a SavedModel behind a server in, labels out. Where a folder has labels the program also
prints how many of the best guesses are right, and its labels are the classes unless others are given. Exits with 1 if
an image was left out or the server failed, with 2 if the arguments are wrong.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import rich.console
import rich.table
import tyro
from PIL import Image

from clients.arguments import Server, check_output, find_images, report_failures, write_whole
from clients.sheet import Tile, choose, draw
from vit22b import program
from vit22b.client import Classification
from vit22b.errors import VitError
from vit22b.folder import Record
from vit22b.prompts import canonical, read_names

ROWS = 20
PICTURES = 100


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Classifies images by the names of classes.

    Attributes:
        images: files, or folders of them.
        server: where the model is.
        classes: names of the classes; by default the labels that the folders have.
        classes_file: a file with a class name a line, in place of --classes.
        templates: texts with one {} for the class's name, or names of sets: digits, general, name.
        top: how many guesses to give for an image.
        json: print JSON in place of a table.
        output: file to write the same JSON to, NAME.json.
        sheet: picture to write, NAME.png: images with the best guess, wrong ones in red.
        on_error: what an image that cannot be decoded does. skip: it is named and the others are classified; raise:
            none is.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    server: Server = dataclasses.field(default_factory=Server)
    classes: tuple[str, ...] = ()
    classes_file: Path | None = None
    templates: tuple[str, ...] = ("general",)
    top: int = 3
    json: bool = False
    output: Path | None = None
    sheet: Path | None = None
    on_error: Literal["skip", "raise"] = "skip"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The guesses for an image, best first, and whether the best is right: None where none of its labels is a class."""

    record: Record
    guesses: list[tuple[str, float]]
    right: bool | None


def main(arguments: Arguments) -> int:
    """Classifies, writes and prints; the exit code."""
    check_output(arguments.output, ".json")
    check_output(arguments.sheet, ".png")
    if arguments.top < 1:
        raise ValueError(f"top is {arguments.top}; expected at least 1 guess for an image")
    records = find_images(arguments.images)
    classes = class_names(arguments, records)
    with arguments.server.client() as client, rich.console.Console(stderr=True).status(f"{len(records)} images"):
        paths = [record.path for record in records]
        found = client.classify(paths, classes, arguments.templates, on_error=arguments.on_error)
    predictions = predict(records, found, arguments.top)
    report = document(found, predictions, arguments.templates)
    if arguments.output:
        text = json.dumps(report, indent=2) + "\n"
        write_whole(arguments.output, lambda file: file.write(text.encode()))
    if arguments.json:
        print(json.dumps(report))
    else:
        show(predictions, report)
    report_failures(found.images.failures)
    if arguments.sheet and predictions:
        sheet = draw_sheet(predictions, summary(report))
        write_whole(arguments.sheet, lambda file: sheet.save(file, "PNG"))
    return 1 if found.images.failures else 0


def class_names(arguments: Arguments, records: Sequence[Record]) -> list[str]:
    """The classes asked for.

    Raises:
        ValueError: two sources of them, none that names a class, or names of which not one is a label of the images.
    """
    labels = sorted({label for record in records for label in record.labels})
    if arguments.classes and arguments.classes_file:
        raise ValueError("both --classes and --classes_file are given; expected one of them")
    classes = read_names(arguments.classes_file) if arguments.classes_file else list(arguments.classes) or labels
    if not classes:
        raise ValueError("the class list is empty; name classes by --classes cat dog, or in a file by --classes_file")
    if labels and {canonical(label) for label in labels}.isdisjoint(map(canonical, classes)):
        raise ValueError(
            f"none of the images' labels ({', '.join(labels[:5])}) is a class ({', '.join(classes[:5])}); "
            "name the classes as the labels are"
        )
    return classes


def predict(records: Sequence[Record], found: Classification, top: int) -> list[Prediction]:
    """The guesses for every image that was classified.

    An image counts as right if its best guess is one of its labels, and is not counted if none of them is a class.
    """
    known = {canonical(name) for name in found.classes}
    predictions = []
    for index, guesses in zip(found.images.indices, found.top(top), strict=True):
        labels = {canonical(label) for label in records[index].labels} & known
        right = canonical(guesses[0][0]) in labels if labels else None
        predictions.append(Prediction(records[index], guesses, right))
    return predictions


def document(found: Classification, predictions: Sequence[Prediction], templates: Sequence[str]) -> dict[str, Any]:
    """What --json prints and --output writes. Without labels zero_shot_top1 is null and n, the images counted, is 0."""
    counted = [prediction.right for prediction in predictions if prediction.right is not None]
    return {
        "zero_shot_top1": sum(counted) / len(counted) if counted else None,
        "n": len(counted),
        "chance": 1 / len(found.classes),
        "classes": found.classes,
        "templates": templates,
        "space_id": found.images.space_id,
        "version": found.images.version,
        "failures": [dataclasses.asdict(failure) for failure in found.images.failures],
        "predictions": [
            {
                "name": str(prediction.record.path),
                "labels": prediction.record.labels,
                "right": prediction.right,
                "top": [{"class": name, "score": score} for name, score in prediction.guesses],
            }
            for prediction in predictions
        ],
    }


def draw_sheet(predictions: Sequence[Prediction], title: str) -> Image.Image:
    """The picture sheet of --sheet; its title says what part of the images it shows."""
    tiles = [
        Tile(guess.record.path, guess.guesses[0][0], " or ".join(guess.record.labels) or None, guess.right)
        for guess in predictions
    ]
    chosen = choose(tiles, PICTURES)
    wrong = sum(tile.right is False for tile in chosen)
    part = f"; shown: {wrong} wrong, {len(chosen) - wrong} others" if len(chosen) < len(tiles) else ""
    return draw(chosen, title + part)


def summary(report: dict[str, Any]) -> str:
    """The result in a line."""
    classes = f"{len(report['classes'])} classes"
    if report["n"] == 0:
        return f"{len(report['predictions'])} images, {classes}"
    right = f"zero-shot top-1 {report['zero_shot_top1']:.1%} of {report['n']} images"
    return f"{right}, {classes}, chance {report['chance']:.1%}"


def show(predictions: Sequence[Prediction], report: dict[str, Any]) -> None:
    """Prints the guesses for the first images, and the result."""
    console = rich.console.Console()
    table = rich.table.Table("image", "guesses with their cosines")
    if report["n"]:
        table.add_column("label")
    for prediction in predictions[:ROWS]:
        guesses = "  ".join(f"{name} {score:.3f}" for name, score in prediction.guesses)
        style = "red" if prediction.right is False else ""
        cells = [prediction.record.name, guesses, *([", ".join(prediction.record.labels)] if report["n"] else [])]
        table.add_row(*(rich.text.Text(cell, style) for cell in cells))
    console.print(table)
    more = f"; the first {ROWS} are shown" if len(predictions) > ROWS else ""
    console.print(summary(report) + more, highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    program.run(main, Arguments, __doc__, failures=(VitError,))
