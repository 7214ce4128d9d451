"""What the first bytes of an encoded image say: format, size, EXIF orientation, and where its parts lie.

Below vit22b.image on the walk image -> batch -> state -> checkpoint -> SavedModel -> server -> client. Everything
is TensorFlow ops, because it runs inside the training pipeline and inside a served graph. Reading beyond the end
gives zeros and never fails: a header may announce any position, and it is the caller who knows what a missing part
means.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import tensorflow as tf

# The magic bytes of every format that is decoded: alternatives, each with what stands at which position.
FORMATS: Mapping[str, tuple[Mapping[int, bytes], ...]] = MappingProxyType(
    {
        "JPEG": ({0: b"\xff\xd8\xff"},),
        "PNG": ({0: b"\x89PNG\r\n\x1a\n"},),
        "WebP": ({0: b"RIFF", 8: b"WEBP"},),
        "GIF": ({0: b"GIF87a"}, {0: b"GIF89a"}),
        "BMP": ({0: b"BM"},),
    }
)
_ORIENTATION_TAG = 0x0112  # EXIF 2.32, section 4.6.4
_PADDING = 8  # bytes of zeros behind the file: the longest number that is read
_FILL = 4096  # of the fill bytes before a JPEG marker, how many are passed over in one step


class Header:
    """Random access to the bytes of one encoded image.

    Attributes:
        data: scalar string, the file.
        size: scalar int64, its length in bytes.
        raw: uint8 [size + 8], the file and zeros behind it.
        most_parts: scalar int32, how many parts a walk through the file may take. A step costs the time of decoding
            some kilobytes, so a file of nothing but empty parts would hold its thread for minutes. A real file has a
            few hundred parts at most, but for the pixels of a PNG, mostly 8 KiB a chunk, and of a GIF, 255 bytes a
            block; twice as many are allowed.
    """

    def __init__(self, data: tf.Tensor) -> None:
        self.data = data
        self.size = tf.cast(tf.strings.length(data), tf.int64)
        self.raw = tf.io.decode_raw(tf.strings.join([data, b"\0" * _PADDING]), tf.uint8)
        self.most_parts = tf.cast(4096 + self.size // 128, tf.int32)

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
        told = [tf.reduce_any([self._has(magic) for magic in alternatives]) for alternatives in FORMATS.values()]
        return tf.argmax(tf.cast(tf.stack([*told, tf.constant(True)]), tf.int32), output_type=tf.int32)

    def _has(self, magic: Mapping[int, bytes]) -> tf.Tensor:
        return tf.reduce_all([self.text(at, at + len(part)) == part for at, part in magic.items()])

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

        found, _ = self._find(read, 8, [int.from_bytes(kind, "big") for kind in kinds])
        return found

    def webp_exif(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Where the EXIF chunk of a WebP lies, 0 for none, and whether the search came to an end (RFC 9649, 2.3)."""

        def read(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            length = self.number(at + 4, 4, little=True)
            return self.number(at, 4), at + 8 + length + length % 2

        (exif,), ended = self._find(read, 12, [int.from_bytes(b"EXIF", "big")])
        return exif, ended

    def jpeg_segments(self) -> Sequence[tf.Tensor]:
        """Where the EXIF segment, the frame header and the first scan of a JPEG lie, 0 for none (T.81, annex B)."""
        app1, frame, scan, fill = 0xFFE1, 0xFFC0, 0xFFDA, 0xFFFF
        exif = app1 * 2**32 + int.from_bytes(b"Exif", "big")  # XMP comes in an APP1 segment too
        # These are no frame headers, though among their markers.
        tables = tf.constant([0xFFC4, 0xFFC8, 0xFFCC], tf.int64)

        def read(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            marker = self.number(at, 2)
            is_frame = (marker >= frame) & (marker < frame + 16) & ~tf.reduce_any(marker == tables)
            kind = tf.where(marker == app1, marker * 2**32 + self.number(at + 4, 4), tf.where(~is_frame, marker, frame))
            following = tf.where(marker == fill, at + self._fill(at), at + 2 + self.number(at + 2, 2))
            return kind, tf.where(marker < 0xFF00, self.size, following)

        found, _ = self._find(read, 2, [exif, frame, scan])
        return found

    def _fill(self, at: tf.Tensor) -> tf.Tensor:
        """How many JPEG fill bytes begin at `at`: 0xFF with another behind it. At least 1, at most _FILL."""
        other = self.raw[at + 1 : at + 1 + _FILL] != 0xFF
        return tf.where(tf.reduce_any(other), tf.maximum(tf.argmax(other), 1), _FILL)

    def _find(
        self, read: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]], start: int, kinds: Sequence[int]
    ) -> tuple[Sequence[tf.Tensor], tf.Tensor]:
        """Walks a file of chunks from `start`; `read` gives a chunk's kind and where the next one begins.

        Returns:
            Where the first chunk of each kind lies, 0 for none; and whether the walk came to the last kind or to the
            end of the file, and not to most_parts.
        """
        wanted = tf.constant(kinds, tf.int64)

        def unfinished(at: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
            return (at < self.size) & (found[-1] == 0)

        def step(at: tf.Tensor, found: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            kind, following = read(at)
            return following, tf.where((wanted == kind) & (found == 0), at, found)

        first = (tf.constant(start, tf.int64), tf.zeros(len(kinds), tf.int64))
        at, found = tf.while_loop(unfinished, step, first, parallel_iterations=1, maximum_iterations=self.most_parts)
        return tf.unstack(found, num=len(kinds)), ~unfinished(at, found)


def _weights(length: int, little: bool) -> tf.Tensor:
    powers = [256**i for i in range(length)]
    return tf.constant(powers if little else powers[::-1], tf.int64)
