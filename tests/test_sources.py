import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from tests.clienthood import FAST
from tests.standin import StandIn, picture
from vit22b import download, errors, sources
from vit22b.client import Client


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args):
        pass


@pytest.fixture
def web(tmp_path) -> Iterator[str]:
    (tmp_path / "blue.png").write_bytes(picture("blue"))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_every_kind_of_image_is_the_same_image(client: Client, tmp_path):
    path = tmp_path / "blue.png"
    path.write_bytes(picture("blue"))
    pixels = np.zeros((5, 7, 3), np.uint8)
    pixels[..., 2] = 255
    with path.open("rb") as file:
        images = [path, str(path), picture("blue"), bytearray(picture("blue")), file, io.BytesIO(picture("blue")),
                  Image.new("RGB", (3, 3), "blue"), Image.new("CMYK", (3, 3), (255, 255, 0, 0)), pixels]  # fmt: skip
        found = client.embed_images(images)
    np.testing.assert_allclose(found.vectors[:, 2], 1, atol=0.05)
    assert found.names[:6] == (str(path), str(path), "image 2", "image 3", str(path), "image 5")


def test_a_pillow_image_stays_turned_as_its_file_says():
    file, turn = io.BytesIO(), Image.Exif()
    turn[0x0112] = 6  # a quarter to the right
    Image.new("RGB", (4, 2)).save(file, "JPEG", exif=turn)
    with Image.open(file) as image, Image.open(io.BytesIO(sources.named(0, image, allow_urls=False).read())) as sent:
        assert sent.size == (2, 4)


def test_sixteen_bits_stay_and_what_has_no_range_is_refused(client: Client):
    deep = np.array([[0, 65535]], np.int32)
    with Image.open(io.BytesIO(sources.named(0, Image.fromarray(deep), allow_urls=False).read())) as sent:
        np.testing.assert_array_equal(np.asarray(sent), deep)
    with pytest.raises(errors.ImageError, match="its mode is F, whose range nobody knows; convert it to 8 bits"):
        client.embed_images([Image.fromarray(np.ones((2, 2), np.float32))])


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3), (4, 6, 4)])
def test_arrays_become_png(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    encoded = sources.named(0, pixels, allow_urls=False).read()
    with Image.open(io.BytesIO(encoded)) as image:
        assert (image.format, image.size) == ("PNG", (6, 4))
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (7, "image 0 is a int; expected a path, bytes"),
        (None, "image 0 is a NoneType"),
        (np.zeros((4, 4, 3)), r"image 0 is an array float64 \[4, 4, 3\]; expected uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"uint8 \[4, 4, 2\]; expected"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \[0, 4, 3\]; expected"),
        (io.StringIO("text"), "reads str; open it with mode 'rb'"),
        ("https://example.com/cat.jpg", "is the address https://example.com/cat.jpg; say allow_urls=True"),
    ],
)
def test_what_is_no_image(client: Client, image, message):
    with pytest.raises(ValueError, match=message):
        client.embed_images([image])


@pytest.mark.parametrize("images", [picture("red"), "cat.png", io.BytesIO(), Image.new("L", (1, 1)),
                                    np.zeros((4, 4, 3), np.uint8)])  # fmt: skip
def test_one_image_in_place_of_several(client: Client, images):
    with pytest.raises(ValueError, match=r"expected several, for instance \[image\]"):
        client.embed_images(images)


def test_an_array_of_images_is_several(client: Client):
    pixels = np.zeros((3, 5, 5, 3), np.uint8)
    pixels[..., 0] = 99
    np.testing.assert_array_equal(client.embed_images(pixels).vectors[:, 0], 1)


def test_addresses_on_the_web_are_fetched_where_they_may_be(standin: StandIn, web: str):
    with Client(standin.address, retry=FAST, allow_urls=True) as client:
        images = [f"{web}/blue.png", f"{web}/none.png", "http://127.0.0.1:1/x.png", "http://", picture("red")]
        found = client.embed_images(images, on_error="skip")
    assert found.indices == (0, 4)
    assert found.names[0] == f"{web}/blue.png"
    assert found.vectors[0, 2] == 1
    reasons = [failure.reason for failure in found.failures]
    assert "404" in reasons[0]
    assert "refused" in reasons[1]
    assert all(reason.startswith("cannot be read: ") for reason in reasons)


def test_an_address_with_too_much_behind_it(standin: StandIn, web: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "_BYTES", 10)
    with (
        Client(standin.address, retry=FAST, allow_urls=True) as client,
        pytest.raises(errors.ImageError, match="more than 10 bytes"),
    ):
        client.embed_images([f"{web}/blue.png"])


def test_no_more_images_are_read_than_are_under_way(standin: StandIn):
    taken = 0

    def images():
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield picture("red")

    with Client(standin.address, in_flight=2) as client:
        stream = client.stream_images(images())
        next(stream)
        assert taken == 3 * standin.batch_sizes[-1]
        stream.close()


def test_images_are_read_when_their_request_is_made(client: Client, tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(40)]
    stream = client.stream_images(paths)
    for path in paths[:20]:
        path.write_bytes(picture("green"))
    first = next(stream)
    for path in paths[20:]:
        path.write_bytes(picture("green"))
    vectors = np.concatenate([first.vectors, *(part.vectors for part in stream)])
    np.testing.assert_array_equal(vectors[:, 1], np.ones(40))
