"""The towers of an export, in JAX: pure functions of the weights and of one input.

Between checkpoint and SavedModel on the walk image -> batch -> train state -> checkpoint -> SavedModel -> server ->
client. Both formats are made of these: export/serving_module.py puts a graph around them, export/stablehlo.py writes
them as they are.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from vit22b import model, quantised, signature
from vit22b.description import Description
from vit22b.execution import Execution
from vit22b.quantised import WeightType
from vit22b.signature import Signature
from vit22b.tree import Params

Outputs = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Tower:
    """One function of the model.

    Attributes:
        function: (parts of the parameters, input with a leading batch) to outputs by name.
        parts: top levels of the parameters' tree that it takes.
        contract: dtypes and shapes of its one input and of its outputs, by name.
    """

    function: Callable[[Params, jax.Array], Outputs]
    parts: tuple[str, ...]
    contract: Signature


def towers(
    description: Description,
    weights: WeightType = "float32",
    feature_layers: Sequence[int] = (),
    mesh: Mesh | AbstractMesh | None = None,
) -> dict[str, Tower]:
    """The towers of a model: embed, features, with a head logits, with a text tower text.

    Args:
        description: of the checkpoint.
        weights: the type that they are stored in; it decides the type that is computed in.
        feature_layers: blocks whose tokens `features` answers too.
        mesh: devices that share one run of a tower; None for one device.
    """
    network = _Network(description, weights, tuple(feature_layers), mesh)
    config = description.config
    contract = signature.signatures(config, description.preprocess, feature_layers)
    found = {
        "embed": Tower(network.embed, ("image",), contract[signature.EMBED_PIXELS]),
        "features": Tower(network.features, ("image",), contract[signature.FEATURES]),
    }
    if config.classes:
        found["logits"] = Tower(network.logits, ("image", "head"), contract[signature.LOGITS_PIXELS])
    if config.text:
        found["text"] = Tower(network.text, ("text",), contract[signature.EMBED_TEXT])
    return {name: dataclasses.replace(tower, function=_exact(tower.function, weights)) for name, tower in found.items()}


def _exact(function: Callable[[Params, jax.Array], Outputs], weights: WeightType) -> Callable[..., Outputs]:
    """A function whose float32 matmuls are float32 ones: a TPU's and a GPU's default multiplies in less."""

    def run(params: Params, x: jax.Array) -> Outputs:
        with jax.default_matmul_precision("highest" if weights == "float32" else None):
            return function(params, x)

    return run


@dataclasses.dataclass(frozen=True)
class _Network:
    description: Description
    weights: WeightType
    feature_layers: tuple[int, ...]
    mesh: Mesh | AbstractMesh | None

    @property
    def execution(self) -> Execution:
        return Execution(quantised.compute_dtype(self.weights), mesh=self.mesh)

    def embed(self, params: Params, pixels: jax.Array) -> Outputs:
        out = self._model(params).image(self._images(pixels), execution=self.execution)
        return {signature.EMBEDDING: out["embedding"]}

    def features(self, params: Params, pixels: jax.Array) -> Outputs:
        out = self._model(params).image(self._images(pixels), self.feature_layers, self.execution)
        names = [signature.POOLED, signature.TOKENS, *map(signature.layer_tokens, self.feature_layers)]
        return {name: out[name].astype(jnp.float32) for name in names}

    def logits(self, params: Params, pixels: jax.Array) -> Outputs:
        out = self._model(params).embed_image(self._images(pixels), execution=self.execution)
        return {signature.LOGITS_OUTPUT: out["logits"]}

    def text(self, params: Params, token_ids: jax.Array) -> Outputs:
        return {signature.EMBEDDING: self._model(params).embed_text(token_ids, self.execution)["embedding"]}

    def _model(self, params: Params) -> model.Model:
        graph, shapes = quantised.abstract(self.description.config, self.weights)
        return nnx.merge(graph, {**shapes, **params})

    def _images(self, pixels: jax.Array) -> jax.Array:
        return model.normalise(pixels, self.description.preprocess, self.execution.dtype)
