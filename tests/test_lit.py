import json

import numpy as np
import pytest

from train import lit, locked
from vit22b.checkpoint import load
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
    expected = space_id(source.params, source.description.preprocess, "map")
    assert description.source == {"checkpoint": str(pretrained / "checkpoints" / "12"), "space_id": expected}
    assert description.labels == source.description.labels
    tokenizer = Tokenizer.from_json(description.tokenizer)
    assert tokenizer.vocabulary == description.config.text.vocabulary
    assert tokenizer.length == description.config.text.length == 16
    assert description.config.text.projection == description.config.image.width


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
