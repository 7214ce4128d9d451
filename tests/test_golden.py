import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from export import golden
from tests import manifests
from tests.towers import HEAD, PREPROCESS, ZERO_SHOT
from vit22b import image
from vit22b.signature import ClassBank, signatures
from vit22b.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["a photo of a cat", "the number seven"])
SIZES = (1, 2, 4)


def manifest(config=ZERO_SHOT):
    bank = ClassBank(("cat", "dog"), ("a {}.",), 2) if config.text else None
    names = tuple(signatures(config, PREPROCESS, (1,), bank))
    return manifests.manifest(config, batch_sizes=SIZES, signatures=names, feature_layers=(1,), class_bank=bank)


@pytest.fixture(scope="module")
def requests():
    return list(golden.requests(manifest(), TOKENIZER.to_json(), "digits"))


def arrays(request):
    return {key: tf.make_ndarray(proto) for key, proto in request.inputs.items()}


def batch(request):
    return {len(value) for value in arrays(request).values()}


def test_every_signature_is_asked_at_every_batch_size(requests):
    table = manifest().contract()
    asked = [(request.model_spec.signature_name, *batch(request)) for request in requests]
    expected = [(name, size) for name in table if name != "describe" for size in SIZES]
    assert sorted(asked) == sorted([*expected, ("describe",)])
    assert {request.model_spec.name for request in requests} == {"digits"}


def test_the_inputs_are_those_of_the_signature(requests):
    table = manifest().contract()
    for request in requests:
        inputs = table[request.model_spec.signature_name].inputs
        assert set(request.inputs) == set(inputs)
        for key, value in arrays(request).items():
            assert tf.as_dtype(request.inputs[key].dtype).name == inputs[key].dtype
            assert value.shape[1:] == inputs[key].shape[1:]


def test_the_images_are_real_files_of_the_very_pixels(requests):
    by_name = {(request.model_spec.signature_name, *batch(request)): arrays(request) for request in requests}
    pixels = by_name["embed_pixels", 4]["pixels"]
    files = by_name["embed_image", 4]["image_bytes"]
    for row, file in zip(pixels, files, strict=True):
        np.testing.assert_array_equal(image.preprocess_bytes(file, PREPROCESS), row)
    assert len({row.tobytes() for row in pixels}) == 4
    assert pixels.std() > 10


def test_the_texts_are_the_tokenizers(requests):
    found = next(r for r in requests if (r.model_spec.signature_name, *batch(r)) == ("embed_text", 4))
    ids = arrays(found)["token_ids"]
    np.testing.assert_array_equal(ids[:1], TOKENIZER.encode(["a photo of a cat."]))
    assert len({row.tobytes() for row in ids}) == 4


def test_the_requests_are_the_same_every_time(requests):
    again = golden.requests(manifest(), TOKENIZER.to_json(), "digits")
    assert [r.SerializeToString(deterministic=True) for r in again] == [
        r.SerializeToString(deterministic=True) for r in requests
    ]


def test_tokens_are_answered_at_batch_1_only(requests):
    wanted = {tuple(batch(r)): list(r.output_filter) for r in requests if r.model_spec.signature_name == "features"}
    assert wanted == {(1,): [], (2,): ["pooled"], (4,): ["pooled"]}


def test_tokens_are_answered_at_the_smallest_size_where_1_is_not_allowed():
    wanted = golden.requests(dataclasses.replace(manifest(HEAD), batch_sizes=(4, 8)), "", "digits")
    found = {tuple(batch(r)): list(r.output_filter) for r in wanted if r.model_spec.signature_name == "features"}
    assert found == {(4,): [], (8,): ["pooled"]}


def test_names_of_classes_which_have_no_tolerance_are_not_recorded(requests):
    wanted = {r.model_spec.signature_name: list(r.output_filter) for r in requests if "class" in str(r.model_spec)}
    assert wanted == {"classify": ["scores"], "classify_examples": ["scores"]}


def test_the_examples_hold_the_images_of_the_other_requests(requests):
    by_name = {(request.model_spec.signature_name, *batch(request)): arrays(request) for request in requests}
    found = by_name["classify_examples", 4]["inputs"]
    feature = [tf.train.Example.FromString(row).features.feature["image_bytes"].bytes_list.value[0] for row in found]
    np.testing.assert_array_equal(feature, by_name["embed_image", 4]["image_bytes"])


def test_a_model_without_text_tower_needs_no_tokenizer():
    names = {request.model_spec.signature_name for request in golden.requests(manifest(HEAD), "", "digits")}
    assert names == set(signatures(HEAD, PREPROCESS))


def test_an_answer_has_the_outputs_that_were_asked_for(requests):
    @tf.function
    def features(pixels):
        value = tf.cast(pixels, tf.float32)
        return {"tokens": value, "pooled": tf.reduce_mean(value, axis=(1, 2))}

    for request in (r for r in requests if r.model_spec.signature_name == "features"):
        response = golden.answer({"features": features}, request)
        pixels = arrays(request)["pixels"].astype(np.float32)
        assert set(response.outputs) == ({"tokens", "pooled"} if len(pixels) == 1 else {"pooled"})
        np.testing.assert_allclose(golden.outputs(response)["pooled"], pixels.mean(axis=(1, 2)), rtol=1e-5)
        assert response.model_spec == request.model_spec


def test_strings_go_in_and_come_out(requests):
    request = next(r for r in requests if r.model_spec.signature_name == "embed_image")
    response = golden.answer({"embed_image": lambda image_bytes: {"embedding": image_bytes}}, request)
    np.testing.assert_array_equal(golden.outputs(response)["embedding"], arrays(request)["image_bytes"])


def test_the_file_makes_the_round_trip(requests, tmp_path):
    logs = [prediction_log_pb2.PredictLog(request=request) for request in requests]
    logs[0].response.outputs["embedding"].CopyFrom(tf.make_tensor_proto(np.ones((1, 128), np.float32)))
    path = tmp_path / "assets.extra" / "requests"
    golden.write(path, logs)
    assert golden.read(path) == logs


def test_a_missing_file_is_an_error_with_the_remedy(tmp_path):
    path = tmp_path / "1" / "assets.extra" / "requests"
    with pytest.raises(ValueError, match=f"{path} is missing: {tmp_path}/1 has no golden requests; export the model"):
        golden.read(path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "another message"])
def test_a_damaged_file_is_an_error_with_the_remedy(requests, tmp_path, damage):
    path = tmp_path / "requests"
    golden.write(path, [prediction_log_pb2.PredictLog(request=requests[0])])
    whole = path.read_bytes()
    if damage == "another message":
        with tf.io.TFRecordWriter(str(path)) as writer:
            writer.write(b"\xff\xff\xff")
    else:
        flipped = bytes([*whole[:40], whole[40] ^ 1, *whole[41:]])
        path.write_bytes({"cut": whole[:-9], "flipped": flipped, "empty": b"", "text": b"not a record"}[damage])
    with pytest.raises(ValueError, match=f"{path} is damaged: .*; export the model again"):
        golden.read(path)
