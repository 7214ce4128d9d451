"""Encoded bytes to the pixels that a tower takes: decode and resize, written once.

First step of the walk image -> batch -> state -> checkpoint -> SavedModel -> server -> client. The training
pipeline and the SavedModel run these same TensorFlow ops, so a served model sees exactly the pixels that it was
trained on. Pixels stay uint8 up to the tower, which maps them to its own range: a batch is a quarter of its float32
size, and the signatures that take pixels take these.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from vit22b import codec
from vit22b.header import FORMATS, Header
from vit22b.preprocess import Crop, Method, Preprocess

_KERNELS: dict[Method, str] = {"bicubic": "keyscubic", "bilinear": "triangle"}  # as tf.image.resize has them


@tf.autograph.experimental.do_not_convert  # control flow is tf.cond and tf.while_loop already; this traces 3 x faster
def decode(image_bytes: tf.Tensor, max_pixels: int) -> tf.Tensor:
    """Decodes one image, upright, its transparent parts on white, of an animation the first frame.

    Args:
        image_bytes: scalar string, a whole JPEG, PNG, WebP, GIF or BMP; its magic bytes tell which.
        max_pixels: cap on width x height, checked in the header before anything is decoded.

    Returns:
        uint8 [h, w, 3], RGB.

    Raises:
        tf.errors.InvalidArgumentError: when the op runs: another format, beyond the cap, truncated or damaged.
    """
    header = Header(tf.ensure_shape(image_bytes, []))
    branches = [lambda name=name: codec.DECODERS[name](header, max_pixels) for name in FORMATS]
    image = tf.switch_case(header.format(), [*branches, lambda: _unknown(header)])
    return tf.ensure_shape(image, [None, None, 3])


def resize(image: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """Resizes one image to the square that the tower takes, as a whole or its centre.

    Args:
        image: uint8 [h, w, 3]; one that has the size already passes unchanged, unless a part of it is cut out.
        preprocess: its resolution is r; its crop says whether the aspect ratio is kept.

    Returns:
        uint8 [r, r, 3], rounded and clipped.
    """
    crops: dict[Crop, Callable[[tf.Tensor, Preprocess], tf.Tensor]] = {"squash": _squash, "center": _center}
    return crops[preprocess.crop](image, preprocess)


def _squash(image: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """Resizes a whole image without keeping its aspect ratio."""
    side = preprocess.resolution

    def resampled() -> tf.Tensor:
        pixels = tf.image.resize(image, [side, side], method=preprocess.method, antialias=True)
        return tf.saturate_cast(tf.round(pixels), tf.uint8)

    fits = tf.reduce_all(tf.shape(image)[:2] == side)
    return tf.ensure_shape(tf.cond(fits, lambda: image, resampled), [side, side, 3])


def _center(image: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """Resizes an image by its shorter side and cuts out the centre, the longer side and the offset rounded down.

    In one op, which samples the centre alone: resized whole, an image of one row would have gigabytes.
    """
    side = preprocess.resolution
    size = tf.shape(image, tf.int64)[:2]
    scaled = size * preprocess.shorter_side // tf.reduce_min(size)
    pixels = tf.raw_ops.ScaleAndTranslate(
        images=image[None],
        size=[side, side],
        scale=tf.cast(scaled / size, tf.float32),
        translation=tf.cast(-((scaled - side) // 2), tf.float32),
        kernel_type=_KERNELS[preprocess.method],
        antialias=True,
    )[0]
    return tf.ensure_shape(tf.saturate_cast(tf.round(pixels), tf.uint8), [side, side, 3])


def preprocess_bytes(image_bytes: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """Decodes and resizes one image: scalar string in, uint8 [r, r, 3] out; raises as decode does."""
    return resize(decode(image_bytes, preprocess.max_pixels), preprocess)


def preprocess_each(image_bytes: tf.Tensor, preprocess: Preprocess) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes and resizes a batch, in which a bad image harms no other.

    Args:
        image_bytes: string [b]; b may be 0.
        preprocess: as for resize.

    Returns:
        pixels: uint8 [b, r, r, 3], zeros where an image cannot be decoded.
        ok: bool [b], whether it was.
    """
    return _each(lambda data: preprocess_bytes(data, preprocess), (image_bytes,), preprocess.resolution)


def preprocess_batch(image_bytes: tf.Tensor, preprocess: Preprocess) -> tf.Tensor:
    """Decodes and resizes a batch: string [b] in, uint8 [b, r, r, 3] out.

    Raises:
        tf.errors.InvalidArgumentError: when the op runs: some images cannot be decoded; the message has their indices.
    """
    pixels, ok = preprocess_each(image_bytes, preprocess)
    message = tf.strings.format(
        "image_bytes: rows {} of {} cannot be decoded; expected whole "
        f"{', '.join(FORMATS)} files of at most {preprocess.max_pixels} pixels",
        (tf.where(~ok)[:, 0], tf.size(ok)),
        summarize=16,
    )
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(ok), [message])]):
        return tf.identity(pixels)


def image_batches(
    images: Sequence[Path | bytes], preprocess: Preprocess, batch: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """The pixels of image files, in order, as a training pipeline reads them but without augmentation.

    Args:
        images: n paths, or the bytes of n files.
        preprocess: as for resize.
        batch: rows of an array; the last may have fewer.

    Yields:
        uint8 [batch, r, r, 3].

    Raises:
        ValueError: a file is reached that cannot be read or decoded; the message names it.
    """
    decode_batch = _decoder(preprocess)

    def load(chunk: Sequence[Path | bytes]) -> npt.NDArray[np.uint8]:
        try:
            encoded = [image.read_bytes() if isinstance(image, Path) else image for image in chunk]
        except OSError as error:
            raise ValueError(what_is_bad(images, preprocess)) from error
        pixels, ok = decode_batch(tf.constant(encoded, tf.string))
        if not ok.numpy().all():
            raise ValueError(what_is_bad(images, preprocess))
        return pixels.numpy()

    chunks = [images[begin : begin + batch] for begin in range(0, len(images), batch)]
    with ThreadPoolExecutor(1) as executor:  # the next batch is decoded while the caller works on this one
        loading = [executor.submit(load, chunk) for chunk in chunks[:1]]
        for number in range(len(chunks)):
            pixels = loading.pop().result()
            loading.extend(executor.submit(load, chunk) for chunk in chunks[number + 1 : number + 2])
            yield pixels


@functools.cache  # tracing the decoders takes longer than decoding some hundred images
def _decoder(preprocess: Preprocess) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """A batch of files to pixels and whether each was decoded; see preprocess_each."""
    signature = [tf.TensorSpec([None], tf.string)]
    return tf.function(lambda image_bytes: preprocess_each(image_bytes, preprocess), input_signature=signature)


def what_is_bad(images: Sequence[Path | bytes], preprocess: Preprocess) -> str:
    """The first of some files that cannot be read or decoded, and why; a pipeline's own error does not name it."""
    for index, image in enumerate(images):
        try:
            preprocess_bytes(tf.io.read_file(str(image)) if isinstance(image, Path) else image, preprocess)
        except tf.errors.OpError as error:
            name = image if isinstance(image, Path) else f"image {index}"
            return f"{name} is not an image that can be used: {reason(error)}; mend it, or take it out of the folder"
    return "an image could not be read, and now all of them can; try again"


def reason(error: tf.errors.OpError) -> str:
    """What a decoder says is wrong, without TensorFlow's words for an assertion around it."""
    ours = re.search(r"Summarized data: b(['\"])(.*)\1", error.message, re.DOTALL)
    return str(ours[2] if ours else error.message).replace("\n", " ")


def random_crop(image: tf.Tensor, preprocess: Preprocess, seed: tf.Tensor, min_area: float, flip: bool) -> tf.Tensor:
    """Cuts a random part and resizes it, for training only (the "inception crop": Szegedy et al. 2015, section 6).

    The part is resized as a whole, whatever the preprocessing's crop: that is of images that nothing was cut from.

    Args:
        image: uint8 [h, w, 3].
        preprocess: as for resize.
        seed: int [2]; the same seed gives the same crop of the same image.
        min_area: smallest part of the image's area to keep, in (0, 1]; at 1 the whole image is kept. Aspect 3/4 to 4/3.
        flip: whether half of the crops are mirrored left to right.

    Returns:
        uint8 [r, r, 3].
    """
    if not 0 < min_area <= 1:
        raise ValueError(f"min_area is {min_area}; expected a part of the image's area in (0, 1]")
    crop_seed, flip_seed = tf.unstack(tf.random.split(seed))
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros([1, 0, 4]),
        seed=crop_seed,
        min_object_covered=0.0,
        aspect_ratio_range=(3 / 4, 4 / 3),
        area_range=(min_area, 1.0),
        use_image_if_no_bounding_boxes=True,
    )
    cropped = _squash(tf.ensure_shape(tf.slice(image, begin, size), [None, None, 3]), preprocess)
    return tf.image.stateless_random_flip_left_right(cropped, flip_seed) if flip else cropped


def random_crop_each(
    image_bytes: tf.Tensor, seeds: tf.Tensor, preprocess: Preprocess, min_area: float, flip: bool
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes a batch and cuts a random part of each, for training; a bad image harms no other.

    Args:
        image_bytes: string [b].
        seeds: int [b, 2]; otherwise as for random_crop.
        preprocess: as for random_crop.
        min_area: as for random_crop.
        flip: as for random_crop.

    Returns:
        As preprocess_each.
    """

    def crop(data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return random_crop(decode(data, preprocess.max_pixels), preprocess, seed, min_area, flip)

    return _each(crop, (image_bytes, seeds), preprocess.resolution)


def _each(pixels_of: Callable[..., tf.Tensor], rows: tuple[tf.Tensor, ...], side: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Pixels uint8 [b, side, side, 3] of each row, zeros where that fails, and bool [b], whether it went well."""
    batch = tf.size(rows[0], out_type=tf.int64)
    # A dataset is the one place in a graph where an op's failure can be caught. One row that always succeeds is added
    # behind the others, so that a batch of the survivors exists even when there are none.
    numbered = tf.data.Dataset.from_tensor_slices((tf.range(batch), *rows))
    good = numbered.map(
        lambda row, *values: (row, pixels_of(*values)), num_parallel_calls=tf.data.AUTOTUNE
    ).ignore_errors()
    last = tf.data.Dataset.from_tensors((batch, tf.zeros([side, side, 3], tf.uint8)))
    survivors, pixels = good.concatenate(last).batch(batch + 1).get_single_element()
    at = survivors[:, None]
    placed = tf.scatter_nd(at, pixels, tf.stack([batch + 1, side, side, 3]))[:-1]
    ok = tf.scatter_nd(at, tf.ones_like(survivors), [batch + 1])[:-1] > 0
    return tf.ensure_shape(placed, [None, side, side, 3]), ok


def _unknown(header: Header) -> tf.Tensor:
    """Fails: the branch of a file whose magic bytes tell none of FORMATS."""
    # As numbers: an error's message has to be UTF-8 to go through gRPC, which the bytes of a file need not be.
    message = tf.strings.format(
        f"not an image: expected {', '.join(FORMATS)}; the {{}} bytes begin with {{}}",
        (header.size, header.raw[: tf.minimum(header.size, 8)]),
        summarize=-1,
    )
    with tf.control_dependencies([tf.debugging.Assert(tf.constant(False), [message])]):
        return tf.zeros([0, 0, 3], tf.uint8)
