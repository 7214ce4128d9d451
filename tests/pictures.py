"""Real image files for the tests, made by Pillow."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


def picture(mode="RGB", height=21, width=34):
    """Smooth colours, different in every corner, with alpha from clear to opaque."""
    y, x = np.mgrid[0:height, 0:width]
    alpha = 255 * x // (width - 1)
    channels = np.stack([255 * x // (width - 1), 255 * y // (height - 1), 128 + 3 * (x - y), alpha], axis=-1)
    return Image.fromarray(channels.astype(np.uint8), "RGBA" if mode.endswith("A") else None).convert(mode)


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def sixteen_bit():
    """Grey noise."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 1 << 16, (21, 34)).astype(np.uint16))


def orientation(value):
    """EXIF that says how the camera was held, 1 to 8."""
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    exif[0x0112] = value
    return exif.tobytes()


def huge(kind):
    """A file of a few bytes whose header announces 23000 x 23000 pixels (16383 x 16383, WebP's most)."""
    data = bytearray(encoded(picture(), kind, **({"lossless": True} if kind == "WEBP" else {})))
    if kind == "PNG":
        data[16:24] = struct.pack(">II", 23000, 23000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif kind == "JPEG":
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", 23000, 23000)
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", 23000, 23000)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", 23000, -23000)
    else:
        data[21:25] = struct.pack("<I", 0x0FFFFFFE)
    return bytes(data)
