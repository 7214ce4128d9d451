import pickle
import subprocess
import sys

import grpc
import numpy as np
import pytest

from tests.standin import RESOLUTION, StandIn, picture
from vit22b import batches, errors, signature
from vit22b.client import Client

BAD = b"this is no image"


def test_the_import_loads_neither_tensorflow_nor_jax():
    heavy = "{'tensorflow', 'jax', 'flax', 'tensorflow_serving', 'tokenizers', 'http'} & set(sys.modules)"
    code = f"import sys, vit22b.client; print(sorted({heavy}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_images_keep_their_order_over_many_requests(standin: StandIn, client: Client):
    colours = ["red", "green", "blue", "red", "red", "blue", "green", "green", "blue", "red", "blue"]
    found = client.embed_images(picture(colour) for colour in colours)
    axis = {"red": 0, "green": 1, "blue": 2}
    assert found.vectors.argmax(axis=1).tolist() == [axis[colour] for colour in colours]
    assert found.indices == tuple(range(11))
    assert (found.space_id, found.version, found.failures) == ("space-one", 1, ())
    asked = standin.asked(signature.EMBED_IMAGE_EACH)
    sizes = [len(request.inputs[signature.IMAGE_BYTES].string_val) for request in asked]
    assert sorted(sizes) == [3, 4, 4]
    assert {request.model_spec.version.value for request in asked} == {1}


def test_answers_do_not_depend_on_how_rows_are_cut(client: Client):
    images = [picture(colour) for colour in ("red", "blue", "purple", "orange", "pink")]
    together = client.embed_images(images).vectors
    alone = np.concatenate([client.embed_images([image]).vectors for image in images])
    np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_bounded_number_of_requests_is_under_way(standin: StandIn, in_flight: int):
    standin.delay = 0.05
    with Client(standin.address, in_flight=in_flight) as client:
        client.embed_images([picture("red")] * 40)
    assert standin.most_under_way == in_flight


def test_a_request_holds_a_bounded_number_of_bytes(standin: StandIn, client: Client, monkeypatch: pytest.MonkeyPatch):
    image = picture("red")
    monkeypatch.setattr(batches, "MAX_BYTES", 2 * len(image))
    assert len(client.embed_images([image] * 5)) == 5
    sizes = [len(request.inputs[signature.IMAGE_BYTES].string_val) for request in standin.requests[1:]]
    assert sorted(sizes) == [1, 2, 2]


def test_no_images_are_no_vectors(client: Client):
    assert client.embed_images([]).vectors.shape == (0, 8)
    assert client.embed_texts([]).vectors.shape == (0, 8)


def test_pixels_texts_and_any_other_signature(client: Client):
    pixels = np.zeros((5, RESOLUTION, RESOLUTION, 3), np.uint8)
    pixels[..., 1] = 200
    images = client.embed_pixels(pixels)
    texts = client.embed_texts(["a photo of a green", "a BLUE"])
    np.testing.assert_allclose(images.cosine(texts), [[1, 0]] * 5, atol=1e-6)
    features = client.predict(signature.FEATURES, {signature.PIXELS: pixels})
    assert features[signature.POOLED].shape == (5, 8)
    assert features[signature.TOKENS].shape == (5, 1, 8)


def test_classify(client: Client):
    found = client.classify([picture("blue"), picture("orange")], ["Red", "green", "blue"], ["a photo of a {}.", "{}"])
    assert [best[0][0] for best in found.top(1)] == ["blue", "Red"]
    assert [name for name, _ in found.top(9)[1]] == ["Red", "green", "blue"]
    assert found.scores.shape == (2, 3)


@pytest.mark.parametrize("without", [(), (signature.EMBED_IMAGE_EACH,)], ids=["each", "by halves"])
@pytest.mark.parametrize("on_error", ["skip", "return"])
def test_bad_images_harm_no_other(standin: StandIn, client: Client, tmp_path, without, on_error):
    standin.without = without
    good = tmp_path / "good.png"
    good.write_bytes(picture("blue"))
    images = [picture("red"), BAD, str(good), tmp_path / "missing.png", picture("green"), BAD, picture("red")]
    found = client.embed_images(images, on_error=on_error)
    assert [failure.index for failure in found.failures] == [1, 3, 5]
    assert "JPEG" in found.failures[0].reason
    assert found.failures[1].name == str(tmp_path / "missing.png")
    assert "No such file" in found.failures[1].reason
    rows = (0, 2, 4, 6) if on_error == "skip" else tuple(range(7))
    assert found.indices == rows
    assert found.names == tuple(
        str(good) if row == 2 else str(images[row]) if row == 3 else f"image {row}" for row in rows
    )
    expected = np.zeros((7, 8), np.float32)
    expected[[0, 2, 4, 6], [0, 2, 1, 0]] = 1
    np.testing.assert_array_equal(found.vectors, expected[list(rows)])


def test_bad_images_raise_by_default(client: Client):
    with pytest.raises(errors.ImageError, match=r"image 1 \(index 1\)") as caught:
        client.embed_images([picture("red"), BAD, picture("blue")])
    assert [failure.index for failure in caught.value.failures] == [1]
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        client.embed_images([BAD], on_error="ignore")


def test_an_unknown_model_and_version(standin: StandIn):
    with Client(standin.address, "nope") as client:
        with pytest.raises(errors.NotServedError, match=r"Servable not found .* give the name"):
            client.embed_images([picture("red")])
        with pytest.raises(errors.NotServedError):
            client.versions()
    with Client(standin.address, version=7) as client, pytest.raises(errors.NotServedError, match="7"):
        client.embed_images([picture("red")])


def test_a_model_of_others(standin: StandIn):
    standin.without = (signature.DESCRIBE,)
    with Client(standin.address) as client, pytest.raises(errors.RequestError, match=r"describe.*vit22b exported"):
        client.embed_images([picture("red")])


def test_a_server_without_the_method_is_named_as_such(standin: StandIn, client: Client):
    standin.refusals = [(grpc.StatusCode.UNIMPLEMENTED, "")]
    with pytest.raises(errors.RequestError, match="give the gRPC port of a TensorFlow Serving server"):
        client.describe()


def test_an_answer_that_lacks_an_output(standin: StandIn, client: Client, monkeypatch: pytest.MonkeyPatch):
    client.describe()
    monkeypatch.setattr(standin, "_outputs", lambda *_asked: {})
    with pytest.raises(
        errors.ServerError, match=r"cannot read the answer of embed_image_each: it has no embedding, ok"
    ):
        client.embed_images([picture("red")])


def test_errors_go_from_process_to_process(client: Client):
    with pytest.raises(errors.ImageError) as caught:
        client.embed_images([BAD])
    found = pickle.loads(pickle.dumps(caught.value))
    assert (type(found), str(found), vars(found)) == (errors.ImageError, str(caught.value), vars(caught.value))


@pytest.mark.parametrize(
    "options", [{"api_key": "key\n"}, {"timeout": float("inf")}, {"timeout": 0}, {"hedge_after": -1}, {"in_flight": 0}]
)
def test_options_that_cannot_be(options):
    with pytest.raises(ValueError, match=r"expected|the key alone"):
        Client(**options)


def test_a_signature_that_the_model_lacks(standin: StandIn, client: Client):
    with pytest.raises(errors.RequestError, match=r"no signature logits.*it has serving_default"):
        client.predict(signature.LOGITS, {signature.IMAGE_BYTES: [picture("red")]})
    standin.text = False
    with Client(standin.address) as other, pytest.raises(errors.RequestError, match="no text tower"):
        other.embed_texts(["a red"])


def test_a_version_that_is_unloaded_within_a_call_never_mixes_spaces(standin: StandIn, client: Client):
    standin.unloads_after = 3
    found = client.embed_images([picture("red")] * 20)
    assert (found.version, found.space_id, len(found)) == (2, "space-two", 20)
    assert (found.vectors[:, 0] == 1).all()
    assert client.describe().version == 2


def test_vectors_of_two_spaces_are_not_compared(standin: StandIn, client: Client):
    old = client.embed_images([picture("red")])
    standin.swap(2, "space-two")
    new = client.embed_images([picture("red")])
    assert (old.version, new.version) == (1, 2)
    with pytest.raises(ValueError, match="space-one and space-two"):
        old.cosine(new)


def test_an_answer_of_another_version_is_refused(standin: StandIn, client: Client):
    client.describe()
    standin.echoed_version = 9
    with pytest.raises(errors.SpaceError, match="version 1 was asked and 9 has answered"):
        client.embed_images([picture("red")])


def test_a_client_that_is_interrupted_is_not_closed_which_could_wait_for_ever(standin: StandIn):
    with pytest.raises(RuntimeError), Client(standin.address) as client:  # noqa: PT012
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("interrupted; what was done is kept") from error
    assert client.versions()
    client.close()
    with pytest.raises(RuntimeError), Client(standin.address) as client:
        raise RuntimeError("another error")
    with pytest.raises(ValueError, match="the client is closed"):
        client.versions()


def test_versions(standin: StandIn, client: Client):
    standin.swap(2, "space-two")
    new, old = client.versions()
    assert (new.version, new.state, new.message) == (2, "AVAILABLE", "")
    assert (old.version, old.state, old.message) == (1, "END", "no such file")


@pytest.mark.parametrize(
    "change", [{"model": ""}, {"timeout": 0}, {"in_flight": 0}, {"retry": None, "timeout": float("nan")}]
)
def test_wrong_arguments(change):
    with pytest.raises(ValueError, match=r"expected|empty"):
        Client("localhost:1", **change)


@pytest.mark.parametrize("images", ["a.png", b"bytes", [3], [np.zeros((4, 4, 3))]])
def test_what_is_no_list_of_images(client: Client, images):
    with pytest.raises(ValueError, match="expected"):
        client.embed_images(images)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"inputs \[\]; expected \['pixels'\]"),
        ({"images": np.zeros(1)}, r"expected \['pixels'\]"),
        ({"pixels": np.zeros((2, 4, 4, 3))}, r"pixels is float64 \[2, 4, 4, 3\]; expected uint8 \[n, 4, 4, 3\]"),
        ({"pixels": np.zeros((2, 5, 4, 3), np.uint8)}, r"uint8 \[2, 5, 4, 3\]; expected"),
        ({"pixels": np.zeros((4, 4, 3), np.uint8)}, r"uint8 \[4, 4, 3\]; expected"),
        ({"pixels": [b"png"]}, r"string \[1\]; expected"),
        ({"pixels": np.zeros((0, 4, 4, 3), np.uint8)}, "at least 1"),
    ],
)
def test_inputs_that_are_not_the_signature_s(client: Client, inputs, message):
    with pytest.raises(ValueError, match=message):
        client.predict(signature.FEATURES, inputs)


def test_classes_are_checked_before_anything_is_sent(unused_address: str):
    with Client(unused_address) as client, pytest.raises(ValueError, match="class list is empty"):
        client.classify([picture("red")], [])
