import jax
import pytest

from train.abstract_step import Planned, abstract_arguments, trace_step
from train.arithmetic import matmul_flops
from train.compute import Compute
from train.footprint import footprint, remedies, ring_bytes, weight_bytes
from vit22b import flops
from vit22b.chips import tpu
from vit22b.sharding import make_mesh
from vit22b.tree import parameter_count


def small(**compute):
    """The size mu on eight chips."""
    settings = {"mesh": "4x2", "remat": "none", "dtype": "float32", **compute}
    return Planned(size="mu", topology="v5p:2x2x2", batch=64, classes=10, compute=Compute(**settings))


def on_v5p(mesh="16x4", **compute):
    return Planned(topology="v5p:4x4x4", batch=2048, compute=Compute(mesh=mesh, **compute))


def test_the_arguments_are_those_of_the_compiled_step():
    run = small()
    compiled = trace_step(run, make_mesh(4, 2)).lower().compile()
    assert footprint(run).arguments == compiled.memory_analysis().argument_size_in_bytes


def test_the_arguments_of_22b_are_those_that_the_tpu_compiler_gave():
    # train/plan.py --topology v5p:4x4x4 --mesh 16x4 --batch 2048 --remat full, libtpu 0.0.42.1; tiles pad a little
    assert footprint(on_v5p(remat="full")).arguments == pytest.approx(2_443_399_168, rel=1e-4)


def test_22b_has_its_number_of_parameters():
    target, _ = abstract_arguments(on_v5p())
    assert parameter_count(target.params) == 22_385_128_345


@pytest.mark.parametrize(
    ("topology", "mesh", "batch", "megabytes"),
    [
        ("v5p:4x4x4", "16x4", 2048, 1509.9),
        ("v4:8x8x16", "64x16", 65536, 15099.5),
        ("v4:8x8x16", "128x8", 65536, 7046.4),
        ("v4:8x8x16", "256x4", 65536, 3019.9),
        ("v4:8x8x16", "1024x1", 65536, 0.0),
    ],
)
def test_the_rings_move_k_minus_one_kths_of_the_tokens_five_times_a_layer(topology, mesh, batch, megabytes):
    run = Planned(topology=topology, batch=batch, compute=Compute(mesh=mesh))
    assert ring_bytes(run) / 1e6 == pytest.approx(megabytes, abs=0.05)
    assert ring_bytes(run.with_compute(accumulate=2)) == ring_bytes(run) // 2


def test_the_weights_of_a_layer_are_gathered_twice_and_scattered_once():
    assert weight_bytes(on_v5p()) / 1e6 == pytest.approx(3 * 2 * 12 * 6144**2 / 4 * 15 / 16 / 1e6)


def test_more_is_kept_where_less_is_computed_again():
    saved = [footprint(on_v5p(remat=policy)).saved for policy in ("full", "dots", "none")]
    assert saved == sorted(saved)
    assert saved[0] == 48 * 32 * 256 * 6144 * 2


def test_the_rings_keep_with_none_what_they_keep_with_dots():
    none, dots = (footprint(on_v5p(remat=policy, parallel="ring")).saved for policy in ("none", "dots"))
    assert none == dots < footprint(on_v5p(remat="none")).saved


def test_a_batch_divides_over_the_devices_that_have_images_of_their_own():
    run = Planned(topology="v5p:4x4x4", batch=16, compute=Compute(mesh="16x4", remat="full"))
    assert run.images_per_chip == 0.25
    assert footprint(run).saved == 48 * 256 // 4 * 6144 * 2


def test_float32_takes_twice_the_room_and_twice_the_bytes_on_the_links():
    short, long = (on_v5p(remat="dots", parallel="ring", dtype=dtype) for dtype in ("auto", "float32"))
    assert (footprint(long).saved, footprint(long).working) == (
        2 * footprint(short).saved,
        2 * footprint(short).working,
    )
    assert footprint(long).arguments == footprint(short).arguments
    assert (ring_bytes(long), weight_bytes(long)) == (2 * ring_bytes(short), 2 * weight_bytes(short))


def test_a_mesh_by_name_is_that_of_the_topology():
    assert [on_v5p(name).shape for name in ("2d", "fsdp", "data")] == [(16, 4), (64, 1), (64, 1)]
    whole, split = (footprint(on_v5p(name)).arguments for name in ("data", "fsdp"))
    assert whole > 30 * split, "every chip has all parameters"


def test_remat_full_executes_a_fifth_more_than_the_model_needs():
    needed = 2048 * flops.train(on_v5p().config.image, 256)
    mesh = jax.sharding.AbstractMesh((16, 4), ("data", "model"))
    executed = {
        policy: matmul_flops(trace_step(on_v5p(remat=policy, dtype="bfloat16"), mesh).jaxpr.jaxpr) / needed
        for policy in ("none", "full")
    }
    assert executed["none"] == pytest.approx(1.0, abs=0.01)  # pooling and head are not in the model's
    assert executed["full"] == pytest.approx(1.2, abs=0.01)


def test_what_would_fit_is_told_the_least_change_first():
    run = on_v5p(remat="none")
    limit = tpu("v4").hbm_bytes
    assert footprint(run).total > limit
    flags = remedies(run, limit)
    assert flags[0] == "--remat full"
    for tried in (run.with_compute(remat="full"), run.with_compute(remat="full", accumulate=2)):
        assert footprint(tried).total <= limit
    assert remedies(run, 1) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute": Compute(mesh="8x4")}, "--mesh 8x4 has 32 devices, v5p:4x4x4 has 64; take a mesh of 64, such as"),
        ({"topology": "v5p:1x2x3"}, "v5p:1x2x3 has 6; take a mesh of 6, such as 3x2"),
        ({"compute": Compute(mesh="64")}, "a mesh '64'; expected one, data, fsdp, 2d, or DATAxMODEL such as 16x4"),
        ({"compute": Compute(mesh="16x4", parallel="ring", remat="offload")}, "--remat offload is of --parallel gspmd"),
        ({"batch": 100}, "--batch 100 does not divide over the 16 devices that --mesh 16x4 splits images over"),
        (
            {"batch": 16, "compute": Compute(mesh="16x4", parallel="ring")},
            "over the 64 devices .*; take a multiple of 64",
        ),
        ({"batch": 0}, "--batch is 0; expected 1 or more"),
        ({"topology": "h100:8"}, "no TPU 'h100'; expected one of v4, v5e, v5p, v6e"),
        ({"topology": "v5p"}, "--topology is 'v5p'; expected CHIP:AxBxC"),
        ({"topology": "v5p:8x8"}, "a v5p has a torus of 3 dimensions of 1 or more"),
    ],
)
def test_a_run_that_cannot_be_is_told(changes, message):
    with pytest.raises(ValueError, match=message):
        Planned(**{"compute": Compute(mesh="16x4"), **changes})
