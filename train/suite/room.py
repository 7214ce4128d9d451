"""Whether there is room for the answers of a tower, which of all patches of many images are larger than most memories.

Beside the walk image -> batch -> train state -> checkpoint -> SavedModel -> server -> client.
"""

import re
import shutil
from pathlib import Path

MEMORY, CONTAINER = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
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


def available_memory(memory: Path = MEMORY, container: Path = CONTAINER) -> int | None:
    """Bytes that a program can still take; None where the system does not tell.

    Args:
        memory: what Linux says of the machine's.
        container: folder of what version 2 of its control groups says of the container's; files of the disk that are
            only held ready count as free, as they do in the machine's own figure.
    """
    found = []
    if memory.is_file() and (there := re.search(r"^MemAvailable:\s+(\d+) kB$", memory.read_text(), re.MULTILINE)):
        found.append(1024 * int(there[1]))
    limit, taken, told = (container / f"memory.{name}" for name in ("max", "current", "stat"))
    if limit.is_file() and taken.is_file() and limit.read_text().strip().isdigit():  # else "max"
        ready = re.search(r"^inactive_file (\d+)$", told.read_text() if told.is_file() else "", re.MULTILINE)
        found.append(int(limit.read_text()) - int(taken.read_text()) + (int(ready[1]) if ready else 0))
    return min(found, default=None)
