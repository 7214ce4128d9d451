"""What the demo tower of the evaluation is trained on: the train parts of some sets in one folder of images.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. It stands at its
beginning: train/pretrain.py and train/lit.py read the folder as any other.
"""

import filecmp
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from train.evaluation_sets.reading import SET_FILE, read_set
from train.evaluation_sets.writing import whole_folder
from vit22b.folder import METADATA_FILE, Record, write_metadata
from vit22b.whole_file import write_whole

FOLDER = "pretraining"
SETS = ("emoji", "digits", "photos")
ORIGIN_FILE = "origin.json"


def gather(root: Path, sets: Sequence[str] = SETS) -> int | None:
    """Makes the folder `pretraining` of the sets that are there; files are linked, or copied where they cannot be.

    Args:
        root: the folder of the sets.
        sets: names of those whose train parts are taken.

    Returns:
        The number of images; None if the folder is there, and made of the same.

    Raises:
        ValueError: the folder is there and was not made by this function, or none of the sets is there.
    """
    found = [name for name in sets if (root / name / SET_FILE).is_file()]
    if not found:
        raise ValueError(f"{root} has none of the sets {', '.join(sets)}; make one of them first")
    origin = {name: hashlib.sha256((root / name / "train" / METADATA_FILE).read_bytes()).hexdigest() for name in found}
    target = root / FOLDER
    if target.exists():
        if not (target / ORIGIN_FILE).is_file():
            raise ValueError(f"{target} was not made by this program: it has no {ORIGIN_FILE}; move it away")
        same = json.loads((target / ORIGIN_FILE).read_text(encoding="utf-8")) == origin
        if same and all(_has(target, root, name) for name in found):
            return None
    with whole_folder(target) as folder:
        records = [record for name in found for record in _linked(root, name, folder)]
        write_metadata(folder, records)
        write_whole(folder / ORIGIN_FILE, lambda file: file.write(json.dumps(origin, indent=2).encode() + b"\n"))
    return len(records)


def _has(target: Path, root: Path, name: str) -> bool:
    """Whether the images of a set that are there are the set's own still: it may be made anew, by the same names."""
    for file in read_set(root / name).part("train").files:
        there = target / name / file.name
        if not there.is_file() or not (there.samefile(file) or filecmp.cmp(there, file, shallow=False)):
            return False
    return True


def _linked(root: Path, name: str, folder: Path) -> list[Record]:
    part = read_set(root / name).part("train")
    (folder / name).mkdir()
    records = []
    for file, labels, caption in zip(part.files, part.labels, part.captions, strict=True):
        target = folder / name / file.name
        try:
            os.link(file, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(file, target)
        records.append(Record(target, f"{name}/{file.name}", labels, caption))
    return records
