"""Whether there is room for the answers of a tower, which of all patches of many images are larger than most memories.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import re
import shutil
from pathlib import Path

_MEMORY, _LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
GIB = 2**30


def require_room(what: str, size: int, folder: Path | None) -> None:
    """Raises ValueError where there is no room; the message has the sizes and what to do.

    Args:
        what: the answers, for the message.
        size: of all of them, in bytes.
        folder: that they are kept in, and which is there; None where they are held in memory.
    """
    room = available_memory() if folder is None else shutil.disk_usage(folder).free
    if room is None or size <= room:
        return
    if folder is None:
        where, remedy = "are available in memory", "the model's checkpoint as --source, whose answers lie on the disk"
    else:
        where, remedy = f"are free in {folder}", "an --output on a larger disk"
    raise ValueError(
        f"{what} take {size / GIB:.1f} GiB, and {room / GIB:.1f} GiB {where}; give {remedy}, a set of fewer images, or "
        "leave the set out by --sets or the protocol by --protocols"
    )


def available_memory() -> int | None:
    """Bytes that a program can still take: of the machine, at most what its container may have; None if not told."""
    found = []
    if _MEMORY.is_file() and (there := re.search(r"^MemAvailable:\s+(\d+) kB$", _MEMORY.read_text(), re.MULTILINE)):
        found.append(1024 * int(there[1]))
    if _LIMIT.is_file() and (limit := _LIMIT.read_text().strip()).isdigit():  # else "max"
        found.append(int(limit))
    return min(found, default=None)
