"""The items of a bulk job's input: images by name, in order, as the readers of its kinds give them.

Second step of clients/bulk_embed.py, in the workers, beside the walk SavedModel -> server -> client. An item whose
image cannot be had is given with the reason. So is the rest of a file that is damaged.
"""

import dataclasses
import itertools
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Self, TypeVar

# What readers say of a file that is damaged, as opposed to one that cannot be reached.
DAMAGE = (tarfile.TarError, ValueError, EOFError, zlib.error)

Span = tuple[int, int | None]  # from the first number to before the second, None for the end of the file
Part = TypeVar("Part")


@dataclasses.dataclass(frozen=True)
class Item:
    """An image, or what is known of it.

    Attributes:
        index: its place in its source.
        name: unique as far as the input makes it so.
        image: the bytes of its file; empty where it could not be had.
        uri: where it lies, if it lies by itself.
        reason: why there is no image.
    """

    index: int
    name: str
    image: bytes = b""
    uri: str = ""
    reason: str = ""

    def without(self, reason: str) -> Self:
        """The item, without its image."""
        return dataclasses.replace(self, image=b"", reason=reason)


def items_of(parts: Iterator[Part], item: Callable[[int, Part], Item], place: str) -> Iterator[Item]:
    """An item for each part of a file; where the file is damaged, last, one that says so.

    Args:
        parts: read from front to back.
        item: makes one of the part with a number.
        place: what the rest of a damaged file is called, but for the number that it begins with.
    """
    for index in itertools.count():
        try:
            part = next(parts)
        except StopIteration:
            return
        except DAMAGE as error:
            said = f"the file is damaged, and what follows is left out: {str(error) or type(error).__name__}"
            yield Item(index, f"{place} {index} on", reason=said)
            return
        yield item(index, part)


def text_name(value: object) -> str:
    """A name as text: of bytes, with those escaped that are no UTF-8; "" for None."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return "" if value is None else str(value)
