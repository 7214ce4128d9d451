"""Evaluation sets on disk: a folder with set.json, and in it the parts that its kind asks for.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A part is a folder of
images with a metadata.jsonl, as vit22b/folder.py reads it; some kinds have further fields on its lines:

    kind            parts                  further fields of a line
    classification  train, test, shifts    group, a text: the subgroup that the image belongs to (optional); source, a
                                           text: what it is a view of, where it is not the only one of that (optional)
    cues            test                   shape, texture: classes; the set's `categories` say of which category
    segmentation    train, test            mask: a PNG below the part, one channel, the class of each pixel, 255: void
    depth           train, test            depth: a float32 .npy [h, w] below the part; not finite or <= 0: no value
    video           train, test            frames: images below the part, in order; file_name is the first of them
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from train.evaluation_sets.field_types import check_fields, require_texts
from train.evaluators.segmentation import VOID
from vit22b.fields import from_fields, require
from vit22b.folder import METADATA_FILE, read_folder
from vit22b.prompts import find_templates
from vit22b.whole_file import write_whole

SET_FILE = "set.json"
Kind = Literal["classification", "cues", "segmentation", "depth", "video"]


@dataclasses.dataclass(frozen=True)
class Shift:
    """A part on which a classifier of the set's own classes is tested, from another distribution.

    Attributes:
        part: the folder below the set's.
        title: what differs, for a report.
        label_map: the name of a map in train/evaluators/label_maps.py, or a JSON file below the set's folder, from the
            classes of the part to the set's; None where they are the same.
    """

    part: str
    title: str
    label_map: str | None = None

    def __post_init__(self) -> None:
        require_texts("part", (self.part,))
        require_texts("title", (self.title,))
        require_texts("label_map", () if self.label_map is None else (self.label_map,))


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """What set.json says of a set.

    Attributes:
        folder: where it lies.
        name: of the set, unique in a report.
        kind: decides which protocols run on it, and what its parts hold.
        origin: what it was made of, and under which licence.
        synthetic: whether the images were put together by a program, if out of real parts.
        classes: names; a class's index is its place here. Of a depth set, none.
        templates: sentences for the classes, or names of sets of them (see vit22b.prompts).
        shifts: further parts, of a classification set.
        groups: what the subgroups of the field `group` are, such as "skin tone"; None where there are none.
        categories: of a cues set: class -> one of the categories that decisions are made between.
        legend: of a segmentation set: class -> colour (red, green, blue), for overlays.
        retrieval: whether the captions of the test part describe one image each, so that they can be searched for.
        makers: version of the maker, None for a set that a user wrote.
        details: what else the maker wants in the report.
    """

    folder: Path
    name: str
    kind: Kind
    origin: str
    synthetic: bool
    classes: tuple[str, ...] = ()
    templates: tuple[str, ...] = ("general",)
    shifts: tuple[Shift, ...] = ()
    groups: str | None = None
    categories: Mapping[str, str] = dataclasses.field(default_factory=dict)
    legend: Mapping[str, tuple[int, int, int]] = dataclasses.field(default_factory=dict)
    retrieval: bool = False
    makers: int | None = None
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is {self.kind!r}; expected one of {', '.join(get_args(Kind))}")
        check_fields(self)
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("a class comes twice in `classes`; give each once")
        if self.kind != "depth" and not self.classes:
            raise ValueError(f"`classes` is empty; a set of kind {self.kind} needs the names of its classes")
        if self.kind == "segmentation" and len(self.classes) > VOID:
            raise ValueError(f"`classes` has {len(self.classes)} names; a mask has room for {VOID}, and {VOID} is void")

    def named(self, detail: str) -> tuple[str, ...]:
        """The texts of a detail that may be one of them or a list; none where there is no such detail.

        Raises:
            ValueError: it is something else.
        """
        given = self.details.get(detail, ())
        listed = (given,) if isinstance(given, str) else given
        require(isinstance(listed, list | tuple), f"details.{detail} is {given!r}; expected a text or a list of texts")
        require_texts(f"details.{detail}", listed)
        return tuple(listed)

    def part(self, name: str) -> "Part":
        """Reads a part.

        Raises:
            ValueError: it is missing, or a line of its metadata is broken; the message names file and line.
        """
        return read_part(self, name)


@dataclasses.dataclass(frozen=True)
class Part:
    """The images of a part, sorted by name.

    Attributes:
        set: that it belongs to.
        name: of the part.
        files: n paths; of a video part the first frame of each clip.
        labels: n tuples of names as the part has them.
        captions: n texts or Nones.
        fields: n dictionaries, the further fields.
    """

    set: EvaluationSet
    name: str
    files: tuple[Path, ...]
    labels: tuple[tuple[str, ...], ...]
    captions: tuple[str | None, ...]
    fields: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        return len(self.files)

    @property
    def folder(self) -> Path:
        """Where the part lies."""
        return self.set.folder / self.name

    @property
    def targets(self) -> npt.NDArray[np.int64]:
        """The class of every image: int64 [n], places in the set's classes.

        Raises:
            ValueError: an image without exactly one label, or with one that is no class of the set.
        """
        known = {name: index for index, name in enumerate(self.set.classes)}
        for file, labels in zip(self.files, self.labels, strict=True):
            if len(labels) != 1 or labels[0] not in known:
                raise ValueError(
                    f"{file} has the labels {list(labels)}; expected one of the {len(known)} classes of "
                    f"{self.set.folder / SET_FILE}, exactly one"
                )
        return np.asarray([known[labels[0]] for labels in self.labels], np.int64)

    @property
    def sources(self) -> tuple[str | None, ...]:
        """Of what each image is a view; None where its line does not say.

        Raises:
            ValueError: a source that is no text.
        """
        found = tuple(fields.get("source") for fields in self.fields)
        require_texts(f"source in {self.folder / METADATA_FILE}", (each for each in found if each is not None))
        return found

    def column(self, field: str) -> tuple[Any, ...]:
        """A further field of every image.

        Raises:
            ValueError: an image lacks it.
        """
        for file, fields in zip(self.files, self.fields, strict=True):
            if field not in fields:
                raise ValueError(f"{file} has no {field!r} in {self.folder / METADATA_FILE}; every line needs it")
        return tuple(fields[field] for fields in self.fields)

    def paths(self, field: str) -> tuple[Path, ...]:
        """A further field that names a file below the part.

        Raises:
            ValueError: an image lacks it, or the file is missing.
        """
        found = tuple(self.folder / str(name) for name in self.column(field))
        if missing := [path for path in found if not path.is_file()]:
            raise ValueError(f"{self.folder / METADATA_FILE} names {missing[0]} as {field}, which is missing")
        return found


def read_set(folder: Path) -> EvaluationSet:
    """Reads what a set says of itself.

    Raises:
        ValueError: there is no set.json, or it is broken; the message names it.
    """
    path = Path(folder) / SET_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} is no evaluation set: it has no {SET_FILE}; docs/evaluation.md says how to write one"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"{values!r} is no object of fields")
        values["shifts"] = tuple(from_fields(Shift, shift) for shift in values.get("shifts", ()))
        if isinstance(legend := values.get("legend", {}), dict):
            values["legend"] = {
                k: tuple(colour) if isinstance(colour, list) else colour for k, colour in legend.items()
            }
        found = from_fields(EvaluationSet, {**values, "folder": Path(folder)})
        find_templates(found.templates)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return found


def write_set(described: EvaluationSet) -> None:
    """Writes set.json, last of all, so that a folder which has it is whole."""
    values = {k: v for k, v in dataclasses.asdict(described).items() if k != "folder"}
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    write_whole(described.folder / SET_FILE, lambda file: file.write(text.encode()))


def read_part(described: EvaluationSet, name: str) -> Part:
    """Reads a part of a set; see EvaluationSet.part."""
    folder = described.folder / name
    records = read_folder(folder).records
    fields: dict[str, Mapping[str, Any]] = {}
    if (folder / METADATA_FILE).is_file():
        lines = (folder / METADATA_FILE).read_text(encoding="utf-8").split("\n")  # as read_folder does
        for line in filter(str.strip, lines):
            values = json.loads(line)  # read_folder has checked that it is an object with a file_name
            known = ("file_name", "labels", "caption")
            fields[Path(values["file_name"]).as_posix()] = {k: v for k, v in values.items() if k not in known}
    return Part(
        described,
        name,
        tuple(record.path for record in records),
        tuple(record.labels for record in records),
        tuple(record.caption for record in records),
        tuple(fields.get(record.name, {}) for record in records),
    )
