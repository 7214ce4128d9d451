import dataclasses
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from export import precision, to_savedmodel
from export.batching import Batching
from export.class_bank import Classes
from export.numerics import Limit, Settings, measure, measure_apart
from export.precision import compare
from vit22b import prompts, signature
from vit22b.checkpoint import load
from vit22b.quantised import TOLERANCES
from vit22b.signature import Manifest
from vit22b.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def version(artefacts, tuned, digits):
    """An int8 export of `tuned`, measured on the first digits that it never saw."""
    to_savedmodel.export(
        to_savedmodel.Settings(
            checkpoint=tuned,
            output=artefacts / "small" / "digits",
            weights="int8",
            limit=Limit(numerics_images=digits / "heldout"),
            platforms=("cpu",),
            classes=Classes(("zero", "one", "two"), templates=("digits",), top=1),
            batching=Batching(sizes=(1, 8)),
        )
    )
    return artefacts / "small" / "digits" / "1"


def manifest_of(version):
    return Manifest.from_json((version / signature.MANIFEST_FILE).read_text())


@pytest.mark.slow
def test_the_manifest_says_how_far_the_version_is_from_float32(version, tuned):
    manifest = manifest_of(version)
    assert manifest.weights == "int8"
    assert manifest.compatible_with == (load(tuned).space_id,)
    assert manifest.space_id not in manifest.compatible_with
    assert manifest.tolerance == TOLERANCES["int8"]
    found = manifest.numerics
    assert (found["images"], found["source"]) == (64, "heldout")
    assert 0.999 < found["cosine_min"] <= found["cosine_mean"] < 1
    assert 0.9 < found["top1_agreement"] <= 1


def embed_texts(signatures, checkpoint, texts):
    ids = Tokenizer.from_json(load(checkpoint).description.tokenizer).encode(texts)
    return np.concatenate(
        [signatures[signature.EMBED_TEXT](token_ids=tf.constant(row[None]))[signature.EMBEDDING] for row in ids]
    )


@pytest.mark.slow
def test_the_figures_are_those_of_the_two_models_answers(version, tuned):
    """The best classes of the version are those of its signature, and float32's are those of the checkpoint."""
    manifest, signatures = manifest_of(version), tf.saved_model.load(str(version)).signatures
    pictures = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), np.uint8)
    images = [tf.io.encode_png(picture).numpy() for picture in pictures]
    got = precision.of_version(signatures, manifest, images)
    direct = signatures[signature.EMBED_PIXELS](pixels=tf.constant(pictures))[signature.EMBEDDING]
    np.testing.assert_allclose(got["embedding"], direct, rtol=0, atol=1e-5)
    bank = prompts.embedded(
        ("zero", "one", "two"),
        manifest.class_bank.templates,
        lambda texts: embed_texts(signatures, tuned, texts),
    )
    names = np.array([b"zero", b"one", b"two"], object)
    np.testing.assert_array_equal(got["best"], names[(got["embedding"] @ bank.T).argmax(axis=-1)])
    expected = precision.of_float32(load(tuned), manifest, images)
    assert np.sum(expected["embedding"] * got["embedding"], axis=-1).min() > 0.999
    assert np.mean(expected["best"] == got["best"]) > 0.5
    cosines = np.sum(expected["text_embedding"] * got["text_embedding"], axis=-1)
    assert cosines.shape == (8,)
    assert 0.999 < cosines.min() < 1


@pytest.mark.slow
def test_without_classes_the_head_says_the_best_class(version, tuned):
    manifest, signatures = manifest_of(version), tf.saved_model.load(str(version)).signatures
    headed = dataclasses.replace(manifest, class_bank=None)
    others = {name: each for name, each in signatures.items() if name != signature.CLASSIFY}
    image = tf.io.encode_png(np.zeros((28, 28, 3), np.uint8)).numpy()
    got = precision.of_version(others, headed, [image])
    expected = precision.of_float32(load(tuned), headed, [image])
    assert got["best"].dtype == expected["best"].dtype == np.int64
    np.testing.assert_array_equal(got["best"], expected["best"])


@pytest.mark.slow
def test_an_error_over_the_limit_is_named_with_the_remedy(version, tuned, capsys):
    settings = Settings(version, tuned, limit=Limit(max_error=1e-12))
    assert measure(settings) == 1
    out, error = capsys.readouterr()
    assert "8 images (parts of two photographs)" in out
    assert "--numerics_images DIR measures on the images that the model is for" in out
    assert re.search(r"weights in int8 turn an embedding by .* --max_error is 1e-12; .*--weights bfloat16", error)
    assert manifest_of(version).numerics["source"] == "parts of two photographs"
    with pytest.raises(ChildProcessError, match=r"over --max_error .*: it was not written"):
        measure_apart(version, tuned, "auto", Limit(max_error=1e-12))


@pytest.mark.slow
def test_another_checkpoint_than_the_versions_is_refused(version, tuned, tmp_path, run_program, capsys):
    copy = shutil.copytree(version, tmp_path / "1")
    path = copy / signature.MANIFEST_FILE
    before = dataclasses.replace(manifest_of(version), compatible_with=("0123",)).to_json()
    path.write_text(before)
    assert run_program(measure, Settings, copy, "--checkpoint", tuned) == 2
    told = capsys.readouterr().err
    assert f"have the space {load(tuned).space_id}, " in told
    assert f"was made of one of {manifest_of(version).space_id}, 0123; name the step" in told
    assert path.read_text() == before


@pytest.mark.parametrize("limit", [-0.1, float("nan")])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match=f"--max_error is {limit}; expected a number of 0 or more, such as 0.01"):
        Limit(max_error=limit)


def test_what_is_no_number_is_over_every_limit():
    rows = {"embedding": np.full((1, 4), np.nan, np.float32)}
    assert not 1 - compare(rows, rows)["cosine_min"] <= 1


def test_figures_of_known_vectors():
    one = {"embedding": np.float32([[1, 0], [0, 1]]), "best": np.array([1, 2])}
    other = {"embedding": np.float32([[0.6, 0.8], [0, 1]]), "best": np.array([1, 3])}
    found = compare(one, other)
    assert found == {
        "cosine_min": pytest.approx(0.6),
        "cosine_mean": pytest.approx(0.8),
        "top1_agreement": 0.5,
        "text_cosine_min": None,
    }
    assert compare({"embedding": one["embedding"]}, {"embedding": other["embedding"]})["top1_agreement"] is None
    longer = {"embedding": 2 * one["embedding"], "text_embedding": one["embedding"]}
    found = compare(longer, {"embedding": one["embedding"], "text_embedding": other["embedding"]})
    assert (found["cosine_min"], found["text_cosine_min"]) == (1, pytest.approx(0.6))
