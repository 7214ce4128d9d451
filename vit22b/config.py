"""The numbers that describe a model: its towers' sizes and forms, and the named sizes.

First on the walk config -> image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Standard
library only, so that a client can read a served model's description without JAX or TensorFlow. The defaults are the
paper's model; other values make the families whose weights export/import_weights.py takes.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Literal, Self

from vit22b.block_config import BlockConfig
from vit22b.fields import from_fields, require, require_choice

Pooling = Literal["map", "mean", "class"]
TextPooling = Literal["last", "end"]
Similarity = Literal["softmax", "sigmoid"]


@dataclasses.dataclass(frozen=True)
class ViTConfig(BlockConfig):
    """The image tower (Dehghani et al. 2023, section 2 and table 1), and what other towers have besides.

    Attributes:
        patch: P, the side of a square patch in pixels.
        resolution: side of the image in pixels; (resolution / patch)^2 tokens.
        pooling: "map" is the paper's attention pooling head, "mean" the plain mean of the patches' tokens, "class" the
            class token.
        patch_bias: whether the projection of patches has a bias.
        class_token: whether a learned token stands in front of the others.
        registers: R, learned tokens between the class token and the patches (Darcet et al. 2024).
        class_position: whether the class token has a position, the first row of the table.
        pre_norm: whether tokens are normalised before the first block, as CLIP's are.
        norm_pooled: whether the final norm is on the pooled vector and not on the tokens (timm's fc_norm).
        projection: E, size of the embedding, a projection of the pooled vector; 0 for the pooled vector itself.
    """

    patch: int
    resolution: int
    pooling: Pooling = "map"
    patch_bias: bool = True
    class_token: bool = False
    registers: int = 0
    class_position: bool = False
    pre_norm: bool = False
    norm_pooled: bool = False
    projection: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("patch", "resolution"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; expected a positive number of pixels")
        below = self.resolution - self.resolution % self.patch
        nearest = [f"{side}" for side in (below, below + self.patch) if side]
        require(
            below == self.resolution,
            f"resolution {self.resolution} is not a multiple of the patch {self.patch}; take {' or '.join(nearest)}",
        )
        require_choice("pooling", self.pooling, Pooling)
        for name in ("registers", "projection"):
            require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; expected 0 (none) or more")
        for name, asks in (("pooling 'class'", self.pooling == "class"), ("class_position", self.class_position)):
            require(self.class_token or not asks, f"{name} needs a class token; set class_token, or leave it out")

    @property
    def tokens(self) -> int:
        """N, the number of patches of an image."""
        return (self.resolution // self.patch) ** 2

    @property
    def sequence(self) -> int:
        """What a block takes of an image: its patches, behind the class token and the registers."""
        return self.class_token + self.registers + self.tokens

    @property
    def embedding(self) -> int:
        """Size of an embedding: E, or D where there is no projection."""
        return self.projection or self.width


@dataclasses.dataclass(frozen=True)
class TextConfig(BlockConfig):
    """The text tower: blocks over word pieces, projected to the size of the image tower's embedding.

    Attributes:
        vocabulary: number of token ids.
        projection: size of the embedding, the image tower's.
        length: T, tokens of a text, padded or cut.
        causal: whether a token sees only itself and those before it.
        pooling: "last" takes the last of the T positions, "end" the first that holds end_id.
        end_id: token id of the end of a text.
        projection_bias: whether the projection has a bias.
    """

    vocabulary: int
    projection: int
    length: int = 16
    causal: bool = False
    pooling: TextPooling = "last"
    end_id: int | None = None
    projection_bias: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.vocabulary > 0, f"vocabulary is {self.vocabulary}; expected a positive number of token ids")
        require(self.projection > 0, f"projection is {self.projection}; expected the size of an embedding")
        require(self.length > 0, f"length is {self.length}; expected a positive number of tokens")
        require_choice("pooling", self.pooling, TextPooling)
        if self.pooling == "end":
            require(
                self.end_id is not None and 0 <= self.end_id < self.vocabulary,
                f"end_id is {self.end_id}; pooling 'end' needs the token id of a text's end, below {self.vocabulary}",
            )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A whole model: the image tower, and where there is one, its classification head and its text tower.

    Attributes:
        image: the image tower.
        classes: Y, outputs of the classification head; 0 for none.
        text: the text tower of a zero-shot model.
        similarity: what the temperature was trained for. "softmax": logits are exp(logit_scale) times the cosine;
            "sigmoid": and plus logit_bias (SigLIP).
    """

    image: ViTConfig
    classes: int = 0
    text: TextConfig | None = None
    similarity: Similarity = "softmax"

    def __post_init__(self) -> None:
        require(self.classes >= 0, f"classes is {self.classes}; expected 0 (no head) or more")
        require_choice("similarity", self.similarity, Similarity)
        if self.text is not None:
            require(
                self.text.projection == self.image.embedding,
                f"the text tower projects to {self.text.projection}, the image tower embeds in {self.image.embedding}; "
                "they must be equal",
            )

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values, as model.json holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], strict: bool = True) -> Self:
        """The inverse of to_json; see from_fields for its errors and for `strict`."""
        require(isinstance(values, Mapping), f"the model's configuration is {values!r}; expected an object of fields")
        towers = {"image": ViTConfig, "text": TextConfig}
        built = {
            k: from_fields(towers[k], v, strict) if k in towers and v is not None else v for k, v in values.items()
        }
        return from_fields(cls, built, strict)


# Names as big_vision spells them; mu is what two cores train in minutes. Width, depth, MLP, heads, patch, resolution.
_SIZES = {
    "mu": (128, 4, 512, 8, 4, 28),
    "Ti": (192, 12, 768, 3, 16, 224),
    "S": (384, 12, 1536, 6, 16, 224),
    "M": (512, 12, 2048, 8, 16, 224),
    "B": (768, 12, 3072, 12, 16, 224),
    "L": (1024, 24, 4096, 16, 16, 224),
    "So400m": (1152, 27, 4304, 16, 14, 224),
    "H": (1280, 32, 5120, 16, 14, 224),
    "g": (1408, 40, 6144, 16, 14, 224),
    "G": (1664, 48, 8192, 16, 14, 224),
    "e": (1792, 56, 15360, 16, 14, 224),
    "22b": (6144, 48, 24576, 48, 14, 224),
}
SIZES = {name: ViTConfig(*numbers) for name, numbers in _SIZES.items()}
_SIZE_FIELDS = ("width", "depth", "mlp_dim", "heads")


def vit(size: str, **changes: Any) -> ViTConfig:
    """The image tower of a named size.

    Args:
        size: a name of SIZES; case matters, g and G are different models.
        **changes: fields of ViTConfig to replace, for instance resolution=384.

    Raises:
        ValueError: an unknown size; the message lists the known ones and the nearest.
    """
    if size not in SIZES:
        near = difflib.get_close_matches(size.lower(), [name.lower() for name in SIZES], n=1)
        hint = f" Did you mean {[n for n in SIZES if n.lower() == near[0]]}?" if near else ""
        raise ValueError(f"unknown size {size!r}; expected one of {', '.join(SIZES)}.{hint}")
    return dataclasses.replace(SIZES[size], **changes)


def size_name(image: ViTConfig) -> str:
    """The name of the size that has an image tower's width, depth, MLP and heads; "custom" where none has."""
    names = (name for name, size in SIZES.items() if all(getattr(size, f) == getattr(image, f) for f in _SIZE_FIELDS))
    return next(names, "custom")


def text_tower(image: ViTConfig, vocabulary: int, length: int = 16) -> TextConfig:
    """The text tower that goes with an image tower: its form of block, at most 768 wide and 12 deep, its embedding."""
    wide = image.width > SIZES["B"].width
    width, heads = (SIZES["B"].width, SIZES["B"].heads) if wide else (image.width, image.heads)
    return TextConfig(
        vocabulary=vocabulary,
        width=width,
        depth=min(image.depth, 12),
        mlp_dim=4 * width,
        heads=heads,
        projection=image.embedding,
        length=length,
        **image.form,
    )
