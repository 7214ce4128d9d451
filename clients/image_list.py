"""The images that a command line names: files, folders, and lists of them on standard input.

Before the client, where the last step of the walk SavedModel -> server -> client begins.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from clients.arguments import find_images
from vit22b.folder import Record

STANDARD = Path("-")  # the stream in place of a file


def list_images(paths: Sequence[Path]) -> list[Record]:
    """As find_images; a path that is `-` stands for those on standard input, one a line, files or folders.

    Raises:
        ValueError: as find_images.
    """
    if paths.count(STANDARD) > 1:
        raise ValueError("- is named twice, and standard input can be read once; name it once")
    return find_images([named for path in paths for named in (_lines() if path == STANDARD else [path])])


def _lines() -> Iterator[Path]:
    # As bytes: a file's name need not be text.
    for line in sys.stdin.buffer:
        if name := line.rstrip(b"\r\n"):
            yield Path(os.fsdecode(name))
