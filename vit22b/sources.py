"""What a user may give as an image: a path, bytes, a file, an address on the web, a Pillow image, an array.

First of the client's modules on the walk image -> ... -> server -> client. An image becomes the bytes of a file, which
the served graph decodes: the client decodes none, so that there is one preprocessing and not two.
"""

import dataclasses
import io
import sys
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vit22b.errors import Failure

if TYPE_CHECKING:
    import PIL.Image

Image = Any  # bytes | str | PathLike[str] | BinaryIO | numpy uint8 array | PIL.Image.Image

WEB = ("http://", "https://")
# Modes that PNG keeps as they are; most others become RGB.
_PNG_MODES = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})
_NO_SCALE = frozenset({"F", "I;16B", "I;16L"})  # Pillow would clip them at 255
_EXPECTED = "expected a path, bytes, a binary file, a PIL image or a uint8 array"


@dataclasses.dataclass(frozen=True)
class NamedImage:
    """An image as the user gave it, read only when its batch is made.

    Attributes:
        index: its place in the input.
        name: its path or address, or `image <index>`.
        source: a path or an address, or the bytes of a file, or what is still to be encoded.
    """

    index: int
    name: str
    source: Any

    def failure(self, reason: str) -> Failure:
        """What to report of it."""
        return Failure(self.index, self.name, reason)

    def read(self) -> bytes:
        """The bytes of the image's file; from an array or a Pillow image, of a PNG.

        Raises:
            OSError: it cannot be read.
            ValueError: it is a Pillow image that PNG cannot hold, or an array and Pillow is not there.
        """
        source = self.source
        if isinstance(source, bytes):
            return source
        if isinstance(source, np.ndarray):
            return _png_of_array(source)
        if isinstance(source, str | PathLike):
            text = fspath(source)
            return _of_web(text) if text.startswith(WEB) else Path(text).read_bytes()
        return _png(source)


def named(index: int, image: Any, *, allow_urls: bool) -> NamedImage:
    """Numbers and names an image. What is a file object is read; nothing else is.

    Raises:
        ValueError: something that is no image, or an address on the web where none is allowed.
        OSError: the file object cannot be read.
    """
    name = f"image {index}"
    if isinstance(image, str | PathLike):
        name = fspath(image)
        if name.startswith(WEB) and not allow_urls:
            raise ValueError(f"image {index} is the address {name}; say allow_urls=True to have the client fetch it")
    elif isinstance(image, bytearray | memoryview):
        image = bytes(image)
    elif hasattr(image, "read"):
        opened_as = getattr(image, "name", None)
        name = opened_as if isinstance(opened_as, str) else name
        image = image.read()
        if not isinstance(image, bytes):
            raise ValueError(
                f"image {index} is a file that reads {type(image).__name__}; open it with mode 'rb', and await one "
                "that is asynchronous"
            )
    elif isinstance(image, np.ndarray):
        _check_array(index, image)
    elif not (isinstance(image, bytes) or _is_pillow(image)):
        raise ValueError(f"image {index} is a {type(image).__name__}; {_EXPECTED}")
    return NamedImage(index, name, image)


def check_several(images: object) -> None:
    """Raises ValueError for one image in place of several."""
    one = isinstance(images, str | bytes | PathLike) or hasattr(images, "read") or _is_pillow(images)
    if one or (isinstance(images, np.ndarray) and images.ndim < 4 and images.dtype.kind not in "OU"):
        raise ValueError("images is a single path or image; expected several, for instance [image]")


def _is_pillow(image: object) -> bool:
    # Nobody has a Pillow image who has not imported Pillow.
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def _check_array(index: int, pixels: npt.NDArray[Any]) -> None:
    grey, colour = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2] in (3, 4)
    if pixels.dtype != np.uint8 or not (grey or colour) or not pixels.size:
        raise ValueError(
            f"image {index} is an array {pixels.dtype} {list(pixels.shape)}; "
            "expected uint8 [h, w], [h, w, 3] or [h, w, 4]"
        )


def _png_of_array(pixels: npt.NDArray[np.uint8]) -> bytes:
    try:
        from PIL import Image as pillow  # noqa: N813 (a module)
    except ImportError as error:
        raise ValueError("an array needs Pillow to be encoded; install pillow, or give the bytes of a file") from error
    return _png(pillow.fromarray(pixels))


def _png(image: "PIL.Image.Image") -> bytes:
    from PIL import ImageOps

    if image.mode in _NO_SCALE:
        raise ValueError(f"its mode is {image.mode}, whose range nobody knows; convert it to 8 bits")
    upright = ImageOps.exif_transpose(image)  # PNG would lose how it is turned
    kept = upright if upright.mode in _PNG_MODES else upright.convert("I;16" if upright.mode == "I" else "RGB")
    file = io.BytesIO()
    kept.save(file, "PNG", compress_level=1)  # the wire is faster than a better compression
    return file.getvalue()


def _of_web(address: str) -> bytes:
    from vit22b import download  # brings HTTP and TLS, which few clients need

    return download.fetch(address)
