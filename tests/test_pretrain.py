import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train import pretrain
from train.classifier import sigmoid_loss
from vit22b import model
from vit22b.checkpoint import load
from vit22b.config import ModelConfig, vit
from vit22b.folder import read_folder
from vit22b.preprocess import Preprocess


def test_the_checkpoint_describes_the_model_it_holds(pretrained, digits):
    trained = load(pretrained)
    assert trained.step == 12
    assert trained.description.config.image == vit("mu")
    assert trained.description.preprocess.resolution == 28
    assert trained.description.labels == read_folder(digits / "train").labels
    assert trained.description.tokenizer is None
    assert float(jax.numpy.abs(trained.params["head"]["kernel"]).max()) > 0


def test_metrics_are_logged_twice_and_alike(pretrained):
    lines = [json.loads(line) for line in (pretrained / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    assert set(lines[0]) >= {"loss", "grad_norm", "learning_rate", "images_per_second", "input_wait", "train_top1"}
    events = EventAccumulator(str(pretrained / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    logged = [event.value for event in events.Scalars("loss")]
    assert logged == pytest.approx([line["loss"] for line in lines], rel=1e-6)


def test_the_initial_sigmoid_loss_is_29_593_softplus_of_minus_10_plus_10_labels():
    classes, labels = 29_593, 3
    config = ModelConfig(dataclasses.replace(vit("mu"), depth=1), classes=classes)
    params = jax.jit(lambda key: model.init(config, key))(jax.random.key(0))
    random = np.random.default_rng(0)
    targets = np.zeros((4, classes), np.float32)
    for row in targets:
        row[random.choice(classes, labels, replace=False)] = 1
    pixels = random.integers(256, size=(4, 28, 28, 3)).astype(np.uint8)
    loss = sigmoid_loss(model.abstract(config)[0], Preprocess(28))
    value, _ = jax.jit(loss)(params, {"pixels": pixels, "targets": targets})
    assert float(value) == pytest.approx(classes * np.log1p(np.exp(-10)) + 10 * labels, rel=1e-6)


def test_the_loss_starts_at_its_prior_and_falls(pretrained):
    losses = [json.loads(line)["loss"] for line in (pretrained / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] < 10.1  # 10 * label + 10 * softplus(-10) = 10.0005 before the first step
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "huge"], "unknown size 'huge'; expected one of mu, Ti, S"),
        (["--size", "mu", "--resolution", "30"], "resolution 30 is not a multiple of the patch 4; take 28 or 32"),
        (["--size", "mu", "--mesh", "16x1"], "a mesh of 16x1 needs 16 devices, there are 8"),
        (["--size", "mu", "--mesh", "4x2", "--batch", "6"], "--batch 6 does not divide over the 4 devices"),
        (["--size", "mu", "--mesh", "4x2", "--batch", "4", "--parallel", "ring"], "over the 8 devices that --mesh 4x2"),
        (["--size", "mu", "--batch", "4", "--accumulate", "3"], "in --accumulate 3 parts each; take a multiple of 3"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(flags, message, digits, tmp_path, run_program, capsys):
    arguments = ["--data", digits / "train", "--workdir", tmp_path / "work", *flags]
    assert run_program(pretrain.pretrain, pretrain.Settings, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not (tmp_path / "work").exists()


# What `pretrained` was run with.
FLAGS = ("--size", "mu", "--steps", 12, "--batch", 32, "--warmup", 4, "--cooldown", 4)


def test_a_run_is_not_continued_in_another_dtype(pretrained, digits, run_program, capsys):
    arguments = ["--data", digits / "train", "--workdir", pretrained, *FLAGS, "--dtype", "bfloat16"]
    assert run_program(pretrain.pretrain, pretrain.Settings, *arguments) == 2
    differences = capsys.readouterr().err.splitlines()[1:-1]
    assert differences == ["  recipe.dtype: 'float32' there, 'bfloat16' here"]


def test_a_run_is_continued_where_its_data_were_moved_and_not_with_others(
    pretrained, digits, tmp_path, run_program, capsys
):
    """As many images, and the last one is another."""
    arguments = ["--data", tmp_path / "moved", "--workdir", pretrained, *FLAGS]
    shutil.copytree(digits / "train", tmp_path / "moved")
    assert run_program(pretrain.pretrain, pretrain.Settings, *arguments) == 0
    lines = (tmp_path / "moved" / "metadata.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    (tmp_path / "moved" / last["file_name"]).rename(tmp_path / "moved" / "other.png")
    changed = [*lines[:-1], json.dumps(last | {"file_name": "other.png"})]
    (tmp_path / "moved" / "metadata.jsonl").write_text("\n".join(changed) + "\n")
    assert run_program(pretrain.pretrain, pretrain.Settings, *arguments) == 2
    differences = capsys.readouterr().err.splitlines()[1:-1]
    assert len(differences) == 1
    assert re.fullmatch(
        r"  recipe.sources: \['400 records \w{8}'\] there, \['400 records \w{8}'\] here", differences[0]
    )


def test_images_without_labels_are_refused(digits, tmp_path, run_program, capsys):
    folder = tmp_path / "plain"
    folder.mkdir()
    (folder / "one.png").write_bytes(next((digits / "heldout").glob("*.png")).read_bytes())
    arguments = ["--data", folder, "--workdir", tmp_path / "work", "--size", "mu"]
    assert run_program(pretrain.pretrain, pretrain.Settings, *arguments) == 2
    assert f"the images in {folder} have no labels to train on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--min_area", "--min_area is 0.0"), ("--peak", "--peak is 0.0"), ("--steps", "--steps is 0; expected 1 or more")],
)
def test_a_number_that_cannot_be_is_told_by_the_command_line(flag, message, digits, tmp_path, run_program, capsys):
    arguments = ["--data", digits / "train", "--workdir", tmp_path, "--size", "mu", flag, 0]
    assert run_program(pretrain.pretrain, pretrain.Settings, *arguments) == 2
    assert message in capsys.readouterr().err
