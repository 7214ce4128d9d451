import json

import numpy as np
import pytest

from tests.towers import OTHER, random_params
from train import lit, locked
from train.compute import Compute
from vit22b.checkpoint import Checkpoints, load
from vit22b.description import Description
from vit22b.preprocess import Preprocess
from vit22b.space import space_id
from vit22b.tokenizer import Tokenizer
from vit22b.tree import leaves


def test_the_image_tower_and_head_are_locked_to_the_byte(pretrained, tuned):
    before, after = (leaves(load(workdir).params) for workdir in (pretrained, tuned))
    assert set(before) < set(after)
    for name, leaf in before.items():
        assert np.asarray(leaf).tobytes() == np.asarray(after[name]).tobytes(), name
    assert {name.split("/")[0] for name in set(after) - set(before)} == {"text", "logit_scale"}


def test_the_optimizer_holds_the_text_towers_moments_alone(tuned):
    metadata = (tuned / "checkpoints" / "12" / "opt_state" / "_METADATA").read_text()
    assert "text" in metadata
    assert "image" not in metadata


def test_the_checkpoint_says_where_its_image_tower_comes_from(pretrained, tuned):
    source = load(pretrained)
    description = load(tuned).description
    expected = space_id(source.params, source.description.preprocess, source.description.config)
    assert description.source == {"checkpoint": str(pretrained / "checkpoints" / "12"), "space_id": expected}
    assert description.labels == source.description.labels
    tokenizer = Tokenizer.from_json(description.tokenizer)
    assert tokenizer.vocabulary == description.config.text.vocabulary
    assert tokenizer.length == description.config.text.length == 16
    assert description.config.text.projection == description.config.image.embedding


def test_the_temperature_starts_at_ten_and_the_loss_falls(tuned):
    lines = [json.loads(line) for line in (tuned / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["temperature"] == pytest.approx(10, abs=0.1)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[0]["loss"] < np.log(64) + 0.5


def test_training_reads_no_image_twice(pretrained, digits, tmp_path, monkeypatch):
    """Embeddings are computed once, beforehand: 6 epochs read as many files as there are images."""
    read = []
    real = locked.image_batches

    def counted(paths, preprocess, batch):
        for pixels in real(paths, preprocess, batch):
            read.append(len(pixels))
            yield pixels

    monkeypatch.setattr(locked, "image_batches", counted)
    settings = lit.Settings(
        checkpoint=pretrained, data=digits / "train", workdir=tmp_path, steps=6, batch=400, vocabulary=300
    )
    lit.tune(settings)
    assert sum(read) == 400


@pytest.mark.parametrize("flag", ["--eval_every", "--signals_every", "--keep_best"])
def test_a_flag_that_could_do_nothing_is_none(flag, pretrained, digits, tmp_path, run_program, capsys):
    arguments = ["--checkpoint", pretrained, "--data", digits / "train", "--workdir", tmp_path, flag, 1]
    assert run_program(lit.tune, lit.Settings, *arguments) == 2
    told = capsys.readouterr().err
    assert "Unrecognized options" in told
    assert flag in told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"--data": "heldout"}, "100 of the 100 images in {data} have no caption, 0004.png is the first"),
        ({"--batch": "500"}, "--batch is 500, but there are 400 pairs"),
        ({"--vocabulary": "10"}, "vocabulary is 10; expected at least 258"),
        ({"--checkpoint": "nothing"}, "no checkpoint in {checkpoint}"),
        ({"--mesh": "8x1", "--batch": "12"}, "--batch 12 does not divide over the 8 devices"),
        ({"--accumulate": "2"}, "--accumulate is 2, but the contrastive loss is over the whole batch"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(flags, message, pretrained, digits, tmp_path, run_program, capsys):
    values = {"--checkpoint": pretrained, "--data": digits / "train", "--batch": 64, **flags, "--workdir": tmp_path}
    if "--data" in flags:
        values["--data"] = digits / flags["--data"]
    if "--checkpoint" in flags:
        values["--checkpoint"] = tmp_path / flags["--checkpoint"]
    assert run_program(lit.tune, lit.Settings, *(str(x) for pair in values.items() for x in pair)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert message.format(data=values["--data"], checkpoint=values["--checkpoint"]) in lines[0]


@pytest.fixture
def imported(tmp_path):
    """A work directory with a model of another family, as CLIP or SigLIP, of random parameters."""
    description = Description(OTHER, Preprocess(28, crop="center"), labels=tuple("0123456789"), tokenizer="{}")
    with Checkpoints(tmp_path / "imported") as checkpoints:
        checkpoints.save(1, {"params": random_params(OTHER)}, {}, description)
    return tmp_path / "imported"


def test_a_tower_of_another_family_is_tuned_and_its_text_tower_replaced(imported, digits, tmp_path):
    settings = lit.Settings(
        checkpoint=imported, data=digits / "train", workdir=tmp_path / "lit", steps=2, batch=64, vocabulary=300
    )
    lit.tune(settings)
    before, after = load(imported), load(tmp_path / "lit")
    found = after.description.config
    assert (found.image, found.classes, found.similarity) == (OTHER.image, 10, "softmax")
    assert (found.text.form, found.text.projection, found.text.causal) == (OTHER.image.form, 24, False)
    assert set(after.params) == {"image", "head", "text", "logit_scale"}
    for name, leaf in leaves({part: before.params[part] for part in ("image", "head")}).items():
        assert np.asarray(leaf).tobytes() == np.asarray(leaves(after.params)[name]).tobytes(), name


def test_a_tower_that_the_rings_do_not_know_is_refused_before_it_is_read(imported, digits, tmp_path):
    settings = lit.Settings(
        checkpoint=imported,
        data=digits / "train",
        workdir=tmp_path / "lit",
        steps=2,
        batch=64,
        compute=Compute(parallel="ring"),
    )
    with pytest.raises(ValueError, match=r"this tower's has block sequential, .*; take --parallel gspmd"):
        lit.tune(settings)
