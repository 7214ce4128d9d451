"""Clips of a video set as a tower sees them: frames, the parts that are cropped out of them, and their features.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. A crop that is a
whole frame is given to the tower as the file; any other is cut out here and encoded as a PNG, which every tower takes.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from train.evaluation_sets.reading import Part
from train.evaluators.grids import Floats
from train.evaluators.video import starts
from train.suite.context import Context
from train.tower import Image
from vit22b.fields import from_fields

CROPPED = 7 / 8  # the side of one of several crops of a square frame, as a part of the frame's
_CROPS: Mapping[int, tuple[tuple[float, float], ...]] = {
    # Where a crop lies, right and down, from one edge, 0, to the other, 1.
    1: ((0.5, 0.5),),
    3: ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)),
    5: ((0.5, 0.5), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)),
}


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What of a clip is looked at.

    Attributes:
        frames: F, of a view, one after the other.
        views: parts of a clip, evenly from its start to its end.
        crops: squares of a frame. 1: the largest in its middle. 3: along the longer edge, the largest there are; of a
            square frame along its diagonal, of 7/8 of its side. 5: the middle and the corners, of 7/8 of the shorter
            side.
        centred: whether the mean over a sample's frames is taken off its features, so that they say what changes and
            not what is seen; for sets whose classes are motions.
    """

    frames: int = 8
    views: int = 1
    crops: int = 1
    centred: bool = False

    def __post_init__(self) -> None:
        for name in ("frames", "views"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a number of 1 or more")
        if self.crops not in _CROPS:
            raise ValueError(f"crops is {self.crops}; expected one of {', '.join(map(str, _CROPS))}")

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> "Sampling":
        """What a set says in its details under `sampling`.

        Raises:
            ValueError: it is no object of these fields.
        """
        given = details.get("sampling", {})
        if not isinstance(given, Mapping):
            raise ValueError(f"details.sampling is {given!r}; expected an object of frames, views, crops and centred")
        try:
            return from_fields(cls, given, typed=True)
        except ValueError as error:
            raise ValueError(f"details.sampling: {error}") from error


def clips(part: Part) -> tuple[tuple[Path, ...], ...]:
    """The frames of every clip of a part, in order.

    Raises:
        ValueError: there are no clips, a line's frames are no list of names, or one is missing.
    """
    found = []
    for file, names in zip(part.files, part.column("frames"), strict=True):
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{file} has the frames {names!r}; expected a list of files below {part.folder}, in order")
        frames = tuple(part.folder / name for name in names)
        if missing := [frame for frame in frames if not frame.is_file()]:
            raise ValueError(f"the clip of {file} names {missing[0]} as a frame, which is missing")
        found.append(frames)
    if not found:
        raise ValueError(f"{part.folder} has no clips")
    return tuple(found)


def features(context: Context, frames: Sequence[Sequence[Path]], sampling: Sampling) -> Floats:
    """Pooled features of what is sampled of every clip: float32 [n, views x crops, F, D].

    A clip that is too short for as many different views as others has some of them twice.

    Raises:
        ValueError: a clip has fewer frames than a view, or a frame cannot be decoded.
    """
    begins = [starts(len(clip), sampling.frames, sampling.views) for clip in frames]
    views = max(map(len, begins))
    seen = [
        [
            clip[begin + frame]
            for view in range(views)
            for begin in (at[view % len(at)],)
            for frame in range(sampling.frames)
        ]
        for clip, at in zip(frames, begins, strict=True)
    ]
    distinct = {path: place for place, path in enumerate(dict.fromkeys(path for clip in seen for path in clip))}
    rows = np.asarray([[distinct[path] for path in clip] for clip in seen])
    by_crop = [
        context.pooled([crop(path, sampling.crops, index) for path in distinct]) for index in range(sampling.crops)
    ]
    found = np.stack([each[rows] for each in by_crop], axis=1)  # [n, crops, views x F, D]
    found = found.reshape(len(frames), sampling.crops * views, sampling.frames, found.shape[-1])
    return found - found.mean(axis=2, keepdims=True) if sampling.centred else found


def crop(path: Path, crops: int, index: int) -> Image:
    """One of the crops of a frame: the file itself where that is all of it, else an encoded PNG."""
    try:
        with Pillow.open(path) as opened:
            box = square(*opened.size, crops, index)
            if box == (0, 0, *opened.size):
                return path
            upright = ImageOps.exif_transpose(opened)
            cut = upright.convert("RGBA" if "A" in upright.getbands() else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is no image that can be read: {error}") from error
    encoded = io.BytesIO()
    cut.crop(square(*cut.size, crops, index)).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()


def square(width: int, height: int, crops: int, index: int) -> tuple[int, int, int, int]:
    """Where a crop lies in a frame: left, top, right, bottom; see Sampling."""
    shorter = min(width, height)
    smaller = crops == 5 or (crops == 3 and width == height)
    side = max(round(CROPPED * shorter), 1) if smaller else shorter
    right, down = _CROPS[crops][index]
    left, top = round(right * (width - side)), round(down * (height - side))
    return left, top, left + side, top + side
