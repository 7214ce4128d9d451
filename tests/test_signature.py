import dataclasses
import json

import pytest

from tests.manifests import HEAD, PLAIN, ZERO_SHOT, manifest
from vit22b import signature
from vit22b.preprocess import Preprocess
from vit22b.signature import ClassBank, Manifest, Signature, Tensor, signatures

BANK = ClassBank(("cat", "great dane"), ("a photo of a {}.",), 2)
ALWAYS = {"serving_default", "embed_image", "embed_image_each", "embed_pixels", "features", "features_each", "describe"}


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
        "features_each": (
            text,
            {
                "pooled": Tensor("float32", (None, 128)),
                "tokens": Tensor("float32", (None, 196, 128)),
                "ok": Tensor("bool", (None,)),
            },
        ),
        "describe": ({}, {"manifest": Tensor("string", ()), "tokenizer": Tensor("string", ())}),
        "logits": (text, logits),
        "logits_pixels": (pixels, logits),
        "embed_text": ({"token_ids": Tensor("int32", (None, 16))}, embedding),
    }


def test_layers_that_are_asked_for_are_outputs_of_features():
    plain = signatures(ZERO_SHOT, Preprocess(28))
    table = signatures(ZERO_SHOT, Preprocess(28), feature_layers=(3, 0))
    tokens = plain["features"].outputs["tokens"]
    assert table["features"].outputs == plain["features"].outputs | {"tokens_3": tokens, "tokens_0": tokens}
    assert table | {name: plain[name] for name in ("features", "features_each")} == plain


def test_a_class_bank_adds_a_signature_for_each_of_the_two_apis():
    plain = signatures(ZERO_SHOT, Preprocess(28))
    table = signatures(ZERO_SHOT, Preprocess(28), class_bank=BANK)
    best = {"scores": Tensor("float32", (None, 2)), "classes": Tensor("string", (None, 2))}
    assert {name: entry for name, entry in table.items() if name not in plain} == {
        "classify": Signature({"image_bytes": Tensor("string", (None,))}, best),
        "classify_examples": Signature(
            {"inputs": Tensor("string", (None,))}, best, method="tensorflow/serving/classify"
        ),
    }
    assert {entry.method for entry in plain.values()} == {"tensorflow/serving/predict"}


def test_the_manifests_contract_is_what_its_fields_decide():
    given = manifest(feature_layers=(2,), class_bank=BANK)
    table = signatures(ZERO_SHOT, Preprocess(28), (2,), BANK)
    assert dataclasses.replace(given, signatures=tuple(table)).contract() == table
    one = dataclasses.replace(given, signatures=("features", "a signature of a later vit22b"))
    assert one.contract() == {"features": table["features"]}


def test_only_describe_has_no_batch():
    for name, entry in signatures(ZERO_SHOT, Preprocess(28), (1,), BANK).items():
        batched = [tensor.shape[:1] == (None,) for tensor in (entry.inputs | entry.outputs).values()]
        assert all(batched) if name != signature.DESCRIBE else not any(batched)


@pytest.mark.parametrize("config", [PLAIN, ZERO_SHOT])
@pytest.mark.parametrize("encode", [str, str.encode])
def test_a_manifest_makes_the_round_trip(config, encode):
    first = manifest(config, hashes={"saved_model.pb": "00"}, git_revision="abc")
    assert Manifest.from_json(encode(first.to_json())) == first


def test_the_fields_that_came_later_make_the_round_trip():
    first = manifest(
        compatible_with=("fedcba9876543210",),
        numerics={"images": 64, "cosine_min": 0.5, "cosine_mean": 0.75, "top1_agreement": None},
        tolerance=0.03,
        feature_layers=(3, 7),
        class_bank=BANK,
        target="tpu",
        format="stablehlo",
        mesh={"model": 8},
        golden="none",
    )
    assert Manifest.from_json(first.to_json()) == first


def test_a_manifest_from_before_they_came_is_read():
    values = json.loads(manifest().to_json())
    later = ("compatible_with", "numerics", "tolerance", "feature_layers", "class_bank", "target", "format", "mesh")
    for name in (*later, "golden", "stablehlo_version"):
        del values[name]
    assert Manifest.from_json(json.dumps(values)) == manifest()


def test_the_fields_of_format_version_1_are_frozen():
    assert set(json.loads(manifest().to_json())) == {
        "space_id", "config", "preprocess", "labels", "signatures", "batch_sizes", "batching", "weights", "platforms",
        "step", "source", "versions", "xla_call_module_version", "exported_on", "loads_until", "git_revision",
        "hashes", "format_version", "compatible_with", "numerics", "tolerance", "feature_layers", "class_bank",
        "target", "format", "mesh", "golden", "stablehlo_version",
    }  # fmt: skip
    assert json.loads(manifest().to_json())["format_version"] == 1


def test_a_reader_passes_over_a_field_that_it_does_not_know():
    first = manifest(class_bank=BANK)
    values = json.loads(first.to_json()) | {"sunset": "2031-01-01", "flavours": [1, 2]}
    values["config"]["image"]["flavour"] = 4
    values["preprocess"]["colour"] = "srgb"
    values["class_bank"]["threshold"] = 0.5
    assert Manifest.from_json(json.dumps(values)) == first


def test_another_format_version_is_an_error_with_the_remedy():
    values = json.loads(manifest().to_json()) | {"format_version": 2}
    with pytest.raises(ValueError, match="format version 2, this vit22b reads 1; export the model again, or install"):
        Manifest.from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"a"', "{}", b"\xff\xfe", '{"step": 1}'])
def test_what_is_no_manifest_is_an_error(text):
    with pytest.raises(ValueError, match="not a vit22b manifest"):
        Manifest.from_json(text)


@pytest.mark.parametrize("field", ["config", "preprocess", "class_bank"])
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
