"""Records what the TPU compiler schedules for small programs: .venv/bin/python tests/hlo/record.py (with jax[tpu]).

Each is a scan of four layers over a mesh data x model of 4x2 on v5p:2x2x2: weights split over data are gathered for a
matmul, and tokens hop round the ring of model. Written without the parts of a line that nothing reads.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from vit22b import topology
from vit22b.chips import tpu
from vit22b.sharding import make_mesh

HERE = Path(__file__).parent

KEPT = (r'"estimated_cycles":"\d+"', r'"async_collective_fusion_config":\{[^}]*\}')
DEPTH, TOKENS, WIDTH = 4, 2048, 1024


def layer(x, weights):
    first, second = (jax.lax.all_gather(weight, "data", axis=0, tiled=True) for weight in weights)
    hop = jax.lax.ppermute(x, "model", [(0, 1), (1, 0)])
    return (jax.nn.relu(x @ first) + hop @ first) @ second, None


def loss(x, weights):
    out, _ = jax.lax.scan(jax.checkpoint(layer, prevent_cse=False), x, weights)
    return jax.lax.psum(jnp.sum(jnp.square(out.astype(jnp.float32))), ("data", "model"))


def record(name, program, mesh, options, *specs):
    place = [NamedSharding(mesh, spec) for spec in specs]
    x = jax.ShapeDtypeStruct((TOKENS * 8, WIDTH), jnp.bfloat16, sharding=place[0])
    weight = jax.ShapeDtypeStruct((DEPTH, WIDTH, WIDTH), jnp.bfloat16, sharding=place[1])
    sharded = jax.shard_map(program, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False)
    text = jax.jit(sharded).lower(x, (weight, weight)).compile(compiler_options=options).as_text()
    (HERE / f"{name}.txt").write_text(short(text))


def short(text):
    wanted = (line for line in text.splitlines() if re.match(r"HloModule|%|ENTRY|\}|  [%R]", line))
    return "\n".join(map(shortened, wanted)) + "\n"


def shortened(line):
    kept = [re.search(pattern, line) for pattern in KEPT]
    config = ",".join(found[0] for found in kept if found)
    line = re.sub(r", (metadata|backend_config|frontend_attributes)=\{.*", "", line)
    return re.sub(r"\{[\d,]*:[^}]*\}", "", line) + (f", backend_config={{{config}}}" if config else "")


def main():
    jax.config.update("jax_platforms", "cpu")
    mesh = make_mesh(4, 2, topology.devices("v5p:2x2x2"))
    specs = PartitionSpec(("data", "model")), PartitionSpec(None, "data")
    gradient = jax.grad(loss, argnums=1)
    record("synchronous", gradient, mesh, {}, *specs)
    record("asynchronous", gradient, mesh, dict(tpu("v5p").compiler_options), *specs)


if __name__ == "__main__":
    main()
