"""Two real processes of two devices each make one global batch of the rows that each of them reads."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, sys
import jax
import numpy as np
port, rank = sys.argv[1:]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(rank))
from train.feed import local_rows, place
from vit22b.sharding import batch_sharding, make_mesh
whole = np.arange(8 * 3, dtype=np.float32).reshape(8, 3)
found = []
for shape in ((4, 1), (2, 2), (1, 4)):
    sharding = batch_sharding(make_mesh(*shape))
    rows = local_rows(sharding, 8)
    placed = place({"x": whole[rows]}, sharding, 8)["x"]
    assert placed.shape == (8, 3)
    for shard in placed.addressable_shards:
        np.testing.assert_array_equal(shard.data, whole[shard.index])
    total = jax.jit(lambda x: x.sum(axis=0), out_shardings=jax.NamedSharding(sharding.mesh, jax.P()))(placed)
    found.append([rows.tolist(), np.asarray(total.addressable_shards[0].data).tolist()])
print(json.dumps(found))
"""


@pytest.fixture
def answers():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", PROGRAM, port]
    processes = [
        subprocess.Popen([*command, str(rank)], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        ends = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], ends
    return [json.loads(out.splitlines()[-1]) for out, _ in ends]


def test_each_process_reads_its_share_and_together_they_have_the_batch(answers):
    sums = [84.0, 92.0, 100.0]
    # Meshes 4x1, 2x2 and 1x4: in the last the model axis spans both processes, and both read every row.
    for rank, found in enumerate(answers):
        half = [*range(4 * rank, 4 * rank + 4)]
        assert found == [[half, sums], [half, sums], [[*range(8)], sums]]
