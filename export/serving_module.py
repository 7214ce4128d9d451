"""The exported graph: towers by jax2tf, image decoding in front of them, and the signatures.

Inside SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Weights are
tf.Variables (constants would count against the 2 GB of a GraphDef). A tower is one tf.function that several signatures
call; it runs inside TensorFlow's batching op, while decoding is done per request in front of it, so that one caller's
bad image cannot fail another's request.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from jax.experimental import jax2tf

from export import class_bank, towers
from export.batching import Batching, Outputs
from export.towers import Tower
from export.variables import Variables
from vit22b import image, signature, version_window
from vit22b.description import Description
from vit22b.signature import ClassBank
from vit22b.tokenizer import Tokenizer
from vit22b.tree import Params, leaves

PLATFORMS = ("cpu", "tpu", "cuda")


class ServingModule(tf.Module):
    """Variables and signatures of one model; `signatures` is what tf.saved_model.save takes."""

    def __init__(
        self,
        description: Description,
        variables: Variables,
        batching: Batching,
        platforms: Sequence[str] = PLATFORMS,
        feature_layers: Sequence[int] = (),
        bank: ClassBank | None = None,
    ) -> None:
        """Traces the towers, and where there is a class bank runs the text tower on its prompts.

        Args:
            description: of the checkpoint.
            variables: its weights.
            batching: see Batching.
            platforms: what the towers are lowered for, as JAX names them.
            feature_layers: blocks whose tokens `features` answers too.
            bank: classes for `classify`; the description has a text tower then.

        Raises:
            ValueError: a layer that the tower has not.
        """
        super().__init__()
        self._description = description
        self._batching = batching
        self._platforms = tuple(platforms)
        self._weights = leaves(variables.tree)  # by name; a nested dict would be wrapped by tf.Module
        found = towers.towers(description, variables.weights, feature_layers)
        self.towers = {name: self._tower(name, tower, variables.tree) for name, tower in found.items()}
        if bank:
            self._bank = bank
            tokenizer = Tokenizer.from_json(description.tokenizer or "")
            vectors = class_bank.embed(self.towers["text"], tokenizer, bank, batching.sizes[-1])
            self._vectors = tf.Variable(vectors, trainable=False, name=class_bank.BANK)
            self._class_names = tf.Variable(list(bank.classes), trainable=False, name="class_names")
            tree = {**variables.tree, class_bank.BANK: self._vectors}
            self.towers["classify"] = self._tower("classify", class_bank.tower(description.config, bank), tree)
        graphs = [tower.get_concrete_function().graph.as_graph_def() for tower in self.towers.values()]
        self.programs = [program for graph in graphs for program in version_window.programs(graph)]

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
            signature.EMBED_IMAGE_EACH: self._each(self.towers["embed"]),
            signature.EMBED_PIXELS: self.towers["embed"],
            signature.FEATURES: self.towers["features"],
            signature.FEATURES_EACH: self._each(self.towers["features"]),
            signature.DESCRIBE: self._describe(),
        }
        if "logits" in self.towers:
            table[signature.LOGITS] = self._on_bytes(self.towers["logits"])
            table[signature.LOGITS_PIXELS] = self.towers["logits"]
        if "text" in self.towers:
            table[signature.EMBED_TEXT] = self.towers["text"]
        if "classify" in self.towers:
            table[signature.CLASSIFY] = self._on_bytes(self._classify)
            table[signature.CLASSIFY_EXAMPLES] = self._classify_examples()
        return table

    def _tower(self, name: str, tower: Tower, tree: Params) -> Callable[..., Outputs]:
        """A tower over its variables, as a traced tf.function that batches."""
        converted = jax2tf.convert(
            tower.function,
            polymorphic_shapes=[None, "(b, ...)"],
            with_gradient=False,
            native_serialization_platforms=self._platforms,
        )

        def run(x: tf.Tensor) -> Outputs:
            return dict(converted({part: tree[part] for part in tower.parts}, x))

        batched = self._batching.around(name, run)
        ((alias, spec),) = tower.contract.inputs.items()

        def shaped(x: tf.Tensor) -> Outputs:
            # Behind the batching op one caller's wrong input would fail the others' in its batch.
            outputs = batched(self._checked(alias, tf.ensure_shape(x, spec.shape)))
            # The batching op forgets its outputs' shapes, and a client reads them in the signature.
            return {key: tf.ensure_shape(outputs[key], out.shape) for key, out in tower.contract.outputs.items()}

        traced = tf.function(
            shaped, autograph=False, input_signature=[tf.TensorSpec(spec.shape, spec.dtype, name=alias)]
        )
        traced.get_concrete_function()
        return traced

    def _checked(self, alias: str, x: tf.Tensor) -> tf.Tensor:
        """An input whose values the tower can take; an id beyond the vocabulary would be answered with NaN."""
        text = self._description.config.text
        if alias != signature.TOKEN_IDS or text is None:
            return x
        good = tf.reduce_all((x >= 0) & (x < text.vocabulary), axis=-1)
        message = tf.strings.format(
            f"{alias}: rows {{}} of {{}} have ids that are not in the vocabulary; expected 0 to {text.vocabulary - 1}",
            (tf.where(~good)[:, 0], tf.size(good)),
            summarize=16,
        )
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(good), [message])]):
            return tf.identity(x)

    def _on_bytes(self, tower: Callable[..., Outputs]) -> Callable[..., Outputs]:
        spec = tf.TensorSpec([None], tf.string, name=signature.IMAGE_BYTES)

        @tf.function(autograph=False, input_signature=[spec])
        def from_bytes(image_bytes: tf.Tensor) -> Outputs:
            return tower(image.preprocess_batch(image_bytes, self._description.preprocess))

        return from_bytes

    def _each(self, tower: Callable[..., Outputs]) -> Callable[..., Outputs]:
        """A tower on encoded images, in which a bad one has zeros and is told, and its neighbours are answered."""
        spec = tf.TensorSpec([None], tf.string, name=signature.IMAGE_BYTES)

        @tf.function(autograph=False, input_signature=[spec])
        def each(image_bytes: tf.Tensor) -> Outputs:
            pixels, ok = image.preprocess_each(image_bytes, self._description.preprocess)
            outputs = {
                name: tf.where(tf.reshape(ok, [-1, *[1] * (len(value.shape) - 1)]), value, 0.0)
                for name, value in tower(pixels).items()
            }
            return {**outputs, signature.OK: ok}

        return each

    def _classify(self, pixels: tf.Tensor) -> Outputs:
        scores = self.towers["classify"](self.towers["embed"](pixels)[signature.EMBEDDING])[signature.SCORES]
        return class_bank.best(scores, self._class_names, self._bank.top)

    def _classify_examples(self) -> Callable[..., Outputs]:
        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, name=signature.EXAMPLES)])
        def classify_examples(inputs: tf.Tensor) -> Outputs:
            encoded = class_bank.images_of(inputs)
            return self._classify(image.preprocess_batch(encoded, self._description.preprocess))

        return classify_examples

    def _describe(self) -> Callable[..., Outputs]:
        @tf.function(autograph=False, input_signature=[])
        def describe() -> Outputs:
            return {
                signature.MANIFEST: self._manifest.read_value(),
                signature.TOKENIZER: self._tokenizer.read_value(),
            }

        return describe
