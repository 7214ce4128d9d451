"""The exported graph: towers by jax2tf, image decoding in front of them, and the signatures.

Inside SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Weights are
tf.Variables (constants would count against the 2 GB of a GraphDef). A tower is one tf.function that several signatures
call; it runs inside TensorFlow's batching op, while decoding is done per request in front of it, so that one caller's
bad image cannot fail another's request.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import tensorflow as tf
from flax import nnx
from jax.experimental import jax2tf

from vit22b import image, model, signature
from vit22b.description import Description
from vit22b.tree import Params, leaves

PLATFORMS = ("cpu", "tpu", "cuda")
Outputs = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Batching:
    """How the graph joins the requests of several callers into one run of a tower."""

    kind: Literal["graph", "none"] = "graph"
    """graph: TensorFlow's batching op around each tower. none: every request runs by itself, at any batch size."""
    sizes: tuple[int, ...] = signature.BATCH_SIZES
    """Sizes that a batch is padded to, ascending; the last is the most images a request may have."""
    timeout_micros: int = 1000
    """Longest wait of a request for others to join it."""
    threads: int = 2
    """Batches that run at once."""
    queue: int = 64
    """Full batches that may wait; a request beyond them is refused as UNAVAILABLE."""

    def __post_init__(self) -> None:
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise ValueError(f"--batch_sizes are {self.sizes}; expected ascending numbers from 1, for instance 1 2 4 8")
        for name in ("timeout_micros", "threads", "queue"):
            if getattr(self, name) < 1:
                raise ValueError(f"--batch_{name} is {getattr(self, name)}; expected 1 or more")


class ServingModule(tf.Module):
    """Variables and signatures of one model; `signatures` is what tf.saved_model.save takes."""

    def __init__(
        self, description: Description, params: Params, batching: Batching, platforms: Sequence[str] = PLATFORMS
    ) -> None:
        """Makes the variables and traces the towers.

        Args:
            description: of the checkpoint.
            params: its parameters' tree; arrays of any kind.
            batching: see Batching.
            platforms: what the towers are lowered for, as JAX names them.
        """
        super().__init__()
        self._description = description
        self._graph, self._shapes = model.abstract(description.config)
        self._batching = batching
        self._platforms = tuple(platforms)
        contract = signature.signatures(description.config, description.preprocess)
        names = leaves(params)
        self._weights = {name: tf.Variable(leaf, trainable=False, name=name) for name, leaf in names.items()}
        self._structure = jax.tree.structure(params)
        self._order = list(names)
        self.towers = {
            "embed": self._tower("embed", self._embed, ("image",), contract[signature.EMBED_PIXELS]),
            "features": self._tower("features", self._features, ("image",), contract[signature.FEATURES]),
        }
        if description.config.classes:
            logits = contract[signature.LOGITS_PIXELS]
            self.towers["logits"] = self._tower("logits", self._logits, ("image", "head"), logits)
        if description.config.text:
            self.towers["text"] = self._tower("text", self._text, ("text",), contract[signature.EMBED_TEXT])
        self.xla_call_module_version = max(_module_version(tower) for tower in self.towers.values())

    def signatures(self, manifest: str) -> dict[str, Callable[..., Any]]:
        """The signatures by name, as vit22b/signature.py lists them.

        Args:
            manifest: what `describe` answers.
        """
        self._manifest = tf.Variable(manifest, trainable=False, name="manifest")
        self._tokenizer = tf.Variable(self._description.tokenizer or "", trainable=False, name="tokenizer")
        embed = self._on_bytes(self.towers["embed"])
        table: dict[str, Callable[..., Any]] = {
            signature.SERVING_DEFAULT: embed,
            signature.EMBED_IMAGE: embed,
            signature.EMBED_IMAGE_EACH: self._embed_each(),
            signature.EMBED_PIXELS: self.towers["embed"],
            signature.FEATURES: self.towers["features"],
            signature.DESCRIBE: self._describe(),
        }
        if "logits" in self.towers:
            table[signature.LOGITS] = self._on_bytes(self.towers["logits"])
            table[signature.LOGITS_PIXELS] = self.towers["logits"]
        if "text" in self.towers:
            table[signature.EMBED_TEXT] = self.towers["text"]
        return table

    # The towers, in JAX.

    def _network(self, params: Params) -> model.Model:
        return nnx.merge(self._graph, {**self._shapes, **params})

    def _embed(self, params: Params, pixels: jax.Array) -> dict[str, jax.Array]:
        out = self._network(params).image(model.normalise(pixels, self._description.preprocess))
        return {signature.EMBEDDING: out["embedding"]}

    def _features(self, params: Params, pixels: jax.Array) -> dict[str, jax.Array]:
        out = self._network(params).image(model.normalise(pixels, self._description.preprocess))
        return {signature.POOLED: out["pooled"], signature.TOKENS: out["tokens"]}

    def _logits(self, params: Params, pixels: jax.Array) -> dict[str, jax.Array]:
        out = self._network(params).embed_image(model.normalise(pixels, self._description.preprocess))
        return {signature.LOGITS_OUTPUT: out["logits"]}

    def _text(self, params: Params, token_ids: jax.Array) -> dict[str, jax.Array]:
        return {signature.EMBEDDING: self._network(params).embed_text(token_ids)["embedding"]}

    # The graph around them, in TensorFlow.

    def _tower(
        self,
        name: str,
        function: Callable[[Params, jax.Array], dict[str, jax.Array]],
        parts: tuple[str, ...],
        contract: signature.Signature,
    ) -> Callable[..., Outputs]:
        """A JAX function of some parts of the parameters and one input, as a traced tf.function that batches."""
        converted = jax2tf.convert(
            function,
            polymorphic_shapes=[None, "(b, ...)"],
            with_gradient=False,
            native_serialization_platforms=self._platforms,
        )

        def run(x: tf.Tensor) -> Outputs:
            weights = [self._weights[name] for name in self._order]
            tree = jax.tree.unflatten(self._structure, weights)
            return dict(converted({part: tree[part] for part in parts}, x))

        batched = self._batch(name, run)

        def shaped(x: tf.Tensor) -> Outputs:
            # The batching op forgets its outputs' shapes, and a client reads them in the signature.
            outputs = batched(x)
            return {key: tf.ensure_shape(outputs[key], spec.shape) for key, spec in contract.outputs.items()}

        ((alias, spec),) = contract.inputs.items()
        tower = tf.function(
            shaped, autograph=False, input_signature=[tf.TensorSpec(spec.shape, spec.dtype, name=alias)]
        )
        tower.get_concrete_function()
        return tower

    def _batch(self, name: str, run: Callable[[tf.Tensor], Outputs]) -> Callable[[tf.Tensor], Outputs]:
        if self._batching.kind == "none":
            return run
        sizes = list(self._batching.sizes)
        batched = tf.nondifferentiable_batch_function(
            num_batch_threads=self._batching.threads,
            max_batch_size=sizes[-1],
            batch_timeout_micros=self._batching.timeout_micros,
            allowed_batch_sizes=sizes,
            max_enqueued_batches=self._batching.queue,
            autograph=False,
        )(run)

        def scoped(x: tf.Tensor) -> Outputs:
            # The op's queue is found by the scope it was made in: two towers in one scope would share a queue.
            with tf.name_scope(f"{name}_tower"):
                return batched(x)

        return scoped

    def _on_bytes(self, tower: Callable[..., Outputs]) -> Callable[..., Outputs]:
        spec = tf.TensorSpec([None], tf.string, name=signature.IMAGE_BYTES)

        @tf.function(autograph=False, input_signature=[spec])
        def from_bytes(image_bytes: tf.Tensor) -> Outputs:
            return tower(image.preprocess_batch(image_bytes, self._description.preprocess))

        return from_bytes

    def _embed_each(self) -> Callable[..., Outputs]:
        spec = tf.TensorSpec([None], tf.string, name=signature.IMAGE_BYTES)

        @tf.function(autograph=False, input_signature=[spec])
        def embed_each(image_bytes: tf.Tensor) -> Outputs:
            pixels, ok = image.preprocess_each(image_bytes, self._description.preprocess)
            embedding = self.towers["embed"](pixels)[signature.EMBEDDING]
            return {signature.EMBEDDING: tf.where(ok[:, None], embedding, 0.0), signature.OK: ok}

        return embed_each

    def _describe(self) -> Callable[..., Outputs]:
        @tf.function(autograph=False, input_signature=[])
        def describe() -> Outputs:
            return {
                signature.MANIFEST: self._manifest.read_value(),
                signature.TOKENIZER: self._tokenizer.read_value(),
            }

        return describe


def _module_version(tower: Any) -> int:
    """The version of the XlaCallModule op in a tower's graph, which decides what runtimes can run it."""
    graph = tower.get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    return max(node.attr["version"].i for node in nodes if node.op == "XlaCallModule")
