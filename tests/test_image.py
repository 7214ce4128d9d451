"""Resizing, batches with bad rows and random crops, on real files; one path for training and serving."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.pictures import FORMATS, encoded, picture
from vit22b import image
from vit22b.preprocess import Preprocess

SMALL = Preprocess(resolution=16, max_pixels=1 << 20)

each = tf.function(lambda data: image.preprocess_each(data, SMALL), input_signature=[tf.TensorSpec([None], tf.string)])
batch = tf.function(
    lambda data: image.preprocess_batch(data, SMALL), input_signature=[tf.TensorSpec([None], tf.string)]
)


def test_resize_is_an_antialiased_bicubic_like_pillows():
    source = picture(height=120, width=90)
    resized = image.resize(tf.constant(np.asarray(source)), SMALL)
    pillow = np.asarray(source.resize((16, 16), Image.Resampling.BICUBIC)).astype(int)
    assert resized.dtype == tf.uint8
    assert np.abs(resized.numpy() - pillow).max() <= 1


def test_resize_clips_what_bicubic_overshoots():
    edge = np.zeros((8, 8, 3), np.uint8)
    edge[:, 4:] = 255
    resized = image.resize(tf.constant(edge), SMALL).numpy()
    assert (resized[:, :6] <= 32).all()
    assert (resized[:, 10:] >= 223).all()


def test_an_image_of_the_right_size_passes_unchanged():
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    np.testing.assert_array_equal(
        image.preprocess_bytes(tf.constant(encoded(Image.fromarray(noise), "PNG")), SMALL), noise
    )


def mixed(size):
    """A batch of files of every format; every third is no image."""
    good = [encoded(picture(height=20 + row, width=30), FORMATS[row % 5]) for row in range(size)]
    return [data if row % 3 != 1 else data[:9] for row, data in enumerate(good)]


@pytest.mark.parametrize("size", [0, 1, 3, 8])
def test_a_bad_row_harms_no_other(size):
    data = mixed(size)
    pixels, ok = each(tf.constant(data, tf.string, [size]))
    assert ok.numpy().tolist() == [row % 3 != 1 for row in range(size)]
    assert pixels.shape == (size, 16, 16, 3)
    for row, answer in enumerate(pixels):
        expected = image.preprocess_bytes(tf.constant(data[row]), SMALL) if ok[row] else np.zeros((16, 16, 3))
        np.testing.assert_array_equal(answer, expected)


def test_a_batch_of_bad_rows_alone():
    pixels, ok = each([b"", b"x"])
    assert not ok.numpy().any()
    assert not pixels.numpy().any()


def test_batch_names_the_bad_rows():
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"rows \[1 4 7\] of 8 cannot be decoded"):
        batch(mixed(8))
    good = [data for row, data in enumerate(mixed(8)) if row % 3 != 1]
    np.testing.assert_array_equal(batch(good), each(good)[0])
    assert batch(tf.constant([], tf.string)).shape == (0, 16, 16, 3)


def test_a_saved_model_in_a_v1_session_equals_eager(tmp_path):
    module = tf.Module()
    module.each = tf.function(
        lambda image_bytes: dict(zip(("pixels", "ok"), image.preprocess_each(image_bytes, SMALL), strict=True)),
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")],
    )
    module.batch = tf.function(
        lambda image_bytes: {"pixels": image.preprocess_batch(image_bytes, SMALL)},
        input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")],
    )
    tf.saved_model.save(module, str(tmp_path), signatures={"each": module.each, "batch": module.batch})
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))

        def run(name, data):
            signature = meta.signature_def[name]
            fetches = {key: info.name for key, info in signature.outputs.items()}
            return session.run(fetches, {signature.inputs["image_bytes"].name: np.array(data, object)})

        answers = {size: run("each", mixed(size)) for size in (0, 1, 3, 8)}
        good = run("batch", mixed(1))
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"rows \[1\] of 3 cannot be decoded"):
            run("batch", mixed(3))
    for size, answer in answers.items():
        pixels, ok = each(tf.constant(mixed(size), tf.string, [size]))
        np.testing.assert_array_equal(answer["pixels"], pixels)
        np.testing.assert_array_equal(answer["ok"], ok)
    np.testing.assert_array_equal(good["pixels"], batch(mixed(1)))


def centred(method="bicubic", fraction=0.875, side=56):
    return Preprocess(side, method=method, crop="center", crop_fraction=fraction, max_pixels=1 << 20)


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
@pytest.mark.parametrize("fraction", [1.0, 0.875])
@pytest.mark.parametrize("size", [(120, 90), (50, 71), (64, 64), (33, 900)], ids=str)
def test_a_centre_crop_is_pillows_resize_by_the_shorter_side_and_crop(method, fraction, size):
    height, width = size
    # Muted, since Pillow clips between its two passes where a bicubic overshoots black or white.
    source = Image.fromarray((64 + 0.4 * np.asarray(picture(height=height, width=width))).astype(np.uint8))
    preprocess = centred(method, fraction)
    scale = preprocess.shorter_side / min(size)
    resized = source.resize((int(width * scale), int(height * scale)), Image.Resampling[method.upper()])
    left, top = ((side - 56) // 2 for side in resized.size)
    pillow = np.asarray(resized.crop((left, top, left + 56, top + 56))).astype(int)
    assert np.abs(image.resize(tf.constant(np.asarray(source)), preprocess).numpy() - pillow).max() <= 1


def test_a_bilinear_squash_is_pillows():
    source = picture(height=120, width=90)
    resized = image.resize(tf.constant(np.asarray(source)), Preprocess(16, method="bilinear"))
    pillow = np.asarray(source.resize((16, 16), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(resized.numpy() - pillow).max() <= 1


def test_of_an_image_whose_shorter_side_fits_the_centre_is_cut_out_unchanged():
    noise = np.random.default_rng(0).integers(0, 256, (56, 91, 3)).astype(np.uint8)
    cut = image.resize(tf.constant(noise), centred(fraction=1.0))
    np.testing.assert_array_equal(cut, noise[:, 17:73])


def test_a_centre_crop_of_one_row_needs_no_more_memory_than_the_square():
    """Resized whole it would have 64 x 131,072 x 64 pixels: 6 GB in float32."""
    row = np.full((1, 1 << 17, 3), 77, np.uint8)
    assert (image.resize(tf.constant(row), centred()).numpy() == 77).all()


def test_a_random_part_is_resized_as_a_whole_whatever_the_crop():
    source = tf.constant(np.asarray(picture(height=50, width=70)))
    cropped = image.random_crop(source, centred(side=16), tf.constant([0, 1]), 1.0, False)
    np.testing.assert_array_equal(cropped, image.resize(source, SMALL))


def test_a_parallel_pipeline_equals_eager():
    data = [encoded(picture(height=20 + row, width=30), FORMATS[row % 5]) for row in range(20)]
    pipeline = tf.data.Dataset.from_tensor_slices(data).map(
        lambda image_bytes: image.preprocess_bytes(image_bytes, SMALL), num_parallel_calls=4
    )
    np.testing.assert_array_equal(np.stack(list(pipeline.as_numpy_iterator())), each(data)[0])


def test_the_whole_area_without_a_flip_is_resize():
    source = tf.constant(np.asarray(picture(height=50, width=70)))
    for seed in range(5):
        cropped = image.random_crop(source, SMALL, tf.constant([0, seed]), 1.0, False)
        np.testing.assert_array_equal(cropped, image.resize(source, SMALL))


def test_a_crop_depends_on_its_seed_alone():
    source = tf.constant(np.asarray(picture(height=50, width=70)))
    crops = [image.random_crop(source, SMALL, tf.constant([7, seed]), 0.2, True).numpy() for seed in (0, 1, 0)]
    np.testing.assert_array_equal(crops[0], crops[2])
    assert (crops[0] != crops[1]).any()


def test_crops_keep_the_area_that_is_asked_for():
    # Coordinates as colours: what a crop spans can be read off its pixels.
    y, x = np.mgrid[0:200, 0:200].astype(np.uint8)
    source = tf.constant(np.stack([x, y, x], axis=-1))
    crop = tf.function(lambda seed: image.random_crop(source, Preprocess(resolution=100), seed, 0.5, True))
    mirrored = 0
    for seed in range(40):
        pixels = crop(tf.constant([seed, 1])).numpy().astype(int)
        width, height = np.ptp(pixels[..., 0]) / 200, np.ptp(pixels[..., 1]) / 200
        assert width * height > 0.45
        mirrored += pixels[0, 0, 0] > pixels[0, -1, 0]
    assert 8 < mirrored < 32


def test_an_area_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"min_area is 0; expected a part of the image's area in \(0, 1\]"):
        image.random_crop(tf.zeros([4, 4, 3], tf.uint8), SMALL, tf.constant([0, 0]), 0, False)


def test_what_is_bad_is_said_in_our_words_alone(tmp_path):
    (tmp_path / "a.png").write_bytes(b"GIF87a" + bytes(20))
    message = image.what_is_bad([tmp_path / "a.png"], Preprocess(28))
    assert "a.png is not an image that can be used: " in message
    assert "tf.Tensor" not in message
    assert "Summarized" not in message
