"""What the first bytes of an encoded image say: format, size, EXIF orientation, and where its parts lie.

Below vit22b.image on the walk image -> batch -> state -> checkpoint -> SavedModel -> server -> client. Everything
is TensorFlow ops, because it runs inside the training pipeline and inside a served graph. Reading beyond the end
gives zeros and never fails: a header may announce any position, and it is the caller who knows what a missing part
means.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP")
_ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4
_PADDING = 8  # bytes of zeros behind the file: the longest number that is read


class Header:
    """Random access to the bytes of one encoded image.

    Attributes:
        data: scalar string, the file.
        size: scalar int64, its length in bytes.
        raw: uint8 [size + 8], the file and zeros behind it.
    """

    def __init__(self, data: tf.Tensor) -> None:
        self.data = data
        self.size = tf.cast(tf.strings.length(data), tf.int64)
        self.raw = tf.io.decode_raw(tf.strings.join([data, b"\0" * _PADDING]), tf.uint8)

    def number(self, at: tf.Tensor | int, length: int, *, little: bool = False) -> tf.Tensor:
        """The unsigned number of `length` bytes (1 to 4) at a position, big-endian unless `little`; scalar int64."""
        start = tf.clip_by_value(tf.cast(at, tf.int64), 0, self.size)
        part = tf.cast(self.raw[start : start + length], tf.int64)
        return tf.reduce_sum(part * _weights(length, little))

    def text(self, start: tf.Tensor | int, end: tf.Tensor | int) -> tf.Tensor:
        """The bytes from start to end, cut at the end of the file; scalar string."""
        start = tf.minimum(tf.cast(start, tf.int64), self.size)
        return tf.strings.substr(self.data, start, tf.maximum(tf.cast(end, tf.int64) - start, 0))

    def format(self) -> tf.Tensor:
        """The index into FORMATS that the magic bytes tell, or len(FORMATS) for none of them; scalar int32."""
        magic = (
            self.text(0, 3) == b"\xff\xd8\xff",
            self.text(0, 8) == b"\x89PNG\r\n\x1a\n",
            (self.text(0, 4) == b"RIFF") & (self.text(8, 12) == b"WEBP"),
            (self.text(0, 6) == b"GIF87a") | (self.text(0, 6) == b"GIF89a"),
            self.text(0, 2) == b"BM",
            tf.constant(True),
        )
        return tf.argmax(tf.cast(tf.stack(magic), tf.int32), output_type=tf.int32)

    def orientation(self, tiff: tf.Tensor) -> tf.Tensor:
        """The EXIF orientation, 1 to 8, of the TIFF header at a position; 1 where there is none or it makes no sense.

        Args:
            tiff: scalar int64; 0 means that the image has no EXIF.
        """
        return tf.cond(tiff > 0, lambda: self._orientation(tiff), lambda: tf.constant(1, tf.int64))

    def _orientation(self, tiff: tf.Tensor) -> tf.Tensor:
        tiff += 6 * tf.cast(self.text(tiff, tiff + 4) == b"Exif", tf.int64)  # some writers of WebP repeat JPEG's prefix
        little = self.text(tiff, tiff + 2) == b"II"
        directory = tiff + tf.where(little, self.number(tiff + 4, 4, little=True), self.number(tiff + 4, 4))
        count = tf.where(little, self.number(directory, 2, little=True), self.number(directory, 2))
        part = self.raw[directory + 2 : directory + 2 + 12 * count]
        entries = tf.cast(tf.reshape(part[: tf.size(part) // 12 * 12], [-1, 12]), tf.int64)
        weights = tf.where(little, _weights(2, True), _weights(2, False))
        tags = tf.reduce_sum(entries[:, 0:2] * weights, axis=1)
        values = tf.reduce_sum(entries[:, 8:10] * weights, axis=1)
        found = tf.reduce_max(tf.concat([[1], tf.where(tags == _ORIENTATION_TAG, values, 1)], axis=0))
        return tf.where(found <= 8, found, 1)

    def png_chunks(self, *kinds: bytes) -> Sequence[tf.Tensor]:
        """Where the first PNG chunk of each kind lies, 0 for none; the last kind ends the search (PNG, section 5.3)."""

        def read(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return self.number(at + 4, 4), at + 12 + self.number(at, 4)

        return self._find(read, 8, [int.from_bytes(kind, "big") for kind in kinds])

    def webp_chunks(self, *kinds: bytes) -> Sequence[tf.Tensor]:
        """Where the first RIFF chunk of each kind lies, 0 for none; the last kind ends the search (RFC 9649, 2.3)."""

        def read(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            length = self.number(at + 4, 4, little=True)
            return self.number(at, 4), at + 8 + length + length % 2

        return self._find(read, 12, [int.from_bytes(kind, "big") for kind in kinds])

    def jpeg_segments(self) -> Sequence[tf.Tensor]:
        """Where the EXIF segment, the frame header and the first scan of a JPEG lie, 0 for none (T.81, annex B)."""
        app1, frame, scan, fill = 0xFFE1, 0xFFC0, 0xFFDA, 0xFFFF
        exif = app1 * 2**32 + int.from_bytes(b"Exif", "big")  # XMP comes in an APP1 segment too
        tables = tf.constant(
            [0xFFC4, 0xFFC8, 0xFFCC], tf.int64
        )  # these are no frame headers, though among their markers

        def read(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            marker = self.number(at, 2)
            is_frame = (marker >= frame) & (marker < frame + 16) & ~tf.reduce_any(marker == tables)
            kind = tf.where(marker == app1, marker * 2**32 + self.number(at + 4, 4), tf.where(~is_frame, marker, frame))
            following = tf.where(marker == fill, at + 1, at + 2 + self.number(at + 2, 2))
            return kind, tf.where(marker < 0xFF00, self.size, following)

        return self._find(read, 2, [exif, frame, scan])

    def _find(
        self, read: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]], start: int, kinds: Sequence[int]
    ) -> Sequence[tf.Tensor]:
        """Walks a file of chunks from `start`; `read` gives a chunk's kind and where the next one begins."""
        wanted = tf.constant(kinds, tf.int64)

        def unfinished(at: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
            return (at < self.size) & (found[-1] == 0)

        def step(at: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            kind, following = read(at)
            return following, tf.where((wanted == kind) & (found == 0), at, found)

        first = (tf.constant(start, tf.int64), tf.zeros(len(kinds), tf.int64))
        _, found = tf.while_loop(unfinished, step, first, parallel_iterations=1)
        return tf.unstack(found, num=len(kinds))


def _weights(length: int, little: bool) -> tf.Tensor:
    powers = [256**i for i in range(length)]
    return tf.constant(powers if little else powers[::-1], tf.int64)
