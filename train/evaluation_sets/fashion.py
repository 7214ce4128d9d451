"""The set `fashion`: 2,500 of Fashion-MNIST's pictures of clothes (Xiao, Rasul and Vollgraf 2017), of Debian's package.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from train.evaluation_sets.debian import Debian
from train.evaluation_sets.maker import Maker
from train.evaluation_sets.reading import EvaluationSet
from train.evaluation_sets.writing import PartWriter

VERSION = 1
PACKAGE = "dataset-fashion-mnist"
NAMES = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
PARTS = {"train": ("train", 200), "test": ("t10k", 50)}  # the name in the files, and images of every class
CAPTIONS = ("a photo of a {}.", "a grey picture of a {}.", "a {} in a shop.", "a small photo of a {} on black.")
TEMPLATES = ("a picture of a {}.", "a black and white photo of a {}.")


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An array of bytes in the format IDX, packed by gzip.

    Raises:
        ValueError: it is another format, or cut short.
    """
    data = gzip.decompress(path.read_bytes())
    if data[:3] != b"\0\0\x08" or len(data) < 4:
        raise ValueError(f"{path} begins with {data[:4]!r}; expected IDX with unsigned bytes, 00 00 08")
    rank = data[3]
    shape = np.frombuffer(data, ">u4", rank, 4).tolist()
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * rank)
    if values.size != np.prod(shape):
        raise ValueError(f"{path} has {values.size} values; expected {shape}")
    return values.reshape(shape)


def _make(folder: Path, debian: Debian) -> EvaluationSet:
    source = debian.package(PACKAGE) / "usr/share/datasets/fashion-mnist"
    for part, (prefix, count) in PARTS.items():
        pixels = read_idx(source / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz")
        with PartWriter(folder / part) as writer:
            for index, name in enumerate(NAMES):
                for place, image in enumerate(np.flatnonzero(labels == index)[:count]):
                    caption = CAPTIONS[place % len(CAPTIONS)].format(name) if part == "train" else None
                    writer.add(f"{image:05d}.png", Image.fromarray(pixels[image]), [name], caption)
    return EvaluationSet(
        folder,
        "fashion",
        "classification",
        origin=f"Fashion-MNIST (Debian's {PACKAGE}; MIT, Zalando SE)",
        synthetic=False,
        classes=NAMES,
        templates=TEMPLATES,
        makers=VERSION,
        details={"out_of_distribution": "../digits"},
    )


MAKER = Maker("fashion", VERSION, (), _make)
