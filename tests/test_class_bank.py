"""The class bank and what is baked in with it; that the served scores are JAX's is shown in test_walk.py."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
from flax import nnx
from tensorflow.core.protobuf import saved_model_pb2

from export import class_bank
from export.class_bank import Classes
from tests.towers import HEAD, ZERO_SHOT, random_params
from vit22b import model, prompts
from vit22b.signature import ClassBank
from vit22b.tokenizer import train_tokenizer

BANK = ClassBank(("cat", "Great_Dane", "7"), ("a photo of a {}.", "{}"), 2)
TOKENIZER = train_tokenizer(["a photo of a cat", "the number seven"])
SIGMOID = dataclasses.replace(ZERO_SHOT, similarity="sigmoid")

pytestmark = pytest.mark.filterwarnings(
    # tf.saved_model.load's own code, as of TensorFlow 2.21.
    "ignore:.*:DeprecationWarning:tensorflow"
)


def test_the_bank_is_the_mean_of_the_prompts_vectors_whatever_the_size_of_a_run():
    seen = []

    def tower(token_ids):
        seen.append(tuple(token_ids.shape))
        x = tf.cast(token_ids, tf.float32)
        return {"embedding": tf.stack([tf.reduce_sum(x, 1), 1 + x[:, 0], tf.reduce_max(x, 1)], 1)}

    texts = [["a photo of a cat.", "cat"], ["a photo of a great dane.", "great dane"], ["a photo of a 7.", "7"]]
    expected = prompts.class_bank([tower(TOKENIZER.encode(row))["embedding"] for row in texts])
    seen.clear()
    for batch in (1, 4, 8):
        np.testing.assert_allclose(class_bank.embed(tower, TOKENIZER, BANK, batch), expected, atol=1e-6)
    assert seen == [(1, 16)] * 6 + [(4, 16)] * 2 + [(8, 16)]


@pytest.mark.parametrize("config", [ZERO_SHOT, SIGMOID])
def test_scores_are_what_the_model_was_trained_on(config):
    params = random_params(config)
    random = np.random.default_rng(0)
    images, classes = (jnp.asarray(random.standard_normal((n, 128)), jnp.float32) for n in (5, 3))
    tower = class_bank.tower(config, BANK)
    weights = {**params, class_bank.BANK: classes}
    scores = np.asarray(tower.function({part: weights[part] for part in tower.parts}, images)["scores"])
    assert scores.dtype == np.float32
    logits = np.asarray(nnx.merge(model.abstract(config)[0], params).similarity(images, classes), np.float64)
    probability = 1 / (1 + np.exp(-logits))
    if config is SIGMOID:
        np.testing.assert_allclose(scores, probability, rtol=1e-5, atol=1e-7)
    else:
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(np.log(scores[:, :1] / scores), logits[:, :1] - logits, atol=1e-3)


def test_the_best_come_first_and_of_equal_ones_the_first_of_the_list():
    answer = class_bank.best(tf.constant([[0.1, 0.7, 0.2], [0.4, 0.2, 0.4]]), tf.constant(["a", "b", "c"]), 2)
    np.testing.assert_allclose(answer["scores"], [[0.7, 0.2], [0.4, 0.4]])
    assert answer["classes"].numpy().tolist() == [[b"b", b"c"], [b"a", b"c"]]


def example(**features):
    values = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=value)) for name, value in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=values)).SerializeToString()


def test_an_example_holds_one_image():
    images = class_bank.images_of([example(image_bytes=[b"one"]), example(image_bytes=[b"\xff\0"], label=[b"cat"])])
    assert images.numpy().tolist() == [b"one", b"\xff\0"]


@pytest.mark.parametrize("bad", [example(image=[b"one"]), example(image_bytes=[b"one", b"two"]), b"no example"])
def test_what_holds_no_image_or_two_is_refused(bad):
    with pytest.raises(tf.errors.InvalidArgumentError):
        class_bank.images_of([example(image_bytes=[b"one"]), bad])


def test_only_the_method_of_the_signature_is_written(tmp_path):
    module = tf.Module()
    module.weight = tf.Variable(3.0)
    module.f = tf.function(lambda x: {"y": module.weight * x}, input_signature=[tf.TensorSpec([None], name="x")])
    tf.saved_model.save(module, str(tmp_path), signatures={"one": module.f, "two": module.f})

    def read():
        return saved_model_pb2.SavedModel.FromString((tmp_path / "saved_model.pb").read_bytes())

    before, fingerprint = read(), tf.saved_model.experimental.read_fingerprint(str(tmp_path))
    class_bank.write_methods(tmp_path, {"two": "tensorflow/serving/classify"})
    before.meta_graphs[0].signature_def["two"].method_name = "tensorflow/serving/classify"
    assert read() == before
    after = tf.saved_model.experimental.read_fingerprint(str(tmp_path))
    assert after.graph_def_program_hash == fingerprint.graph_def_program_hash
    assert after.signature_def_hash != fingerprint.signature_def_hash

    signatures = tf.saved_model.load(str(tmp_path)).signatures
    assert signatures["two"](x=tf.constant([2.0]))["y"].numpy().tolist() == [6.0]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
        two = meta.signature_def["two"]
        assert two.method_name == "tensorflow/serving/classify"
        assert session.run(two.outputs["y"].name, {two.inputs["x"].name: [2.0]}).tolist() == [6.0]


def test_the_classes_are_a_list_or_a_file_of_names(tmp_path):
    (tmp_path / "names.txt").write_text("cat\n\n Great_Dane \n7\n", encoding="utf-8")
    expected = ClassBank(("cat", "Great_Dane", "7"), ("a photo of a {}.",), 3)
    templates = ("a photo of a {}.",)
    assert Classes(("cat", "Great_Dane", "7"), templates=templates).bank(ZERO_SHOT) == expected
    found = Classes(classes_file=tmp_path / "names.txt", templates=templates, top=2).bank(ZERO_SHOT)
    assert found == dataclasses.replace(expected, top=2)
    assert Classes().bank(ZERO_SHOT) is None
    assert Classes().bank(HEAD) is None


@pytest.mark.parametrize(
    ("classes", "config", "message"),
    [
        (Classes(("cat",)), HEAD, "--classes needs a model with a text tower"),
        (Classes(("cat", "Cat")), ZERO_SHOT, "are one class; leave one out"),
        (Classes(("cat",), top=0), ZERO_SHOT, "--top is 0; expected at least 1"),
        (Classes(("cat",), templates=("a photo",)), ZERO_SHOT, "no template"),
    ],
)
def test_classes_that_cannot_be_are_an_error(classes, config, message):
    with pytest.raises(ValueError, match=message):
        classes.bank(config)


def test_an_empty_file_and_two_sources_are_an_error(tmp_path):
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(ValueError, match="the class list is empty"):
        Classes(classes_file=tmp_path / "names.txt").bank(ZERO_SHOT)
    with pytest.raises(ValueError, match="both --classes and --classes_file"):
        Classes(("cat",), tmp_path / "names.txt").bank(ZERO_SHOT)
