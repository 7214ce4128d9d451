import dataclasses
import re

import jax
import pytest

from export import model_card, to_savedmodel
from export.artefact import check_hashes, read_manifest
from export.model_card import CARD_FILE, card
from export.stablehlo import Format
from tests import sample_reports
from train.checkpoint_tower import CheckpointTower
from train.reports import document, facts
from vit22b.checkpoint import Checkpoints, load
from vit22b.description import read_description
from vit22b.report_rows import read_rows
from vit22b.stored_layers import open_layers


@pytest.fixture(scope="module")
def layers(tuned):
    return open_layers(tuned)


@pytest.fixture(scope="module")
def manifest(repository):
    return read_manifest(repository / "digits" / "1")


@pytest.fixture
def written(tmp_path):
    """Writes the sample report as one of a model with some space_id, and a head; its path."""

    def write(space_id, head=None):
        report = sample_reports.report()
        model = dataclasses.replace(report.model, space_id=space_id, head=head)
        document.write(dataclasses.replace(report, model=model), tmp_path / "report.json")
        return tmp_path / "report.json"

    return write


def test_a_version_has_a_card_that_no_hash_covers(repository, manifest):
    version = repository / "digits" / "1"
    text = (version / CARD_FILE).read_text()
    assert text.startswith("# digits\n")
    assert f"in the space {manifest.space_id}" in text
    assert "mu: width 128, 4 layers, MLP 512, 8 heads" in text
    assert CARD_FILE not in manifest.hashes
    check_hashes(version, manifest)
    (version / CARD_FILE).write_text(text)


def test_it_says_what_every_run_learnt_from(manifest, layers, tuned):
    text = "\n".join(card("digits", manifest, layers, None))
    space = read_description(tuned).source["space_id"]
    lit, pretrain = re.findall(r"^- (?:Locked|Training).*", text, flags=re.M)
    assert lit == (
        f"- Locked-image tuning from the checkpoint of space {space} on 400 examples, 12 steps of 64, seed 0."
    )
    assert pretrain == "- Training from random weights on 400 examples, 12 steps of 32, seed 0."
    assert "  - a source of 400 records " in text
    assert "optimizer.peak 0.001" in text
    assert "the examples that are counted above" in text
    assert "not measured" in text


def test_its_figures_are_the_reports_with_the_protocols_ids(manifest, layers, written):
    report = read_rows(written(manifest.space_id))
    text = "\n".join(card("digits", manifest, layers, report))
    assert (
        "| linear-probe/1 | emoji | top1 (classifier sgd, chosen.learning\\_rate 0.1) | 0.7500 | 0.6600 to 0.8400 |"
        in text
    )
    assert "| segmentation/1 | cut\\_outs (synthetic) | mIoU" in text
    assert "put together by a program" in text
    assert "Differences between groups of people were not measured." in text
    assert "in float32, space" not in text


def test_weights_of_another_type_are_told_from_those_that_were_measured(manifest, layers, written):
    smaller = dataclasses.replace(manifest, weights="int8", space_id="ff" * 8, golden="none")
    report = read_rows(written(manifest.space_id))
    text = "\n".join(card("digits", smaller, layers, report))
    assert f"Measured on the weights in float32, space {manifest.space_id}, and not on these in int8." in text
    assert "Its error in int8, against float32, was not measured." in text
    assert "had no golden answers" in text
    numerics = {"cosine_min": 0.999, "cosine_mean": 0.9995, "images": 16, "source": "noise"}
    text = "\n".join(card("digits", dataclasses.replace(smaller, numerics=numerics), layers, None))
    assert "at least 0.99900 (mean 0.99950) on 16 images of noise" in text


def test_names_are_texts_and_no_markup(manifest, layers):
    first = next(card("<b>*|x_", manifest, layers, None))
    assert first == "# \\<b>\\*\\|x\\_"


def test_a_report_of_another_model_is_refused_and_nothing_is_written(tmp_path, tuned, written):
    with pytest.raises(ValueError, match="--report is of checkpoint:build/mu, space ffff, and the model's is"):
        to_savedmodel.export(
            to_savedmodel.Settings(checkpoint=tuned, output=tmp_path / "model", report=written("ffff"))
        )
    assert list((tmp_path / "model").iterdir()) == []


def test_a_report_of_another_head_is_refused_though_its_space_is_the_models(layers, written, tuned, tmp_path):
    space = layers.space_id
    with CheckpointTower(tuned) as tower:
        own = facts.model_facts(tower).head
    for head in (own, None):  # a served model's head is not known
        model_card.check_report(read_rows(written(space, head)), (space,), layers)
    trained = load(tuned)
    params = {**trained.params, "head": jax.tree.map(lambda leaf: leaf + 1, trained.params["head"])}
    with Checkpoints(tmp_path / "other") as checkpoints:
        checkpoints.save(1, {"params": params}, {}, trained.description)
    other = open_layers(tmp_path / "other")
    assert other.space_id == space
    with pytest.raises(ValueError, match=f"--report is of .* with the head {own}, and the model's is {other.head};"):
        model_card.check_report(read_rows(written(space, own)), (space,), other)
    headless = dataclasses.replace(layers, shapes={"image": layers.shapes["image"]})
    with pytest.raises(ValueError, match="and the model's is none"):
        model_card.check_report(read_rows(written(space, own)), (space,), headless)


def test_a_report_that_is_none_is_told_before_anything_is_read(tmp_path):
    settings = to_savedmodel.Settings(checkpoint=tmp_path, output=tmp_path / "model", report=tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"none\.json is missing"):
        to_savedmodel.export(settings)
    (tmp_path / "none.json").write_text('{"format_version": 99, "model": {}, "rows": []}')
    with pytest.raises(ValueError, match="format version 99"):
        to_savedmodel.export(settings)


def test_the_other_format_has_the_card_too(tmp_path, tuned, manifest, written):
    to_savedmodel.export(
        to_savedmodel.Settings(
            checkpoint=tuned,
            output=tmp_path / "model",
            platforms=("cpu",),
            format=Format("stablehlo"),
            report=written(manifest.space_id),
        )
    )
    text = (tmp_path / "model" / "1" / CARD_FILE).read_text()
    assert "| linear-probe/1 | emoji |" in text
    assert "stablehlo, for cpu" in text
