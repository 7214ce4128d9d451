"""A manifest for tests that need one and no model behind it."""

from vit22b.config import ModelConfig, text_tower, vit
from vit22b.preprocess import Preprocess
from vit22b.signature import Manifest, signatures

MU = vit("mu")
PLAIN = ModelConfig(MU)
HEAD = ModelConfig(MU, classes=10)
ZERO_SHOT = ModelConfig(MU, classes=10, text=text_tower(MU, vocabulary=300))


def manifest(config=ZERO_SHOT, **changes):
    values = {
        "space_id": "0123456789abcdef",
        "config": config,
        "preprocess": Preprocess(28),
        "labels": ("cat", "Straße"),
        "signatures": tuple(signatures(config, Preprocess(28))),
        "batch_sizes": (1, 2),
        "batching": True,
        "weights": "float32",
        "platforms": ("cpu", "tpu"),
        "step": 7,
        "source": "params",
        "versions": {"jax": "0.0"},
        "xla_call_module_version": 10,
        "exported_on": "2030-01-01",
        "loads_until": "2030-06-30",
    }
    return Manifest(**values | changes)
