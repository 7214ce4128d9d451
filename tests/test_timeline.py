import re
from pathlib import Path

import pytest

from train.hlo_module import parse
from train.timeline import timeline
from vit22b.chips import CHIPS, tpu

RECORDED = Path(__file__).parent / "hlo"  # made by tests/hlo/record.py
V5P = tpu("v5p")
MESH = {"data": 4, "model": 2}
MS = 1_750_000  # cycles of a v5p in a millisecond
HOP = 90_000_000  # bytes that a link of a v5p carries in one
RING = "source_target_pairs={{0,2},{2,4},{4,6},{6,0}}"


def program(*lines):
    """A program on a buffer of 90 MB; a line's cycles are given in milliseconds, as "| 2.5"."""
    body = []
    for line in lines:
        text, _, cycles = line.partition(" | ")
        config = f', backend_config={{"estimated_cycles":"{int(float(cycles) * MS)}"}}' if cycles else ""
        body.append(f"  {text}{config}")
    return parse(
        "\n".join(
            [
                "HloModule tiny, is_scheduled=true",
                "%matmul (a: bf16[8,8]) -> bf16[8,8] {",
                "  %a = bf16[8,8]{1,0} parameter(0)",
                "  ROOT %c = bf16[8,8]{1,0} convolution(%a, %a), dim_labels=bf_io->bf",
                "}",
                "%elementwise (b: bf16[8,8]) -> bf16[8,8] {",
                "  %b = bf16[8,8]{1,0} parameter(0)",
                "  ROOT %d = bf16[8,8]{1,0} tanh(%b)",
                "}",
                "ENTRY %main (p: u8[90000000]) -> u8[90000000] {",
                "  %p = u8[90000000]{0} parameter(0)",
                *body,
                "}",
            ]
        )
    )


def work(name, kind, ms):
    return f"%{name} = bf16[8,8]{{1,0}} fusion(%p), kind=kOutput, calls=%{kind} | {ms}"


def hop(name, pairs=RING):
    return f"%{name} = (u8[90000000]{{0}}, u8[90000000]{{0}}) collective-permute-start(%p), {pairs}"


def done(name, start):
    return f"%{name} = u8[90000000]{{0}} collective-permute-done(%{start})"


def spent(*instructions, lines=()):
    module = program(*instructions)
    return timeline(module, module.main, V5P, MESH, lines)


def test_work_is_the_compiler_s_cycles_by_what_it_is():
    found = spent(work("m", "matmul", 2.5), work("e", "elementwise", 1.5))
    assert (found.matmul_ms, found.other_ms, found.exposed_ms, found.ms) == (2.5, 1.5, 0, 4)


@pytest.mark.parametrize(("between", "exposed"), [(0.25, 0.75), (1.0, 0.0), (3.0, 0.0)])
def test_a_hop_is_exposed_by_what_no_work_hides(between, exposed):
    found = spent(hop("s"), work("m", "matmul", between), done("r", "s"))
    assert found.exposed_ms == pytest.approx(exposed)
    (transfer,) = found.transfers
    assert (transfer.axis, transfer.bytes, transfer.asynchronous, transfer.overlapped) == ("data", HOP, True, True)
    assert transfer.matmul_ms == pytest.approx(between)
    assert found.overlapped_fraction == 1


def test_elementwise_work_hides_a_hop_but_is_no_matmul_between():
    found = spent(hop("s"), work("e", "elementwise", 2), done("r", "s"))
    assert found.exposed_ms == 0
    assert found.overlapped_fraction == 0


def test_hops_in_one_direction_wait_for_each_other_and_against_each_other_do_not():
    same = spent(hop("s"), hop("t"), done("r", "s"), done("q", "t"))
    back = "source_target_pairs={{0,6},{6,4},{4,2},{2,0}}"
    both = spent(hop("s"), hop("t", back), done("r", "s"), done("q", "t"))
    assert same.exposed_ms == pytest.approx(2)
    assert both.exposed_ms == pytest.approx(1)


def test_a_hop_over_two_devices_takes_twice_the_time():
    far = "source_target_pairs={{0,4},{2,6},{4,0},{6,2}}"
    assert spent(hop("s", far), done("r", "s")).exposed_ms == pytest.approx(2)


def test_a_synchronous_collective_is_all_exposed_and_uses_both_directions():
    found = spent("%g = u8[360000000]{0} all-gather(%p), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}")
    assert found.exposed_ms == pytest.approx(1.5)  # 3 x 90 MB over 2 x 90 GB/s
    assert found.synchronous == 1
    assert found.overlapped_fraction is None
    assert (found.moved("all-gather", "data"), found.moved("all-gather", "model")) == (3 * HOP, 0)


def test_a_group_of_every_other_device_shares_its_links_with_the_rest():
    found = spent("%g = u8[360000000]{0} all-gather(%p), replica_groups={{0,4},{2,6},{1,5},{3,7}}, dimensions={0}")
    whole = spent("%g = u8[360000000]{0} all-gather(%p), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}")
    assert found.transfers[0].bytes * 3 == whole.transfers[0].bytes
    assert found.exposed_ms == pytest.approx(whole.exposed_ms * 2 / 3)


def test_on_a_line_what_would_close_the_ring_goes_all_the_way_back():
    gather = "%g = u8[360000000]{0} all-gather(%p), replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}"
    ring, line = spent(gather), spent(gather, lines={"data"})
    assert line.exposed_ms == pytest.approx(2 * ring.exposed_ms)
    back = "source_target_pairs={{0,6},{6,4},{4,2},{2,0}}"
    hops = hop("s"), hop("t", back), done("r", "s"), done("q", "t")
    assert spent(*hops, lines={"data"}).exposed_ms == pytest.approx(2 * spent(*hops).exposed_ms)


def test_a_hop_that_nothing_waits_for_still_takes_its_time():
    found = spent(hop("s"), work("m", "matmul", 0.25))
    assert found.exposed_ms == pytest.approx(0.75)
    assert len(found.transfers) == 1


def test_a_small_synchronous_collective_is_not_counted_as_one():
    assert spent("%g = f32[]{} all-reduce(%p), replica_groups=mesh['x'=8] {'x'}").synchronous == 1
    small = spent("%s = u8[900]{0} slice(%p)", "%g = u8[900]{0} all-reduce(%s), replica_groups=mesh['x'=8] {'x'}")
    assert (small.synchronous, small.transfers[0].axis) == (0, "data+model")


def test_a_kernel_without_an_estimate_is_counted_as_such():
    kernel = '%k = u8[90000000]{0} custom-call(%p), custom_call_target="tpu_custom_call"'
    assert spent(kernel, "%t = (u8[90000000]{0}) tuple(%k)").unestimated == 1


def test_the_forms_of_the_recorded_programs_are_told_apart():
    found = {}
    for name in ("synchronous", "asynchronous"):
        module = parse((RECORDED / f"{name}.txt").read_text())
        found[name] = timeline(module, module.main, V5P, MESH)
    before, after = found["synchronous"], found["asynchronous"]
    assert {(one.kind, one.asynchronous) for one in before.transfers if one.bytes > 1e6} == {
        ("all-gather", False),
        ("reduce-scatter", False),
        ("collective-permute", True),
    }
    assert ("all-gather", True) in {(one.kind, one.asynchronous) for one in after.transfers}
    assert ("reduce-scatter", False) not in {(one.kind, one.asynchronous) for one in after.transfers}
    assert before.synchronous == 4 * 6
    assert after.synchronous == 4 * 2
    assert after.exposed_ms < before.exposed_ms
    for kind, axis in (("all-gather", "data"), ("reduce-scatter", "data"), ("collective-permute", "model")):
        assert before.moved(kind, axis) == after.moved(kind, axis) > 0


def test_a_loop_is_its_body_as_often_as_it_runs():
    module = parse((RECORDED / "asynchronous.txt").read_text())
    bodies = [module.bodies(i) for i in module.main.instructions if i.opcode == "while"]
    whole = timeline(module, module.main, V5P, MESH)
    inside = sum(timeline(module, body, V5P, MESH).matmul_ms * trips for ((body, trips),) in bodies)
    assert [trips for ((_, trips),) in bodies] == [4, 4]
    assert whole.matmul_ms == pytest.approx(inside)


def test_a_loop_of_unknown_length_counts_once_and_is_told():
    text = (RECORDED / "asynchronous.txt").read_text()
    unknown = re.sub(r'"known_trip_count":\{"n":"4"\}', '"known_trip_count":{}', text).replace(
        "direction=LT", "direction=NE"
    )
    known, once = (timeline(module, module.main, V5P, MESH) for module in (parse(text), parse(unknown)))
    assert once.matmul_ms == pytest.approx(known.matmul_ms / 4)
    assert once.unestimated == known.unestimated + 2


def test_a_chip_without_a_clock_has_no_timeline():
    module = program(work("m", "matmul", 1))
    with pytest.raises(ValueError, match=r"no timeline for H100: vit22b/chips\.py has no clock or no links"):
        timeline(module, module.main, CHIPS["H100"], MESH)
