"""Real image files for the tests, made by Pillow."""

import io

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
