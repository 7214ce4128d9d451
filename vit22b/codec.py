"""One decoder for each image format: the file's bytes in, upright RGB pixels on white out.

Between vit22b.header and vit22b.image on the walk image -> batch -> state -> checkpoint -> SavedModel -> server ->
client. Each checks the size that the header announces before anything of that size is allocated. TensorFlow decodes
JPEG, PNG, WebP and GIF; what it leaves out is done around it: EXIF orientation, transparency, and the one frame of
a GIF that is wanted. Its BMP decoder takes palette indices for grey levels, so BMP, which is not compressed, is
read here.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import tensorflow as tf

from vit22b.header import Header

_WHITE = 255


def jpeg(header: Header, max_pixels: int) -> tf.Tensor:
    """Decodes a JPEG, grey, YCbCr or CMYK; uint8 [h, w, 3]."""
    exif, frame, scan = header.jpeg_segments()
    end = (header.raw[scan:-1] == 0xFF) & (header.raw[scan + 1 :] == 0xD9)
    height, width = (tf.where(frame > 0, header.number(frame + at, 2), 0) for at in (5, 7))
    data = _checked(header, max_pixels, "JPEG", width, height, whole=(frame > 0) & (scan > 0) & tf.reduce_any(end))
    image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")  # the default is up to 4 levels off
    return _upright(image, header.orientation(_inside(exif, 10)))


def png(header: Header, max_pixels: int) -> tf.Tensor:
    """Decodes a PNG of any colour type and depth, 16 bits as v >> 8; uint8 [h, w, 3]."""
    transparency, exif, end = header.png_chunks(b"tRNS", b"eXIf", b"IEND")
    data = _checked(header, max_pixels, "PNG", header.number(16, 4), header.number(20, 4), whole=end > 0)
    has_alpha = (header.number(25, 1) & 4 > 0) | (transparency > 0)
    image = tf.cond(
        has_alpha,
        lambda: _on_white(tf.io.decode_png(data, channels=4)),
        lambda: tf.io.decode_png(data, channels=3),  # a fourth channel would be wrong below 8 bits
    )
    return _upright(image, header.orientation(_inside(exif, 8)))


def webp(header: Header, max_pixels: int) -> tf.Tensor:
    """Decodes a WebP, lossy, lossless or the first frame of an animation; uint8 [h, w, 3]."""
    exif, ended = header.webp_exif()
    width, height = _webp_size(header)
    whole = ended & (header.number(4, 4, little=True) + 8 <= header.size)
    data = _checked(header, max_pixels, "WebP", width, height, whole=whole)
    image = tf.io.decode_image(data, channels=0, expand_animations=False)
    image = tf.cond(tf.shape(image)[2] == 4, lambda: _on_white(image), lambda: image)
    return _upright(image, header.orientation(_inside(exif, 8)))


def gif(header: Header, max_pixels: int) -> tf.Tensor:
    """Decodes the first frame of a GIF; uint8 [h, w, 3].

    TensorFlow's decoder reads every frame and paints what is transparent black. It is given a file of one opaque
    frame instead, whose transparent colour is white, and the canvas around that frame is added afterwards.
    """
    frame, transparent = _gif_extensions(header)
    table = 13 + _gif_table_bytes(header.number(10, 1))
    local = _gif_table_bytes(header.number(frame + 9, 1))
    end = _after_blocks(header, frame + 11 + local)
    left, top, width, height = (header.number(frame + at, 2, little=True) for at in (1, 3, 5, 7))
    canvas_width = tf.maximum(header.number(6, 2, little=True), left + width)
    canvas_height = tf.maximum(header.number(8, 2, little=True), top + height)
    data = _checked(header, max_pixels, "GIF", canvas_width, canvas_height, whole=end <= header.size)
    with tf.control_dependencies([data]):
        colours = tf.where(local > 0, frame + 10, 13)
        size = tf.where(local > 0, local, table - 13)
        painted = Header(_gif_white(header, colours, size, transparent))
        parts = [b"GIF89a", painted.text(frame + 5, frame + 9), painted.text(10, table), b"\x2c\0\0\0\0"]
        image = tf.io.decode_gif(tf.strings.join([*parts, painted.text(frame + 5, end), b"\x3b"]))[0]
    margins = [[top, canvas_height - top - height], [left, canvas_width - left - width], [0, 0]]
    return tf.pad(image, margins, constant_values=_WHITE)


def bmp(header: Header, max_pixels: int) -> tf.Tensor:
    """Reads an uncompressed BMP of 1, 4, 8, 24 or 32 bits a pixel, without the unused byte of 32; uint8 [h, w, 3]."""
    pixels, info, bits, compression = (
        header.number(at, n, little=True) for at, n in ((10, 4), (14, 4), (28, 2), (30, 4))
    )
    width, height = (_signed(header.number(at, 4, little=True)) for at in (18, 22))
    rows = tf.abs(height)
    stride = (width * bits + 31) // 32 * 4
    known = tf.reduce_any(bits == tf.constant([1, 4, 8, 24, 32], tf.int64)) & (compression == 0) & (info >= 40)
    kind = tf.strings.format(
        "a BMP of {} bits a pixel, compression {}, is not supported; save it as PNG", (bits, compression)
    )
    with tf.control_dependencies([tf.debugging.Assert(known, [kind])]):
        data = _checked(header, max_pixels, "BMP", width, rows, whole=pixels + stride * rows <= header.size)
    with tf.control_dependencies([data]):
        packed = tf.reshape(header.raw[pixels : pixels + stride * rows], [rows, stride])
        image = tf.cond(
            bits <= 8,
            lambda: tf.gather(_bmp_palette(header, 14 + info, bits), _bmp_indices(packed, bits)[:, :width]),
            lambda: tf.reshape(packed[:, : width * bits // 8], [rows, width, bits // 8])[:, :, 2::-1],
        )
    return tf.cond(height > 0, lambda: image[::-1], lambda: image)  # a positive height means bottom row first


# Keyed as header.FORMATS is.
DECODERS: Mapping[str, Callable[[Header, int], tf.Tensor]] = MappingProxyType(
    {"JPEG": jpeg, "PNG": png, "WebP": webp, "GIF": gif, "BMP": bmp}
)


def _checked(
    header: Header, max_pixels: int, name: str, width: tf.Tensor, height: tf.Tensor, *, whole: tf.Tensor
) -> tf.Tensor:
    """The file's bytes, after the checks that have to come before the decoder runs: the cap, then `whole`."""
    size = tf.strings.format(
        f"the {name} header announces {{}} x {{}} pixels, the cap is {max_pixels}", (width, height)
    )
    damage = tf.strings.format(f"the {name} is truncated or damaged: {{}} bytes came, not all of it", header.size)
    some = (width > 0) & (height > 0)
    with tf.control_dependencies([tf.debugging.Assert(height <= max_pixels // tf.maximum(width, 1), [size])]):
        complete = tf.debugging.Assert(whole & some, [damage])
    with tf.control_dependencies([complete]):
        return tf.identity(header.data)


def _on_white(image: tf.Tensor) -> tf.Tensor:
    """Composites RGBA on white, rounded; no sum is above 255 x 255 + 127, which uint16 holds."""
    wide = tf.cast(image, tf.uint16)
    alpha = wide[:, :, 3:]
    return tf.cast((wide[:, :, :3] * alpha + _WHITE * (255 - alpha) + 127) // 255, tf.uint8)


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Undoes an EXIF orientation: 5 to 8 are stored with rows and columns exchanged."""
    turned = [
        lambda: image,
        lambda: image[:, ::-1],
        lambda: image[::-1, ::-1],
        lambda: image[::-1],
        lambda: tf.transpose(image, [1, 0, 2]),
        lambda: tf.transpose(image[::-1], [1, 0, 2]),
        lambda: tf.transpose(image[::-1, ::-1], [1, 0, 2]),
        lambda: tf.transpose(image[:, ::-1], [1, 0, 2]),
    ]
    return tf.switch_case(tf.cast(orientation - 1, tf.int32), turned)


def _inside(chunk: tf.Tensor, offset: int) -> tf.Tensor:
    """Where a chunk's content begins; 0, for none, stays 0."""
    return tf.where(chunk > 0, chunk + offset, 0)


def _webp_size(header: Header) -> tuple[tf.Tensor, tf.Tensor]:
    """Width and height by the first chunk: extended, lossless or lossy (RFC 9649, sections 2.5 to 2.7)."""
    kind = header.text(12, 16)
    packed = header.number(21, 4, little=True)
    extended = header.number(24, 3, little=True) + 1, header.number(27, 3, little=True) + 1
    lossless = (packed & 0x3FFF) + 1, (packed // 2**14 & 0x3FFF) + 1
    lossy = header.number(26, 2, little=True) & 0x3FFF, header.number(28, 2, little=True) & 0x3FFF
    width, height = (
        tf.where(kind == b"VP8X", x, tf.where(kind == b"VP8L", least, most))
        for x, least, most in zip(extended, lossless, lossy, strict=True)
    )
    return width, height


def _gif_table_bytes(flags: tf.Tensor) -> tf.Tensor:
    return tf.where(flags & 0x80 > 0, 3 * 2 ** ((flags & 7) + 1), 0)


def _after_blocks(header: Header, at: tf.Tensor) -> tf.Tensor:
    """The position behind a chain of GIF data blocks and its terminator; beyond the file where that is missing."""

    def more(at: tf.Tensor) -> tf.Tensor:
        return header.number(at, 1) > 0

    (at,) = tf.while_loop(
        more,
        lambda at: (at + 1 + header.number(at, 1),),
        (at,),
        parallel_iterations=1,
        maximum_iterations=header.most_parts,
    )
    return tf.where(more(at), header.size, at) + 1


def _gif_extensions(header: Header) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the first GIF frame begins, and its transparent colour's index, -1 for none (GIF89a, section 23).

    One loop steps through the extensions and the blocks within them, so that one bound holds for both together. A frame
    that it does not reach lies beyond the file.
    """

    def more(at: tf.Tensor, _: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
        return inside | (header.number(at, 1) == 0x21)

    def step(at: tf.Tensor, transparent: tf.Tensor, inside: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        block = header.number(at, 1)
        index = tf.where(header.number(at + 3, 1) & 1 > 0, header.number(at + 6, 1), -1)
        is_control = ~inside & (header.number(at + 1, 1) == 0xF9)
        following = tf.where(inside, at + 1 + block, at + 2)
        return following, tf.where(is_control, index, transparent), ~inside | (block > 0)

    first = 13 + _gif_table_bytes(header.number(10, 1)), tf.constant(-1, tf.int64), tf.constant(False)
    frame, transparent, inside = tf.while_loop(
        more, step, first, parallel_iterations=1, maximum_iterations=header.most_parts
    )
    found = ~inside & (header.number(frame, 1) == 0x2C)
    return tf.where(found, frame, header.size), transparent


def _gif_white(header: Header, colours: tf.Tensor, size: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """The GIF with one entry of its colour table made white, if that table has it."""
    at = colours + 3 * index
    painted = [header.text(0, at), b"\xff\xff\xff", header.text(at + 3, header.size)]
    return tf.cond((index >= 0) & (3 * index < size), lambda: tf.strings.join(painted), lambda: header.data)


def _signed(number: tf.Tensor) -> tf.Tensor:
    return tf.where(number < 2**31, number, number - 2**32)


def _bmp_palette(header: Header, at: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """The RGB colours of a BMP's palette, uint8 [n, 3]; a file may store fewer than its bits can name."""
    used = header.number(46, 4, little=True)
    most = tf.bitwise.left_shift(tf.constant(1, tf.int64), bits)
    part = header.raw[at : at + 4 * tf.where(used > 0, tf.minimum(used, most), most)]
    return tf.reshape(part[: tf.size(part) // 4 * 4], [-1, 4])[:, 2::-1]


def _bmp_indices(packed: tf.Tensor, bits: tf.Tensor) -> tf.Tensor:
    """Unpacks bytes [h, s] into palette indices int32 [h, s * 8 / bits], the highest bits first."""
    bits = tf.cast(bits, tf.int32)
    shifts = tf.range(8 - bits, -1, -bits)
    mask = tf.bitwise.left_shift(1, bits) - 1
    indices = tf.bitwise.right_shift(tf.cast(packed, tf.int32)[:, :, None], shifts) & mask
    return tf.reshape(indices, [tf.shape(packed)[0], -1])
