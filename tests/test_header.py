"""Reading numbers, chunks and the EXIF orientation, beyond the end of a file too."""

import struct

import pytest
import tensorflow as tf

from tests.pictures import FORMATS, encoded, picture
from vit22b import codec, header
from vit22b.header import Header


def read(data):
    return Header(tf.constant(data))


def test_numbers_of_both_byte_orders():
    assert read(b"\x00\x01\x02\x03\xff").number(1, 3) == 0x010203
    assert read(b"\x00\x01\x02\x03\xff").number(1, 4, little=True) == 0xFF030201


@pytest.mark.parametrize("at", [4, 5, 1 << 40])
def test_beyond_the_end_is_zero(at):
    assert read(b"\1\2\3\4").number(at, 4) == 0
    assert read(b"\1\2\3\4").text(at, at + 4) == b""


def test_a_number_across_the_end_is_filled_with_zeros():
    assert read(b"\1\2").number(1, 2) == 0x0200
    assert read(b"\1\2").text(1, 9) == b"\2"


def test_magic_bytes_tell_the_format():
    names = [list(header.FORMATS)[int(read(encoded(picture(), kind)).format())] for kind in FORMATS]
    assert names == ["JPEG", "PNG", "WebP", "GIF", "BMP"]
    assert read(b"%PDF-1.7").format() == len(header.FORMATS)


def test_every_format_has_a_decoder():
    assert list(codec.DECODERS) == list(header.FORMATS)


def test_chunks_are_found_where_they_lie():
    data = encoded(picture().quantize(4), "PNG", transparency=0)
    transparency, exif, end = read(data).png_chunks(b"tRNS", b"eXIf", b"IEND")
    assert data[int(transparency) + 4 :].startswith(b"tRNS")
    assert data[int(end) + 4 :].startswith(b"IEND")
    assert exif == 0


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("stored", "read_back"), [(1, 1), (6, 6), (8, 8), (0, 1), (9, 1), (65535, 1)])
def test_orientation(order, stored, read_back):
    mark = {"<": b"II", ">": b"MM"}[order]
    entries = struct.pack(f"{order}HHIIHHIHH", 0x010F, 2, 4, 0, 0x0112, 3, 1, stored, 0)
    tiff = b"before" + mark + struct.pack(f"{order}HIH", 42, 8, 2) + entries
    assert read(tiff).orientation(tf.constant(6, tf.int64)) == read_back


def test_no_exif_is_upright():
    assert read(b"II").orientation(tf.constant(0, tf.int64)) == 1
