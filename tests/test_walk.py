"""One image through every hop: bytes, pixels, train state, checkpoint, SavedModel, server, client."""

import io
import json
from concurrent import futures

import grpc
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from flax import nnx
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from clients import zero_shot
from export import artefact
from tests.artefacts import CLASSES, FEATURE_LAYERS, TEMPLATES
from tests.pictures import encoded, huge, orientation, picture, sixteen_bit
from vit22b import model
from vit22b.checkpoint import load
from vit22b.client import Client
from vit22b.description import read_description
from vit22b.errors import VitError
from vit22b.folder import read_folder
from vit22b.image import image_batches
from vit22b.prompts import class_bank, prompts
from vit22b.signature import ClassBank
from vit22b.space import space_id
from vit22b.tokenizer import Tokenizer

pytestmark = pytest.mark.filterwarnings(
    # tf.saved_model.load's own code, as of TensorFlow 2.21.
    "ignore:.*:DeprecationWarning:tensorflow"
)


@pytest.fixture(scope="module")
def images():
    """Nine photos-like images of several sizes as JPEG and PNG files, none of the tower's own size."""
    random = np.random.default_rng(3)
    encoded = []
    for i in range(9):
        coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(coarse).resize((41 + 7 * i, 37), Image.Resampling.BICUBIC).save(buffer, ("JPEG", "PNG")[i % 2])
        encoded.append(buffer.getvalue())
    return encoded


@pytest.fixture(scope="module")
def pixels(images, tuned, tmp_path_factory):
    """What the training pipeline makes of their files."""
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{i}" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    return np.concatenate(list(image_batches(paths, read_description(tuned).preprocess, 4)))


@pytest.fixture(scope="module")
def network(tuned):
    trained = load(tuned)
    return nnx.merge(model.abstract(trained.description.config)[0], trained.params)


@pytest.fixture(scope="module")
def expected(network, pixels, tuned):
    """The answers of JAX, from the checkpoint."""
    values = model.normalise(jnp.asarray(pixels), read_description(tuned).preprocess)
    return jax.tree.map(np.asarray, nnx.jit(lambda net, x: net.embed_image(x, FEATURE_LAYERS))(network, values))


@pytest.fixture(scope="module")
def best(network, expected, tuned):
    """The three best classes of each image and their scores, from the checkpoint."""
    tokenizer = Tokenizer.from_json(read_description(tuned).tokenizer)
    rows = prompts(CLASSES, TEMPLATES)
    ids = jnp.asarray([tokenizer.encode(row) for row in rows])
    texts = network.embed_text(ids.reshape(-1, ids.shape[-1]))["embedding"]
    bank = class_bank(np.asarray(texts).reshape(len(rows), len(TEMPLATES), -1))
    scores = jax.nn.softmax(network.similarity(jnp.asarray(expected["embedding"]), jnp.asarray(bank)))
    order = np.argsort(-scores, axis=1, stable=True)[:, :3]
    return {
        "scores": np.take_along_axis(np.asarray(scores), order, axis=1),
        "classes": np.array([name.encode() for name in CLASSES], object)[order],
    }


def examples(images):
    """What the Classify API feeds: tf.Examples."""

    def example(image):
        feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
        return tf.train.Example(features=tf.train.Features(feature={"image_bytes": feature})).SerializeToString()

    return [example(image) for image in images]


@pytest.fixture(scope="module")
def exported(repository):
    return artefact.load(repository / "digits" / "1")[0]


def test_one_image_through_every_hop(images, pixels, expected, exported, served):
    one = images[:1]
    assert pixels.shape == (9, 28, 28, 3)
    embedding, logits = expected["embedding"][:1], expected["logits"][:1]
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
    assert np.ptp(logits) > 0  # a head of zeros would agree with anything

    saved = exported["embed_image"](image_bytes=tf.constant(one))
    np.testing.assert_allclose(saved["embedding"], embedding, atol=1e-5)
    np.testing.assert_allclose(exported["embed_pixels"](pixels=pixels[:1])["embedding"], embedding, atol=1e-5)
    np.testing.assert_allclose(exported["logits"](image_bytes=tf.constant(one))["logits"], logits, atol=1e-5)

    with grpc.insecure_channel(served.address) as channel:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = served.model
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(one))
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["embedding"]), embedding, atol=1e-5)

    with Client(served.address, served.model) as client:
        np.testing.assert_allclose(client.embed_images(one).vectors, embedding, atol=1e-5)
        np.testing.assert_allclose(client.embed_pixels(pixels[:1]).vectors, embedding, atol=1e-5)
        np.testing.assert_allclose(client.predict("logits", {"image_bytes": one})["logits"], logits, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_every_signature_of_images_equals_jax(batch, images, pixels, expected, best, exported):
    inputs = {"image_bytes": images, "pixels": pixels, "inputs": examples(images)}
    answers = {**expected, **best, "ok": np.ones(9, bool)}
    seen = set()
    for name in set(exported) - {"describe", "embed_text"}:
        (alias,) = exported[name].structured_input_signature[1]
        for output, value in exported[name](**{alias: tf.constant(inputs[alias][:batch])}).items():
            wanted = answers[output][:batch]
            if wanted.dtype == np.float32:
                np.testing.assert_allclose(value, wanted, atol=1e-5, rtol=1e-5, err_msg=f"{name}: {output}")
            else:
                np.testing.assert_array_equal(value, wanted, err_msg=f"{name}: {output}")
            seen.add(output)
    assert seen == set(answers)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_the_savedmodels_texts_equal_jax(batch, network, exported):
    ids = np.random.default_rng(0).integers(0, 258, (batch, 16)).astype(np.int32)
    answer = exported["embed_text"](token_ids=ids)["embedding"]
    np.testing.assert_allclose(answer, network.embed_text(jnp.asarray(ids))["embedding"], atol=1e-5)


def test_the_official_stubs_get_the_same_vectors_as_our_client(images, served):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = served.model
    request.model_spec.signature_name = "embed_image"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(images[:8]))
    with grpc.insecure_channel(served.address) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
    with Client(served.address, served.model) as client:
        np.testing.assert_array_equal(
            client.embed_images(images[:8]).vectors, tf.make_ndarray(response.outputs["embedding"])
        )


def test_more_images_than_a_request_takes_are_split_and_answered_in_order(images, expected, served):
    with Client(served.address, served.model) as client:
        vectors = client.embed_images(images * 5).vectors  # 45, and a request takes 8
    np.testing.assert_allclose(vectors, np.tile(expected["embedding"], (5, 1)), atol=1e-5)


def test_a_bad_image_is_named_and_harms_no_other(images, expected, served):
    with_bad = [*images[:4], b"no image", *images[4:]]
    with Client(served.address, served.model) as client:
        found = client.embed_images(with_bad, on_error="skip")
        assert [failure.index for failure in found.failures] == [4]
        np.testing.assert_allclose(found.vectors, expected["embedding"], atol=1e-5)
        with pytest.raises(VitError, match="image 4"):
            client.embed_images(with_bad)


@pytest.mark.parametrize(("name", "output"), [("embed_image", "embedding"), ("classify", "scores")])
def test_of_concurrent_requests_only_the_one_with_a_bad_image_fails(name, output, images, expected, best, served):
    """They are joined to batches inside the graph; embed_image, which every server has, refuses the bad one by name."""

    def ask(i):
        with Client(served.address, served.model) as client:
            image = b"no image" if i == 3 else images[i % 9]
            return client.predict(name, {"image_bytes": [image]})[output][0]

    with futures.ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(ask, i) for i in range(24)]
    assert [i for i, answer in enumerate(answers) if answer.exception()] == [3]
    with pytest.raises(VitError, match=r"rows \[0\] of 1 cannot be decoded"):
        answers[3].result()
    for i, answer in enumerate(answers):
        if i != 3:
            np.testing.assert_allclose(answer.result(), (expected | best)[output][i % 9], atol=1e-5)


FILES = {
    "JPEG": encoded(picture(), "JPEG"),
    "JPEG, grey": encoded(picture("L"), "JPEG"),
    "JPEG, CMYK": encoded(picture("CMYK"), "JPEG"),
    "JPEG, turned by EXIF": encoded(picture(), "JPEG", exif=orientation(6)),
    "PNG, 16 bits": encoded(sixteen_bit(), "PNG"),
    "PNG, transparent": encoded(picture("RGBA"), "PNG"),
    "WebP": encoded(picture(), "WEBP"),
    "GIF of two frames": encoded(picture(), "GIF", save_all=True, append_images=[picture().rotate(180)]),
    "BMP": encoded(picture(), "BMP"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_is_served_as_the_training_pipeline_reads_it(name, exported, tuned, tmp_path):
    (tmp_path / "file").write_bytes(FILES[name])
    (pixels,) = image_batches([tmp_path / "file"], read_description(tuned).preprocess, 1)
    served = exported["embed_image"](image_bytes=tf.constant([FILES[name]]))["embedding"]
    np.testing.assert_array_equal(served, exported["embed_pixels"](pixels=pixels)["embedding"])


def test_bad_rows_are_named_and_the_good_ones_are_answered_where_that_is_asked(images, expected, exported):
    """Beyond the cap of pixels, cut off, and no image at all."""
    rows = [images[0], huge("PNG"), images[2], images[1][:-20], b"no image"]
    for name in ("serving_default", "embed_image", "logits", "classify"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"rows \[1 3 4\] of 5 cannot be decoded"):
            exported[name](image_bytes=tf.constant(rows))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"rows \[1 3 4\] of 5 cannot be decoded"):
        exported["classify_examples"](inputs=tf.constant(examples(rows)))
    answer = exported["embed_image_each"](image_bytes=tf.constant(rows))
    good = [True, False, True, False, False]
    assert answer["ok"].numpy().tolist() == good
    wanted = np.where(np.array(good)[:, None], expected["embedding"][[0, 0, 2, 0, 0]], 0)
    np.testing.assert_allclose(answer["embedding"], wanted, atol=1e-5)


def test_classes_are_answered_over_both_apis(images, best, served, repository):
    """The Classify API runs the session on `inputs`, as Predict does, and takes `classes` and `scores` as they come."""
    with Client(served.address, served.model) as client:
        manifest = client.describe().manifest
        found = client.predict("classify", {"image_bytes": images})  # nine, and a request takes eight
    assert manifest.class_bank == ClassBank(CLASSES, TEMPLATES, 3)
    np.testing.assert_array_equal(found["classes"], best["classes"])
    np.testing.assert_allclose(found["scores"], best["scores"], atol=1e-5)

    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = served.model, "classify_examples"
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto(examples(images[:8])))
    with grpc.insecure_channel(served.address) as channel:
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["classes"]), best["classes"][:8])

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(repository / "digits" / "1"))
        api = meta.signature_def["classify_examples"]
        assert api.method_name == tf.compat.v1.saved_model.signature_constants.CLASSIFY_METHOD_NAME
        fetches = {alias: info.name for alias, info in api.outputs.items()}
        answer = session.run(fetches, {api.inputs["inputs"].name: examples(images[:3])})
    np.testing.assert_array_equal(answer["classes"], best["classes"][:3])
    np.testing.assert_allclose(answer["scores"], best["scores"][:3], atol=1e-5)


def test_texts_go_through_the_served_tokenizer(network, tuned, served):
    with Client(served.address, served.model) as client:
        found = client.embed_texts(["the digit seven", "Zwei"])
        ids = client.describe().tokenizer.encode(["the digit seven", "Zwei"])
    np.testing.assert_allclose(found.vectors, network.embed_text(jnp.asarray(ids))["embedding"], atol=1e-5)
    assert client.describe().tokenizer.to_json() == read_description(tuned).tokenizer


def test_checkpoint_manifest_and_client_agree_on_the_space(network, tuned, exported, served):
    description = read_description(tuned)
    params = nnx.to_pure_dict(nnx.state(network))
    mine = space_id(params, description.preprocess, description.config, description.tokenizer)
    manifest = json.loads(exported["describe"]()["manifest"].numpy())
    with Client(served.address, served.model) as client:
        assert client.describe().manifest.space_id == manifest["space_id"] == mine


def test_zero_shot_counts_what_jax_counts(digits, network, tuned, served, tmp_path, run_program):
    """The program's predictions are those of the checkpoint, worked out here without the server."""
    output = tmp_path / "report.json"
    arguments = (digits / "heldout", "--templates", "digits", "--output", output, "--sheet", tmp_path / "sheet.png")
    server = ("--address", served.address, "--model", served.model)
    assert run_program(zero_shot.main, zero_shot.Arguments, *arguments, *server) == 0
    report = json.loads(output.read_text())

    description = read_description(tuned)
    folder = read_folder(digits / "heldout")
    pixels = np.concatenate(
        list(image_batches([record.path for record in folder.records], description.preprocess, 100))
    )
    images = network.image(model.normalise(jnp.asarray(pixels), description.preprocess))["embedding"]
    with Client(served.address, served.model) as client:
        tokenizer = client.describe().tokenizer
    texts = tokenizer.encode([f"an image of the handwritten number {name}." for name in folder.labels])
    best = np.argmax(images @ network.embed_text(jnp.asarray(texts))["embedding"].T, axis=1)
    top1 = np.mean([folder.labels[i] in record.labels for i, record in zip(best, folder.records, strict=True)])
    assert report["zero_shot_top1"] == pytest.approx(top1, abs=0.011)  # one tie of 100 may fall to the other side
    assert report["n"] == 100
    assert report["chance"] == 0.1
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 200
