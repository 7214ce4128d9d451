import types

import pytest

from vit22b import chips


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v5 lite", "v5e"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
    ],
)
def test_a_device_is_found_by_what_it_calls_itself(kind, name):
    assert chips.chip_of(types.SimpleNamespace(device_kind=kind)) == chips.CHIPS[name]


@pytest.mark.parametrize("kind", ["cpu", "TPU v3", "TPU v4i", "NVIDIA GeForce"])
def test_an_unknown_device_has_no_chip(kind):
    assert chips.chip_of(types.SimpleNamespace(device_kind=kind)) is None


def test_only_tpus_have_what_a_plan_needs():
    for name, chip in chips.CHIPS.items():
        whole = (chip.hbm_bytes, chip.clock_hz, chip.link_bytes_per_second, chip.torus, chip.compiler_options)
        assert all(whole) if name.startswith("v") else not any(whole), name


def test_a_chip_that_is_no_tpu_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="no TPU 'H100'; expected one of v4, v5e, v5p, v6e"):
        chips.tpu("H100")
