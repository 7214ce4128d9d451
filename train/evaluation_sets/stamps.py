"""Tux Paint's stamps: photographs that are cut out, with a caption each, of Debian's package.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from PIL import Image

PACKAGE = "tuxpaint-stamps-default"
ORIGIN = f"Tux Paint's stamps, photographs that are cut out (Debian's {PACKAGE}; GPL-2, Bill Kendrick and contributors)"
TEST_EVERY = 3  # of every class, each third caption is tested

# Where the stamps of a class lie, as patterns below the package's folder.
CLASSES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "bird": ("animals/birds/*",),
        "fish": ("animals/fish/*",),
        "flower": ("plants/flowers/*",),
        "fruit": ("food/fruit/*",),
        "gravestone": ("seasonal/halloween/grave-*",),
        "insect": ("animals/insects/*",),
        "mammal": ("animals/mammals/*", "animals/mammals/*/*", "animals/marsupials/*"),
        "musical instrument": ("hobbies/music/*/*",),
        "planet or moon": ("space/planets/*", "space/moon/*"),
        "road sign": ("town/roadsigns/*",),
        "tool": ("household/tools/*",),
        "tree or shrub": ("plants/trees/*", "plants/*"),
        "vegetable": ("food/vegetables/*",),
        "vehicle": ("vehicles/*", "vehicles/*/*", "vehicles/flight/planes/*", "military/vehicles/*"),
    }
)
# What lies there and is something else, or is drawn.
OTHERS = frozenset(
    {
        *("lobster", "shrimp", "Brown_slug", "Woodlouse", "hedgehog", "edward_bear", "pinecone", "rambutan", "0_sun"),
        *("cementmixer", "toolbox", "7spoke256", "wheel_tractor", "sedan_police"),
    }
)


@dataclasses.dataclass(frozen=True)
class Stamp:
    """A photograph that is cut out.

    Attributes:
        path: a PNG.
        kind: one of CLASSES.
        caption: English, such as "A brown hen."
    """

    path: Path
    kind: str
    caption: str

    def cut_out(self) -> Image.Image:
        """RGBA, cut to what is not transparent."""
        with Image.open(self.path) as image:
            pixels = image.convert("RGBA")
        return pixels.crop(pixels.getchannel("A").getbbox())


def read_stamps(package: Path) -> list[Stamp]:
    """The stamps of all the classes, by class and then by name.

    Args:
        package: the folder that the package was unpacked into.

    Raises:
        ValueError: a class has none, so that the package is another than was expected.
    """
    root = package / "usr/share/tuxpaint/stamps"
    found = []
    for kind, patterns in CLASSES.items():
        paths = sorted(path for pattern in patterns for path in root.glob(f"{pattern}.png") if path.stem not in OTHERS)
        stamps = [Stamp(path, kind, caption) for path in paths if _transparent(path) and (caption := _caption(path))]
        if not stamps:
            raise ValueError(f"{root} has no stamp of the class {kind}; expected what {PACKAGE} 2022.06 has")
        found.extend(stamps)
    return found


def divided(stamps: list[Stamp]) -> dict[str, list[Stamp]]:
    """Train and test. Stamps with the same caption, two pictures of a gnu, go the same way."""
    parts: dict[str, list[Stamp]] = {"train": [], "test": []}
    for kind in CLASSES:
        of_kind = [stamp for stamp in stamps if stamp.kind == kind]
        captions = sorted({stamp.caption for stamp in of_kind})
        tested = set(captions[TEST_EVERY - 1 :: TEST_EVERY])
        for stamp in of_kind:
            parts["test" if stamp.caption in tested else "train"].append(stamp)
    return parts


def _caption(path: Path) -> str | None:
    """The first line of the file beside it; the others are translations."""
    text = path.with_suffix(".txt")
    lines = text.read_text(encoding="utf-8").splitlines() if text.is_file() else []
    return lines[0].strip() if lines and lines[0].strip() else None


def _transparent(path: Path) -> bool:
    """Whether it is cut out at all, and something is left."""
    with Image.open(path) as image:
        low, high = image.convert("RGBA").getchannel("A").getextrema()
    return low == 0 and high == 255
