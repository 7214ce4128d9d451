from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from train import hlo
from train.hlo_module import parse
from vit22b.sharding import DATA, MODEL, make_mesh

RECORDED = Path(__file__).parent / "hlo"  # made by tests/hlo/record.py
DEPTH, TOKENS, WIDTH, DATA_SIZE, BFLOAT16 = 4, 2048, 1024, 4, 2
SHARD = WIDTH * WIDTH * BFLOAT16 // DATA_SIZE


def tiny(line, parameters="p: f32[8,16]"):
    """A program of one instruction, with the computations that it may call."""
    return f"""HloModule tiny, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}}

%all-reduce-scatter.1 (input: f32[8,16]) -> f32[2,16] {{
  %input = f32[8,16]{{1,0}} parameter(0)
  %inner = f32[8,16]{{1,0}} all-reduce(%input), channel_id=1, replica_groups=[2,4]<=[8], to_apply=%add
  ROOT %slice = f32[2,16]{{1,0}} dynamic-slice(%inner), dynamic_slice_sizes={{2,16}}
}}

ENTRY %main ({parameters}) -> f32[8,16] {{
  %p = f32[8,16]{{1,0:T(8,128)S(1)}} parameter(0)
  ROOT %r = {line}
}}
"""


def only(line):
    module = parse(tiny(line))
    (found,) = hlo.collectives(module, module.main, module.main.instructions[-1])
    return found


@pytest.mark.parametrize("name", ["synchronous", "asynchronous"])
def test_a_program_moves_the_same_bytes_in_whatever_form_its_collectives_are(name):
    text = (RECORDED / f"{name}.txt").read_text()
    # Two weights a layer, gathered forward and again backward; three hops of a data shard's tokens.
    assert hlo.moved_bytes(text, "all-gather") == DEPTH * 2 * 2 * (DATA_SIZE - 1) * SHARD
    assert hlo.moved_bytes(text, "reduce-scatter") == DEPTH * 2 * (DATA_SIZE - 1) * SHARD
    assert hlo.moved_bytes(text, "collective-permute") == DEPTH * 3 * TOKENS * WIDTH * BFLOAT16
    assert hlo.moved_bytes(text, "all-to-all") == 0


def test_the_recorded_programs_have_every_form_of_a_collective():
    roles = {"synchronous": set(), "asynchronous": set()}
    for name in roles:
        module = parse((RECORDED / f"{name}.txt").read_text())
        for computation in (body for i in module.main.instructions for body, _ in module.bodies(i)):
            for instruction in computation.instructions:
                roles[name] |= {
                    (instruction.opcode, one.role) for one in hlo.collectives(module, computation, instruction)
                }
    assert roles["synchronous"] == {
        ("all-gather", "synchronous"),
        ("reduce-scatter", "synchronous"),
        ("collective-permute-start", "start"),
    }
    assert roles["asynchronous"] >= {
        ("fusion", "start"),
        ("fusion", "step"),
        ("fusion", "done"),
        ("call-start", "start"),
        ("collective-permute-start", "start"),
    }


@pytest.mark.parametrize("shape", [(1, 8), (2, 4), (4, 2)])
def test_the_hops_of_a_ring_in_a_scan_are_all_counted(shape):
    size, trips, floats = shape[1], 3, 16

    def ring(x):
        def hop(x, _):
            return jax.lax.ppermute(x, MODEL, [(i, (i + 1) % size) for i in range(size)]) * 2, None

        return jax.lax.scan(hop, x, None, length=trips)[0]

    mesh = make_mesh(*shape)
    spec = PartitionSpec((DATA, MODEL))
    compiled = jax.jit(jax.shard_map(ring, mesh=mesh, in_specs=spec, out_specs=spec)).lower(
        jax.ShapeDtypeStruct((8 * floats,), jnp.float32)
    )
    assert hlo.moved_bytes(compiled.compile().as_text(), "collective-permute") == trips * floats * 4


@pytest.mark.parametrize(
    ("kind", "of_the_operand"),
    [("all-gather", 3), ("reduce-scatter", 3 / 4), ("all-to-all", 3 / 4), ("all-reduce", 3 / 2)],
)
def test_the_bytes_are_those_of_a_ring_of_the_group(kind, of_the_operand):
    found = only(f"f32[8,16]{{1,0}} {kind}(%p), replica_groups=[2,4]<=[8], to_apply=%add")
    assert found.bytes == of_the_operand * 8 * 16 * 4
    assert (found.kind, found.role) == (kind, "synchronous")


def test_an_all_reduce_that_is_sliced_at_once_is_a_reduce_scatter():
    found = only("f32[2,16]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1")
    assert (found.kind, found.role, found.bytes) == ("reduce-scatter", "synchronous", 3 * 2 * 16 * 4)


@pytest.mark.parametrize(
    ("written", "group"),
    [
        ("replica_groups={{0,2},{1,3}}", (0, 2)),
        ("replica_groups=[4,2]<=[8]", (0, 1)),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", (0, 2, 4, 6)),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", (0, 2, 4, 6)),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_1','axis_2'}", (0, 1)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_1'}", (0, 2, 4, 6)),
    ],
)
def test_a_group_of_devices_is_read_in_every_way_it_is_written(written, group):
    assert only(f"f32[8,64]{{1,0}} all-gather(%p), channel_id=3, {written}, dimensions={{1}}").group == group


def test_a_permute_is_known_by_the_first_pair_that_leads_away():
    found = only("f32[8,16]{1,0} collective-permute(%p), source_target_pairs={{0,0},{1,3},{3,1}}")
    assert (found.group, found.bytes) == ((1, 3), 8 * 16 * 4)


def test_a_group_that_cannot_be_read_is_an_error():
    with pytest.raises(ValueError, match=r"no group of devices is known in .*replica_groups=new"):
        only("f32[8,16]{1,0} all-gather(%p), replica_groups=new")


def test_bytes_that_are_moved_in_a_loop_of_unknown_length_are_an_error():
    def sum_until(x, limit):
        return jax.lax.while_loop(lambda x: x[0] < limit[0], lambda x: jax.lax.psum(x, MODEL), x)

    spec = PartitionSpec()
    run = jax.shard_map(sum_until, mesh=make_mesh(1, 8), in_specs=spec, out_specs=spec, check_vma=False)
    text = jax.jit(run).lower(*[jax.ShapeDtypeStruct((16,), jnp.float32)] * 2).compile().as_text()
    with pytest.raises(ValueError, match=r"the all-reduce \S+ is in a loop whose trips cannot be read"):
        hlo.moved_bytes(text, "all-reduce")
    assert hlo.moved_bytes(text, "all-gather") == 0


def test_what_is_no_compiled_program_is_an_error():
    lowered = jax.jit(lambda x: x + 1).lower(np.float32(1))
    with pytest.raises(ValueError, match="not the text of a compiled program"):
        hlo.moved_bytes(lowered.as_text(), "all-gather")
    with pytest.raises(ValueError, match="no collective 'broadcast'; expected one of all-gather, all-reduce"):
        hlo.moved_bytes(tiny("f32[8,16]{1,0} copy(%p)"), "broadcast")
