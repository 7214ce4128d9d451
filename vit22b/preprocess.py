"""The numbers of an image's preprocessing: from encoded bytes to what a tower takes.

First on the walk config -> image -> batch -> train state -> checkpoint -> SavedModel -> server -> client. Standard
library only. vit22b/image.py does what they say up to uint8 pixels, vit22b.model.normalise the rest.
"""

import dataclasses
from typing import Literal

from vit22b.fields import require, require_choice

Method = Literal["bicubic", "bilinear"]
Crop = Literal["squash", "center"]
Channels = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How encoded bytes become the pixels that a tower sees.

    Attributes:
        resolution: side of the square that an image is resized to, in pixels.
        method: how it is resized; both are antialiased where the image shrinks.
        crop: "squash" resizes the whole image to the square and does not keep its aspect ratio; "center" resizes its
            shorter side to resolution / crop_fraction, rounded, and cuts the square out of the middle.
        value_range: what 0 and 255 are mapped to, where there is no mean and std.
        max_pixels: cap on width x height that the header may announce; a larger image is refused before it is decoded.
        crop_fraction: of "center", the part of the shorter side that is kept.
        mean: of each channel, where 0 is black and 1 is full; pixels become (pixel / 255 - mean) / std.
        std: as mean; both are given or neither.
    """

    resolution: int = 224
    method: Method = "bicubic"
    crop: Crop = "squash"
    value_range: tuple[float, float] = (-1.0, 1.0)
    max_pixels: int = 64 * 2**20
    crop_fraction: float = 1.0
    mean: Channels | None = None
    std: Channels | None = None

    def __post_init__(self) -> None:
        require(self.resolution > 0, f"resolution is {self.resolution}; expected a positive number of pixels")
        require(self.max_pixels > 0, f"max_pixels is {self.max_pixels}; expected a positive number of pixels")
        require_choice("method", self.method, Method)
        require_choice("crop", self.crop, Crop)
        require(0 < self.crop_fraction <= 1, f"crop_fraction is {self.crop_fraction}; expected more than 0, at most 1")
        require(
            self.crop == "center" or self.crop_fraction == 1,
            f"crop_fraction is {self.crop_fraction}, but crop {self.crop!r} cuts nothing; take crop 'center', or leave "
            "it out",
        )
        low, high = self.value_range
        require(low < high, f"value_range is {self.value_range}; expected (low, high) with low < high")
        object.__setattr__(self, "value_range", (float(low), float(high)))
        self._check_channels()

    def _check_channels(self) -> None:
        require(
            (self.mean is None) == (self.std is None),
            f"mean is {self.mean} and std is {self.std}; give both, or neither to map pixels to value_range",
        )
        if self.mean is None or self.std is None:
            return
        for name, values in (("mean", self.mean), ("std", self.std)):
            require(len(values) == 3, f"{name} is {values}; expected three numbers, of red, green and blue")
            object.__setattr__(self, name, tuple(map(float, values)))
        require(min(self.std) > 0, f"std is {self.std}; expected numbers above 0, as parts of the full value 1")

    @property
    def refusal(self) -> str:
        """What is said of bytes that cannot be decoded."""
        return f"no whole JPEG, PNG, WebP, GIF or BMP of at most {self.max_pixels} pixels"

    @property
    def shorter_side(self) -> int:
        """What the shorter side of an image is resized to before the centre is cut out, in pixels."""
        return round(self.resolution / self.crop_fraction)
