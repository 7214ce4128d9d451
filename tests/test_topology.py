import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from vit22b import sharding, topology
from vit22b.chips import GIB, chip_of, tpu


def test_a_topology_is_a_chip_and_its_torus():
    assert topology.parse_topology("v4:8x8x16") == (tpu("v4"), (8, 8, 16))
    assert topology.parse_topology("v5e:16x16") == (tpu("v5e"), (16, 16))


def test_the_meshes_of_a_topology_use_every_chip():
    found = topology.meshes("v4:8x8x16")
    assert (256, 4) in found
    assert (64, 16) in found
    assert {data * model for data, model in found} == {1024}
    assert topology.meshes("v5p:2x2x1") == [(4, 1), (2, 2), (1, 4)]


@pytest.mark.tpu
@pytest.mark.parametrize(
    ("topology_name", "shape", "lines"),
    [
        ("v5p:4x4x4", (16, 4), set()),
        ("v4:8x8x16", (128, 8), set()),
        ("v4:8x8x16", (64, 16), set()),
        ("v4:8x8x16", (256, 4), {"data", "model"}),  # model has four of eight neighbours
    ],
)
def test_the_chips_of_the_axis_model_are_neighbours_on_the_torus(topology_name, shape, lines):
    mesh = sharding.make_mesh(*shape, topology.devices(topology_name))
    rows = np.array([[device.coords for device in row] for row in mesh.devices])
    steps = np.abs(np.diff(rows, axis=1)).sum(axis=-1)
    assert steps.max() == 1
    assert topology.open_axes(topology_name, mesh) == lines


@pytest.mark.tpu
@pytest.mark.parametrize("name", ["v4", "v5e", "v5p", "v6e"])
def test_one_chip_is_a_topology_of_its_own(name):
    device = topology.one_chip(tpu(name))
    assert chip_of(device) == tpu(name)
    assert len(topology.devices(f"{name}:" + "x".join("1" * tpu(name).torus))) == 1


@pytest.mark.tpu
def test_what_does_not_fit_a_chip_is_a_refusal_and_no_error():
    place = SingleDeviceSharding(topology.one_chip(tpu("v5e")))
    large = jax.ShapeDtypeStruct((4 * GIB, 2), np.float32, sharding=place)
    found = topology.compile_lowered(jax.jit(lambda x: x + 1).lower(large))
    assert found.arguments is None
    assert "RESOURCE_EXHAUSTED" in found.refusal
    small = jax.ShapeDtypeStruct((1024, 256), np.float32, sharding=place)
    assert topology.compile_lowered(jax.jit(lambda x: x + 1).lower(small)).arguments == 2**20
