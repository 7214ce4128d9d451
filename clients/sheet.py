"""A picture sheet: images with what was predicted for them, the wrong ones marked in red.

Beside the last step of the walk; for people.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

PICTURE = 96
MARGIN = 12
LINE = 16
FRAME = 3
TILE = PICTURE + 2 * FRAME
# Pillow has no class of its own for a damaged file.
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
PAPER, INK, FAINT, WRONG = "#ffffff", "#1f2933", "#d5dbe1", "#d0021b"


@dataclasses.dataclass(frozen=True)
class Tile:
    """One image of a sheet.

    Attributes:
        path: the file.
        predicted: name of the class that was predicted.
        label: what it is, or None where that is not known.
        right: whether the prediction is right, or None where that is not known.
    """

    path: Path
    predicted: str
    label: str | None = None
    right: bool | None = None


def choose(tiles: Sequence[Tile], most: int) -> list[Tile]:
    """At most `most` tiles, in their order: the wrong ones up to half of the sheet, and right ones from everywhere.

    A side that has fewer than its half leaves its places to the other.
    """
    wrong = [place for place, tile in enumerate(tiles) if tile.right is False]
    other = [place for place, tile in enumerate(tiles) if tile.right is not False]
    room = max(most // 2, most - len(other))
    picked = _spread(wrong, room)
    picked += _spread(other, most - len(picked))
    return [tiles[place] for place in sorted(picked)]


def draw(tiles: Sequence[Tile], title: str, columns: int = 10) -> Image.Image:
    """Draws a sheet.

    Args:
        tiles: at least one; read from their files.
        title: a line above them.
        columns: tiles in a row.

    Returns:
        An RGB image. The picture of a file that Pillow cannot read stays empty: the model's decoder may know more.
    """
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    heading = ImageFont.load_default(18)
    across, down = TILE + MARGIN, TILE + 2 * LINE + MARGIN
    top = MARGIN + 30
    width = max(MARGIN + columns * across, 2 * MARGIN + math.ceil(heading.getlength(title)))
    sheet = Image.new("RGB", (width, top + rows * down), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN), title, INK, heading)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        _draw_tile(sheet, pen, tile, MARGIN + column * across, top + row * down)
    return sheet


def _draw_tile(sheet: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, x: int, y: int) -> None:
    wrong = tile.right is False
    pen.rectangle((x, y, x + TILE - 1, y + TILE - 1), PAPER, WRONG if wrong else FAINT, FRAME if wrong else 1)
    picture = _picture(tile.path)
    sheet.paste(picture, (x + (TILE - picture.width) // 2, y + (TILE - picture.height) // 2))
    font = ImageFont.load_default(13)
    lines = [(tile.predicted, WRONG if wrong else INK)]
    if wrong and tile.label:
        lines.append((f"is {tile.label}", INK))
    for number, (text, colour) in enumerate(lines):
        pen.text((x + TILE // 2, y + TILE + 2 + number * LINE), _fit(text, font), colour, font, anchor="ma")


def _picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGBA")
    except _UNREADABLE:
        return Image.new("RGB", (PICTURE, PICTURE), PAPER)
    # Transparent images are shown as the model sees them, on white.
    white = Image.new("RGBA", image.size, "white")
    scale = PICTURE / max(image.size)
    # Small images keep their pixels visible; large ones are smoothed.
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return Image.alpha_composite(white, image).convert("RGB").resize(size, method)


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= TILE + MARGIN - 4:
        return text
    while text and font.getlength(text + "…") > TILE + MARGIN - 4:
        text = text[:-1]
    return text + "…"


def _spread(places: list[int], count: int) -> list[int]:
    """At most `count` of the places, evenly spaced."""
    if len(places) <= count:
        return places
    return [places[number * len(places) // count] for number in range(count)]
