"""The numbers that describe a model: its sizes, its preprocessing, and what a checkpoint says of itself.

First on the walk config -> image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Standard
library only, so that a client can read a served model's description without JAX or TensorFlow.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

T = TypeVar("T")
Pooling = Literal["map", "mean"]


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How encoded bytes become the pixels that a tower sees.

    Attributes:
        resolution: side of the square that an image is resized to, in pixels.
        method: how it is resized; "bicubic" is antialiased.
        crop: what is cut before the resize; "squash" cuts nothing and does not keep the aspect ratio.
        value_range: what 0 and 255 are mapped to.
        max_pixels: cap on width x height that the header may announce; a larger image is refused before it is decoded.
    """

    resolution: int = 224
    method: Literal["bicubic"] = "bicubic"
    crop: Literal["squash"] = "squash"
    value_range: tuple[float, float] = (-1.0, 1.0)
    max_pixels: int = 64 * 2**20

    def __post_init__(self) -> None:
        _require(self.resolution > 0, f"resolution is {self.resolution}; expected a positive number of pixels")
        _require(self.max_pixels > 0, f"max_pixels is {self.max_pixels}; expected a positive number of pixels")
        low, high = self.value_range
        _require(low < high, f"value_range is {self.value_range}; expected (low, high) with low < high")
        object.__setattr__(self, "value_range", (float(low), float(high)))


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The image tower (Dehghani et al. 2023, section 2 and table 1).

    Attributes:
        width: D, the size of a token.
        depth: L, the number of blocks.
        mlp_dim: F, the hidden size of the MLP.
        heads: H, the number of attention heads; K = D / H is the size of one.
        patch: P, the side of a square patch in pixels.
        resolution: side of the image in pixels; (resolution / patch)^2 tokens.
        pooling: "map" is the paper's attention pooling head, "mean" the plain mean of the tokens.
        qk_norm: normalise queries and keys. Off only to show what the paper saw without it.
    """

    width: int
    depth: int
    mlp_dim: int
    heads: int
    patch: int
    resolution: int
    pooling: Pooling = "map"
    qk_norm: bool = True

    def __post_init__(self) -> None:
        _check_block(self.width, self.depth, self.mlp_dim, self.heads)
        for name, value in (("patch", self.patch), ("resolution", self.resolution)):
            _require(value > 0, f"{name} is {value}; expected a positive number of pixels")
        below = self.resolution - self.resolution % self.patch
        nearest = [f"{side}" for side in (below, below + self.patch) if side]
        _require(
            below == self.resolution,
            f"resolution {self.resolution} is not a multiple of the patch {self.patch}; take {' or '.join(nearest)}",
        )
        _require(self.pooling in ("map", "mean"), f"pooling is {self.pooling!r}; expected 'map' or 'mean'")

    @property
    def head_dim(self) -> int:
        """K, the size of one attention head."""
        return self.width // self.heads

    @property
    def tokens(self) -> int:
        """N, the number of tokens of an image."""
        return (self.resolution // self.patch) ** 2


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """The text tower: the image tower's block over word pieces, projected to the image tower's width.

    Attributes:
        vocabulary: number of token ids.
        width, depth, mlp_dim, heads: as in ViTConfig.
        projection: size of the embedding, the image tower's D.
        length: T, tokens of a text, padded or cut.
        qk_norm: as in ViTConfig.
    """

    vocabulary: int
    width: int
    depth: int
    mlp_dim: int
    heads: int
    projection: int
    length: int = 16
    qk_norm: bool = True

    def __post_init__(self) -> None:
        _check_block(self.width, self.depth, self.mlp_dim, self.heads)
        _require(self.vocabulary > 0, f"vocabulary is {self.vocabulary}; expected a positive number of token ids")
        _require(self.length > 0, f"length is {self.length}; expected a positive number of tokens")

    @property
    def head_dim(self) -> int:
        """K, the size of one attention head."""
        return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A whole model: the image tower, and where there is one, its classification head and its text tower.

    Attributes:
        image: the image tower.
        classes: Y, outputs of the classification head; 0 for none.
        text: the text tower of a zero-shot model.
    """

    image: ViTConfig
    classes: int = 0
    text: TextConfig | None = None

    def __post_init__(self) -> None:
        _require(self.classes >= 0, f"classes is {self.classes}; expected 0 (no head) or more")
        if self.text is not None:
            _require(
                self.text.projection == self.image.width,
                f"the text tower projects to {self.text.projection}, the image tower embeds in {self.image.width}; "
                "they must be equal",
            )

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values, as model.json holds it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any], strict: bool = True) -> Self:
        """The inverse of to_json; see from_fields for its errors and for `strict`."""
        _require(isinstance(values, Mapping), f"the model's configuration is {values!r}; expected an object of fields")
        towers = {"image": ViTConfig, "text": TextConfig}
        built = {
            k: from_fields(towers[k], v, strict) if k in towers and v is not None else v for k, v in values.items()
        }
        return from_fields(cls, built, strict)


def _check_block(width: int, depth: int, mlp_dim: int, heads: int) -> None:
    for name, value in (("width", width), ("depth", depth), ("mlp_dim", mlp_dim), ("heads", heads)):
        _require(value > 0, f"{name} is {value}; expected a positive number")
    divisors = [h for h in range(1, width + 1) if width % h == 0]
    nearest = min(divisors, key=lambda h: abs(h - heads))
    _require(width % heads == 0, f"width {width} is not divisible by {heads} heads; take {nearest} heads")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


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


def text_tower(image: ViTConfig, vocabulary: int, length: int = 16) -> TextConfig:
    """The text tower that goes with an image tower: the same block, at most 768 wide and 12 deep, projecting to D."""
    wide = image.width > SIZES["B"].width
    width, heads = (SIZES["B"].width, SIZES["B"].heads) if wide else (image.width, image.heads)
    return TextConfig(
        vocabulary=vocabulary,
        width=width,
        depth=min(image.depth, 12),
        mlp_dim=4 * width,
        heads=heads,
        projection=image.width,
        length=length,
        qk_norm=image.qk_norm,
    )


def from_fields(kind: type[T], values: Mapping[str, Any], strict: bool = True) -> T:
    """Builds a dataclass from a mapping; JSON lists become tuples.

    Args:
        kind: the dataclass.
        values: by field.
        strict: whether an unknown field is an error. What a newer server says of itself is read with it off.

    Raises:
        ValueError: no mapping, or unknown or missing fields; the message names them.
    """
    _require(isinstance(values, Mapping), f"{kind.__name__} is {values!r}; expected an object of its fields")
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    extra = sorted(set(values) - {f.name for f in fields})
    _require(
        not (strict and extra),
        f"{kind.__name__} has no field {', '.join(extra)}; it was written by a newer version of vit22b",
    )
    required = [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]
    missing = sorted(set(required) - set(values))
    _require(not missing, f"{kind.__name__} lacks {', '.join(missing)}; it is damaged, or no {kind.__name__}")
    known = {k: v for k, v in values.items() if k not in extra}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()})
