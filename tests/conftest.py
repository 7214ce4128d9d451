"""What every test runs under: eight fake devices, shapes checked, ranks never promoted."""

import os
import signal

# Before JAX is imported: eight fake devices for the tests of meshes. NPROC keeps them from aborting at a rendezvous on
# two cores.
os.environ.setdefault("NPROC", "32")
# Compiling is what the tests wait for: a step of size mu takes 1.6 s with the last two flags and 10 s without.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")

with install_import_hook(
    ["vit22b.block", "vit22b.model", "vit22b.pooling", "vit22b.stack", "vit22b.text"], "beartype.beartype"
):
    import vit22b.model  # noqa: F401

# A job in a shell's background is born deaf to Ctrl-C, and so are its children; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ("tests.artefacts", "tests.clienthood")
