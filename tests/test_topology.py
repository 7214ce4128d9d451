import jax
import numpy as np
import pytest

from train import topology
from vit22b.chips import tpu


def test_a_topology_is_a_chip_and_its_torus():
    assert topology.parse_topology("v4:8x8x16") == (tpu("v4"), (8, 8, 16))
    assert topology.parse_topology("v5e:16x16") == (tpu("v5e"), (16, 16))


def test_the_meshes_of_a_topology_use_every_chip():
    found = topology.meshes("v4:8x8x16")
    assert (256, 4) in found
    assert (64, 16) in found
    assert {data * model for data, model in found} == {1024}
    assert topology.meshes("v5p:2x2x1") == [(4, 1), (2, 2), (1, 4)]


@pytest.mark.parametrize("shape", [(4, 2), (1, 8)])
def test_a_mesh_has_every_device_once(shape):
    mesh = topology.mesh_of(jax.devices(), *shape)
    assert dict(mesh.shape) == dict(zip(("data", "model"), shape, strict=True))
    assert set(mesh.devices.flat) == set(jax.devices())
    assert dict(topology.abstract_mesh(*shape).shape) == dict(mesh.shape)


def test_a_mesh_of_another_number_of_devices_is_an_error():
    with pytest.raises(ValueError, match="a mesh of 4x4 has 16 devices, the topology 8"):
        topology.mesh_of(jax.devices(), 4, 4)


@pytest.mark.tpu
@pytest.mark.parametrize("shape", [(256, 4), (64, 16), (512, 2)])
def test_the_chips_of_the_axis_model_are_neighbours_on_the_torus(shape):
    mesh = topology.mesh_of(topology.devices("v4:8x8x16"), *shape)
    rows = np.array([[device.coords for device in row] for row in mesh.devices])
    steps = np.abs(np.diff(rows, axis=1)).sum(axis=-1)
    assert steps.max() == 1
