"""Real files of every format and mode against Pillow's own decoding; and what must not be decoded."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from tests.pictures import FORMATS, encoded, huge, orientation, picture, sixteen_bit
from vit22b import image

CAP = 1 << 20

decode = tf.function(lambda data: image.decode(data, CAP), input_signature=[tf.TensorSpec([], tf.string)])


def refused(data):
    try:
        decode(data)
    except tf.errors.InvalidArgumentError:
        return True
    return False


def reference(data):
    """The first frame, upright, on white."""
    with Image.open(io.BytesIO(data)) as opened:
        upright = ImageOps.exif_transpose(opened)
        if upright.mode in ("I;16", "I"):
            return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[..., None], 3, axis=-1)
        rgba = np.asarray(upright.convert("RGBA")).astype(np.float64)
    alpha = rgba[..., 3:] / 255
    return np.round(rgba[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


LOSSLESS = {
    **{f"png {mode}": (picture(mode), "PNG", {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    **{f"png P, {bits} bits": (picture().quantize(2**bits), "PNG", {"bits": bits}) for bits in (1, 2, 4)},
    "png P, transparent colour": (picture().quantize(16), "PNG", {"bits": 4, "transparency": 3}),
    "png L, transparent grey": (picture("L"), "PNG", {"transparency": 100}),
    "png RGB, transparent colour": (picture(), "PNG", {"transparency": (0, 0, 128)}),
    "png 16 bits": (sixteen_bit(), "PNG", {}),
    **{f"webp {mode}": (picture(mode), "WEBP", {"lossless": True, "exact": True}) for mode in ("L", "RGB", "RGBA")},
    **{f"gif {mode}": (picture(mode), "GIF", {}) for mode in ("1", "L", "RGB", "RGBA")},
    "gif interlaced": (picture(), "GIF", {"interlace": 1}),
    "gif, transparent colour": (picture().quantize(16), "GIF", {"transparency": 3}),
    **{f"bmp {mode}": (picture(mode), "BMP", {}) for mode in ("1", "L", "P", "RGB")},
    "webp animation": (
        picture("RGBA"),
        "WEBP",
        {"save_all": True, "append_images": [picture("RGB")], "lossless": True},
    ),
    "gif animation": (picture(), "GIF", {"save_all": True, "append_images": [picture().rotate(180)] * 3}),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_pillows_pixels(name):
    source, kind, options = LOSSLESS[name]
    data = encoded(source, kind, **options)
    np.testing.assert_array_equal(decode(data), reference(data))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
def test_jpeg_gives_pillows_pixels(mode, options):
    data = encoded(picture(mode), "JPEG", **options)
    np.testing.assert_array_equal(decode(data), reference(data))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_lossy_webp_is_close_to_pillow(mode):
    data = encoded(picture(mode), "WEBP", quality=90)
    difference = np.abs(decode(data).numpy().astype(int) - reference(data))
    assert difference.max() <= 2


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation_is_undone(kind, value):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(picture(), kind, exif=orientation(value), **options)
    np.testing.assert_array_equal(decode(data), reference(data))


@pytest.mark.parametrize("exif", [orientation(0), orientation(9), b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0II"])
def test_exif_that_makes_no_sense_is_passed_over(exif):
    np.testing.assert_array_equal(decode(encoded(picture(), "PNG", exif=exif)), picture())


def test_little_endian_exif_behind_an_xmp_segment():
    tiff = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4)
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x/>"
    segments = b"".join(
        b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content for content in (xmp, b"Exif\0\0" + tiff)
    )
    data = encoded(picture(), "JPEG")
    turned = decode(data[:2] + segments + b"\xff" + data[2:])
    np.testing.assert_array_equal(turned, np.rot90(decode(data), -1))


def test_gif_frame_smaller_than_its_canvas_stands_on_white():
    data = bytearray(encoded(picture("L"), "GIF"))
    frame = data.index(b"\x2c", 13 + 3 * 2 ** (data[10] % 8 + 1))
    data[6:10] = struct.pack("<HH", 40, 30)
    data[frame + 1 : frame + 5] = struct.pack("<HH", 5, 7)
    expected = np.full((30, 40, 3), 255, np.uint8)
    expected[7:28, 5:39] = np.asarray(picture("L"))[..., None]
    np.testing.assert_array_equal(decode(bytes(data)), expected)


def test_bmp_of_four_bits_and_of_rows_from_the_top():
    indices = np.arange(15).reshape(3, 5) % 4
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 200, 0], [1, 2, 3]], np.uint8)
    padded = np.pad(indices, [(0, 0), (0, 3)]).astype(np.uint8)
    pixels = (padded[:, ::2] << 4 | padded[:, 1::2]).tobytes()
    colours = b"".join(bytes([*colour[::-1], 0]) for colour in palette)
    offset = 54 + len(colours)
    head = struct.pack("<2sIIIIiiHHIIIIII", b"BM", offset + len(pixels), 0, offset, 40, 5, -3, 1, 4, 0, 0, 0, 0, 4, 4)
    np.testing.assert_array_equal(decode(head + colours + pixels), palette[indices])


@pytest.mark.parametrize("kind", FORMATS)
def test_every_truncation_is_refused(kind):
    # The shortest lack their header, the longest only their final byte.
    data = encoded(picture(), kind)
    lengths = [*range(0, len(data), max(len(data) // 60, 1)), len(data) - 1, len(data)]
    complete = len(data) - 1 if kind == "GIF" else len(data)  # the trailer behind the last frame is not missed
    assert [length for length in lengths if not refused(data[:length])] == [n for n in lengths if n >= complete]


@pytest.mark.parametrize("kind", FORMATS)
def test_truncation_is_named(kind):
    data = encoded(picture(), kind)
    with pytest.raises(tf.errors.InvalidArgumentError, match="truncated or damaged"):
        decode(data[: len(data) * 2 // 3])


def png_chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of_small_chunks(pixels, size):
    """A PNG of RGB pixels whose content comes in chunks of `size` bytes."""
    height, width, _ = pixels.shape
    rows = zlib.compress(np.pad(pixels.reshape(height, -1), [(0, 0), (1, 0)]).tobytes())
    parts = b"".join(png_chunk(b"IDAT", rows[start : start + size]) for start in range(0, len(rows), size))
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + parts + png_chunk(b"IEND", b"")


def test_files_of_many_parts_are_decoded():
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (400, 400, 3)).astype(np.uint8)
    png = png_of_small_chunks(pixels, 90)
    assert png.count(b"IDAT") > 5000
    np.testing.assert_array_equal(decode(png), pixels)
    gif = encoded(Image.fromarray(random.integers(0, 256, (900, 900)).astype(np.uint8)), "GIF")
    assert len(gif) > 255 * 4096
    np.testing.assert_array_equal(decode(gif), reference(gif))
    jpeg = encoded(picture(), "JPEG")
    filled = jpeg[:2] + b"\xff" * 1_000_000 + jpeg[2:]
    np.testing.assert_array_equal(decode(filled), decode(jpeg))


PARTS = 100_000
PNG, GIF = encoded(picture(), "PNG"), encoded(picture("L"), "GIF")
GIF_HEAD = 13 + 3 * 2 ** (GIF[10] % 8 + 1)
ENDLESS = {
    "JPEG": b"\xff\xd8" + b"\xff\xe0\0\2" * PARTS + encoded(picture(), "JPEG")[2:],
    "PNG": PNG[:33] + png_chunk(b"teSt", b"") * PARTS + PNG[33:],
    "WebP": b"RIFF%b" + encoded(picture(), "WEBP")[8:] + b"teSt\0\0\0\0" * PARTS,
    "GIF extensions": GIF[:GIF_HEAD] + b"\x21\xfe\0" * PARTS + GIF[GIF_HEAD:],
    "GIF blocks of an extension": GIF[:GIF_HEAD] + b"\x21\xfe" + b"\1a" * PARTS + b"\0" + GIF[GIF_HEAD:],
    "GIF blocks of a frame": GIF[: GIF.index(b"\x2c", GIF_HEAD) + 11] + b"\1a" * PARTS + b"\0\x3b",
}
ENDLESS["WebP"] %= struct.pack("<I", len(ENDLESS["WebP"]) - 6)


@pytest.mark.parametrize("name", ENDLESS)
def test_a_file_of_nothing_but_small_parts_holds_nobody_up(name):
    with pytest.raises(tf.errors.InvalidArgumentError, match="truncated or damaged"):
        decode(ENDLESS[name])


def test_a_damaged_jpeg_is_refused():
    data = bytearray(encoded(picture(), "JPEG"))
    scan = data.index(b"\xff\xda")
    data[scan + 14 : -2] = b"\xff\xc0" * ((len(data) - scan - 16) // 2)
    assert refused(bytes(data))


@pytest.mark.parametrize("kind", FORMATS)
def test_any_damage_is_an_image_or_an_invalid_argument(kind):
    random = np.random.default_rng(0)
    whole = encoded(picture(), kind)
    assert not refused(whole)
    outcomes = []
    for _ in range(100):
        data = bytearray(whole)
        for at in random.integers(0, min(len(data), 64), 2):
            data[at] = random.choice([0, 1, 127, 255])
        outcomes.append(refused(bytes(data)))
    assert any(outcomes)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_header_beyond_the_cap_is_refused_before_the_decode(kind):
    size = "16383 x 16384" if kind == "WEBP" else "23000 x 23000"
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"announces {size} pixels, the cap is {CAP}"):
        decode(huge(kind))


def test_the_cap_is_the_largest_size_that_passes():
    data = encoded(picture(), "PNG")
    image.decode(tf.constant(data), 21 * 34)
    with pytest.raises(tf.errors.InvalidArgumentError, match="announces 34 x 21 pixels, the cap is 713"):
        image.decode(tf.constant(data), 21 * 34 - 1)


@pytest.mark.parametrize("data", [b"", b"B", b"GIF", b"# notes\nno image at all", b"RIFF\0\0\0\0WAVE", b"\xff\x9e\x89"])
def test_what_is_no_image_is_named(data):
    with pytest.raises(tf.errors.InvalidArgumentError, match="not an image: expected JPEG, PNG, WebP, GIF, BMP"):
        decode(data)


def test_a_compressed_bmp_is_named():
    data = bytearray(encoded(picture("L"), "BMP"))
    data[30] = 1
    with pytest.raises(tf.errors.InvalidArgumentError, match="BMP of 8 bits a pixel, compression 1, is not supported"):
        decode(bytes(data))
