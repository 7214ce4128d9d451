import numpy as np
import pytest

from train import topology
from vit22b import sharding
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
