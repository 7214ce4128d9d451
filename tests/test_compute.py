import dataclasses

import jax.numpy as jnp
import pytest

from tests.towers import OTHER, ZERO_SHOT
from train.compute import Compute


def test_the_mesh_is_data_by_model():
    mesh = Compute(mesh="4x2").make_mesh()
    assert dict(mesh.shape) == {"data": 4, "model": 2}


@pytest.mark.parametrize(("name", "shape"), [("one", (1, 1)), ("data", (8, 1)), ("fsdp", (8, 1)), ("2d", (2, 4))])
def test_a_mesh_by_name_takes_the_devices_there_are(name, shape):
    assert Compute(mesh=name).make_mesh().devices.shape == shape


def test_data_parallelism_alone_leaves_parameters_whole():
    assert Compute(mesh="data").rules["embed"] is None
    assert Compute(mesh="fsdp").rules["embed"] == "data"


def test_the_sharding_is_printed_when_that_is_what_was_asked_for(capsys):
    settings = Compute(mesh="4x2", print_sharding=True)
    params = {"head": {"bias": jnp.zeros(10), "kernel": jnp.zeros((128, 10))}}
    assert settings.shows_sharding(params, settings.make_mesh())
    shown = capsys.readouterr().out
    assert "head/kernel" in shown
    assert "128x10" in shown
    assert not Compute().shows_sharding(params, settings.make_mesh())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", ["4", "4x", "x2", "4x2x1", "axb", "-1x2", ""])
def test_a_mesh_that_is_none_is_shown(text):
    with pytest.raises(ValueError, match=f"a mesh '{text}'; expected one, data, fsdp, 2d, or DATAxMODEL such as"):
        Compute(mesh=text).make_mesh()


@pytest.mark.parametrize(
    ("flag", "dtype"), [("auto", jnp.float32), ("float32", jnp.float32), ("bfloat16", jnp.bfloat16)]
)
def test_a_cpu_computes_in_float32_unless_told_otherwise(flag, dtype):
    settings = Compute(dtype=flag, remat="dots", split="features")
    execution = settings.execution(settings.make_mesh())
    assert (jnp.dtype(execution.dtype), execution.remat, execution.split) == (jnp.dtype(dtype), "dots", "features")


@pytest.mark.parametrize(
    ("changes", "batch", "shards", "multiple"),
    [
        ({}, 6, 4, 4),
        ({"split": "images"}, 12, 8, 8),
        ({"parallel": "ring"}, 12, 8, 8),
        ({"accumulate": 3}, 16, 4, 12),
        ({"parallel": "ring", "accumulate": 2}, 24, 8, 16),
    ],
)
def test_a_batch_divides_over_whatever_splits_it(changes, batch, shards, multiple):
    compute = Compute(mesh="4x2", **changes)
    compute.check_batch(multiple, compute.make_mesh())
    with pytest.raises(
        ValueError,
        match=f"--batch {batch} does not divide over the {shards} devices .*; take a multiple of {multiple}",
    ):
        compute.check_batch(batch, compute.make_mesh())


def test_a_batch_has_one_part_or_more():
    with pytest.raises(ValueError, match="--accumulate is 0; expected 1 or more"):
        Compute(accumulate=0)


def test_rings_are_refused_where_every_device_keeps_all_parameters():
    with pytest.raises(ValueError, match="take --mesh fsdp, or --parallel gspmd"):
        Compute(mesh="data", parallel="ring")


def test_the_split_goes_with_the_layers_however_they_were_chosen():
    default = Compute(mesh="2x2", remat="full")
    rings = dataclasses.replace(default, parallel="ring")  # as a flag changes a default
    assert (default.residual_split, rings.residual_split) == ("features", "images")
    assert dataclasses.replace(rings, split="features").residual_split == "features"


def test_rings_are_refused_for_blocks_that_they_do_not_know():
    Compute(parallel="ring").check_model(ZERO_SHOT)
    Compute().check_model(OTHER)
    with pytest.raises(ValueError, match=r"this tower's has block sequential, .*; take --parallel gspmd"):
        Compute(parallel="ring").check_model(OTHER)
