import dataclasses
import json

import pytest

from tests.manifests import HEAD, PLAIN, ZERO_SHOT, manifest
from vit22b import signature
from vit22b.config import Preprocess
from vit22b.signature import Manifest, Tensor, signatures

ALWAYS = {"serving_default", "embed_image", "embed_image_each", "embed_pixels", "features", "describe"}


@pytest.mark.parametrize(
    ("config", "further"),
    [
        (PLAIN, set()),
        (HEAD, {"logits", "logits_pixels"}),
        (dataclasses.replace(ZERO_SHOT, classes=0), {"embed_text"}),
        (ZERO_SHOT, {"logits", "logits_pixels", "embed_text"}),
    ],
)
def test_a_head_and_a_text_tower_add_their_signatures(config, further):
    assert set(signatures(config, Preprocess(28))) == ALWAYS | further


def test_the_signatures_are_those_of_the_contract():
    table = signatures(ZERO_SHOT, Preprocess(56))
    text, pixels = {"image_bytes": Tensor("string", (None,))}, {"pixels": Tensor("uint8", (None, 56, 56, 3))}
    embedding = {"embedding": Tensor("float32", (None, 128))}
    logits = {"logits": Tensor("float32", (None, 10))}
    assert table["serving_default"] == table["embed_image"]
    found = {name: (s.inputs, s.outputs) for name, s in table.items()}
    assert found == {
        "serving_default": (text, embedding),
        "embed_image": (text, embedding),
        "embed_image_each": (text, {**embedding, "ok": Tensor("bool", (None,))}),
        "embed_pixels": (pixels, embedding),
        # Another resolution than the configuration's has its own number of tokens.
        "features": (pixels, {"pooled": Tensor("float32", (None, 128)), "tokens": Tensor("float32", (None, 196, 128))}),
        "describe": ({}, {"manifest": Tensor("string", ()), "tokenizer": Tensor("string", ())}),
        "logits": (text, logits),
        "logits_pixels": (pixels, logits),
        "embed_text": ({"token_ids": Tensor("int32", (None, 16))}, embedding),
    }


def test_only_describe_has_no_batch():
    for name, entry in signatures(ZERO_SHOT, Preprocess(28)).items():
        batched = [tensor.shape[:1] == (None,) for tensor in (entry.inputs | entry.outputs).values()]
        assert all(batched) if name != signature.DESCRIBE else not any(batched)


@pytest.mark.parametrize("config", [PLAIN, ZERO_SHOT])
@pytest.mark.parametrize("encode", [str, str.encode])
def test_a_manifest_makes_the_round_trip(config, encode):
    first = manifest(config, hashes={"saved_model.pb": "00"}, git_revision="abc")
    assert Manifest.from_json(encode(first.to_json())) == first


def test_the_fields_of_format_version_1_are_frozen():
    assert set(json.loads(manifest().to_json())) == {
        "space_id", "config", "preprocess", "labels", "signatures", "batch_sizes", "batching", "weights", "platforms",
        "step", "source", "versions", "xla_call_module_version", "exported_on", "loads_until", "git_revision",
        "hashes", "format_version",
    }  # fmt: skip
    assert json.loads(manifest().to_json())["format_version"] == 1


def test_a_reader_passes_over_a_field_that_it_does_not_know():
    values = json.loads(manifest().to_json()) | {"sunset": "2031-01-01", "flavours": [1, 2]}
    values["config"]["image"]["registers"] = 4
    values["preprocess"]["colour"] = "srgb"
    assert Manifest.from_json(json.dumps(values)) == manifest()


def test_another_format_version_is_an_error_with_the_remedy():
    values = json.loads(manifest().to_json()) | {"format_version": 2}
    with pytest.raises(ValueError, match="format version 2, this vit22b reads 1; export the model again, or install"):
        Manifest.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"a"', "{}", b"\xff\xfe", '{"step": 1}'])
def test_what_is_no_manifest_is_an_error(text):
    with pytest.raises(ValueError, match="not a vit22b manifest"):
        Manifest.from_json(text)


@pytest.mark.parametrize("field", ["config", "preprocess"])
def test_a_field_that_is_no_object_is_an_error(field):
    values = json.loads(manifest().to_json()) | {field: 7}
    with pytest.raises(ValueError, match="is 7; expected an object"):
        Manifest.from_json(json.dumps(values))


@pytest.mark.parametrize("field", ["config", "preprocess", "space_id", "batch_sizes", "loads_until"])
def test_a_missing_field_is_named(field):
    values = json.loads(manifest().to_json())
    del values[field]
    with pytest.raises(ValueError, match=f"lacks '?{field}"):
        Manifest.from_json(json.dumps(values))
