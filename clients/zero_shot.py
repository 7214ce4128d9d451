"""Classifies images by the names of classes, with a served model and no training.

    .venv/bin/python clients/zero_shot.py cat.jpg dog.png --classes cat dog horse
    .venv/bin/python clients/zero_shot.py digits/heldout --templates digits --sheet predictions.png --output report.json
    find photos -name '*.jpg' | .venv/bin/python clients/zero_shot.py - --class_list cifar10 --csv > guesses.csv

The last step of the walk: a SavedModel behind a server in, labels out. Where a folder has labels the program also
prints how many of the best guesses are right, and its labels are the classes unless others are given. Exits with 1 if
an image was left out or the server failed, with 2 if the arguments are wrong, with 130 if it was interrupted.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from PIL import Image

from clients.arguments import Server, check_output, report_failures
from clients.class_cache import ClassCache, default_folder
from clients.class_lists import CLASS_LISTS
from clients.image_list import list_images
from clients.predictions import Prediction, classify, document, show, summary, write_csv
from clients.sheet import Tile, choose, draw
from vit22b import program
from vit22b.client import Client
from vit22b.embeddings import ClassVectors
from vit22b.errors import VitError
from vit22b.folder import Record
from vit22b.prompts import canonical, find_templates, read_names
from vit22b.whole_file import write_whole

PICTURES = 100


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Classifies images by the names of classes.

    Attributes:
        images: files, or folders of them; - reads a list of them from stdin, one a line.
        server: where the model is.
        classes: names of the classes; by default the labels that the folders have.
        classes_file: a file with a class name a line, in place of --classes.
        class_list: a list that comes with the program, in place of --classes.
        templates: texts with one {} for the class's name, or names of sets: digits, general, name. By default those of
            the --class_list, or general.
        cache: folder in which the vectors of classes are kept; $XDG_CACHE_HOME/vit22b/classes if not given.
        no_cache: embed the classes again, and keep nothing.
        top: how many guesses to give for an image.
        json: print JSON in place of a table.
        csv: print CSV in place of a table.
        output: file to write the same JSON to, NAME.json.
        sheet: picture to write, NAME.png: images with the best guess, wrong ones in red.
        on_error: what an image that cannot be decoded does. skip: it is named and the others are classified; raise: it
            is named and none is.
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")]
    server: Server = dataclasses.field(default_factory=Server)
    classes: tuple[str, ...] = ()
    classes_file: Path | None = None
    class_list: Annotated[str | None, tyro.conf.arg(metavar="|".join(CLASS_LISTS))] = None
    templates: tuple[str, ...] = ()
    cache: Path | None = None
    no_cache: bool = False
    top: int = 3
    json: bool = False
    csv: bool = False
    output: Path | None = None
    sheet: Path | None = None
    on_error: Literal["skip", "raise"] = "skip"

    def check(self) -> None:
        """Raises ValueError, before any work is done, for what cannot be, or flags that exclude each other."""
        check_output(self.output, ".json")
        check_output(self.sheet, ".png")
        if self.top < 1:
            raise ValueError(f"top is {self.top}; expected at least 1 guess for an image")
        if self.json and self.csv:
            raise ValueError("both --json and --csv are given, which write to stdout; leave one of them out")
        if self.class_list is not None and self.class_list not in CLASS_LISTS:
            raise ValueError(f"the class list is {self.class_list!r}; expected one of {', '.join(CLASS_LISTS)}")
        if self.no_cache and self.cache:
            raise ValueError("both --cache and --no_cache are given; leave one of them out")

    def chosen_templates(self) -> tuple[str, ...]:
        """The templates asked for, as they were named."""
        return self.templates or (CLASS_LISTS[self.class_list].templates if self.class_list else ("general",))


def main(arguments: Arguments) -> int:
    """Classifies, writes and prints; the exit code."""
    arguments.check()
    records = list_images(arguments.images)
    classes = class_names(arguments, records)
    with arguments.server.client() as client:
        bank = embed_classes(client, classes, arguments)
        found = classify(client, records, bank, arguments.top)
    report_failures(found.failures)
    if found.failures and arguments.on_error == "raise":
        return 1
    report = document(bank, found, arguments.chosen_templates())
    if arguments.output:
        text = json.dumps(report, indent=2) + "\n"
        write_whole(arguments.output, lambda file: file.write(text.encode()))
    if arguments.json:
        print(json.dumps(report))
    elif arguments.csv:
        write_csv(sys.stdout, found.predictions, min(arguments.top, len(classes)))
    else:
        show(found.predictions, report)
    if arguments.sheet and found.predictions:
        sheet = draw_sheet(found.predictions, summary(report))
        write_whole(arguments.sheet, lambda file: sheet.save(file, "PNG"))
    return 1 if found.failures else 0


def class_names(arguments: Arguments, records: Sequence[Record]) -> list[str]:
    """The classes asked for.

    Raises:
        ValueError: two sources of them, none that names a class, or names of which not one is a label of the images.
    """
    labels = sorted({label for record in records for label in record.labels})
    if sum(map(bool, (arguments.classes, arguments.classes_file, arguments.class_list))) > 1:
        raise ValueError("of --classes, --classes_file and --class_list several are given; expected one of them")
    classes = list(arguments.classes) or labels
    if arguments.classes_file:
        classes = read_names(arguments.classes_file)
    elif arguments.class_list:
        classes = list(CLASS_LISTS[arguments.class_list].names)
    if not classes:
        raise ValueError(
            "the class list is empty; name classes by --classes cat dog, in a file by --classes_file, or a list that "
            f"comes with the program by --class_list: {', '.join(CLASS_LISTS)}"
        )
    if labels and {canonical(label) for label in labels}.isdisjoint(map(canonical, classes)):
        raise ValueError(
            f"none of the images' labels ({', '.join(labels[:5])}) is a class ({', '.join(classes[:5])}); "
            "name the classes as the labels are"
        )
    return classes


def embed_classes(client: Client, classes: Sequence[str], arguments: Arguments) -> ClassVectors:
    """The classes' vectors, from the cache where it has them."""
    templates = find_templates(arguments.chosen_templates())
    folder = None if arguments.no_cache else arguments.cache or default_folder()
    if folder is None:
        return client.embed_classes(classes, templates)
    cache = ClassCache(folder)
    found = cache.find(client.describe().manifest.space_id, classes, templates)
    if found is None:
        found = client.embed_classes(classes, templates)
        try:
            cache.keep(found)
        except OSError as error:
            print(f"warning: the classes' vectors cannot be kept: {error}", file=sys.stderr)
    return found


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


if __name__ == "__main__":
    program.run(main, Arguments, __doc__, failures=(VitError,))
