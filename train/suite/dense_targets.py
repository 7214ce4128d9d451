"""Masks and depths of a set's parts, as files have them and as a tower sees the images.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Nothing is resized
here. A tower whose preprocessing cuts the centre out of an image is judged on the pixels that it sees.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from train.evaluation_sets.reading import Part
from train.evaluators.depth import valid
from train.evaluators.segmentation import VOID
from vit22b.preprocess import Preprocess

Window = tuple[slice, slice]
_SIDEWAYS = (5, 6, 7, 8)  # EXIF's orientations whose width is the height of what is shown
_ORIENTATION = 0x0112


@dataclasses.dataclass(frozen=True)
class Maps(Sequence[npt.NDArray[Any]]):
    """Masks or depth maps that are read when they are looked at: a large set's do not fit into memory.

    Attributes:
        paths: n files.
        windows: what of each is looked at.
        read: gives the whole map of a file.
    """

    paths: Sequence[Path]
    windows: Sequence[Window]
    read: Callable[[Path], npt.NDArray[Any]]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        return self.read(self.paths[index])[self.windows[index]]


@dataclasses.dataclass(frozen=True)
class Targets:
    """What is to be predicted of each image.

    Attributes:
        files: n images.
        maps: n arrays [h, w], the part of each mask or depth map that the tower sees the image of; see Maps.
        windows: n pairs of slices, where that part lies in the image.
        whole: whether the parts are all there is of every image.
    """

    files: tuple[Path, ...]
    maps: Maps
    windows: tuple[Window, ...]
    whole: bool

    def __len__(self) -> int:
        return len(self.files)

    @property
    def resolution(self) -> str:
        """For a row: "112x112", height before width, or from the smallest to the largest by area."""
        shapes = {(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in self.windows}
        sizes = sorted(shapes, key=lambda shape: (shape[0] * shape[1], shape))
        return " to ".join(f"{height}x{width}" for height, width in dict.fromkeys((sizes[0], sizes[-1])))

    @property
    def pixels(self) -> str:
        """For a row: which pixels are judged."""
        return "all" if self.whole else "those in the centre that the tower sees"

    def picture(self, index: int) -> npt.NDArray[np.uint8]:
        """An image as its map lies on it: uint8 [h, w, 3], upright, on white where it is transparent."""
        with Pillow.open(self.files[index]) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGBA")
        flat = Pillow.alpha_composite(Pillow.new("RGBA", upright.size, "white"), upright).convert("RGB")
        return np.asarray(flat)[self.windows[index]]


def masks(part: Part, preprocess: Preprocess) -> Targets:
    """The class of every pixel of a segmentation part: uint8 [h, w] each, VOID where it counts nowhere.

    Raises:
        ValueError: a mask is no picture of one channel, has not its image's size, or a class that the set has not; or
            no pixel of the part has a class.
    """
    found = _targets(part, part.paths("mask"), lambda path: _mask(path, len(part.set.classes)), preprocess)
    if all((each == VOID).all() for each in found.maps):
        raise ValueError(f"every pixel of every mask of {part.folder} is {VOID}, void; label some")
    return found


def depths(part: Part, preprocess: Preprocess) -> Targets:
    """The depth of every pixel of a depth part: float32 [h, w] each, not finite or not above 0 where there is none.

    Raises:
        ValueError: a map is no array [h, w] of floats, has not its image's size, or has no depth at all.
    """

    def check(file: Path, seen: npt.NDArray[Any]) -> None:
        if not valid(seen).any():
            raise ValueError(f"the depth of {file} has no value that is finite and above 0; give some, or leave it out")

    return _targets(part, part.paths("depth"), _depth, preprocess, check)


def window(height: int, width: int, preprocess: Preprocess) -> Window:
    """The part of an image of some size that a tower sees, rounded to whole pixels."""
    if preprocess.crop == "squash":
        return slice(0, height), slice(0, width)
    # The same numbers as the preprocessing's, on the way back from its square to the image.
    shorter, target = min(height, width), preprocess.shorter_side

    def along(size: int) -> slice:
        scaled = size * target // shorter
        first = (scaled - preprocess.resolution) // 2
        return slice(round(first * size / scaled), round((first + preprocess.resolution) * size / scaled))

    return along(height), along(width)


def _targets(
    part: Part,
    paths: Sequence[Path],
    read: Callable[[Path], npt.NDArray[Any]],
    preprocess: Preprocess,
    check: Callable[[Path, npt.NDArray[Any]], None] | None = None,
) -> Targets:
    """Reads every map once, so that what is wrong with one is told before anything is learnt."""
    if not len(part):
        raise ValueError(f"{part.folder} has no images")
    windows, whole = [], True
    for file, path in zip(part.files, paths, strict=True):
        found, size = read(path), _size(file)
        if found.shape != size:
            raise ValueError(
                f"{path} has {found.shape[0]}x{found.shape[1]} pixels (height x width), its image {file} "
                f"{size[0]}x{size[1]}; a target has its image's size"
            )
        windows.append(window(*size, preprocess))
        seen = found[windows[-1]]
        if check is not None:
            check(file, seen)
        whole = whole and seen.shape == size
    return Targets(part.files, Maps(paths, windows, read), tuple(windows), whole)


def _size(file: Path) -> tuple[int, int]:
    """Height and width of an image file as it is shown."""
    try:
        with Pillow.open(file) as opened:
            width, height = opened.size
            return (width, height) if opened.getexif().get(_ORIENTATION) in _SIDEWAYS else (height, width)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file} is no image that can be read: {error}") from error


def _mask(path: Path, classes: int) -> npt.NDArray[np.uint8]:
    try:
        with Pillow.open(path) as opened:
            values = np.asarray(opened)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is no PNG that can be read: {error}") from error
    if values.ndim != 2:
        raise ValueError(f"{path} has {values.shape[2]} channels; a mask has one, the class of each pixel")
    labelled = values[values != VOID]
    if labelled.size and not 0 <= labelled.min() <= labelled.max() < classes:
        raise ValueError(
            f"{path} has the value {labelled.max()}; expected the classes 0 to {classes - 1}, or {VOID} for void"
        )
    return values.astype(np.uint8)


def _depth(path: Path) -> npt.NDArray[np.float32]:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no .npy array that can be read: {error}") from error
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind != "f":
        raise ValueError(f"{path} is no array [h, w] of floats; write one with numpy.save, in metres for instance")
    return values.astype(np.float32)
