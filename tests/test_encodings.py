from typing import get_args

import numpy as np
import pytest

from benchmarks.encodings import loss
from clients.vector_index import VectorIndex
from tests.standin import StandIn, picture
from vit22b import encodings
from vit22b.client import Client
from vit22b.embeddings import Embeddings, join
from vit22b.encodings import Encoding, decode, encode, shorten

RANDOM = np.random.default_rng(0)


def unit(count: int, width: int) -> np.ndarray:
    return encodings.unit(RANDOM.normal(size=(count, width)).astype(np.float32))


@pytest.mark.parametrize(
    ("encoding", "dtype", "bytes_each", "error"),
    [("float32", np.float32, 4 * 1408, 0), ("float16", np.float16, 2 * 1408, 2e-4), ("int8", np.int8, 1408, 4e-3)],
)
def test_a_cosine_survives_its_encoding(encoding, dtype, bytes_each, error):
    vectors = unit(50, 1408)
    encoded = encode(vectors, encoding)
    assert encoded.dtype == dtype
    assert encoded[0].nbytes == bytes_each
    decoded = decode(encoded, encoding, 1408)
    np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(decoded @ decoded.T, vectors @ vectors.T, atol=error)


@pytest.mark.parametrize("encoding", get_args(Encoding))
def test_every_encoding_is_stored_as_it_is_said(encoding: Encoding):
    vectors = unit(3, 21)
    encoded = encode(vectors, encoding)
    assert encoded.dtype == encodings.DTYPES[encoding]
    assert encoded.shape == (3, encodings.stored_width(21, encoding))
    assert np.sum(decode(encoded, encoding, 21) * vectors, axis=1).min() > 0.7
    file = Embeddings(encoded, ("a", "b", "c"), (0, 1, 2), "space", 1, (), 21, encoding)
    graph = VectorIndex.build([file])
    assert graph.search(encoded, 1, exact=True)[1][0].name == "b"


def test_another_encoding_is_refused():
    with pytest.raises(ValueError, match="the encoding is 'int4'; expected one of float32, float16, int8, binary"):
        encode(unit(1, 8), "int4")


def test_binary_keeps_the_signs_and_their_angle():
    vectors = unit(200, 1001)
    encoded = encode(vectors, "binary")
    assert (encoded.dtype, encoded.shape) == (np.uint8, (200, 126))
    decoded = decode(encoded, "binary", 1001)
    np.testing.assert_array_equal(decoded > 0, vectors >= 0)
    # Of random directions the angle is the share of signs that differ (Charikar 2002, section 3).
    near = encodings.unit(vectors + 0.5 * unit(200, 1001))
    angles = np.arccos((vectors * near).sum(1))
    differing = np.unpackbits(encoded ^ encode(near, "binary"), axis=1, count=1001).mean(1)
    np.testing.assert_allclose(differing * np.pi, angles, atol=0.12)


def test_int8_of_zeros_and_of_opposites():
    np.testing.assert_array_equal(encode(np.zeros((2, 5), np.float32), "int8"), 0)
    vectors = unit(5, 9)
    np.testing.assert_array_equal(encode(vectors, "int8"), -encode(-vectors, "int8"))
    assert np.abs(encode(vectors, "int8")).max(axis=1).tolist() == [127] * 5


def test_fewer_dimensions_are_the_first_ones_at_unit_length():
    vectors = unit(3, 10)
    short = shorten(vectors, 4)
    np.testing.assert_allclose(short, vectors[:, :4] / np.linalg.norm(vectors[:, :4], axis=1, keepdims=True), rtol=1e-6)
    assert shorten(vectors, None) is vectors
    np.testing.assert_array_equal(shorten(np.zeros((1, 10), np.float32), 4), np.zeros((1, 4)))


def test_the_client_encodes_and_compares(client: Client):
    images = [picture("red"), picture("orange"), picture("blue")]
    plain = client.embed_images(images, dimensions=3)
    for encoding in ("float16", "int8", "binary"):
        found = client.embed_images(images, dimensions=3, encoding=encoding)
        assert (found.dimensions, found.encoding) == (3, encoding)
        if encoding != "binary":
            np.testing.assert_allclose(found.cosine(plain), plain.cosine(plain), atol=0.01)
    texts = client.embed_texts(["a red", "a blue"], dimensions=3, encoding="int8")
    assert plain.cosine(texts).argmax(axis=1).tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="3 and 8 dimensions"):
        plain.cosine(client.embed_images(images))
    with pytest.raises(ValueError, match=r"int8 \[3\] and float32 \[3\]"):
        join([client.embed_images(images, dimensions=3, encoding="int8"), plain])


def test_what_failed_is_near_to_nothing_in_any_encoding(client: Client):
    for encoding in ("float32", "float16", "int8", "binary"):
        found = client.embed_images([picture("red"), b"no image"], on_error="return", encoding=encoding)
        np.testing.assert_array_equal(found.cosine(found)[1], [0, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": 9}, "dimensions is 9; expected 1 to 8"),
        ({"dimensions": 0}, "dimensions is 0"),
        ({"encoding": "int4"}, "the encoding is 'int4'; expected one of float32, float16, int8, binary"),
    ],
)
def test_settings_that_cannot_be(standin: StandIn, client: Client, options, message):
    with pytest.raises(ValueError, match=message):
        client.embed_images([picture("red")], **options)
    with pytest.raises(ValueError, match=message):
        client.embed_images([], **options)
    assert standin.asked("embed_image_each") == []


def test_the_loss_of_each_encoding_is_told():
    vectors = unit(300, 64)
    whole = [loss(vectors, 64, encoding) for encoding in ("float32", "float16", "int8", "binary")]
    assert [each.bytes_each for each in whole] == [256, 128, 64, 8]
    assert (whole[0].largest, whole[0].kept) == (0, 1)
    assert whole[1].mean < whole[2].mean < whole[3].mean
    assert whole[2].kept > 0.9 > whole[3].kept
    assert loss(vectors, 32, "float32").mean > whole[2].mean
