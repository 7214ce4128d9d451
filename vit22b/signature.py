"""The contract between export, server and client: signatures, tensor names, and the manifest.

Where SavedModel, server and client meet. Standard library only. A signature is named here once: the exporter writes
it, the golden requests cover it and the client asks for it by these constants. docs/architecture.md has the table for
readers.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from vit22b.config import ModelConfig
from vit22b.fields import from_fields
from vit22b.preprocess import Preprocess

FORMAT_VERSION = 1
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
# The greatest error of a golden output, as a part of its greatest value, in float32. Two CPUs differ by some 1e-6.
TOLERANCE = 1e-4

# Paths inside a version's directory. TensorFlow Serving reads the warm-up file by this very name.
MANIFEST_FILE = "assets.extra/vit22b.json"
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"

SERVING_DEFAULT = "serving_default"
EMBED_IMAGE = "embed_image"
EMBED_IMAGE_EACH = "embed_image_each"
EMBED_PIXELS = "embed_pixels"
FEATURES = "features"
FEATURES_EACH = "features_each"
LOGITS = "logits"
LOGITS_PIXELS = "logits_pixels"
EMBED_TEXT = "embed_text"
CLASSIFY = "classify"
CLASSIFY_EXAMPLES = "classify_examples"
DESCRIBE = "describe"

IMAGE_BYTES = "image_bytes"
PIXELS = "pixels"
TOKEN_IDS = "token_ids"
EMBEDDING = "embedding"
OK = "ok"
POOLED = "pooled"
TOKENS = "tokens"
LOGITS_OUTPUT = "logits"
EXAMPLES = "inputs"  # the Classify API finds its tensors by these names, inputs, scores and classes, and by no others
SCORES = "scores"
CLASSES = "classes"
MANIFEST = "manifest"
TOKENIZER = "tokenizer"

PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"

DType = Literal["string", "uint8", "int32", "float32", "bool"]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Dtype and shape of one input or output; None is the batch, which every signature but describe leads with."""

    dtype: DType
    shape: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Signature:
    """Names, dtypes and shapes of what a signature takes and answers, and the API method that it is written for."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    method: str = PREDICT_METHOD


@dataclasses.dataclass(frozen=True)
class ClassBank:
    """The classes that are baked into a zero-shot model, for `classify`.

    Attributes:
        classes: their names, as they were given.
        templates: texts with one `{}` each; a class's vector is the mean over its prompts.
        top: how many classes an image is answered with, best first.
    """

    classes: tuple[str, ...]
    templates: tuple[str, ...]
    top: int


def layer_tokens(layer: int) -> str:
    """The output of `features` that holds what block `layer`, counted from 0, leaves of the patch tokens."""
    return f"{TOKENS}_{layer}"


def signatures(
    config: ModelConfig,
    preprocess: Preprocess,
    feature_layers: Sequence[int] = (),
    class_bank: ClassBank | None = None,
) -> dict[str, Signature]:
    """Every signature that a model of this configuration has, by name.

    Args:
        config: a head adds logits and logits_pixels, a text tower adds embed_text.
        preprocess: its resolution is the side of the `pixels` input.
        feature_layers: blocks whose tokens `features` answers too.
        class_bank: adds classify and classify_examples.
    """
    width = config.image.width
    image_bytes = {IMAGE_BYTES: Tensor("string", (None,))}
    pixels = {PIXELS: Tensor("uint8", (None, preprocess.resolution, preprocess.resolution, 3))}
    embedding = {EMBEDDING: Tensor("float32", (None, config.image.embedding))}
    tokens = Tensor("float32", (None, (preprocess.resolution // config.image.patch) ** 2, width))
    features = {POOLED: Tensor("float32", (None, width)), TOKENS: tokens}
    features |= {layer_tokens(layer): tokens for layer in feature_layers}
    table = {
        SERVING_DEFAULT: Signature(image_bytes, embedding),
        EMBED_IMAGE: Signature(image_bytes, embedding),
        EMBED_IMAGE_EACH: Signature(image_bytes, {**embedding, OK: Tensor("bool", (None,))}),
        EMBED_PIXELS: Signature(pixels, embedding),
        FEATURES: Signature(pixels, features),
        FEATURES_EACH: Signature(image_bytes, {**features, OK: Tensor("bool", (None,))}),
        DESCRIBE: Signature({}, {MANIFEST: Tensor("string", ()), TOKENIZER: Tensor("string", ())}),
    }
    if config.classes:
        logits = {LOGITS_OUTPUT: Tensor("float32", (None, config.classes))}
        table[LOGITS] = Signature(image_bytes, logits)
        table[LOGITS_PIXELS] = Signature(pixels, logits)
    if config.text is not None:
        table[EMBED_TEXT] = Signature({TOKEN_IDS: Tensor("int32", (None, config.text.length))}, embedding)
    if class_bank is not None:
        best = {SCORES: Tensor("float32", (None, class_bank.top)), CLASSES: Tensor("string", (None, class_bank.top))}
        table[CLASSIFY] = Signature(image_bytes, best)
        table[CLASSIFY_EXAMPLES] = Signature({EXAMPLES: Tensor("string", (None,))}, best, CLASSIFY_METHOD)
    return table


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a SavedModel version says of itself: assets.extra/vit22b.json, and the `describe` signature.

    The fields are frozen for FORMAT_VERSION 1: one may be added, none renamed or given another meaning. A reader
    passes over what it does not know, so an older client reads a newer server.

    Attributes:
        space_id: names the embedding space; vectors of two of them never mix (see vit22b/space.py).
        config, preprocess, labels: as in the checkpoint's model.json; labels name the outputs of `logits`.
        signatures: names of the signatures that the version has.
        batch_sizes: allowed sizes of a batch, ascending, all of them warmed before the version is AVAILABLE; the
            last is the largest request.
        batching: whether the graph batches requests of several callers together.
        weights: dtype that the weights are stored in.
        platforms: what the program was lowered for.
        step: training step of the checkpoint.
        source: "params" or "ema", the item of the checkpoint that the weights come from.
        versions: package -> version that the export ran on.
        xla_call_module_version: a runtime whose maximum is below this refuses the program at its first run.
        exported_on, loads_until: ISO dates; what is built until the second promises to load the program.
        git_revision: of the exporting code, or None outside a checkout.
        hashes: file below the version -> sha256. Empty in `describe`, which lies in one of the hashed files.
        compatible_with: space_ids whose vectors may be compared with this one's: for weights in another dtype than
            float32, the space of the same model in float32.
        numerics: how the embeddings compare with float32's, on `images` images of `source`: `cosine_min`,
            `cosine_mean`, `top1_agreement` (None without a head or classes), `text_cosine_min` (None without a text
            tower). Empty for float32, and in `describe`.
        tolerance: of the golden answers: largest error of an output, as a part of its greatest value; see difference.
        feature_layers: blocks whose tokens `features` answers too.
        class_bank: of `classify`, or None.
        target: "tpu" where the graph is made for the Cloud TPU Inference Converter; "any" server runs the others.
        format: "savedmodel", or "stablehlo": a function for JAX in the place of each signature.
        mesh: axis -> size of the mesh of devices that the program is partitioned for, or None.
        golden: whether the golden answers are "recorded" with the version, or "none" are.
        stablehlo_version: that the programs are written in, "1.15.0" for instance; "" where the export did not tell.
    """

    space_id: str
    config: ModelConfig
    preprocess: Preprocess
    labels: tuple[str, ...]
    signatures: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    batching: bool
    weights: str
    platforms: tuple[str, ...]
    step: int
    source: str
    versions: dict[str, str]
    xla_call_module_version: int
    exported_on: str
    loads_until: str
    git_revision: str | None = None
    hashes: dict[str, str] = dataclasses.field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    compatible_with: tuple[str, ...] = ()
    numerics: dict[str, float | str | None] = dataclasses.field(default_factory=dict)
    tolerance: float = TOLERANCE
    feature_layers: tuple[int, ...] = ()
    class_bank: ClassBank | None = None
    target: Literal["any", "tpu"] = "any"
    format: Literal["savedmodel", "stablehlo"] = "savedmodel"
    mesh: dict[str, int] | None = None
    golden: Literal["recorded", "none"] = "recorded"
    stablehlo_version: str = ""

    def contract(self) -> dict[str, Signature]:
        """The signatures that the version has, by name, as far as this vit22b knows them."""
        table = signatures(self.config, self.preprocess, self.feature_layers, self.class_bank)
        return {name: table[name] for name in self.signatures if name in table}

    def to_json(self) -> str:
        """The manifest as JSON text, with sorted keys."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads a manifest.

        Raises:
            ValueError: not a manifest, an incomplete one, or one of another format version.
        """
        try:
            values = json.loads(text)
            found = values["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"not a vit22b manifest ({error!r}): {text[:80]!r}") from error
        if found != FORMAT_VERSION:
            raise ValueError(
                f"the manifest has format version {found}, this vit22b reads {FORMAT_VERSION}; "
                "export the model again, or install the vit22b that wrote it"
            )
        return cls._from_values(values)

    @classmethod
    def _from_values(cls, values: Mapping[str, Any]) -> Self:
        try:
            config = ModelConfig.from_json(values["config"], strict=False)
            preprocess = from_fields(Preprocess, values["preprocess"], strict=False)
        except KeyError as error:
            raise ValueError(f"the manifest lacks {error}; export the model again") from error
        bank = values.get("class_bank")
        bank = None if bank is None else from_fields(ClassBank, bank, strict=False)
        known = {"config": config, "preprocess": preprocess, "class_bank": bank}
        return from_fields(cls, {**values, **known}, strict=False)
