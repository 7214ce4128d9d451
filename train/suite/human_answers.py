"""What people said of the images of a set: a table in the format of model-vs-human (Geirhos et al. 2021).

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The user supplies the
table, as CSV with a line for each answer; columns besides the ones named here are passed over:

    subj               the observer
    object_response    the category that was answered; "na" where nothing was
    category           the right category, which is the shape's where cues are in conflict
    imagename          the file name of the image, as in the part
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

COLUMNS = ("subj", "object_response", "category", "imagename")
NOTHING = "na"
Answers = dict[str, dict[str, str]]  # observer -> image -> category


def read_answers(path: Path, truth: Mapping[str, str], categories: Sequence[str]) -> Answers:
    """The answers of each observer by image, in the order of the table.

    Args:
        path: of the table.
        truth: image -> right category, of the images that there are.
        categories: that answers are given in.

    Raises:
        ValueError: it is missing or broken, or does not fit the images; the message names file and line.
    """
    found: Answers = {}
    for line, row in _rows(path):
        where = f"{path}, line {line}"
        observer, answer, category, image = (row[name].strip() for name in COLUMNS)
        if image not in truth:
            known = next(iter(truth), "none")
            raise ValueError(f"{where}: there is no image {image!r}; expected a file name of the part, such as {known}")
        if category != truth[image]:
            raise ValueError(f"{where}: {image} is of {category!r}; the shape's category there is {truth[image]!r}")
        if answer not in (*categories, NOTHING):
            raise ValueError(
                f"{where}: the answer {answer!r} is no category; expected {NOTHING} or one of {', '.join(categories)}"
            )
        if not observer or image in found.setdefault(observer, {}):
            raise ValueError(
                f"{where}: {observer!r} answers {image} once more; expected a name and one answer for each image"
            )
        found[observer][image] = answer
    if not found:
        raise ValueError(f"{path} has no answers; expected a line for each below the names of the columns")
    return found


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Lines with their numbers, all of which have the columns."""
    if not path.is_file():
        raise ValueError(f"there is no table {path}; expected a CSV with the columns {', '.join(COLUMNS)}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"{path} lacks the columns {', '.join(missing)}; it needs {', '.join(COLUMNS)}")
            rows = [(reader.line_num, row) for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no CSV in UTF-8: {error}") from error
    for line, row in rows:
        if None in row or any(row[name] is None for name in COLUMNS):
            raise ValueError(f"{path}, line {line}: it has more or fewer fields than the first line has columns")
    return rows
